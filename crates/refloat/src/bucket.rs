//! What a bucket of S3 should be set to, and what each role may do in it, made of the configuration.
//!
//! `roles` says which objects each role writes and deletes, as the code does it; `iam`, `policy` and `lifecycle` put that
//! into S3's words, `compare` looks at the live bucket. Everything here is made of values; nothing is asked.

pub(crate) mod compare;
mod iam;
mod lifecycle;
mod policy;
pub(crate) mod roles;
#[cfg(test)]
mod tests;

use std::time::Duration;

use refloat_store::ServerSideEncryption;

pub(crate) use iam::iam_policy;
pub(crate) use lifecycle::{lifecycle, noncurrent_days};
pub(crate) use policy::{Principals, bucket_policy};
pub(crate) use roles::Role;

const DAY: u64 = 24 * 3600;

/// A repository in a bucket.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// How the configuration calls it.
    pub(crate) name: String,
    /// What stands before every key: "" or text that ends in `/`.
    pub(crate) prefix: String,
    /// How the store encrypts what it keeps.
    pub(crate) sse: Option<ServerSideEncryption>,
    /// How long anything is kept, as far as ages say it.
    pub(crate) keep: Option<Duration>,
}

/// A bucket with the repositories that the configuration has in it.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    pub(crate) name: String,
    /// Region, where one is configured.
    pub(crate) region: Option<String>,
    /// It is not the provider's own.
    pub(crate) has_endpoint: bool,
    pub(crate) places: Vec<Place>,
    /// Days of the lock that new objects have, or shall have.
    pub(crate) lock_days: Option<u32>,
}

impl Bucket {
    fn partition(&self) -> &'static str {
        match self.region.as_deref() {
            Some(region) if region.starts_with("cn-") => "aws-cn",
            Some(region) if region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        }
    }

    /// The bucket, in a policy's words.
    pub(crate) fn arn(&self) -> String {
        format!("arn:{}:s3:::{}", self.partition(), self.name)
    }

    /// Objects below each place, in a policy's words.
    fn objects(&self, patterns: &[&str]) -> Vec<String> {
        let arn = self.arn();
        let of = |place: &Place| -> Vec<String> {
            patterns.iter().map(|pattern| format!("{arn}/{}{pattern}", place.prefix)).collect()
        };
        self.places.iter().flat_map(of).collect()
    }

    /// The longest time that anything in it is kept, as far as ages say it.
    fn keep(&self) -> Option<Duration> {
        self.places.iter().filter_map(|place| place.keep).max()
    }

    /// Keys of the key service.
    fn kms_keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self
            .places
            .iter()
            .filter_map(|place| match &place.sse {
                Some(ServerSideEncryption::Kms(key)) => Some(key.clone()),
                _ => None,
            })
            .collect();
        keys.sort();
        keys.dedup();
        keys
    }
}

/// Whole days, rounded up.
fn days(of: Duration) -> u32 {
    u32::try_from(of.as_secs().div_ceil(DAY)).unwrap_or(u32::MAX)
}
