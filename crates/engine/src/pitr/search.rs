//! Looking for a transaction, a name or a time in a stretch of WAL, by headers first.

use std::collections::BTreeSet;
use std::path::PathBuf;

use refloat_repo::RepoError;
use refloat_types::{Lsn, Timestamp, WalSegmentName};

use super::events::{Event, What};
use super::path::Path;
use super::{ArchivedWal, boundary, reach};
use crate::wal::Archive;

/// So many WAL segments before a moment's are looked at for ones out of order.
const NEIGHBOURS: u64 = 3;

/// A stretch of WAL segments that is searched.
pub(super) struct Searched<'a> {
    pub(super) archive: &'a Archive,
    pub(super) path: &'a Path,
    pub(super) wal: &'a dyn ArchivedWal,
    /// First WAL segment.
    pub(super) first: u64,
    /// Last one of what is there without a gap: the record behind it is not whole.
    pub(super) end: u64,
}

impl Searched<'_> {
    pub(super) fn name(&self, number: u64) -> WalSegmentName {
        self.archive.name(self.path.file_of(number), number)
    }

    /// The first end of transaction `xid` at or behind `from`, in WAL segments up to `to`.
    pub(super) fn transaction(&self, xid: u32, from: Lsn, to: u64) -> Result<Option<Event>, RepoError> {
        for number in self.first..=to.min(self.end) {
            let head = self.wal.head(self.name(number))?;
            let facts = &head.facts.wal;
            // Ids go round: compared by distance from the oldest.
            let within =
                |(oldest, newest): (u32, u32)| xid.wrapping_sub(oldest) <= newest.wrapping_sub(oldest);
            if facts.xid_min.zip(facts.xid_max).is_some_and(within) {
                let events = self.wal.events(self.name(number))?;
                if let Some(event) = events.into_iter().find(|event| event.ends(xid) && event.at >= from) {
                    return Ok(Some(event));
                }
            }
            if number < self.end && boundary::may_end_transaction(&head) {
                let event = self.wal.boundary(&head, self.name(number + 1))?;
                if let Some(event) = event.filter(|event| event.ends(xid) && event.at >= from) {
                    return Ok(Some(event));
                }
            }
        }
        Ok(None)
    }

    /// The first restore point of this name that ends behind `from`, in WAL segments up to `to`: its end.
    pub(super) fn restore_point(&self, name: &str, from: Lsn, to: u64) -> Result<Option<Lsn>, RepoError> {
        for number in self.first..=to.min(self.end) {
            let head = self.wal.head(self.name(number))?;
            if head.facts.restore_points > 0 {
                let points = self.wal.restore_points(self.name(number))?;
                let found = points.into_iter().find(|point| point.name == name && point.lsn > from);
                if let Some(point) = found {
                    return Ok(Some(point.lsn));
                }
                if head.facts.wal.truncated {
                    let events = self.wal.events(self.name(number))?;
                    let found = events.into_iter().find(|event| event.is_named(name) && event.end > from);
                    if let Some(event) = found {
                        return Ok(Some(event.end));
                    }
                }
            }
            if number < self.end && boundary::may_be_restore_point(&head) {
                let event = self.wal.boundary(&head, self.name(number + 1))?;
                if let Some(event) = event.filter(|event| event.is_named(name) && event.end > from) {
                    return Ok(Some(event.end));
                }
            }
        }
        Ok(None)
    }

    /// Directories in which replay makes tablespaces, from `from` up to `to`. Headers tell which WAL segments to read:
    /// few hold any.
    pub(super) fn tablespaces(&self, from: Lsn, to: Lsn) -> Result<Vec<PathBuf>, RepoError> {
        let mut found = BTreeSet::new();
        let mut keep = |event: Event| match event.what {
            What::Tablespace { path } if event.at >= from && event.at <= to => {
                found.insert(path);
            }
            _ => {}
        };
        for number in self.first..=self.end {
            let head = self.wal.head(self.name(number))?;
            if head.facts.wal.tablespaces > 0 {
                self.wal.events(self.name(number))?.into_iter().for_each(&mut keep);
            }
            if number < self.end && boundary::may_make_tablespace(&head) {
                self.wal.boundary(&head, self.name(number + 1))?.into_iter().for_each(&mut keep);
            }
        }
        Ok(found.into_iter().collect())
    }

    /// The WAL segment in which the record begins of the first transaction end that is behind the target, by its time:
    /// where recovery stops. There must be one. Times are taken to be in order but for moments.
    pub(super) fn first_behind(&self, behind: &dyn Fn(Timestamp) -> bool) -> Result<u64, RepoError> {
        let (mut low, mut high) = (self.first, self.end);
        while low < high {
            let middle = low + (high - low) / 2;
            // The last time that is known at or before the middle.
            let mut number = middle;
            let known = loop {
                let found = self.last_end(number)?;
                if found.is_some() || number == low {
                    break found;
                }
                number -= 1;
            };
            if known.is_some_and(behind) {
                high = number;
            } else {
                low = middle + 1;
            }
        }
        // Moments out of order may have put an earlier one on the other side of a boundary.
        let mut number = low;
        let lowest = self.first.max(low.saturating_sub(NEIGHBOURS));
        while number > lowest {
            number -= 1;
            if self.last_end(number)?.is_some_and(behind) {
                low = number;
            }
        }
        Ok(low)
    }

    /// The last time in a WAL segment that a transaction ended.
    fn last_end(&self, number: u64) -> Result<Option<Timestamp>, RepoError> {
        reach::last_end(self.wal, &|n| self.name(n), number, number < self.end)
    }

    /// Whether that first transaction end of WAL segment `number` ends in the next one only.
    pub(super) fn spans(&self, number: u64, behind: &dyn Fn(Timestamp) -> bool) -> Result<bool, RepoError> {
        let head = self.wal.head(self.name(number))?;
        Ok(number < self.end && !head.facts.wal.last_commit.is_some_and(behind))
    }
}
