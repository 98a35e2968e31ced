//! Until when what is stored cannot be destroyed, where a store locks it.
//!
//! A lock counts from an object's creation, and a backup refers to packs that are older than itself: it is as immutable
//! as the first of its packs, or its commit, whose lock ends. A pack is nothing without the envelope of its key, which is as
//! old as the first pack that it seals. Each object has to be asked for, so what was answered is kept in the state directory:
//! a lock can be moved later and not earlier. Nothing is deleted by what is kept there.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use refloat_repo::commit::{CommitRecord, PackUse};
use refloat_repo::{RepoError, Repository, layout};
use refloat_store::{DefaultLock, Key, Known};
use refloat_types::{BackupId, ObjectId, Timestamp};

/// What is kept of one repository.
type Ends = BTreeMap<String, Timestamp>;

/// The locks of a repository.
pub struct Locks<'a> {
    repository: &'a Repository,
    default: DefaultLock,
    now: Timestamp,
    /// When each object's lock ends, as far as it was asked for; and whether that is more than what was kept.
    ends: Mutex<(Ends, bool)>,
    /// The envelopes of each key, as far as they were looked for; a rewrapped key has several.
    envelopes: Mutex<BTreeMap<ObjectId, Vec<Key>>>,
}

impl<'a> Locks<'a> {
    /// Asks whether the store locks what is new; `None` where it does not, or does not say.
    ///
    /// # Errors
    /// When the store does not answer.
    pub fn of(repository: &'a Repository, now: Timestamp) -> Result<Option<Self>, RepoError> {
        let Known::Yes(default) = repository.store().immutability()?.lock else { return Ok(None) };
        // What cannot be read is asked for again.
        let kept = repository.state().read::<Ends>(&file(repository)).ok().flatten();
        let mut kept = kept.unwrap_or_default();
        kept.retain(|_, end| *end > now);
        let (ends, envelopes) = (Mutex::new((kept, false)), Mutex::default());
        Ok(Some(Self { repository, default, now, ends, envelopes }))
    }

    /// The lock of everything that is new.
    pub const fn default_lock(&self) -> DefaultLock {
        self.default
    }

