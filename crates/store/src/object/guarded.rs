//! Versions, locks and settings of a bucket, as S3 answers for them.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use refloat_types::Timestamp;

use super::list::Again;
use super::signed::{Asked, Signed, Told200, element, elements};
use crate::{
    BucketSettings, DefaultLock, Immutability, Key, Known, LifecycleRule, LockMode, StoreError,
    StoreErrorKind, Version,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Asks about the bucket itself. What may not be asked is unknown; what the store does not have is not so.
fn about(signed: &Arc<Signed>, what: &'static str) -> Result<Known<String>, StoreError> {
    let asked = Asked::get("look at the settings of", None, vec![(what, String::new())]);
    match signed.ask(&asked) {
        Ok(Told200::Done(text, _)) => Ok(Known::Yes(text)),
        Ok(Told200::Absent | Told200::NotBuilt) => Ok(Known::No),
        Err(error) if error.is_denied() => Ok(Known::Unknown),
        Err(error) => Err(error),
    }
}

/// What keeps the bucket's objects from being destroyed.
pub(super) fn immutability(signed: &Arc<Signed>) -> Result<Immutability, StoreError> {
    let versions = match about(signed, "versioning")? {
        Known::Yes(text) if element(&text, "Status").as_deref() == Some("Enabled") => Known::Yes(()),
        Known::Yes(_) | Known::No => Known::No,
        Known::Unknown => Known::Unknown,
    };
    let lock = match about(signed, "object-lock")? {
        Known::Yes(text) => default_lock(&text).map_or(Known::No, Known::Yes),
        Known::No => Known::No,
        Known::Unknown => Known::Unknown,
    };
    Ok(Immutability { versions, lock })
}

const fn mode_text(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Compliance => "COMPLIANCE",
        LockMode::Governance => "GOVERNANCE",
    }
}

fn default_lock(text: &str) -> Option<DefaultLock> {
    let number = |name: &str| element(text, name)?.parse::<u32>().ok();
    // A year of a lock is 365 days.
    let years = || number("Years")?.checked_mul(365);
    let days = number("Days").filter(|days| *days > 0).or_else(years)?;
    Some(DefaultLock { period: DAY * days, mode: mode(&element(text, "Mode")?)? })
}

/// What the bucket is set to.
pub(super) fn settings(signed: &Arc<Signed>) -> Result<BucketSettings, StoreError> {
    Ok(BucketSettings {
        prefix: signed.prefix().to_owned(),
        immutability: immutability(signed)?,
        lifecycle: match about(signed, "lifecycle")? {
            Known::Yes(text) => Known::Yes(rules(&text)),
            Known::No => Known::No,
            Known::Unknown => Known::Unknown,
        },
        policy: about(signed, "policy")?,
        encryption: match about(signed, "encryption")? {
            Known::Yes(text) => element(&text, "SSEAlgorithm").map_or(Known::No, Known::Yes),
            Known::No => Known::No,
            Known::Unknown => Known::Unknown,
        },
    })
}

fn rules(text: &str) -> Vec<LifecycleRule> {
    let number = |text: &str, name: &str| element(text, name)?.parse::<u32>().ok();
    let first = |text: &str, name: &str| elements(text, name).first().map(|&inside| inside.to_owned());
    let rule = |text: &&str| {
        let expiration = first(text, "Expiration");
        let noncurrent = first(text, "NoncurrentVersionExpiration");
        LifecycleRule {
            id: element(text, "ID").unwrap_or_default(),
            is_enabled: element(text, "Status").as_deref() == Some("Enabled"),
            prefix: element(text, "Prefix").unwrap_or_default(),
            // A marker that hides nothing is no object.
            expires_current: expiration
                .is_some_and(|e| element(&e, "Days").is_some() || element(&e, "Date").is_some()),
            noncurrent_days: noncurrent.and_then(|n| number(&n, "NoncurrentDays")),
            abort_days: first(text, "AbortIncompleteMultipartUpload")
                .and_then(|abort| number(&abort, "DaysAfterInitiation")),
            transitions: elements(text, "StorageClass").into_iter().map(str::to_owned).collect(),
        }
    };
    elements(text, "Rule").iter().map(rule).collect()
}

fn mode(text: &str) -> Option<LockMode> {
    match text {
        "COMPLIANCE" => Some(LockMode::Compliance),
        "GOVERNANCE" => Some(LockMode::Governance),
        _ => None,
    }
}

