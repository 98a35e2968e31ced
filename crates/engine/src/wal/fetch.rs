//! `restore_command`: one WAL file out of the first repository that holds it whole.
//!
//! PostgreSQL takes any ordinary failure as the end of the archive: it ends recovery and promotes, and what follows is
//! lost without a word. So "not found" is said only when it is known; whatever else is wrong is tried again until the
//! deadline and then stops the recovery.
//!
//! The bytes are verified before the file gets its name; a crash leaves at most a temporary file beside it, which the
//! next run removes. Nothing is synced: PostgreSQL syncs the file itself when it takes it into `pg_wal`.
//!
//! PostgreSQL: `RestoreArchivedFile` and `KeepFileRestoredFromArchive` in `src/backend/access/transam/xlogarchive.c`.

mod absence;
mod error;

pub mod ahead;

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use refloat_repo::repository::{StoredWal, is_damage};
use refloat_repo::wal_object::Wanted;
use refloat_repo::{RepoError, Repository, layout};
use refloat_store::Key;
use refloat_types::{SystemIdentifier, WalFileName, fault};

use super::keep;

pub use error::{FetchError, Unanswered};

/// Pause before the second attempt; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How to fetch.
#[derive(Debug, Clone, Copy)]
pub struct FetchOptions {
    /// The cluster.
    pub system: SystemIdentifier,
    /// No attempt begins after this long.
    pub deadline: Duration,
    /// The server is a standby, which asks again by itself: one attempt is made.
    pub is_standby: bool,
}

/// A file that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Out of which repository.
    pub repository: String,
    /// Its bytes.
    pub bytes: u64,
    /// Why it does not come out of one before that, if so.
    pub passed_over: Vec<String>,
    /// Objects that are damaged in one before that: its place among the repositories, and the object.
    pub damaged: Vec<(usize, Key)>,
}

