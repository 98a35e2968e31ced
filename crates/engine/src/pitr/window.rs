//! From which moment to which each backup can be recovered.

use std::collections::BTreeMap;
use std::fmt;

use refloat_repo::RepoError;
use refloat_repo::commit::{Commit, CommitRecord};
use refloat_types::{BackupId, Lsn, TimelineId, Timestamp};

use super::path::Path;
use super::reach::{self, Gap, Reached, Stretch};
use super::timeline;
use super::{Situation, TimelineChoice};

/// How far a backup reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Which backup.
    pub backup: BackupId,
    /// Its number.
    pub number: u64,
    /// The timeline that it is recovered along.
    pub timeline: TimelineId,
    /// The earliest moment: the backup's own end.
    pub earliest: Timestamp,
    /// The same as a position.
    pub earliest_lsn: Lsn,
    /// The latest; `None` when the archive adds nothing to the backup.
    pub latest: Option<Reached>,
    /// What ends the window, unless it is the end of the archive.
    pub gap: Option<Gap>,
    /// Whether it can be made consistent at all.
    pub usable: bool,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.usable {
            write!(f, "{}: cannot become consistent", self.backup)?;
        } else {
            write!(f, "{}: from {} (LSN {})", self.backup, second(self.earliest), self.earliest_lsn)?;
            match &self.latest {
                Some(latest) => {
                    let time = latest.alive.or(latest.last_commit).map_or(self.earliest, |at| at);
                    write!(f, " to {} (LSN {})", second(time), latest.lsn)?;
                }
                None => f.write_str(", that moment only")?,
            }
            write!(f, ", timeline {}", self.timeline)?;
        }
        match &self.gap {
            Some(gap) => write!(f, ", then {gap}"),
            None => Ok(()),
        }
    }
}

fn second(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// What is known of one backup along one path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground {
    /// The archived WAL from the backup's start on.
    pub(super) stretch: Option<Stretch>,
    /// What is missing where that begins or ends.
    pub(super) gap: Option<Gap>,
    /// Whether the archive has all that makes the backup consistent.
    pub(super) archived: bool,
    /// Whether the backup can be made consistent, by the archive or by itself.
    pub(super) usable: bool,
}

/// How the archive continues a backup.
pub(super) fn ground(situation: &Situation<'_>, path: &Path, commit: &Commit) -> Ground {
    let archive = situation.archive;
    let point = &commit.cluster;
    let found = reach::stretch(archive, path, archive.number(point.start_lsn));
    let (stretch, gap) = match found {
        Ok(stretch) => (Some(stretch), stretch.gap),
        Err(gap) => (None, gap),
    };
    let last = last_of_backup(archive, point.start_lsn, point.stop_lsn);
    let archived = stretch.is_some_and(|stretch| stretch.last >= last);
    Ground { stretch, gap, archived, usable: archived || commit.own_wal }
}

/// The WAL segment that holds the last byte a backup needs.
pub(super) fn last_of_backup(archive: &crate::wal::Archive, start: Lsn, stop: Lsn) -> u64 {
    archive.number(Lsn(stop.0.saturating_sub(1)).max(start))
}

/// How far every backup of `situation` reaches, newest first, each along the timeline it would be recovered along by
/// default.
///
/// # Errors
/// When the archive cannot be read.
pub fn windows(situation: &Situation<'_>) -> Result<Vec<Window>, RepoError> {
    let mut commits: Vec<&CommitRecord> = of_system(situation);
    commits.sort_by_key(|record| std::cmp::Reverse(record.commit.number));
    let default = timeline::choose(situation, TimelineChoice::Owner, &commits).ok();
    let mut ends: BTreeMap<(TimelineId, u64), Reached> = BTreeMap::new();
    let mut out = Vec::with_capacity(commits.len());
    for record in commits {
        let commit = &record.commit;
        let on_default = default.as_ref().filter(|chosen| chosen.path.holds(&commit.cluster));
        let own = match on_default {
            Some(_) => None,
            None => timeline::choose(situation, TimelineChoice::Latest, &[record]).ok(),
        };
        let path = on_default.or(own.as_ref()).map(|chosen| &chosen.path);
        out.push(window(situation, path, commit, &mut ends)?);
    }
    Ok(out)
}

/// The backups of the archive's cluster.
pub(super) fn of_system<'a>(situation: &Situation<'a>) -> Vec<&'a CommitRecord> {
    let of_it = |record: &&CommitRecord| record.commit.cluster.system == situation.archive.system;
    situation.commits.iter().filter(of_it).collect()
}

fn window(
    situation: &Situation<'_>,
    path: Option<&Path>,
    commit: &Commit,
    ends: &mut BTreeMap<(TimelineId, u64), Reached>,
) -> Result<Window, RepoError> {
    let point = &commit.cluster;
    let mut window = Window {
        backup: commit.backup,
        number: commit.number,
        timeline: path.map_or(point.timeline, Path::timeline),
        earliest: point.stop_time,
        earliest_lsn: point.stop_lsn,
        latest: None,
        gap: None,
        usable: commit.own_wal,
    };
    let Some(path) = path.filter(|path| path.holds(point)) else { return Ok(window) };
    let ground = ground(situation, path, commit);
    (window.gap, window.usable) = (ground.gap, ground.usable);
    if let Some(stretch) = ground.stretch.filter(|_| ground.archived) {
        let reached = match ends.get(&(path.timeline(), stretch.last)) {
            Some(known) => *known,
            None => {
                let lowest = situation.archive.number(point.stop_lsn);
                let reached = reach::reached(situation.archive, path, situation.wal, &stretch, lowest)?;
                ends.insert((path.timeline(), stretch.last), reached);
                reached
            }
        };
        window.latest = Some(reached);
    }
    Ok(window)
}
