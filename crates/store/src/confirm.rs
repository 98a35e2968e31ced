//! Puts an object and asks whether it is there, before anything is acknowledged.
//!
//! A store can answer "done" and hold nothing, or less: a proxy that swallowed an error, a quota, a bug. A segment of WAL
//! is recycled by PostgreSQL as soon as it is acknowledged, so the answer is checked while the bytes are still here.

use crate::{Key, Store, StoreError, StoreErrorKind};

/// How closely an object is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assurance {
    /// The store is asked for the object's size.
    Size,
    /// The object is read back and compared.
    Content,
}

impl Assurance {
    /// What is right for `store`: one that syncs what it answers for is asked for the size, any other is read back.
    pub fn for_store(store: &dyn Store) -> Self {
        if store.features().durable { Self::Size } else { Self::Content }
    }
}

/// What [`put_confirmed`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confirmed {
    /// The object is new.
    Created,
    /// An object with the same bytes was there, and is durable.
    Existed,
}

/// Pieces in which an object is read back.
const PIECE_BYTES: u64 = 1 << 20;

/// Puts `body` and confirms that it is there.
///
/// An object that comes back as a part of `body` is deleted where that is possible, so that the next attempt finds the
/// name free: a strict beginning of these bytes is nobody's whole object.
///
/// # Errors
/// As for [`Store::put_new`]; `AlreadyExists` only for an object with other bytes, which is untouched. `Unconfirmed` when
/// the store answered that it is stored and it is not.
pub fn put_confirmed(
    store: &dyn Store,
    key: &Key,
    body: &[u8],
    assurance: Assurance,
) -> Result<Confirmed, StoreError> {
    match store.put_new(key, body) {
        Ok(()) => match confirm(store, key, body, assurance) {
            Ok(()) => Ok(Confirmed::Created),
            Err(error) => {
                withdraw_part(store, key, body);
                Err(error)
            }
        },
        Err(error) if error.kind == StoreErrorKind::AlreadyExists => {
            if same_content(store, key, body)? {
                store.settle(key)?;
                return Ok(Confirmed::Existed);
            }
            withdraw_part(store, key, body);
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Confirms that `key` holds `body`.
///
/// # Errors
/// `Unconfirmed` when it does not; otherwise what the store answered.
pub fn confirm(store: &dyn Store, key: &Key, body: &[u8], assurance: Assurance) -> Result<(), StoreError> {
    let unconfirmed = |text: String| {
        let source = std::io::Error::other(text);
        StoreError::new(StoreErrorKind::Unconfirmed, "confirm", key.as_str(), store.describe(), source)
    };
    let Some(info) = store.head(key)? else {
        return Err(unconfirmed("the store said it was stored, and has no such object".to_owned()));
    };
    if info.size != body.len() as u64 {
        let text = format!("{} bytes were put, the store holds {}", body.len(), info.size);
        return Err(unconfirmed(text));
    }
    if assurance == Assurance::Content && !same_content(store, key, body)? {
        return Err(unconfirmed("the store holds other bytes than were put".to_owned()));
    }
    Ok(())
}

/// Whether `key` holds exactly `body`. An object that vanishes or is cut short meanwhile does not.
pub(crate) fn same_content(store: &dyn Store, key: &Key, body: &[u8]) -> Result<bool, StoreError> {
    let size = match store.head(key)? {
        Some(info) if info.size == body.len() as u64 => info.size,
        _ => return Ok(false),
    };
    holds(store, key, body, size)
}

/// Whether the first `length` bytes of `key` are those of `body`.
fn holds(store: &dyn Store, key: &Key, body: &[u8], length: u64) -> Result<bool, StoreError> {
    let mut piece = Vec::new();
    let mut start = 0;
    while start < length {
        let end = length.min(start + PIECE_BYTES);
        piece.clear();
        match store.read(key, start..end, &mut piece) {
            Ok(()) => {}
            Err(e) if matches!(e.kind, StoreErrorKind::NotFound | StoreErrorKind::Truncated) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        if body.get(start as usize..end as usize) != Some(piece.as_slice()) {
            return Ok(false);
        }
        start = end;
    }
    Ok(true)
}

/// Deletes `key` when it holds a strict beginning of `body`. A failure leaves what was there; the caller reports already.
fn withdraw_part(store: &dyn Store, key: &Key, body: &[u8]) {
    let is_part = match store.head(key) {
        Ok(Some(info)) if info.size < body.len() as u64 => {
            holds(store, key, body, info.size).unwrap_or(false)
        }
        _ => false,
    };
    if is_part && let Err(error) = store.delete(key) {
        tracing::debug!(%key, %error, "a part of an object stays");
    }
}
