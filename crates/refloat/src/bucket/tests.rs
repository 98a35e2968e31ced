//! What is generated, and what is said of a live bucket.

use std::time::Duration;

use refloat_store::ServerSideEncryption;
use refloat_store::{BucketSettings, DefaultLock, Immutability, Known, LifecycleRule, LockMode};
use serde_json::{Value, json};

use super::compare::{Asked, Finding, Weight, compare};
use super::*;

const DAYS: Duration = Duration::from_secs(DAY);

fn bucket() -> Bucket {
    Bucket {
        name: "acme".to_owned(),
        region: Some("eu-central-1".to_owned()),
        has_endpoint: false,
        places: vec![Place {
            name: "offsite".to_owned(),
            prefix: "db1/".to_owned(),
            sse: Some(ServerSideEncryption::Aes256),
            keep: Some(DAYS * 28),
        }],
        lock_days: Some(40),
    }
}

fn statement<'a>(policy: &'a Value, sid: &str) -> &'a Value {
    let all = policy["Statement"].as_array().expect("statements");
    all.iter().find(|one| one["Sid"] == sid).unwrap_or_else(|| panic!("no {sid} in {policy}"))
}

fn actions(policy: &Value) -> Vec<String> {
    let all = policy["Statement"].as_array().expect("statements");
    let of = |one: &Value| match &one["Action"] {
        Value::Array(all) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>(),
        one => one.as_str().map(str::to_owned).into_iter().collect(),
    };
    all.iter().filter(|one| one["Effect"] == "Allow").flat_map(of).collect()
}

#[test]
fn an_agent_adds_and_neither_deletes_nor_overwrites() {
    let policy = iam_policy(&bucket(), Role::Agent);
    for action in actions(&policy) {
        assert!(!action.contains("Delete") && !action.contains('*'), "{action}");
    }
    let create = statement(&policy, "CreateWhatIsNotThere");
    assert_eq!(create["Condition"], json!({ "Null": { "s3:if-none-match": "false" } }));
    let parts = statement(&policy, "UploadParts");
    assert_eq!(parts["Condition"], json!({ "Bool": { "s3:ObjectCreationOperation": "false" } }));
    assert!(create["Resource"].as_array().unwrap().contains(&json!("arn:aws:s3:::acme/db1/packs/*")));
    // Who can read, and what makes it a repository, is not its business.
    let text = create["Resource"].to_string();
    assert!(!text.contains("recipients") && !text.contains("/repository") && !text.contains("holds"));
    let list = statement(&policy, "ListObjects");
    assert_eq!(list["Condition"]["StringLikeIfExists"]["s3:prefix"], json!(["db1/*"]));
    let extend = statement(&policy, "LockOlderPacksForLonger");
    assert_eq!(
        extend["Resource"],
        json!(["arn:aws:s3:::acme/db1/packs/*", "arn:aws:s3:::acme/db1/keys/data/*"])
    );
}

#[test]
fn an_expirer_deletes_what_expires_and_a_restorer_changes_nothing() {
    let policy = iam_policy(&bucket(), Role::Expirer);
    let deletes = statement(&policy, "DeleteWhatExpired")["Resource"].to_string();
    for never in ["repository", "recipients", "agents", "keys/data", "holds", "owner"] {
        assert!(!deletes.contains(never), "{never} is never deleted: {deletes}");
    }
    assert!(!actions(&policy).iter().any(|action| action.contains("Bypass")));
    let reading = ["s3:Get", "s3:List", "kms:Decrypt"];
    for action in actions(&iam_policy(&bucket(), Role::Restorer)) {
        assert!(reading.iter().any(|start| action.starts_with(start)), "{action}");
    }
}

#[test]
fn the_key_service_is_named_by_its_arn() {
    let mut bucket = bucket();
    bucket.places[0].sse = Some(ServerSideEncryption::Kms("1234-5678".to_owned()));
    let policy = iam_policy(&bucket, Role::Agent);
    let keys = statement(&policy, "UseKeyService");
    assert_eq!(keys["Resource"], json!(["arn:aws:kms:eu-central-1:ACCOUNT:key/1234-5678"]));
    bucket.region = Some("cn-north-1".to_owned());
    assert_eq!(bucket.arn(), "arn:aws-cn:s3:::acme");
}

#[test]
fn no_rule_deletes_what_is_current() {
    let rules = lifecycle(&bucket());
    for rule in rules["Rules"].as_array().unwrap() {
        let expiration = &rule["Expiration"];
        assert!(expiration["Days"].is_null() && expiration["Date"].is_null(), "{rule}");
        assert!(rule["Transitions"].is_null() && rule["Filter"]["Prefix"] == "db1/");
        if let Some(days) = rule["NoncurrentVersionExpiration"]["NoncurrentDays"].as_u64() {
            assert!(days > 40, "longer than retention and lock: {days}");
        }
    }
    let mut short = bucket();
    (short.lock_days, short.places[0].keep) = (None, None);
    assert_eq!(noncurrent_days(&short), 31);
}

