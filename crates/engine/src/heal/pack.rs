//! Packs: the same bytes under the same key in every repository.

use std::sync::Arc;

use refloat_repo::commit::CommitRecord;
use refloat_repo::pack::FrameOpener;
use refloat_repo::pack::reader::PackKeys;
use refloat_repo::{RepoError, Repository, layout};
use refloat_store::Store;
use refloat_types::ObjectId;

use super::{Better, HealError, HealRequest};

/// How much is copied at a time.
const PIECE: u64 = 4 << 20;

/// A commit that names the pack, here or in another repository.
fn named_by(request: &HealRequest<'_>, id: ObjectId) -> Result<Option<CommitRecord>, RepoError> {
    let names = |record: &CommitRecord| record.packs.binary_search_by_key(&id, |pack| pack.id).is_ok();
    for repository in std::iter::once(&request.repository).chain(request.others) {
        let sources = match repository.own_sources() {
            Ok(sources) => sources,
            // What is damaged here may be right elsewhere.
            Err(error) => {
                tracing::debug!(store = repository.store().describe(), %error, "its sources cannot be listed");
                continue;
            }
        };
        for source in sources {
            let commits = repository.list_commits(source, &mut |_, _| {});
            if let Some(found) = commits.unwrap_or_default().into_iter().find(names) {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

/// What opens the pack, and its size as a commit gives it.
fn known(request: &HealRequest<'_>, id: ObjectId) -> Result<(PackKeys, u64), RepoError> {
    let object = layout::pack(id);
    let nobody = || RepoError::UnknownOrigin {
        object: object.to_string(),
        why: "no backup names this pack".to_owned(),
    };
    let record = named_by(request, id)?.ok_or_else(nobody)?;
    let pack = record.packs.iter().find(|pack| pack.id == id).ok_or_else(nobody)?;
    let mut keys = PackKeys::default();
    keys.packs.insert(id, pack.key);
    if pack.key != ObjectId::NONE {
        let (key, _) = request.repository.open_key_beside(request.others, pack.key)?;
        keys.keys.insert(pack.key, key);
    }
    Ok((keys, pack.size))
}

/// Opens every frame of a pack.
fn read(store: &dyn Store, id: ObjectId, (keys, size): (PackKeys, u64)) -> Result<(), RepoError> {
    let mut opener = FrameOpener::new(Arc::new(keys))?;
    let read = opener.read_pack(store, id, &mut |_, _, opened| opened.map(drop))?;
    if read == size {
        return Ok(());
    }
    Err(RepoError::damaged(layout::pack(id), format!("it has {read} bytes, its commit says {size}")))
}

/// Whether it is right here.
pub(super) fn look(request: &HealRequest<'_>, id: ObjectId) -> Result<(), RepoError> {
    read(request.repository.store().as_ref(), id, known(request, id)?)
}

/// A copy that is right.
pub(super) fn better<'a>(
    request: &'a HealRequest<'a>,
    id: ObjectId,
) -> Result<Option<Better<'a>>, HealError> {
    let unread = |source| HealError::Unread { object: layout::pack(id).to_string(), source };
    let known = known(request, id).map_err(unread)?;
    for other in request.others.iter().copied() {
        let store = other.store();
        match read(store.as_ref(), id, known.clone()) {
            Ok(()) => {
                let size = known.1;
                let put = move || copy(other, request.repository, id, size);
                return Ok(Some(Better { from: store.describe().to_owned(), put: Box::new(put) }));
            }
            Err(error) => {
                tracing::debug!(store = store.describe(), %error, "no right copy of the pack");
            }
        }
    }
    Ok(None)
}

fn copy(from: &Repository, to: &Repository, id: ObjectId, size: u64) -> Result<(), RepoError> {
    let key = layout::pack(id);
    let mut object = to.store().create(&key)?;
    let mut piece = Vec::new();
    let mut at = 0;
    while at < size {
        let end = size.min(at + PIECE);
        piece.clear();
        from.store().read(&key, at..end, &mut piece)?;
        object.write(&piece)?;
        at = end;
    }
    Ok(object.finish()?)
}
