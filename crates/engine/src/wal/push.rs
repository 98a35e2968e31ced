//! `archive_command`: one WAL file into every repository, acknowledged when as many hold it durably as must.
//!
//! A file that is torn, recycled or another cluster's is refused before anything is stored: PostgreSQL keeps it and
//! offers it again. A crash at any point leaves in each repository nothing or the whole file.

mod error;
mod unfinished;
mod warning;

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use refloat_pg::control::{self, ControlFile};
use refloat_repo::Repository;
use refloat_repo::compress::Compression;
use refloat_types::{ByteSize, SourceName, SystemIdentifier, TimelineId, Timestamp, WalFileName};

use super::check::{self, Known};
use super::keep::{self, Refusal, Task};
use crate::locked::{Locked, Purpose};

pub use super::keep::Writer;
pub use error::PushError;
pub use warning::PushWarning;

/// How to push.
#[derive(Debug, Clone)]
pub struct PushOptions<'a> {
    /// How to compress.
    pub compression: Compression,
    /// Host time, stored with the file.
    pub now: Timestamp,
    /// The cluster; read from the data directory's control file when `None`.
    pub expected_system: Option<SystemIdentifier>,
    /// The data directory of the server: where its lock and its control file are.
    pub data_directory: Option<&'a Path>,
    /// The source, so that a repository can be asked whether this is its cluster, and this server still the one.
    pub source: Option<&'a SourceName>,
    /// So many repositories must hold the file before it is acknowledged; at least one, at most all.
    pub acknowledge: usize,
    /// No step begins after this long. Each call to a store has its own deadline in the store.
    pub deadline: Duration,
}

/// A repository that does not hold a file which is acknowledged all the same.
#[derive(Debug)]
pub struct LeftBehind {
    /// Its place among those that were asked.
    pub place: usize,
    /// Why it does not.
    pub error: PushError,
}

/// How a push ended well.
#[derive(Debug)]
pub enum Pushed {
    /// Enough repositories hold it.
    Stored(Stored),
    /// The server is a declared copy: nothing was stored, and PostgreSQL may recycle the file.
    Discarded {
        /// The file.
        name: WalFileName,
        /// The source that the copy was made of.
        copy_of: String,
    },
}

/// A file that enough repositories hold.
#[derive(Debug)]
pub struct Stored {
    /// Which.
    pub name: WalFileName,
    /// Its bytes.
    pub file_bytes: u64,
    /// Those that hold it, in the order that was asked for.
    pub repositories: Vec<StoredIn>,
    /// Those that do not, while enough others do.
    pub left_behind: Vec<LeftBehind>,
    /// How long it took.
    pub seconds: f64,
    /// What a person should see.
    pub warnings: Vec<PushWarning>,
}

/// What one repository holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredIn {
    /// The repository's store.
    pub repository: String,
    /// Size of the object.
    pub stored_bytes: u64,
    /// It was there before, with the same bytes.
    pub already_there: bool,
    /// An object of that name was there, damaged, and was replaced.
    pub replaced_damaged: bool,
    /// It is the end of a timeline that was left, and another server's, of other length, is there too.
    pub other_end: bool,
}

impl fmt::Display for Stored {
    /// One line for a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "archived {}: {}", self.name, ByteSize(self.file_bytes))?;
        match self.repositories.as_slice() {
            [one] if one.already_there => f.write_str(", was there already")?,
            [one] => write!(f, " as {}", ByteSize(one.stored_bytes))?,
            many => write!(f, " in {} repositories", many.len())?,
        }
        if !self.left_behind.is_empty() {
            write!(f, ", {} behind", self.left_behind.len())?;
        }
        write!(f, " in {:.2} s", self.seconds)
    }
}

