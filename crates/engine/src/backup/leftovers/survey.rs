//! What is done with that which backups that died have left: used again, or deleted.
//!
//! A note alone proves nothing: a state directory may be a copy of one whose backup still runs elsewhere, or have come
//! back from the past, when the backup was committed, expired, and others were built on its packs. So what another holder
//! may still be making is neither used nor deleted, and the same goes for every pack that any commit of the source names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use refloat_repo::commit::PackUse;
use refloat_repo::layout::{self, Named};
use refloat_repo::{RepoError, Repository};
use refloat_store::{Key, ObjectInfo};
use refloat_types::{BackupId, ObjectId, SourceId};

use super::journal::{Header, Left};
use super::{Crashed, JOURNAL, SourceLock, directory, journal_of, state_error};
use crate::backup::BackupError;
use crate::guard::{Guard, Living, living};

/// So many backups that died one after the other are used; older ones are deleted.
const MOST_CRASHED: usize = 4;
/// Packs that are older than this by the store's clock are not used: `expire` marks what nothing names after seven days.
const FRESH: Duration = Duration::from_secs(5 * 24 * 3600);
/// So many packs are asked for one by one; more are listed.
const ASK_EACH: usize = 64;

/// The note of a backup that died on this host.
struct Dead {
    backup: BackupId,
    note: PathBuf,
    written: std::time::SystemTime,
    packs: Vec<ObjectId>,
}

/// What is known before anything of it is used or deleted.
struct Scene {
    dead: Vec<Dead>,
    living: Living,
    /// Every pack that a commit of the source names.
    named: BTreeSet<ObjectId>,
}

/// Everything that backups of this source which died on this host left; `None` when there is nothing, or a commit cannot be
/// read.
fn look(repository: &Repository, source: SourceId, guard: &Guard<'_>) -> Result<Option<Scene>, BackupError> {
    let mut dead = notes(&directory(repository, source)?)?;
    if dead.is_empty() {
        return Ok(None);
    }
    let living = living(repository, guard.pin(), guard.store_now())?;
    let holder = guard.holder();
    // Somebody else may be making it, or building on it: it was committed for a moment, then withdrawn.
    dead.retain(|left| {
        !living.elsewhere(left.backup, &holder) && !living.uses_elsewhere(source, left.backup, &holder)
    });
    // What died last is most like what is there today.
    dead.sort_by_key(|left| std::cmp::Reverse(left.written));
    match named_packs(repository, source) {
        Ok(named) => Ok(Some(Scene { dead, living, named })),
        Err(RepoError::Store(error)) if error.is_retryable() => Err(RepoError::Store(error).into()),
        Err(error) => {
            tracing::warn!(%error, "what backups that died left stays, because a commit cannot be read");
            Ok(None)
        }
    }
}

fn notes(directory: &Path) -> Result<Vec<Dead>, BackupError> {
    let fail = |action, source| state_error(action, directory, source);
    let (mut dead, mut journals) = (Vec::new(), Vec::new());
    for found in fs::read_dir(directory).map_err(|e| fail("list", e))? {
        let found = found.map_err(|e| fail("list", e))?;
        let note = found.path();
        let name = found.file_name();
        let Some(name) = name.to_str() else { continue };
        let Ok(backup) = name.parse::<BackupId>() else {
            let of = name.strip_suffix(JOURNAL).and_then(|of| of.parse::<BackupId>().ok());
            journals.extend(of.map(|of| (of, note)));
            continue;
        };
        let text = fs::read_to_string(&note).map_err(|e| state_error("read", &note, e))?;
        let packs = text.lines().filter_map(|line| line.parse::<ObjectId>().ok()).collect();
        let written = found.metadata().and_then(|found| found.modified()).map_err(|e| fail("look at", e))?;
        dead.push(Dead { backup, note, written, packs });
    }
    // A crash between the removal of the two left one alone.
    for (backup, journal) in journals {
        if dead.iter().all(|left| left.backup != backup) {
            remove(&journal)?;
        }
    }
    Ok(dead)
}

