//! The live bucket beside what it should be set to: each difference with the line that mends it.

use std::time::Duration;

use refloat_store::ServerSideEncryption;
use refloat_store::{BucketSettings, DefaultLock, Known, LifecycleRule, LockMode};
use serde_json::Value;

use super::lifecycle::{ABORT_DAYS, in_days};
use super::{Bucket, Place, Principals, bucket_policy, days, noncurrent_days};

/// How a finding counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// As it should be.
    Ok,
    /// What a person should know; nothing is wrong.
    Note,
    /// Better set otherwise.
    Warn,
    /// It destroys backups.
    Fault,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) weight: Weight,
    pub(crate) what: String,
    pub(crate) mend: String,
}

/// What is known beside the bucket's settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// The repository that is looked at.
    pub(crate) place: &'a Place,
    /// Longest time from one full backup to the next: a lock begins with the oldest pack that a backup refers to.
    pub(crate) between_fulls: Option<Duration>,
    /// How the program is called in a line to copy.
    pub(crate) command: &'a str,
}

/// Compares.
pub(crate) fn compare(bucket: &Bucket, live: &BucketSettings, known: Asked<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |weight, what: String, mend: String| found.push(Finding { weight, what, mend });
    let denied = policy(bucket, live, known, &mut add);
    destroys(live, denied, &mut add);
    lock(bucket, live, known, &mut add);
    lifecycle(bucket, live, known, &mut add);
    encryption(bucket, live, known, &mut add);
    found
}

type Add<'a> = dyn FnMut(Weight, String, String) + 'a;

fn unknown(what: &str, right: &str) -> (Weight, String, String) {
    (Weight::Note, format!("{what}: unknown, these credentials may not ask ({right})"), String::new())
}

/// What the live policy denies to everybody.
#[derive(Debug, Clone, Copy, Default)]
struct Denied {
    overwriting: bool,
    deleting: bool,
}

/// A statement without what may differ: its name, and who is exempt.
fn essence(statement: &Value) -> Value {
    let mut bare = statement.clone();
    if let Value::Object(fields) = &mut bare {
        fields.remove("Sid");
        if fields.get("Principal").is_some_and(|p| p.pointer("/AWS") == Some(&Value::from("*"))) {
            fields.insert("Principal".to_owned(), Value::from("*"));
        }
        for field in ["Action", "Resource"] {
            if let Some(value) = fields.get_mut(field) {
                let mut all: Vec<Value> = match value.take() {
                    Value::Array(all) => all,
                    one => vec![one],
                };
                all.sort_by_key(ToString::to_string);
                *value = Value::Array(all);
            }
        }
    }
    if let Some(exempt) = bare.pointer_mut("/Condition/ArnNotLike/aws:PrincipalArn") {
        *exempt = Value::Null;
    }
    bare
}

/// Whether a statement exempts nobody but those who are named: not everybody, and not who stands for nobody yet.
fn exempts_only_named(statement: &Value) -> bool {
    let everybody = |arn: &Value| {
        matches!(arn.as_str(), Some("*" | "arn:aws:iam::*" | "arn:aws:iam::*:*" | Principals::PLACEHOLDER))
    };
    match statement.pointer("/Condition/ArnNotLike/aws:PrincipalArn") {
        Some(Value::Array(all)) => !all.iter().any(everybody),
        Some(one) => !everybody(one),
        None => true,
    }
}

