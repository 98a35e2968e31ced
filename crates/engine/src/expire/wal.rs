//! Which WAL is needed.
//!
//! A backup inside the window of its source, or of a source without one, needs all WAL from its start on, along every
//! timeline that can be reached from it. An older backup that stays needs the span from its start to its end, and the
//! WAL segment behind it, which PostgreSQL may ask for when it has become consistent. History files always stay: they
//! are small, and say what came from where. What was stored lately stays whatever the judgement, because a backup that
//! is not committed yet may need it.

use std::collections::BTreeMap;
use std::time::Duration;

use refloat_repo::commit::ClusterPoint;
use refloat_store::Key;
use refloat_types::{
    Lsn, SystemIdentifier, TimelineId, Timestamp, WalFileName, WalSegmentName, WalSegmentSize,
};

use super::facts::Facts;

/// WAL is never deleted before it is this old, by the store's clock.
pub const YOUNGEST_WAL: Duration = Duration::from_secs(48 * 3600);

/// A backup that stays.
#[derive(Debug, Clone)]
pub(super) struct Kept<'a> {
    pub(super) point: &'a ClusterPoint,
    /// Everything from its start on is needed.
    pub(super) in_window: bool,
}

/// What becomes of the WAL of one timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalVerdict {
    /// The cluster.
    pub system: SystemIdentifier,
    /// The timeline.
    pub timeline: TimelineId,
    /// WAL files that stay.
    pub kept: u64,
    /// The first WAL segment from which on nothing is missing on purpose.
    pub kept_from: Option<WalSegmentName>,
    /// Stretches that go: first and last WAL segment, and how many files.
    pub goes: Vec<(WalSegmentName, WalSegmentName, u64)>,
    /// Bytes in the store that go.
    pub bytes: u64,
}

/// What goes of the WAL of one cluster.
#[derive(Debug, Default)]
pub(super) struct WalJudged {
    pub(super) goes: Vec<(Key, u64)>,
    /// WAL segments among them, by timeline and number.
    pub(super) numbers: Vec<(TimelineId, u64)>,
    pub(super) verdicts: Vec<WalVerdict>,
}

/// The WAL segment that a file belongs to; none for a history file.
fn segment_of(name: WalFileName) -> Option<WalSegmentName> {
    match name {
        WalFileName::Segment(segment)
        | WalFileName::Partial(segment)
        | WalFileName::BackupHistory(segment, _) => Some(segment),
        WalFileName::History(_) => None,
    }
}

/// What is needed of a cluster.
pub(super) struct Need<'a> {
    facts: &'a Facts,
    system: SystemIdentifier,
    size: WalSegmentSize,
    kept: Vec<Kept<'a>>,
    /// The newest timeline that an owner of this cluster is on.
    owner: Option<TimelineId>,
    /// No source is this cluster any more.
    is_former: bool,
    /// Stored before this it may go.
    before: Timestamp,
}

impl<'a> Need<'a> {
    /// What these backups need; `None` when that cannot be told, and all WAL stays.
    pub(super) fn new(
        facts: &'a Facts,
        system: SystemIdentifier,
        kept: Vec<Kept<'a>>,
        window: Duration,
    ) -> Option<Self> {
        let is_former = facts.former.contains_key(&system);
        let size = match kept.first() {
            Some(first) => first.point.wal_segment_size,
            // Numbers are compared with nothing then.
            None if is_former => WalSegmentSize::DEFAULT.bytes() as u32,
            None => return None,
        };
        // Changed by pg_resetwal: numbers would mean different things.
        if kept.iter().any(|kept| kept.point.wal_segment_size != size) {
            return None;
        }
        let owners = facts.owners.values().filter(|owner| owner.system == system);
        let mut before = facts.store_now.checked_sub(window.max(YOUNGEST_WAL)).ok()?;
        match facts.oldest_backup() {
            None => {}
            Some(began) => before = before.min(began?.checked_sub(Duration::from_secs(3600)).ok()?),
        }
        let owner = owners.map(|owner| owner.timeline).max();
        Some(Self { facts, system, size: WalSegmentSize::new(size)?, kept, owner, is_former, before })
    }

    fn number(&self, lsn: Lsn) -> u64 {
        lsn.0 / self.size.bytes()
    }

    /// Whether some kept backup needs this number on whichever timeline: its own span, and one behind.
    fn in_a_span(&self, number: u64) -> bool {
        self.kept.iter().any(|kept| {
            let first = self.number(kept.point.start_lsn);
            let last = self.number(Lsn(kept.point.stop_lsn.0.saturating_sub(1)).max(kept.point.start_lsn));
            number >= first && number <= last.saturating_add(1)
        })
    }