/// Stores the WAL file at `path` in `repositories`.
///
/// # Errors
/// When too few of them hold it: then PostgreSQL must keep the file and offer it again.
pub fn push(
    repositories: &[&Repository],
    options: &PushOptions<'_>,
    path: &Path,
) -> Result<Pushed, PushError> {
    let started = Instant::now();
    let name = file_name(path)?;
    if let Some(discarded) = refuse_locked(options, name)? {
        return Ok(discarded);
    }
    if repositories.is_empty() {
        return Err(PushError::NoRepository);
    }
    let (system, control) = cluster(options)?;
    let keys: Vec<[u8; 32]> = repositories.iter().map(|repository| *repository.naming_key()).collect();
    let known = Known { system, keys: &keys, compression: options.compression };
    let file = check::check(path, name, &known).or_else(|refused| {
        let control = control.as_ref().filter(|_| matches!(refused, PushError::Segment { .. }));
        match control.and_then(|control| unfinished::name(path, name, control)) {
            Some(partial) => check::check(path, partial, &known).map_err(|_| refused),
            None => Err(refused),
        }
    })?;
    let name = file.name;
    let mut warnings: Vec<PushWarning> = warning::unknown_version(&file).into_iter().collect();
    let history = match name {
        WalFileName::Segment(segment) | WalFileName::Partial(segment)
            if segment.timeline != TimelineId::FIRST =>
        {
            Some((segment.timeline, check::local_history(path, segment.timeline, &keys)?))
        }
        _ => None,
    };
    let task = Task {
        file: &file,
        system,
        now: options.now,
        compression: options.compression,
        history,
        until: started + options.deadline,
    };
    let (stored, left_behind) = keep_everywhere(repositories, &task, options.acknowledge)?;
    // One that did not take the file is not asked once more: PostgreSQL waits.
    let holds = |place: usize| left_behind.iter().all(|left| left.place != place);
    let holders = repositories.iter().enumerate().filter(|(place, _)| holds(*place));
    let holders: Vec<&Repository> = holders.map(|(_, repository)| *repository).collect();
    warnings.extend(warning::of_source(&holders, options, control.as_ref(), &task));
    warnings.extend(stored.iter().flat_map(warning::of_repository));
    Ok(Pushed::Stored(Stored {
        name,
        file_bytes: file.size,
        repositories: stored,
        left_behind,
        seconds: started.elapsed().as_secs_f64(),
        warnings,
    }))
}

fn file_name(path: &Path) -> Result<WalFileName, PushError> {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    name.parse().map_err(|source| PushError::Name { source })
}

/// A restored directory pushes nothing before it is taken over.
fn refuse_locked(options: &PushOptions<'_>, name: WalFileName) -> Result<Option<Pushed>, PushError> {
    let Some(directory) = options.data_directory else { return Ok(None) };
    let locked = Locked::read(directory)
        .map_err(|source| PushError::LockUnreadable { directory: directory.to_owned(), source })?;
    match locked {
        None => Ok(None),
        Some(locked) if locked.purpose == Purpose::Copy => {
            Ok(Some(Pushed::Discarded { name, copy_of: locked.source }))
        }
        Some(locked) => Err(PushError::Locked { source_name: locked.source, at: locked.at }),
    }
}

/// Which cluster's WAL it is, and what the server's control file says where there is one.
fn cluster(options: &PushOptions<'_>) -> Result<(SystemIdentifier, Option<ControlFile>), PushError> {
    let control = options.data_directory.map(|directory| control::read_settled(directory).map(|(it, _)| it));
    match (options.expected_system, control) {
        (Some(system), control) => Ok((system, control.and_then(Result::ok))),
        (None, Some(Ok(control))) => Ok((control.system_identifier, Some(control))),
        (None, Some(Err(error))) => Err(PushError::Control(error)),
        (None, None) => Err(PushError::WhoseWal),
    }
}

/// Stores the file in all repositories, at once when they are several; one that fails does not keep it from the others.
fn keep_everywhere(
    repositories: &[&Repository],
    task: &Task<'_>,
    acknowledge: usize,
) -> Result<(Vec<StoredIn>, Vec<LeftBehind>), PushError> {
    let results: Vec<Result<StoredIn, Refusal>> = match repositories {
        [one] => vec![keep::keep(one, 0, task)],
        many => std::thread::scope(|scope| {
            let mut started = Vec::with_capacity(many.len());
            for (index, repository) in many.iter().copied().enumerate() {
                let thread = std::thread::Builder::new()
                    .spawn_scoped(scope, move || keep::keep(repository, index, task));
                started.push((index, repository, thread));
            }
            let mut results = Vec::with_capacity(many.len());
            for (index, repository, thread) in started {
                results.push(match thread {
                    Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    // A thread that cannot be started (too many processes) is no reason not to archive.
                    Err(_) => keep::keep(repository, index, task),
                });
            }
            results
        }),
    };
    let mut stored = Vec::new();
    let mut left_behind = Vec::new();
    for (place, (repository, result)) in repositories.iter().zip(results).enumerate() {
        match result {
            Ok(one) => stored.push(one),
            Err(refusal) => {
                left_behind.push(LeftBehind { place, error: PushError::refused(repository, task, refusal) });
            }
        }
    }
    // Where one of them keeps what it has over a power cut, one of those must have it.
    let is_durable = |place: usize| repositories[place].store().features().durable;
    let mut places = 0..repositories.len();
    let mut holders = places.clone().filter(|place| left_behind.iter().all(|left| left.place != *place));
    let is_safe = holders.any(is_durable) || !places.any(is_durable);
    if is_safe && stored.len() >= acknowledge.clamp(1, repositories.len()) {
        return Ok((stored, left_behind));
    }
    let mut errors: Vec<PushError> = left_behind.into_iter().map(|left| left.error).collect();
    match errors.len() {
        1 => Err(errors.remove(0)),
        _ => Err(PushError::Several { of: repositories.len(), errors }),
    }
}
