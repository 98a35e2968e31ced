//! Temporary files: their names, and those that a killed writer left behind.
//!
//! A name is `.refloat-<kernel>-<pid>-<random>`: `<kernel>` is derived from the boot id, so all containers of one running
//! kernel share it and nobody else does. While it works, a writer holds a `flock`. Locks of this kernel are certain:
//! a file without one has no writer any more. A lock of another host may be invisible here (NFS mounted with local
//! locks), so foreign files, and those of a boot before this one, must also be old.

use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::{PosixStore, directory, size_of, writer};
use crate::StoreError;

const PREFIX: &str = ".refloat-";

/// What [`PosixStore::clean_temporary`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Files removed.
    pub removed: u64,
    /// Bytes they held.
    pub bytes: u64,
    /// Files left: their writer lives, or may live.
    pub kept: u64,
}

/// Makes a temporary file that nobody else uses.
pub(super) fn create(directory: &File) -> io::Result<(File, String)> {
    for _ in 0..16 {
        let name = format!("{PREFIX}{}-{}-{:016x}", kernel(), std::process::id(), random());
        if let Some(file) = writer::create_locked(directory, &name)? {
            return Ok((file, name));
        }
    }
    Err(io::Error::other("temporary files disappear while they are made"))
}

/// 64 bits that differ from call to call and from process to process. Not secret.
fn random() -> u64 {
    // The keys come from the operating system once per thread and are counted up from then on.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

/// Stands for a kernel that cannot be named.
const UNNAMED: &str = "0";

/// Names the running kernel.
fn kernel() -> &'static str {
    static KERNEL: OnceLock<String> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let id: String = text.chars().filter(char::is_ascii_hexdigit).take(12).collect();
        if id.len() == 12 { id } else { UNNAMED.to_owned() }
    })
}

impl PosixStore {
    /// Removes the temporary files of writers that are gone: those of this running kernel at once, others when they are
    /// at least `older_than` old by the file system's clock. A file whose writer holds its lock always stays.
    ///
    /// # Errors
    /// When the store cannot be walked or written. Files of other users are left alone.
    pub fn clean_temporary(&self, older_than: Duration) -> Result<Cleaned, StoreError> {
        let fail = |e: io::Error| StoreError::from_io("clean", "", &self.url, e);
        if self.options.read_only {
            return Err(fail(Errno::ROFS.into()));
        }
        let oldest = now(&self.root).map_err(fail)?.saturating_sub_unsigned(older_than.as_secs());
        let mut cleaned = Cleaned::default();
        let mut pending = vec![String::from(".")];
        while let Some(path) = pending.pop() {
            match clean_one(&self.root, &path, oldest, &mut pending, &mut cleaned) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(cleaned)
    }
}

/// The file system's clock in seconds, which may be another host's.
fn now(root: &File) -> io::Result<i64> {
    let (file, name) = create(root)?;
    rustix::fs::unlinkat(root, &name, AtFlags::empty())?;
    Ok(rustix::fs::fstat(&file)?.st_mtime)
}

fn clean_one(
    root: &File,
    path: &str,
    oldest: i64,
    pending: &mut Vec<String>,
    cleaned: &mut Cleaned,
) -> io::Result<()> {
    let here = directory::open(root, path)?;
    for entry in Dir::read_from(&here)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name.starts_with(PREFIX) {
            match remove_abandoned(&here, name, oldest)? {
                Some(bytes) => {
                    cleaned.removed += 1;
                    cleaned.bytes += bytes;
                }
                None => cleaned.kept += 1,
            }
        } else if !name.starts_with('.') && is_directory(&here, name, entry.file_type()) {
            let below = format!("{path}/{name}");
            if below[2..].parse::<crate::Key>().is_ok() {
                pending.push(below);
            }
        }
    }
    Ok(())
}

fn is_directory(here: &File, name: &str, known: FileType) -> bool {
    match known {
        FileType::Directory => true,
        FileType::Symlink | FileType::Unknown => rustix::fs::statat(here, name, AtFlags::empty())
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
        _ => false,
    }
}

/// Removes `name` unless somebody may be writing it. The bytes it held, or `None` when it stays.
fn remove_abandoned(here: &File, name: &str, oldest: i64) -> io::Result<Option<u64>> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match retry_on_intr(|| rustix::fs::openat(here, name, flags, Mode::empty())) {
        Ok(fd) => File::from(fd),
        // Finished meanwhile, or not ours to judge.
        Err(Errno::NOENT | Errno::ACCESS | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let locked = match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => true,
        Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => false,
        Err(_) => return Ok(None),
    };
    let ours = kernel() != UNNAMED && name[PREFIX.len()..].split('-').next() == Some(kernel());
    let stat = rustix::fs::fstat(&file)?;
    if !(locked && ours) && stat.st_mtime > oldest {
        return Ok(None);
    }
    match rustix::fs::unlinkat(here, name, AtFlags::empty()) {
        // The object of a writer that died after linking keeps its other name: no bytes come free.
        Ok(()) => Ok(Some(if stat.st_nlink > 1 { 0 } else { size_of(&stat) })),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
