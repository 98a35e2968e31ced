//! Commits: writing one, listing them.

use std::ops::ControlFlow;
use std::sync::Arc;

use refloat_store::Key;
use refloat_types::{BackupId, ObjectId, SourceId, fault};

use super::{KnownCommit, Repository};
use crate::commit::{Commit, CommitNames, CommitRecord, PackUse, decode_packs, encode_packs};
use crate::crypt::random;
use crate::crypt::seal::DataKey;
use crate::error::RepoError;
use crate::kind::Kind;
use crate::layout;
use crate::object::{Body, Document};
use crate::pack::reader::PackKeys;

/// Largest commit accepted: 5 million packs.
pub(super) const MAX_COMMIT: u64 = 256 << 20;

/// What a commit whose signature holds says.
pub(super) fn commit_of(key: &Key, document: &Document) -> Result<CommitRecord, RepoError> {
    let sections = document.unverified();
    let commit: Commit = sections.clear_as(key.as_str())?;
    if *key != layout::commit(commit.source, commit.number, commit.backup) {
        return Err(RepoError::damaged(key, "it lies under another backup's name"));
    }
    let packs = decode_packs(key.as_str(), sections.table)?;
    Ok(CommitRecord { commit, packs, agent: document.header.agent })
}

impl Repository {
    /// The number of the next commit of `source`: 1 + the highest there is.
    ///
    /// # Errors
    /// When the store cannot list.
    pub fn next_commit_number(&self, source: SourceId) -> Result<u64, RepoError> {
        Ok(1 + self.highest_number(&layout::commits(source))?)
    }

    pub(super) fn highest_number(&self, prefix: &str) -> Result<u64, RepoError> {
        let mut highest = 0;
        self.store.list(prefix, &mut |info| {
            highest = highest.max(layout::number_of(&info.key).unwrap_or(0));
            ControlFlow::Continue(())
        })?;
        Ok(highest)
    }

    /// Makes a backup visible. Everything it names must be durable already.
    ///
    /// # Errors
    /// The backup may or may not exist; ask for it by its id.
    pub fn put_commit(
        &self,
        commit: &Commit,
        packs: &[PackUse],
        names: &CommitNames,
        key: Option<&DataKey>,
    ) -> Result<(), RepoError> {
        let body = serde_json::to_vec(names).map_err(|e| RepoError::internal("write a commit", e))?;
        let object = layout::commit(commit.source, commit.number, commit.backup);
        fault::point("backup.before_commit").map_err(|e| RepoError::internal("commit the backup", e))?;
        let id = random::object_id();
        self.put_signed(&object, Kind::Commit, id, commit, &encode_packs(packs), Body::Sealed(&body, key))?;
        fault::point("backup.after_commit").map_err(|e| RepoError::internal("commit the backup", e))
    }

    /// Keys of all commits of `source`, in the order of their numbers, oldest first.
    ///
    /// # Errors
    /// When the store cannot list.
    pub fn commit_keys(&self, source: SourceId) -> Result<Vec<Key>, RepoError> {
        let mut keys = Vec::new();
        self.store.list(&layout::commits(source), &mut |info| {
            keys.push(info.key);
            ControlFlow::Continue(())
        })?;
        keys.sort();
        Ok(keys)
    }

    /// Reads and verifies one commit.
    ///
    /// # Errors
    /// `Damaged`, `UnknownOrigin`, or what the store says.
    pub fn read_commit(&self, key: &Key) -> Result<CommitRecord, RepoError> {
        commit_of(key, &self.get_signed(key, Kind::Commit, MAX_COMMIT)?)
    }

    /// Opens the sealed part of a commit.
    ///
    /// # Errors
    /// `NoKey` when this host cannot read it.
    pub fn read_commit_names(&self, record: &CommitRecord) -> Result<CommitNames, RepoError> {
        let commit = &record.commit;
        let key = layout::commit(commit.source, commit.number, commit.backup);
        self.open_document(&key, &self.get_signed(&key, Kind::Commit, MAX_COMMIT)?)
    }

