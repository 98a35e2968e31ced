//! Small durable changes to directories.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use refloat_types::fault;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Owner;
use super::error::RestoreError;
use super::sync::sync_directory;

/// What a file is called until it is whole.
const UNFINISHED: &str = ".refloat-tmp";
/// A marker that was not finished: all that a crash right at the beginning leaves.
const UNFINISHED_MARKER: &str = "refloat.restoring.refloat-tmp";
/// What making a file system leaves.
pub(super) const LOST: &str = "lost+found";
/// No file of our own is longer.
const LONGEST_OWN: u64 = 1 << 20;

/// Writes a file beside its place, syncs it, renames it, syncs the directory: a crash leaves the old one or the new one.
///
/// # Errors
/// The old one stays, unless only the last sync failed.
pub(crate) fn write_durably(path: &Path, bytes: &[u8], mode: u32, owner: Option<Owner>) -> io::Result<()> {
    let temporary = with_suffix(path, UNFINISHED);
    let written = (|| {
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        if let Some(owner) = owner {
            owner.give(file.as_fd())?;
        }
        file.sync_all()?;
        fault::point("restore.before_rename")?;
        fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory(path.parent().unwrap_or(Path::new("/")))
}

/// Renames and syncs both directories.
///
/// # Errors
/// When it may not have been renamed durably.
pub(super) fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(to).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the new name is taken"));
    }
    fs::rename(from, to)?;
    let parent = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
    sync_directory(&parent(to))?;
    if parent(from) == parent(to) { Ok(()) } else { sync_directory(&parent(from)) }
}

/// Makes a directory of this owner and mode with the parents it lacks, durably.
///
/// # Errors
/// When it cannot be made.
pub(super) fn make_directory(path: &Path, mode: u32, owner: Option<Owner>) -> io::Result<()> {
    if !path.is_dir() {
        let parent = path.parent().unwrap_or(Path::new("/"));
        if !parent.is_dir() {
            make_directory(parent, 0o755, None)?;
        }
        fs::DirBuilder::new().mode(mode).create(path)?;
        sync_directory(parent)?;
    }
    let directory = File::open(path)?;
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode))?;
    owner.map_or(Ok(()), |owner| owner.give(directory.as_fd()))
}

/// Removes everything below `path` but these names; links are removed, not followed.
///
/// # Errors
/// Some may be gone.
pub(super) fn remove_contents(path: &Path, keep: &[&str]) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == LOST || keep.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether there is nothing in a directory but what making a file system leaves, or a marker that we did not finish.
///
/// # Errors
/// When it cannot be read.
pub(super) fn is_empty(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != LOST && name != UNFINISHED_MARKER {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A small file that we wrote; `None` where there is none, also where a link or anything but a file took its place.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read_own(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        other => File::from(other?),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_OWN).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The path with the links of its existing part resolved; it must be absolute and without `..`.
pub(super) fn real_path(path: &Path) -> Result<PathBuf, RestoreError> {
    let bad = |why: &str| RestoreError::BadPlace { path: path.to_owned(), why: why.to_owned() };
    if !path.is_absolute() {
        return Err(bad("the path is not absolute"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(bad("the path contains .."));
    }
    let mut rest = Vec::new();
    let mut base = path;
    while fs::symlink_metadata(base).is_err() {
        let (Some(parent), Some(name)) = (base.parent(), base.file_name()) else { break };
        rest.push(name);
        base = parent;
    }
    let mut real = fs::canonicalize(base).map_err(|_| bad("a link on the way leads nowhere"))?;
    real.extend(rest.iter().rev());
    if real.parent().is_none() {
        return Err(bad("it is the root of all file systems"));
    }
    Ok(real)
}

/// The path with text behind its last part.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().as_bytes().to_vec();
    text.extend_from_slice(suffix.as_bytes());
    PathBuf::from(std::ffi::OsStr::from_bytes(&text))
}

/// Whether another file system begins at this directory.
pub(super) fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
    match (device(path), path.parent().map(device)) {
        (Ok(here), Some(Ok(above))) => here != above,
        _ => false,
    }
}

/// Whether two directories are on different file systems.
pub(super) fn is_on_another_file_system(one: &Path, other: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    device(one) != device(other)
}

/// Whether this process may add and remove names in a directory.
pub(super) fn may_rename_in(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

/// The nearest directory on the way up that exists: what is made will be on its file system.
pub(super) fn nearest(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}
