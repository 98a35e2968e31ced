//! Expiry in a real bucket with versions and locks, in simulated time.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use refloat_engine::expire::{Keep, Policy};
use refloat_repo::commit::BackupType::Full;
use refloat_repo::layout;
use refloat_store::{
    Credentials, Features, Immutability, Key, Keys, ObjectInfo, ObjectWriter, Options, Space, Store,
    StoreError, StoreSettings, Version, open,
};
use refloat_testkit::servers::Moto;
use refloat_types::{Clock as _, ManualClock, Timestamp};

use super::world::World;

/// A store whose objects are as old as the simulated time says; its locks are the store's own.
struct Timed {
    inner: Box<dyn Store>,
    clock: Arc<ManualClock>,
    created: Mutex<BTreeMap<Key, Timestamp>>,
}

impl Timed {
    fn at(&self, key: &Key) -> Timestamp {
        self.created.lock().unwrap().get(key).copied().unwrap_or_else(|| self.clock.now())
    }
}

impl Store for Timed {
    fn describe(&self) -> &str {
        self.inner.describe()
    }
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.inner.put_new(key, body)?;
        self.created.lock().unwrap().insert(key.clone(), self.clock.now());
        Ok(())
    }
    fn create(&self, _: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        unreachable!("nothing here writes in pieces")
    }
    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        self.inner.read(key, range, into)
    }
    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.settle(key)
    }
    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        let info = self.inner.head(key)?;
        Ok(info.map(|info| ObjectInfo { created: self.at(key), ..info }))
    }
    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.list(prefix, &mut |info| {
            let created = self.at(&info.key);
            each(ObjectInfo { created, ..info })
        })
    }
    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete(key)
    }
    fn features(&self) -> Features {
        self.inner.features()
    }
    fn space(&self) -> Result<Option<Space>, StoreError> {
        self.inner.space()
    }
    fn immutability(&self) -> Result<Immutability, StoreError> {
        self.inner.immutability()
    }
    fn lock_end(&self, key: &Key, version: Option<&str>) -> Result<Option<Timestamp>, StoreError> {
        self.inner.lock_end(key, version)
    }
    fn extend_lock(&self, key: &Key, until: Timestamp) -> Result<(), StoreError> {
        self.inner.extend_lock(key, until)
    }
    fn versions(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Version) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.versions(prefix, &mut |version| {
            let created = self.at(&version.key);
            each(Version { created, ..version })
        })
    }
    fn destroy(&self, key: &Key, version: &str) -> Result<(), StoreError> {
        self.inner.destroy(key, version)
    }
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

/// What an administrator sends to end a lock.
const LIFTED: [(&str, &str); 2] =
    [("x-amz-bypass-governance-retention", "true"), ("x-amz-sdk-checksum-algorithm", "CRC32C")];

#[test]
fn a_bucket_that_locks_gives_up_nothing_before_and_keeps_no_version_afterwards() {
    let Some(server) = Moto::start() else { return };
    server.locked_bucket("acme", "GOVERNANCE", 5);
    let keys = Keys::default()
        .with("access_key_id", server.access_key())
        .with("secret_access_key", server.secret_key());
    let settings = StoreSettings {
        endpoint: Some(server.endpoint()),
        credentials: Credentials::Keys(Arc::new(move || Ok(keys.clone()))),
        ..StoreSettings::default()
    };
    let inner = open(&"s3://acme/db1".parse().unwrap(), &settings, Options::default()).unwrap();
    let clock = World::clock();
    let timed: Arc<dyn Store> =
        Arc::new(Timed { inner, clock: Arc::clone(&clock), created: Mutex::default() });
    let mut world = World::on([Arc::clone(&timed), Arc::clone(&timed)], Duration::ZERO, clock);
    world.policy = Some(Policy { full: Some(Keep::Count(1)), ..Policy::default() });
    let first = world.backup(0, Full).unwrap();
    let record = world.made[0].clone();
    world.pass(Duration::from_secs(3600));
    world.backup(0, Full).unwrap();
    world.expire(0).unwrap();
    world.pass(Duration::from_secs(25 * 3600));
    world.backup(0, Full).unwrap();

    let report = world.expire(0).unwrap();
    assert!(report.locked.backups >= 1 && report.deleted.is_nothing(), "{report:?}");
    assert!(report.locked_until.is_some());
    assert!(world.is_there(first) && world.lacks(&record) == 0);

    // Somebody who may ends the locks.
    let over = "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>GOVERNANCE</Mode>\
                <RetainUntilDate>2020-01-01T00:00:00Z</RetainUntilDate></Retention>";
    for version in versions(timed.as_ref(), "").into_iter().filter(|version| !version.is_marker) {
        let target = format!("/acme/db1/{}?retention&versionId={}", version.key, version.id);
        server.must("PUT", &target, &LIFTED, over);
    }
    let report = world.expire(0).unwrap();
    assert!(report.deleted.backups >= 1, "{report:?}");
    assert!(!world.is_there(first));
    for pack in record.packs.iter() {
        let left = versions(timed.as_ref(), layout::pack(pack.id).as_str());
        assert!(left.is_empty(), "every version is destroyed: {left:?}");
    }
}
