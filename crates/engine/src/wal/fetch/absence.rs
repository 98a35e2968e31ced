//! Is a file that is not there simply not written yet, or was it lost?

use std::ops::ControlFlow;

use refloat_repo::{RepoError, Repository, layout};
use refloat_types::{SystemIdentifier, TimelineId, WalFileName, WalSegmentName};

use super::error::Hole;
use crate::wal::archive;
use crate::wal::facts::ArchivedFacts;

/// So many numbers of timelines in a row without a history file end the search for later ones.
const UNKNOWN_TIMELINES: u32 = 2;

/// Why the absence of `name` from `repository`, which answered that it has none, is a hole; `None` when it is none.
///
/// # Errors
/// When the repository cannot tell.
pub(super) fn hole(
    repository: &Repository,
    system: SystemIdentifier,
    name: WalFileName,
) -> Result<Option<Hole>, RepoError> {
    match name {
        WalFileName::Segment(segment) => {
            let Some(later) = later_segment(repository, system, segment)? else {
                return left_later(repository, system, segment);
            };
            let precedes = precedes_timeline(repository, system, segment)?;
            Ok((!precedes).then_some(Hole::Later(later)))
        }
        WalFileName::History(timeline) if timeline != TimelineId::FIRST => {
            Ok(any_wal(repository, system, timeline)?.map(Hole::NoHistory))
        }
        // Timeline 1 has no history; no recovery depends on the others.
        WalFileName::History(_) | WalFileName::Partial(_) | WalFileName::BackupHistory(..) => Ok(None),
    }
}

/// Any stored WAL of a timeline, whole or partial.
fn any_wal(
    repository: &Repository,
    system: SystemIdentifier,
    timeline: TimelineId,
) -> Result<Option<WalFileName>, RepoError> {
    let mut found = None;
    repository.list_timeline(system, timeline, &mut |stored| match stored.name {
        WalFileName::Segment(_) | WalFileName::Partial(_) => {
            found = Some(stored.name);
            ControlFlow::Break(())
        }
        WalFileName::History(_) | WalFileName::BackupHistory(..) => ControlFlow::Continue(()),
    })?;
    Ok(found)
}

/// A WAL segment of the same timeline that is later than `segment`.
///
/// A standby asks for the segment after the last one every few seconds, so this never lists a whole timeline: it lists
/// what begins like the name and goes on with a greater digit, for each digit of the name from the last to the first.
fn later_segment(
    repository: &Repository,
    system: SystemIdentifier,
    segment: WalSegmentName,
) -> Result<Option<WalSegmentName>, RepoError> {
    let file = segment.to_string();
    let (log, rest) = (&file[8..16], &file[16..24]);
    let timeline = layout::wal_of_timeline(system, segment.timeline);
    let within = format!("{timeline}{log}/{}{log}", &file[..8]);
    let greater = |digits: &str, at: usize| {
        let digit = digits[at..=at].to_owned();
        let start = digits[..at].to_owned();
        let all = "0123456789ABCDEF".chars().filter(move |c| c.to_string() > digit);
        all.map(move |c| format!("{start}{c}"))
    };
    // Only the last two or three digits vary within a directory, whatever the size of WAL segments; zeros lead.
    let same_directory = (0..8).rev().flat_map(|at| greater(rest, at)).map(|rest| format!("{within}{rest}"));
    // Directories of greater numbers; a leading part of the name is enough to find them.
    let directories = (0..8).rev().flat_map(|at| greater(log, at)).map(|log| format!("{timeline}{log}"));
    for prefix in same_directory.chain(directories) {
        let mut found = None;
        repository.store().list(&prefix, &mut |info| match layout::parse_wal(&info.key) {
            // An unfinished one too: it was written after what is asked for.
            Some((WalFileName::Segment(later) | WalFileName::Partial(later), _)) if later > segment => {
                found = Some(later);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// A later timeline that was forked off behind `segment`, and has WAL: then this one went on at least that far. A timeline
/// that was left inside of the segment has no whole one: PostgreSQL archives it as `.partial`, and what comes before the
/// fork begins the next timeline's file.
///
/// Timelines are asked for by their numbers, as PostgreSQL looks for the newest: a few calls, however much is stored.
fn left_later(
    repository: &Repository,
    system: SystemIdentifier,
    segment: WalSegmentName,
) -> Result<Option<Hole>, RepoError> {
    let mut unknown = 0;
    let later = (segment.timeline.get() + 1..).map_while(TimelineId::new);
    for timeline in later {
        let stored = repository.find_wal(system, WalFileName::History(timeline))?;
        unknown = if stored.is_empty() { unknown + 1 } else { 0 };
        if unknown > UNKNOWN_TIMELINES {
            break;
        }
        for stored in stored {
            let facts = ArchivedFacts::read(&repository.read_wal_head(&stored)?.clear.facts);
            let Some(history) = facts.history_of(timeline) else { continue };
            let Some(fork) = history.fork_of(segment.timeline) else { continue };
            let Some(size) = archive::segment_size(repository, system, timeline)? else { continue };
            let (start, end) = (history.start_of(segment.timeline), segment.end(size));
            if end <= fork && start.is_none_or(|start| start < end) {
                return Ok(Some(Hole::LeftLater { timeline, fork }));
            }
        }
    }
    Ok(None)
}

/// Whether `segment` lies before its timeline began, so that it never existed.
fn precedes_timeline(
    repository: &Repository,
    system: SystemIdentifier,
    segment: WalSegmentName,
) -> Result<bool, RepoError> {
    if segment.timeline == TimelineId::FIRST {
        return Ok(false);
    }
    let found = repository.find_wal(system, WalFileName::History(segment.timeline))?;
    let [history] = found.as_slice() else { return Ok(false) };
    let facts = ArchivedFacts::read(&repository.read_wal_head(history)?.clear.facts);
    let Some(begin) = facts.history_of(segment.timeline).and_then(|h| h.start_of(segment.timeline)) else {
        return Ok(false);
    };
    let Some(size) = archive::segment_size(repository, system, segment.timeline)? else {
        return Ok(false);
    };
    Ok(segment.number(size) < WalSegmentName::containing(segment.timeline, begin, size).number(size))
}
