//! What several wrappers have in common: something is asked before each call and told its result.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use refloat_types::Timestamp;

use crate::{
    BucketSettings, Features, Immutability, Key, ObjectInfo, ObjectWriter, Readiness, Space, Store,
    StoreError, Version,
};

/// What a call moves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moves {
    /// Bytes to the store.
    pub sent: u64,
    /// Bytes from the store.
    pub received: u64,
}

/// Stands before and behind each call.
pub trait Gate: Send + Sync + 'static {
    /// Held while the call runs.
    type Pass;
    /// Lets a call through, after whatever wait.
    ///
    /// # Errors
    /// Why it is not made, in words; it becomes `Unreachable`.
    fn enter(&self, moves: Moves) -> Result<Self::Pass, std::io::Error>;
    /// Hears how a call that was let through ended.
    fn leave(&self, pass: Self::Pass, error: Option<&StoreError>);
    /// Lets a call through that uses the store again while it runs, so it holds nothing.
    ///
    /// # Errors
    /// As for [`Gate::enter`].
    fn glance(&self) -> Result<(), std::io::Error> {
        Ok(())
    }
    /// Hears how such a call ended.
    fn hear(&self, error: Option<&StoreError>) {
        let _ = error;
    }
}

/// A store behind a gate.
#[derive(Debug)]
pub struct Around<S, G> {
    inner: S,
    gate: Arc<G>,
}

impl<S: Store, G: Gate> Around<S, G> {
    /// Wraps `inner`.
    pub fn new(inner: S, gate: Arc<G>) -> Self {
        Self { inner, gate }
    }

    fn call<T>(
        &self,
        about: (&'static str, &str),
        moves: Moves,
        call: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        through(&*self.gate, self.inner.describe(), about, moves, call)
    }
}

impl<S: Store, G: Gate> Around<S, G> {
    fn walk(&self, prefix: &str, call: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.gate.glance().map_err(|why| {
            StoreError::new(crate::StoreErrorKind::Unreachable, "list", prefix, self.describe(), why)
        })?;
        let result = call();
        self.gate.hear(result.as_ref().err());
        result
    }
}

fn through<G: Gate, T>(
    gate: &G,
    store: &str,
    (action, object): (&'static str, &str),
    moves: Moves,
    call: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let refused = |why| StoreError::new(crate::StoreErrorKind::Unreachable, action, object, store, why);
    let pass = gate.enter(moves).map_err(refused)?;
    let result = call();
    gate.leave(pass, result.as_ref().err());
    result
}

const NOTHING: Moves = Moves { sent: 0, received: 0 };

const fn sends(bytes: usize) -> Moves {
    Moves { sent: bytes as u64, received: 0 }
}

impl<S: Store, G: Gate> Store for Around<S, G> {
    fn describe(&self) -> &str {
        self.inner.describe()
    }

    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.call(("create", key.as_str()), sends(body.len()), || self.inner.put_new(key, body))
    }

    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let inner = self.call(("create", key.as_str()), NOTHING, || self.inner.create(key))?;
        let (gate, store) = (Arc::clone(&self.gate), self.describe().to_owned());
        Ok(Box::new(AroundWriter { inner, gate, store, key: key.clone() }))
    }

    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let moves = Moves { sent: 0, received: range.end.saturating_sub(range.start) };
        self.call(("read", key.as_str()), moves, || self.inner.read(key, range, into))
    }

    fn stream(
        &self,
        key: &Key,
        range: Range<u64>,
        each: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let moves = Moves { sent: 0, received: range.end.saturating_sub(range.start) };
        self.call(("read", key.as_str()), moves, || self.inner.stream(key, range, each))
    }

    /// How much it was is known only afterwards: it is paid for then.
    fn read_small(&self, key: &Key, limit: u64) -> Result<Vec<u8>, StoreError> {
        let about = ("read", key.as_str());
        let body = self.call(about, NOTHING, || self.inner.read_small(key, limit))?;
        self.call(about, Moves { sent: 0, received: body.len() as u64 }, || Ok(body))
    }

    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        self.call(("sync", key.as_str()), NOTHING, || self.inner.settle(key))
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        self.call(("look up", key.as_str()), NOTHING, || self.inner.head(key))
    }

    /// `each` may call this store again, so nothing is held while it runs.
    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.walk(prefix, || self.inner.list(prefix, each))
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.call(("delete", key.as_str()), NOTHING, || self.inner.delete(key))
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        self.call(("measure the space of", ""), NOTHING, || self.inner.space())
    }

    fn clear_abandoned(&self, is_ours: fn(&Key) -> bool) -> Result<u64, StoreError> {
        self.call(("clean", ""), NOTHING, || self.inner.clear_abandoned(is_ours))
    }

    fn immutability(&self) -> Result<Immutability, StoreError> {
        self.call(("look at", ""), NOTHING, || self.inner.immutability())
    }

    fn bucket_settings(&self) -> Result<Option<BucketSettings>, StoreError> {
        self.call(("look at", ""), NOTHING, || self.inner.bucket_settings())
    }

    fn lock_end(&self, key: &Key, version: Option<&str>) -> Result<Option<Timestamp>, StoreError> {
        self.call(("look up", key.as_str()), NOTHING, || self.inner.lock_end(key, version))
    }

    fn extend_lock(&self, key: &Key, until: Timestamp) -> Result<(), StoreError> {
        self.call(("lock", key.as_str()), NOTHING, || self.inner.extend_lock(key, until))
    }

    /// As [`Around::list`].
    fn versions(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Version) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.walk(prefix, || self.inner.versions(prefix, each))
    }

    fn destroy(&self, key: &Key, version: &str) -> Result<(), StoreError> {
        self.call(("delete", key.as_str()), NOTHING, || self.inner.destroy(key, version))
    }

    /// As [`Around::list`].
    fn list_cold(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Key) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.walk(prefix, || self.inner.list_cold(prefix, each))
    }

    fn readiness(&self, key: &Key) -> Result<Readiness, StoreError> {
        self.call(("look up", key.as_str()), NOTHING, || self.inner.readiness(key))
    }
}

struct AroundWriter<G> {
    inner: Box<dyn ObjectWriter>,
    gate: Arc<G>,
    store: String,
    key: Key,
}

impl<G: Gate> ObjectWriter for AroundWriter<G> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let (about, inner) = (("create", self.key.as_str()), &mut self.inner);
        through(&*self.gate, &self.store, about, sends(bytes.len()), || inner.write(bytes))
    }
    fn finish(self: Box<Self>) -> Result<(), StoreError> {
        let Self { inner, gate, store, key } = *self;
        through(&*gate, &store, ("create", key.as_str()), NOTHING, || inner.finish())
    }
}
