//! What a crashed backup leaves behind, and one backup of a source at a time on a host.
//!
//! Every pack is noted in the state directory before it is begun. A backup that ends well, or fails cleanly, removes its
//! note; the next backup deletes the packs of notes that are left, after it has made sure that no commit names them and nobody
//! is still making that backup elsewhere.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use refloat_repo::{RepoError, Repository, layout};
use refloat_types::{BackupId, ObjectId, SourceId, SourceName, Timestamp};
use serde::{Deserialize, Serialize};

use super::BackupError;
use crate::guard::{Guard, living};

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

fn state_error(action: &'static str, path: &std::path::Path, source: io::Error) -> BackupError {
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

/// The note of a backup that runs.
pub(super) struct Note {
    path: PathBuf,
    file: Mutex<File>,
}

fn directory(repository: &Repository, source: SourceId) -> Result<PathBuf, RepoError> {
    repository.state().directory(&format!("repositories/{}/running/{source}", repository.marker().id))
}

impl Note {
    /// Begins the note of a new backup.
    pub(super) fn begin(
        repository: &Repository,
        source: SourceId,
        backup: BackupId,
    ) -> Result<Self, BackupError> {
        let path = directory(repository, source)?.join(backup.as_str());
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|e| state_error("create", &path, e))?;
        Ok(Self { path, file: Mutex::new(file) })
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
    /// The backup is committed.
    pub(super) fn done(&self) -> Result<(), BackupError> {
        fs::remove_file(&self.path).map_err(|e| state_error("remove", &self.path, e))
    }
}

/// Clears what backups of this source that died on this host left in the repository. The source's lock must be held.
/// Answers how many packs were deleted.
///
/// A note alone proves nothing: a state directory may be a copy of one whose backup still runs elsewhere, or have come
/// back from the past, when the backup was committed, expired, and others were built on its packs. So what another holder
/// may still be making stays, and so does every pack that any commit of the source names.
pub(super) fn clear(
    repository: &Repository,
    source: SourceId,
    _held: &SourceLock,
    guard: &Guard<'_>,
) -> Result<u64, BackupError> {
    let directory = directory(repository, source)?;
    let fail = |action, source| state_error(action, &directory, source);
    let mut notes = Vec::new();
    for note in fs::read_dir(&directory).map_err(|e| fail("list", e))? {
        let path = note.map_err(|e| fail("list", e))?.path();
        let id = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<BackupId>().ok());
        notes.extend(id.map(|id| (id, path)));
    }
    if notes.is_empty() {
        return Ok(0);
    }
    let living = living(repository, guard.pin(), guard.store_now())?;
    let holder = guard.holder();
    // Somebody else may be making it, or building on it: it was committed for a moment, then withdrawn.
    notes.retain(|(id, _)| !living.elsewhere(*id, &holder) && !living.uses_elsewhere(source, *id, &holder));
    let named = match named_packs(repository, source) {
        Ok(named) => named,
        Err(RepoError::Store(error)) if error.is_retryable() => return Err(RepoError::Store(error).into()),
        Err(error) => {
            tracing::warn!(%error, "what backups that died left stays, because a commit cannot be read");
            return Ok(0);
        }
    };
    let mut cleared = 0;
    for (id, path) in notes {
        let text = fs::read_to_string(&path).map_err(|e| state_error("read", &path, e))?;
        let packs = text.lines().filter_map(|line| line.parse::<ObjectId>().ok());
        for pack in packs.filter(|pack| !named.contains(pack)) {
            let key = layout::pack(pack);
            if repository.store().head(&key).map_err(RepoError::from)?.is_some() {
                repository.store().delete(&key).map_err(RepoError::from)?;
                cleared += 1;
            }
        }
        if let Some(pin) = living.pin_of(id) {
            for key in &pin.keys {
                repository.store().delete(key).map_err(RepoError::from)?;
            }
        }
        fs::remove_file(&path).map_err(|e| state_error("remove", &path, e))?;
    }
    Ok(cleared)
}

/// Every pack that a commit of the source names.
fn named_packs(repository: &Repository, source: SourceId) -> Result<BTreeSet<ObjectId>, RepoError> {
    let mut named = BTreeSet::new();
    for key in repository.commit_keys(source)? {
        match repository.read_commit(&key) {
            Ok(record) => named.extend(record.packs.iter().map(|pack| pack.id)),
            // Expired between the list and the look.
            Err(RepoError::Missing { object }) if object == key.as_str() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(named)
}
