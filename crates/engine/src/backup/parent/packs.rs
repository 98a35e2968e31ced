//! Whether packs of older backups are there.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use refloat_repo::commit::PackUse;
use refloat_repo::layout::{self, Named};
use refloat_repo::{RepoError, Repository};
use refloat_types::ObjectId;

/// So many packs are asked for one by one; more are listed.
const ASK_EACH: usize = 64;

/// A pack that is not there, or has another size; `None` when all are there and whole.
///
/// # Errors
/// When the store does not answer.
pub(in crate::backup) fn lacking(
    repository: &Repository,
    packs: &[PackUse],
) -> Result<Option<ObjectId>, RepoError> {
    let store = repository.store();
    let mut listed = BTreeMap::new();
    if packs.len() > ASK_EACH {
        store.list(layout::PACKS, &mut |info| {
            if let Some(Named::Pack(id)) = Named::parse(&info.key) {
                listed.insert(id, info.size);
            }
            ControlFlow::Continue(())
        })?;
    }
    for pack in packs {
        let size = match listed.get(&pack.id) {
            Some(size) => Some(*size),
            // A list may lag behind; a name does not.
            None => store.head(&layout::pack(pack.id))?.map(|found| found.size),
        };
        if size != Some(pack.size) {
            return Ok(Some(pack.id));
        }
    }
    Ok(None)
}
