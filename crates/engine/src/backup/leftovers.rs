//! What a crashed backup leaves behind, and one backup of a source at a time on a host.
//!
//! Every pack is noted in the state directory before it is begun, and beside that note a journal tells what is in it. A backup
//! that ends well removes both. What is left of one that died or failed serves the next backup of the source as a second
//! source of pages ([`Crashed`]); when that one has committed, it deletes the packs that it has not used, after it has made sure
//! that no commit names them and nobody is still making that backup elsewhere. What cannot serve is deleted before.

mod crashed;
mod journal;
mod survey;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use refloat_repo::{RepoError, Repository};
use refloat_types::{BackupId, ObjectId, SourceId, SourceName, SystemIdentifier, Timestamp};
use serde::{Deserialize, Serialize};

use super::{BackupError, BackupRequest};

pub(super) use crashed::{Crashed, CrashedReader, Remains};
pub(super) use journal::Header;
pub(super) use survey::{clear, survey};

use journal::{Journal, VERSION};

/// Held while a backup of a source runs; the kernel lets go of it when the process dies.
#[derive(Debug)]
pub(super) struct SourceLock {
    _file: File,
}

#[derive(Serialize, Deserialize)]
struct Holder {
    pid: u32,
    since: Timestamp,
}

fn state_error(action: &'static str, path: &Path, source: io::Error) -> BackupError {
    BackupError::State { action, path: path.to_owned(), source }
}

impl SourceLock {
    /// Takes the lock, or says who holds it.
    pub(super) fn take(
        repository: &Repository,
        source: &SourceName,
        now: Timestamp,
    ) -> Result<Self, BackupError> {
        let path = repository.state().directory("sources")?.join(format!("{source}.lock"));
        let fail = |action, source| state_error(action, &path, source);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| fail("open", e))?;
        if let Err(error) = file.try_lock() {
            if matches!(error, fs::TryLockError::Error(_)) {
                return Err(fail("lock", error.into()));
            }
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(|e| fail("read", e))?;
            let holder: Option<Holder> = serde_json::from_str(&text).ok();
            let (pid, since) = holder.map_or((0, "just now".to_owned()), |h| (h.pid, h.since.to_string()));
            return Err(BackupError::Running { name: source.to_string(), pid, since });
        }
        let holder = Holder { pid: std::process::id(), since: now };
        let text = serde_json::to_vec(&holder).map_err(|e| fail("write", e.into()))?;
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&text));
        written.map_err(|e| fail("write", e))?;
        Ok(Self { _file: file })
    }
}

/// The note of a backup that runs, and its journal.
pub(super) struct Note {
    path: PathBuf,
    file: Mutex<File>,
    journal: Journal,
}

/// How the name of a journal ends; before that stands the name of its note.
const JOURNAL: &str = ".journal";

fn journal_of(note: &Path) -> PathBuf {
    note.with_extension(&JOURNAL[1..])
}

fn directory(repository: &Repository, source: SourceId) -> Result<PathBuf, RepoError> {
    repository.state().directory(&format!("repositories/{}/running/{source}", repository.marker().id))
}

/// What must agree between a backup and the journal of one that died, their keys apart.
pub(super) fn header(request: &BackupRequest<'_>, system: SystemIdentifier) -> Header {
    Header {
        version: VERSION,
        host: request.host.clone(),
        data_directory: request.data_directory.display().to_string(),
        system,
        key: ObjectId::NONE,
    }
}

impl Note {
    /// Begins the note of a new backup.
    pub(super) fn begin(
        repository: &Repository,
        source: SourceId,
        backup: BackupId,
        header: &Header,
    ) -> Result<Self, BackupError> {
        let path = directory(repository, source)?.join(backup.as_str());
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|e| state_error("create", &path, e))?;
        let journal = Journal::begin(journal_of(&path), header);
        Ok(Self { path, file: Mutex::new(file), journal })
    }
    /// Notes a pack that will be begun now.
    pub(super) fn announce(&self, pack: ObjectId) -> Result<(), RepoError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{pack}").map_err(|source| RepoError::State {
            action: "write",
            path: self.path.display().to_string(),
            source,
        })
    }
    /// Notes where the bytes of a range are put.
    pub(super) fn leaf(&self, path: &[u8], span: usize, encoded: &[u8]) {
        self.journal.leaf(path, span as u64, encoded);
    }
    /// The backup is committed.
    pub(super) fn done(&self) -> Result<(), BackupError> {
        let journal = journal_of(&self.path);
        match fs::remove_file(&journal) {
            // Where it could not be made there is none.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(state_error("remove", &journal, error));
            }
            _ => {}
        }
        fs::remove_file(&self.path).map_err(|e| state_error("remove", &self.path, e))
    }
}
