//! A timeline and its past: which file holds which part of it.
//!
//! A new timeline begins in the middle of a WAL segment, and its first file begins with a copy of its parent's. So the
//! WAL segment in which a fork lies is taken from the newer timeline, as PostgreSQL does.
//!
//! PostgreSQL: `XLogFileReadAnyTLI` in `src/backend/access/transam/xlogrecovery.c`.

use refloat_pg::history::TimelineHistory;
use refloat_repo::commit::ClusterPoint;
use refloat_types::{Lsn, TimelineId, WalSegmentSize};

/// WAL segments with numbers `first..=last`, all in files of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leg {
    pub(super) timeline: TimelineId,
    pub(super) first: u64,
    /// `u64::MAX` for the newest timeline, which has no end.
    pub(super) last: u64,
}

/// A timeline with its history.
#[derive(Debug, Clone)]
pub(super) struct Path {
    history: TimelineHistory,
    size: WalSegmentSize,
}

impl Path {
    pub(super) const fn new(history: TimelineHistory, size: WalSegmentSize) -> Self {
        Self { history, size }
    }

    /// The timeline it leads to.
    pub(super) const fn timeline(&self) -> TimelineId {
        self.history.timeline()
    }

    /// Whether it descends from this timeline, or is it.
    pub(super) fn includes(&self, timeline: TimelineId) -> bool {
        self.history.includes(timeline)
    }

    /// Whether a backup lies on it, from its start to its stop: only then can it be recovered along it.
    ///
    /// PostgreSQL refuses a start that is not in the history, and a minimum recovery point beyond the fork.
    pub(super) fn holds(&self, backup: &ClusterPoint) -> bool {
        let ends_in_time = self.history.fork_of(backup.timeline).is_none_or(|fork| backup.stop_lsn <= fork);
        self.history.contains(backup.timeline, backup.start_lsn) && ends_in_time
    }

    /// The timeline whose file holds this WAL segment: that of the segment's last byte.
    pub(super) fn file_of(&self, number: u64) -> TimelineId {
        let bytes = self.size.bytes();
        let last = number.saturating_mul(bytes).saturating_add(bytes - 1);
        self.history.timeline_at(Lsn(last))
    }

    /// The way from a WAL segment to the end of time.
    pub(super) fn legs(&self, from: u64) -> Vec<Leg> {
        let mut forks: Vec<u64> =
            self.history.forks().iter().map(|fork| fork.at.0 / self.size.bytes()).collect();
        forks.sort_unstable();
        let mut legs: Vec<Leg> = Vec::new();
        let mut first = from;
        for fork in forks.into_iter().filter(|fork| *fork > from) {
            if fork > first && self.file_of(fork) != self.file_of(first) {
                legs.push(Leg { timeline: self.file_of(first), first, last: fork - 1 });
                first = fork;
            }
        }
        legs.push(Leg { timeline: self.file_of(first), first, last: u64::MAX });
        legs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn path(text: &str, timeline: u32) -> Path {
        Path::new(TimelineHistory::parse(tli(timeline), text.as_bytes()).unwrap(), WalSegmentSize::DEFAULT)
    }

    #[test]
    fn a_fork_lies_in_the_newer_file() {
        // Timeline 2 begins within WAL segment 5, timeline 3 exactly where WAL segment 7 does.
        let path = path("1\t0/5000098\t\n\n2\t0/7000000\t\n", 3);
        let legs = path.legs(3);
        let plain: Vec<_> = legs.iter().map(|leg| (leg.timeline.get(), leg.first, leg.last)).collect();
        assert_eq!(plain, [(1, 3, 4), (2, 5, 6), (3, 7, u64::MAX)]);
        assert_eq!(path.legs(6).len(), 2);
        for number in 0..12 {
            let leg = path.legs(0).into_iter().find(|leg| (leg.first..=leg.last).contains(&number)).unwrap();
            assert_eq!(leg.timeline, path.file_of(number));
        }
    }

    #[test]
    fn two_forks_in_one_segment_leave_only_the_newest() {
        let path = path("1\t0/5000098\t\n\n2\t0/5000200\t\n", 3);
        let plain: Vec<_> =
            path.legs(4).iter().map(|leg| (leg.timeline.get(), leg.first, leg.last)).collect();
        assert_eq!(plain, [(1, 4, 4), (3, 5, u64::MAX)]);
    }
}
