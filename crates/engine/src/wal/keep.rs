//! One WAL file into one repository: list, put, confirm, list again.
//!
//! A crash at any point leaves either nothing or the whole object; a second run with the same bytes finds it and makes
//! sure of it. Two different files of one name are both kept: which of them is right is a person's decision.

use std::time::Instant;

use refloat_repo::compress::Compression;
use refloat_repo::repository::StoredWal;
use refloat_repo::wal_object::{NewWal, name_digest};
use refloat_repo::{RepoError, Repository};
use refloat_store::{StoreError, StoreErrorKind};
use refloat_types::{ObjectId, SystemIdentifier, TimelineId, Timestamp, WalFileName, fault};

use super::check::Checked;
use super::push::StoredIn;

/// What all repositories have in common in one push.
pub(super) struct Task<'a> {
    pub(super) file: &'a Checked,
    pub(super) system: SystemIdentifier,
    pub(super) now: Timestamp,
    pub(super) compression: Compression,
    /// The timeline of a WAL segment above 1, and the digests of its history as this server has it.
    pub(super) history: Option<(TimelineId, Option<Vec<[u8; 32]>>)>,
    pub(super) until: Instant,
}

/// Who stored one of several files of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// Its object.
    pub object: String,
    /// The agent that signed it; `None` when that could not be read.
    pub agent: Option<ObjectId>,
    /// When it was stored, by that host's clock.
    pub stored: Option<Timestamp>,
    /// Is it the file that was pushed now?
    pub ours: bool,
}

/// Why one repository did not take it.
#[derive(Debug)]
pub(super) enum Refusal {
    Conflict(Vec<Writer>),
    OtherHistory { timeline: TimelineId, writers: Vec<Writer> },
    Late,
    Repo(RepoError),
}

impl From<RepoError> for Refusal {
    fn from(error: RepoError) -> Self {
        Self::Repo(error)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Repo(error.into())
    }
}

impl Task<'_> {
    fn in_time(&self) -> Result<(), Refusal> {
        if Instant::now() < self.until { Ok(()) } else { Err(Refusal::Late) }
    }
}

/// Stores the file in `repository`, the `index`-th of the push.
pub(super) fn keep(repository: &Repository, index: usize, task: &Task<'_>) -> Result<StoredIn, Refusal> {
    let digest = task.file.digests.get(index).expect("a digest was made for each repository");
    let short = name_digest(digest);
    refuse_other_history(repository, index, task)?;
    let found = repository.find_wal(task.system, task.file.name)?;
    let mut answer = StoredIn {
        repository: repository.store().describe().to_owned(),
        stored_bytes: 0,
        already_there: false,
        replaced_damaged: false,
        other_end: false,
    };
    if let Some(stored) = found.iter().find(|stored| stored.digest == short) {
        match confirm_existing(repository, stored, task, digest) {
            Ok(()) => (answer.already_there, answer.stored_bytes) = (true, stored.size),
            Err(Refusal::Repo(error)) if is_damage(&error) => {
                // It never was what we sent, or is no more: what is here is better.
                task.in_time()?;
                repository.store().delete(&stored.key)?;
                answer.replaced_damaged = true;
            }
            Err(other) => return Err(other),
        }
    }
    if !answer.already_there {
        put(repository, task, digest, &mut answer)?;
    }
    fault::point("wal.after_confirm").map_err(|e| RepoError::internal("acknowledge a WAL file", e))?;
    let all = repository.find_wal(task.system, task.file.name)?;
    if all.iter().any(|stored| stored.digest != short) {
        // Of two servers that left a timeline one may have been behind. Both ends are kept; no recovery asks for one, and
        // to refuse either would stop the archiving of everything behind it.
        if !matches!(task.file.name, WalFileName::Partial(_)) {
            return Err(Refusal::Conflict(writers(repository, &all, Some(&short))));
        }
        answer.other_end = true;
    }
    Ok(answer)
}

/// Whether an object is not what any agent wrote. A header that was changed shows as a signature that does not hold.
fn is_damage(error: &RepoError) -> bool {
    match error {
        RepoError::Damaged { .. } | RepoError::UnknownOrigin { .. } => true,
        RepoError::Store(error) => error.kind == StoreErrorKind::Truncated,
        _ => false,
    }
}

