//! Writing files where a restore wants them.
//!
//! Everything is opened below one directory, by paths that the manifest proved relative, and no link of the backup is
//! followed except those of tablespaces, which we made. A directory was empty before, so what no piece covers is a hole; or
//! it was swept and compared (`delta`), so what no piece covers is right already. A crash leaves some files; the directory cannot be started, and the next run begins again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use refloat_types::fault;
use rustix::fs::{Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use super::Owner;
use super::read::{FileSlot, Sink, SinkError};

/// Writes the files of a backup below a directory.
pub(super) struct Placer {
    root: OwnedFd,
    path: PathBuf,
    owner: Option<Owner>,
    /// Files may be there already.
    over: bool,
    /// Files that one thread keeps open.
    open_files: usize,
}

/// Files that a thread has open: pieces of a file come one behind the other, mostly.
#[derive(Default)]
pub(super) struct OpenFiles {
    files: Vec<(u64, File)>,
    next: usize,
}

impl Placer {
    /// A placer below `path`, `over` what is there or not, for `jobs` threads.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub(super) fn new(path: &Path, owner: Option<Owner>, over: bool, jobs: usize) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = usize::try_from(limit.unwrap_or(4096)).unwrap_or(4096);
        // Some are in use already, and each thread opens one more for its pack.
        let open_files = (limit.saturating_sub(64) / 2 / jobs.max(1)).clamp(1, 128);
        Ok(Self { root, path: path.to_owned(), owner, over, open_files })
    }

    fn fail(&self, action: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> SinkError {
        let path = self.path.join(std::ffi::OsStr::from_bytes(path));
        move |source| SinkError { action, path, source }
    }

    /// Makes a directory with this mode; one that is there already is taken over.
    pub(super) fn directory(&self, path: &[u8], mode: u32) -> Result<(), SinkError> {
        let fail = self.fail("create directory", path);
        // Without these bits we could not write below it; PostgreSQL insists on them too.
        let mode = Mode::from_raw_mode((mode & 0o777) | 0o700);
        let made = || -> io::Result<()> {
            match rustix::fs::mkdirat(&self.root, path, mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(&self.root, path, flags, Mode::empty())?;
            rustix::fs::fchmod(&directory, mode)?;
            self.give(directory.as_fd())
        };
        made().map_err(fail)
    }

    /// Makes a symbolic link; one that is there already and leads to the same place stays.
    pub(super) fn link(&self, path: &[u8], target: &[u8]) -> Result<(), SinkError> {
        let made = || -> io::Result<()> {
            match rustix::fs::symlinkat(target, &self.root, path) {
                Err(Errno::EXIST) if self.leads_to(path, target) => {}
                other => other?,
            }
            match self.owner {
                Some(Owner { uid, gid }) => {
                    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                    Ok(rustix::fs::chownat(&self.root, path, uid, gid, flags)?)
                }
                None => Ok(()),
            }
        };
        made().map_err(self.fail("create link", path))
    }

    fn leads_to(&self, path: &[u8], target: &[u8]) -> bool {
        self.over
            && rustix::fs::readlinkat(&self.root, path, Vec::new()).is_ok_and(|to| to.as_bytes() == target)
    }

    fn give(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        match self.owner {
            Some(owner) => owner.give(file),
            None => Ok(()),
        }
    }

    fn open(&self, path: &[u8], fresh: OFlags) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | fresh;
        Ok(rustix::fs::openat(&self.root, path, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Mode, owner and time; the time last, because writing changes it.
    fn attributes(&self, file: &File, slot: &FileSlot) -> io::Result<()> {
        // A new file has 0600.
        if self.over || slot.mode & 0o777 != 0o600 {
            rustix::fs::fchmod(file, Mode::from_raw_mode(slot.mode & 0o777))?;
        }
        self.give(file.as_fd())?;
        let at = Timespec {
            tv_sec: slot.mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: slot.mtime_ns.rem_euclid(1_000_000_000),
        };
        let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        Ok(rustix::fs::futimens(file, &Timestamps { last_access: unchanged, last_modification: at })?)
    }

    fn write_whole(&self, slot: &FileSlot, bytes: &[u8], keep: &mut OpenFiles) -> io::Result<()> {
        fault::point("restore.file")?;
        let file = match self.open(&slot.path, OFlags::EXCL) {
            Err(error) if is_full(&error) && keep.drop_all() => self.open(&slot.path, OFlags::EXCL)?,
            other => other?,
        };
        file.write_all_at(bytes, 0)?;
        self.attributes(&file, slot)
    }

    fn write_piece(
        &self,
        slot: &FileSlot,
        offset: u64,
        bytes: &[u8],
        keep: &mut OpenFiles,
    ) -> io::Result<()> {
        self.file(slot, keep)?.write_all_at(bytes, offset)
    }

    /// The file, from those that are open or opened now.
    fn file<'a>(&self, slot: &FileSlot, keep: &'a mut OpenFiles) -> io::Result<&'a File> {
        let at = match keep.files.iter().rposition(|(number, _)| *number == slot.number) {
            Some(at) => at,
            None => {
                let file = match self.open(&slot.path, OFlags::empty()) {
                    Err(error) if is_full(&error) && keep.drop_all() => {
                        self.open(&slot.path, OFlags::empty())?
                    }
                    other => other?,
                };
                keep.insert(slot.number, file, self.open_files)
            }
        };
        Ok(&keep.files[at].1)
    }

    fn complete(&self, slot: &FileSlot, keep: &mut OpenFiles) -> io::Result<()> {
        fault::point("restore.file")?;
        let file = self.file(slot, keep)?;
        // Zeros at the end were not written.
        rustix::fs::ftruncate(file, slot.size)?;
        self.attributes(file, slot)?;
        keep.files.retain(|(number, _)| *number != slot.number);
        Ok(())
    }
}

/// Too many open files, in this process or on this host.
fn is_full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

impl OpenFiles {
    fn drop_all(&mut self) -> bool {
        let any = !self.files.is_empty();
        self.files.clear();
        any
    }

    /// Keeps a file, instead of another one when there are `limit` already.
    fn insert(&mut self, number: u64, file: File, limit: usize) -> usize {
        if self.files.len() < limit {
            self.files.push((number, file));
            return self.files.len() - 1;
        }
        self.next = (self.next + 1) % self.files.len();
        self.files[self.next] = (number, file);
        self.next
    }
}

impl Sink for Placer {
    type Worker = OpenFiles;

    fn worker(&self) -> OpenFiles {
        OpenFiles::default()
    }
    fn whole(&self, worker: &mut OpenFiles, file: &FileSlot, bytes: &[u8]) -> Result<(), SinkError> {
        self.write_whole(file, bytes, worker).map_err(self.fail("write", &file.path))
    }
    fn piece(
        &self,
        worker: &mut OpenFiles,
        file: &FileSlot,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), SinkError> {
        self.write_piece(file, offset, bytes, worker).map_err(self.fail("write", &file.path))
    }
    fn finish(&self, worker: &mut OpenFiles, file: &FileSlot) -> Result<(), SinkError> {
        self.complete(file, worker).map_err(self.fail("finish", &file.path))
    }
}
