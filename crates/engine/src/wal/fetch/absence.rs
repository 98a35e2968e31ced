//! Is a file that is not there simply not written yet, or was it lost?

use std::ops::ControlFlow;

use refloat_repo::{RepoError, Repository, layout};
use refloat_types::{SystemIdentifier, TimelineId, WalFileName, WalSegmentName};

use super::error::Hole;
use crate::wal::facts::ArchivedFacts;

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
            let Some(later) = later_segment(repository, system, segment)? else { return Ok(None) };
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
    let Some(size) = super::super::archive::segment_size(repository, system, segment.timeline)? else {
        return Ok(false);
    };
    Ok(segment.number(size) < WalSegmentName::containing(segment.timeline, begin, size).number(size))
}
