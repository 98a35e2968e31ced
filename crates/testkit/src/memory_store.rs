//! A store in memory, for tests that want speed or an imitation of a lesser store.

mod versions;

use std::collections::BTreeMap;
use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use refloat_store::{
    Features, Immutability, Key, ObjectInfo, ObjectWriter, Space, Store, StoreError, StoreErrorKind, Version,
};
use refloat_types::{Clock, SystemClock, Timestamp};

use versions::Versions;

type Objects = BTreeMap<Key, (Vec<u8>, Timestamp)>;

/// Objects in memory. A clone is another handle to the same store.
#[derive(Clone)]
pub struct Memory {
    objects: Arc<Mutex<Objects>>,
    /// What was ever there, where versions are kept.
    versions: Option<Arc<Mutex<Versions>>>,
    add_only: bool,
    features: Features,
    clock: Arc<dyn Clock>,
}

impl Default for Memory {
    fn default() -> Self {
        let features = Features { create_new: true, durable: true, consistent_list: true, remote: false };
        Self {
            objects: Arc::default(),
            versions: None,
            add_only: false,
            features,
            clock: Arc::new(SystemClock),
        }
    }
}

impl Memory {
    /// An empty store with every feature.
    pub fn new() -> Self {
        Self::default()
    }
    /// Imitates a store that replaces an existing object without a word.
    #[must_use]
    pub const fn overwriting(mut self) -> Self {
        self.features.create_new = false;
        self
    }
    /// Claims not to survive a power cut.
    #[must_use]
    pub const fn not_durable(mut self) -> Self {
        self.features.durable = false;
        self
    }
    /// Says that it is asked over a network.
    #[must_use]
    pub const fn remote(mut self) -> Self {
        self.features.remote = true;
        self
    }
    /// Keeps versions, each locked for so long from its creation.
    #[must_use]
    pub fn with_locks(mut self, period: Duration) -> Self {
        self.versions = Some(Arc::new(Mutex::new(Versions::new(period))));
        self
    }
    /// The same store, as credentials see it that may add and read, and neither delete nor extend a lock.
    #[must_use]
    pub fn add_only(&self) -> Self {
        Self { add_only: true, ..self.clone() }
    }
    /// Takes the time of objects from `clock`.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
    /// Changes the bytes of `key` in place, as rot does.
    ///
    /// # Panics
    /// When there is no such object.
    pub fn damage(&self, key: &Key, change: impl FnOnce(&mut Vec<u8>)) {
        let mut objects = self.lock();
        change(&mut objects.get_mut(key).expect("the object to be damaged exists").0);
    }

    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn versions_of(&self) -> Option<MutexGuard<'_, Versions>> {
        self.versions.as_ref().map(|versions| versions.lock().unwrap_or_else(PoisonError::into_inner))
    }
    fn may(&self, action: &'static str, key: &Key) -> Result<(), StoreError> {
        if self.add_only { Err(self.fail(StoreErrorKind::Denied, action, key)) } else { Ok(()) }
    }
    fn fail(&self, kind: StoreErrorKind, action: &'static str, key: &Key) -> StoreError {
        StoreError::new(
            kind,
            action,
            key.as_str(),
            self.describe(),
            io::Error::other("as the test store has it"),
        )
    }
}

impl Store for Memory {
    fn describe(&self) -> &str {
        "memory:"
    }

    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        let mut objects = self.lock();
        if self.features.create_new && objects.contains_key(key) {
            return Err(self.fail(StoreErrorKind::AlreadyExists, "create", key));
        }
        let now = self.clock.now();
        if let Some(mut versions) = self.versions_of() {
            versions.put(key, Some(body.to_vec()), now);
        }
        objects.insert(key.clone(), (body.to_vec(), now));
        Ok(())
    }

    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        Ok(Box::new(Buffered { store: self.clone(), key: key.clone(), body: Vec::new() }))
    }

    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let objects = self.lock();
        let (body, _) = objects.get(key).ok_or_else(|| self.fail(StoreErrorKind::NotFound, "read", key))?;
        if range.end > body.len() as u64 {
            return Err(self.fail(StoreErrorKind::Truncated, "read", key));
        }
        into.extend_from_slice(body.get(range.start as usize..range.end as usize).unwrap_or_default());
        Ok(())
    }

    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        let there = self.lock().contains_key(key);
        if there { Ok(()) } else { Err(self.fail(StoreErrorKind::NotFound, "sync", key)) }
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        Ok(self.lock().get(key).map(|object| describe(key, object)))
    }

    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        // A copy, so that `each` may use the store.
        let objects = self.lock();
        let matching = objects.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        let all: Vec<_> = matching.map(|(key, object)| describe(key, object)).collect();
        drop(objects);
        let _ = all.into_iter().try_for_each(each);
        Ok(())
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.may("delete", key)?;
        let was_there = self.lock().remove(key).is_some();
        if let (Some(mut versions), true) = (self.versions_of(), was_there) {
            versions.put(key, None, self.clock.now());
        }
        Ok(())
    }

    fn features(&self) -> Features {
        self.features
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        Ok(None)
    }

    fn immutability(&self) -> Result<Immutability, StoreError> {
        Ok(self.versions_of().map_or_else(Immutability::default, |versions| versions.immutability()))
    }

    fn lock_end(&self, key: &Key, version: Option<&str>) -> Result<Option<Timestamp>, StoreError> {
        let end = self.versions_of().and_then(|versions| versions.end(key, version));
        Ok(end.filter(|end| *end > self.clock.now()))
    }

    fn extend_lock(&self, key: &Key, until: Timestamp) -> Result<(), StoreError> {
        self.may("lock", key)?;
        let extended = self.versions_of().is_some_and(|mut versions| versions.extend(key, until));
        if extended { Ok(()) } else { Err(self.fail(StoreErrorKind::NotFound, "lock", key)) }
    }

    fn versions(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Version) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let all = self.versions_of().map(|versions| versions.list(prefix)).unwrap_or_default();
        let _ = all.into_iter().try_for_each(each);
        Ok(())
    }

    fn destroy(&self, key: &Key, version: &str) -> Result<(), StoreError> {
        self.may("destroy", key)?;
        let Some(mut versions) = self.versions_of() else { return Ok(()) };
        if !versions.destroy(key, version, self.clock.now()) {
            return Err(self.fail(StoreErrorKind::Denied, "destroy", key));
        }
        let shown = versions.shown(key);
        drop(versions);
        let mut objects = self.lock();
        match shown {
            Some(object) => objects.insert(key.clone(), object),
            None => objects.remove(key),
        };
        Ok(())
    }
}

fn describe(key: &Key, (body, created): &(Vec<u8>, Timestamp)) -> ObjectInfo {
    ObjectInfo { key: key.clone(), size: body.len() as u64, created: *created }
}

/// A writer that puts the whole object at the end.
pub(crate) struct Buffered<S> {
    pub(crate) store: S,
    pub(crate) key: Key,
    pub(crate) body: Vec<u8>,
}

impl<S: Store> ObjectWriter for Buffered<S> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.body.extend_from_slice(bytes);
        Ok(())
    }
    fn finish(self: Box<Self>) -> Result<(), StoreError> {
        self.store.put_new(&self.key, &self.body)
    }
}
