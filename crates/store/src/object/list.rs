//! Listing, page by page. A page that does not come is asked for again behind the last object that was delivered, so that
//! one answer that is lost costs a page and not the whole list.
//!
//! That needs the order in which all three kinds of store promise to list: by the bytes of the names. It is watched: a list
//! that went on and then turns out to have another order ends with the error that it met.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use opendal::options::ListOptions;
use opendal::{Entry, Lister};

use super::failure;
use super::transport::{ANSWER, Answer};
use super::{Inner, created};
use crate::{Backoff, Key, ObjectInfo, StoreError};

/// Objects handed over at once: as many as a page of S3 holds.
const BATCH: usize = 1000;

/// How often and how long a page is asked for again. The first page is not: whoever asked for the list does that.
pub(super) struct Again {
    backoff: Backoff,
    failures: u32,
    since: Instant,
}

impl Again {
    pub(super) fn new(call: Duration) -> Self {
        let backoff = Backoff { budget: call * 3, ..Backoff::default() };
        Self { backoff, failures: 0, since: Instant::now() }
    }

    /// A page has come with what had not come before: the next one has all attempts.
    pub(super) fn came(&mut self) {
        self.failures = 0;
        self.since = Instant::now();
    }

    /// A page has come once more, of a list that began anew: the way back to where it was costs no time, and gives no
    /// attempts back. Else a list that fails at the same page each time would go on for ever.
    fn passed_over(&mut self) {
        self.since = Instant::now();
    }

    /// Pauses before another attempt; `false` where none is to be made.
    pub(super) fn pause(&mut self, error: &StoreError) -> bool {
        self.failures += 1;
        let pause = self.backoff.pause(self.failures).max(error.retry_after().unwrap_or_default());
        let used_up =
            self.failures >= self.backoff.attempts || self.since.elapsed() + pause > self.backoff.budget;
        if !error.is_retryable() || used_up {
            return false;
        }
        tracing::debug!(%error, cause = %error.source, attempt = self.failures, "asking for a page again");
        std::thread::sleep(pause);
        true
    }
}

/// How far a list is.
#[derive(Default)]
struct Walk {
    /// The last name that came, delivered or not.
    last: Option<String>,
    /// A name came that is not behind the one before it.
    is_disordered: bool,
    /// The error behind which it went on.
    went_on: Option<StoreError>,
    has_renewed: bool,
}

impl Inner {
    /// Calls `each` for every object below `prefix`, once for each.
    pub(super) fn list(
        self: &Arc<Self>,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut again = Again::new(self.settings.patience.call);
        let mut walk = Walk::default();
        loop {
            let (error, expired) = match self.pass(prefix, &mut walk, &mut again, each) {
                Ok(ControlFlow::Break(())) => return Ok(()),
                Ok(ControlFlow::Continue(())) => break,
                Err(failed) => failed,
            };
            if walk.last.is_none() && !expired || walk.is_disordered {
                return Err(error);
            }
            if expired && !walk.has_renewed {
                walk.has_renewed = true;
                self.renew();
            } else if !again.pause(&error) {
                return Err(error);
            }
            if walk.last.is_some() {
                walk.went_on = Some(error);
            }
        }
        self.bucket_is_there.store(true, Ordering::Relaxed);
        match walk.went_on {
            Some(error) if walk.is_disordered => Err(error),
            _ => Ok(()),
        }
    }

    /// Lists from behind the last name to the end, or to the first page that does not come.
    fn pass(
        self: &Arc<Self>,
        prefix: &str,
        walk: &mut Walk,
        again: &mut Again,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, (StoreError, bool)> {
        let (about, limit) = (("list", prefix), self.limit(0));
        let behind = walk.last.clone();
        let operator = self.operator(prefix);
        // A store that cannot begin there begins anew, and what came before is passed over.
        let start_after = behind.clone().filter(|_| operator.info().capability().list_with_start_after);
        let path = prefix.to_owned();
        let mut next = Some(self.attempt(about, limit, async move {
            let options = ListOptions { recursive: true, start_after, ..ListOptions::default() };
            operator.lister_options(&path, options).await
        })?);
        let mut before: Option<String> = None;
        while let Some(lister) = next.take() {
            let (entries, rest) = self.attempt(about, limit, batch(lister))?;
            if !entries.is_empty() {
                again.passed_over();
            }
            let mut is_further = false;
            for entry in entries.iter().filter(|entry| !entry.path().ends_with('/')) {
                let name = entry.path();
                walk.is_disordered |= before.as_deref().is_some_and(|before| name <= before);
                before = Some(name.to_owned());
                if behind.as_deref().is_some_and(|behind| name <= behind) {
                    continue;
                }
                if !is_further {
                    is_further = true;
                    again.came();
                }
                walk.last = Some(name.to_owned());
                if let Some(object) = object(entry, prefix)
                    && each(object).is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
            }
            next = match rest {
                Rest::None => None,
                Rest::Some(lister) => Some(*lister),
                Rest::Lost(error, answer) => {
                    let expired = failure::is_expired(&error, &answer);
                    return Err((failure::sort("list", prefix, &self.url, &error, &answer), expired));
                }
            };
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// What is behind some objects.
enum Rest {
    None,
    Some(Box<Lister>),
    /// A page that did not come. What came before it is delivered.
    Lost(Box<opendal::Error>, Answer),
}

/// The next objects.
async fn batch(mut lister: Lister) -> opendal::Result<(Vec<Entry>, Rest)> {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        match lister.try_next().await {
            Ok(Some(entry)) => batch.push(entry),
            Ok(None) => return Ok((batch, Rest::None)),
            Err(error) if batch.is_empty() => return Err(error),
            Err(error) => {
                let answer =
                    ANSWER.with(|noted| noted.lock().unwrap_or_else(PoisonError::into_inner).clone());
                return Ok((batch, Rest::Lost(Box::new(error), answer)));
            }
        }
        if batch.len() == BATCH {
            return Ok((batch, Rest::Some(Box::new(lister))));
        }
    }
}

/// What an entry says of an object of ours.
fn object(entry: &Entry, prefix: &str) -> Option<ObjectInfo> {
    let key: Key = entry.path().parse().ok().filter(|_| entry.path().starts_with(prefix))?;
    let metadata = entry.metadata();
    Some(ObjectInfo { key, size: metadata.content_length(), created: created(metadata) })
}
