//! Confirmations: that a person has shown that what opens the repository is kept somewhere else than on this host.
//!
//! Each is a numbered, signed generation; the newest one counts. A crash leaves it written or not.

use refloat_types::{ObjectId, Timestamp};
use serde::{Deserialize, Serialize};

use super::Repository;
use crate::crypt::identity::Recipient;
use crate::crypt::random;
use crate::error::RepoError;
use crate::kind::Kind;
use crate::layout;
use crate::object::Body;

/// Largest confirmation accepted.
pub(super) const MAX_CONFIRMATION: u64 = 64 << 10;

/// How it was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shown {
    /// It was entered, and it opens the repository.
    Entered,
    /// Somebody said so: automation whose passphrase comes from a secret store.
    Declared,
}

/// The clear section of a confirmation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// Generation.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// How.
    pub shown: Shown,
    /// The host on which it was done.
    pub agent: ObjectId,
    /// The generation of who can read that it is about.
    #[serde(default, skip_serializing_if = "is_first")]
    pub generation: u64,
    /// The public half of the identity that was opened, or shown. `None`: that was not recorded, or it was declared of keys that
    /// no host has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens: Option<Recipient>,
}

/// Confirmations from before the first rotation say nothing about generations.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_first(generation: &u64) -> bool {
    *generation == 0
}

impl Repository {
    /// Whether anybody has to keep something to be able to open this repository.
    pub fn needs_confirmation(&self) -> bool {
        self.is_encrypted() && (self.current.has_passphrase || self.can_read())
    }

    /// Records that what opens the repository is kept: the identity whose public half is `opens`.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub fn put_confirmation(
        &self,
        shown: Shown,
        opens: Option<Recipient>,
        now: Timestamp,
    ) -> Result<Confirmation, RepoError> {
        let number = 1 + self.highest_number(layout::CONFIRMATIONS)?;
        let generation = self.current.number;
        let confirmation = Confirmation { number, at: now, shown, agent: self.agent(), generation, opens };
        let key = layout::generation(layout::CONFIRMATIONS, number);
        self.put_signed(&key, Kind::Confirmation, random::object_id(), &confirmation, &[], Body::Empty)?;
        Ok(confirmation)
    }

    /// The newest confirmation; `None` when nobody has shown anything yet, or not since the last rotation, or what was shown
    /// opens nothing of it.
    ///
    /// # Errors
    /// When the store cannot list, or the confirmation cannot be believed.
    pub fn confirmation(&self) -> Result<Option<Confirmation>, RepoError> {
        let number = self.highest_number(layout::CONFIRMATIONS)?;
        if number == 0 {
            return Ok(None);
        }
        let confirmation = self.read_confirmation(number)?;
        // What opened it before a rotation says nothing about what opens it now.
        let is_now = confirmation.generation == self.current.number;
        let opens = confirmation.opens.as_ref().is_none_or(|opens| self.current.recipients.contains(opens));
        let counts = confirmation.generation > self.current.number || (is_now && opens);
        Ok(counts.then_some(confirmation))
    }

    pub(super) fn read_confirmation(&self, number: u64) -> Result<Confirmation, RepoError> {
        let key = layout::generation(layout::CONFIRMATIONS, number);
        let document = self.get_signed(&key, Kind::Confirmation, MAX_CONFIRMATION)?;
        let confirmation: Confirmation = document.unverified().clear_as(key.as_str())?;
        if confirmation.number == number && confirmation.agent == document.header.agent {
            Ok(confirmation)
        } else {
            Err(RepoError::damaged(key, "it is another confirmation"))
        }
    }
}
