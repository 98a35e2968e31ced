//! Looking at one object for its own sake: what `verify` asks of everything that is neither a pack nor a WAL file.
//!
//! Nothing is written.

use refloat_store::{Key, read_whole};
use refloat_types::ObjectId;

use super::agents::MAX_AGENT;
use super::confirmation::MAX_CONFIRMATION;
use super::operations::MAX_RECORD;
use super::{OperationRecord, Repository};
use crate::binary::Reader;
use crate::commit::{CommitNames, CommitRecord};
use crate::error::{KeyError, RepoError};
use crate::kind::Kind;
use crate::layout::Named;
use crate::object::header::MAGIC;
use crate::object::{Document, HEADER_BYTES};

/// An object that is what its name says, and whose signature holds.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// The data key that seals its body; none where it has no sealed body.
    pub key: ObjectId,
    /// Who signed it; none for what the root key signs.
    pub agent: ObjectId,
    /// BLAKE3 of all its bytes.
    pub digest: [u8; 32],
    /// Its sealed part was opened, or it has none. Otherwise: why not.
    pub opened: Result<(), KeyError>,
    /// What an operation record says, where it could be opened.
    pub operation: Option<OperationRecord>,
    /// What a commit says.
    pub commit: Option<CommitRecord>,
    /// The record before it, for an operation record.
    pub previous: Option<[u8; 32]>,
}

/// What the first bytes of an object claim; nobody vouches for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Format number.
    pub format: u16,
    /// Number of its kind.
    pub kind: u8,
    /// Id of the data key that seals it.
    pub key: ObjectId,
    /// Id of the agent that signed it.
    pub agent: ObjectId,
}

impl Repository {
    /// Checks everything of the object `named` that this host can check: signature, origin, name, and its sealed part.
    ///
    /// # Errors
    /// `Damaged`, `Missing`, `UnknownOrigin`, `NewerFormat`, or what the store says. A sealed part for which this host
    /// holds no identity is no error: see [`Inspected::opened`].
    ///
    /// # Panics
    /// Never: packs and WAL files answer an internal error.
    pub fn inspect(&self, named: &Named) -> Result<Inspected, RepoError> {
        let key = named.key();
        match named {
            Named::Repository => self.inspect_marker(),
            Named::Agent(_) => {
                let bytes = self.read_named(&key, MAX_AGENT)?;
                let digest = *blake3::hash(&bytes).as_bytes();
                self.check_agent(key.as_str(), bytes)?;
                Ok(Inspected::whole(ObjectId::NONE, ObjectId::NONE, digest))
            }
            Named::Envelope(id) | Named::Rewrapped(id, _) => {
                let document = self.get_signed(&key, Kind::Envelope, super::keys::MAX_ENVELOPE)?;
                super::keys::envelope_clear(&key, *id, &document)?;
                let opened = self.tried(|| self.open_envelope(&key, *id, &document).map(drop))?;
                Ok(Inspected { key: *id, opened, ..Inspected::of(&document) })
            }
            Named::Invitation(id) => self.inspect_invitation(*id, false),
            Named::InvitationUsed(id) => self.inspect_invitation(*id, true),
            Named::Generation(number) => self.inspect_generation(*number),
            Named::Source(id, _) => {
                let document = self.get_signed(&key, Kind::Source, MAX_RECORD)?;
                self.source_of(*id, &key, &document)?;
                let words = || self.open_document::<super::SourceDescription>(&key, &document).map(drop);
                let opened = self.tried(words)?;
                Ok(Inspected { opened, ..Inspected::of(&document) })
            }
            Named::Owner(id, number) => {
                let document = self.get_signed(&key, Kind::Owner, MAX_RECORD)?;
                self.read_owner(*id, *number)?;
                Ok(Inspected::of(&document))
            }
            Named::Confirmation(number) => {
                let document = self.get_signed(&key, Kind::Confirmation, MAX_CONFIRMATION)?;
                self.read_confirmation(*number)?;
                Ok(Inspected::of(&document))
            }
            Named::Operation(..) => self.inspect_operation(&key),
            Named::Kit(number) => {
                let document = self.get_signed(&key, Kind::RescueKit, super::kit::MAX_KIT)?;
                super::kit::kit_of(*number, &key, &document)?;
                Ok(Inspected::of(&document))
            }
            Named::Commit(..) => {
                let document = self.get_signed(&key, Kind::Commit, super::backups::MAX_COMMIT)?;
                let commit = super::backups::commit_of(&key, &document)?;
                let names = || self.open_document::<CommitNames>(&key, &document).map(drop);
                let opened = self.tried(names)?;
                Ok(Inspected { opened, commit: Some(commit), ..Inspected::of(&document) })
            }
            Named::Pin(..) | Named::Tombstone(..) | Named::Hold(_) | Named::Release(_) => {
                self.inspect_retention(named, &key)
            }
            Named::Pack(_) | Named::Wal(..) => Err(RepoError::internal(
                "inspect an object",
                "packs and WAL files are read by their own readers",
            )),
        }
    }