fn live(bucket: &Bucket) -> BucketSettings {
    let lock = DefaultLock { period: DAYS * 40, mode: LockMode::Compliance };
    let mut policy = bucket_policy(bucket, &Principals::new(vec!["arn:aws:iam::1:role/expire".to_owned()]));
    // As AWS gives it back: one action as a text, another order of fields.
    policy["Statement"].as_array_mut().unwrap().reverse();
    let rule = LifecycleRule {
        id: "a".to_owned(),
        is_enabled: true,
        noncurrent_days: Some(50),
        abort_days: Some(7),
        ..LifecycleRule::default()
    };
    BucketSettings {
        prefix: "db1/".to_owned(),
        immutability: Immutability { versions: Known::Yes(()), lock: Known::Yes(lock) },
        lifecycle: Known::Yes(vec![rule]),
        policy: Known::Yes(policy.to_string()),
        encryption: Known::Yes("AES256".to_owned()),
    }
}

fn found(change: impl Fn(&mut Bucket, &mut BucketSettings)) -> Vec<Finding> {
    let mut bucket = bucket();
    let mut live = live(&bucket);
    change(&mut bucket, &mut live);
    let asked = Asked { place: &bucket.places[0], between_fulls: Some(DAYS * 7), command: "refloat" };
    compare(&bucket, &live, asked)
}

fn worst(change: impl Fn(&mut Bucket, &mut BucketSettings)) -> Vec<Finding> {
    let all = found(change);
    all.into_iter().filter(|one| !matches!(one.weight, Weight::Ok)).collect()
}

#[test]
fn a_bucket_as_generated_has_no_difference() {
    assert_eq!(worst(|_, _| {}), []);
    let said: Vec<String> = found(|_, _| {}).into_iter().map(|one| one.what).collect();
    assert!(
        said.iter().any(|what| what.contains("40 days, at least 28 days for what is kept + 7 days")),
        "{said:?}"
    );
}

#[test]
fn each_difference_is_named_with_the_line_that_mends_it() {
    let one = |change: &dyn Fn(&mut Bucket, &mut BucketSettings)| {
        let mut all = worst(change);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    };
    let fault = one(&|_, live| {
        let Known::Yes(rules) = &mut live.lifecycle else { panic!() };
        rules.push(LifecycleRule {
            id: "old".to_owned(),
            is_enabled: true,
            expires_current: true,
            ..LifecycleRule::default()
        });
    });
    assert_eq!(fault.weight, Weight::Fault);
    assert_eq!(fault.what, "lifecycle rule \"old\" deletes objects that backups need");
    assert!(fault.mend.starts_with("refloat -r offsite generate s3-lifecycle > lifecycle.json && aws s3api"));

    let short = one(&|_, live| {
        live.immutability.lock = Known::Yes(DefaultLock { period: DAYS * 30, mode: LockMode::Governance });
    });
    assert!(short.what.contains("30 days, less than 28 days for what is kept + 7 days"), "{}", short.what);
    assert!(short.mend.contains("\"Mode\":\"GOVERNANCE\",\"Days\":35"), "{}", short.mend);

    let policy = one(&|_, live| {
        let Known::Yes(text) = &live.policy else { panic!() };
        let mut policy: Value = serde_json::from_str(text).unwrap();
        policy["Statement"].as_array_mut().unwrap().retain(|one| one["Sid"] != "OnlyOverTls");
        live.policy = Known::Yes(policy.to_string());
    });
    assert_eq!(policy.what, "the bucket's policy lacks OnlyOverTls");

    for everybody in ["*", "arn:aws:iam::*", Principals::PLACEHOLDER] {
        let policy = one(&|bucket, live| {
            let principals = Principals::new(vec![everybody.to_owned()]);
            live.policy = Known::Yes(bucket_policy(bucket, &principals).to_string());
        });
        assert_eq!(policy.what, "the bucket's policy lacks OnlyExpirersDelete", "{everybody}");
    }

    let kms = one(&|_, live| live.encryption = Known::Yes("aws:kms".to_owned()));
    assert!(kms.mend.contains("put-bucket-encryption") && kms.mend.contains("AES256"));
}

#[test]
fn what_may_not_be_asked_is_unknown_and_not_wrong() {
    let all = worst(|_, live| {
        (live.policy, live.encryption) = (Known::Unknown, Known::Unknown);
        live.lifecycle = Known::Unknown;
        live.immutability = Immutability::UNKNOWN;
    });
    assert!(all.iter().all(|one| one.weight == Weight::Note && one.what.contains("unknown")), "{all:?}");
    assert_eq!(all.len(), 4);
}

#[test]
fn credentials_that_can_destroy_are_said_to() {
    let all = worst(|bucket, live| {
        bucket.has_endpoint = true;
        live.immutability = Immutability::default();
        live.policy = Known::No;
    });
    let said = all.iter().any(|one| one.what.contains("can destroy what is stored: no versions are kept"));
    assert!(said, "{all:?}");
    // An enforced policy does as well.
    let all = worst(|_, live| live.immutability = Immutability::default());
    assert_eq!(all, []);
}

#[test]
fn the_page_says_what_the_roles_do() {
    let page = include_str!("../../../../docs/src/buckets.md");
    for (role, column) in [(Role::Agent, 2), (Role::Expirer, 3)] {
        for (row, patterns) in [("| creates |", role.adds()), ("| deletes |", role.deletes())] {
            let line = page.lines().find(|line| line.starts_with(row)).expect("its row");
            let cell = line.split('|').nth(column).expect("its column");
            for pattern in patterns {
                let shown = pattern.trim_end_matches('*').replace('*', "…");
                assert!(cell.contains(&format!("`{shown}`")), "{} {row} {shown}: {cell}", role.as_str());
            }
            assert_eq!(cell.matches('`').count(), 2 * patterns.len(), "{} {row} {cell}", role.as_str());
        }
    }
}
