//! What puts a damaged object right: bytes that this host has kept, or what another repository knows.
//!
//! Small signed objects that only this repository has are kept in the state directory as they are, once they were seen to
//! be right; commits too, so that a damaged one comes back with the signature that it had. Nothing that is kept is secret:
//! what is sealed stays sealed. Here objects are made; `engine/heal` decides when.

use std::ops::ControlFlow;
use std::sync::Arc;

use refloat_store::{Key, ObjectInfo, StoreErrorKind, read_whole};
use refloat_types::{BackupId, ObjectId, SourceId, SourceName, Timestamp};
use serde::{Deserialize, Serialize};

use super::{KnownCommit, Repository, state_name};
use crate::commit::{CommitNames, CommitRecord};
use crate::crypt::seal::DataKey;
use crate::error::RepoError;
use crate::layout::{self, Named};
use crate::pack::reader::PackKeys;
use crate::state::StateDirectory;

/// What the kernel says of a block that a disk cannot read.
const EIO: i32 = 5;

/// Larger objects are not kept.
const MAX_KEPT: u64 = 1 << 20;
/// So many commits are kept at once, the newest first: a host that comes to ten thousand of them does not stop for that.
const MOST_COMMITS: usize = 256;

/// Whether an object is small, and nothing but its own bytes can stand for it.
const fn is_kept(named: &Named) -> bool {
    matches!(
        named,
        Named::Repository
            | Named::Agent(_)
            | Named::Generation(_)
            | Named::Envelope(_)
            | Named::Rewrapped(..)
            | Named::Confirmation(_)
            | Named::Source(..)
            | Named::Owner(..)
            | Named::Commit(..)
            | Named::Hold(_)
            | Named::Release(_)
            | Named::Invitation(_)
            | Named::InvitationUsed(_)
            | Named::Kit(_)
    )
}

/// When copies were kept last, and of which store.
#[derive(Serialize, Deserialize)]
struct KeptFrom {
    store: String,
    at: Timestamp,
}

fn kept_file(key: &str) -> String {
    format!("kept/{}", key.replace('/', "_"))
}

/// File beside the copies that says where they are from.
const KEPT_FROM: &str = "kept/from.json";

/// The repositories that this host has kept copies of, from `store`.
fn kept_of(state: &StateDirectory, store: &str) -> Vec<ObjectId> {
    let Ok(known) = std::fs::read_dir(state.path().join("repositories")) else { return Vec::new() };
    let ids = known.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<ObjectId>().ok());
    // What cannot be read names no store: it is kept anew.
    let is_from = |id: &ObjectId| {
        let from = state.read::<KeptFrom>(&state_name(*id, KEPT_FROM)).ok().flatten();
        from.is_some_and(|from| from.store == store)
    };
    ids.filter(is_from).collect()
}

/// The repository object of `store` as this host has kept it, where its own is damaged. One that is not there is no
/// damage: an empty directory is where a disk is not mounted.
///
/// # Errors
/// When the state directory cannot be read.
pub(super) fn kept_marker(state: &StateDirectory, store: &str) -> Result<Option<Vec<u8>>, RepoError> {
    for id in kept_of(state, store) {
        let bytes = state.read_bytes(&state_name(id, &kept_file(layout::REPOSITORY)), MAX_KEPT)?;
        if bytes.is_some() {
            return Ok(bytes);
        }
    }
    Ok(None)
}

impl Repository {
    /// Keeps the repository object alone. That leaves the other copies due. What another repository has kept of the same
    /// store is of one that is not there any more.
    pub(super) fn keep_marker(&self, bytes: &[u8]) -> Result<(), RepoError> {
        for other in kept_of(&self.state, self.store.describe()) {
            if other != self.marker.id {
                self.state.remove(&state_name(other, KEPT_FROM))?;
            }
        }
        self.state.replace(&self.kept_name(&layout::repository()), bytes)?;
        let from = KeptFrom { store: self.store.describe().to_owned(), at: Timestamp::UNIX_EPOCH };
        self.state.write(&self.state_name(KEPT_FROM), &from)
    }

    fn kept_name(&self, key: &Key) -> String {
        self.state_name(&kept_file(key.as_str()))
    }

    /// Keeps copies as [`keep_copies`](Self::keep_copies) does; where that was done within `seldom`, only what is new of
    /// sources, which is what a backup adds.
    ///
    /// # Errors
    /// As there.
    pub fn keep_copies_seldom(&self, seldom: std::time::Duration, now: Timestamp) -> Result<u64, RepoError> {
        let name = self.state_name(KEPT_FROM);
        let store = self.store.describe().to_owned();
        // What cannot be read is made anew.
        let before: Option<KeptFrom> = self.state.read(&name).ok().flatten();
        let lately = |from: &KeptFrom| {
            from.store == store
                && from.at <= now
                && from.at.checked_add(seldom).is_ok_and(|until| now < until)
        };
        if before.as_ref().is_some_and(lately) {
            return self.keep_below(&[layout::SOURCES]);
        }
        let count = self.keep_copies()?;
        self.state.write(&name, &KeptFrom { store, at: now })?;
        Ok(count)
    }

