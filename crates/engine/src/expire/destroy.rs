//! Destroying one object: where the store keeps versions, all of them; where a lock holds it, nothing yet.
//!
//! Deleting by name would only hide what a bucket with versions keeps, and would be paid for as before. So each version is
//! destroyed by its own name, and nothing is touched as long as a lock holds any: until then a backup stays whole. A
//! crash in between leaves older versions, or none that is shown: the next run goes on with the rest.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use refloat_repo::layout::{self, Named};
use refloat_repo::{RepoError, Repository};
use refloat_store::{Immutability, Key, Known, StoreError, Version};
use refloat_types::Timestamp;

/// What became of an object.
pub(super) enum Fate {
    /// Nothing of it is left.
    Gone,
    /// It is hidden, and these credentials may not destroy the versions behind that.
    Hidden(u64),
    /// A lock holds it until then.
    Locked(Timestamp),
}

/// Destroys objects as a store has to be asked to.
pub(super) struct Destroyer {
    immutability: Immutability,
}

impl Destroyer {
    /// Asks what keeps the objects of the store.
    pub(super) fn new(repository: &Repository) -> Result<Self, RepoError> {
        Ok(Self { immutability: repository.store().immutability()? })
    }

    /// Whether deleting by name destroys nothing.
    pub(super) const fn keeps_versions(&self) -> bool {
        matches!(self.immutability.versions, Known::Yes(()))
    }

    /// Destroys an object, unless it is locked at the store's time `now`.
    pub(super) fn destroy(
        &self,
        repository: &Repository,
        key: &Key,
        now: Timestamp,
    ) -> Result<Fate, StoreError> {
        let store = repository.store();
        if let Some(end) = self.lock_end(repository, key, None, now)? {
            return Ok(Fate::Locked(end));
        }
        if !self.keeps_versions() {
            return match store.delete(key) {
                // A lock that cannot be asked for.
                Err(error) if error.is_denied() => match self.lock_end(repository, key, None, now)? {
                    Some(end) => Ok(Fate::Locked(end)),
                    None => Err(error),
                },
                other => other.map(|()| Fate::Gone),
            };
        }
        let mut all = Vec::new();
        store.versions(key.as_str(), &mut |version| {
            if version.key == *key {
                all.push(version);
            }
            ControlFlow::Continue(())
        })?;
        self.destroy_all(repository, key, all, now)
    }

    /// Those that are locked first: where one is, nothing is touched. Markers last, so that nothing comes back.
    fn destroy_all(
        &self,
        repository: &Repository,
        key: &Key,
        mut all: Vec<Version>,
        now: Timestamp,
    ) -> Result<Fate, StoreError> {
        let store = repository.store();
        for version in all.iter().filter(|version| !version.is_marker && !version.is_latest) {
            if let Some(end) = self.lock_end(repository, key, Some(&version.id), now)? {
                return Ok(Fate::Locked(end));
            }
        }
        all.sort_by_key(|version| (version.is_marker, version.is_latest));
        let mut hidden = 0;
        for version in &all {
            match store.destroy(key, &version.id) {
                Err(error) if error.is_denied() => {
                    if let Some(end) = self.lock_end(repository, key, Some(&version.id), now)? {
                        return Ok(Fate::Locked(end));
                    }
                    // The right to destroy versions is another one than that to delete.
                    store.delete(key)?;
                    hidden += version.size;
                    return Ok(Fate::Hidden(hidden));
                }
                other => other?,
            }
        }
        Ok(Fate::Gone)
    }

    fn lock_end(
        &self,
        repository: &Repository,
        key: &Key,
        version: Option<&str>,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        if matches!(self.immutability.lock, Known::No) && !self.keeps_versions() {
            return Ok(None);
        }
        match repository.store().lock_end(key, version) {
            Ok(end) => Ok(end.filter(|end| *end > now)),
            // Whoever may not ask is refused when he deletes.
            Err(error) if error.is_denied() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Versions that no reader sees any more, of what this program deletes: pins and tombstones that are over, and what
    /// `is_ours` says. Answers the bytes of all hidden versions that stay.
    pub(super) fn sweep(
        &self,
        repository: &Repository,
        is_ours: &dyn Fn(&Key) -> bool,
        now: Timestamp,
    ) -> Result<u64, RepoError> {
        if !self.keeps_versions() {
            return Ok(0);
        }
        let mut all: BTreeMap<Key, Vec<Version>> = BTreeMap::new();
        let listed = repository.store().versions("", &mut |version| {
            all.entry(version.key.clone()).or_default().push(version);
            ControlFlow::Continue(())
        });
        listed?;
        let mut held = 0;
        for (key, versions) in all {
            let is_hidden = versions.iter().any(|version| version.is_latest && version.is_marker);
            let bytes: u64 = versions.iter().filter(|v| !v.is_latest).map(|version| version.size).sum();
            let small = matches!(Named::parse(&key), Some(Named::Pin(..) | Named::Tombstone(..)));
            if !is_hidden || !(small || is_ours(&key) || key.as_str().starts_with(layout::PROBES)) {
                // What somebody else has hidden or written over is evidence, and may be all that is left.
                held += bytes;
                continue;
            }
            // As a lock is known to begin with its version, most need not be asked for.
            let period = self.immutability.lock.yes().map(|lock| lock.period);
            let ends = |v: &Version| period.and_then(|period| v.created.checked_add(period).ok());
            if versions.iter().any(|v| !v.is_marker && ends(v).is_some_and(|end| end > now)) {
                held += bytes;
                continue;
            }
            match self.destroy_all(repository, &key, versions, now)? {
                Fate::Gone => {}
                Fate::Hidden(_) | Fate::Locked(_) => held += bytes,
            }
        }
        Ok(held)
    }
}