    /// The number from which on this timeline is needed; `None` when nothing reaches it.
    fn from(&self, timeline: TimelineId) -> Option<u64> {
        let history = self.facts.history(self.system, timeline);
        let reaches = |from: TimelineId| match &history {
            _ if from == timeline => true,
            Some(history) => history.includes(from),
            None => true,
        };
        let members = self.kept.iter().filter(|kept| kept.in_window && reaches(kept.point.timeline));
        let from = members.map(|kept| self.number(kept.point.start_lsn)).min();
        let is_present = match (&history, self.owner) {
            // Nobody writes it now, and nobody will come back to it by an archived way.
            _ if self.is_former => false,
            (None, _) => true,
            // Whoever writes now, or came later, has a right to its WAL before its first backup.
            (Some(history), Some(owner)) => timeline >= owner || history.includes(owner),
            (Some(_), None) => true,
        };
        match from {
            Some(from) if history.is_some() => Some(from),
            // Where it comes from is not known: a fork may lie anywhere.
            Some(_) => Some(0),
            None if is_present => Some(0),
            None => None,
        }
    }

    /// Judges all WAL of the cluster.
    pub(super) fn judge(&self) -> WalJudged {
        let mut judged = WalJudged::default();
        let mut timelines: BTreeMap<TimelineId, Vec<(u64, bool, u64)>> = BTreeMap::new();
        let mut from: BTreeMap<TimelineId, Option<u64>> = BTreeMap::new();
        for file in self.facts.wal.get(&self.system).into_iter().flatten() {
            let Some(segment) = segment_of(file.name) else { continue };
            let number = segment.number(self.size);
            let low = *from.entry(segment.timeline).or_insert_with(|| self.from(segment.timeline));
            let needed = low.is_some_and(|low| number >= low) || self.in_a_span(number);
            let goes = !needed && file.created < self.before;
            if goes {
                judged.goes.push((file.key.clone(), file.size));
                if matches!(file.name, WalFileName::Segment(_)) {
                    judged.numbers.push((segment.timeline, number));
                }
            }
            if !matches!(file.name, WalFileName::BackupHistory(..)) {
                timelines.entry(segment.timeline).or_default().push((number, goes, file.size));
            }
        }
        for (timeline, files) in timelines {
            judged.verdicts.push(self.verdict(timeline, files));
        }
        judged
    }

    fn verdict(&self, timeline: TimelineId, mut files: Vec<(u64, bool, u64)>) -> WalVerdict {
        files.sort_unstable();
        let name = |number| WalSegmentName::numbered(timeline, number, self.size);
        let mut verdict = WalVerdict {
            system: self.system,
            timeline,
            kept: 0,
            kept_from: None,
            goes: Vec::new(),
            bytes: 0,
        };
        let (mut before, mut went) = (None::<u64>, false);
        for (number, goes, size) in files {
            let follows = before.is_some_and(|before| number <= before.saturating_add(1));
            if goes {
                verdict.bytes += size;
                verdict.kept_from = None;
                match verdict.goes.last_mut().filter(|_| went && follows) {
                    Some(stretch) => (stretch.1, stretch.2) = (name(number), stretch.2 + 1),
                    None => verdict.goes.push((name(number), name(number), 1)),
                }
            } else {
                verdict.kept += 1;
                if verdict.kept_from.is_none() || !follows {
                    verdict.kept_from = Some(name(number));
                }
            }
            (before, went) = (Some(number), goes);
        }
        verdict
    }
}

/// The backups with which a window begins, on every timeline on which something happened in it: the newest that ended
/// before, or where there is none, the oldest; and the oldest inside, with which it will begin.
pub(super) fn bases<'a>(
    facts: &Facts,
    system: SystemIdentifier,
    backups: &[&'a refloat_repo::commit::Commit],
    owner: Option<TimelineId>,
    cutoff: Timestamp,
) -> Vec<&'a refloat_repo::commit::Commit> {
    let mut timelines: std::collections::BTreeSet<TimelineId> = owner.into_iter().collect();
    let of_it = |commit: &&&refloat_repo::commit::Commit| commit.cluster.system == system;
    let recent = backups.iter().filter(of_it).filter(|commit| commit.cluster.stop_time > cutoff);
    timelines.extend(recent.map(|commit| commit.cluster.timeline));
    for file in facts.wal.get(&system).into_iter().flatten() {
        if let Some(segment) = segment_of(file.name)
            && file.created >= cutoff
        {
            timelines.insert(segment.timeline);
        }
    }
    let mut out = Vec::new();
    for timeline in timelines {
        let history = facts.history(system, timeline);
        let lies_on = |point: &ClusterPoint| match &history {
            _ if point.timeline == timeline => true,
            None => point.timeline < timeline,
            Some(history) => {
                history.contains(point.timeline, point.start_lsn)
                    && history.fork_of(point.timeline).is_none_or(|fork| point.stop_lsn <= fork)
            }
        };
        let mut on_it: Vec<_> =
            backups.iter().filter(of_it).filter(|c| lies_on(&c.cluster)).copied().collect();
        on_it.sort_by_key(|commit| (commit.number, commit.backup));
        let before = on_it.iter().rev().find(|commit| commit.cluster.stop_time <= cutoff);
        out.extend(before.or(on_it.first()).copied());
        // The next to begin with: without it the window would begin with the same backup for ever, and keep all WAL from
        // there on.
        out.extend(on_it.iter().find(|commit| commit.cluster.stop_time > cutoff).copied());
    }
    out
}