    fn inspect_retention(&self, named: &Named, key: &Key) -> Result<Inspected, RepoError> {
        let (document, opened) = match named {
            Named::Pin(..) => {
                let document = self.get_signed(key, Kind::Pin, super::pins::MAX_PIN)?;
                super::pins::pin_of(key, &document)?;
                let opened = self.tried(|| self.pin_host(key, &document).map(drop))?;
                (document, opened)
            }
            Named::Tombstone(..) => {
                let document = self.get_signed(key, Kind::Tombstone, super::tombstones::MAX_TOMBSTONE)?;
                super::tombstones::tombstone_of(key, &document)?;
                (document, Ok(()))
            }
            _ => {
                let document = self.get_signed(key, Kind::Hold, super::holds::MAX_HOLD)?;
                match named {
                    Named::Release(id) => super::holds::release_of(*id, key, &document)?,
                    _ => drop(super::holds::hold_of(key, &document)?),
                }
                let words = || self.open_document::<super::HoldWords>(key, &document).map(drop);
                let opened = self.tried(words)?;
                (document, opened)
            }
        };
        Ok(Inspected { opened, ..Inspected::of(&document) })
    }

    fn inspect_operation(&self, key: &Key) -> Result<Inspected, RepoError> {
        let document = self.get_signed(key, Kind::Operation, MAX_RECORD)?;
        let previous = Some(super::operations::operation_clear(key, &document)?.previous);
        let mut operation = None;
        let opened = self.tried(|| {
            operation = Some(self.open_document(key, &document)?);
            Ok(())
        })?;
        Ok(Inspected { opened, operation, previous, ..Inspected::of(&document) })
    }

    /// Opens something sealed; no identity for it is no error.
    fn tried(&self, open: impl FnOnce() -> Result<(), RepoError>) -> Result<Result<(), KeyError>, RepoError> {
        opened(open())
    }

    fn read_named(&self, key: &Key, limit: u64) -> Result<Vec<u8>, RepoError> {
        match read_whole(self.store.as_ref(), key, limit) {
            Err(error) if error.kind == refloat_store::StoreErrorKind::NotFound => {
                Err(RepoError::Missing { object: key.to_string() })
            }
            other => Ok(other?),
        }
    }

    /// What the first bytes of `key` claim; `None` when it does not begin as an object of Refloat does.
    ///
    /// # Errors
    /// When the store cannot tell.
    pub fn claim(&self, key: &Key) -> Result<Option<Claim>, RepoError> {
        let size = self.store.head(key)?.map_or(0, |info| info.size);
        if size < HEADER_BYTES as u64 {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.store.read(key, 0..HEADER_BYTES as u64, &mut bytes)?;
        Ok(parse_claim(&bytes))
    }
}

fn parse_claim(bytes: &[u8]) -> Option<Claim> {
    let mut reader = Reader::new(bytes);
    if reader.array().ok()? != MAGIC {
        return None;
    }
    let (format, kind) = (reader.u16().ok()?, reader.u8().ok()?);
    reader.take(5 + 16).ok()?;
    let (key, agent) = (ObjectId(reader.array().ok()?), ObjectId(reader.array().ok()?));
    Some(Claim { format, kind, key, agent })
}

fn opened(read: Result<(), RepoError>) -> Result<Result<(), KeyError>, RepoError> {
    match read {
        Ok(()) => Ok(Ok(())),
        Err(RepoError::NoKey { source, .. }) => Ok(Err(source)),
        Err(error) => Err(error),
    }
}

impl Inspected {
    pub(super) fn whole(key: ObjectId, agent: ObjectId, digest: [u8; 32]) -> Self {
        Self { key, agent, digest, opened: Ok(()), operation: None, commit: None, previous: None }
    }
    fn of(document: &Document) -> Self {
        Self::whole(document.header.key, document.header.agent, document.digest())
    }
}
