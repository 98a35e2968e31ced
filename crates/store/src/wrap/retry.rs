//! A store that asks again.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use refloat_types::Timestamp;

use crate::confirm::same_content;
use crate::{
    BucketSettings, Features, Immutability, Key, ObjectInfo, ObjectWriter, Readiness, Space, Store,
    StoreError, StoreErrorKind, Version,
};

/// How long and how often a call is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Mean pause before the second attempt; doubles with each.
    pub first: Duration,
    /// Longest mean pause.
    pub longest: Duration,
    /// Most attempts, the first included.
    pub attempts: u32,
    /// No attempt begins after this long; attempts under way are not cut short.
    pub budget: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(5),
            attempts: 6,
            budget: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// The pause after attempt `number` (from 1), half to one and a half of its mean, so that many who failed together
    /// do not come back together.
    pub(crate) fn pause(&self, number: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(number.saturating_sub(1).min(30));
        let mean = self.first.saturating_mul(doubled).min(self.longest);
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u32(number);
        let share = (hasher.finish() % 1024) as f64 / 1024.0;
        mean.mul_f64(0.5 + share)
    }

    /// Calls `attempt` with its number, from 1, until it answers or all is used up. The last error is the one returned.
    pub(crate) fn run<T>(&self, attempt: impl FnMut(u32) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.run_within(|| self.budget, attempt)
    }

    /// The same, where the budget is asked for after each attempt.
    fn run_within<T>(
        &self,
        budget: impl Fn() -> Duration,
        mut attempt: impl FnMut(u32) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        let mut number = 1;
        loop {
            let error = match attempt(number) {
                Err(error) if error.is_retryable() => error,
                other => return other,
            };
            let pause = self.pause(number).max(error.retry_after().unwrap_or_default());
            if number >= self.attempts || start.elapsed() + pause > budget() {
                return Err(error);
            }
            tracing::debug!(%error, cause = %error.source, attempt = number, "asking again");
            std::thread::sleep(pause);
            number += 1;
        }
    }
}

/// Makes calls to `S` again that failed in a way that may pass ([`StoreError::is_retryable`]).
#[derive(Debug)]
pub struct Retry<S> {
    inner: S,
    backoff: Backoff,
    /// The budget of calls that begin before the store has answered anything, where that is less.
    first: Duration,
    /// There was an answer.
    has_answered: AtomicBool,
}

impl<S: Store> Retry<S> {
    /// Wraps `inner`.
    pub const fn new(inner: S, backoff: Backoff) -> Self {
        Self { inner, backoff, first: Duration::MAX, has_answered: AtomicBool::new(false) }
    }

    /// Gives up sooner while the store has not answered anything: why it does not is then known before whoever asks gives up.
    #[must_use]
    pub fn with_first(mut self, first: Duration) -> Self {
        self.first = first;
        self
    }

    fn run<T>(&self, mut attempt: impl FnMut(u32) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let budget = || match self.has_answered.load(Ordering::Relaxed) {
            true => self.backoff.budget,
            false => self.backoff.budget.min(self.first),
        };
        self.backoff.run_within(budget, |number| {
            let result = attempt(number);
            if result.as_ref().err().is_none_or(StoreError::is_answer) {
                self.has_answered.store(true, Ordering::Relaxed);
            }
            result
        })
    }
}

impl<S: Store> Retry<S> {
    /// Lists again as long as nothing was delivered, so that nothing is delivered twice.
    fn run_list<T>(
        &self,
        each: &mut dyn FnMut(T) -> ControlFlow<()>,
        list: impl Fn(&mut dyn FnMut(T) -> ControlFlow<()>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut delivered = false;
        let mut failed_later = None;
        self.run(|_| {
            let result = list(&mut |one| {
                delivered = true;
                each(one)
            });
            match result {
                Err(error) if delivered => {
                    failed_later = Some(error);
                    Ok(())
                }
                other => other,
            }
        })?;
        failed_later.map_or(Ok(()), Err)
    }
}

impl<S: Store> Store for Retry<S> {
    fn describe(&self) -> &str {
        self.inner.describe()
    }

    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        let mut may_be_ours = false;
        self.run(|_| match self.inner.put_new(key, body) {
            // The attempt before this one may have taken effect without being answered.
            Err(error) if error.kind == StoreErrorKind::AlreadyExists && may_be_ours => {
                if same_content(&self.inner, key, body)? { self.inner.settle(key) } else { Err(error) }
            }
            other => {
                may_be_ours |= other.as_ref().is_err_and(StoreError::is_retryable);
                other
            }
        })
    }

    /// Only the beginning is repeated: pieces are not kept, so whoever writes repeats the whole object under a new name.
    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        self.run(|_| self.inner.create(key))
    }

    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let before = into.len();
        self.run(|_| {
            into.truncate(before);
            self.inner.read(key, range.clone(), into)
        })
    }

    /// What was given stays given: the next attempt asks for the rest.
    fn stream(
        &self,
        key: &Key,
        range: Range<u64>,
        each: &mut dyn FnMut(Vec<u8>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut rest = range;
        self.run(|_| {
            let mut given = 0;
            let result = self.inner.stream(key, rest.clone(), &mut |piece| {
                given += piece.len() as u64;
                each(piece)
            });
            rest.start += given;
            match result {
                // The last byte came, and the end was not said.
                Err(_) if given > 0 && rest.is_empty() => Ok(()),
                other => other,
            }
        })
    }

    fn read_small(&self, key: &Key, limit: u64) -> Result<Vec<u8>, StoreError> {
        self.run(|_| self.inner.read_small(key, limit))
    }

    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        self.run(|_| self.inner.settle(key))
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        self.run(|_| self.inner.head(key))
    }

    /// Repeated only while nothing was delivered, so that no object is delivered twice.
    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.run_list(each, |each| self.inner.list(prefix, each))
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.run(|_| self.inner.delete(key))
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        self.run(|_| self.inner.space())
    }

    fn clear_abandoned(&self, is_ours: fn(&Key) -> bool) -> Result<u64, StoreError> {
        self.run(|_| self.inner.clear_abandoned(is_ours))
    }

    fn immutability(&self) -> Result<Immutability, StoreError> {
        self.run(|_| self.inner.immutability())
    }

    fn bucket_settings(&self) -> Result<Option<BucketSettings>, StoreError> {
        self.run(|_| self.inner.bucket_settings())
    }

    fn lock_end(&self, key: &Key, version: Option<&str>) -> Result<Option<Timestamp>, StoreError> {
        self.run(|_| self.inner.lock_end(key, version))
    }

    fn extend_lock(&self, key: &Key, until: Timestamp) -> Result<(), StoreError> {
        self.run(|_| self.inner.extend_lock(key, until))
    }

    /// As [`Retry::list`]: repeated only while nothing was delivered.
    fn versions(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Version) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.run_list(each, |each| self.inner.versions(prefix, each))
    }

    fn destroy(&self, key: &Key, version: &str) -> Result<(), StoreError> {
        self.run(|_| self.inner.destroy(key, version))
    }

    /// As [`Retry::list`]: repeated only while nothing was delivered.
    fn list_cold(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Key) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.run_list(each, |each| self.inner.list_cold(prefix, each))
    }

    fn readiness(&self, key: &Key) -> Result<Readiness, StoreError> {
        self.run(|_| self.inner.readiness(key))
    }
}
