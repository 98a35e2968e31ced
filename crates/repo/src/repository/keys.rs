//! Data keys: drawn here, sealed into envelopes, opened again.

use std::sync::{Arc, PoisonError};

use refloat_store::{Key, StoreErrorKind};
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

/// What a key is for that seals page maps.
const MAP: &str = "map";

/// File in the state directory with the keys of page maps, on a host that cannot read.
const MAP_KEYS: &str = "map-keys.json";

/// So many are kept: the newest. A backup whose map's key is not among them is no parent any more.
const MAX_MAP_KEYS: usize = 4096;

/// The key of the page maps of one backup.
#[derive(Serialize, Deserialize)]
struct MapKey {
    id: ObjectId,
    #[serde(with = "refloat_types::hex::array")]
    key: [u8; 32],
}

/// The clear section of an envelope.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct EnvelopeClear {
    /// The key's id.
    pub(super) key: ObjectId,
    /// What it seals: `backup`, `map` or `writer`.
    pub(super) purpose: String,
    /// When it was drawn.
    pub(super) created: Timestamp,
    /// What only this key has.
    #[serde(with = "refloat_types::hex::array")]
    pub(super) commitment: [u8; 32],
    /// The generation of recipients it is sealed to.
    #[serde(default, skip_serializing_if = "is_first")]
    pub(super) generation: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_first(generation: &u64) -> bool {
    *generation == 0
}