/// Finds what of the packs of backups that died can serve one of `expected`, and clears what cannot. The source's lock must
/// be held, and the pin of the guard must keep the whole source. Answers how many packs were deleted.
pub(in crate::backup) fn survey(
    repository: &Repository,
    source: SourceId,
    _held: &SourceLock,
    guard: &Guard<'_>,
    expected: &Header,
) -> Result<(Crashed, u64), BackupError> {
    let mut crashed = Crashed::default();
    let Some(scene) = look(repository, source, guard)? else { return Ok((crashed, 0)) };
    let there = sizes(repository, &scene.dead)?;
    let forbidden = guard.forbidden();
    let is_usable = |info: &ObjectInfo, id: ObjectId| {
        let fresh = info.created.checked_add(FRESH).is_ok_and(|until| until > guard.store_now());
        fresh && !scene.named.contains(&id) && !forbidden.has_pack(id)
    };
    let mut cleared = 0;
    for left in &scene.dead {
        let journal = Left::open(&journal_of(&left.note));
        let fits = journal.filter(|(_, header)| Header { key: expected.key, ..header.clone() } == *expected);
        let key = fits.as_ref().map(|(_, header)| header.key);
        let can_be_opened = match key {
            // Without its envelope nobody could open what the key seals.
            Some(key) if key != ObjectId::NONE => head(repository, &layout::envelope(key))?.is_some(),
            // Not encrypted, and nothing that is readable goes into a backup made since encryption was turned on.
            key => key.is_some() && !repository.is_encrypted(),
        };
        let usable = |id: &ObjectId| {
            let info = there.get(id).filter(|info| is_usable(info, *id))?;
            Some(PackUse { id: *id, key: key?, size: info.size, live: 0 })
        };
        let packs: Vec<PackUse> = left.packs.iter().filter_map(usable).collect();
        let serves = can_be_opened && !packs.is_empty() && crashed.backups.len() < MOST_CRASHED;
        let added = fits.is_some_and(|(journal, _)| serves && crashed.add(left.backup, packs, journal));
        if !added {
            cleared += scene.clear(repository, left)?;
        }
    }
    Ok((crashed, cleared))
}

/// Clears everything that backups of this source which died on this host left in the repository, except for what a commit
/// names: `own` is that of a backup just made, which a list may not show yet. The source's lock must be held. Answers how many
/// packs were deleted.
pub(in crate::backup) fn clear(
    repository: &Repository,
    source: SourceId,
    _held: &SourceLock,
    guard: &Guard<'_>,
    own: Option<&Key>,
) -> Result<u64, BackupError> {
    let Some(mut scene) = look(repository, source, guard)? else { return Ok(0) };
    if let Some(own) = own {
        scene.named.extend(repository.read_commit(own)?.packs.iter().map(|pack| pack.id));
    }
    scene.dead.iter().map(|left| scene.clear(repository, left)).sum()
}

impl Scene {
    /// What this host may not delete stays for an `expire` of somebody who may, which finds packs that nothing names.
    fn clear(&self, repository: &Repository, left: &Dead) -> Result<u64, BackupError> {
        let (mut cleared, mut stays) = (0, 0);
        for pack in left.packs.iter().filter(|pack| !self.named.contains(pack)) {
            let key = layout::pack(*pack);
            if head(repository, &key)?.is_some() {
                match delete(repository, &key)? {
                    true => cleared += 1,
                    false => stays += 1,
                }
            }
        }
        if let Some(pin) = self.living.pin_of(left.backup) {
            for key in &pin.keys {
                delete(repository, key)?;
            }
        }
        if stays > 0 {
            tracing::warn!(
                backup = %left.backup,
                packs = stays,
                "what a backup left that did not finish stays: these credentials may not delete; expire clears it a week on"
            );
        }
        remove(&journal_of(&left.note))?;
        remove(&left.note)?;
        Ok(cleared)
    }
}

/// `false` where these credentials may not.
fn delete(repository: &Repository, key: &Key) -> Result<bool, RepoError> {
    match repository.store().delete(key) {
        Err(error) if error.is_denied() => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

fn remove(path: &Path) -> Result<(), BackupError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(state_error("remove", path, error)),
        _ => Ok(()),
    }
}

fn head(repository: &Repository, key: &Key) -> Result<Option<ObjectInfo>, RepoError> {
    Ok(repository.store().head(key)?)
}

/// The packs of notes that are there, and so are whole.
fn sizes(repository: &Repository, dead: &[Dead]) -> Result<BTreeMap<ObjectId, ObjectInfo>, RepoError> {
    let wanted: BTreeSet<ObjectId> = dead.iter().flat_map(|left| left.packs.iter().copied()).collect();
    let mut there = BTreeMap::new();
    if wanted.len() > ASK_EACH {
        repository.store().list(layout::PACKS, &mut |info| {
            if let Some(Named::Pack(id)) = Named::parse(&info.key)
                && wanted.contains(&id)
            {
                there.insert(id, info);
            }
            ControlFlow::Continue(())
        })?;
        return Ok(there);
    }
    for id in wanted {
        there.extend(head(repository, &layout::pack(id))?.map(|info| (id, info)));
    }
    Ok(there)
}

/// Every pack that a commit of the source names.
fn named_packs(repository: &Repository, source: SourceId) -> Result<BTreeSet<ObjectId>, RepoError> {
    let mut named = BTreeSet::new();
    for key in repository.commit_keys(source)? {
        match repository.read_commit(&key) {
            Ok(record) => named.extend(record.packs.iter().map(|pack| pack.id)),
            // Expired between the list and the look.
            Err(RepoError::Missing { object }) if object == key.as_str() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(named)
}
