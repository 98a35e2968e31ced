//! A whole copy: every backup that lacks, then the WAL.

use std::sync::Arc;
use std::time::Instant;

use refloat_repo::RepoError;
use refloat_repo::commit::{CommitNames, CommitRecord};
use refloat_repo::crypt::seal::DataKey;
use refloat_repo::repository::{SourceInfo, Uses};
use refloat_types::{BackupId, Lsn, SystemIdentifier, TimelineId, fault};

use super::carry::{Carrier, CarryWhat};
use super::select::{Passed, Selection, select};
use super::wal::{self, WalCopied};
use super::{CopyError, CopyReport, CopyRequest, Named};
use crate::guard::{self, Guard, GuardRequest, SinceBoot};

/// Copies.
///
/// # Errors
/// What was copied before stays, and is whole.
pub fn copy(request: &CopyRequest<'_>) -> Result<CopyReport, CopyError> {
    run(request, None, false)
}

/// A backup that this process has just made.
pub(crate) struct Fresh<'a> {
    pub(crate) backup: BackupId,
    pub(crate) names: &'a CommitNames,
    /// The keys that it was sealed with: a host that cannot read has them now, and not later.
    pub(crate) keys: &'a [Arc<DataKey>],
}

/// Copies a backup that was just made, and before it those that the other repository lacks since the newest one that both
/// have. Where they have none in common, it alone.
///
/// # Errors
/// As for [`copy`].
pub(crate) fn bring(request: &CopyRequest<'_>, fresh: &Fresh<'_>) -> Result<CopyReport, CopyError> {
    run(request, Some(fresh), false)
}

/// What [`copy`] would do.
///
/// # Errors
/// As for [`copy`].
pub fn plan(request: &CopyRequest<'_>) -> Result<CopyReport, CopyError> {
    run(request, None, true)
}

/// What both repositories have.
struct Both {
    source: SourceInfo,
    from: Vec<CommitRecord>,
    to: Vec<CommitRecord>,
    notes: Vec<String>,
}

fn failed(repository: Named<'_>, source: impl Into<RepoError>) -> CopyError {
    CopyError::Repository { repository: repository.name.to_owned(), source: source.into() }
}

