//! Data keys sealed again, to the recipients of today: without writing any data again.
//!
//! Nothing is overwritten: the new envelope is an object beside the old one, and readers take whichever they can open. A crash
//! leaves some keys with a new envelope and others without, and running it again goes on with those. Old envelopes are deleted
//! only on request, and each only when the new one was read back and opened.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use refloat_store::{Key, StoreErrorKind};
use refloat_types::{ObjectId, Timestamp, fault};

use super::Repository;
use super::keys::{EnvelopeClear, MAX_ENVELOPE, envelope_clear};
use crate::crypt::identity;
use crate::crypt::random;
use crate::crypt::seal::DataKey;
use crate::error::{KeyError, RepoError};
use crate::kind::Kind;
use crate::layout::{self, Named};
use crate::object::Body;

/// The envelopes of one data key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// The key.
    pub id: ObjectId,
    /// Its first envelope is there.
    pub first: bool,
    /// Generations it was sealed again to.
    pub again: BTreeSet<u64>,
}

/// What a data key is for, and who can open it.
#[derive(Debug, Clone)]
pub struct KeyFacts {
    /// `backup` or `writer`.
    pub purpose: String,
    /// When it was drawn.
    pub created: Timestamp,
    /// The newest generation of recipients it is sealed to.
    pub generation: u64,
    /// This host opens it, or why not.
    pub opens: Result<(), KeyError>,
}

/// What became of a data key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewrapped {
    /// It was sealed to the current recipients already.
    Already,
    /// It was sealed again.
    Sealed,
}

struct Envelope {
    object: Key,
    clear: EnvelopeClear,
    key: Result<Arc<DataKey>, RepoError>,
}

impl StoredKey {
    /// Its envelopes, the newest first.
    fn objects(&self) -> Vec<Key> {
        let again = self.again.iter().rev().map(|number| layout::rewrapped(self.id, *number));
        again.chain(self.first.then(|| layout::envelope(self.id))).collect()
    }
}

impl Repository {
    /// All data keys, by their envelopes.
    ///
    /// # Errors
    /// When the store cannot list.
    pub fn list_data_keys(&self) -> Result<Vec<StoredKey>, RepoError> {
        let mut found: BTreeMap<ObjectId, StoredKey> = BTreeMap::new();
        self.store.list(layout::ENVELOPES, &mut |info| {
            let fresh = |id| StoredKey { id, first: false, again: BTreeSet::new() };
            match Named::parse(&info.key) {
                Some(Named::Envelope(id)) => found.entry(id).or_insert_with(|| fresh(id)).first = true,
                Some(Named::Rewrapped(id, number)) => {
                    found.entry(id).or_insert_with(|| fresh(id)).again.insert(number);
                }
                _ => {}
            }
            ControlFlow::Continue(())
        })?;
        Ok(found.into_values().collect())
    }

    /// What is known of a data key.
    ///
    /// # Errors
    /// When none of its envelopes can be believed.
    pub fn key_facts(&self, stored: &StoredKey) -> Result<KeyFacts, RepoError> {
        let all = self.envelopes(stored)?;
        let newest = all.iter().map(|envelope| envelope.clear.generation).max().unwrap_or(0);
        let mut opens = Err(KeyError::NoIdentity);
        for envelope in &all {
            opens = match &envelope.key {
                Ok(_) => Ok(()),
                Err(RepoError::NoKey { source, .. }) => Err(source.clone()),
                Err(_) => Err(KeyError::Damaged),
            };
            if opens.is_ok() {
                break;
            }
        }
        let clear = all.into_iter().next().map(|envelope| envelope.clear);
        let clear = clear.ok_or_else(|| missing(stored.id))?;
        Ok(KeyFacts { purpose: clear.purpose, created: clear.created, generation: newest, opens })
    }

    /// Those of its envelopes that can be believed, the newest first; an error when none can.
    fn envelopes(&self, stored: &StoredKey) -> Result<Vec<Envelope>, RepoError> {
        let (mut found, mut wrong) = (Vec::new(), None);
        for object in stored.objects() {
            let read = self
                .get_signed(&object, Kind::Envelope, MAX_ENVELOPE)
                .and_then(|document| Ok((envelope_clear(&object, stored.id, &document)?, document)));
            match read {
                Ok((clear, document)) => {
                    let key = self.open_envelope(&object, stored.id, &document);
                    found.push(Envelope { object, clear, key });
                }
                Err(RepoError::Store(error)) if error.is_retryable() => return Err(error.into()),
                Err(error) => wrong = Some(error),
            }
        }
        if found.is_empty() { Err(wrong.unwrap_or_else(|| missing(stored.id))) } else { Ok(found) }
    }

