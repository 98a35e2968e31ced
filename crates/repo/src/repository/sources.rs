//! Sources: what they are called, and which server each is at present.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use refloat_store::Key;
use refloat_types::{Lsn, ObjectId, SourceId, SourceName, SystemIdentifier, TimelineId, Timestamp};
use serde::{Deserialize, Serialize};

use super::Repository;
use crate::crypt::random;
use crate::error::{KeyError, RepoError};
use crate::kind::Kind;
use crate::layout;
use crate::object::{Body, Document};

/// Largest description or owner record accepted.
const MAX_RECORD: u64 = 1 << 20;

/// File in the state directory with the descriptions that this host has written.
const DESCRIBED: &str = "described.json";

/// The clear section of a description: says only which cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct DescriptionClear {
    source: SourceId,
    number: u64,
    created: Timestamp,
    system: Option<SystemIdentifier>,
}

/// The sealed part of a description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceDescription {
    /// What it is called.
    pub name: SourceName,
    /// `postgres`.
    pub kind: String,
    /// The host it was described on.
    pub host: String,
    /// Its data directory there.
    pub data_directory: String,
}

/// A source as a repository knows it.
#[derive(Debug, Clone)]
pub struct SourceInfo {
    /// Its id.
    pub id: SourceId,
    /// Its cluster.
    pub system: Option<SystemIdentifier>,
    /// Its newest description; `None` on a host that cannot read it.
    pub description: Option<SourceDescription>,
}

/// Which server a source is: written by the first backup, by `takeover`, and when its server is promoted; a generation
/// each time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRecord {
    /// The source.
    pub source: SourceId,
    /// Generation.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// The cluster.
    pub system: SystemIdentifier,
    /// The timeline it writes.
    pub timeline: TimelineId,
    /// Where that timeline left its parent; `None` for the first.
    pub fork_lsn: Option<Lsn>,
    /// The restore it came from, if any.
    pub restored_from: Option<String>,
}

impl Repository {
    /// All sources, for whoever needs every one of them or none; descriptions are opened where this host can.
    ///
    /// # Errors
    /// When the store cannot list, or a description cannot be believed.
    pub fn list_sources(&self) -> Result<Vec<SourceInfo>, RepoError> {
        let mut newest: BTreeMap<SourceId, Key> = BTreeMap::new();
        self.store.list(layout::SOURCES, &mut |info| {
            let mut parts = info.key.as_str().split('/').skip(1);
            if let (Some(Ok(id)), Some("source")) = (parts.next().map(str::parse::<SourceId>), parts.next()) {
                let place = newest.entry(id).or_insert_with(|| info.key.clone());
                if *place < info.key {
                    *place = info.key;
                }
            }
            ControlFlow::Continue(())
        })?;
        newest.into_iter().map(|(id, key)| self.read_source(id, &key)).collect()
    }

    /// Generation `number` of a source's description.
    ///
    /// # Errors
    /// When it is not there or cannot be believed.
    pub fn source_generation(&self, id: SourceId, number: u64) -> Result<SourceInfo, RepoError> {
        self.read_source(id, &layout::generation(&layout::source_generations(id), number))
    }

    /// Every cluster that a source has been, by all generations of its description.
    ///
    /// # Errors
    /// When one cannot be believed.
    pub fn systems_of(&self, id: SourceId) -> Result<BTreeSet<SystemIdentifier>, RepoError> {
        let prefix = layout::source_generations(id);
        let mut systems = BTreeSet::new();
        for number in 1..=self.highest_number(&prefix)? {
            let key = layout::generation(&prefix, number);
            let document = self.get_signed(&key, Kind::Source, MAX_RECORD)?;
            let clear: DescriptionClear = document.unverified().clear_as(key.as_str())?;
            if clear.source != id || clear.number != number {
                return Err(RepoError::damaged(&key, "it describes another source"));
            }
            systems.extend(clear.system);
        }
        Ok(systems)
    }

    pub(super) fn read_source(&self, id: SourceId, key: &Key) -> Result<SourceInfo, RepoError> {
        let document = self.get_signed(key, Kind::Source, MAX_RECORD)?;
        self.source_of(id, key, &document)
    }

