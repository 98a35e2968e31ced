//! What is archived of a cluster: which WAL segments of which timelines, with gaps, forks and conflicts.
//!
//! One list of the cluster's WAL, and one small read for each history file. Memory grows with gaps, not with WAL
//! segments.

mod names;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;

use refloat_pg::history::TimelineHistory;
use refloat_repo::repository::StoredWal;
use refloat_repo::{RepoError, Repository, layout};
use refloat_types::{Lsn, SystemIdentifier, TimelineId, WalFileName, WalSegmentName, WalSegmentSize};

use super::facts::ArchivedFacts;
use super::runs::Runs;

pub use names::SegmentRange;

/// What a repository holds of a cluster's WAL.
#[derive(Debug, Clone)]
pub struct Archive {
    /// The cluster.
    pub system: SystemIdentifier,
    /// Size of its WAL segments; the usual one while none is stored.
    pub segment_size: WalSegmentSize,
    /// Every timeline that something is stored of.
    pub timelines: BTreeMap<TimelineId, TimelineArchive>,
}

/// What is stored of one timeline.
#[derive(Debug, Clone, Default)]
pub struct TimelineArchive {
    /// Numbers of the WAL segments that are stored.
    pub segments: Runs,
    /// Unfinished last files.
    pub partials: BTreeSet<WalSegmentName>,
    /// Where it comes from.
    pub history: History,
    /// Files that are stored more than once, with different bytes. Their WAL segments are in `segments` too.
    pub conflicts: BTreeSet<String>,
    /// Numbers of WAL segments in conflict: nobody can say which bytes are right.
    pub disputed: Runs,
    /// Bytes in the store.
    pub stored_bytes: u64,
}

/// Where a timeline comes from.
#[derive(Debug, Clone, Default)]
pub enum History {
    /// No file says it. That is right for timeline 1 only.
    #[default]
    Unknown,
    /// As its file says.
    Known(TimelineHistory),
    /// Two files contradict each other.
    Disputed,
    /// Its file cannot be read; why.
    Unreadable(String),
}

/// What a stretch of WAL lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// WAL segments that are not stored.
    pub segments: Vec<SegmentRange>,
    /// WAL segments that are stored with different bytes.
    pub disputed: Vec<SegmentRange>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        names::list(f, "missing: ", &self.segments)?;
        if !self.segments.is_empty() && !self.disputed.is_empty() {
            f.write_str("; ")?;
        }
        names::list(f, "stored with different bytes: ", &self.disputed)
    }
}

impl Archive {
    /// Reads what `repository` holds of `system`. `size` spares a read where it is known (from a backup).
    ///
    /// # Errors
    /// When the store cannot list.
    pub fn read(
        repository: &Repository,
        system: SystemIdentifier,
        size: Option<WalSegmentSize>,
    ) -> Result<Self, RepoError> {
        let size = match size {
            Some(size) => size,
            None => any_segment_size(repository, system)?.unwrap_or(WalSegmentSize::DEFAULT),
        };
        let mut archive = Self { system, segment_size: size, timelines: BTreeMap::new() };
        let mut histories: Vec<StoredWal> = Vec::new();
        let mut small: BTreeSet<String> = BTreeSet::new();
        repository.list_cluster_wal(system, &mut |stored| {
            archive.add(&stored, &mut small);
            if matches!(stored.name, WalFileName::History(_)) {
                histories.push(stored);
            }
            ControlFlow::Continue(())
        })?;
        for stored in histories {
            archive.read_history(repository, &stored);
        }
        Ok(archive)
    }

    fn add(&mut self, stored: &StoredWal, small: &mut BTreeSet<String>) {
        let size = self.segment_size;
        let of = match stored.name {
            WalFileName::Segment(segment)
            | WalFileName::Partial(segment)
            | WalFileName::BackupHistory(segment, _) => segment.timeline,
            WalFileName::History(timeline) => timeline,
        };
        let timeline = self.timelines.entry(of).or_default();
        timeline.stored_bytes = timeline.stored_bytes.saturating_add(stored.size);
        let is_new = match stored.name {
            WalFileName::Segment(segment) => timeline.segments.insert(segment.number(size)),
            other => small.insert(other.to_string()),
        };
        match stored.name {
            WalFileName::Partial(segment) => {
                timeline.partials.insert(segment);
            }
            WalFileName::Segment(segment) if !is_new => {
                timeline.disputed.insert(segment.number(size));
            }
            _ => {}
        }
        // How far a server had come on a timeline that it left differs from one to the next, and no recovery reads it.
        if !is_new && !matches!(stored.name, WalFileName::Partial(_)) {
            timeline.conflicts.insert(stored.name.to_string());
        }
    }

    fn read_history(&mut self, repository: &Repository, stored: &StoredWal) {
        let WalFileName::History(of) = stored.name else { return };
        let Some(timeline) = self.timelines.get_mut(&of) else { return };
        timeline.history = if timeline.conflicts.contains(&stored.name.to_string()) {
            History::Disputed
        } else {
            match repository.read_wal_head(stored) {
                Err(error) => History::Unreadable(error.to_string()),
                Ok(head) => match ArchivedFacts::read(&head.clear.facts).history_of(of) {
                    Some(history) => History::Known(history),
                    None => History::Unreadable("its header does not tell its forks".to_owned()),
                },
            }
        };
    }

