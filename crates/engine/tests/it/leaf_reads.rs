//! How often the threads of an incremental backup read the map leaves of the parent.

use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex};

use refloat_engine::backup::{self, Wanted};
use refloat_store::{Features, Key, ObjectInfo, ObjectWriter, Space, Store, StoreError};
use refloat_testkit::cluster::TestCluster;

use crate::backup::{contents, encrypted, home, record, reopened, request};

/// What was read, and where of it.
type Reads = Arc<Mutex<Vec<(Key, Range<u64>)>>>;

/// A store that notes what is read of packs.
struct Counting {
    inner: Arc<dyn Store>,
    reads: Reads,
}

impl Store for Counting {
    fn describe(&self) -> &str {
        self.inner.describe()
    }
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.inner.put_new(key, body)
    }
    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.inner.create(key)
    }
    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        if key.as_str().starts_with("packs/") {
            self.reads.lock().expect("no panic").push((key.clone(), range.clone()));
        }
        self.inner.read(key, range, into)
    }
    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.settle(key)
    }
    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        self.inner.head(key)
    }
    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.list(prefix, each)
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
}

#[test]
fn leaves_of_neighbours_are_read_together() {
    let cluster = TestCluster::builder().setting("autovacuum", "off").build();
    // Two segments of a relation, a gigabyte each, all zeros: only their map is stored, 256 KiB for each 256 MiB.
    for name in ["base/5/99001", "base/5/99001.1"] {
        let path = cluster.data_directory().join(name);
        let file = std::fs::File::create(&path).expect("creates");
        file.set_len(1 << 30).expect("grows");
        cluster.owner().give(&path);
    }
    let home = home(encrypted());
    let mut asked = request(&cluster, &home);
    asked.jobs = 4;
    let full = backup::run(&asked).expect("a backup");
    let reads = Reads::default();
    let counting = Counting { inner: Arc::clone(home.repository.store()), reads: Arc::clone(&reads) };
    let counted = reopened(&home, Arc::new(counting));
    let mut again = request(&cluster, &home);
    again.repository = &counted;
    again.jobs = 4;
    again.wanted = Wanted::Incr;
    let incr = backup::run(&again).expect("a backup");
    assert_eq!(incr.parent, Some(full.backup));
    // 64 whole ranges, eight to a frame, and the small files: about ten frames of leaves, beside some pieces of the
    // manifest. Each thread used to read nearly every one.
    let reads = reads.lock().unwrap();
    let mut different = reads.clone();
    different.sort_by_key(|(key, range)| (key.clone(), range.start));
    different.dedup();

    assert!(different.len() >= 10, "{different:?}");
    assert!(reads.len() <= 3 * different.len(), "{} reads of {} frames", reads.len(), different.len());
    assert!(contents(&home, &record(&home, &incr)).len() > 800);
}
