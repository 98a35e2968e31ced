//! Directories that are there after a power cut.
//!
//! Whoever finds a directory cannot see whether its entry in the directory above is on disk already, or whether another
//! process made it a moment ago and has not synced yet. So a new directory begins with mode 0700 and gets 0750 only
//! after its parent was synced: 0750 means "its entry is durable, and so are all above it". Whoever meets another mode
//! finishes the work of a process that is slow, or dead. Directories of ours cost nothing more than one `fstat` then.

use std::fs::File;
use std::io;
use std::path::Path;

use refloat_types::fault;
use rustix::fd::AsFd;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::{Errno, retry_on_intr};

use super::DIRECTORY_MODE;

type Owner = Option<(u32, u32)>;

/// Opens an existing directory.
pub(super) fn open<P: rustix::path::Arg + Copy>(at: impl AsFd, path: P) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    retry_on_intr(|| rustix::fs::openat(at.as_fd(), path, flags, Mode::empty())).map(File::from)
}

/// Opens the directory `path` below `root`, "" for the root itself; makes what is missing, durably.
pub(super) fn ensure(root: &File, path: &str, owner: Owner) -> io::Result<File> {
    if path.is_empty() {
        return root.try_clone();
    }
    match open(root, path) {
        Ok(directory) if is_settled(&directory)? => return Ok(directory),
        Ok(_) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let mut parent = root.try_clone()?;
    for part in path.split('/') {
        parent = step(&parent, part, owner)?;
    }
    Ok(parent)
}

/// Opens or makes the directory `name` in `parent` and sees to it that its entry is durable.
fn step<P: rustix::path::Arg + Copy>(parent: &File, name: P, owner: Owner) -> io::Result<File> {
    let directory = match open(parent, name) {
        Err(Errno::NOENT) => {
            match retry_on_intr(|| rustix::fs::mkdirat(parent, name, Mode::RWXU)) {
                // Another process was faster: it may still be on its way to the disk, which is looked at below.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            fault::point("store.posix.mkdir.after_mkdir")?;
            open(parent, name).or_else(|error| open_despite_umask(error, parent, name))?
        }
        other => other?,
    };
    if !is_settled(&directory)? {
        settle(parent, &directory, owner)?;
    }
    Ok(directory)
}

/// An umask that takes from the owner makes a directory that we cannot open ourselves.
fn open_despite_umask<P: rustix::path::Arg + Copy>(
    error: Errno,
    parent: &File,
    name: P,
) -> Result<File, Errno> {
    if error != Errno::ACCESS {
        return Err(error);
    }
    rustix::fs::chmodat(parent, name, Mode::RWXU, rustix::fs::AtFlags::empty()).map_err(|_| error)?;
    open(parent, name)
}

fn is_settled(directory: &File) -> io::Result<bool> {
    Ok(rustix::fs::fstat(directory)?.st_mode & 0o777 == DIRECTORY_MODE)
}

fn settle(parent: &File, directory: &File, owner: Owner) -> io::Result<()> {
    parent.sync_all()?;
    fault::point("store.posix.mkdir.after_sync")?;
    let stat = rustix::fs::fstat(directory)?;
    give(directory, stat.st_uid, stat.st_gid, owner)?;
    // Bits such as set-group-id, which an operator may have put on the parent, stay.
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7000 | DIRECTORY_MODE);
    match rustix::fs::fchmod(directory, mode) {
        // Somebody else's directory, made by hand. Only the sync counts; it is done again by every process.
        Ok(()) | Err(Errno::PERM | Errno::ROFS) => {}
        Err(error) => return Err(error.into()),
    }
    fault::point("store.posix.mkdir.after_chmod")?;
    Ok(())
}

/// Gives a new file or directory to `owner` unless it is theirs already.
pub(super) fn give(file: &File, uid: u32, gid: u32, owner: Owner) -> io::Result<()> {
    match owner {
        Some(wanted) if wanted != (uid, gid) => {
            let (uid, gid) = (Uid::from_raw(wanted.0), Gid::from_raw(wanted.1));
            Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
        }
        _ => Ok(()),
    }
}

/// Makes the store's own directory, and those above it, durably.
pub(super) fn create_root(path: &Path, owner: Owner) -> io::Result<File> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let above = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = match open(rustix::fs::CWD, above) {
        Err(Errno::NOENT) => create_root(above, owner)?,
        other => other?,
    };
    let directory = step(&parent, name, owner)?;
    // The mode and owner that it just got; those of lower directories are synced with the first thing put in them.
    directory.sync_all()?;
    Ok(directory)
}

/// Syncs the entries that lead to the store's own directory. Only needed when a store is made: whoever made some of them
/// may have died in between, and their modes are not ours to judge.
pub(super) fn settle_above(path: &Path) -> io::Result<()> {
    for above in path.ancestors().skip(1) {
        match open(rustix::fs::CWD, above) {
            Ok(directory) => directory.sync_all()?,
            // Not readable, so not made by us.
            Err(Errno::ACCESS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
