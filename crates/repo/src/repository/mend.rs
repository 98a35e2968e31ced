//! What puts a damaged object right: bytes that this host has kept, or what another repository knows.
//!
//! Small signed objects that only this repository has are kept in the state directory as they are, once they were seen to
//! be right. Nothing that is kept is secret: what is sealed stays sealed. Here objects are made; `engine/heal` decides when.

use std::ops::ControlFlow;
use std::sync::Arc;

use refloat_store::{Key, StoreErrorKind, read_whole};
use refloat_types::{ObjectId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Repository, state_name};
use crate::commit::CommitRecord;
use crate::crypt::seal::DataKey;
use crate::error::RepoError;
use crate::layout::{self, Named};
use crate::pack::reader::PackKeys;
use crate::state::StateDirectory;

/// Larger objects are not kept.
const MAX_KEPT: u64 = 1 << 20;

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

/// The repository object of `store` as this host has kept it, where its own is damaged. One that is not there is no
/// damage: an empty directory is where a disk is not mounted.
///
/// # Errors
/// When the state directory cannot be read.
pub(super) fn kept_marker(state: &StateDirectory, store: &str) -> Result<Option<Vec<u8>>, RepoError> {
    let Ok(known) = std::fs::read_dir(state.path().join("repositories")) else { return Ok(None) };
    for entry in known.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<ObjectId>().ok()) else {
            continue;
        };
        let from: Option<KeptFrom> = state.read(&state_name(id, KEPT_FROM))?;
        if from.is_some_and(|from| from.store == store) {
            let bytes = state.read_bytes(&state_name(id, &kept_file(layout::REPOSITORY)), MAX_KEPT)?;
            if bytes.is_some() {
                return Ok(bytes);
            }
        }
    }
    Ok(None)
}

impl Repository {
    fn kept_name(&self, key: &Key) -> String {
        self.state_name(&kept_file(key.as_str()))
    }

    /// Keeps copies as [`keep_copies`](Self::keep_copies) does, unless that was done within `seldom`.
    ///
    /// # Errors
    /// As there.
    pub fn keep_copies_seldom(&self, seldom: std::time::Duration, now: Timestamp) -> Result<u64, RepoError> {
        let name = self.state_name(KEPT_FROM);
        let store = self.store.describe().to_owned();
        let before: Option<KeptFrom> = self.state.read(&name)?;
        let lately = |from: &KeptFrom| {
            from.store == store
                && from.at <= now
                && from.at.checked_add(seldom).is_ok_and(|until| now < until)
        };
        if before.as_ref().is_some_and(lately) {
            return Ok(0);
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
        let mut all = Vec::new();
        let prefixes = [
            layout::REPOSITORY,
            layout::AGENTS,
            "keys/",
            layout::SOURCES,
            layout::HOLDS,
            layout::INVITATIONS,
            layout::RESCUE,
        ];
        for prefix in prefixes {
            self.store.list(prefix, &mut |info| {
                all.extend(Named::parse(&info.key).filter(is_kept).map(|named| (named, info)));
                ControlFlow::Continue(())
            })?;
        }
        let mut count = 0;
        for (named, info) in all {
            let name = self.kept_name(&info.key);
            if info.size > MAX_KEPT || self.state.path().join(&name).exists() {
                continue;
            }
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

    /// The bytes of an object as this host has kept them.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn kept_copy(&self, named: &Named) -> Result<Option<Vec<u8>>, RepoError> {
        if !is_kept(named) {
            return Ok(None);
        }
        self.state.read_bytes(&self.kept_name(&named.key()), MAX_KEPT)
    }

    /// A backup of another repository, as a commit under `key` of this one.
    ///
    /// # Errors
    /// When it is another backup, or cannot be stored.
    pub fn put_commit_of(
        &self,
        other: &Self,
        record: &CommitRecord,
        key: &Key,
        now: Timestamp,
    ) -> Result<(), RepoError> {
        let Some(Named::Commit(source, number, backup)) = Named::parse(key) else {
            return Err(RepoError::internal("make a commit", "its key is no commit's"));
        };
        if record.commit.backup != backup {
            return Err(RepoError::internal("make a commit", "it is another backup"));
        }
        let names = other.read_commit_names(record)?;
        let commit = crate::commit::Commit { source, number, ..record.commit.clone() };
        let writer = self.writer_key(now)?;
        self.put_commit(&commit, &record.packs, &names, writer.as_deref())
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
        RepoError::Store(error) => {
            matches!(error.kind, StoreErrorKind::Truncated | StoreErrorKind::NotFound | StoreErrorKind::Other)
        }
        _ => false,
    }
}