/// Writes the WAL file `name` to `dest`, which need not be absolute, out of the first of `repositories` that has it whole.
///
/// # Errors
/// [`FetchError::NotFound`] only when no repository has it and that is no hole; see [`FetchError::exit_code`].
pub fn fetch(
    repositories: &[&Repository],
    options: &FetchOptions,
    name: WalFileName,
    dest: &Path,
) -> Result<Fetched, FetchError> {
    let until = Instant::now() + options.deadline;
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match attempt(repositories, options.system, name, dest) {
            Err(error) if error.may_pass() => error,
            other => return other,
        };
        let now = Instant::now();
        if options.is_standby || now + pause > until {
            return Err(error);
        }
        tracing::warn!(%name, %error, "asking again");
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Writes the WAL file `name` to `dest` out of `repository`, where it is there and whole. `None` says nothing about whether
/// it is: [`fetch`] does.
pub fn fetch_if_there(
    repository: &Repository,
    system: SystemIdentifier,
    name: WalFileName,
    dest: &Path,
) -> Option<Fetched> {
    let bytes = match out_of(repository, system, name, dest) {
        Ok(bytes) => bytes?,
        Err(trouble) => {
            tracing::debug!(%name, ?trouble, "it is looked for more thoroughly");
            return None;
        }
    };
    let repository = repository.store().describe().to_owned();
    Some(Fetched { repository, bytes, passed_over: Vec::new(), damaged: Vec::new() })
}

fn attempt(
    repositories: &[&Repository],
    system: SystemIdentifier,
    name: WalFileName,
    dest: &Path,
) -> Result<Fetched, FetchError> {
    let (mut unanswered, mut damaged) = (Vec::new(), Vec::new());
    for (place, repository) in repositories.iter().enumerate() {
        let describe = || repository.store().describe().to_owned();
        match out_of(repository, system, name, dest) {
            Ok(None) => {}
            Ok(Some(bytes)) => {
                let passed_over = unanswered.iter().map(ToString::to_string).collect();
                return Ok(Fetched { repository: describe(), bytes, passed_over, damaged });
            }
            Err(Trouble::Repo(source)) => {
                damaged.extend(
                    damaged_by(repository, system, name, &source).into_iter().map(|key| (place, key)),
                );
                unanswered.push(Unanswered { repository: describe(), source });
            }
            Err(Trouble::Conflict(stored)) => {
                let writers = keep::writers(repository, &stored, None);
                return Err(FetchError::Conflict { name, repository: describe(), writers });
            }
            Err(Trouble::Write(path, source)) => return Err(FetchError::Write { path, source }),
        }
    }
    if !unanswered.is_empty() || repositories.is_empty() {
        return Err(FetchError::Unanswered { name, unanswered });
    }
    // None has it. Whether that may be so is asked only now: the usual case is that the file is there.
    for repository in repositories {
        match absence::hole(repository, system, name) {
            Ok(None) => {}
            Ok(Some(hole)) => {
                let repository = repository.store().describe().to_owned();
                return Err(FetchError::Hole { name, repository, hole });
            }
            Err(source) => {
                let repository = repository.store().describe().to_owned();
                unanswered.push(Unanswered { repository, source });
                return Err(FetchError::Unanswered { name, unanswered });
            }
        }
    }
    Err(FetchError::NotFound { name })
}

/// What an error says to be damaged: the object that it names, and the file's own.
fn damaged_by(
    repository: &Repository,
    system: SystemIdentifier,
    name: WalFileName,
    error: &RepoError,
) -> Vec<Key> {
    if !is_damage(error) {
        return Vec::new();
    }
    let named = match error {
        RepoError::Damaged { object, .. }
        | RepoError::Missing { object }
        | RepoError::UnknownOrigin { object, .. } => object.parse().ok(),
        RepoError::NoKey { key, .. } => Some(layout::envelope(*key)),
        _ => None,
    };
    let found = repository.find_wal(system, name).unwrap_or_default();
    named.into_iter().chain(found.into_iter().map(|stored| stored.key)).collect()
}

/// Why one repository did not give it.
#[derive(Debug)]
enum Trouble {
    Repo(RepoError),
    Conflict(Vec<StoredWal>),
    Write(PathBuf, io::Error),
}

/// The file out of one repository: its bytes, `None` when it has none.
fn out_of(
    repository: &Repository,
    system: SystemIdentifier,
    name: WalFileName,
    dest: &Path,
) -> Result<Option<u64>, Trouble> {
    let found = repository.find_wal(system, name).map_err(Trouble::Repo)?;
    one_of(repository, found, Wanted::Now, dest)
}

/// The file of which this was found in a repository: its bytes, `None` when that is nothing.
fn one_of(
    repository: &Repository,
    mut found: Vec<StoredWal>,
    wanted: Wanted,
    dest: &Path,
) -> Result<Option<u64>, Trouble> {
    let stored = match found.len() {
        0 => return Ok(None),
        1 => found.remove(0),
        _ => return Err(Trouble::Conflict(found)),
    };
    let file = Temporary::create(dest)?;
    let failed = Mutex::new(None);
    let read = repository.place_wal(&stored, wanted, &|offset, bytes| {
        let written = file.file.write_all_at(bytes, offset);
        written.map_err(|error| {
            let kind = error.kind();
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            kind.into()
        })
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(Trouble::Write(file.path.clone(), error));
    }
    let head = read.map_err(Trouble::Repo)?;
    fault::point("wal.fetch.before_rename").map_err(|e| Trouble::Write(dest.to_owned(), e))?;
    file.place(dest)?;
    Ok(Some(head.clear.size))
}

/// A file beside the destination, removed unless it was placed.
struct Temporary {
    path: PathBuf,
    file: fs::File,
    placed: bool,
}

impl Temporary {
    fn create(dest: &Path) -> Result<Self, Trouble> {
        // One name for each destination: PostgreSQL asks for one file at a time, and what a killed run left is reused.
        let mut name = std::ffi::OsString::from(".");
        name.push(dest.file_name().unwrap_or_default());
        name.push(".refloat");
        let path = dest.with_file_name(name);
        let _ = fs::remove_file(&path);
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match opened {
            Ok(file) => Ok(Self { path, file, placed: false }),
            Err(error) => Err(Trouble::Write(path, error)),
        }
    }

    fn place(mut self, dest: &Path) -> Result<(), Trouble> {
        fs::rename(&self.path, dest).map_err(|error| Trouble::Write(dest.to_owned(), error))?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            let _ = fs::remove_file(&self.path);
        }
    }
}
