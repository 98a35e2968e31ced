//! A store in memory, for tests that want speed or an imitation of a lesser store.

use std::collections::BTreeMap;
use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use refloat_store::{Features, Key, ObjectInfo, ObjectWriter, Space, Store, StoreError, StoreErrorKind};
use refloat_types::{Clock, SystemClock, Timestamp};

type Objects = BTreeMap<Key, (Vec<u8>, Timestamp)>;

/// Objects in memory. A clone is another handle to the same store.
#[derive(Clone)]
pub struct Memory {
    objects: Arc<Mutex<Objects>>,
    features: Features,
    clock: Arc<dyn Clock>,
}

impl Default for Memory {
    fn default() -> Self {
        let features = Features { create_new: true, durable: true, consistent_list: true };
        Self { objects: Arc::default(), features, clock: Arc::new(SystemClock) }
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
        objects.insert(key.clone(), (body.to_vec(), self.clock.now()));
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
        self.lock().remove(key);
        Ok(())
    }

    fn features(&self) -> Features {
        self.features
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        Ok(None)
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
