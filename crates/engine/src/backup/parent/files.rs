//! The files of the parent beside those of today: both come in the byte order of their paths.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use refloat_repo::RepoError;
use refloat_repo::manifest::root::read_part;
use refloat_repo::manifest::{Entry, LeafRef, What};
use refloat_repo::pack::FrameOpener;
use refloat_store::Store;

use super::{Parent, Trust, may_pass};
use crate::backup::files::{FileToCopy, Listing};

/// What the parent has of a file.
pub(in crate::backup) struct Former {
    pub(in crate::backup) leaves: Arc<[LeafRef]>,
    /// The file need not be read: it is what it was.
    pub(in crate::backup) is_unchanged: bool,
}

/// Tells for each file of the listing what the parent has of it. Where a part of the parent's manifest is damaged, the
/// files of it are taken for new ones, and a note says so.
///
/// # Errors
/// When the repository does not answer.
pub(in crate::backup) fn attach(
    listing: &mut Listing,
    parent: &Parent,
    store: &dyn Store,
    data_directory: &Path,
) -> Result<(), RepoError> {
    let mut opener = FrameOpener::new(Arc::clone(&parent.keys))?;
    let mut local = LocalDevices { data_directory, known: BTreeMap::new() };
    let mut files = listing.files.iter_mut().peekable();
    let mut damaged = None;
    for part in &parent.root.parts {
        if files.peek().is_none() {
            break;
        }
        let entries = match read_part(store, &mut opener, part) {
            Ok(entries) => entries,
            Err(error) if may_pass(&error) => return Err(error),
            Err(error) => {
                damaged = Some(error);
                continue;
            }
        };
        for entry in entries {
            while files.next_if(|file| file.entry.path < entry.path).is_some() {}
            let Some(file) = files.peek_mut() else { break };
            let What::File { leaves, .. } = &entry.what else { continue };
            if file.entry.path == entry.path {
                let is_unchanged = is_unchanged(file, &entry, parent) && local.is_local(file);
                file.former = Some(Former { leaves: Arc::clone(leaves), is_unchanged });
            }
        }
    }
    if local.known.values().any(|local| !local) {
        listing
            .notes
            .push("files are always read where their file system is not known to be a local one".to_owned());
    }
    if let Some(error) = damaged {
        listing.notes.push(format!(
            "files are stored anew, because a part of {}'s manifest cannot be read: {error}; refloat verify tells what \
             else that concerns",
            parent.id()
        ));
    }
    Ok(())
}

/// Whether a relation's file is what it was when the parent read it, as far as the file system can tell: a write changes
/// the ctime, and nobody can set that back. It must have been settled then, so that no write was on its way that had set
/// it already.
fn is_unchanged(file: &FileToCopy, then: &Entry, parent: &Parent) -> bool {
    let (Trust::Before(limit), Some(_)) = (&parent.trust, file.first_block) else { return false };
    let (What::File { stat: now, .. }, What::File { size, stat, .. }) = (&file.entry.what, &then.what) else {
        return false;
    };
    now == stat
        && file.size == *size
        && file.entry.mtime_ns == then.mtime_ns
        && stat.ctime_ns < *limit
        && !parent.bad.contains(&file.entry.path)
}

/// Which devices hold local file systems. Others (NFS, FUSE) may tell times of another clock, or tell them late.
struct LocalDevices<'a> {
    data_directory: &'a Path,
    known: BTreeMap<u64, bool>,
}

impl LocalDevices<'_> {
    fn is_local(&mut self, file: &FileToCopy) -> bool {
        let What::File { stat, .. } = &file.entry.what else { return false };
        if let Some(known) = self.known.get(&stat.device) {
            return *known;
        }
        let path = self.data_directory.join(OsStr::from_bytes(&file.entry.path));
        // It may have been dropped meanwhile, which says nothing of the others.
        let Ok(found) = rustix::fs::statfs(&path) else { return false };
        let local = LOCAL.contains(&(found.f_type as u64 & 0xffff_ffff));
        self.known.insert(stat.device, local);
        local
    }
}

/// Magic numbers of `statfs`: ext2 to ext4, XFS, Btrfs, F2FS, ZFS, bcachefs, tmpfs.
const LOCAL: [u64; 7] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x2fc1_2fc1, 0xca45_1a4e, 0x0102_1994];
