//! The files of the parent beside those of today: both come in the byte order of their paths.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::iter::Peekable;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use refloat_repo::RepoError;
use refloat_repo::manifest::root::{PartRef, read_part};
use refloat_repo::manifest::{Entry, LeafRef, What};
use refloat_repo::pack::FrameOpener;
use refloat_store::Store;

use super::{Parent, Trust, may_pass};
use crate::backup::files::FileToCopy;

/// What the parent has of a file.
#[derive(Debug)]
pub(in crate::backup) struct Former {
    pub(in crate::backup) leaves: Arc<[LeafRef]>,
    /// The file need not be read: it is what it was.
    pub(in crate::backup) is_unchanged: bool,
}

/// The files of the parent, in the order of their paths; a part of its manifest is in memory at a time. Where one is
/// damaged, the files of it are taken for new ones, and a note says so.
pub(in crate::backup) struct FormerFiles<'a> {
    parent: &'a Parent,
    store: &'a dyn Store,
    opener: FrameOpener,
    parts: std::slice::Iter<'a, PartRef>,
    entries: Peekable<std::vec::IntoIter<Entry>>,
    local: LocalDevices<'a>,
    damaged: Option<RepoError>,
}

impl<'a> FormerFiles<'a> {
    /// From the first file on.
    ///
    /// # Errors
    /// When frames cannot be opened at all.
    pub(in crate::backup) fn new(
        parent: &'a Parent,
        store: &'a dyn Store,
        data_directory: &'a Path,
    ) -> Result<Self, RepoError> {
        Ok(Self {
            parent,
            store,
            opener: FrameOpener::new(Arc::clone(&parent.keys))?,
            parts: parent.root.parts.iter(),
            entries: Vec::new().into_iter().peekable(),
            local: LocalDevices { data_directory, known: BTreeMap::new() },
            damaged: None,
        })
    }

    /// What the parent has of a file, which comes behind all that were asked for before.
    ///
    /// # Errors
    /// When the repository does not answer.
    pub(in crate::backup) fn of(&mut self, file: &FileToCopy) -> Result<Option<Former>, RepoError> {
        let path = &file.entry.path;
        loop {
            while self.entries.next_if(|entry| entry.path < *path).is_some() {}
            if self.entries.peek().is_some() || !self.read_part()? {
                break;
            }
        }
        let Some(entry) = self.entries.next_if(|entry| entry.path == *path) else { return Ok(None) };
        let What::File { leaves, .. } = &entry.what else { return Ok(None) };
        let is_unchanged = is_unchanged(file, &entry, self.parent) && self.local.is_local(file);
        Ok(Some(Former { leaves: Arc::clone(leaves), is_unchanged }))
    }

    /// Reads the next part that can be read; `false` behind the last.
    fn read_part(&mut self) -> Result<bool, RepoError> {
        for part in self.parts.by_ref() {
            match read_part(self.store, &mut self.opener, part) {
                Ok(entries) => {
                    self.entries = entries.into_iter().peekable();
                    return Ok(true);
                }
                Err(error) if may_pass(&error) => return Err(error),
                Err(error) => self.damaged = Some(error),
            }
        }
        Ok(false)
    }

    /// What a person should know, when all files were asked for.
    pub(in crate::backup) fn notes(self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.local.known.values().any(|local| !local) {
            let what = "files are always read where their file system is not known to be a local one";
            notes.push(what.to_owned());
        }
        if let Some(error) = self.damaged {
            notes.push(format!(
                "files are stored anew, because a part of {}'s manifest cannot be read: {error}; refloat verify tells what \
                 else that concerns",
                self.parent.id()
            ));
        }
        notes
    }
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
