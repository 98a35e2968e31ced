//! Taking over: a restored server becomes the source's server, and may archive.
//!
//! The order matters. Recovery ends first, because only then the new timeline is known; the new owner is recorded in every
//! repository next; what only the recovery needed goes out of the settings; the lock goes last. A crash or an error before the end leaves the directory
//! locked, and the same call goes on.

mod error;
mod replay;
mod settings;

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use refloat_pg::control::{ControlFile, POISONED_CHECKPOINT, read_settled};
use refloat_pg::history::TimelineHistory;
use refloat_pg::server::{ServerState, server_state};
use refloat_pg::sql::{ConnectOptions, Session};
use refloat_repo::repository::OwnerRecord;
use refloat_repo::{RepoError, Repository};
use refloat_types::{Lsn, SourceId, SystemIdentifier, TimelineId, Timestamp, fault};

pub use error::TakeoverError;

use crate::locked::{LOCK_FILE, Locked, Purpose};
use crate::progress::Progress;

/// A takeover.
#[derive(Debug, Clone)]
pub struct TakeoverRequest {
    /// The data directory.
    pub data_directory: PathBuf,
    /// How to reach the server.
    pub connection: ConnectOptions,
    /// How long the end of recovery may take.
    pub patience: Duration,
    /// Host time.
    pub now: Timestamp,
}

/// A repository of the source.
#[derive(Clone, Copy)]
pub struct Kept<'a> {
    /// It.
    pub repository: &'a Repository,
    /// The source in it.
    pub source: SourceId,
}

/// What a takeover did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeoverReport {
    /// The timeline the server writes.
    pub timeline: TimelineId,
    /// Where that timeline left its parent; `None` for the first, or where its history file is gone.
    pub fork_lsn: Option<Lsn>,
    /// Recovery was ended by this call.
    pub promoted: bool,
    /// The directory was locked.
    pub was_locked: bool,
    /// The server runs.
    pub running: bool,
    /// WAL files that wait to be archived.
    pub waiting_wal: u64,
    /// Generation of the owner by repository, in the order given.
    pub owner_generations: Vec<u64>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Keeps something in force until it is dropped.
pub type Held = Box<dyn std::any::Any>;

/// Makes the server of a data directory the source's server. `promoting` is called when the server has gone as far as it will,
/// and what it answers is kept until its recovery has ended: never while WAL is replayed.
///
/// # Errors
/// Refusals change nothing. Once recovery was ended the call can be repeated; archiving stays locked until it ends well.
pub fn takeover(
    request: &TakeoverRequest,
    repositories: &[Kept<'_>],
    promoting: &dyn Fn() -> io::Result<Held>,
    progress: &dyn Progress,
) -> Result<TakeoverReport, TakeoverError> {
    let directory = &request.data_directory;
    let lock = read_lock(directory)?;
    let (control, _) = read_settled(directory)?;
    check_cluster(directory, repositories, control.system_identifier)?;
    let (running, promoted, notes) = match server_state(directory)? {
        ServerState::Running(_) => {
            let (promoted, notes) = end_recovery(request, promoting, progress)?;
            (true, promoted, notes)
        }
        ServerState::Doubtful { why } => {
            return Err(TakeoverError::Doubtful { path: directory.clone(), why });
        }
        ServerState::NotRunning { .. } => {
            check_finished(directory, &control)?;
            (false, false, Vec::new())
        }
    };
    let (timeline, fork_lsn) = timeline(directory)?;
    let record = |kept: &Kept<'_>| OwnerRecord {
        source: kept.source,
        number: 0,
        at: request.now,
        system: control.system_identifier,
        timeline,
        fork_lsn,
        restored_from: lock.as_ref().map(|lock| lock.restore.clone()),
    };
    let owner_generations = own_all(repositories, &record)?;
    let lift = |source| TakeoverError::Io { action: "remove", path: directory.join(LOCK_FILE), source };
    fault::point("takeover.after_owner").map_err(lift)?;
    let mut report = TakeoverReport {
        timeline,
        fork_lsn,
        promoted,
        was_locked: lock.is_some(),
        running,
        waiting_wal: 0,
        owner_generations,
        notes,
    };
    settings::settle(directory, &mut report)?;
    Locked::remove(directory).map_err(lift)?;
    fault::point("takeover.after_unlock").map_err(lift)?;
    report.waiting_wal = waiting(directory);
    Ok(report)
}

/// The lock of a directory that may be taken over.
fn read_lock(directory: &Path) -> Result<Option<Locked>, TakeoverError> {
    let lock = Locked::read(directory).map_err(|source| TakeoverError::Io {
        action: "read",
        path: directory.join(LOCK_FILE),
        source,
    })?;
    match lock.as_ref().filter(|lock| lock.purpose == Purpose::Copy) {
        None => Ok(lock),
        Some(lock) => {
            Err(TakeoverError::IsCopy { path: directory.to_owned(), source_name: lock.source.clone() })
        }
    }
}

