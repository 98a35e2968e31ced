//! Everything that deleting is judged by, read in the order that makes it safe.
//!
//! What is large and only grows (packs, WAL) is listed first. Then the time is remembered, and tombstones, pins, holds and
//! commits are read, commits last: a backup commits before it removes its pin, so one of the two is seen. Commits are
//! looked for by the list and by the names that tombstones were judged by, because a list may lag behind.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::time::Duration;

use refloat_pg::history::TimelineHistory;
use refloat_repo::commit::CommitRecord;
use refloat_repo::layout::{self, Named};
use refloat_repo::repository::{CommitCache, Hold, OwnerRecord, SeenPin, StoredTombstone, StoredWal, Uses};
use refloat_repo::{RepoError, Repository};
use refloat_store::{Key, ObjectInfo};
use refloat_types::{BackupId, ObjectId, SourceId, SystemIdentifier, TimelineId, Timestamp, WalFileName};

use super::ExpireError;
use crate::guard::{self, Uptime};
use crate::wal::ArchivedFacts;

/// A stored WAL file.
#[derive(Debug, Clone)]
pub(super) struct WalFile {
    pub(super) key: Key,
    pub(super) name: WalFileName,
    pub(super) size: u64,
    /// When it was stored, by the store's clock.
    pub(super) created: Timestamp,
}

/// What is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// The store's time.
    pub(super) store_now: Timestamp,
    /// When this process began to read what changes.
    pub(super) read_at: Duration,
    pub(super) packs: HashMap<ObjectId, (u64, Timestamp)>,
    pub(super) wal: BTreeMap<SystemIdentifier, Vec<WalFile>>,
    pub(super) histories: BTreeMap<(SystemIdentifier, TimelineId), TimelineHistory>,
    pub(super) sources: BTreeMap<SourceId, (String, Option<SystemIdentifier>)>,
    /// Clusters that sources were before, and that none is now; whose they were.
    pub(super) former: BTreeMap<SystemIdentifier, BTreeSet<SourceId>>,
    pub(super) owners: BTreeMap<SourceId, OwnerRecord>,
    pub(super) tombstones: Vec<StoredTombstone>,
    pub(super) pins: Vec<SeenPin>,
    pub(super) holds: Vec<Hold>,
    pub(super) commits: BTreeMap<Key, (CommitRecord, Timestamp)>,
    /// Commits all of whose packs are there.
    pub(super) whole: BTreeSet<Key>,
}

fn unsure(what: &str) -> impl FnOnce(RepoError) -> ExpireError {
    let what = what.to_owned();
    move |source| ExpireError::Unsure { what, source }
}

impl Facts {
    /// Reads what is large and only grows.
    pub(super) fn begin(repository: &Repository) -> Result<Self, ExpireError> {
        let mut facts = Self::default();
        let store = repository.store();
        let listed = store.list(layout::PACKS, &mut |info| {
            if let Some(Named::Pack(id)) = Named::parse(&info.key) {
                facts.packs.insert(id, (info.size, info.created));
            }
            ControlFlow::Continue(())
        });
        listed.map_err(RepoError::from)?;
        let listed = store.list(layout::WAL, &mut |info| {
            if let Some(Named::Wal(system, name, _)) = Named::parse(&info.key) {
                let file = WalFile { key: info.key, name, size: info.size, created: info.created };
                facts.wal.entry(system).or_default().push(file);
            }
            ControlFlow::Continue(())
        });
        listed.map_err(RepoError::from)?;
        facts.read_histories(repository);
        for source in repository.list_sources().map_err(unsure("the sources"))? {
            let name = source.description.as_ref().map(|description| description.name.to_string());
            facts.sources.insert(source.id, (name.unwrap_or_else(|| source.id.to_string()), source.system));
            let owner = repository.owner(source.id).map_err(unsure("the owner of a source"))?;
            owner.map(|owner| facts.owners.insert(source.id, owner));
        }
        facts.read_former(repository)?;
        Ok(facts)
    }

