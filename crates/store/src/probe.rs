//! What a store can do, tried on it.
//!
//! A store's word cannot be taken: some accept a conditional create and overwrite all the same. So an object is created
//! twice, read in part, listed and deleted, under one key that the caller has drawn, and what was seen decides what is
//! relied on. A crash leaves that one object.

use std::ops::ControlFlow;

use crate::{Key, Store, StoreError, StoreErrorKind};

/// What a second creation of one object came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditional {
    /// It was refused: what exists is safe from any writer that asks so.
    Refuses,
    /// It replaced the object without a word.
    Overwrites,
    /// The store knows no such request at all.
    Unsupported,
}

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Creating what exists.
    pub conditional: Conditional,
    /// What was created was listed at once.
    pub lists_at_once: bool,
    /// These credentials may delete.
    pub deletes: bool,
}

/// Tries `store` with an object under `key`. Where even the first creation is refused as not understood, the store is one
/// that takes no conditions: it is then to be opened as such and tried again.
///
/// # Errors
/// What the store answers to something that has to work: creating, reading a part, listing.
pub fn probe(store: &dyn Store, key: &Key) -> Result<Abilities, StoreError> {
    store.put_new(key, BODY)?;
    let tried = try_further(store, key);
    let deletes = match store.delete(key) {
        Ok(()) => true,
        // Credentials that may only add are how it should be.
        Err(error) if error.kind == StoreErrorKind::Denied => false,
        Err(error) => return tried.and(Err(error)),
    };
    let (conditional, is_listed) = tried?;
    // Seen from here: a store may know its own objects sooner than another host's.
    let lists_at_once = is_listed && store.features().consistent_list;
    Ok(Abilities { conditional, lists_at_once, deletes })
}

const BODY: &[u8] = b"refloat tries what this store can do";
const OTHER: &[u8] = b"refloat has overwritten what was here";

fn try_further(store: &dyn Store, key: &Key) -> Result<(Conditional, bool), StoreError> {
    let mut conditional = match store.put_new(key, OTHER) {
        Err(error) if error.kind == StoreErrorKind::AlreadyExists => Conditional::Refuses,
        // Under a policy that demands the condition, an overwrite may also be answered as denied.
        Err(error) if error.kind == StoreErrorKind::Denied => Conditional::Refuses,
        Err(error) => return Err(error),
        Ok(()) => Conditional::Overwrites,
    };
    let wrong = |what: &str| {
        let source = std::io::Error::other(what.to_owned());
        StoreError::new(StoreErrorKind::Unconfirmed, "check", key.as_str(), store.describe(), source)
    };
    let holds = if conditional == Conditional::Refuses { BODY } else { OTHER };
    let mut part = Vec::new();
    store.read(key, 8..20, &mut part)?;
    if part != holds[8..20] {
        // An answer of success to the second creation, without its effect, would be told here as well.
        return Err(wrong("other bytes came back than were stored"));
    }
    let info = store.head(key)?.ok_or_else(|| wrong("it is stored and cannot be looked up"))?;
    if info.size != holds.len() as u64 {
        return Err(wrong("it has another size than was stored"));
    }
    let directory = key.as_str().rsplit_once('/').map_or(String::new(), |(above, _)| format!("{above}/"));
    let mut listed = false;
    store.list(&directory, &mut |info| {
        listed |= info.key == *key;
        if listed { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if conditional == Conditional::Refuses && !one_of_many_wins(store, key)? {
        conditional = Conditional::Overwrites;
    }
    Ok((conditional, listed))
}

/// Writers that create one object at the same moment.
const WRITERS: u8 = 4;

/// Whether exactly one of many writers of one key succeeds. Some stores look whether an object is there and then write: they
/// refuse whoever comes later, and not who comes at the same time.
fn one_of_many_wins(store: &dyn Store, key: &Key) -> Result<bool, StoreError> {
    store.delete(key).or_else(|error| if error.is_denied() { Ok(()) } else { Err(error) })?;
    if store.head(key)?.is_some() {
        // It may not be deleted, so it cannot be created again either.
        return Ok(true);
    }
    let start = std::sync::Barrier::new(usize::from(WRITERS));
    let answers: Vec<Result<(), StoreError>> = std::thread::scope(|scope| {
        let write = |number: u8| {
            let start = &start;
            move || {
                start.wait();
                store.put_new(key, &[number; 4096])
            }
        };
        let writers: Vec<_> = (0..WRITERS).map(|number| scope.spawn(write(number))).collect();
        writers.into_iter().filter_map(|writer| writer.join().ok()).collect()
    });
    // A writer that was sent away by another one that was sent away as well may ask again; it is no second winner.
    Ok(answers.iter().filter(|answer| answer.is_ok()).count() <= 1)
}
