//! Versions, locks and settings of real buckets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use refloat_store::{
    BucketSettings, Credentials, Immutability, Key, Keys, Known, LockMode, Options, Store, StoreErrorKind,
    StoreSettings, Version, open,
};
use refloat_testkit::servers::{Moto, S3sFs};
use refloat_types::{Clock as _, SystemClock};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn store(url: &str, endpoint: String, access: &str, secret: &str) -> Box<dyn Store> {
    let keys = Keys::default().with("access_key_id", access).with("secret_access_key", secret);
    let settings = StoreSettings {
        endpoint: Some(endpoint),
        credentials: Credentials::Keys(Arc::new(move || Ok(keys.clone()))),
        ..StoreSettings::default()
    };
    open(&url.parse().unwrap(), &settings, Options::default()).unwrap()
}

fn on_moto(server: &Moto, url: &str) -> Box<dyn Store> {
    store(url, server.endpoint(), server.access_key(), server.secret_key())
}

fn versions(store: &dyn Store, prefix: &str) -> Vec<Version> {
    let mut all = Vec::new();
    let listed = store.versions(prefix, &mut |version| {
        all.push(version);
        ControlFlow::Continue(())
    });
    listed.unwrap();
    all
}

fn listed(store: &dyn Store) -> usize {
    let mut count = 0;
    let listed = store.list("", &mut |_| {
        count += 1;
        ControlFlow::Continue(())
    });
    listed.unwrap();
    count
}

/// What an administrator sends to end a lock.
const LIFTED: [(&str, &str); 2] =
    [("x-amz-bypass-governance-retention", "true"), ("x-amz-sdk-checksum-algorithm", "CRC32C")];

#[test]
fn a_lock_holds_a_version_and_can_be_moved_later() {
    let Some(server) = Moto::start() else { return };
    let bucket = server.locked_bucket("locked", "GOVERNANCE", 1);
    let store = on_moto(&server, &format!("s3://{bucket}/db1"));
    let immutability = store.immutability().unwrap();
    assert_eq!(immutability.versions, Known::Yes(()));
    let lock = immutability.lock.yes().unwrap();
    assert_eq!((lock.period, lock.mode), (DAY, LockMode::Governance));

    let key: Key = "packs/00/a".parse().unwrap();
    store.put_new(&key, b"frames").unwrap();
    let now = SystemClock.now();
    let end = store.lock_end(&key, None).unwrap().unwrap();
    assert!(end > now + DAY - Duration::from_secs(60) && end < now + DAY + Duration::from_secs(60), "{end}");
    store.extend_lock(&key, now + 3 * DAY).unwrap();
    let later = store.lock_end(&key, None).unwrap().unwrap();
    assert_eq!(later.as_second(), (now + 3 * DAY).as_second());
    store.extend_lock(&key, now + DAY).unwrap();
    assert_eq!(store.lock_end(&key, None).unwrap(), Some(later), "never earlier");
    let absent = store.lock_end(&"packs/00/b".parse().unwrap(), None).unwrap();
    assert_eq!(absent, None);

    let all = versions(store.as_ref(), "packs/");
    assert_eq!(all.len(), 1);
    let own = all[0].clone();
    assert_eq!((own.key.as_str(), own.size, own.is_latest, own.is_marker), ("packs/00/a", 6, true, false));
    assert_eq!(store.destroy(&key, &own.id).unwrap_err().kind, StoreErrorKind::Denied);
    assert!(store.head(&key).unwrap().is_some());

    // Deleting by name hides it, and its lock holds what is behind the marker.
    store.delete(&key).unwrap();
    assert_eq!((store.head(&key).unwrap(), listed(store.as_ref())), (None, 0));
    let all = versions(store.as_ref(), key.as_str());
    assert_eq!(all.iter().filter(|version| version.is_marker && version.is_latest).count(), 1);
    assert_eq!(store.destroy(&key, &own.id).unwrap_err().kind, StoreErrorKind::Denied);
    assert_eq!(store.lock_end(&key, Some(&own.id)).unwrap(), Some(later));

    // What an administrator may: the lock is over.
    let over = "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>GOVERNANCE</Mode>\
                <RetainUntilDate>2020-01-01T00:00:00Z</RetainUntilDate></Retention>";
    let target = format!("/{bucket}/db1/{key}?retention&versionId={}", own.id);
    server.must("PUT", &target, &LIFTED, over);
    for version in &all {
        store.destroy(&key, &version.id).unwrap();
    }
    assert!(versions(store.as_ref(), "").is_empty());
    store.destroy(&key, &own.id).unwrap();
}

#[test]
fn what_a_bucket_is_set_to_is_read() {
    let Some(server) = Moto::start() else { return };
    let bucket = server.bucket("plain");
    let store = on_moto(&server, &format!("s3://{bucket}/db1"));
    assert_eq!(store.immutability().unwrap(), Immutability::default());
    let bare = store.bucket_settings().unwrap().unwrap();
    assert_eq!((&bare.policy, &bare.lifecycle), (&Known::No, &Known::No));
    assert_eq!(bare.prefix, "db1/");

    let policy = "{\"Version\":\"2012-10-17\",\"Statement\":[]}";
    server.must("PUT", &format!("/{bucket}?policy"), &[], policy);
    let rule = "<LifecycleConfiguration><Rule><ID>old</ID><Filter><Prefix>db1/</Prefix></Filter><Status>Enabled</Status>\
                <Expiration><Days>30</Days></Expiration></Rule></LifecycleConfiguration>";
    server.must("PUT", &format!("/{bucket}?lifecycle"), &[], rule);
    let encryption = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>\
                      <SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>";
    server.must("PUT", &format!("/{bucket}?encryption"), &[], encryption);
    let BucketSettings { lifecycle, policy, encryption, .. } = store.bucket_settings().unwrap().unwrap();
    let Known::Yes(rules) = lifecycle else { panic!("{lifecycle:?}") };
    assert!(rules[0].expires_current && rules[0].is_enabled && rules[0].prefix == "db1/", "{rules:?}");
    assert!(matches!(policy, Known::Yes(text) if text.contains("2012-10-17")));
    assert_eq!(encryption, Known::Yes("AES256".to_owned()));
}

/// It checks every signature: names and prefixes that have to be encoded are signed as they are sent.
#[test]
fn a_store_without_all_that_says_so_and_is_asked_with_right_signatures() {
    let Some(server) = S3sFs::start() else { return };
    let bucket = server.bucket("bare");
    for url in [format!("s3://{bucket}"), format!("s3://{bucket}/a%20b+%C3%BC/c")] {
        let store = store(&url, server.endpoint(), server.access_key(), server.secret_key());
        let key: Key = "packs/00/a".parse().unwrap();
        store.put_new(&key, b"frames").unwrap();
        let immutability = store.immutability().unwrap();
        assert!(immutability.versions.yes().is_none() && immutability.lock.yes().is_none());
        assert_eq!(store.lock_end(&key, None).unwrap(), None);
        assert!(store.bucket_settings().unwrap().is_some());
    }
    let stranger = store(&format!("s3://{bucket}"), server.endpoint(), server.access_key(), "wrong");
    assert_eq!(stranger.immutability().unwrap(), Immutability::UNKNOWN, "refused, not absent");
}