fn run(request: &CopyRequest<'_>, fresh: Option<&Fresh<'_>>, dry: bool) -> Result<CopyReport, CopyError> {
    let began = Instant::now();
    let to = request.to;
    let first = look(request)?;
    if fresh.is_none() && selection(request, &first, None)?.wanted.is_empty() {
        // Asked often, by every host: where nothing lacks, nothing is written.
        let done = only_wal(request, &first)?;
        if let Some(passed) = done {
            return Ok(CopyReport { passed, ..report(request, &first, began) });
        }
    }
    let enrolled = to.repository.ensure_enrolled(request.clock.now());
    enrolled.map_err(|error| failed(to, error))?;
    let asked = |uses| GuardRequest {
        operation: "copy",
        backup: None,
        uses,
        host: request.host,
        now: request.clock.now(),
        uptime: Arc::new(SinceBoot),
        renew: true,
    };
    let guarded = |of: Named<'_>, source| CopyError::Guard { repository: of.name.to_owned(), source };
    let held = asked(Uses::Source(first.source.id));
    let _from =
        guard::reading(request.from.repository, &held).map_err(|error| guarded(request.from, error))?;
    let there = to.repository.find_source(request.source).map_err(|error| failed(to, error))?;
    let uses = there.map_or(Uses::Backups(Vec::new()), |source| Uses::Source(source.id));
    let guard = Guard::begin(to.repository, &asked(uses)).map_err(|error| guarded(to, error))?;
    // Chosen only now that both sides can see that it is used.
    let both = look(request)?;
    let carrier = Carrier {
        from: request.from,
        to,
        guard: &guard,
        self_contained: request.self_contained,
        compression: request.compression,
        jobs: request.jobs,
        wal_timeout: request.wal_timeout,
        clock: request.clock,
        progress: request.progress,
        known: fresh.map_or(&[], |fresh| fresh.keys),
    };
    let selection = selection(request, &both, fresh)?;
    let mut report = CopyReport { passed: selection.passed, ..report(request, &both, began) };
    let mut wanted = selection.wanted;
    if dry {
        for record in &wanted {
            report.backups.push(carrier.estimate(record)?);
        }
    } else if !wanted.is_empty() {
        let source = carrier.source(request.source, &both.source)?;
        for record in &wanted {
            fault::point("copy.before_backup")
                .map_err(|e| failed(to, RepoError::internal("copy a backup", e)))?;
            guard.look_again().map_err(|error| guarded(to, error))?;
            let names = match fresh.filter(|fresh| fresh.backup == record.commit.backup) {
                Some(fresh) => fresh.names.clone(),
                None => {
                    let names = request.from.repository.read_commit_names(record);
                    names.map_err(|error| unreadable(request.from, error))?
                }
            };
            report.backups.extend(carrier.carry(&CarryWhat { record, names: &names, source })?);
        }
    }
    if request.wal {
        wanted.extend(&both.to);
        report.wal = copy_wal(request, &carrier, &both.source, &wanted, dry)?;
    }
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

fn report(request: &CopyRequest<'_>, both: &Both, began: Instant) -> CopyReport {
    CopyReport {
        source: request.source.to_string(),
        from: request.from.name.to_owned(),
        to: request.to.name.to_owned(),
        backups: Vec::new(),
        passed: Vec::new(),
        wal: WalCopied::default(),
        notes: both.notes.clone(),
        seconds: began.elapsed().as_secs_f64(),
    }
}

/// Where no WAL lacks either: what is passed over.
fn only_wal(request: &CopyRequest<'_>, both: &Both) -> Result<Option<Vec<Passed>>, CopyError> {
    let passed = selection(request, both, None)?.passed;
    if !request.wal {
        return Ok(Some(passed));
    }
    let backups: Vec<&CommitRecord> = both.to.iter().collect();
    let systems = request.from.repository.systems_of(both.source.id).map_err(|e| failed(request.from, e))?;
    for system in systems {
        if !wal::missing(request.from, request.to, system, oldest(&backups, system))?.is_empty() {
            return Ok(None);
        }
    }
    Ok(Some(passed))
}

fn unreadable(from: Named<'_>, error: RepoError) -> CopyError {
    match error {
        source @ RepoError::NoKey { .. } => {
            let why = "the names in its backups have to be sealed anew";
            CopyError::CannotRead { repository: from.name.to_owned(), why, source }
        }
        error => failed(from, error),
    }
}

fn look(request: &CopyRequest<'_>) -> Result<Both, CopyError> {
    let (from, to) = (request.from, request.to);
    let found = from.repository.find_source(request.source).map_err(|error| failed(from, error))?;
    let (repository, name) = (from.name.to_owned(), request.source.to_string());
    let source = found.ok_or(CopyError::NoSource { repository, name })?;
    let mut notes = Vec::new();
    let commits = from.repository.list_commits(source.id, &mut |key, error| {
        notes.push(format!("backup {} of {} cannot be used: {error}", key.file_name(), from.name));
    });
    let commits = commits.map_err(|error| failed(from, error))?;
    let there = to.repository.find_source(request.source).map_err(|error| failed(to, error))?;
    let theirs = match there {
        None => Vec::new(),
        Some(there) => {
            let listed = to.repository.list_commits(there.id, &mut |key, error| {
                notes.push(format!("backup {} of {} cannot be used: {error}", key.file_name(), to.name));
            });
            listed.map_err(|error| failed(to, error))?
        }
    };
    Ok(Both { source, from: commits, to: theirs, notes })
}

fn selection<'b>(
    request: &CopyRequest<'_>,
    both: &'b Both,
    fresh: Option<&Fresh<'_>>,
) -> Result<Selection<'b>, CopyError> {
    let marked = request.to.repository.marked().map_err(|error| failed(request.to, error))?;
    // A backup that is named is wanted whatever the retention says.
    let policy = request.keeps.filter(|_| request.only.is_none());
    let mut selection = select(&both.from, &both.to, &marked, policy, request.clock.now());
    if let Some(fresh) = fresh {
        let there = |record: &CommitRecord| both.to.iter().any(|to| to.commit.backup == record.commit.backup);
        // A host that cannot read cannot copy what it did not just make; and who adds a repository copies what is older when
        // he wants it there, not in the middle of a backup.
        if !request.from.repository.can_read() || !both.from.iter().any(there) {
            selection.wanted.retain(|record| record.commit.backup == fresh.backup);
        }
        selection.passed.clear();
    }
    if let Some(only) = request.only {
        if both.from.iter().all(|record| record.commit.backup != only) {
            return Err(CopyError::NoBackup { repository: request.from.name.to_owned(), backup: only });
        }
        selection.wanted.retain(|record| record.commit.backup == only);
        selection.passed.retain(|passed| passed.backup == only);
    }
    Ok(selection)
}

fn copy_wal(
    request: &CopyRequest<'_>,
    carrier: &Carrier<'_>,
    source: &SourceInfo,
    backups: &[&CommitRecord],
    dry: bool,
) -> Result<WalCopied, CopyError> {
    let mut copied = WalCopied::default();
    let systems =
        request.from.repository.systems_of(source.id).map_err(|error| failed(request.from, error))?;
    for system in systems {
        let missing = wal::missing(request.from, request.to, system, oldest(backups, system))?;
        if missing.is_empty() {
            continue;
        }
        if dry {
            copied.files += missing.len() as u64;
            continue;
        }
        request.progress.phase("wal", 0);
        let files = carrier.wal_carrier()?;
        for name in missing {
            if let Some(bytes) = files.file(system, name)? {
                copied.files += 1;
                copied.bytes += bytes;
                request.progress.advance(bytes);
            }
        }
    }
    Ok(copied)
}

/// Where the oldest of these backups begins.
fn oldest(backups: &[&CommitRecord], system: SystemIdentifier) -> Option<(TimelineId, Lsn)> {
    let points = backups.iter().map(|record| &record.commit.cluster).filter(|point| point.system == system);
    points.map(|point| (point.timeline, point.start_lsn)).min()
}
