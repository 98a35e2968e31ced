//! Putting a damaged object right, from another repository that has the same or from what this host has kept.
//!
//! First it is made sure that the object is damaged, then that there is something better, and only then is it deleted and
//! created anew: nothing is ever overwritten, and nothing that is right is ever deleted. A crash in between leaves the object
//! missing, and the next healing makes it. What is new is verified where it lies.
//!
//! Packs are copied byte for byte, because they are the same in every repository that holds a backup. WAL is sealed anew under this
//! repository's keys; the name of the object holds a keyed digest of its bytes, which the copy must have. What is small and
//! signed comes back byte for byte from what this host has kept. A commit that it has not kept is made anew only where
//! this host has verified it before and everything that it names is here: nothing is ever signed on the word of a damaged object.

mod error;
mod pack;
mod wal;

use refloat_repo::layout::Named;
use refloat_repo::repository::is_damage;
use refloat_repo::{Compression, RepoError, Repository};
use refloat_store::{Key, StoreErrorKind};
use refloat_types::{Timestamp, fault};

pub use error::HealError;

/// What is to be put right, and from where.
pub struct HealRequest<'a> {
    /// The repository that has it.
    pub repository: &'a Repository,
    /// Repositories that may have a copy, the best first.
    pub others: &'a [&'a Repository],
    /// How WAL is compressed.
    pub compression: Compression,
    /// Host time.
    pub now: Timestamp,
    /// Only say whether it could be.
    pub dry_run: bool,
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healed {
    /// It is right: nothing was done.
    Whole,
    /// It is right now (or would be). From where.
    From(String),
}

/// Something that can take the place of a damaged object.
struct Better<'a> {
    /// Where it comes from, for people.
    from: String,
    put: Box<dyn FnOnce() -> Result<(), RepoError> + 'a>,
}

/// Puts the object `key` right if it is not.
///
/// # Errors
/// [`HealError`]: the object is as damaged as before, or missing.
pub fn heal(request: &HealRequest<'_>, key: &Key) -> Result<Healed, HealError> {
    let object = || key.to_string();
    let Some(named) = Named::parse(key) else { return Err(HealError::NotOurs { object: object() }) };
    let wrong = match look(request, &named) {
        Ok(()) => return Ok(Healed::Whole),
        Err(error) if is_damage(&error) => error,
        Err(error) => return Err(HealError::Unread { object: object(), source: error }),
    };
    let better = match named {
        Named::Pack(id) => pack::better(request, id)?,
        Named::Wal(system, name, digest) => wal::better(request, key, system, name, &digest)?,
        named => document(request, &named)?,
    };
    let Some(better) = better else { return Err(HealError::NoCopy { object: object(), source: wrong }) };
    if request.dry_run {
        return Ok(Healed::From(better.from));
    }
    tracing::warn!(object = %key, from = better.from, error = %wrong, "a damaged object is replaced");
    let failed = |source: RepoError| HealError::Refused { object: object(), source };
    let store = request.repository.store();
    store.delete(key).map_err(|error| failed(error.into()))?;
    fault::point("heal.after_delete").map_err(|e| failed(RepoError::internal("replace an object", e)))?;
    (better.put)().map_err(failed)?;
    match look(request, &named) {
        Ok(()) => Ok(Healed::From(better.from)),
        Err(error) => {
            // What was made is no better: the place is free for the next attempt. Where nobody can say, it stays.
            if is_surely_wrong(&error)
                && let Err(error) = store.delete(key)
            {
                tracing::warn!(object = %key, %error, "it stays");
            }
            Err(failed(error))
        }
    }
}

/// Whether an object was read and is not what it has to be: no store that does not answer, no key that is not at hand.
fn is_surely_wrong(error: &RepoError) -> bool {
    match error {
        RepoError::Damaged { .. } => true,
        RepoError::Store(error) => error.kind == StoreErrorKind::Truncated,
        _ => false,
    }
}

/// Whether an object is right, all of it.
fn look(request: &HealRequest<'_>, named: &Named) -> Result<(), RepoError> {
    match named {
        Named::Pack(id) => pack::look(request, *id),
        Named::Wal(system, name, digest) => wal::look(request.repository, *system, *name, digest),
        named => {
            let inspected = request.repository.inspect(named)?;
            match inspected.opened {
                Err(source @ (refloat_repo::KeyError::Commitment | refloat_repo::KeyError::Damaged)) => {
                    Err(RepoError::NoKey { key: inspected.key, source })
                }
                _ => Ok(()),
            }
        }
    }
}

/// A small signed object.
fn document<'a>(request: &'a HealRequest<'a>, named: &Named) -> Result<Option<Better<'a>>, HealError> {
    let (repository, now, key) = (request.repository, request.now, named.key());
    let unread = |source| HealError::Unread { object: named.key().to_string(), source };
    if let Some(kept) = repository.kept_copy(named).map_err(unread)? {
        let put = move || Ok(repository.store().put_new(&key, &kept)?);
        return Ok(Some(Better { from: "what this host has kept".to_owned(), put: Box::new(put) }));
    }
    match named {
        Named::Agent(id) if *id == repository.agent() => {
            let put = move || repository.ensure_enrolled(now);
            Ok(Some(Better { from: "this host's own key".to_owned(), put: Box::new(put) }))
        }
        Named::Envelope(id) => match repository.open_key_beside(request.others, *id) {
            Ok((data_key, _)) => {
                let origin = request.others.iter().find_map(|other| other.key_origin(*id).ok());
                let (purpose, created) = origin.unwrap_or_else(|| ("writer".to_owned(), now));
                let put = move || repository.adopt_key(&data_key, &purpose, created);
                Ok(Some(Better {
                    from: "the key that another copy of it opens".to_owned(),
                    put: Box::new(put),
                }))
            }
            Err(_) => Ok(None),
        },
        Named::Commit(..) => {
            for other in request.others.iter().copied() {
                if let Some(known) = repository.commit_beside(other, &key).map_err(unread)? {
                    let put = move || repository.put_commit_again(&known, now);
                    let from = other.store().describe().to_owned();
                    return Ok(Some(Better { from, put: Box::new(put) }));
                }
            }
            Ok(None)
        }
        _ => Ok(None),
    }
}