    /// The history of a timeline; for timeline 1, that it has none.
    pub fn history(&self, timeline: TimelineId) -> Option<TimelineHistory> {
        match self.timelines.get(&timeline).map(|t| &t.history) {
            Some(History::Known(history)) => Some(history.clone()),
            Some(History::Disputed | History::Unreadable(_)) => None,
            Some(History::Unknown) | None => {
                (timeline == TimelineId::FIRST).then(|| TimelineHistory::without_parent(timeline))
            }
        }
    }

    /// The number of the WAL segment that holds the byte at `lsn`.
    pub fn number(&self, lsn: Lsn) -> u64 {
        lsn.0 / self.segment_size.bytes()
    }

    /// The name of a WAL segment.
    pub fn name(&self, timeline: TimelineId, number: u64) -> WalSegmentName {
        WalSegmentName::numbered(timeline, number, self.segment_size)
    }

    /// Whether all WAL from `start` to `stop` on `timeline` is stored, and nobody disputes it.
    ///
    /// # Errors
    /// Exactly what is missing.
    pub fn contains(&self, start: Lsn, stop: Lsn, timeline: TimelineId) -> Result<(), Missing> {
        let (first, last) = (self.number(start), self.number(Lsn(stop.0.saturating_sub(1)).max(start)));
        let empty = TimelineArchive::default();
        let stored = self.timelines.get(&timeline).unwrap_or(&empty);
        Missing::between(stored, first, last, &|number| self.name(timeline, number))
    }

    /// What is missing between the first and the last WAL segment of each timeline.
    pub fn gaps(&self) -> Vec<SegmentRange> {
        let of = |(timeline, stored): (&TimelineId, &TimelineArchive)| {
            let range = |(first, last)| SegmentRange {
                first: self.name(*timeline, first),
                last: self.name(*timeline, last),
                count: last - first + 1,
            };
            stored.segments.gaps().into_iter().map(range).collect::<Vec<_>>()
        };
        self.timelines.iter().flat_map(of).collect()
    }
}

impl Missing {
    fn between(
        stored: &TimelineArchive,
        first: u64,
        last: u64,
        name: &dyn Fn(u64) -> WalSegmentName,
    ) -> Result<(), Self> {
        let range =
            |(first, last)| SegmentRange { first: name(first), last: name(last), count: last - first + 1 };
        let segments: Vec<_> = stored.segments.missing(first, last).into_iter().map(range).collect();
        let within = |(a, b): (u64, u64)| (a.max(first) <= b.min(last)).then(|| (a.max(first), b.min(last)));
        let disputed: Vec<_> = stored.disputed.iter().filter_map(within).map(range).collect();
        if segments.is_empty() && disputed.is_empty() { Ok(()) } else { Err(Self { segments, disputed }) }
    }
}

/// Whether `repository` holds all WAL from `start` to `stop` on `timeline`, without listing the rest of the archive: what
/// a backup asks before it commits. `Some` says exactly what is missing.
///
/// # Errors
/// When the store cannot list.
pub fn missing(
    repository: &Repository,
    system: SystemIdentifier,
    timeline: TimelineId,
    start: Lsn,
    stop: Lsn,
    size: WalSegmentSize,
) -> Result<Option<Missing>, RepoError> {
    let mut archive = Archive { system, segment_size: size, timelines: BTreeMap::new() };
    let mut small = BTreeSet::new();
    let last = archive.number(Lsn(stop.0.saturating_sub(1)).max(start));
    let mut number = archive.number(start);
    while number <= last {
        // All of one directory at once.
        let name = archive.name(timeline, number).to_string();
        let prefix = format!("{}{}/{}", layout::wal_of_timeline(system, timeline), &name[8..16], &name[..16]);
        repository.store().list(&prefix, &mut |info| {
            if let Some((name, digest)) = layout::parse_wal(&info.key) {
                archive.add(&StoredWal { key: info.key, name, digest, size: info.size }, &mut small);
            }
            ControlFlow::Continue(())
        })?;
        number = (number / size.per_log() + 1) * size.per_log();
    }
    Ok(archive.contains(start, stop, timeline).err())
}

/// Size of the WAL segments of a timeline, as one of them says; `None` when none is stored.
pub(super) fn segment_size(
    repository: &Repository,
    system: SystemIdentifier,
    timeline: TimelineId,
) -> Result<Option<WalSegmentSize>, RepoError> {
    let mut some = Vec::new();
    repository.list_timeline(system, timeline, &mut |stored| some_segments(stored, &mut some))?;
    size_of(repository, &some)
}

fn any_segment_size(
    repository: &Repository,
    system: SystemIdentifier,
) -> Result<Option<WalSegmentSize>, RepoError> {
    let mut some = Vec::new();
    repository.list_cluster_wal(system, &mut |stored| some_segments(stored, &mut some))?;
    size_of(repository, &some)
}

/// A few, so that one that is damaged does not hide the size.
fn some_segments(stored: StoredWal, some: &mut Vec<StoredWal>) -> ControlFlow<()> {
    if matches!(stored.name, WalFileName::Segment(_) | WalFileName::Partial(_)) {
        some.push(stored);
    }
    if some.len() < 8 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}

fn size_of(repository: &Repository, some: &[StoredWal]) -> Result<Option<WalSegmentSize>, RepoError> {
    let mut failed = None;
    for stored in some {
        match repository.read_wal_head(stored) {
            Ok(head) => {
                let size = ArchivedFacts::read(&head.clear.facts).segment.and_then(|segment| segment.size());
                if size.is_some() {
                    return Ok(size);
                }
            }
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(None), Err)
}
