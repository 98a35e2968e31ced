//! Holds: backups that must not expire, whatever the policy says, until somebody says otherwise.
//!
//! Adding and removing are objects that are created once. A removal names the hold in its own key, so no list has to be
//! complete to know that a hold has ended, and none can be lost by two hosts writing at once.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use refloat_store::{Key, StoreErrorKind};
use refloat_types::{BackupId, ObjectId, SourceId, Timestamp, fault};
use serde::{Deserialize, Serialize};

use super::Repository;
use crate::crypt::random;
use crate::error::RepoError;
use crate::kind::Kind;
use crate::layout::{self, Named};
use crate::object::{Body, Document};

/// Largest hold accepted.
pub(super) const MAX_HOLD: u64 = 1 << 20;

/// The clear section of a hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct HoldClear {
    hold: ObjectId,
    source: SourceId,
    backup: BackupId,
    at: Timestamp,
    until: Option<Timestamp>,
    agent: ObjectId,
}

/// The clear section of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ReleaseClear {
    hold: ObjectId,
    released: Timestamp,
    agent: ObjectId,
}

/// The sealed part of both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldWords {
    /// Why.
    pub reason: String,
    /// Who: user and host.
    pub who: String,
}

/// A hold that was not released.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Its id.
    pub id: ObjectId,
    /// The source.
    pub source: SourceId,
    /// The backup.
    pub backup: BackupId,
    /// Host time when it was added.
    pub at: Timestamp,
    /// It ends then by itself.
    pub until: Option<Timestamp>,
    /// Why and who; `None` on a host that cannot read it.
    pub words: Option<HoldWords>,
}

impl Hold {
    /// Whether it still holds.
    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// What a hold whose signature holds says.
fn clear_of(key: &Key, document: &Document) -> Result<HoldClear, RepoError> {
    let clear: HoldClear = document.unverified().clear_as(key.as_str())?;
    if *key == layout::hold(clear.hold) && clear.agent == document.header.agent {
        Ok(clear)
    } else {
        Err(RepoError::damaged(key, "it lies under another hold's name"))
    }
}

/// Which backup a hold is about.
pub(super) fn hold_of(key: &Key, document: &Document) -> Result<BackupId, RepoError> {
    clear_of(key, document).map(|clear| clear.backup)
}

/// That it is the release of hold `id`.
pub(super) fn release_of(id: ObjectId, key: &Key, document: &Document) -> Result<(), RepoError> {
    let clear: ReleaseClear = document.unverified().clear_as(key.as_str())?;
    if clear.hold == id && clear.agent == document.header.agent {
        Ok(())
    } else {
        Err(RepoError::damaged(key, "it releases another hold"))
    }
}

impl Repository {
    /// Holds a backup.
    ///
    /// # Errors
    /// It may or may not be held; doing it again is safe.
    pub fn add_hold(
        &self,
        source: SourceId,
        backup: BackupId,
        words: &HoldWords,
        until: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Hold, RepoError> {
        let id = random::object_id();
        let clear = HoldClear { hold: id, source, backup, at: now, until, agent: self.agent() };
        let body = serde_json::to_vec(words).map_err(|e| RepoError::internal("write a hold", e))?;
        let key = self.writer_key(now)?;
        fault::point("hold.before_write").map_err(|e| RepoError::internal("write a hold", e))?;
        let body = Body::Sealed(&body, key.as_deref());
        self.put_signed(&layout::hold(id), Kind::Hold, random::object_id(), &clear, &[], body)?;
        Ok(Hold { id, source, backup, at: now, until, words: Some(words.clone()) })
    }

    /// Releases a hold; one that is released already is fine.
    ///
    /// # Errors
    /// It may or may not be released.
    pub fn release_hold(&self, id: ObjectId, words: &HoldWords, now: Timestamp) -> Result<(), RepoError> {
        let clear = ReleaseClear { hold: id, released: now, agent: self.agent() };
        let body = serde_json::to_vec(words).map_err(|e| RepoError::internal("release a hold", e))?;
        let key = self.writer_key(now)?;
        let body = Body::Sealed(&body, key.as_deref());
        match self.put_signed(&layout::release(id), Kind::Hold, random::object_id(), &clear, &[], body) {
            Err(RepoError::Store(error)) if error.kind == StoreErrorKind::AlreadyExists => Ok(()),
            other => other.map(drop),
        }
    }

    /// All holds that were not released, ended ones too.
    ///
    /// # Errors
    /// When a hold or a release cannot be believed: then nobody knows what is held.
    pub fn list_holds(&self) -> Result<Vec<Hold>, RepoError> {
        let (mut ids, mut released) = (BTreeSet::new(), BTreeSet::new());
        self.store.list(layout::HOLDS, &mut |info| {
            match Named::parse(&info.key) {
                Some(Named::Hold(id)) => drop(ids.insert(id)),
                Some(Named::Release(id)) => drop(released.insert(id)),
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        for id in &released {
            let key = layout::release(*id);
            release_of(*id, &key, &self.get_signed(&key, Kind::Hold, MAX_HOLD)?)?;
        }
        let mut out = Vec::new();
        for id in ids.difference(&released) {
            let key = layout::hold(*id);
            let document = self.get_signed(&key, Kind::Hold, MAX_HOLD)?;
            let clear = clear_of(&key, &document)?;
            let words = self.open_where_possible(&key, &document)?;
            let HoldClear { source, backup, at, until, .. } = clear;
            out.push(Hold { id: *id, source, backup, at, until, words });
        }
        out.sort_by_key(|hold| (hold.backup, hold.at));
        Ok(out)
    }
}
