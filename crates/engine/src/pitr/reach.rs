//! How far the archive leads along a path: to its end, or to the first gap.

use std::fmt;

use refloat_repo::RepoError;
use refloat_types::{Lsn, TimelineId, Timestamp, WalSegmentName};

use super::boundary;
use super::path::{Leg, Path};
use super::{ArchivedWal, SegmentHead};
use crate::wal::Archive;
use crate::wal::archive::SegmentRange;

/// WAL that is missing, or stored with different bytes, before WAL that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// What cannot be replayed.
    pub range: SegmentRange,
    /// It is stored, twice, with different bytes.
    pub disputed: bool,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.disputed { "is stored with different bytes" } else { "is missing" };
        write!(f, "{} {what}", self.range)
    }
}

/// The end of what can be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// End of the last whole record.
    pub lsn: Lsn,
    /// Beginning of the last whole record, where it is known.
    pub last_record: Option<Lsn>,
    /// The timeline of the file it is in.
    pub timeline: TimelineId,
    /// The last moment a transaction is known to have ended.
    pub last_commit: Option<Timestamp>,
    /// The last moment the cluster is known to have been recorded up to: that, or when its last WAL was stored.
    pub alive: Option<Timestamp>,
}

/// A stretch of WAL segments without a gap, along a path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    pub(super) first: u64,
    pub(super) last: u64,
    /// What ends it, unless it is the end of the archive.
    pub(super) gap: Option<Gap>,
}

/// The stretch from WAL segment `from` on; `Err` when that one itself cannot be had (with the gap, if later ones can).
pub(super) fn stretch(archive: &Archive, path: &Path, from: u64) -> Result<Stretch, Option<Gap>> {
    let legs = path.legs(from);
    let mut good = None;
    for (index, leg) in legs.iter().enumerate() {
        let stored = archive.timelines.get(&leg.timeline);
        let end = stored.and_then(|stored| {
            let run = stored.segments.run_end(leg.first)?.min(leg.last);
            match stored.disputed.next_at_or_after(leg.first) {
                Some(disputed) if disputed <= run => disputed.checked_sub(1).filter(|end| *end >= leg.first),
                _ => Some(run),
            }
        });
        good = end.or(good);
        if end == Some(leg.last) && leg.last != u64::MAX {
            continue;
        }
        let broken = end.map_or(leg.first, |end| end.saturating_add(1));
        let gap = gap_at(archive, path, broken, &legs[index..]);
        return match good {
            Some(last) => Ok(Stretch { first: from, last, gap }),
            None => Err(gap),
        };
    }
    Err(None)
}

/// What is wrong with WAL segment `broken`, the first that cannot be had, if anything behind it on the way is stored.
fn gap_at(archive: &Archive, path: &Path, broken: u64, legs: &[Leg]) -> Option<Gap> {
    let gap = |last: u64, disputed| {
        let name = |number| archive.name(path.file_of(number), number);
        let range = SegmentRange { first: name(broken), last: name(last), count: last - broken + 1 };
        Some(Gap { range, disputed })
    };
    for leg in legs {
        let from = broken.max(leg.first);
        let Some(stored) = archive.timelines.get(&leg.timeline) else { continue };
        if let Some(end) = stored.disputed.run_end(broken).filter(|_| from == broken) {
            return gap(end.min(leg.last), true);
        }
        match stored.segments.next_at_or_after(from) {
            Some(next) if next <= leg.last && next > broken => return gap(next - 1, false),
            _ => {}
        }
    }
    None
}

/// Commits are in order of time but for moments; so many WAL segments with commits are looked at for the last one.
const COMMIT_FILES: usize = 2;

/// What the last WAL segments of a stretch tell. Nothing before `lowest` is asked for commits.
pub(super) fn reached(
    archive: &Archive,
    path: &Path,
    wal: &dyn ArchivedWal,
    stretch: &Stretch,
    lowest: u64,
) -> Result<Reached, RepoError> {
    let name = |number: u64| archive.name(path.file_of(number), number);
    let end = wal.head(name(stretch.last))?;
    let facts = &end.facts.wal;
    let whole = name(stretch.last).end(archive.segment_size);
    let lsn = match (end.facts.version, facts.last_record_end) {
        (None, _) => whole,
        (Some(_), Some(end)) => end,
        // It holds nothing but the middle of one long record.
        (Some(_), None) => name(stretch.last).start(archive.segment_size),
    };
    let last_record = match facts.unfinished_tail {
        None => facts.last_record,
        // The last one begins here and is not whole; the last whole one is not told.
        Some(_) => None,
    };
    let mut last_commit = None;
    let mut files = 0;
    let mut number = stretch.last;
    while files < COMMIT_FILES && number >= lowest.max(stretch.first) {
        let found = last_end(wal, &name, number, number < stretch.last)?;
        if found.is_some() {
            last_commit = last_commit.max(found);
            files += 1;
        }
        match number.checked_sub(1) {
            Some(before) => number = before,
            None => break,
        }
    }
    let alive = last_commit.max(end.facts.last_time()).max(Some(end.stored));
    Ok(Reached { lsn, last_record, timeline: end.name.timeline, last_commit, alive })
}

/// The last time in a WAL segment that a transaction ended, its record on the boundary to the next one included.
pub(super) fn last_end(
    wal: &dyn ArchivedWal,
    name: &dyn Fn(u64) -> WalSegmentName,
    number: u64,
    has_next: bool,
) -> Result<Option<Timestamp>, RepoError> {
    let head: SegmentHead = wal.head(name(number))?;
    let mut last = head.facts.wal.last_commit;
    if has_next && boundary::may_end_transaction(&head) {
        let event = wal.boundary(&head, name(number + 1))?;
        last = last.max(event.filter(|event| event.is_transaction_end()).and_then(|event| event.time));
    }
    Ok(last)
}
