//! Objects as files below one directory.
//!
//! An object is written to a temporary file beside its final place, synced, linked to its name (which is refused when
//! the name exists), the temporary name removed, the directory synced. So under a key there is either nothing or the
//! whole object, also after a power cut, and two writers of one key cannot both succeed.
//!
//! A crash leaves at most temporary files, whose names begin with a dot; [`PosixStore::clean_temporary`] removes those
//! whose writer is gone.
//!
//! Everything is done relative to the directory as it was opened: when a disk is unmounted under a running process, it
//! never goes on in the empty directory below.

mod directory;
mod list;
mod temporary;
mod url;
mod writer;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::{ControlFlow, Range};
use std::path::Path;

use refloat_types::{Timestamp, fault};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use crate::{Features, Key, ObjectInfo, ObjectWriter, Space, Store, StoreError, StoreErrorKind};

pub use temporary::Cleaned;
use url::file_url;

/// Mode of every object, whatever the umask.
pub const FILE_MODE: u32 = 0o640;
/// Mode of every directory, whatever the umask.
pub const DIRECTORY_MODE: u32 = 0o750;

/// How a directory is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Make the directory, and those above it, where they are missing.
    pub create: bool,
    /// Refuse everything that would change something.
    pub read_only: bool,
    /// User and group that every new file and directory is given to; for root, who may do that.
    pub owner: Option<(u32, u32)>,
}

/// A store in a directory.
#[derive(Debug)]
pub struct PosixStore {
    url: String,
    root: File,
    options: Options,
}

