//! Which timeline recovery follows.
//!
//! Whoever is the source after a takeover is its owner, on a timeline of its own. A failover begins a timeline without a
//! takeover: it descends from the owner's. A clone that was never taken over archives nothing. So the right one is the
//! newest that descends from the owner's, and without an owner the newest that a backup lies on.

use std::collections::BTreeSet;

use refloat_repo::commit::CommitRecord;
use refloat_types::TimelineId;

use super::path::Path;
use super::{Situation, TargetError, TimelineChoice};
use crate::wal::archive::History;

/// The path that was chosen, and what a person should know about the choice.
pub(super) struct Chosen {
    pub(super) path: Path,
    pub(super) notes: Vec<String>,
}

/// The path to a timeline, where its past is known.
pub(super) fn path_to(situation: &Situation<'_>, timeline: TimelineId) -> Option<Path> {
    let history = situation.archive.history(timeline)?;
    Some(Path::new(history, situation.archive.segment_size))
}

/// All timelines that are known of, oldest first.
fn known(situation: &Situation<'_>) -> BTreeSet<TimelineId> {
    let stored = situation.archive.timelines.keys().copied();
    let backups = situation.commits.iter().map(|record| record.commit.cluster.timeline);
    stored.chain(backups).chain(situation.owner.map(|owner| owner.timeline)).collect()
}

/// The path that `choice` means for these backups.
pub(super) fn choose(
    situation: &Situation<'_>,
    choice: TimelineChoice,
    backups: &[&CommitRecord],
) -> Result<Chosen, TargetError> {
    let all = known(situation);
    if let TimelineChoice::Number(timeline) = choice {
        if !all.contains(&timeline) {
            return Err(TargetError::UnknownTimeline { timeline, known: all.into_iter().collect() });
        }
        let path =
            path_or_own(situation, timeline, backups).ok_or_else(|| no_history(situation, timeline))?;
        return Ok(Chosen { path, notes: Vec::new() });
    }
    let owner = situation.owner.filter(|_| choice == TimelineChoice::Owner).map(|owner| owner.timeline);
    let suits = |path: &Path| match owner {
        Some(owner) => path.includes(owner),
        None => backups.iter().any(|record| path.holds(&record.commit.cluster)),
    };
    let mut notes = Vec::new();
    for timeline in all.iter().rev().copied() {
        match path_or_own(situation, timeline, backups) {
            Some(path) if suits(&path) => return Ok(Chosen { path, notes }),
            Some(_) => {}
            None => {
                notes.push(format!("Timeline {timeline} is left out: {}.", why_unknown(situation, timeline)))
            }
        }
    }
    // Nothing that is known descends from it: then it itself, or what a backup was taken on.
    let timeline = owner.or_else(|| backups.iter().map(|record| record.commit.cluster.timeline).max());
    let timeline = timeline.unwrap_or(TimelineId::FIRST);
    match path_or_own(situation, timeline, backups) {
        Some(path) => Ok(Chosen { path, notes }),
        None => Err(no_history(situation, timeline)),
    }
}

/// The path to a timeline. Where its history file is not in this archive (archiving began later, or is off), a backup
/// that was taken on it lies on it all the same.
fn path_or_own(situation: &Situation<'_>, timeline: TimelineId, backups: &[&CommitRecord]) -> Option<Path> {
    if let Some(path) = path_to(situation, timeline) {
        return Some(path);
    }
    let no_file =
        situation.archive.timelines.get(&timeline).is_none_or(|t| matches!(t.history, History::Unknown));
    let has_backup = backups.iter().any(|record| record.commit.cluster.timeline == timeline);
    (no_file && has_backup).then(|| {
        let history = refloat_pg::history::TimelineHistory::without_parent(timeline);
        Path::new(history, situation.archive.segment_size)
    })
}

fn no_history(situation: &Situation<'_>, timeline: TimelineId) -> TargetError {
    TargetError::NoHistory { timeline, why: why_unknown(situation, timeline) }
}

fn why_unknown(situation: &Situation<'_>, timeline: TimelineId) -> String {
    match situation.archive.timelines.get(&timeline).map(|stored| &stored.history) {
        Some(History::Disputed) => "its history is stored twice, with different bytes".to_owned(),
        Some(History::Unreadable(why)) => format!("its history cannot be read ({why})"),
        _ => "its history is not archived".to_owned(),
    }
}