    /// All backups of `source` that can be believed, oldest first; `wrong` gets the others. What this host has read
    /// before is not read again: see [`CommitCache`](super::CommitCache).
    ///
    /// # Errors
    /// When the store cannot list.
    pub fn known_commits(
        &self,
        source: SourceId,
        wrong: &mut dyn FnMut(&Key, RepoError),
    ) -> Result<Vec<KnownCommit>, RepoError> {
        let mut infos = Vec::new();
        self.store.list(&layout::commits(source), &mut |info| {
            infos.push(info);
            ControlFlow::Continue(())
        })?;
        infos.sort_by(|a, b| a.key.cmp(&b.key));
        let mut cache = self.commit_cache(source);
        let mut out = Vec::with_capacity(infos.len());
        for info in &infos {
            match cache.read(info) {
                Ok(known) => out.push(known),
                Err(RepoError::Store(error)) if error.is_retryable() => return Err(error.into()),
                Err(error) => wrong(&info.key, error),
            }
        }
        cache.close();
        Ok(out)
    }

    /// The commits of [`known_commits`](Self::known_commits), without names.
    ///
    /// # Errors
    /// When the store cannot list.
    pub fn list_commits(
        &self,
        source: SourceId,
        wrong: &mut dyn FnMut(&Key, RepoError),
    ) -> Result<Vec<CommitRecord>, RepoError> {
        Ok(self.known_commits(source, wrong)?.into_iter().map(|known| known.record).collect())
    }

    /// Finds a backup of `source` by its id.
    ///
    /// # Errors
    /// When the store cannot list, or the commit cannot be believed.
    pub fn find_commit(&self, source: SourceId, id: BackupId) -> Result<Option<CommitRecord>, RepoError> {
        let ending = format!("-{id}");
        let key = self.commit_keys(source)?.into_iter().find(|key| key.as_str().ends_with(&ending));
        key.map(|key| self.read_commit(&key)).transpose()
    }

    /// How many backups were stored before encryption was turned on, and need something that is readable to everybody.
    ///
    /// # Errors
    /// When the store cannot list.
    pub fn unencrypted_backups(&self) -> Result<u64, RepoError> {
        if !self.was_plain() {
            return Ok(0);
        }
        let mut count = 0;
        for source in self.own_sources()? {
            let commits = self.list_commits(source, &mut |_, _| {})?;
            let is_plain =
                |record: &&CommitRecord| record.packs.iter().any(|pack| pack.key == ObjectId::NONE);
            count += commits.iter().filter(is_plain).count() as u64;
        }
        Ok(count)
    }

    /// Opens every key that the packs of a backup need.
    ///
    /// # Errors
    /// `NoKey` when this host cannot open one of them.
    pub fn pack_keys(&self, record: &CommitRecord) -> Result<PackKeys, RepoError> {
        self.open_pack_keys(record, true)
    }

    /// The keys of a backup's packs, as far as this host needs them to build on it: where it cannot read, those of the page
    /// maps that it has made itself.
    ///
    /// # Errors
    /// `NoKey` when a host that can read cannot open one of them.
    pub fn map_keys(&self, record: &CommitRecord) -> Result<PackKeys, RepoError> {
        self.open_pack_keys(record, self.can_read())
    }

    fn open_pack_keys(&self, record: &CommitRecord, all: bool) -> Result<PackKeys, RepoError> {
        let mut keys = PackKeys::default();
        for pack in record.packs.iter() {
            keys.packs.insert(pack.id, pack.key);
            if pack.key != ObjectId::NONE && !keys.keys.contains_key(&pack.key) {
                let opened: Arc<DataKey> = match self.open_key(pack.key) {
                    Err(RepoError::NoKey { .. }) if !all => continue,
                    other => other?,
                };
                keys.keys.insert(pack.key, opened);
            }
        }
        Ok(keys)
    }
}