    /// Clusters that a source was before an upgrade, and that none is now.
    fn read_former(&mut self, repository: &Repository) -> Result<(), ExpireError> {
        let is_present = |system| self.sources.values().any(|(_, of)| *of == Some(system));
        if self.wal.keys().all(|system| is_present(*system)) {
            return Ok(());
        }
        for source in self.sources.keys() {
            for system in repository.systems_of(*source).map_err(unsure("what a source was before"))? {
                if !is_present(system) {
                    self.former.entry(system).or_default().insert(*source);
                }
            }
        }
        Ok(())
    }

    /// Timelines whose history is stored once and can be read; all WAL of others stays.
    fn read_histories(&mut self, repository: &Repository) {
        for (system, files) in &self.wal {
            let mut found: BTreeMap<TimelineId, Vec<&WalFile>> = BTreeMap::new();
            for file in files {
                if let WalFileName::History(timeline) = file.name {
                    found.entry(timeline).or_default().push(file);
                }
            }
            for (timeline, files) in found {
                let [file] = files.as_slice() else { continue };
                let Some((name, digest)) = layout::parse_wal(&file.key) else { continue };
                let stored = StoredWal { key: file.key.clone(), name, digest, size: file.size };
                let Ok(head) = repository.read_wal_head(&stored) else { continue };
                if let Some(history) = ArchivedFacts::read(&head.clear.facts).history_of(timeline) {
                    self.histories.insert((*system, timeline), history);
                }
            }
        }
    }

    /// Reads what changes. `store_now` asks the store for its time. With `known`, commits that this host has read before
    /// are not read again: never where something is deleted by what they say.
    pub(super) fn refresh(
        &mut self,
        repository: &Repository,
        uptime: &dyn Uptime,
        store_now: &dyn Fn() -> Result<Timestamp, ExpireError>,
        known: bool,
    ) -> Result<(), ExpireError> {
        self.read_at = uptime.get();
        self.store_now = store_now()?;
        self.tombstones = repository.list_tombstones().map_err(unsure("a tombstone"))?;
        self.pins = repository.list_pins().map_err(unsure("a pin"))?;
        self.holds = repository.list_holds().map_err(unsure("a hold"))?;
        self.read_commits(repository, known)
    }

    fn read_commits(&mut self, repository: &Repository, from_cache: bool) -> Result<(), ExpireError> {
        let mut known = std::mem::take(&mut self.commits);
        let mut keys: BTreeMap<Key, ObjectInfo> = BTreeMap::new();
        let mut caches: BTreeMap<SourceId, CommitCache<'_>> = BTreeMap::new();
        let listed = repository.store().list(layout::SOURCES, &mut |info| {
            // Whatever lies among commits must be read, whatever it is called.
            if matches!(Named::parse(&info.key), Some(Named::Commit(..)))
                || info.key.as_str().contains("/commits/")
            {
                keys.insert(info.key.clone(), info);
            }
            ControlFlow::Continue(())
        });
        listed.map_err(RepoError::from)?;
        for (key, source) in self.judged_before() {
            let Entry::Vacant(place) = keys.entry(key) else { continue };
            // The list may lack it, or it was deleted: only its name tells.
            if let Some(info) = repository.store().head(place.key()).map_err(RepoError::from)? {
                place.insert(info);
                self.sources.entry(source).or_insert_with(|| (source.to_string(), None));
            }
        }
        for (key, info) in keys {
            if let Some(commit) = known.remove(&key) {
                self.commits.insert(key, commit);
                continue;
            }
            let read = match Named::parse(&key) {
                Some(Named::Commit(source, ..)) if from_cache => {
                    let cache = caches.entry(source).or_insert_with(|| repository.commit_cache(source));
                    cache.read(&info).map(|known| known.record)
                }
                _ => repository.read_commit(&key),
            };
            match read {
                Ok(record) => {
                    if self.is_whole(repository, &record)? {
                        self.whole.insert(key.clone());
                    }
                    self.commits.insert(key, (record, info.created));
                }
                // Deleted between the list and the look.
                Err(RepoError::Missing { object }) if object == key.as_str() => {}
                Err(source) => return Err(ExpireError::Unsure { what: format!("commit \"{key}\""), source }),
            }
        }
        caches.into_values().for_each(CommitCache::close);
        Ok(())
    }