    fn kept(&self, key: &Key) -> Option<Timestamp> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).0.get(key.as_str()).copied()
    }

    fn keep(&self, key: &Key, end: Timestamp) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.0.insert(key.to_string(), end);
        ends.1 = true;
    }

    /// When the lock of an object ends; `None` where none holds it any more.
    fn end(&self, key: &Key) -> Result<Option<Timestamp>, RepoError> {
        match self.kept(key) {
            Some(end) => Ok(Some(end)),
            None => self.ask(key),
        }
    }

    /// What of a key opens it, each sufficient.
    fn envelopes(&self, id: ObjectId) -> Result<Vec<Key>, RepoError> {
        let known = |envelopes: &BTreeMap<ObjectId, Vec<Key>>| envelopes.get(&id).cloned();
        if let Some(known) = known(&self.envelopes.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(known);
        }
        let mut found = Vec::new();
        self.repository.store().list(layout::envelope(id).as_str(), &mut |object| {
            found.push(object.key);
            ControlFlow::Continue(())
        })?;
        found.sort();
        self.envelopes.lock().unwrap_or_else(PoisonError::into_inner).insert(id, found.clone());
        Ok(found)
    }

    /// When the first of a pack and its key can be destroyed.
    fn end_of_pack(&self, pack: &PackUse) -> Result<Option<Timestamp>, RepoError> {
        let Some(own) = self.end(&layout::pack(pack.id))? else { return Ok(None) };
        if pack.key == ObjectId::NONE {
            return Ok(Some(own));
        }
        let mut opens = None;
        for envelope in self.envelopes(pack.key)? {
            opens = opens.max(self.end(&envelope)?);
        }
        Ok(opens.map(|opens| opens.min(own)))
    }

    fn ask(&self, key: &Key) -> Result<Option<Timestamp>, RepoError> {
        let end = self.repository.store().lock_end(key, None)?.filter(|end| *end > self.now);
        end.inspect(|end| self.keep(key, *end));
        Ok(end)
    }

    fn reaches(&self, key: &Key, until: Timestamp) -> Result<bool, RepoError> {
        if self.kept(key).is_some_and(|end| end >= until) {
            return Ok(true);
        }
        Ok(self.ask(key)?.is_some_and(|end| end >= until))
    }

    fn key_reaches(&self, pack: &PackUse, until: Timestamp) -> Result<bool, RepoError> {
        if pack.key == ObjectId::NONE {
            return Ok(true);
        }
        for envelope in self.envelopes(pack.key)? {
            if self.reaches(&envelope, until)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a pack, and what opens it, are locked until `until` or longer.
    ///
    /// # Errors
    /// When the store does not answer, or does not say.
    pub fn pack_reaches(&self, pack: &PackUse, until: Timestamp) -> Result<bool, RepoError> {
        Ok(self.reaches(&layout::pack(pack.id), until)? && self.key_reaches(pack, until)?)
    }

    /// Locks a pack, and what opens it, until `until`.
    ///
    /// # Errors
    /// `Denied` where these credentials may not.
    pub fn extend(&self, pack: &PackUse, until: Timestamp) -> Result<(), RepoError> {
        let mut keys = Vec::new();
        if !self.key_reaches(pack, until)? {
            // The last one is sealed to those who are recipients now.
            keys.extend(self.envelopes(pack.key)?.pop());
        }
        keys.push(layout::pack(pack.id));
        for key in keys {
            self.repository.store().extend_lock(&key, until)?;
            self.keep(&key, until);
        }
        Ok(())
    }

    /// Until when a backup cannot be destroyed: the earliest end among its commit, its packs and their keys; `None` where one of them
    /// is not locked.
    ///
    /// # Errors
    /// As [`Locks::pack_reaches`].
    pub fn of_backup(&self, record: &CommitRecord) -> Result<Option<Timestamp>, RepoError> {
        let commit = &record.commit;
        let own = layout::commit(commit.source, commit.number, commit.backup);
        let Some(mut earliest) = self.end(&own)? else { return Ok(None) };
        for pack in record.packs.iter() {
            match self.end_of_pack(pack)? {
                Some(end) => earliest = earliest.min(end),
                None => return Ok(None),
            }
        }
        Ok(Some(earliest))
    }

    /// The packs that, or whose keys, are locked for less than until `until`.
    ///
    /// # Errors
    /// As [`Locks::pack_reaches`].
    pub fn short<'p>(
        &self,
        packs: impl Iterator<Item = &'p PackUse>,
        until: Timestamp,
    ) -> Result<Vec<PackUse>, RepoError> {
        let mut short = Vec::new();
        for pack in packs {
            if !self.pack_reaches(pack, until)? {
                short.push(*pack);
            }
        }
        Ok(short)
    }

    /// Keeps for the next time what was asked for. That it cannot be kept is no error.
    pub fn close(self) {
        let (ends, is_changed) = self.ends.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !is_changed {
            return;
        }
        let kept = serde_json::to_vec(&ends).map_err(|e| RepoError::internal("keep the ends of locks", e));
        let kept = kept.and_then(|bytes| self.repository.state().replace(&file(self.repository), &bytes));
        if let Err(error) = kept {
            tracing::debug!(%error, "when locks end is not kept for the next time");
        }
    }
}

fn file(repository: &Repository) -> String {
    format!("repositories/{}/locks.json", repository.marker().id)
}

/// What is known of the locks of several backups, for those who show it.
///
/// # Errors
/// When the store does not answer. Where these credentials may not ask, nothing is known.
pub fn of_backups<'r>(
    repository: &Repository,
    records: impl Iterator<Item = &'r CommitRecord>,
    now: Timestamp,
) -> Result<BTreeMap<BackupId, Timestamp>, RepoError> {
    let Some(locks) = Locks::of(repository, now)? else { return Ok(BTreeMap::new()) };
    let mut known = BTreeMap::new();
    for record in records {
        match locks.of_backup(record) {
            Ok(end) => known.extend(end.map(|end| (record.commit.backup, end))),
            Err(RepoError::Store(error)) if error.is_denied() => break,
            Err(error) => return Err(error),
        }
    }
    locks.close();
    Ok(known)
}