/// Makes sure that the cluster in a directory can become the source before anything is recorded: it is no copy and no
/// standby, and a stopped one has ended its recovery.
///
/// # Errors
/// As [`takeover`]; nothing was changed.
pub fn check_new_cluster(directory: &Path) -> Result<ControlFile, TakeoverError> {
    read_lock(directory)?;
    let (control, _) = read_settled(directory)?;
    if directory.join("standby.signal").exists() {
        return Err(TakeoverError::NotRecovered { path: directory.to_owned() });
    }
    match server_state(directory)? {
        ServerState::Running(_) => {}
        ServerState::Doubtful { why } => {
            return Err(TakeoverError::Doubtful { path: directory.to_owned(), why });
        }
        ServerState::NotRunning { .. } => check_finished(directory, &control)?,
    }
    Ok(control)
}

/// Every repository must know the source, and know it as this cluster.
fn check_cluster(
    directory: &Path,
    repositories: &[Kept<'_>],
    found: SystemIdentifier,
) -> Result<(), TakeoverError> {
    for Kept { repository, source } in repositories {
        let repository_name = || repository.store().describe().to_owned();
        let known = repository.source(*source).map_err(|source| TakeoverError::NotRecorded {
            repository: repository_name(),
            recorded: Vec::new(),
            source,
        })?;
        let known = known.ok_or_else(|| TakeoverError::NoSuchSource { repository: repository_name() })?;
        if let Some(expected) = known.system.filter(|system| *system != found) {
            return Err(TakeoverError::Foreign { path: directory.to_owned(), found, expected });
        }
    }
    Ok(())
}

/// Ends the recovery of a running server that has gone as far as it shall; says whether there was one to end.
fn end_recovery(
    request: &TakeoverRequest,
    promoting: &dyn Fn() -> io::Result<Held>,
    progress: &dyn Progress,
) -> Result<(bool, Vec<String>), TakeoverError> {
    let session = Session::connect_to(&request.data_directory, &request.connection)?;
    let promoted = session.is_in_recovery()?;
    if promoted {
        progress.phase("ending recovery", 0);
        replay::wait_until_settled(&session)?;
        let fail =
            |source| TakeoverError::Io { action: "promote", path: request.data_directory.clone(), source };
        let _held = promoting().map_err(fail)?;
        fault::point("takeover.before_promotion").map_err(fail)?;
        replay::promote(&request.data_directory, &session, request.patience)?;
    }
    let mut notes = Vec::new();
    if session.show("archive_mode")? == "off" {
        notes.push(
            "archive_mode is off: nothing is archived until the server is restarted with it on".to_owned(),
        );
    }
    session.close();
    Ok((promoted, notes))
}

/// A stopped server must have ended its recovery: before that nobody knows its timeline.
fn check_finished(directory: &Path, control: &ControlFile) -> Result<(), TakeoverError> {
    let waits = ["recovery.signal", "standby.signal", "backup_label"]
        .iter()
        .any(|name| directory.join(name).exists());
    let finished = control.checkpoint.location != POISONED_CHECKPOINT
        && control.backup_start.is_none()
        && control.min_recovery_point.is_none();
    if waits || !finished {
        return Err(TakeoverError::NotRecovered { path: directory.to_owned() });
    }
    Ok(())
}

/// The timeline that the cluster writes, and where it left its parent.
fn timeline(directory: &Path) -> Result<(TimelineId, Option<Lsn>), TakeoverError> {
    let (control, _) = read_settled(directory)?;
    let timeline = control.timeline();
    let history = fs::read(directory.join(format!("pg_wal/{:08X}.history", timeline.get()))).ok();
    let history = history.and_then(|bytes| TimelineHistory::parse(timeline, &bytes).ok());
    let fork = history.and_then(|history| history.forks().last().map(|fork| fork.at));
    Ok((timeline, fork))
}

/// Records the owner in every repository; one that fails does not keep the others from knowing.
fn own_all(
    repositories: &[Kept<'_>],
    record: &dyn Fn(&Kept<'_>) -> OwnerRecord,
) -> Result<Vec<u64>, TakeoverError> {
    let (mut generations, mut recorded, mut failed) = (Vec::new(), Vec::new(), None);
    for kept in repositories {
        let name = kept.repository.store().describe().to_owned();
        match own(kept.repository, record(kept)) {
            Ok(number) => {
                generations.push(number);
                recorded.push(name);
            }
            Err(error) => failed = failed.or(Some((name, error))),
        }
    }
    match failed {
        None => Ok(generations),
        Some((repository, source)) => Err(TakeoverError::NotRecorded { repository, recorded, source }),
    }
}

/// Records the owner, unless a call that was interrupted did.
fn own(repository: &Repository, record: OwnerRecord) -> Result<u64, RepoError> {
    let same = |owner: &OwnerRecord| {
        (owner.system, owner.timeline, owner.fork_lsn, &owner.restored_from)
            == (record.system, record.timeline, record.fork_lsn, &record.restored_from)
    };
    match repository.owner(record.source)? {
        Some(owner) if same(&owner) => Ok(owner.number),
        _ => Ok(repository.put_owner(record)?.number),
    }
}

/// Files that the archiver will push now.
fn waiting(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory.join("pg_wal/archive_status")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".ready")).count() as u64
}
