//! Which packs are there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use refloat_repo::commit::PackUse;
use refloat_repo::layout::{self, Named};
use refloat_repo::{RepoError, Repository};
use refloat_types::ObjectId;

/// So many packs are asked for one by one; more are listed.
const ASK_EACH: usize = 64;

/// The sizes of those of these packs that are there.
///
/// # Errors
/// When the store does not answer.
fn sizes(repository: &Repository, packs: &[PackUse]) -> Result<BTreeMap<ObjectId, u64>, RepoError> {
    let store = repository.store();
    let mut missing: BTreeSet<ObjectId> = packs.iter().map(|pack| pack.id).collect();
    let mut there = BTreeMap::new();
    if missing.len() > ASK_EACH {
        store.list(layout::PACKS, &mut |info| {
            if let Some(Named::Pack(id)) = Named::parse(&info.key)
                && missing.remove(&id)
            {
                there.insert(id, info.size);
            }
            ControlFlow::Continue(())
        })?;
    }
    // A list may lag behind; a name does not.
    for id in missing {
        if let Some(found) = store.head(&layout::pack(id))? {
            there.insert(id, found.size);
        }
    }
    Ok(there)
}

/// Those of these packs that are not there.
///
/// # Errors
/// When the store does not answer.
pub(crate) fn absent(repository: &Repository, packs: &[PackUse]) -> Result<Vec<ObjectId>, RepoError> {
    let there = sizes(repository, packs)?;
    Ok(packs.iter().map(|pack| pack.id).filter(|id| !there.contains_key(id)).collect())
}

/// Those of these packs that are there, and whole.
///
/// # Errors
/// When the store does not answer.
pub(crate) fn whole(repository: &Repository, packs: &[PackUse]) -> Result<BTreeSet<ObjectId>, RepoError> {
    let there = sizes(repository, packs)?;
    let is_whole = |pack: &&PackUse| there.get(&pack.id) == Some(&pack.size);
    Ok(packs.iter().filter(is_whole).map(|pack| pack.id).collect())
}

/// A pack that is not there, or has another size; `None` when all are there and whole.
///
/// # Errors
/// When the store does not answer.
pub(crate) fn lacking(repository: &Repository, packs: &[PackUse]) -> Result<Option<ObjectId>, RepoError> {
    let whole = whole(repository, packs)?;
    Ok(packs.iter().map(|pack| pack.id).find(|id| !whole.contains(id)))
}
