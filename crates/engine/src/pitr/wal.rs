//! Reading the archive for decisions: headers mostly, records where a transaction or a name is looked for.

use std::cell::RefCell;
use std::collections::BTreeMap;

use refloat_pg::wal::page::PAGE;
use refloat_pg::wal::{InspectOptions, RestorePoint, SegmentInspector, WalVersion};
use refloat_repo::repository::StoredWal;
use refloat_repo::wal_object::WalHead;
use refloat_repo::{RepoError, Repository};
use refloat_types::{SystemIdentifier, Timestamp, WalFileName, WalSegmentName};
use serde::Deserialize as _;

use super::boundary;
use super::events::{Event, Gather};
use crate::wal::{ArchivedFacts, SealedFacts, SegmentFacts};

/// What the header of an archived WAL segment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHead {
    /// Which.
    pub name: WalSegmentName,
    /// When it was stored, by that host's clock.
    pub stored: Timestamp,
    /// What its records say.
    pub facts: SegmentFacts,
}

/// An archive that can be read.
pub trait ArchivedWal {
    /// What the header of a stored WAL segment says.
    ///
    /// # Errors
    /// When it is not there, or cannot be believed.
    fn head(&self, name: WalSegmentName) -> Result<SegmentHead, RepoError>;
    /// The restore points of a WAL segment, by their names.
    ///
    /// # Errors
    /// When this host cannot read them.
    fn restore_points(&self, name: WalSegmentName) -> Result<Vec<RestorePoint>, RepoError>;
    /// Everything in a WAL segment that matters for a recovery. Reads all of it.
    ///
    /// # Errors
    /// When this host cannot read it.
    fn events(&self, name: WalSegmentName) -> Result<Vec<Event>, RepoError>;
    /// The record that begins in one WAL segment and ends in `next`, when it matters for a recovery. Reads both.
    ///
    /// # Errors
    /// When this host cannot read them.
    fn boundary(&self, head: &SegmentHead, next: WalSegmentName) -> Result<Option<Event>, RepoError>;
}

/// The archive of a cluster in a repository. Headers that were read are remembered.
pub struct RepositoryWal<'a> {
    repository: &'a Repository,
    system: SystemIdentifier,
    heads: RefCell<BTreeMap<WalSegmentName, (WalHead, SegmentHead)>>,
}

/// Headers remembered at most: some 20 MB.
const REMEMBERED: usize = 20_000;

impl<'a> RepositoryWal<'a> {
    /// The archive of `system` in `repository`.
    pub fn new(repository: &'a Repository, system: SystemIdentifier) -> Self {
        Self { repository, system, heads: RefCell::default() }
    }

    fn read(&self, name: WalSegmentName) -> Result<(WalHead, SegmentHead), RepoError> {
        if let Some(known) = self.heads.borrow().get(&name) {
            return Ok(known.clone());
        }
        let mut found = self.repository.find_wal(self.system, WalFileName::Segment(name))?;
        let stored: StoredWal = match found.len() {
            1 => found.remove(0),
            0 => return Err(RepoError::Missing { object: name.to_string() }),
            _ => return Err(RepoError::damaged(name, "it is stored with different bytes")),
        };
        let head = self.repository.read_wal_head(&stored)?;
        let facts = ArchivedFacts::read(&head.clear.facts).segment;
        let facts =
            facts.ok_or_else(|| RepoError::damaged(&stored.key, "its header does not tell what is in it"))?;
        let segment = SegmentHead { name, stored: head.clear.stored, facts };
        let mut heads = self.heads.borrow_mut();
        if heads.len() >= REMEMBERED {
            heads.clear();
        }
        heads.insert(name, (head.clone(), segment.clone()));
        Ok((head, segment))
    }

    /// The bytes of a WAL segment from `from` on, at most `limit`.
    fn bytes(&self, name: WalSegmentName, from: u64, limit: usize) -> Result<Vec<u8>, RepoError> {
        let (head, _) = self.read(name)?;
        let (mut at, mut out) = (0_u64, Vec::new());
        self.repository.read_wal(&head, &mut |bytes| {
            let skip = usize::try_from(from.saturating_sub(at)).unwrap_or(usize::MAX).min(bytes.len());
            let room = limit.saturating_sub(out.len()).min(bytes.len() - skip);
            out.extend_from_slice(&bytes[skip..skip + room]);
            at += bytes.len() as u64;
            Ok(())
        })?;
        Ok(out)
    }
}

/// Most bytes of a record that spans WAL segments that are joined: no record that ends a transaction is longer.
const MAX_JOINED: usize = 32 << 20;

impl ArchivedWal for RepositoryWal<'_> {
    fn head(&self, name: WalSegmentName) -> Result<SegmentHead, RepoError> {
        Ok(self.read(name)?.1)
    }

    fn restore_points(&self, name: WalSegmentName) -> Result<Vec<RestorePoint>, RepoError> {
        let (head, _) = self.read(name)?;
        let sealed = self.repository.read_wal_facts(&head)?;
        let facts = SealedFacts::deserialize(&sealed).map_err(|e| RepoError::damaged(&head.key, e))?;
        Ok(facts.restore_points)
    }

    fn events(&self, name: WalSegmentName) -> Result<Vec<Event>, RepoError> {
        let (head, _) = self.read(name)?;
        let options = InspectOptions { expected_system: Some(self.system), ..InspectOptions::default() };
        let mut inspector = SegmentInspector::with_visitor(name, options, Gather::default());
        self.repository.read_wal(&head, &mut |bytes| inspector.feed(bytes).map_err(std::io::Error::other))?;
        let inspected = inspector.finish_with_visitor(head.clear.size);
        inspected.map(|(_, events)| events.0).map_err(|fault| RepoError::damaged(&head.key, fault))
    }

    fn boundary(&self, head: &SegmentHead, next: WalSegmentName) -> Result<Option<Event>, RepoError> {
        let version = WalVersion::from_magic(head.facts.magic);
        let (Some(at), Some(size), Some(version)) =
            (head.facts.wal.unfinished_tail, head.facts.size(), version)
        else {
            return Ok(None);
        };
        let start = head.name.start(size).bytes_until(at) / PAGE as u64 * PAGE as u64;
        if size.bytes() - start > MAX_JOINED as u64 {
            return Ok(None);
        }
        let first = self.bytes(head.name, start, MAX_JOINED)?;
        let second = self.bytes(next, 0, MAX_JOINED)?;
        Ok(boundary::event(at, &first, &second, version))
    }
}
