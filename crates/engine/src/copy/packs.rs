//! Packs, as they are: read whole, every frame opened, stored under the same name.
//!
//! A pack is at most some 50 MiB, so each thread holds one in memory. A crash leaves packs that nothing names; the next copy
//! finds them there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use refloat_repo::commit::PackUse;
use refloat_repo::layout;
use refloat_repo::pack::FrameOpener;
use refloat_repo::pack::reader::PackKeys;
use refloat_repo::{RepoError, Repository};
use refloat_store::{Assurance, put_confirmed, read_whole};

use crate::progress::Progress;

/// Which side failed.
#[derive(Debug)]
pub(super) enum Side {
    From(RepoError),
    To(RepoError),
}

/// Copies `packs` on `jobs` threads. Where `keys` open a pack, every frame of it is; else its size must do.
pub(super) fn copy(
    from: &Repository,
    to: &Repository,
    packs: &[PackUse],
    keys: &Arc<PackKeys>,
    jobs: usize,
    progress: &dyn Progress,
) -> Result<(), Side> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    let work = || -> Result<(), Side> {
        let mut opener = FrameOpener::new(Arc::clone(keys)).map_err(Side::From)?;
        while let Some(pack) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
            one(from, to, pack, keys, &mut opener)?;
            progress.advance(pack.size);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, packs.len().max(1)) {
            scope.spawn(|| {
                if let Err(side) = work() {
                    // The others end with the pack they are at.
                    next.store(packs.len(), Ordering::Relaxed);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(side);
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn one(
    from: &Repository,
    to: &Repository,
    pack: &PackUse,
    keys: &PackKeys,
    opener: &mut FrameOpener,
) -> Result<(), Side> {
    let key = layout::pack(pack.id);
    let bytes =
        read_whole(from.store().as_ref(), &key, pack.size).map_err(|error| Side::From(error.into()))?;
    if bytes.len() as u64 != pack.size {
        let what = format!("it has {} bytes, the backup says {}", bytes.len(), pack.size);
        return Err(Side::From(RepoError::damaged(&key, what)));
    }
    if keys.keys.contains_key(&pack.key) || !from.is_encrypted() {
        opener.check_pack(pack.id, &bytes).map_err(Side::From)?;
    }
    let store = to.store().as_ref();
    put_confirmed(store, &key, &bytes, Assurance::for_store(store))
        .map_err(|error| Side::To(error.into()))?;
    Ok(())
}