    /// Keeps a copy of every small signed object that this host has not kept yet and that is right. Answers how many.
    ///
    /// # Errors
    /// When the store cannot list, or nothing can be kept.
    pub fn keep_copies(&self) -> Result<u64, RepoError> {
        let count = self.keep_below(&[
            layout::REPOSITORY,
            layout::AGENTS,
            "keys/",
            layout::SOURCES,
            layout::HOLDS,
            layout::INVITATIONS,
            layout::RESCUE,
        ])?;
        self.forget_expired()?;
        Ok(count)
    }

    fn keep_below(&self, prefixes: &[&str]) -> Result<u64, RepoError> {
        let (mut all, mut commits) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            self.store.list(prefix, &mut |info| {
                let named = Named::parse(&info.key).filter(is_kept);
                let is_new = |info: &ObjectInfo| {
                    info.size <= MAX_KEPT && !self.state.path().join(self.kept_name(&info.key)).exists()
                };
                match named {
                    Some(named @ Named::Commit(..)) if is_new(&info) => commits.push((named, info)),
                    Some(named) if is_new(&info) => all.push((named, info)),
                    _ => {}
                }
                ControlFlow::Continue(())
            })?;
        }
        commits.sort_by_key(|(_, info)| std::cmp::Reverse(info.created));
        commits.truncate(MOST_COMMITS);
        all.append(&mut commits);
        let mut count = 0;
        for (named, info) in all {
            let name = self.kept_name(&info.key);
            match self.inspect(&named) {
                Ok(inspected) => {
                    let bytes = read_whole(self.store.as_ref(), &info.key, MAX_KEPT)?;
                    // The repository object speaks of a generation, and has no digest of its own to compare.
                    if named == Named::Repository || *blake3::hash(&bytes).as_bytes() == inspected.digest {
                        self.state.replace(&name, &bytes)?;
                        count += 1;
                    }
                }
                Err(RepoError::Store(error)) if error.is_retryable() => return Err(error.into()),
                // What is damaged, or somebody else's, is not kept.
                Err(_) => {}
            }
        }
        Ok(count)
    }

    /// Commits that were deleted on purpose are not kept any longer. One that was lost is.
    fn forget_expired(&self) -> Result<(), RepoError> {
        let Ok(kept) = std::fs::read_dir(self.state.path().join(self.state_name("kept"))) else {
            return Ok(());
        };
        let mut commits = Vec::new();
        for entry in kept.flatten() {
            let key = entry.file_name().to_str().and_then(|name| name.replace('_', "/").parse::<Key>().ok());
            if let Some(key) = key
                && let Some(Named::Commit(source, number, _)) = Named::parse(&key)
            {
                commits.push((source, number, key));
            }
        }
        if commits.is_empty() {
            return Ok(());
        }
        let marked = self.marked()?;
        for (source, number, key) in commits {
            // What is marked stays for a while.
            if marked.has_commit(source, number) && self.store.head(&key)?.is_none() {
                self.state.remove(&self.kept_name(&key))?;
            }
        }
        Ok(())
    }

    /// The bytes of an object as this host has kept them; `None` also of a commit that was deleted on purpose.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn kept_copy(&self, named: &Named) -> Result<Option<Vec<u8>>, RepoError> {
        if !is_kept(named) {
            return Ok(None);
        }
        if let Named::Commit(source, number, _) = named
            && self.store.head(&named.key())?.is_none()
            && self.is_expired(*source, *number)?
        {
            return Ok(None);
        }
        self.state.read_bytes(&self.kept_name(&named.key()), MAX_KEPT)
    }

    /// Whether a commit was to be deleted: its packs may be gone, and nobody brings it back.
    fn is_expired(&self, source: SourceId, number: u64) -> Result<bool, RepoError> {
        Ok(self.marked()?.has_commit(source, number))
    }

    /// The commit under `key`, where it can be made anew with what another repository knows; `None` where anything about it
    /// rests on the word of whoever wrote the damaged object.
    ///
    /// What is signed here is what this host has verified before under exactly this key. The other repository has to have the
    /// same backup, of the source of the same name and cluster, and gives what is sealed; everything that the commit names has
    /// to be here.
    ///
    /// # Errors
    /// When this repository cannot be asked.
    pub fn commit_beside(&self, other: &Self, key: &Key) -> Result<Option<KnownCommit>, RepoError> {
        let Some(Named::Commit(source, number, backup)) = Named::parse(key) else { return Ok(None) };
        let Some(known) = self.verified_commit(source, key) else { return Ok(None) };
        if self.is_expired(source, number)? || !self.has_all_of(&known.record, key)? {
            return Ok(None);
        }
        let newest = self.highest_number(&layout::source_generations(source))?;
        if newest == 0 {
            return Ok(None);
        }
        let Some(ours) = self.source_generation(source, newest)?.description else { return Ok(None) };
        if !self.systems_of(source)?.contains(&known.record.commit.cluster.system) {
            return Ok(None);
        }
        // One that does not answer, or does not have it, gives nothing now.
        let names = other.names_of(&ours.name, backup, &known.record);
        Ok(names.map(|names| KnownCommit { record: known.record, names: Some(names) }))
    }

    /// What is sealed of a backup, where this repository has the very same one of the source called `name`.
    fn names_of(&self, name: &SourceName, backup: BackupId, same: &CommitRecord) -> Option<CommitNames> {
        let source = self.find_source(name).ok()??;
        let record = self.find_commit(source.id, backup).ok()??;
        let is_same = record.commit.backup == same.commit.backup
            && record.commit.cluster == same.commit.cluster
            && record.commit.root == same.commit.root
            && record.packs == same.packs;
        if is_same { self.read_commit_names(&record).ok() } else { None }
    }

    /// Whether every pack and every envelope of a backup is here, and no other commit of it.
    fn has_all_of(&self, record: &CommitRecord, key: &Key) -> Result<bool, RepoError> {
        let mut is_elsewhere = false;
        self.store.list(layout::SOURCES, &mut |info| {
            let backup = match Named::parse(&info.key) {
                Some(Named::Commit(_, _, backup)) => Some(backup),
                _ => None,
            };
            is_elsewhere |= info.key != *key && backup == Some(record.commit.backup);
            if is_elsewhere { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if is_elsewhere {
            return Ok(false);
        }
        for id in &record.commit.keys {
            if self.store.head(&layout::envelope(*id))?.is_none() {
                return Ok(false);
            }
        }
        for pack in record.packs.iter() {
            if self.store.head(&layout::pack(pack.id))?.is_none_or(|info| info.size != pack.size) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts a commit there that [`commit_beside`](Self::commit_beside) has answered.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn put_commit_again(&self, known: &KnownCommit, now: Timestamp) -> Result<(), RepoError> {
        let writer = self.writer_key(now)?;
        let names = known.names.clone().unwrap_or_default();
        self.put_commit(&known.record.commit, &known.record.packs, &names, writer.as_deref())
    }

    /// A data key, opened here or by another repository that seals the same packs with it. Answers the key, and whether its
    /// envelope here is no good.
    ///
    /// # Errors
    /// What this repository says, where no other has it either.
    pub fn open_key_beside(&self, others: &[&Self], id: ObjectId) -> Result<(Arc<DataKey>, bool), RepoError> {
        let error = match self.open_key(id) {
            Ok(key) => return Ok((key, false)),
            Err(error) => error,
        };
        match others.iter().find_map(|other| other.open_key(id).ok()) {
            Some(key) => Ok((key, true)),
            None => Err(error),
        }
    }

    /// Opens every key that the packs of a backup need, here or in another repository. Answers the envelopes that are no good
    /// here too.
    ///
    /// # Errors
    /// `NoKey` when one of them can be opened nowhere.
    pub fn pack_keys_beside(
        &self,
        others: &[&Self],
        record: &CommitRecord,
    ) -> Result<(PackKeys, Vec<ObjectId>), RepoError> {
        let (mut keys, mut bad) = (PackKeys::default(), Vec::new());
        for pack in record.packs.iter() {
            keys.packs.insert(pack.id, pack.key);
            if pack.key != ObjectId::NONE && !keys.keys.contains_key(&pack.key) {
                let (key, is_bad) = self.open_key_beside(others, pack.key)?;
                keys.keys.insert(pack.key, key);
                if is_bad {
                    bad.push(pack.key);
                }
            }
        }
        Ok((keys, bad))
    }
}

/// Whether an object is not what any agent wrote, or is not there: another copy of it may be right.
pub fn is_damage(error: &RepoError) -> bool {
    match error {
        RepoError::Damaged { .. } | RepoError::UnknownOrigin { .. } | RepoError::Missing { .. } => true,
        RepoError::NoKey { source, .. } => {
            matches!(source, crate::error::KeyError::Commitment | crate::error::KeyError::Damaged)
        }
        RepoError::Store(error) => match error.kind {
            StoreErrorKind::Truncated | StoreErrorKind::NotFound => true,
            // A disk that cannot read its own bytes. Whatever else a store says (a request that it refuses, an answer that
            // nobody understands) tells nothing of the object.
            StoreErrorKind::Other => error.source.raw_os_error() == Some(EIO),
            _ => false,
        },
        _ => false,
    }
}
