//! Operation records: who did what, with which result. Each is signed and names the digest of the one before it by the
//! same agent, so that one that is taken away is missed.

use std::ops::ControlFlow;

use refloat_store::{Key, read_whole};
use refloat_types::{ObjectId, Timestamp};
use serde::{Deserialize, Serialize};

use super::Repository;
use crate::crypt::random;
use crate::error::RepoError;
use crate::kind::Kind;
use crate::layout;
use crate::object::{Body, Document};

/// Largest record accepted.
pub(super) const MAX_RECORD: u64 = 1 << 20;

/// The clear section of a record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperationClear {
    /// Who.
    pub agent: ObjectId,
    /// Counts the agent's records.
    pub number: u64,
    /// When it was written.
    pub at: Timestamp,
    /// BLAKE3 of the agent's record before it; zero for the first.
    #[serde(with = "refloat_types::hex::array")]
    pub previous: [u8; 32],
}

/// The sealed part of a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// What: `backup`, `restore`, `init`, `takeover`, `verify`, `check`, `key confirm`, `key sheet`,
    /// `key rotate`, `key rewrap`, `key invite`, `expire`, `hold add`, `hold remove`, `heal`.
    pub operation: String,
    /// On which source, where that makes sense.
    pub source: Option<String>,
    /// Who: user and host.
    pub who: String,
    /// When it began.
    pub started: Timestamp,
    /// How long it took.
    pub seconds: f64,
    /// `done`, `findings` or `failed`.
    pub result: String,
    /// The error, or what was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Bytes moved.
    pub bytes: u64,
    /// Backup or restore it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Release of Refloat.
    pub version: String,
}

impl Repository {
    /// Stores a record.
    ///
    /// # Errors
    /// When it cannot be stored; the operation itself is not undone by that.
    pub fn record_operation(&self, record: &OperationRecord, now: Timestamp) -> Result<Key, RepoError> {
        let agent = self.agent();
        let last = self.last_operation(agent)?;
        let (number, previous) = match last {
            None => (1, [0; 32]),
            Some((number, key)) => {
                let bytes = read_whole(self.store.as_ref(), &key, MAX_RECORD)?;
                (number + 1, *blake3::hash(&bytes).as_bytes())
            }
        };
        let clear = OperationClear { agent, number, at: now, previous };
        let body =
            serde_json::to_vec(record).map_err(|e| RepoError::internal("write an operation record", e))?;
        let key = self.writer_key(now)?;
        let id = random::object_id();
        let object = layout::operation(agent, number, id);
        self.put_signed(&object, Kind::Operation, id, &clear, &[], Body::Sealed(&body, key.as_deref()))?;
        Ok(object)
    }

    fn last_operation(&self, agent: ObjectId) -> Result<Option<(u64, Key)>, RepoError> {
        let mut last: Option<Key> = None;
        self.store.list(&layout::operations_of(agent), &mut |info| {
            if last.as_ref().is_none_or(|last| *last < info.key) {
                last = Some(info.key);
            }
            ControlFlow::Continue(())
        })?;
        Ok(last.and_then(|key| Some((layout::number_of(&key)?, key))))
    }

    /// What an agent did last, where this host can read it.
    ///
    /// # Errors
    /// As for [`Repository::read_operation`].
    pub fn newest_operation(&self, agent: ObjectId) -> Result<Option<OperationRecord>, RepoError> {
        match self.last_operation(agent)? {
            Some((_, key)) => Ok(self.read_operation(&key)?.1),
            None => Ok(None),
        }
    }

    /// Reads and verifies one record; its sealed part is opened where this host can.
    ///
    /// # Errors
    /// `Damaged`, `UnknownOrigin`, or what the store says.
    pub fn read_operation(&self, key: &Key) -> Result<(OperationClear, Option<OperationRecord>), RepoError> {
        let document = self.get_signed(key, Kind::Operation, MAX_RECORD)?;
        let clear = operation_clear(key, &document)?;
        let record = self.open_where_possible(key, &document)?;
        Ok((clear, record))
    }
}

/// The clear section of a record whose signature holds.
pub(super) fn operation_clear(key: &Key, document: &Document) -> Result<OperationClear, RepoError> {
    let clear: OperationClear = document.unverified().clear_as(key.as_str())?;
    let named = layout::operation(clear.agent, clear.number, document.header.id);
    if *key == named && clear.agent == document.header.agent {
        Ok(clear)
    } else {
        Err(RepoError::damaged(key, "it lies under another record's name"))
    }
}
