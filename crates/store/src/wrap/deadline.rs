//! A store that answers in time, or says that it does not.
//!
//! A call on a dead NFS mount cannot be interrupted; it can be left alone. Each call runs on a thread of its own and is
//! abandoned when its time is over: the caller goes on with `Unreachable`, the thread ends when the kernel lets it. An
//! abandoned write may still take effect, as a lost answer over a network would.
//!
//! Whether a store answers at all can be found out sooner than how long it takes for much: until its first answer calls can
//! have a shorter time.

use std::io;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use refloat_types::{Timestamp, Wait};

use super::threads::{NoAnswer, Threads, wait};
use crate::{
    BucketSettings, Features, Immutability, Key, ObjectInfo, ObjectWriter, Readiness, Space, Store,
    StoreError, StoreErrorKind, Version,
};

/// How long calls may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Any call; while listing, the time between two batches.
    pub call: Duration,
    /// The same for calls that begin before this store has answered anything, where that is less.
    pub first: Duration,
    /// Calls that move bytes get the time these take at this rate on top; 0 for none.
    pub bytes_per_second: u64,
    /// Most calls under way at once, hanging ones included; more are refused as `Unreachable`.
    pub calls: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { call: Duration::from_secs(30), first: Duration::MAX, bytes_per_second: 1 << 20, calls: 128 }
    }
}

/// Puts a deadline on every call to `S`.
#[derive(Debug)]
pub struct Deadline<S> {
    inner: Arc<S>,
    threads: Arc<Threads>,
    limits: Limits,
    /// There was an answer.
    has_answered: AtomicBool,
}

/// Objects handed over at once while listing.
const BATCH: usize = 256;

impl<S: Store + 'static> Deadline<S> {
    /// Wraps `inner`.
    pub fn new(inner: S, limits: Limits) -> Self {
        let (threads, has_answered) = (Arc::new(Threads::new(limits.calls)), AtomicBool::new(false));
        Self { inner: Arc::new(inner), threads, limits, has_answered }
    }

    /// How long a call that begins now may take.
    fn time_for(&self, bytes: u64) -> Duration {
        let time = self.limits.time_for(bytes);
        if self.has_answered.load(Ordering::Relaxed) { time } else { time.min(self.limits.first) }
    }

    /// Any answer counts that is one of the store: a refusal too.
    fn hear<T>(&self, answer: &Result<T, StoreError>) {
        if answer.as_ref().err().is_none_or(StoreError::is_answer) {
            self.has_answered.store(true, Ordering::Relaxed);
        }
    }

    fn run<T: Send + 'static>(
        &self,
        (action, object): (&'static str, &str),
        bytes: u64,
        call: impl FnOnce(&S) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let time = self.time_for(bytes);
        let answer = self.threads.run(time, move || call(&inner));
        let answer = answer.unwrap_or_else(|no| Err(no_answer(no, action, object, self.describe(), time)));
        self.hear(&answer);
        answer
    }

    /// Hands over what `list` delivers, in batches; each batch has the time of a call.
    fn stream<T: Send + 'static>(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(T) -> ControlFlow<()>,
        list: impl Fn(&S, &str, &mut dyn FnMut(T) -> ControlFlow<()>) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        enum Step<T> {
            Objects(Vec<T>),
            End(Result<(), StoreError>),
        }
        let mut time = self.time_for(0);
        let fail = |no, time| no_answer(no, "list", prefix, self.describe(), time);
        let (send, receive) = sync_channel(2);
        let (inner, owned) = (Arc::clone(&self.inner), prefix.to_owned());
        let walk = move || {
            let mut batch = Vec::with_capacity(BATCH);
            let result = list(&inner, &owned, &mut |object| {
                batch.push(object);
                if batch.len() < BATCH {
                    return ControlFlow::Continue(());
                }
                // Refused when the caller has seen enough, or has given up.
                match send.send(Step::Objects(std::mem::replace(&mut batch, Vec::with_capacity(BATCH)))) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            });
            let _ = send.send(Step::Objects(batch));
            let _ = send.send(Step::End(result));
        };
        self.threads.start(walk).map_err(|no| fail(no, time))?;
        loop {
            match wait(&receive, time).map_err(|no| fail(no, time))? {
                Step::End(result) => {
                    self.hear(&result);
                    return result;
                }
                // The last batch, before the end, may be empty, and is no answer.
                Step::Objects(objects) if objects.is_empty() => {}
                Step::Objects(objects) => {
                    self.hear(&Ok(()));
                    time = self.limits.call;
                    if objects.into_iter().any(|object| each(object).is_break()) {
                        return Ok(());
                    }
                }
            }
        }
    }
}

impl Limits {
    fn time_for(&self, bytes: u64) -> Duration {
        self.call.saturating_add(Duration::from_secs(bytes.checked_div(self.bytes_per_second).unwrap_or(0)))
    }
}

fn no_answer(no: NoAnswer, action: &'static str, object: &str, store: &str, time: Duration) -> StoreError {
    let source = match no {
        NoAnswer::Late => io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {}", Wait(time))),
        NoAnswer::Died => io::Error::other("the call died; this is a bug in Refloat"),
        NoAnswer::NotStarted(error) => error,
    };
    StoreError::from_io(action, object, store, source)
}