    /// What a description whose signature holds says.
    pub(super) fn source_of(
        &self,
        id: SourceId,
        key: &Key,
        document: &Document,
    ) -> Result<SourceInfo, RepoError> {
        let clear: DescriptionClear = document.unverified().clear_as(key.as_str())?;
        if clear.source != id || layout::number_of(key) != Some(clear.number) {
            return Err(RepoError::damaged(key, "it describes another source"));
        }
        let description = match self.open_where_possible(key, document)? {
            Some(description) => Some(description),
            None => self.described()?.remove(&id),
        };
        Ok(SourceInfo { id, system: clear.system, description })
    }

    /// What this host has called sources: it need not open what it has sealed for others.
    fn described(&self) -> Result<BTreeMap<SourceId, SourceDescription>, RepoError> {
        Ok(self.state.read(&self.state_name(DESCRIBED))?.unwrap_or_default())
    }

    /// A JSON body, or `None` where it is sealed for others than this host.
    pub(super) fn open_where_possible<T: serde::de::DeserializeOwned>(
        &self,
        key: &Key,
        document: &Document,
    ) -> Result<Option<T>, RepoError> {
        match self.open_document(key, document) {
            Err(RepoError::NoKey { source: KeyError::NoIdentity | KeyError::Rotated { .. }, .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Opens a JSON body that one of our data keys seals.
    pub(super) fn open_document<T: serde::de::DeserializeOwned>(
        &self,
        key: &Key,
        document: &Document,
    ) -> Result<T, RepoError> {
        let data_key = match document.header.key {
            ObjectId::NONE => None,
            id => Some(self.open_key(id)?),
        };
        crate::object::document::parse(key.as_str(), &document.open_body(data_key.as_deref())?)
    }

    /// Describes a source: a new one, or a new generation of the one with this id.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn describe_source(
        &self,
        id: Option<SourceId>,
        description: &SourceDescription,
        system: SystemIdentifier,
        now: Timestamp,
    ) -> Result<SourceInfo, RepoError> {
        let id = id.unwrap_or_else(random::source_id);
        let prefix = layout::source_generations(id);
        let number = 1 + self.highest_number(&prefix)?;
        let clear = DescriptionClear { source: id, number, created: now, system: Some(system) };
        let body =
            serde_json::to_vec(description).map_err(|e| RepoError::internal("describe the source", e))?;
        let key = self.writer_key(now)?;
        let body = Body::Sealed(&body, key.as_deref());
        self.put_signed(
            &layout::generation(&prefix, number),
            Kind::Source,
            random::object_id(),
            &clear,
            &[],
            body,
        )?;
        let mut described = self.described()?;
        if described.insert(id, description.clone()).as_ref() != Some(description) {
            self.state.write(&self.state_name(DESCRIBED), &described)?;
        }
        Ok(SourceInfo { id, system: Some(system), description: Some(description.clone()) })
    }

    /// The newest owner record of a source.
    ///
    /// # Errors
    /// When the store cannot list, or the record cannot be believed.
    pub fn owner(&self, source: SourceId) -> Result<Option<OwnerRecord>, RepoError> {
        let prefix = layout::owners(source);
        let number = self.highest_number(&prefix)?;
        if number == 0 {
            return Ok(None);
        }
        self.read_owner(source, number).map(Some)
    }

    /// Generation `number` of a source's owner.
    ///
    /// # Errors
    /// When it is not there or cannot be believed.
    pub fn read_owner(&self, source: SourceId, number: u64) -> Result<OwnerRecord, RepoError> {
        let key = layout::generation(&layout::owners(source), number);
        let document = self.get_signed(&key, Kind::Owner, MAX_RECORD)?;
        let record: OwnerRecord = document.unverified().clear_as(key.as_str())?;
        if record.source == source && record.number == number {
            Ok(record)
        } else {
            Err(RepoError::damaged(key, "it names the owner of another source"))
        }
    }

    /// Records a new owner; its number is set here.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn put_owner(&self, mut record: OwnerRecord) -> Result<OwnerRecord, RepoError> {
        let prefix = layout::owners(record.source);
        record.number = 1 + self.highest_number(&prefix)?;
        let key = layout::generation(&prefix, record.number);
        self.put_signed(&key, Kind::Owner, random::object_id(), &record, &[], Body::Empty)?;
        Ok(record)
    }
}
