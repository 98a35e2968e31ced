//! Removes what a directory has and the backup lacks, and what is in the way of the backup's files.
//!
//! Directory and manifest are gone through side by side in the order of their paths, so memory does not grow with the
//! number of files. What stays is what can be written to in place: plain files of one name that belong to us, and real
//! directories. Links are removed, never followed, except those that lead where this restore put its own mark: of a
//! tablespace there only what is PostgreSQL's is looked at, because other versions may have directories beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use refloat_repo::manifest::{Entry, What};
use refloat_types::fault;

use super::super::RestorePlan;
use super::super::aside::link_of;
use super::super::disk::LOST;
use super::super::error::{RestoreError, io_error};
use super::super::marker::MARKER;
use super::super::run::NEEDED;
use crate::locked::LOCK_FILE;

/// Sweeps the data directory and what its links to places of this restore lead to.
///
/// # Errors
/// When something cannot be read or removed.
pub(in crate::restore) fn sweep(plan: &RestorePlan<'_>) -> Result<(), RestoreError> {
    let mut disk = Disk::new(plan).map_err(io_error("read", &plan.directory))?;
    plan.backup.entries(|entry| disk.up_to(&entry))?;
    disk.rest()
}

/// What a path of the directory must be for it to stay.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    File,
    Directory,
    Link(PathBuf),
    Nothing,
}

/// Names in one directory: 8 bytes each, and their own.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    items: Vec<(u32, u32)>,
}

impl Names {
    fn push(&mut self, name: &[u8]) {
        let start = u32::try_from(self.bytes.len()).expect("a directory of 4 GiB of names does not exist");
        self.bytes.extend_from_slice(name);
        self.items.push((start, name.len() as u32));
    }
    fn get(&self, (start, length): (u32, u32)) -> &[u8] {
        &self.bytes[start as usize..][..length as usize]
    }
    fn last(&self) -> Option<&[u8]> {
        self.items.last().map(|item| self.get(*item))
    }
    /// Last first.
    fn sort(&mut self) {
        let mut items = std::mem::take(&mut self.items);
        items.sort_unstable_by(|a, b| self.get(*b).cmp(self.get(*a)));
        self.items = items;
    }
}

/// The directory, in the order of its paths.
struct Disk<'a> {
    plan: &'a RestorePlan<'a>,
    /// Links that lead to places of this restore.
    links: BTreeMap<Vec<u8>, PathBuf>,
    /// The way down to where we are: the path of each directory, and what is left of it, last first. A name that ends
    /// in a slash stands for what is in that directory, and so comes where its paths come.
    open: Vec<(Vec<u8>, Names)>,
    /// Directories that stay as they are.
    passed: BTreeSet<Vec<u8>>,
}

impl<'a> Disk<'a> {
    fn new(plan: &'a RestorePlan<'a>) -> io::Result<Self> {
        let mut links = BTreeMap::new();
        for tablespace in &plan.tablespaces {
            if let Some(goes) = &tablespace.goes {
                links.insert(format!("pg_tblspc/{}", tablespace.oid).into_bytes(), goes.clone());
            }
        }
        if let Some(wal) = &plan.wal_directory {
            links.insert(b"pg_wal".to_vec(), wal.clone());
        }
        let mut disk = Self { plan, links, open: Vec::new(), passed: BTreeSet::new() };
        let names = disk.list(b"")?;
        disk.open.push((Vec::new(), names));
        Ok(disk)
    }

    fn on_disk(&self, path: &[u8]) -> PathBuf {
        self.plan.directory.join(std::ffi::OsStr::from_bytes(path))
    }

    /// The names in a directory, last first.
    fn list(&self, path: &[u8]) -> io::Result<Names> {
        let mut names = Names::default();
        for entry in fs::read_dir(self.on_disk(path))? {
            let entry = entry?;
            let name = entry.file_name().into_vec();
            if entry.file_type()?.is_dir() || self.links.contains_key(&below(path, &name)) {
                names.push(&[&name[..], b"/"].concat());
            }
            names.push(&name);
        }
        names.sort();
        Ok(names)
    }

