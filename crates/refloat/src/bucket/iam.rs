//! What the credentials of a role may do.

use serde_json::{Value, json};

use super::{Bucket, Role};

/// The policy to attach to a role's user or role.
pub(crate) fn iam_policy(bucket: &Bucket, role: Role) -> Value {
    let mut statements = vec![list(bucket), about(bucket, role), read(bucket, role)];
    if !role.adds().is_empty() {
        statements.extend(add(bucket, role));
    }
    if !role.deletes().is_empty() {
        statements.push(json!({
            "Sid": "DeleteWhatExpired",
            "Effect": "Allow",
            "Action": ["s3:DeleteObject", "s3:DeleteObjectVersion"],
            "Resource": bucket.objects(role.deletes()),
        }));
    }
    if let (Role::Agent, Some(days)) = (role, bucket.lock_days) {
        statements.push(extend(bucket, days));
    }
    statements.extend(keys(bucket, role));
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// Only what lies below the repositories is listed. A question for one object has no prefix; without the right to list, the
/// answer to one that is not there would be that it may not be asked for.
fn list(bucket: &Bucket) -> Value {
    let mut statement = json!({
        "Sid": "ListObjects",
        "Effect": "Allow",
        "Action": ["s3:ListBucket"],
        "Resource": bucket.arn(),
    });
    if bucket.places.iter().all(|place| !place.prefix.is_empty()) {
        let prefixes: Vec<String> = bucket.places.iter().map(|place| format!("{}*", place.prefix)).collect();
        statement["Condition"] = json!({ "StringLikeIfExists": { "s3:prefix": prefixes } });
    }
    statement
}

/// Questions about the bucket as a whole.
fn about(bucket: &Bucket, role: Role) -> Value {
    let mut actions = vec!["s3:GetBucketObjectLockConfiguration", "s3:GetBucketVersioning"];
    match role {
        Role::Agent => actions.push("s3:ListBucketMultipartUploads"),
        // `check` on such a host compares the bucket with what is generated.
        Role::Expirer => actions.extend([
            "s3:GetBucketPolicy",
            "s3:GetEncryptionConfiguration",
            "s3:GetLifecycleConfiguration",
            "s3:ListBucketVersions",
        ]),
        Role::Restorer => {}
    }
    json!({ "Sid": "LookAtBucket", "Effect": "Allow", "Action": actions, "Resource": bucket.arn() })
}

fn read(bucket: &Bucket, role: Role) -> Value {
    let mut actions = vec!["s3:GetObject", "s3:GetObjectRetention"];
    if role == Role::Expirer {
        // The lock of a version that a newer one hides.
        actions.push("s3:GetObjectVersion");
    }
    json!({ "Sid": "ReadObjects", "Effect": "Allow", "Action": actions, "Resource": bucket.objects(&["*"]) })
}

/// Creating, and nothing but creating: what completes an object must say `If-None-Match`. The calls of a multipart upload
/// before the last one know no such header, and create nothing.
fn add(bucket: &Bucket, role: Role) -> Vec<Value> {
    let objects = bucket.objects(role.adds());
    let mut statements = vec![
        json!({
            "Sid": "CreateWhatIsNotThere",
            "Effect": "Allow",
            "Action": "s3:PutObject",
            "Resource": objects,
            "Condition": { "Null": { "s3:if-none-match": "false" } },
        }),
        json!({
            "Sid": "UploadParts",
            "Effect": "Allow",
            "Action": "s3:PutObject",
            "Resource": objects,
            "Condition": { "Bool": { "s3:ObjectCreationOperation": "false" } },
        }),
    ];
    if role == Role::Agent {
        statements.push(json!({
            "Sid": "GiveUpUploads",
            "Effect": "Allow",
            "Action": "s3:AbortMultipartUpload",
            "Resource": objects,
        }));
    }
    statements
}

/// Locking for longer what an incremental backup refers to, the keys of it too, and for no longer than new objects are locked.
fn extend(bucket: &Bucket, days: u32) -> Value {
    json!({
        "Sid": "LockOlderPacksForLonger",
        "Effect": "Allow",
        "Action": "s3:PutObjectRetention",
        "Resource": bucket.objects(&["packs/*", "keys/data/*"]),
        "Condition": {
            "NumericLessThanEquals": { "s3:object-lock-remaining-retention-days": (days + 1).to_string() },
        },
    })
}

/// The key service decrypts for whoever reads, and makes keys for whoever writes; parts of an upload need both.
fn keys(bucket: &Bucket, role: Role) -> Option<Value> {
    let keys = bucket.kms_keys();
    let actions = match role {
        Role::Restorer => vec!["kms:Decrypt"],
        Role::Agent | Role::Expirer => vec!["kms:Decrypt", "kms:GenerateDataKey"],
    };
    let arn = |key: String| if key.starts_with("arn:") { key } else { key_arn(bucket, &key) };
    (!keys.is_empty()).then(|| {
        let keys: Vec<String> = keys.into_iter().map(arn).collect();
        json!({ "Sid": "UseKeyService", "Effect": "Allow", "Action": actions, "Resource": keys })
    })
}

fn key_arn(bucket: &Bucket, key: &str) -> String {
    let region = bucket.region.as_deref().unwrap_or("REGION");
    let what = if key.starts_with("alias/") { key.to_owned() } else { format!("key/{key}") };
    format!("arn:{}:kms:{region}:ACCOUNT:{what}", bucket.partition())
}
