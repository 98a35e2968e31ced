//! Generations of who can read: each rotation is one object that the root key signs.
//!
//! The repository object is generation 0. A later one holds everything that changes with it (recipients, the identity
//! behind the new passphrase, the secrets sealed to the new recipients), so that a rotation is there or it is not. The newest
//! that the root key signed counts; a host remembers the newest it has used, so that taking one away does not bring the
//! old recipients back.

use std::ops::ControlFlow;

use refloat_store::{Store, StoreErrorKind, read_whole};
use refloat_types::{ObjectId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Marker, MarkerBody, Repository};
use crate::crypt::identity::Recipient;
use crate::error::RepoError;
use crate::kind::{FORMAT, Kind, Suite};
use crate::layout;
use crate::object::Document;

/// Largest generation accepted.
pub(super) const MAX_GENERATION: u64 = 1 << 20;

/// File in the state directory with the newest generation that this host has used.
pub(super) const GENERATION: &str = "generation.json";

/// The clear section of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number; 0 is the repository object.
    pub number: u64,
    /// When it was made.
    pub created: Timestamp,
    /// How objects are sealed since.
    pub suite: Suite,
    /// To whom envelopes are sealed since; empty where nothing is encrypted.
    pub recipients: Vec<Recipient>,
    /// A passphrase opens an identity that is kept in it.
    pub has_passphrase: bool,
}

/// A generation with what it protects.
pub(super) struct Opening {
    /// Its key in the store.
    pub(super) object: String,
    /// What it says.
    pub(super) generation: Generation,
    /// What opens the repository.
    pub(super) body: MarkerBody,
    /// BLAKE3 of all its bytes.
    pub(super) digest: [u8; 32],
}

/// The newest generation, and whether a later release made a newer one.
pub(super) struct Newest {
    pub(super) generation: Generation,
    /// Key and format of one that this release cannot read: nothing may be sealed anew.
    pub(super) beyond: Option<(String, u16)>,
}

impl Generation {
    /// What the repository object says.
    pub(super) fn first(marker: &Marker) -> Self {
        Self {
            number: 0,
            created: marker.created,
            suite: marker.suite,
            recipients: marker.recipients.clone(),
            has_passphrase: marker.has_passphrase,
        }
    }
}

/// Finds the newest generation that `marker`'s root key signed; `kept` is the newest this host has used.
pub(super) fn newest(
    store: &dyn Store,
    marker: &Marker,
    kept: Option<Generation>,
) -> Result<Newest, RepoError> {
    let mut generation = kept.unwrap_or_else(|| Generation::first(marker));
    let mut later = numbers(store)?;
    later.retain(|number| *number > generation.number);
    let mut beyond = None;
    for number in later.into_iter().rev() {
        match read(store, marker, number) {
            Ok(opening) => {
                generation = opening.generation;
                break;
            }
            Err(RepoError::NewerFormat { object, found, .. }) => beyond = beyond.or(Some((object, found))),
            Err(RepoError::Store(error)) => return Err(error.into()),
            // Forged or rotten: it adds no reader and takes none away. `verify` names it.
            Err(_) => {}
        }
    }
    Ok(Newest { generation, beyond })
}