impl<S: Store + 'static> Store for Deadline<S> {
    fn describe(&self) -> &str {
        self.inner.describe()
    }

    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        // Copied: an abandoned call still reads these bytes when the caller has long dropped them.
        let (owned_key, owned) = (key.clone(), body.to_vec());
        self.run(("create", key.as_str()), body.len() as u64, move |s| s.put_new(&owned_key, &owned))
    }

    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let owned = key.clone();
        let writer = self.run(("create", key.as_str()), 0, move |s| s.create(&owned))?;
        Ok(Box::new(DeadlineWriter {
            inner: Some(writer),
            buffer: Vec::new(),
            unsynced: 0,
            key: key.clone(),
            store: self.describe().to_owned(),
            threads: Arc::clone(&self.threads),
            limits: self.limits,
        }))
    }

    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let owned = key.clone();
        let length = range.end.saturating_sub(range.start);
        let mut got = self.run(("read", key.as_str()), length, move |s| {
            let mut got = Vec::new();
            s.read(&owned, range, &mut got).map(|()| got)
        })?;
        if into.is_empty() && into.capacity() < got.len() {
            *into = got;
        } else {
            into.append(&mut got);
        }
        Ok(())
    }

    fn read_small(&self, key: &Key, limit: u64) -> Result<Vec<u8>, StoreError> {
        let owned = key.clone();
        self.run(("read", key.as_str()), limit, move |s| s.read_small(&owned, limit))
    }

    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        let owned = key.clone();
        self.run(("sync", key.as_str()), 0, move |s| s.settle(&owned))
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        let owned = key.clone();
        self.run(("look up", key.as_str()), 0, move |s| s.head(&owned))
    }

    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.stream(prefix, each, |inner, prefix, each| inner.list(prefix, each))
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let owned = key.clone();
        self.run(("delete", key.as_str()), 0, move |s| s.delete(&owned))
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        self.run(("measure the space of", ""), 0, Store::space)
    }

    fn clear_abandoned(&self, is_ours: fn(&Key) -> bool) -> Result<u64, StoreError> {
        self.run(("clean", ""), 0, move |inner| inner.clear_abandoned(is_ours))
    }

    fn immutability(&self) -> Result<Immutability, StoreError> {
        self.run(("look at the locks of", ""), 0, Store::immutability)
    }

    fn bucket_settings(&self) -> Result<Option<BucketSettings>, StoreError> {
        self.run(("look at the settings of", ""), 0, Store::bucket_settings)
    }

    fn lock_end(&self, key: &Key, version: Option<&str>) -> Result<Option<Timestamp>, StoreError> {
        let (owned, version) = (key.clone(), version.map(str::to_owned));
        self.run(("look at the lock of", key.as_str()), 0, move |s| s.lock_end(&owned, version.as_deref()))
    }

    fn extend_lock(&self, key: &Key, until: Timestamp) -> Result<(), StoreError> {
        let owned = key.clone();
        self.run(("lock", key.as_str()), 0, move |s| s.extend_lock(&owned, until))
    }

    fn versions(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Version) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.stream(prefix, each, |inner, prefix, each| inner.versions(prefix, each))
    }

    fn destroy(&self, key: &Key, version: &str) -> Result<(), StoreError> {
        let (owned, version) = (key.clone(), version.to_owned());
        self.run(("destroy", key.as_str()), 0, move |s| s.destroy(&owned, &version))
    }

    fn list_cold(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Key) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.stream(prefix, each, |inner, prefix, each| inner.list_cold(prefix, each))
    }

    fn readiness(&self, key: &Key) -> Result<Readiness, StoreError> {
        let owned = key.clone();
        self.run(("look at the class of", key.as_str()), 0, move |s| s.readiness(&owned))
    }
}

/// The writer travels to a thread with each piece and comes back with the answer; one that does not come back in time is
/// dropped over there, which leaves nothing visible.
struct DeadlineWriter {
    inner: Option<Box<dyn ObjectWriter>>,
    /// Carries the bytes over, used again.
    buffer: Vec<u8>,
    /// Bytes that finishing may have to wait for.
    unsynced: u64,
    key: Key,
    store: String,
    threads: Arc<Threads>,
    limits: Limits,
}

impl DeadlineWriter {
    fn fail(&self, no: NoAnswer, time: Duration) -> StoreError {
        no_answer(no, "create", self.key.as_str(), &self.store, time)
    }
    fn take(&mut self) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.inner.take().ok_or_else(|| {
            let source = io::Error::other("an earlier write was not answered");
            StoreError::new(StoreErrorKind::Other, "create", self.key.as_str(), &self.store, source)
        })
    }
}

impl ObjectWriter for DeadlineWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let mut inner = self.take()?;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.extend_from_slice(bytes);
        let time = self.limits.time_for(bytes.len() as u64);
        let answer = self.threads.run(time, move || {
            let result = inner.write(&buffer);
            (inner, buffer, result)
        });
        let (inner, buffer, result) = answer.map_err(|no| self.fail(no, time))?;
        self.inner = Some(inner);
        self.buffer = buffer;
        self.unsynced += bytes.len() as u64;
        result
    }

    fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        let inner = self.take()?;
        let time = self.limits.time_for(self.unsynced);
        let answer = self.threads.run(time, move || inner.finish());
        answer.unwrap_or_else(|no| Err(self.fail(no, time)))
    }
}

impl Drop for DeadlineWriter {
    fn drop(&mut self) {
        // Removing the unfinished object may hang as anything else may.
        if let Some(inner) = self.inner.take() {
            let _ = self.threads.run(self.limits.call, move || drop(inner));
        }
    }
}