impl PosixStore {
    /// Opens the directory `path`, which must be absolute.
    ///
    /// # Errors
    /// `NotFound` when it is missing and `create` was not asked for; `Other` when it is no directory.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let url = file_url(path);
        let fail = |error: io::Error| StoreError::from_io("open", "", &url, error);
        if !path.is_absolute() {
            return Err(fail(io::Error::new(io::ErrorKind::InvalidInput, "the path is not absolute")));
        }
        let root = match directory::open(rustix::fs::CWD, path) {
            Err(Errno::NOENT) if options.create && !options.read_only => {
                directory::create_root(path, options.owner).map_err(fail)?
            }
            other => other.map_err(|e| fail(e.into()))?,
        };
        if options.create && !options.read_only {
            directory::settle_above(path).map_err(fail)?;
        }
        Ok(Self { url, root, options })
    }

    fn fail(&self, action: &'static str, object: &str, source: impl Into<io::Error>) -> StoreError {
        StoreError::from_io(action, object, &self.url, source.into())
    }

    fn refuse_writing(&self, action: &'static str, key: &Key) -> Result<(), StoreError> {
        if self.options.read_only {
            return Err(self.fail(action, key.as_str(), Errno::ROFS));
        }
        Ok(())
    }

    /// Looks `key` up past what NFS remembers: for up to a minute it answers "no such file" from memory about a file that
    /// another host has made. Opening a directory makes it ask the server.
    fn look_again(&self, key: &Key) -> Result<Stat, Errno> {
        let (parent, name) = split(key);
        let mut directory = directory::open(&self.root, ".")?;
        for part in parent.split('/').filter(|part| !part.is_empty()) {
            directory = directory::open(&directory, part)?;
        }
        retry_on_intr(|| rustix::fs::statat(&directory, name, AtFlags::empty()))
    }

    /// "No such file" is only an answer while the store's directory itself is there.
    fn know_absent(&self, action: &'static str, object: &str) -> Result<(), StoreError> {
        let root = rustix::fs::fstat(&self.root).map_err(|e| self.fail(action, object, e))?;
        if root.st_nlink == 0 {
            let gone = io::Error::other("the store's directory was removed");
            return Err(StoreError::new(StoreErrorKind::Unreachable, action, object, &self.url, gone));
        }
        Ok(())
    }

    fn begin(&self, key: &Key) -> Result<writer::Writer, StoreError> {
        self.refuse_writing("create", key)?;
        let (parent, name) = split(key);
        directory::ensure(&self.root, parent, self.options.owner)
            .and_then(|directory| writer::Writer::begin(directory, name, self.options.owner))
            .map_err(|e| self.fail("create", key.as_str(), e))
    }

    /// The directory of `key` and the key's name in it; `None` when there is no such directory.
    fn parent_of<'k>(&self, key: &'k Key) -> io::Result<Option<(File, &'k str)>> {
        let (parent, name) = split(key);
        let path = if parent.is_empty() { "." } else { parent };
        match directory::open(&self.root, path) {
            Ok(directory) => Ok(Some((directory, name))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn remove(&self, key: &Key) -> io::Result<bool> {
        let Some((directory, name)) = self.parent_of(key)? else { return Ok(false) };
        let found = match retry_on_intr(|| rustix::fs::unlinkat(&directory, name, AtFlags::empty())) {
            Ok(()) => true,
            Err(Errno::NOENT) => false,
            Err(error) => return Err(error.into()),
        };
        fault::point("store.posix.delete.after_unlink")?;
        // Also when it was absent: whoever removed it may have died before this line.
        directory.sync_all()?;
        fault::point("store.posix.delete.after_sync")?;
        Ok(found)
    }

    fn read_range(&self, key: &Key, range: &Range<u64>, into: &mut Vec<u8>) -> io::Result<()> {
        // Without NONBLOCK a FIFO of that name would hang us; regular files do not know the flag.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = retry_on_intr(|| rustix::fs::openat(&self.root, key.as_str(), flags, Mode::empty()))?;
        let mut file = File::from(fd);
        let stat = rustix::fs::fstat(&file)?;
        if !is_file(&stat) {
            return Err(io::Error::other("it is not a regular file"));
        }
        if size_of(&stat) < range.end {
            let text = format!("it holds {} bytes where {} are needed", size_of(&stat), range.end);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        let length = range.end.saturating_sub(range.start);
        if length == 0 {
            return Ok(());
        }
        let wanted = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        into.try_reserve(wanted).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        if range.start > 0 {
            file.seek(SeekFrom::Start(range.start))?;
        }
        // Reads into the reserved space without zeroing it first, goes on after EINTR and short reads.
        let got = file.take(length).read_to_end(into)?;
        if got < wanted {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read"));
        }
        Ok(())
    }
}

impl Store for PosixStore {
    fn describe(&self) -> &str {
        &self.url
    }

    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        let mut writer = self.begin(key)?;
        let result = writer.write(body).and_then(|()| writer.finish());
        result.map_err(|e| self.fail("create", key.as_str(), e))
    }

    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let writer = self.begin(key)?;
        Ok(Box::new(PosixObject { writer, key: key.clone(), store: self.url.clone() }))
    }

    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let mut result = self.read_range(key, &range, into);
        let absent = |result: &io::Result<()>| {
            result
                .as_ref()
                .is_err_and(|e| matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory))
        };
        if absent(&result) && self.look_again(key).is_ok() {
            result = self.read_range(key, &range, into);
        }
        if absent(&result) {
            self.know_absent("read", key.as_str())?;
            result = Err(io::ErrorKind::NotFound.into());
        }
        result.map_err(|e| self.fail("read", key.as_str(), e))
    }

    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        let fail = |e: io::Error| self.fail("sync", key.as_str(), e);
        if self.head(key)?.is_none() {
            return Err(fail(io::ErrorKind::NotFound.into()));
        }
        // A reader cannot mend what a dead writer left undone above the object's directory; a writer can.
        let directory = if self.options.read_only {
            self.parent_of(key).map_err(fail)?.map(|(directory, _)| directory)
        } else {
            Some(directory::ensure(&self.root, split(key).0, self.options.owner).map_err(fail)?)
        };
        let directory = directory.ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
        // The file itself was synced before it got its name.
        directory.sync_all().map_err(fail)
    }

    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        let stat = retry_on_intr(|| rustix::fs::statat(&self.root, key.as_str(), AtFlags::empty()));
        match stat.or_else(|error| if error == Errno::NOENT { self.look_again(key) } else { Err(error) }) {
            Ok(stat) if is_file(&stat) => Ok(Some(describe(key.clone(), &stat))),
            Ok(_) => Ok(None),
            Err(Errno::NOENT | Errno::NOTDIR) => self.know_absent("look up", key.as_str()).map(|()| None),
            Err(error) => Err(self.fail("look up", key.as_str(), error)),
        }
    }

    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.know_absent("list", prefix)?;
        list::walk(&self.root, prefix, each).map_err(|e| self.fail("list", prefix, e))
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.refuse_writing("delete", key)?;
        match self.remove(key) {
            Ok(true) => Ok(()),
            Ok(false) => self.know_absent("delete", key.as_str()),
            Err(error) => Err(self.fail("delete", key.as_str(), error)),
        }
    }

    fn features(&self) -> Features {
        Features { create_new: true, durable: true, consistent_list: true, remote: false }
    }

    fn space(&self) -> Result<Option<Space>, StoreError> {
        let stat = retry_on_intr(|| rustix::fs::fstatvfs(&self.root));
        let stat = stat.map_err(|e| self.fail("measure the space of", "", e))?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Some(Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) }))
    }

    fn clear_abandoned(&self, _is_ours: fn(&Key) -> bool) -> Result<u64, StoreError> {
        Ok(self.clean_temporary(FOREIGN_FILES_AGE)?.removed)
    }
}

/// How old temporary files of other hosts, or of before a reboot, must be: older than any backup takes.
const FOREIGN_FILES_AGE: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3600);

/// A [`writer::Writer`] that knows how to name itself in errors.
struct PosixObject {
    writer: writer::Writer,
    key: Key,
    store: String,
}

impl ObjectWriter for PosixObject {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let result = self.writer.write(bytes);
        result.map_err(|e| StoreError::from_io("create", self.key.as_str(), &self.store, e))
    }
    fn finish(self: Box<Self>) -> Result<(), StoreError> {
        let result = self.writer.finish();
        result.map_err(|e| StoreError::from_io("create", self.key.as_str(), &self.store, e))
    }
}

/// The directory part, "" at the top, and the name.
fn split(key: &Key) -> (&str, &str) {
    key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()))
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// The moment of the last write, by the clock of the file system's host; nothing is written after an object has its name.
fn describe(key: Key, stat: &Stat) -> ObjectInfo {
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let created = Timestamp::new(stat.st_mtime, nanoseconds).unwrap_or(Timestamp::UNIX_EPOCH);
    ObjectInfo { key, size: size_of(stat), created }
}