/// Mode and end of the lock of an object or a version. What an object says of itself is left out for those who may not know
/// its lock, so that is asked for where it says nothing.
fn retention(
    signed: &Arc<Signed>,
    key: &Key,
    version: Option<&str>,
) -> Result<Option<(LockMode, Timestamp)>, StoreError> {
    let version: Vec<(&str, String)> = version.iter().map(|id| ("versionId", (*id).to_owned())).collect();
    let action = "look at the lock of";
    let head = Asked { method: Method::HEAD, ..Asked::get(action, Some(key), version.clone()) };
    let Told200::Done(_, headers) = signed.ask(&head)? else { return Ok(None) };
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let said = header("x-amz-object-lock-mode").zip(header("x-amz-object-lock-retain-until-date"));
    if let Some((text, until)) = said {
        return Ok(mode(text).zip(until.parse().ok()));
    }
    let query = [("retention", String::new())].into_iter().chain(version).collect();
    match signed.ask(&Asked::get(action, Some(key), query))? {
        Told200::Done(text, _) if text.trim_start().starts_with('<') => {
            let until = element(&text, "RetainUntilDate").and_then(|text| text.parse().ok());
            Ok(element(&text, "Mode").as_deref().and_then(mode).zip(until))
        }
        Told200::Done(..) | Told200::Absent | Told200::NotBuilt => Ok(None),
    }
}

/// When the lock of an object or a version ends.
pub(super) fn lock_end(
    signed: &Arc<Signed>,
    key: &Key,
    version: Option<&str>,
) -> Result<Option<Timestamp>, StoreError> {
    Ok(retention(signed, key, version)?.map(|(_, until)| until))
}

/// Locks an object for longer, as strictly as it is.
pub(super) fn extend(signed: &Arc<Signed>, key: &Key, until: Timestamp) -> Result<(), StoreError> {
    let mode = match retention(signed, key, None)? {
        Some((_, end)) if end >= until => return Ok(()),
        Some((mode, _)) => mode,
        None => LockMode::Governance,
    };
    let body = format!(
        "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{}</Mode><RetainUntilDate>{}</RetainUntilDate></Retention>",
        mode_text(mode),
        until.strftime("%Y-%m-%dT%H:%M:%SZ"),
    );
    // S3 takes no such request without a checksum of it.
    let sum = sum(body.as_bytes());
    let asked = Asked {
        action: "lock",
        method: Method::PUT,
        key: Some(key),
        query: vec![("retention", String::new())],
        headers: vec![
            ("content-type".to_owned(), "application/xml".to_owned()),
            (ALGORITHM.to_owned(), "CRC32C".to_owned()),
            ("x-amz-checksum-crc32c".to_owned(), sum),
        ],
        body: body.into_bytes(),
    };
    done(signed.ask(&asked)?, "lock", key)
}

/// Whether the store wants to be told by which algorithm an object is summed, beside the sum, where its bucket locks what is
/// new. Amazon's takes the sum alone.
pub(super) fn wants_algorithm(error: &StoreError) -> bool {
    error.kind == StoreErrorKind::Other && error.source.to_string().contains(ALGORITHM)
}

const ALGORITHM: &str = "x-amz-sdk-checksum-algorithm";

/// Creates an object and tells the algorithm of its sum.
pub(super) fn put(
    signed: &Arc<Signed>,
    key: &Key,
    body: Vec<u8>,
    mut headers: Vec<(String, String)>,
) -> Result<(), StoreError> {
    headers.push((ALGORITHM.to_owned(), "CRC32C".to_owned()));
    headers.push(("x-amz-checksum-crc32c".to_owned(), sum(&body)));
    let asked =
        Asked { action: "create", method: Method::PUT, key: Some(key), query: Vec::new(), headers, body };
    done(signed.ask(&asked)?, "create", key)
}

fn sum(body: &[u8]) -> String {
    data_encoding::BASE64.encode(&crc32c::crc32c(body).to_be_bytes())
}

/// Destroys one version.
pub(super) fn destroy(signed: &Arc<Signed>, key: &Key, version: &str) -> Result<(), StoreError> {
    let query = vec![("versionId", version.to_owned())];
    let asked = Asked { method: Method::DELETE, ..Asked::get("destroy", Some(key), query) };
    match signed.ask(&asked) {
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(()),
        other => done(other?, "destroy", key),
    }
}

