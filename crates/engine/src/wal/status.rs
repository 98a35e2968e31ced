//! What `wal status` shows: how far each repository's archive reaches, what it lacks, and what still waits in `pg_wal`.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use refloat_repo::repository::Marked;
use refloat_repo::{RepoError, Repository};
use refloat_types::{Lsn, SystemIdentifier, TimelineId, Timestamp, WalFileName, WalSegmentName};

use super::archive::{Archive, SegmentRange};
use super::facts::ArchivedFacts;
use super::keep::{self, Writer};
use super::runs::Runs;
use crate::locked::Locked;

/// The state of archiving of one cluster.
#[derive(Debug)]
pub struct WalStatus {
    /// The cluster.
    pub system: SystemIdentifier,
    /// In the order that was asked for.
    pub repositories: Vec<RepositoryWal>,
    /// The server's own side; `None` where no data directory was given.
    pub server: Option<ServerWal>,
}

/// What one repository holds.
#[derive(Debug)]
pub struct RepositoryWal {
    /// Its store.
    pub repository: String,
    /// Its timelines, oldest first; an error when it cannot be asked.
    pub timelines: Result<Vec<TimelineStatus>, RepoError>,
}

/// What is stored of a timeline.
#[derive(Debug, Clone, PartialEq)]
pub struct TimelineStatus {
    /// Which.
    pub timeline: TimelineId,
    /// First and last whole WAL segment.
    pub span: Option<(WalSegmentName, WalSegmentName)>,
    /// Whole WAL segments.
    pub segments: u64,
    /// What is missing between the first and the last.
    pub gaps: Vec<SegmentRange>,
    /// Unfinished last files.
    pub partials: Vec<WalSegmentName>,
    /// Files stored with different bytes, and who wrote which.
    pub conflicts: Vec<(WalFileName, Vec<Writer>)>,
    /// Bytes in the store.
    pub stored_bytes: u64,
    /// Host time when the last WAL segment was stored.
    pub last_stored: Option<Timestamp>,
    /// Time of the last commit in the last WAL segment that has one (looked for in the last few).
    pub last_commit: Option<Timestamp>,
    /// End of the last whole WAL segment.
    pub archived_to: Option<Lsn>,
    /// Bytes of WAL that the server has written since; on its present timeline only.
    pub lag_bytes: Option<u64>,
    /// WAL segments that another repository has, and this one lacks behind where it begins.
    pub behind: u64,
    /// Numbers of its WAL segments.
    stored: Runs,
    /// Numbers of those that are missing in between.
    lost: Vec<(u64, u64)>,
}

/// What waits on the server.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerWal {
    /// Files that PostgreSQL wants archived and that are not yet.
    pub ready: u64,
    /// The oldest of them.
    pub oldest_ready: Option<WalFileName>,
    /// Since when it waits, by the file system's clock.
    pub waiting_since: Option<Timestamp>,
    /// Bytes of `pg_wal`.
    pub pg_wal_bytes: u64,
    /// Bytes free on its file system.
    pub free_bytes: u64,
    /// Why archiving is locked, if it is.
    pub locked: Option<Locked>,
    /// Why the lock cannot be read, if there is one that cannot: that locks too.
    pub lock_unreadable: Option<String>,
}

/// How the server stands, as its caller knows.
#[derive(Debug, Clone, Copy)]
pub struct ServerPosition {
    /// Where it writes.
    pub lsn: Lsn,
    /// On which timeline.
    pub timeline: TimelineId,
}

/// How many WAL segments from the end are looked at for the last commit.
const LOOK_BACK: u64 = 16;