/// The clear section of the envelope of key `id`.
pub(super) fn envelope_clear(
    object: &Key,
    id: ObjectId,
    document: &Document,
) -> Result<EnvelopeClear, RepoError> {
    let clear: EnvelopeClear = document.unverified().clear_as(object.as_str())?;
    // One that was sealed again is an object of its own.
    let is_first = *object == layout::envelope(id);
    if clear.key == id && (document.header.id == id || !is_first) {
        Ok(clear)
    } else {
        Err(RepoError::damaged(object, "it lies under another key's name"))
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
        self.put_envelope(&key, purpose, now)?;
        Ok(Some(Arc::new(key)))
    }

    /// Seals a key to those who can read now.
    fn put_envelope(&self, key: &DataKey, purpose: &str, created: Timestamp) -> Result<(), RepoError> {
        let generation = self.generation_now()?;
        let clear = EnvelopeClear {
            key: key.id(),
            purpose: purpose.to_owned(),
            created,
            commitment: key.commitment(),
            generation: generation.number,
        };
        let sealed = identity::seal_to(&generation.recipients, key.expose())?;
        self.keep_generation(&generation)?;
        fault::point("key.before_envelope").map_err(|e| RepoError::internal("store an envelope", e))?;
        self.put_signed(
            &layout::envelope(key.id()),
            Kind::Envelope,
            key.id(),
            &clear,
            &[],
            Body::Raw(&sealed),
        )?;
        Ok(())
    }

    /// Seals a key of another repository to those who can read here, so that what it seals can be taken over as it is. Where
    /// it was taken over before, nothing is done.
    ///
    /// # Errors
    /// When the envelope cannot be stored: nothing that the key seals may be referred to.
    pub fn adopt_key(&self, key: &DataKey, purpose: &str, created: Timestamp) -> Result<(), RepoError> {
        let object = layout::envelope(key.id());
        if self.store.head(&object)?.is_none() {
            match self.put_envelope(key, purpose, created) {
                // Somebody else takes it over at the same moment.
                Err(RepoError::Store(error)) if error.kind == StoreErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        // What lies there under its name must be it: nobody could open the backup otherwise.
        let document = self.get_signed(&object, Kind::Envelope, MAX_ENVELOPE)?;
        if envelope_clear(&object, key.id(), &document)?.commitment != key.commitment() {
            return Err(RepoError::NoKey { key: key.id(), source: KeyError::Commitment });
        }
        if purpose == MAP && !self.can_read() {
            self.keep_map_key(key)?;
        }
        Ok(())
    }

    /// What a data key is for, and when it was drawn.
    ///
    /// # Errors
    /// When its envelope cannot be read or believed.
    pub fn key_origin(&self, id: ObjectId) -> Result<(String, Timestamp), RepoError> {
        let object = layout::envelope(id);
        let document = self.get_signed(&object, Kind::Envelope, MAX_ENVELOPE)?;
        let clear = envelope_clear(&object, id, &document)?;
        Ok((clear.purpose, clear.created))
    }

    /// Draws the key that seals the page maps of a backup on a host that cannot read, and keeps it there: so the next backup
    /// can build on this one. It opens names, sizes and hashes of pages, and no data. `None` where nothing is encrypted.
    ///
    /// # Errors
    /// When it cannot be stored or kept: the key must not be used.
    pub fn draw_map_key(&self, now: Timestamp) -> Result<Option<Arc<DataKey>>, RepoError> {
        let Some(key) = self.draw_key(MAP, now)? else { return Ok(None) };
        self.keep_map_key(&key)?;
        Ok(Some(key))
    }

    fn keep_map_key(&self, key: &DataKey) -> Result<(), RepoError> {
        let mut kept = self.kept_map_keys()?;
        if kept.iter().any(|known| known.id == key.id()) {
            return Ok(());
        }
        kept.push(MapKey { id: key.id(), key: *key.expose() });
        let surplus = kept.len().saturating_sub(MAX_MAP_KEYS);
        kept.drain(..surplus);
        self.state.write(&self.state_name(MAP_KEYS), &kept)
    }

    fn kept_map_keys(&self) -> Result<Vec<MapKey>, RepoError> {
        Ok(self.state.read(&self.state_name(MAP_KEYS))?.unwrap_or_default())
    }

    /// Opens a data key by its envelope, or by a later one of it (see `rewrap`).
    ///
    /// # Errors
    /// `NoKey` when no identity here opens it; `UnknownOrigin` or `Damaged` for an envelope that no agent made.
    pub fn open_key(&self, id: ObjectId) -> Result<Arc<DataKey>, RepoError> {
        if let Some(own) = self.kept_writer_key()?.filter(|own| own.id == id) {
            return Ok(Arc::new(own.data_key()));
        }
        if !self.can_read()
            && let Some(own) = self.kept_map_keys()?.into_iter().find(|own| own.id == id)
        {
            return Ok(Arc::new(DataKey::from_parts(own.id, own.key)));
        }
        let first = match self.open_envelope_at(&layout::envelope(id), id) {
            Err(error) if self.may_be_rewrapped(&error) => error,
            other => return other,
        };
        for number in (1..=self.current.number).rev() {
            match self.open_envelope_at(&layout::rewrapped(id, number), id) {
                Ok(key) => return Ok(key),
                Err(RepoError::Store(error)) if error.is_retryable() => return Err(error.into()),
                // One that cannot be believed or opened must not hide one that can.
                Err(_) => {}
            }
        }
        Err(first)
    }

    /// Whether another envelope of the same key may help.
    fn may_be_rewrapped(&self, error: &RepoError) -> bool {
        let will_pass = matches!(error, RepoError::Store(error) if error.is_retryable());
        !will_pass && self.current.number > 0
    }

    pub(super) fn open_envelope_at(&self, key: &Key, id: ObjectId) -> Result<Arc<DataKey>, RepoError> {
        self.open_envelope(key, id, &self.get_signed(key, Kind::Envelope, MAX_ENVELOPE)?)
    }

    /// Opens the data key in an envelope whose signature holds.
    pub(super) fn open_envelope(
        &self,
        object: &Key,
        id: ObjectId,
        document: &Document,
    ) -> Result<Arc<DataKey>, RepoError> {
        let fail = |source| RepoError::NoKey { key: id, source: self.explained(source) };
        let sections = document.unverified();
        let clear = envelope_clear(object, id, document)?;
        let mut plain = identity::open_with(&self.identities(), sections.body).map_err(fail)?;
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
        if let Some(kept) =
            self.kept_writer_key()?.filter(|kept| kept.day == day && kept.generation == self.current.number)
        {
            return Ok(Some(Arc::new(kept.data_key())));
        }
        let Some(key) = self.draw_key("writer", now)? else { return Ok(None) };
        let kept = WriterKey { day, generation: self.current.number, id: key.id(), key: *key.expose() };
        self.state.write(&self.state_name("writer-key.json"), &kept)?;
        *self.writer_key.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        Ok(Some(key))
    }
}