fn done(told: Told200, action: &'static str, key: &Key) -> Result<(), StoreError> {
    match told {
        Told200::Done(..) => Ok(()),
        Told200::Absent | Told200::NotBuilt => {
            let source = std::io::Error::other("this store has no such request");
            Err(StoreError::new(StoreErrorKind::Other, action, key.as_str(), "s3", source))
        }
    }
}

/// Every version of every object below `prefix`.
pub(super) fn versions(
    signed: &Arc<Signed>,
    prefix: &str,
    each: &mut dyn FnMut(Version) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let mut after: Option<(String, String)> = None;
    let mut again = Again::new(signed.limit());
    loop {
        let mut query = vec![("versions", String::new()), ("prefix", format!("{}{prefix}", signed.prefix()))];
        if let Some((key, version)) = &after {
            query.push(("key-marker", key.clone()));
            query.push(("version-id-marker", version.clone()));
        }
        query.sort();
        let text = match signed.ask(&Asked::get("list the versions of", None, query)) {
            Ok(Told200::Done(text, _)) => text,
            Ok(Told200::Absent | Told200::NotBuilt) => return Ok(()),
            Err(error) if after.is_some() && again.pause(&error) => continue,
            Err(error) => return Err(error),
        };
        again.came();
        for (name, is_marker) in [("Version", false), ("DeleteMarker", true)] {
            for entry in elements(&text, name) {
                let Some(version) = version(entry, signed.prefix(), is_marker) else { continue };
                if each(version).is_break() {
                    return Ok(());
                }
            }
        }
        let next = element(&text, "NextKeyMarker")
            .map(|key| (key, element(&text, "NextVersionIdMarker").unwrap_or_default()));
        match next.filter(|_| element(&text, "IsTruncated").as_deref() == Some("true")) {
            Some(next) if Some(&next) != after.as_ref() => after = Some(next),
            _ => return Ok(()),
        }
    }
}

/// What one entry says; `None` for what is no object of ours.
fn version(entry: &str, prefix: &str, is_marker: bool) -> Option<Version> {
    Some(Version {
        key: element(entry, "Key")?.strip_prefix(prefix)?.parse().ok()?,
        id: element(entry, "VersionId")?,
        size: element(entry, "Size").and_then(|size| size.parse().ok()).unwrap_or(0),
        created: element(entry, "LastModified")?.parse().ok()?,
        is_latest: element(entry, "IsLatest").as_deref() == Some("true"),
        is_marker,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_read_in_days_and_years() {
        let of = |text: &str| default_lock(text).map(|lock| (lock.period.as_secs() / 86_400, lock.mode));
        assert_eq!(of("<Mode>COMPLIANCE</Mode><Days>30</Days>"), Some((30, LockMode::Compliance)));
        assert_eq!(of("<Mode>GOVERNANCE</Mode><Years>1</Years>"), Some((365, LockMode::Governance)));
        assert_eq!(of("<ObjectLockEnabled>Enabled</ObjectLockEnabled>"), None);
        assert_eq!(of("<Mode>COMPLIANCE</Mode><Years>99999999999</Years>"), None);
    }

    #[test]
    fn rules_say_what_they_delete() {
        let text = "<LifecycleConfiguration><Rule><ID>a</ID><Filter><Prefix>db1/</Prefix></Filter><Status>Enabled</Status>\
            <Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>\
            <NoncurrentVersionExpiration><NoncurrentDays>40</NoncurrentDays></NoncurrentVersionExpiration>\
            <AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>\
            <Rule><ID>b</ID><Prefix></Prefix><Status>Enabled</Status><Expiration><Days>30</Days></Expiration>\
            <Transition><Days>1</Days><StorageClass>GLACIER</StorageClass></Transition></Rule></LifecycleConfiguration>";
        let rules = rules(text);
        assert!(!rules[0].expires_current && rules[1].expires_current);
        assert_eq!((rules[0].noncurrent_days, rules[0].abort_days), (Some(40), Some(7)));
        assert_eq!(rules[0].prefix, "db1/");
        assert_eq!(rules[1].transitions, ["GLACIER"]);
    }

    #[test]
    fn a_version_of_something_else_is_none() {
        let entry = "<Key>db1/packs/00/a</Key><VersionId>v1</VersionId><IsLatest>true</IsLatest>\
            <LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>12</Size>";
        let found = version(entry, "db1/", false).unwrap();
        assert_eq!((found.key.as_str(), found.size, found.is_latest), ("packs/00/a", 12, true));
        assert_eq!(version(entry, "db2/", false), None);
        assert_eq!(version("<Key>db1/x y</Key>", "db1/", false), None);
    }
}
