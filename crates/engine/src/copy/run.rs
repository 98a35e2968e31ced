//! A whole copy: every backup that lacks, then the WAL.

use std::sync::Arc;
use std::time::Instant;

use refloat_repo::RepoError;
use refloat_repo::commit::{CommitNames, CommitRecord};
use refloat_repo::crypt::seal::DataKey;
use refloat_repo::repository::{SourceInfo, Uses};
use refloat_types::{BackupId, Lsn, SystemIdentifier, TimelineId, fault};

use super::carry::{Carrier, CarryWhat, estimate};
use super::select::{Selection, select};
use super::wal::{self, WalCarrier, WalCopied};
use super::{BackupCopied, CopyError, CopyReport, CopyRequest, Named};
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
    let chosen = selection(request, &first, fresh)?;
    if dry || (fresh.is_none() && chosen.wanted.is_empty()) {
        // Asked often, by every host: where no backup lacks, nothing is written but WAL, which needs no pin.
        return without_a_pin(request, &first, chosen, dry, began);
    }
    let enrolled = to.repository.ensure_enrolled(request.clock.now());
    enrolled.map_err(|error| failed(to, error))?;
    let asked = |uses| GuardRequest {
        operation: guard::COPY,
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
        keep: request.keep,
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
    // One that cannot be copied does not keep the others back: what it lacks may never come.
    let mut failure: Option<CopyError> = None;
    let source = carrier.source(request.source, &both.source)?;
    for record in &wanted {
        let one = || -> Result<Option<BackupCopied>, CopyError> {
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
            carrier.carry(&CarryWhat { record, names: &names, source })
        };
        match one() {
            Ok(copied) => report.backups.extend(copied),
            Err(error) if error.is_unreachable() => return Err(failure.unwrap_or(error)),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    if let Some(fresh) = fresh {
        // A list may lag, and somebody else's backup may have come first: only what is there counts.
        let there = to.repository.find_commit(source, fresh.backup).map_err(|error| failed(to, error))?;
        if there.is_none() {
            let (repository, backup) = (to.name.to_owned(), fresh.backup);
            return Err(failure.unwrap_or(CopyError::NotThere { repository, backup }));
        }
        report.seconds = began.elapsed().as_secs_f64();
        return Ok(report);
    }
    if request.wal {
        wanted.extend(&both.to);
        report.wal = copy_wal(request, &both.source, &wanted, false, &mut failure)?;
    }
    report.seconds = began.elapsed().as_secs_f64();
    failure.map_or(Ok(report), Err)
}

/// What needs no pin: to say what would be copied, and WAL, which nobody deletes while it is young.
fn without_a_pin(
    request: &CopyRequest<'_>,
    both: &Both,
    chosen: Selection<'_>,
    dry: bool,
    began: Instant,
) -> Result<CopyReport, CopyError> {
    let mut out = CopyReport { passed: chosen.passed, ..report(request, both, began) };
    let mut wanted = chosen.wanted;
    if !wanted.is_empty() {
        let forbidden = guard::forbidden(request.to.repository).map_err(|error| failed(request.to, error))?;
        for record in &wanted {
            out.backups.push(estimate(request, &forbidden, record)?);
        }
    }
    let mut failure = None;
    if request.wal {
        wanted.extend(&both.to);
        out.wal = copy_wal(request, &both.source, &wanted, dry, &mut failure)?;
    }
    out.seconds = began.elapsed().as_secs_f64();
    failure.map_or(Ok(out), Err)
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
    source: &SourceInfo,
    backups: &[&CommitRecord],
    dry: bool,
    failure: &mut Option<CopyError>,
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
        let CopyRequest { from, to, compression, wal_timeout, clock, .. } = *request;
        let files = WalCarrier::new(from, to, compression, wal_timeout, clock)?;
        for name in missing {
            match files.file(system, name) {
                Ok(None) => {}
                Ok(Some(bytes)) => {
                    copied.files += 1;
                    copied.bytes += bytes;
                    request.progress.advance(bytes);
                }
                Err(error) if error.is_unreachable() => return Err(error),
                // One file in conflict, or damaged, does not keep the others back.
                Err(error) => *failure = failure.take().or(Some(error)),
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
