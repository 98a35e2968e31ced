//! Where exactly replay should end: behind the last transaction before the target, not within the next one.
//!
//! PostgreSQL stops for a time, or just before a transaction, at a transaction's end, when everything that transaction
//! did has been replayed: its locks are held while recovery is paused, files it removed are gone. Between the last
//! transaction's end before that and it nothing happened that anybody was told of, so replay can end there just as well.
//!
//! PostgreSQL: `recoveryStopsBefore` and `recoveryStopsAfter` in `src/backend/access/transam/xlogrecovery.c`: a position
//! with `recovery_target_inclusive` stops behind the first record that begins there or later.

use refloat_repo::RepoError;
use refloat_types::{Lsn, Timestamp};

use super::boundary;
use super::events::Event;
use super::search::Searched;

/// Bytes of WAL without the end of a transaction that are read at most for prepared ones. Beyond that the target stays
/// as it is.
const BUDGET: u64 = 1 << 30;
/// What each WAL segment that is opened for it counts on top.
const OPENING: u64 = 1 << 20;

/// What an exact stop is looked for.
pub(super) struct Edge<'a> {
    /// Whether a moment lies behind the target.
    pub(super) behind: &'a dyn Fn(Timestamp) -> bool,
    /// Nothing before this counts: the backup's end, before which it is not consistent.
    pub(super) from: Lsn,
}

impl Searched<'_> {
    /// The first transaction end that is behind the target; it begins in WAL segment `number`, by its times.
    pub(super) fn stopper(&self, edge: &Edge<'_>, number: u64) -> Result<Option<Event>, RepoError> {
        let stops = |event: &Event| {
            event.is_transaction_end() && event.at >= edge.from && event.time.is_some_and(edge.behind)
        };
        let found = self.wal.events(self.name(number))?.into_iter().find(|event| stops(event));
        Ok(match found {
            Some(event) => Some(event),
            None => self.crossing(number)?.filter(stops),
        })
    }

    /// The last record that begins before `stopper` and ends a transaction, or prepares one not behind the target.
    /// `None` as well where too much would have to be read for it.
    pub(super) fn last_before(&self, edge: &Edge<'_>, stopper: Lsn) -> Result<Option<Event>, RepoError> {
        let kept = |event: &Event| {
            let early = event.is_transaction_end() || !event.time.is_some_and(edge.behind);
            event.is_promise() && event.at >= edge.from && event.at < stopper && early
        };
        let lowest = self.archive.number(edge.from).max(self.first);
        let mut left = BUDGET;
        for number in (lowest..=self.archive.number(stopper).min(self.end)).rev() {
            if let Some(event) = self.crossing(number)?.filter(kept) {
                return Ok(Some(event));
            }
            let head = self.wal.head(self.name(number))?;
            // Facts count ends of transactions, not prepared ones: those have to be looked for.
            if head.facts.wal.last_commit.is_none() {
                match left.checked_sub(head.facts.valid_bytes.saturating_add(OPENING)) {
                    Some(rest) => left = rest,
                    None => return Ok(None),
                }
            }
            if let Some(event) = self.wal.events(self.name(number))?.into_iter().rev().find(kept) {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The record that begins in WAL segment `number` and ends in the next, when it ends or prepares a transaction.
    fn crossing(&self, number: u64) -> Result<Option<Event>, RepoError> {
        if number >= self.end {
            return Ok(None);
        }
        let head = self.wal.head(self.name(number))?;
        if !boundary::may_be_promise(&head) {
            return Ok(None);
        }
        self.wal.boundary(&head, self.name(number + 1))
    }
}