    /// The envelopes of a data key, all of which must say that they hold the same one. Any agent can sign an envelope, with a
    /// key of its own in it; for such a one the good ones must not be given up.
    fn agreeing(&self, stored: &StoredKey) -> Result<Vec<Envelope>, RepoError> {
        let all = self.envelopes(stored)?;
        let other = all.windows(2).find(|pair| pair[0].clear.commitment != pair[1].clear.commitment);
        match other {
            None => Ok(all),
            Some(pair) => Err(RepoError::damaged(
                &pair[0].object,
                "it does not hold the key that the other envelopes of that key hold; none is deleted",
            )),
        }
    }

    /// Seals a data key to the current recipients, where it is not yet. The new envelope is durable and was read back
    /// when this answers.
    ///
    /// # Errors
    /// `NoKey` where this host cannot open it; what the store says. Its old envelope is untouched.
    pub fn rewrap_key(&self, stored: &StoredKey) -> Result<Rewrapped, RepoError> {
        let current = self.generation_now()?;
        let all = self.agreeing(stored)?;
        if all.iter().any(|envelope| envelope.clear.generation == current.number) {
            return Ok(Rewrapped::Already);
        }
        let mut refused = None;
        let mut opened = None;
        for envelope in all {
            match envelope.key {
                Ok(key) => {
                    opened = Some((key, envelope.clear));
                    break;
                }
                Err(error) => refused = Some(error),
            }
        }
        let (key, clear) = opened.ok_or_else(|| refused.unwrap_or_else(|| missing(stored.id)))?;
        let clear = EnvelopeClear { generation: current.number, ..clear };
        let sealed = identity::seal_to(&current.recipients, key.expose())?;
        let object = layout::rewrapped(stored.id, current.number);
        fault::point("rewrap.before_envelope").map_err(|e| RepoError::internal("store an envelope", e))?;
        let put =
            self.put_signed(&object, Kind::Envelope, random::object_id(), &clear, &[], Body::Raw(&sealed));
        match put {
            // Another host does the same at the same time; what it wrote must be as good.
            Err(RepoError::Store(error)) if error.kind == StoreErrorKind::AlreadyExists => {}
            other => drop(other?),
        }
        fault::point("rewrap.after_envelope").map_err(|e| RepoError::internal("store an envelope", e))?;
        let document = self.get_signed(&object, Kind::Envelope, MAX_ENVELOPE)?;
        let read = envelope_clear(&object, stored.id, &document)?;
        if (read.generation, read.commitment) != (clear.generation, clear.commitment) {
            return Err(RepoError::damaged(&object, "another envelope came back than was stored"));
        }
        Ok(Rewrapped::Sealed)
    }

    /// Deletes the envelopes of a data key that are sealed to earlier recipients only. Answers how many.
    ///
    /// # Errors
    /// `NoKey` where this host does not open the new one, which must be seen to open first: nothing is deleted then.
    pub fn delete_old_envelopes(&self, stored: &StoredKey) -> Result<u64, RepoError> {
        let current = self.generation_now()?.number;
        let mut all = self.agreeing(stored)?;
        let at = all.iter().position(|envelope| envelope.clear.generation == current);
        let Some(at) = at else {
            let what = "it is not sealed to the current recipients yet";
            return Err(RepoError::damaged(layout::envelope(stored.id), what));
        };
        all.swap_remove(at).key?;
        let old: Vec<Key> =
            all.into_iter().filter(|old| old.clear.generation < current).map(|old| old.object).collect();
        for object in &old {
            fault::point("rewrap.before_delete").map_err(|e| RepoError::internal("delete an envelope", e))?;
            self.store.delete(object)?;
        }
        Ok(old.len() as u64)
    }
}

fn missing(id: ObjectId) -> RepoError {
    RepoError::Missing { object: layout::envelope(id).to_string() }
}