    /// Commits that were there when something was marked, and were not marked themselves.
    fn judged_before(&self) -> Vec<(Key, SourceId)> {
        let mut out = Vec::new();
        for stored in &self.tombstones {
            for (source, commits) in &stored.tombstone.judged {
                for name in commits {
                    if let Ok(key) = format!("{}{name}", layout::commits(*source)).parse::<Key>() {
                        out.push((key, *source));
                    }
                }
            }
        }
        out
    }

    fn is_whole(&self, repository: &Repository, record: &CommitRecord) -> Result<bool, ExpireError> {
        for pack in record.packs.iter() {
            let listed = self.packs.get(&pack.id).map(|(size, _)| *size);
            let size = match listed {
                Some(size) => Some(size),
                // Stored since the list, or the list lags.
                None => {
                    let head = repository.store().head(&layout::pack(pack.id)).map_err(RepoError::from)?;
                    head.map(|info| info.size)
                }
            };
            if size != Some(pack.size) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The commits of a source.
    pub(super) fn of_source(&self, source: SourceId) -> impl Iterator<Item = (&Key, &CommitRecord)> {
        let all = self.commits.iter().map(|(key, (record, _))| (key, record));
        all.filter(move |(_, record)| record.commit.source == source)
    }

    /// All sources that anything is known of.
    pub(super) fn source_ids(&self) -> BTreeSet<SourceId> {
        let of_commits = self.commits.values().map(|(record, _)| record.commit.source);
        self.sources.keys().copied().chain(of_commits).collect()
    }

    /// The sources of a cluster: by what they are or were described as, and by their backups.
    pub(super) fn sources_of(&self, system: SystemIdentifier) -> BTreeSet<SourceId> {
        let described = self.sources.iter().filter(|(_, (_, of))| *of == Some(system)).map(|(id, _)| *id);
        let records = self.commits.values().map(|(record, _)| &record.commit);
        let backed_up = records.filter(|commit| commit.cluster.system == system).map(|commit| commit.source);
        let former = self.former.get(&system).into_iter().flatten().copied();
        described.chain(backed_up).chain(former).collect()
    }

    /// How a source is called.
    pub(super) fn name_of(&self, source: SourceId) -> String {
        self.sources.get(&source).map_or_else(|| source.to_string(), |(name, _)| name.clone())
    }

    /// The history of a timeline; of timeline 1, that it has none.
    pub(super) fn history(&self, system: SystemIdentifier, timeline: TimelineId) -> Option<TimelineHistory> {
        let known = self.histories.get(&(system, timeline)).cloned();
        known.or_else(|| {
            (timeline == TimelineId::FIRST).then(|| TimelineHistory::without_parent(TimelineId::FIRST))
        })
    }

    /// Pins of jobs that may still be running.
    pub(super) fn living(&self) -> impl Iterator<Item = &SeenPin> {
        self.pins.iter().filter(|seen| seen.is_alive(self.store_now))
    }

    /// Since when the oldest living backup, or copy of backups, runs, by the store's clock; `Some(None)` where one does not tell.
    pub(super) fn oldest_backup(&self) -> Option<Option<Timestamp>> {
        let writes = |seen: &&SeenPin| seen.pin.backup.is_some() || seen.pin.operation == guard::COPY;
        let running = self.living().filter(writes);
        running.map(|seen| seen.began).reduce(|a, b| a.zip(b).map(|(a, b)| a.min(b)))
    }
    /// Whether a living backup may be using packs that no commit names: those of one that died, which its pin names, or
    /// will name when it has chosen.
    pub(super) fn uses_orphans(&self) -> bool {
        let committed: HashSet<BackupId> =
            self.commits.values().map(|(record, _)| record.commit.backup).collect();
        self.living().filter(|seen| seen.pin.backup.is_some()).any(|seen| match &seen.pin.uses {
            Uses::Repository | Uses::Source(_) => true,
            Uses::Backups(used) => used.iter().any(|used| !committed.contains(used)),
        })
    }
}
