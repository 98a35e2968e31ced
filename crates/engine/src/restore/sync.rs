//! Making a restored directory durable.
//!
//! One `syncfs` for each file system that was written to: the kernel writes in the order of the disk, where a million
//! `fsync` calls would each wait for a journal. Since Linux 5.8 it reports every error of writing back that happened
//! after the descriptor was opened, so descriptors are opened before the first byte is written. Where the kernel is
//! older, or the file system is one whose `syncfs` is not known to reach the disk (FUSE, network file systems), every
//! file and directory is synced for itself.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Magic numbers of file systems whose `syncfs` is trusted. PostgreSQL trusts `syncfs` everywhere
/// (`recovery_init_sync_method`); a restore can afford to be stricter.
const TRUSTED: [u32; 7] = [
    0x0000_ef53, // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0xf2f5_2010, // F2FS
    0x2fc1_2fc1, // ZFS
    0x0102_1994, // tmpfs
    0x794c_7630, // overlayfs
];

/// Directories that will be written to, opened before that.
pub(super) struct Durable {
    roots: Vec<Root>,
}

struct Root {
    path: PathBuf,
    directory: File,
    device: u64,
    whole: bool,
}

impl Durable {
    /// Opens the directories.
    ///
    /// # Errors
    /// The path that could not be opened, and why.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self, (PathBuf, io::Error)> {
        let kernel = reports_errors();
        let open = |path: &PathBuf| -> io::Result<Root> {
            let directory = File::open(path)?;
            let device = directory.metadata()?.dev();
            let kind = rustix::fs::fstatfs(&directory)?.f_type;
            #[allow(
                clippy::unnecessary_cast,
                clippy::cast_possible_truncation,
                reason = "magic numbers have 32 bits; the type of the field differs between machines"
            )]
            let whole = kernel && TRUSTED.contains(&(kind as u32));
            Ok(Root { path: path.clone(), directory, device, whole })
        };
        let roots = paths.iter().map(|path| open(path).map_err(|error| (path.clone(), error)));
        Ok(Self { roots: roots.collect::<Result<_, _>>()? })
    }

    /// Makes everything below the directories durable.
    ///
    /// # Errors
    /// The path that may not be durable, and why.
    pub(super) fn sync(&self) -> Result<(), (PathBuf, io::Error)> {
        let mut done = Vec::new();
        for root in &self.roots {
            if !root.whole {
                sync_tree(&root.path)?;
            } else if !done.contains(&root.device) {
                rustix::fs::syncfs(&root.directory).map_err(|e| (root.path.clone(), e.into()))?;
                done.push(root.device);
            }
        }
        Ok(())
    }
}

/// Linux 5.8 or later.
fn reports_errors() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|word| word.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 8)
}

/// Syncs every file and directory below `path`, and `path`. Links are not followed: what tablespaces' links lead to is
/// a root of its own.
fn sync_tree(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    let fail = |error| (path.to_owned(), error);
    for entry in std::fs::read_dir(path).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let kind = entry.file_type().map_err(fail)?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            let synced = File::open(entry.path()).and_then(|file| file.sync_all());
            synced.map_err(|error| (entry.path(), error))?;
        }
    }
    sync_directory(path).map_err(fail)
}

/// Makes names in a directory durable.
///
/// # Errors
/// When they may not be.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_reach_every_file() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(directory.path().join("a/b")).expect("made");
        std::fs::write(directory.path().join("a/b/c"), b"x").expect("written");
        std::os::unix::fs::symlink("/nowhere", directory.path().join("a/link")).expect("linked");
        let durable = Durable::open(&[directory.path().to_owned()]).expect("opens");
        durable.sync().expect("syncs");
        sync_tree(directory.path()).expect("syncs");
        let missing = directory.path().join("missing");
        assert_eq!(Durable::open(std::slice::from_ref(&missing)).err().map(|(path, _)| path), Some(missing));
    }
}
