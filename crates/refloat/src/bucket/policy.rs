//! What nobody may do in a bucket, whatever else he may.

use refloat_store::ServerSideEncryption;
use serde_json::{Value, json};

use super::Bucket;

/// Who may delete, as ARNs; placeholders where it is not said.
#[derive(Debug, Clone)]
pub(crate) struct Principals {
    pub(crate) expirers: Vec<String>,
}

impl Principals {
    /// What stands where nobody was named.
    pub(crate) const PLACEHOLDER: &'static str = "arn:aws:iam::ACCOUNT:role/EXPIRER";

    /// Those, or the placeholder.
    pub(crate) fn new(expirers: Vec<String>) -> Self {
        if expirers.is_empty() {
            Self { expirers: vec![Self::PLACEHOLDER.to_owned()] }
        } else {
            Self { expirers }
        }
    }

    /// Reads the ARN of a role or user. A name that is none would match nobody: the policy would let nobody delete.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<String, String> {
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        // Stores that are not Amazon's leave the account out; a wildcard may stand for it, and in names.
        let is_account = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "*?-_".contains(c));
        let is_principal = |text: &str| {
            let kinds = ["user/", "role/", "assumed-role/", "federated-user/"];
            text == "root"
                || kinds.iter().any(|kind| text.strip_prefix(kind).is_some_and(|name| !name.is_empty()))
        };
        match parts.as_slice() {
            ["arn", partition, "iam" | "sts", "", account, principal]
                if !partition.is_empty() && is_account(account) && is_principal(principal) =>
            {
                Ok(text.to_owned())
            }
            _ => Err("it is no ARN of a role or user, such as arn:aws:iam::123456789012:role/refloat-expire"
                .to_owned()),
        }
    }

    /// Nobody was named.
    pub(crate) fn is_placeholder(&self) -> bool {
        self.expirers.iter().any(|arn| arn == Self::PLACEHOLDER)
    }
}

/// The policy of the bucket: it only denies, so that the policies of users and roles say who may do what.
pub(crate) fn bucket_policy(bucket: &Bucket, principals: &Principals) -> Value {
    let objects = bucket.objects(&["*"]);
    let mut both = vec![bucket.arn()];
    both.extend(objects.iter().cloned());
    let deny = |sid: &str, action: Value, resource: Value, condition: Option<Value>| {
        let mut statement =
            json!({ "Sid": sid, "Effect": "Deny", "Principal": "*", "Action": action, "Resource": resource });
        if let Some(condition) = condition {
            statement["Condition"] = condition;
        }
        statement
    };
    let mut statements = vec![
        deny(
            "OnlyOverTls",
            json!("s3:*"),
            json!(both),
            Some(json!({ "Bool": { "aws:SecureTransport": "false" } })),
        ),
        deny(
            "OnlyPresentTls",
            json!("s3:*"),
            json!(both),
            Some(json!({ "NumericLessThan": { "s3:TlsVersion": "1.2" } })),
        ),
        // Both conditions have to hold: the first calls of a multipart upload know no If-None-Match.
        deny(
            "NeverOverwrite",
            json!("s3:PutObject"),
            json!(objects),
            Some(json!({
                "Null": { "s3:if-none-match": "true" },
                "Bool": { "s3:ObjectCreationOperation": "true" },
            })),
        ),
        deny(
            "OnlyExpirersDelete",
            json!(["s3:DeleteObject", "s3:DeleteObjectVersion"]),
            json!(objects),
            Some(json!({ "ArnNotLike": { "aws:PrincipalArn": principals.expirers } })),
        ),
        deny("NobodyPassesLocks", json!("s3:BypassGovernanceRetention"), json!(objects), None),
    ];
    if let Some(days) = bucket.lock_days {
        statements.push(deny(
            "NoLongerLockThanNeeded",
            json!("s3:PutObjectRetention"),
            json!(objects),
            Some(json!({
                "NumericGreaterThan": { "s3:object-lock-remaining-retention-days": (days + 1).to_string() },
            })),
        ));
    }
    statements.extend(encryption(bucket));
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// What asks for another encryption than is configured is denied; what asks for none gets the bucket's default. A
/// negated condition holds where its key is absent too, with `IfExists` or without: so the key has to be there as well.
fn encryption(bucket: &Bucket) -> Vec<Value> {
    let mut statements = Vec::new();
    let arn = bucket.arn();
    for (number, place) in bucket.places.iter().enumerate() {
        let Some(sse) = &place.sse else { continue };
        let (wanted, key) = match sse {
            ServerSideEncryption::Aes256 => ("AES256", None),
            ServerSideEncryption::Kms(key) => ("aws:kms", Some(key)),
        };
        let mut condition = |sid: String, field: &str, wanted: &str| {
            statements.push(json!({
                "Sid": sid,
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:PutObject",
                "Resource": format!("{arn}/{}*", place.prefix),
                "Condition": { "StringNotEquals": { field: wanted }, "Null": { field: "false" } },
            }));
        };
        condition(format!("OnlyAsEncrypted{}", number + 1), "s3:x-amz-server-side-encryption", wanted);
        if let Some(key) = key.filter(|key| key.starts_with("arn:")) {
            condition(
                format!("OnlyWithThisKey{}", number + 1),
                "s3:x-amz-server-side-encryption-aws-kms-key-id",
                key,
            );
        }
    }
    statements
}