/// The numbers of all generations but the first, ascending.
pub(super) fn numbers(store: &dyn Store) -> Result<Vec<u64>, RepoError> {
    let mut numbers = Vec::new();
    store.list(layout::RECIPIENTS, &mut |info| {
        if let Some(layout::Named::Generation(number)) = layout::Named::parse(&info.key) {
            numbers.push(number);
        }
        ControlFlow::Continue(())
    })?;
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads generation `number`, which the root key must have signed.
pub(super) fn read(store: &dyn Store, marker: &Marker, number: u64) -> Result<Opening, RepoError> {
    let key = layout::generation(layout::RECIPIENTS, number);
    let bytes = match read_whole(store, &key, MAX_GENERATION) {
        Err(error) if error.kind == StoreErrorKind::NotFound => {
            return Err(RepoError::Missing { object: key.to_string() });
        }
        other => other?,
    };
    let document = Document::decode(key.as_str(), bytes, Kind::Recipients)?;
    let damaged = |what: &str| RepoError::damaged(&key, what);
    if document.header.agent != ObjectId::NONE {
        let why = "only the root key changes who can read".to_owned();
        return Err(RepoError::UnknownOrigin { object: key.to_string(), why });
    }
    let sections = document.verify(&marker.root)?;
    let generation: Generation = sections.clear_as(key.as_str())?;
    if generation.number != number {
        return Err(damaged("it lies under another generation's name"));
    }
    if generation.suite == Suite::Plain
        || document.header.suite != generation.suite
        || generation.recipients.is_empty()
    {
        return Err(damaged("it would end the encryption"));
    }
    let body = crate::object::document::parse(key.as_str(), sections.body)?;
    Ok(Opening { object: key.to_string(), generation, body, digest: document.digest() })
}

impl Repository {
    /// Who can read what is sealed from now on.
    pub fn generation(&self) -> &Generation {
        &self.current
    }

    /// Whether this host has opened an older generation only, so that it can write and cannot read what is newer.
    pub fn is_behind(&self) -> bool {
        self.local.generation < self.current.number
    }

    /// Whether this host could read before a rotation, and cannot read what was sealed since.
    pub fn is_left_behind(&self) -> bool {
        self.is_behind() && (self.local.identity.is_some() || self.was_plain())
    }

    /// Whether encryption was turned on after the repository was made.
    pub fn was_plain(&self) -> bool {
        self.marker.suite != self.current.suite
    }

    /// The newest generation of the repository in `store`, whose object is `marker`, for who has not opened it yet.
    ///
    /// # Errors
    /// When the store cannot list or read.
    pub fn newest_generation(store: &dyn Store, marker: &Marker) -> Result<Generation, RepoError> {
        newest(store, marker, None).map(|found| found.generation)
    }

    /// All generations, oldest first; `wrong` gets what cannot be believed.
    ///
    /// # Errors
    /// When the store cannot list.
    pub fn list_generations(
        &self,
        wrong: &mut dyn FnMut(&str, RepoError),
    ) -> Result<Vec<Generation>, RepoError> {
        let mut found = vec![Generation::first(&self.marker)];
        for number in numbers(self.store.as_ref())? {
            match read(self.store.as_ref(), &self.marker, number) {
                Ok(opening) => found.push(opening.generation),
                Err(RepoError::Store(error)) if error.is_retryable() => return Err(error.into()),
                Err(error) => wrong(layout::generation(layout::RECIPIENTS, number).as_str(), error),
            }
        }
        Ok(found)
    }

    /// The current generation with what opens it.
    pub(super) fn opening(&self) -> Result<Opening, RepoError> {
        match self.current.number {
            0 => super::open::first_opening(self.store.as_ref()).map(|(_, opening)| opening),
            number => read(self.store.as_ref(), &self.marker, number),
        }
    }

    /// Remembers a generation on this host.
    pub(super) fn keep_generation(&self, generation: &Generation) -> Result<(), RepoError> {
        if generation.number <= self.remembered {
            return Ok(());
        }
        self.state.write(&self.state_name(GENERATION), generation)
    }

    /// Who shall be able to read what is sealed now: asked anew, because another host may have rotated since this one
    /// opened the repository.
    ///
    /// # Errors
    /// `NewerFormat` where a later release changed the recipients: sealing to the old ones would lock the new out, or let
    /// the old in.
    pub(super) fn generation_now(&self) -> Result<Generation, RepoError> {
        let found = newest(self.store.as_ref(), &self.marker, Some(self.current.clone()))?;
        match found.beyond {
            None => Ok(found.generation),
            Some((object, found)) => Err(RepoError::NewerFormat { object, found, newest: FORMAT }),
        }
    }
}
