//! The store that follows a plan.

use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, PoisonError};

use refloat_store::{
    BucketSettings, Features, Immutability, Key, ObjectInfo, ObjectWriter, Readiness, Space, Store,
    StoreError, StoreErrorKind, Version,
};
use refloat_types::Timestamp;

use super::{Effect, FaultPlan, On};
use crate::memory_store::Buffered;

/// `S`, misbehaving as its plan says. A clone is another handle to the same store.
pub struct Faulty<S> {
    inner: Arc<S>,
    plan: FaultPlan,
    last_put: Arc<Mutex<Option<Key>>>,
}

impl<S> Clone for Faulty<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), plan: self.plan.clone(), last_put: Arc::clone(&self.last_put) }
    }
}

impl<S: Store + 'static> Faulty<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, plan: &FaultPlan) -> Self {
        Self { inner: Arc::new(inner), plan: plan.clone(), last_put: Arc::default() }
    }

    /// The store as it really is.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn fail(&self, kind: StoreErrorKind, action: &'static str, object: &str) -> StoreError {
        StoreError::new(kind, action, object, self.describe(), io::Error::other("as planned"))
    }

    /// What becomes of a call: the refusal, or the effect that is left to the caller.
    fn begin(&self, on: On, action: &'static str, object: &str) -> Result<Option<Effect>, StoreError> {
        match self.plan.decide(on, object) {
            Some(Effect::Refuse(kind)) => Err(self.fail(kind, action, object)),
            Some(Effect::Delay(time)) => {
                std::thread::sleep(time);
                Ok(None)
            }
            other => Ok(other),
        }
    }

    fn end<T>(
        &self,
        effect: Option<Effect>,
        action: &'static str,
        object: &str,
        answer: T,
    ) -> Result<T, StoreError> {
        if effect == Some(Effect::LoseAnswer) {
            return Err(self.fail(StoreErrorKind::Unreachable, action, object));
        }
        Ok(answer)
    }

    fn store(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        if !self.plan.take_space(body.len() as u64) {
            return Err(self.fail(StoreErrorKind::NoSpace, "create", key.as_str()));
        }
        self.inner.put_new(key, body).inspect_err(|_| self.plan.give_space_back(body.len() as u64))?;
        *self.last_put.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.clone());
        Ok(())
    }
}

/// Bytes of one piece of what is streamed: less than a frame, and no part of its size.
const PIECE: usize = 5000;

/// Flips a bit of the byte at `place`, modulo the length.
fn flip(bytes: &mut [u8], place: u64) {
    let length = (bytes.len() as u64).max(1);
    if let Some(byte) = bytes.get_mut((place % length) as usize) {
        *byte ^= 1;
    }
}

impl<S: Store + 'static> Store for Faulty<S> {
    fn describe(&self) -> &str {
        self.inner.describe()
    }

    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        let effect = self.begin(On::Put, "create", key.as_str())?;
        match effect {
            Some(Effect::Lie) => return Ok(()),
            Some(Effect::Truncate(length)) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX).min(body.len());
                self.store(key, &body[..length])?;
            }
            Some(Effect::Flip(place)) => {
                let mut wrong = body.to_vec();
                flip(&mut wrong, place);
                self.store(key, &wrong)?;
            }
            _ => self.store(key, body)?,
        }
        self.end(effect, "create", key.as_str(), ())
    }

    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        Ok(Box::new(Buffered { store: self.clone(), key: key.clone(), body: Vec::new() }))
    }

    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let effect = self.begin(On::Read, "read", key.as_str())?;
        let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
        match effect {
            Some(Effect::Lie) => {
                into.resize(into.len() + length, 0);
                return Ok(());
            }
            Some(Effect::Truncate(limit)) if range.end > limit => {
                return Err(self.fail(StoreErrorKind::Truncated, "read", key.as_str()));
            }
            _ => {}
        }
        let before = into.len();
        self.inner.read(key, range, into)?;
        if let Some(Effect::Flip(place)) = effect {
            flip(&mut into[before..], place);
        }
        self.end(effect, "read", key.as_str(), ())
    }

    /// Where the answer is lost, half of it came.
    fn stream(
        &self,
        key: &Key,
        range: Range<u64>,
        each: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut bytes = Vec::new();
        let result = self.read(key, range, &mut bytes);
        if result.is_err() {
            bytes.truncate(bytes.len() / 2);
        }
        for piece in bytes.chunks(PIECE) {
            if each(piece.to_vec()).is_break() {
                return Ok(());
            }
        }
        result
    }

    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        let effect = self.begin(On::Settle, "sync", key.as_str())?;
        if effect != Some(Effect::Lie) {
            self.inner.settle(key)?;
        }
        self.end(effect, "sync", key.as_str(), ())
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        let effect = self.begin(On::Head, "look up", key.as_str())?;
        if effect == Some(Effect::Lie) {
            return Ok(None);
        }
        let info = self.inner.head(key)?;
        self.end(effect, "look up", key.as_str(), info)
    }

    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let effect = self.begin(On::List, "list", prefix)?;
        let mut objects = Vec::new();
        if effect != Some(Effect::Lie) {
            self.inner.list(prefix, &mut |object| {
                objects.push(object);
                ControlFlow::Continue(())
            })?;
        }
        match effect {
            Some(Effect::Reverse) => objects.reverse(),
            Some(Effect::Lag) => {
                let last = self.last_put.lock().unwrap_or_else(PoisonError::into_inner).clone();
                objects.retain(|object| Some(&object.key) != last.as_ref());
            }
            // The connection is lost in the middle.
            Some(Effect::LoseAnswer) => objects.truncate(objects.len() / 2),
            _ => {}
        }
        let _ = objects.into_iter().try_for_each(each);
        self.end(effect, "list", prefix, ())
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let effect = self.begin(On::Delete, "delete", key.as_str())?;
        if effect != Some(Effect::Lie) {
            let size = self.inner.head(key)?.map_or(0, |info| info.size);
            self.inner.delete(key)?;
            self.plan.give_space_back(size);
        }
        self.end(effect, "delete", key.as_str(), ())
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        let effect = self.begin(On::Space, "measure the space of", "")?;
        let space = self.inner.space()?;
        self.end(effect, "measure the space of", "", space)
    }

    fn clear_abandoned(&self, is_ours: fn(&Key) -> bool) -> Result<u64, StoreError> {
        let effect = self.begin(On::Clear, "clean", "")?;
        let cleared = if effect == Some(Effect::Lie) { 0 } else { self.inner.clear_abandoned(is_ours)? };
        self.end(effect, "clean", "", cleared)
    }

    fn immutability(&self) -> Result<Immutability, StoreError> {
        self.inner.immutability()
    }

    fn bucket_settings(&self) -> Result<Option<BucketSettings>, StoreError> {
        self.inner.bucket_settings()
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
        self.inner.versions(prefix, each)
    }

    fn destroy(&self, key: &Key, version: &str) -> Result<(), StoreError> {
        self.inner.destroy(key, version)
    }

    fn list_cold(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Key) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.list_cold(prefix, each)
    }

    fn readiness(&self, key: &Key) -> Result<Readiness, StoreError> {
        self.inner.readiness(key)
    }
}