fn policy(bucket: &Bucket, live: &BucketSettings, known: Asked<'_>, add: &mut Add<'_>) -> Denied {
    let generate = format!(
        "{} -r {} generate bucket-policy --expirer ARN > policy.json && aws s3api put-bucket-policy --bucket {} --policy file://policy.json",
        known.command, known.place.name, bucket.name
    );
    let text = match &live.policy {
        Known::Yes(text) => text.as_str(),
        Known::No => {
            let weight = if bucket.has_endpoint { Weight::Note } else { Weight::Warn };
            add(weight, "the bucket has no policy".to_owned(), generate);
            return Denied::default();
        }
        Known::Unknown => {
            let (weight, what, mend) = unknown("the bucket's policy", "s3:GetBucketPolicy");
            add(weight, what, mend);
            return Denied::default();
        }
    };
    let parsed: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let statements = parsed["Statement"].as_array().into_iter().flatten();
    let there: Vec<Value> =
        statements.filter(|statement| exempts_only_named(statement)).map(essence).collect();
    let wanted = bucket_policy(bucket, &Principals::new(Vec::new()));
    let mut denied = Denied::default();
    let mut lacking = Vec::new();
    for statement in wanted["Statement"].as_array().into_iter().flatten() {
        let name = statement["Sid"].as_str().unwrap_or_default();
        if there.contains(&essence(statement)) {
            denied.overwriting |= name == "NeverOverwrite";
            denied.deleting |= name == "OnlyExpirersDelete";
        } else {
            lacking.push(name.to_owned());
        }
    }
    if lacking.is_empty() {
        add(Weight::Ok, "the bucket's policy is as generated".to_owned(), String::new());
    } else {
        add(Weight::Warn, format!("the bucket's policy lacks {}", lacking.join(", ")), generate);
    }
    denied
}

/// Whether whoever has credentials that may write can destroy what is stored.
fn destroys(live: &BucketSettings, denied: Denied, add: &mut Add<'_>) {
    let immutability = &live.immutability;
    match (immutability.versions, immutability.lock) {
        (Known::Yes(()), Known::Yes(lock)) => {
            let who = match lock.mode {
                LockMode::Compliance => "nobody",
                LockMode::Governance => "nobody without the right to pass a lock",
            };
            let days = in_days(lock.period.as_secs());
            let what = format!("versions are kept and locked for {days}: {who} can destroy what is stored");
            add(Weight::Ok, what, String::new());
        }
        _ if denied.overwriting && denied.deleting => {
            let what = "the bucket's policy lets nobody overwrite, and only expirers delete".to_owned();
            add(Weight::Ok, what, String::new());
        }
        (Known::Unknown, _) | (_, Known::Unknown) => {
            let rights = "s3:GetBucketVersioning, s3:GetBucketObjectLockConfiguration";
            let (weight, what, mend) = unknown("whether versions are kept and locked", rights);
            let plainly = "as far as can be told, whoever has credentials that may write or delete here can destroy what is stored";
            add(weight, format!("{what}; {plainly}"), mend);
        }
        (versions, _) => {
            let what = match versions {
                Known::Yes(()) => {
                    "versions are kept and not locked: whoever may delete versions can destroy what is stored"
                }
                _ => {
                    "whoever has credentials that may write or delete here can destroy what is stored: no versions are kept"
                }
            };
            add(
                Weight::Note,
                what.to_owned(),
                "see the page \"Buckets that nobody can empty\" of the manual: versions with a default lock, or the generated policies".to_owned(),
            );
        }
    }
}

/// A lock counts from creation, and a backup refers to packs as old as the full backup before it.
fn lock(bucket: &Bucket, live: &BucketSettings, known: Asked<'_>, add: &mut Add<'_>) {
    let Known::Yes(DefaultLock { period, mode }) = live.immutability.lock else { return };
    let lock = in_days(period.as_secs());
    let Some(keep) = known.place.keep else {
        let what = format!(
            "new objects are locked for {lock}; how long backups stay is not configured as an age, so whether that is long enough is not known"
        );
        add(Weight::Note, what, String::new());
        return;
    };
    let between = known.between_fulls.unwrap_or_default();
    let needed = keep + between;
    let sum = format!(
        "{} for what is kept + {} from one full backup to the next",
        in_days(keep.as_secs()),
        in_days(between.as_secs())
    );
    if period >= needed {
        add(Weight::Ok, format!("new objects are locked for {lock}, at least {sum}"), String::new());
        return;
    }
    let mode = if mode == LockMode::Compliance { "COMPLIANCE" } else { "GOVERNANCE" };
    let rule = format!(
        "{{\"ObjectLockEnabled\":\"Enabled\",\"Rule\":{{\"DefaultRetention\":{{\"Mode\":\"{mode}\",\"Days\":{}}}}}}}",
        days(needed)
    );
    add(
        Weight::Warn,
        format!("new objects are locked for {lock}, less than {sum}: backups outlive their lock"),
        format!(
            "aws s3api put-object-lock-configuration --bucket {} --object-lock-configuration '{rule}'",
            bucket.name
        ),
    );
}

