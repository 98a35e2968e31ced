//! One object on its way into the store.

use std::fs::File;
use std::io::{self, Write as _};
use std::num::NonZeroU64;

use refloat_types::fault;
use rustix::fs::{Advice, AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, retry_on_intr};

use super::{FILE_MODE, directory, temporary};

/// After how many bytes the kernel is told to begin writing them out, so that the disk works while the next bytes are
/// compressed and the final fsync finds little left to do.
///
/// Measured with 64 MiB of random bytes on ext4 (virtual disk), medians of 11: fsync alone 0.076 s, of which 0.032 s in
/// the fsync; with `sync_file_range` every 8 MiB 0.059 s and 0.006 s; with `posix_fadvise(DONTNEED)` 0.063 s and 0.006 s.
/// The latter starts the same writeback (pages being written stay cached) and has a safe wrapper.
const WRITEBACK_BYTES: usize = 8 << 20;

/// A temporary file that becomes an object. Dropped without [`Writer::finish`], it is removed.
pub(super) struct Writer {
    directory: File,
    file: File,
    temporary: Option<String>,
    name: String,
    written: u64,
    flushed: u64,
    /// A write failed: what follows would not continue where it should.
    broken: bool,
}

impl Writer {
    /// Makes the temporary file for `name` in `directory`. `AlreadyExists` when the object is there, which is then
    /// durable.
    pub(super) fn begin(directory: File, name: &str, owner: Option<(u32, u32)>) -> io::Result<Self> {
        // Only saves the work: link() decides.
        if rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            directory.sync_all()?;
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fault::point("store.posix.put.before_create")?;
        let (file, temporary) = temporary::create(&directory)?;
        let mut writer = Self {
            directory,
            file,
            temporary: Some(temporary),
            name: name.to_owned(),
            written: 0,
            flushed: 0,
            broken: false,
        };
        writer.set_rights(owner)?;
        fault::point("store.posix.put.before_write")?;
        Ok(writer)
    }

    fn set_rights(&mut self, owner: Option<(u32, u32)>) -> io::Result<()> {
        let stat = rustix::fs::fstat(&self.file)?;
        directory::give(&self.file, stat.st_uid, stat.st_gid, owner)?;
        if stat.st_mode & 0o7777 != FILE_MODE {
            rustix::fs::fchmod(&self.file, Mode::from_raw_mode(FILE_MODE))?;
        }
        Ok(())
    }

    /// Appends bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write failed"));
        }
        self.broken = true;
        for piece in bytes.chunks(WRITEBACK_BYTES) {
            self.file.write_all(piece)?;
            self.written += piece.len() as u64;
            self.begin_writeback();
        }
        fault::point("store.posix.put.after_write")?;
        self.broken = false;
        Ok(())
    }

    fn begin_writeback(&mut self) {
        let length = self.written - self.flushed;
        if length >= WRITEBACK_BYTES as u64 {
            // Only a hint; errors of the writing itself are reported by fsync.
            let _ = rustix::fs::fadvise(&self.file, self.flushed, NonZeroU64::new(length), Advice::DontNeed);
            self.flushed = self.written;
        }
    }

    /// Makes it durable, then visible, durably. `AlreadyExists` when another object has the name, which is then durable.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write failed"));
        }
        // After an error the kernel forgets which pages were lost, and a second fsync would lie: never repeated.
        self.file.sync_all()?;
        fault::point("store.posix.put.after_fsync")?;
        let existed = match self.publish() {
            Ok(()) => false,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
            Err(error) => return Err(error),
        };
        fault::point("store.posix.put.after_link")?;
        self.remove_temporary()?;
        fault::point("store.posix.put.after_unlink")?;
        // For both changes, and for the link of whoever was first when it was not us.
        self.directory.sync_all()?;
        fault::point("store.posix.put.after_sync")?;
        if existed { Err(io::ErrorKind::AlreadyExists.into()) } else { Ok(()) }
    }

    /// Gives the file its final name unless that name is taken.
    fn publish(&mut self) -> io::Result<()> {
        let Some(temporary) = self.temporary.as_deref() else { return Ok(()) };
        let (from, to) = (&self.directory, &self.directory);
        match retry_on_intr(|| rustix::fs::linkat(from, temporary, to, &self.name, AtFlags::empty())) {
            Ok(()) => return Ok(()),
            // NFS repeats a call whose answer was lost, and then tells us that our own link is in the way.
            Err(Errno::EXIST) if self.is_published() => return Ok(()),
            // No hard links here.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = RenameFlags::NOREPLACE;
        match retry_on_intr(|| rustix::fs::renameat_with(from, temporary, to, &self.name, flags)) {
            Ok(()) => {
                self.temporary = None;
                Ok(())
            }
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this file system knows neither hard links nor renaming without replacing, so it cannot create a \
                 file safely",
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the final name leads to our file.
    fn is_published(&self) -> bool {
        let ours = rustix::fs::fstat(&self.file);
        let there = rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        matches!((ours, there), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
    }

    fn remove_temporary(&mut self) -> io::Result<()> {
        let Some(name) = self.temporary.take() else { return Ok(()) };
        match retry_on_intr(|| rustix::fs::unlinkat(&self.directory, &name, AtFlags::empty())) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Err(error) = self.remove_temporary() {
            tracing::debug!(%error, "a temporary file stays until the next cleaning");
        }
    }
}

/// Opens a new file and locks it for as long as we live. `None` when a cleaner got hold of it first.
pub(super) fn create_locked(directory: &File, name: &str) -> io::Result<Option<File>> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mode = Mode::from_raw_mode(FILE_MODE);
    let fd = match retry_on_intr(|| rustix::fs::openat(directory, name, flags, mode)) {
        Err(Errno::EXIST) => return Ok(None),
        other => other?,
    };
    let file = File::from(fd);
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // Where there are no locks, only age protects a temporary file.
        Ok(()) | Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => {
            let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
            return Err(error.into());
        }
    }
    // A cleaner may have held it between the two calls above.
    let kept = rustix::fs::fstat(&file)?.st_nlink > 0;
    Ok(kept.then_some(file))
}