fn put(
    repository: &Repository,
    task: &Task<'_>,
    digest: &[u8; 32],
    answer: &mut StoredIn,
) -> Result<(), Refusal> {
    task.in_time()?;
    let fact = |value: Result<serde_json::Value, serde_json::Error>| {
        value.map_err(|e| RepoError::internal("write WAL facts", e))
    };
    let key = repository.writer_key(task.now)?;
    let wal = NewWal {
        name: task.file.name,
        system: task.system,
        size: task.file.size,
        digest: *digest,
        stored: task.now,
        facts: fact(serde_json::to_value(&task.file.facts))?,
        sealed_facts: fact(serde_json::to_value(&task.file.sealed))?,
        compression: task.compression,
        key: key.as_deref(),
        signing: repository.signing(),
    };
    match task.file.content.put(repository, &wal) {
        Ok((key, size)) => {
            answer.stored_bytes = size;
            let stored = StoredWal { key, name: task.file.name, digest: name_digest(digest), size };
            confirm_new(repository, &stored, task, digest)
        }
        // Somebody else stores the same file at the same moment.
        Err(RepoError::Store(error)) if error.kind == StoreErrorKind::AlreadyExists => {
            let found = repository.find_wal(task.system, task.file.name)?;
            let stored = found.iter().find(|stored| stored.digest == name_digest(digest)).ok_or(error)?;
            (answer.already_there, answer.stored_bytes) = (true, stored.size);
            confirm_existing(repository, stored, task, digest)
        }
        Err(error) => Err(error.into()),
    }
}

/// A store that promises durability is asked for the size, any other is read back.
fn confirm_new(
    repository: &Repository,
    stored: &StoredWal,
    task: &Task<'_>,
    digest: &[u8; 32],
) -> Result<(), Refusal> {
    task.in_time()?;
    let store = repository.store();
    let unconfirmed = |text: String| {
        let source = std::io::Error::other(text);
        let key = stored.key.as_str();
        Refusal::from(StoreError::new(StoreErrorKind::Unconfirmed, "confirm", key, store.describe(), source))
    };
    let size = match store.head(&stored.key)? {
        None => {
            return Err(unconfirmed("the store said it was stored, and has no such object".to_owned()));
        }
        Some(info) => info.size,
    };
    if size < stored.size {
        // Taken away, so that the next attempt finds the name free. Where that may not be done, it will be told then.
        if let Err(error) = store.delete(&stored.key) {
            tracing::debug!(key = %stored.key, %error, "a part of a WAL file stays");
        }
    }
    if size != stored.size {
        return Err(unconfirmed(format!("{} bytes were put, the store holds {size}", stored.size)));
    }
    if store.features().durable {
        return Ok(());
    }
    match read_back(repository, stored, digest) {
        Err(Refusal::Repo(error)) if is_damage(&error) => {
            Err(unconfirmed(format!("the store holds other bytes than were put: {error}")))
        }
        other => other,
    }
}

/// An object that was there before: read as a whole, since nobody remembers how it came, and made durable, since whoever
/// put it may have died before it was.
fn confirm_existing(
    repository: &Repository,
    stored: &StoredWal,
    task: &Task<'_>,
    digest: &[u8; 32],
) -> Result<(), Refusal> {
    task.in_time()?;
    read_back(repository, stored, digest)?;
    Ok(repository.store().settle(&stored.key)?)
}

/// Reads an object and compares it with what was pushed. Where this host holds no key for it, its signed head must do.
fn read_back(repository: &Repository, stored: &StoredWal, digest: &[u8; 32]) -> Result<(), Refusal> {
    let head = repository.read_wal_head(stored)?;
    if head.clear.digest != *digest {
        return Err(RepoError::damaged(&stored.key, "its digest is not the one in its name").into());
    }
    match repository.read_wal(&head, &mut |_| Ok(())) {
        Err(RepoError::NoKey { .. }) => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// A timeline that two servers have begun has two histories; WAL of the second one must not mix with that of the first.
fn refuse_other_history(repository: &Repository, index: usize, task: &Task<'_>) -> Result<(), Refusal> {
    let Some((timeline, own)) = &task.history else { return Ok(()) };
    let own = own.as_ref().and_then(|digests| digests.get(index)).map(name_digest);
    let stored = repository.find_wal(task.system, WalFileName::History(*timeline))?;
    let differs = match own {
        Some(own) => stored.iter().any(|stored| stored.digest != own),
        // Not known here: nothing can be said unless the repository itself is of two minds.
        None => stored.len() > 1,
    };
    if differs {
        let writers = writers(repository, &stored, own.as_ref());
        return Err(Refusal::OtherHistory { timeline: *timeline, writers });
    }
    Ok(())
}

/// Who wrote these objects.
pub(super) fn writers(repository: &Repository, all: &[StoredWal], own: Option<&[u8; 16]>) -> Vec<Writer> {
    let writer = |stored: &StoredWal| {
        let head = repository.read_wal_head(stored).ok();
        Writer {
            object: stored.key.to_string(),
            agent: head.as_ref().map(|head| head.header.agent),
            stored: head.as_ref().map(|head| head.clear.stored),
            ours: own == Some(&stored.digest),
        }
    };
    all.iter().map(writer).collect()
}