/// Classes from which nothing is read at once.
const FROZEN: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];

fn lifecycle(bucket: &Bucket, live: &BucketSettings, known: Asked<'_>, add: &mut Add<'_>) {
    let generate = format!(
        "{} -r {} generate s3-lifecycle > lifecycle.json && aws s3api put-bucket-lifecycle-configuration --bucket {} --lifecycle-configuration file://lifecycle.json",
        known.command, known.place.name, bucket.name
    );
    let rules = match &live.lifecycle {
        Known::Yes(rules) => rules.as_slice(),
        Known::No => &[],
        Known::Unknown => {
            let (weight, what, mend) = unknown("the bucket's lifecycle", "s3:GetLifecycleConfiguration");
            add(weight, what, mend);
            return;
        }
    };
    let ours = &live.prefix;
    let concerns = |rule: &&LifecycleRule| {
        rule.is_enabled && (ours.starts_with(&rule.prefix) || rule.prefix.starts_with(ours.as_str()))
    };
    let least = noncurrent_days(bucket);
    let mut is_good = true;
    for rule in rules.iter().filter(concerns) {
        let id = &rule.id;
        if rule.expires_current {
            is_good = false;
            let what = format!("lifecycle rule \"{id}\" deletes objects that backups need");
            add(Weight::Fault, what, generate.clone());
        }
        if let Some(days) = rule.noncurrent_days.filter(|days| *days < least) {
            is_good = false;
            let what = format!(
                "lifecycle rule \"{id}\" destroys hidden versions after {days} days, before {least}: what somebody hides is lost"
            );
            add(Weight::Warn, what, generate.clone());
        }
        if let Some(class) = rule.transitions.iter().find(|class| FROZEN.contains(&class.as_str())) {
            is_good = false;
            let what = format!(
                "lifecycle rule \"{id}\" moves objects to {class}, which nothing can be read from at once"
            );
            add(Weight::Warn, what, generate.clone());
        }
    }
    let clears =
        |rule: &LifecycleRule| rule.is_enabled && ours.starts_with(&rule.prefix) && rule.abort_days.is_some();
    if !rules.iter().any(clears) {
        let weight = if bucket.has_endpoint { Weight::Note } else { Weight::Warn };
        let what = format!("no lifecycle rule clears unfinished uploads (after {ABORT_DAYS} days)");
        add(weight, what, generate);
    } else if is_good {
        add(Weight::Ok, "the bucket's lifecycle deletes nothing that is needed".to_owned(), String::new());
    }
}

fn encryption(bucket: &Bucket, live: &BucketSettings, known: Asked<'_>, add: &mut Add<'_>) {
    let Some(sse) = &known.place.sse else { return };
    let (wanted, key) = match sse {
        ServerSideEncryption::Aes256 => ("AES256", String::new()),
        ServerSideEncryption::Kms(key) => ("aws:kms", format!(",\"KMSMasterKeyID\":\"{key}\"")),
    };
    let mend = format!(
        "aws s3api put-bucket-encryption --bucket {} --server-side-encryption-configuration '{{\"Rules\":[{{\"ApplyServerSideEncryptionByDefault\":{{\"SSEAlgorithm\":\"{wanted}\"{key}}}}}]}}'",
        bucket.name
    );
    match &live.encryption {
        Known::Yes(found) if found == wanted => {
            add(Weight::Ok, format!("the bucket encrypts by default: {wanted}"), String::new());
        }
        Known::Yes(found) => {
            let what = format!("the bucket encrypts by default with {found}, sse says {wanted}");
            add(Weight::Warn, what, mend);
        }
        Known::No => {
            add(Weight::Warn, format!("the bucket encrypts nothing by default, sse says {wanted}"), mend)
        }
        Known::Unknown => {
            let (weight, what, mend) =
                unknown("the bucket's default encryption", "s3:GetEncryptionConfiguration");
            add(weight, what, mend);
        }
    }
}
