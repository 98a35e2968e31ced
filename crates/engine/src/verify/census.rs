//! What lies in the repository: one list, sorted by what names say.
//!
//! Commits are listed before everything they name, so that a backup that is committed meanwhile is either not seen or
//! seen whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;

use refloat_repo::layout::{self, Named};
use refloat_repo::{RepoError, Repository};
use refloat_store::Key;
use refloat_types::{BackupId, ObjectId, SourceId, SystemIdentifier, WalFileName};

/// Most keys of strangers that are kept.
const MAX_UNKNOWN: usize = 1000;

/// A WAL file as the list shows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct WalItem {
    pub(super) name: WalFileName,
    pub(super) digest: [u8; 16],
    pub(super) size: u64,
}

/// Everything that was listed.
#[derive(Debug, Default)]
pub(super) struct Census {
    pub(super) has_marker: bool,
    pub(super) agents: BTreeSet<ObjectId>,
    pub(super) envelopes: BTreeSet<ObjectId>,
    /// Data keys that were sealed again, by generation of recipients.
    pub(super) rewrapped: BTreeMap<ObjectId, BTreeSet<u64>>,
    /// Generations of who can read.
    pub(super) generations: BTreeSet<u64>,
    pub(super) confirmations: BTreeSet<u64>,
    pub(super) packs: HashMap<ObjectId, u64>,
    /// Numbers of descriptions and owner records by source.
    pub(super) descriptions: BTreeMap<SourceId, BTreeSet<u64>>,
    pub(super) owners: BTreeMap<SourceId, BTreeSet<u64>>,
    /// Operation records by agent: number, id.
    pub(super) operations: BTreeMap<ObjectId, BTreeSet<(u64, ObjectId)>>,
    pub(super) wal: BTreeMap<SystemIdentifier, Vec<WalItem>>,
    /// Invitations, and what used them up.
    pub(super) invitations: Vec<Named>,
    /// Tombstones, holds and releases.
    pub(super) retention: Vec<Named>,
    /// Objects under names that this release does not give.
    pub(super) unknown: Vec<Key>,
    pub(super) more_unknown: u64,
}

/// Commits by source, in the order of their numbers.
pub(super) type CommitKeys = BTreeMap<SourceId, BTreeSet<(u64, BackupId)>>;

/// Lists the commits of one source, or of all.
pub(super) fn commits(repository: &Repository, source: Option<SourceId>) -> Result<CommitKeys, RepoError> {
    let mut found = CommitKeys::new();
    let prefix = source.map_or_else(|| layout::SOURCES.to_owned(), layout::commits);
    repository.store().list(&prefix, &mut |info| {
        if let Some(Named::Commit(source, number, backup)) = Named::parse(&info.key) {
            found.entry(source).or_default().insert((number, backup));
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

impl Census {
    /// Lists everything.
    pub(super) fn of_all(repository: &Repository) -> Result<Self, RepoError> {
        let mut census = Self::default();
        census.list(repository, "")?;
        Ok(census)
    }

    /// Lists what backups of one source may need.
    pub(super) fn of_source(
        repository: &Repository,
        source: SourceId,
        systems: &BTreeSet<SystemIdentifier>,
    ) -> Result<Self, RepoError> {
        let mut census = Self::default();
        for prefix in
            [layout::REPOSITORY, layout::RECIPIENTS, layout::AGENTS, layout::ENVELOPES, layout::PACKS]
        {
            census.list(repository, prefix)?;
        }
        census.list(repository, &layout::source_generations(source))?;
        census.list(repository, &layout::owners(source))?;
        for system in systems {
            census.list(repository, &layout::wal_of(*system))?;
        }
        census.unknown.clear();
        census.more_unknown = 0;
        Ok(census)
    }

    fn list(&mut self, repository: &Repository, prefix: &str) -> Result<(), RepoError> {
        Ok(repository.store().list(prefix, &mut |info| {
            self.add(info.key, info.size);
            ControlFlow::Continue(())
        })?)
    }

    fn add(&mut self, key: Key, size: u64) {
        match Named::parse(&key) {
            Some(Named::Repository) => self.has_marker = true,
            Some(Named::Agent(id)) => drop(self.agents.insert(id)),
            Some(Named::Envelope(id)) => drop(self.envelopes.insert(id)),
            Some(Named::Rewrapped(id, number)) => drop(self.rewrapped.entry(id).or_default().insert(number)),
            Some(Named::Generation(number)) => drop(self.generations.insert(number)),
            Some(Named::Confirmation(number)) => drop(self.confirmations.insert(number)),
            Some(Named::Pack(id)) => drop(self.packs.insert(id, size)),
            Some(Named::Source(id, number)) => drop(self.descriptions.entry(id).or_default().insert(number)),
            Some(Named::Owner(id, number)) => drop(self.owners.entry(id).or_default().insert(number)),
            Some(Named::Operation(agent, number, id)) => {
                self.operations.entry(agent).or_default().insert((number, id));
            }
            // Listed before.
            Some(Named::Commit(..)) => {}
            Some(Named::Wal(system, name, digest)) => {
                self.wal.entry(system).or_default().push(WalItem { name, digest, size });
            }
            // They come and go while others work.
            Some(Named::Pin(..)) => {}
            // Looked at by themselves.
            Some(Named::Kit(_)) => {}
            None if key.as_str().starts_with(layout::RESCUE) => {}
            Some(named @ (Named::Invitation(_) | Named::InvitationUsed(_))) => self.invitations.push(named),
            Some(named @ (Named::Tombstone(..) | Named::Hold(_) | Named::Release(_))) => {
                self.retention.push(named);
            }
            None if self.unknown.len() < MAX_UNKNOWN => self.unknown.push(key),
            None => self.more_unknown += 1,
        }
    }
}
