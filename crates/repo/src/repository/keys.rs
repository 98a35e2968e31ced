//! Data keys: drawn here, sealed into envelopes, opened again.

use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError};

use refloat_types::{ObjectId, Timestamp, fault};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::Repository;
use crate::crypt::identity;
use crate::crypt::seal::DataKey;
use crate::error::{KeyError, RepoError};
use crate::kind::Kind;
use crate::layout;
use crate::object::{Body, Document};
use crate::state::WriterKey;

/// Largest envelope accepted.
pub(super) const MAX_ENVELOPE: u64 = 1 << 20;

/// The clear section of an envelope.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct EnvelopeClear {
    /// The key's id.
    pub(super) key: ObjectId,
    /// What it seals: `backup` or `writer`.
    pub(super) purpose: String,
    /// When it was drawn.
    pub(super) created: Timestamp,
    /// What only this key has.
    #[serde(with = "refloat_types::hex::array")]
    pub(super) commitment: [u8; 32],
}

/// The clear section of the envelope of key `id`.
pub(super) fn envelope_clear(id: ObjectId, document: &Document) -> Result<EnvelopeClear, RepoError> {
    let object = layout::envelope(id);
    let clear: EnvelopeClear = document.unverified().clear_as(object.as_str())?;
    if clear.key == id && document.header.id == id {
        Ok(clear)
    } else {
        Err(RepoError::damaged(&object, "it lies under another key's name"))
    }
}

impl Repository {
    /// Draws a data key and makes its envelope durable. `None` where nothing is encrypted.
    ///
    /// # Errors
    /// When the envelope cannot be stored: the key must not be used.
    pub fn draw_key(&self, purpose: &str, now: Timestamp) -> Result<Option<Arc<DataKey>>, RepoError> {
        if !self.is_encrypted() {
            return Ok(None);
        }
        let key = DataKey::draw();
        let clear = EnvelopeClear {
            key: key.id(),
            purpose: purpose.to_owned(),
            created: now,
            commitment: key.commitment(),
        };
        let sealed = identity::seal_to(&self.current_recipients()?, key.expose())?;
        fault::point("key.before_envelope").map_err(|e| RepoError::internal("store an envelope", e))?;
        self.put_signed(
            &layout::envelope(key.id()),
            Kind::Envelope,
            key.id(),
            &clear,
            &[],
            Body::Raw(&sealed),
        )?;
        Ok(Some(Arc::new(key)))
    }

    /// A later release may have changed the recipients by a new generation; sealing to the old ones would lock the new
    /// out, or let the old in.
    fn current_recipients(&self) -> Result<Vec<identity::Recipient>, RepoError> {
        let mut newer = None;
        self.store.list(layout::RECIPIENTS, &mut |info| {
            newer = Some(info.key);
            ControlFlow::Break(())
        })?;
        match newer {
            None => Ok(self.marker.recipients.clone()),
            Some(key) => Err(RepoError::NewerFormat {
                object: key.to_string(),
                found: crate::kind::FORMAT + 1,
                newest: crate::kind::FORMAT,
            }),
        }
    }

    /// Opens a data key by its envelope.
    ///
    /// # Errors
    /// `NoKey` when no identity here opens it; `UnknownOrigin` or `Damaged` for an envelope that no agent made.
    pub fn open_key(&self, id: ObjectId) -> Result<Arc<DataKey>, RepoError> {
        if let Some(own) = self.kept_writer_key()?.filter(|own| own.id == id) {
            return Ok(Arc::new(own.data_key()));
        }
        let document = self.get_signed(&layout::envelope(id), Kind::Envelope, MAX_ENVELOPE)?;
        self.open_envelope(id, &document)
    }

    /// Opens the data key in an envelope whose signature holds.
    pub(super) fn open_envelope(&self, id: ObjectId, document: &Document) -> Result<Arc<DataKey>, RepoError> {
        let fail = |source| RepoError::NoKey { key: id, source };
        let sections = document.unverified();
        let clear = envelope_clear(id, document)?;
        let identity = self.identity().ok_or_else(|| fail(KeyError::NoIdentity))?;
        let mut plain = identity.open(sections.body).map_err(fail)?;
        let secret: Option<[u8; 32]> = plain.as_slice().try_into().ok();
        plain.zeroize();
        let key = DataKey::from_parts(id, secret.ok_or_else(|| fail(KeyError::Damaged))?);
        if key.commitment() != clear.commitment {
            return Err(fail(KeyError::Commitment));
        }
        Ok(Arc::new(key))
    }

    fn kept_writer_key(&self) -> Result<Option<WriterKey>, RepoError> {
        let mut cached = self.writer_key.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.is_none() {
            *cached = self.state.read(&self.state_name("writer-key.json"))?;
        }
        Ok(cached.clone())
    }

    /// The key this writer seals WAL and operation records with today. Drawn anew each day; durable in its envelope
    /// before it is used. `None` where nothing is encrypted.
    ///
    /// # Errors
    /// When a new one cannot be stored or kept.
    pub fn writer_key(&self, now: Timestamp) -> Result<Option<Arc<DataKey>>, RepoError> {
        if !self.is_encrypted() {
            return Ok(None);
        }
        let day = now.strftime("%Y-%m-%d").to_string();
        if let Some(kept) = self.kept_writer_key()?.filter(|kept| kept.day == day) {
            return Ok(Some(Arc::new(kept.data_key())));
        }
        let Some(key) = self.draw_key("writer", now)? else { return Ok(None) };
        let kept = WriterKey { day, id: key.id(), key: *key.expose() };
        self.state.write(&self.state_name("writer-key.json"), &kept)?;
        *self.writer_key.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        Ok(Some(key))
    }
}