/// The state of archiving of `system`. `data_directory` and `position` are left out where there is no server.
///
/// # Errors
/// When the data directory cannot be read; a repository that cannot is told in its place.
pub fn status(
    repositories: &[&Repository],
    system: SystemIdentifier,
    data_directory: Option<&Path>,
    position: Option<ServerPosition>,
) -> io::Result<WalStatus> {
    let of = move |repository: &&Repository| RepositoryWal {
        repository: repository.store().describe().to_owned(),
        timelines: timelines(repository, system, position),
    };
    // At once: one that does not answer holds up nobody.
    let mut repositories: Vec<RepositoryWal> = std::thread::scope(|scope| {
        let started: Vec<_> = repositories.iter().map(|one| scope.spawn(move || of(one))).collect();
        let joined = started.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.map(|one| one.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    compare(&mut repositories);
    Ok(WalStatus { system, repositories, server: data_directory.map(server).transpose()? })
}

/// Counts what each repository lacks that another one has: behind where its WAL begins, and not what it has deleted.
fn compare(repositories: &mut [RepositoryWal]) {
    let mut all: BTreeMap<TimelineId, Runs> = BTreeMap::new();
    for timeline in repositories.iter().flat_map(|one| one.timelines.iter().flatten()) {
        let of = all.entry(timeline.timeline).or_default();
        timeline.stored.iter().flat_map(|(first, last)| first..=last).for_each(|number| {
            of.insert(number);
        });
    }
    for timeline in repositories.iter_mut().flat_map(|one| one.timelines.iter_mut().flatten()) {
        let Some(all) = all.get(&timeline.timeline) else { continue };
        let held =
            |first: u64, last: u64| (first..=last).filter(|number| all.contains(*number)).count() as u64;
        let inside: u64 = timeline.lost.iter().map(|(first, last)| held(*first, *last)).sum();
        let behind = match (timeline.stored.last(), all.last()) {
            (Some(own), Some(last)) if last > own => held(own + 1, last),
            _ => 0,
        };
        timeline.behind = inside + behind;
    }
}

/// What of a gap was never to be deleted.
fn lost(archive: &Archive, marked: &Marked, gap: &SegmentRange) -> Vec<SegmentRange> {
    let (timeline, size) = (gap.first.timeline, archive.segment_size);
    let left = marked.other_wal(archive.system, timeline, gap.first.number(size), gap.last.number(size));
    let range = |(first, last)| SegmentRange {
        first: archive.name(timeline, first),
        last: archive.name(timeline, last),
        count: last - first + 1,
    };
    left.into_iter().map(range).collect()
}

fn timelines(
    repository: &Repository,
    system: SystemIdentifier,
    position: Option<ServerPosition>,
) -> Result<Vec<TimelineStatus>, RepoError> {
    let archive = Archive::read(repository, system, None)?;
    // What expired is no gap.
    let marked = repository.marked()?;
    let gaps: Vec<SegmentRange> =
        archive.gaps().iter().flat_map(|gap| lost(&archive, &marked, gap)).collect();
    let mut out = Vec::new();
    for (timeline, stored) in &archive.timelines {
        let span = stored.segments.first().zip(stored.segments.last());
        let mut conflicts = Vec::new();
        for name in stored.conflicts.iter().filter_map(|name| name.parse::<WalFileName>().ok()) {
            let all = repository.find_wal(system, name)?;
            conflicts.push((name, keep::writers(repository, &all, None)));
        }
        let archived_to = span.map(|(_, last)| archive.name(*timeline, last).end(archive.segment_size));
        let here = position.filter(|position| position.timeline == *timeline);
        let (last_stored, last_commit) = last_times(repository, &archive, *timeline)?;
        out.push(TimelineStatus {
            timeline: *timeline,
            span: span.map(|(a, b)| (archive.name(*timeline, a), archive.name(*timeline, b))),
            segments: stored.segments.count(),
            gaps: gaps.iter().filter(|gap| gap.first.timeline == *timeline).copied().collect(),
            partials: stored.partials.iter().copied().collect(),
            conflicts,
            stored_bytes: stored.stored_bytes,
            last_stored,
            last_commit,
            archived_to,
            lag_bytes: here.zip(archived_to).map(|(here, to)| to.bytes_until(here.lsn)),
            behind: 0,
            stored: stored.segments.clone(),
            lost: gaps
                .iter()
                .filter(|gap| gap.first.timeline == *timeline)
                .map(|gap| (gap.first.number(archive.segment_size), gap.last.number(archive.segment_size)))
                .collect(),
        });
    }
    Ok(out)
}

/// When the last WAL segment of a timeline was stored, and the last commit of it or of one shortly before.
fn last_times(
    repository: &Repository,
    archive: &Archive,
    timeline: TimelineId,
) -> Result<(Option<Timestamp>, Option<Timestamp>), RepoError> {
    let mut stored_at = None;
    let Some(segments) = archive.timelines.get(&timeline).map(|stored| &stored.segments) else {
        return Ok((None, None));
    };
    let last = segments.iter().rev().flat_map(|(first, last)| (first..=last).rev());
    for number in last.take(LOOK_BACK as usize) {
        let name = WalFileName::Segment(archive.name(timeline, number));
        for stored in repository.find_wal(archive.system, name)? {
            let head = match repository.read_wal_head(&stored) {
                Ok(head) => head,
                Err(RepoError::Store(error)) if error.is_retryable() => return Err(error.into()),
                // `verify` names it; the others still tell something.
                Err(_) => continue,
            };
            stored_at = stored_at.or(Some(head.clear.stored));
            let facts = ArchivedFacts::read(&head.clear.facts);
            if let Some(commit) = facts.segment.and_then(|segment| segment.wal.last_commit) {
                return Ok((stored_at, Some(commit)));
            }
        }
    }
    Ok((stored_at, None))
}

/// What waits in a data directory.
///
/// # Errors
/// When `pg_wal` cannot be read.
pub fn server(data_directory: &Path) -> io::Result<ServerWal> {
    let pg_wal = data_directory.join("pg_wal");
    let (ready, waiting_since) = ready(&pg_wal.join("archive_status"))?;
    let mut pg_wal_bytes = 0_u64;
    for entry in fs::read_dir(&pg_wal)? {
        // What PostgreSQL recycles or removes meanwhile is not there.
        if let Ok(meta) = entry?.metadata()
            && meta.is_file()
        {
            pg_wal_bytes += meta.len();
        }
    }
    let space = rustix::fs::statvfs(&pg_wal)?;
    let (locked, lock_unreadable) = match Locked::read(data_directory) {
        Ok(locked) => (locked, None),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(ServerWal {
        ready: ready.len() as u64,
        oldest_ready: ready.first().and_then(|name| name.parse().ok()),
        waiting_since,
        pg_wal_bytes,
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        locked,
        lock_unreadable,
    })
}

/// Names of files that wait, in the order that PostgreSQL offers them by and large, and since when the first one waits.
fn ready(directory: &Path) -> io::Result<(BTreeSet<String>, Option<Timestamp>)> {
    let mut names = BTreeSet::new();
    let mut oldest: Option<Timestamp> = None;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".ready")) else { continue };
        names.insert(name.to_owned());
        let Ok(modified) = entry.metadata().and_then(|meta| meta.modified()) else { continue };
        if let Ok(modified) = Timestamp::try_from(modified) {
            oldest = Some(oldest.map_or(modified, |oldest| oldest.min(modified)));
        }
    }
    Ok((names, oldest))
}