    /// The next path; going into directories on the way, as far as they are still there.
    fn next(&mut self) -> Result<Option<Vec<u8>>, RestoreError> {
        loop {
            let Some((directory, names)) = self.open.last() else { return Ok(None) };
            let Some(name) = names.last() else {
                self.open.pop();
                continue;
            };
            let Some(name) = name.strip_suffix(b"/") else { return Ok(Some(below(directory, name))) };
            let path = below(directory, name);
            self.take();
            if self.passed.remove(&path) || !self.may_enter(&path) {
                continue;
            }
            let names = self.list(&path).map_err(io_error("read", self.on_disk(&path)))?;
            self.open.push((path, names));
        }
    }

    fn take(&mut self) {
        if let Some((_, names)) = self.open.last_mut() {
            names.items.pop();
        }
    }

    /// A directory, or a link that leads to a place of this restore.
    fn may_enter(&self, path: &[u8]) -> bool {
        let there = self.on_disk(path);
        match fs::symlink_metadata(&there) {
            Ok(meta) if meta.is_dir() => true,
            Ok(meta) if meta.is_symlink() => {
                self.links.get(path).is_some_and(|goes| fs::read_link(&there).is_ok_and(|to| to == *goes))
            }
            _ => false,
        }
    }

    /// Everything before an entry of the manifest is none of the backup's; what has its path may be.
    fn up_to(&mut self, entry: &Entry) -> Result<(), RestoreError> {
        while let Some(path) = self.next()?.filter(|path| *path <= entry.path) {
            let wanted = if path == entry.path { self.wanted(entry) } else { Wanted::Nothing };
            self.judge(&path, &wanted)?;
        }
        Ok(())
    }

    fn rest(&mut self) -> Result<(), RestoreError> {
        while let Some(path) = self.next()? {
            self.judge(&path, &Wanted::Nothing)?;
        }
        Ok(())
    }

    fn wanted(&self, entry: &Entry) -> Wanted {
        let link = self.links.get(&entry.path);
        match &entry.what {
            What::File { .. } => Wanted::File,
            What::Directory => link.map_or(Wanted::Directory, |goes| Wanted::Link(goes.clone())),
            What::Symlink { .. } => match link {
                Some(goes) => Wanted::Link(goes.clone()),
                None if link_of(&entry.path).is_some() => Wanted::Directory,
                None if NEEDED.iter().any(|name| entry.path == name.as_bytes()) => Wanted::Directory,
                None => Wanted::Nothing,
            },
        }
    }

    fn judge(&mut self, path: &[u8], wanted: &Wanted) -> Result<(), RestoreError> {
        let there = self.on_disk(path);
        let meta = fs::symlink_metadata(&there).map_err(io_error("read", &there))?;
        let fits = match wanted {
            Wanted::File => can_be_written_over(&meta),
            Wanted::Directory => meta.is_dir(),
            Wanted::Link(goes) => meta.is_symlink() && fs::read_link(&there).is_ok_and(|to| to == *goes),
            Wanted::Nothing => false,
        };
        self.take();
        if fits {
            return Ok(());
        }
        if *wanted == Wanted::Nothing && self.is_left_alone(path) {
            self.passed.insert(path.to_vec());
            return Ok(());
        }
        let remove = || {
            fault::point("restore.delta.remove")?;
            if meta.is_dir() { fs::remove_dir_all(&there) } else { fs::remove_file(&there) }
        };
        remove().map_err(io_error("remove", &there))
    }

    /// Our own files, and what is in a place of a tablespace beside the directory of this version.
    fn is_left_alone(&self, path: &[u8]) -> bool {
        let (parent, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&[][..], path),
        };
        let has_lock = self.plan.request.becomes.purpose().is_some();
        if name == LOST.as_bytes() {
            // At the top of a disk, whichever directory that is.
            return true;
        }
        if parent.is_empty() {
            return name == MARKER.as_bytes() || (has_lock && name == LOCK_FILE.as_bytes());
        }
        match self.links.contains_key(parent) {
            true if parent == b"pg_wal" => name == MARKER.as_bytes(),
            there => there,
        }
    }
}

/// The path of a name in a directory.
fn below(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// A plain file that has no other name, which writing to it would change too, and that this user can open and give its
/// attributes.
fn can_be_written_over(meta: &Metadata) -> bool {
    let user = rustix::process::geteuid();
    let ours = user.is_root() || (meta.uid() == user.as_raw() && meta.mode() & 0o600 == 0o600);
    meta.is_file() && meta.nlink() == 1 && ours
}
