//! What is to be copied: the entries of a walk, sorted into those that have bytes and those that have none.

use std::path::Path;
use std::sync::Arc;

use refloat_pg::control::ControlFile;
use refloat_pg::layout::{FileClass, Kind, Scope, Walk, checksummed, tablespace_version_directory};
use refloat_repo::manifest::{Entry, FileStat, What};

use super::BackupError;
use super::parent::Former;

/// A file to copy.
pub(super) struct FileToCopy {
    /// Its entry; the leaves are filled in when they are known.
    pub(super) entry: Entry,
    /// Bytes when it was seen.
    pub(super) size: u64,
    /// For relation segments: the number of its first block in the whole fork.
    pub(super) first_block: Option<u32>,
    /// Whether its pages carry what can be checked.
    pub(super) checked: bool,
    /// What the parent has of it.
    pub(super) former: Option<Former>,
}

/// The listing of a data directory.
#[derive(Default)]
pub(super) struct Listing {
    /// Files in the order of their paths.
    pub(super) files: Vec<FileToCopy>,
    /// Directories and links in the order of their paths.
    pub(super) others: Vec<Entry>,
    /// Permission bits of the data directory itself.
    pub(super) top_mode: u32,
    /// Bytes of all files.
    pub(super) bytes: u64,
    /// What is left out though PostgreSQL did not put it there.
    pub(super) notes: Vec<String>,
}

/// Path of the control file.
pub(super) const CONTROL_FILE: &[u8] = b"global/pg_control";

/// Lists the data directory. The control file is left out: it is read last.
pub(super) fn list(data_directory: &Path, major: u32, control: &ControlFile) -> Result<Listing, BackupError> {
    let version = tablespace_version_directory(major, control);
    let mut listing = Listing::default();
    for found in Walk::new(data_directory, &version, Scope::Backup)? {
        let found = found?;
        let name = || String::from_utf8_lossy(&found.path).into_owned();
        let what = match &found.kind {
            Kind::File => {
                let stat = FileStat { device: found.device, inode: found.inode, ctime_ns: found.ctime_ns };
                What::File { size: 0, stat, leaves: Arc::from([]) }
            }
            // `pg_wal` and emptied directories may be links; restored they are directories, as PostgreSQL's base backup
            // makes them. A tablespace stays a link: restore decides where it leads.
            Kind::DirectoryLink { target } if found.path.starts_with(b"pg_tblspc/") => {
                What::Symlink { target: target.clone() }
            }
            Kind::Directory | Kind::DirectoryLink { .. } => What::Directory,
            Kind::Symlink { .. } => {
                listing.notes.push(format!("left out: {} is a symbolic link", name()));
                continue;
            }
            Kind::Special => {
                listing.notes.push(format!("left out: {} is no regular file", name()));
                continue;
            }
        };
        if found.path.is_empty() {
            listing.top_mode = found.mode;
            continue;
        }
        if found.path == CONTROL_FILE {
            continue;
        }
        let entry = Entry {
            path: found.path,
            mode: found.mode,
            uid: found.uid,
            gid: found.gid,
            mtime_ns: found.mtime_ns,
            what,
        };
        if matches!(entry.what, What::File { .. }) {
            let first_block = match found.class {
                FileClass::Relation(relation) => relation.first_block(control.relation_segment_blocks),
                _ => None,
            };
            let checked = first_block.is_some() && checksummed(&entry.path);
            listing.bytes += found.size;
            listing.files.push(FileToCopy { entry, size: found.size, first_block, checked, former: None });
        } else {
            listing.others.push(entry);
        }
    }
    Ok(listing)
}
