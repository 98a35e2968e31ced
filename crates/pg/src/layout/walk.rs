//! A walk through a data directory that may be changing.
//!
//! Entries come in the byte order of their paths, one at a time, so that two walks can be merged and half a million
//! files need no list. What is held is the names of the directories from the top to the present one. A file that
//! vanishes between being seen and being looked at is left out: WAL explains it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use refloat_types::{Advice, Explain};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::class::{Excluded, FileClass, Fork, classify, contents_excluded};
use crate::control::ControlFile;

/// How far a walk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// What belongs to a backup.
    Backup,
    /// Everything, what is left out of backups included (its class says so).
    All,
}

/// What kind of thing an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link that PostgreSQL follows: a tablespace, `pg_wal`, or a directory whose contents are left out.
    /// Size, mode, owner and times are those of the directory behind it.
    DirectoryLink {
        /// Where it leads, as the link says.
        target: Vec<u8>,
    },
    /// Any other symbolic link. It is not followed; PostgreSQL's base backup leaves such links out with a warning.
    Symlink {
        /// Where it leads, as the link says.
        target: Vec<u8>,
    },
    /// A socket, pipe or device: never backed up, worth a warning.
    Special,
}

/// One thing in a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the data directory, which itself comes first with an empty path. Files of a tablespace are
    /// `pg_tblspc/OID/PG_15_202209061/...` wherever they lie.
    pub path: Vec<u8>,
    /// What it is to PostgreSQL.
    pub class: FileClass,
    /// What it is to the file system.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Permissions, the lower twelve bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the contents, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of contents or attributes, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Which file system.
    pub device: u64,
    /// Which file in it.
    pub inode: u64,
}

/// Why a walk stopped.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// Something could not be read.
    #[error("could not read {}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A tablespace has no files of this server where its link leads: an unmounted disk, most likely.
    #[error("tablespace {oid} has no directory {version} in {}", target.display())]
    MissingTablespace {
        /// Its oid.
        oid: String,
        /// The directory looked for.
        version: String,
        /// Where the link leads.
        target: PathBuf,
    },
}

impl Explain for WalkError {
    fn advice(&self) -> Advice {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Advice::failed("FILE-006", "nothing was changed")
                    .hint("Run refloat as the user that owns the data directory.")
            }
            Self::Io { .. } => Advice::failed("FILE-006", "nothing was changed")
                .hint("Look at the kernel's log for errors of this disk."),
            Self::MissingTablespace { target, .. } => Advice::failed(
                "FILE-007",
                "nothing was changed; a backup without this tablespace would be worthless and is not made",
            )
            .hint(format!("Is the file system of {} mounted?", target.display()))
            .hint("If the tablespace is lost for good, drop it in the server, then back up again."),
        }
    }
}

/// The directory of a server's files in each tablespace, such as `PG_15_202209061`. The major version is the content
/// of `PG_VERSION`.
pub fn tablespace_version_directory(major_version: u32, control: &ControlFile) -> String {
    format!("PG_{major_version}_{}", control.catalog_version)
}

/// One name in a directory. Directories have two: one for the entry, one for what is below.
struct Item {
    at: u32,
    length: u16,
    below: bool,
}

/// The names of one directory, in one allocation.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

impl Names {
    fn push(&mut self, name: &[u8], directory: bool) {
        let at = u32::try_from(self.bytes.len()).expect("a directory of 4 GiB of names does not exist");
        let length = u16::try_from(name.len()).expect("Linux has names of 255 bytes at most");
        self.bytes.extend_from_slice(name);
        self.items.push(Item { at, length, below: false });
        if directory {
            self.items.push(Item { at, length, below: true });
        }
    }
    fn name(&self, item: &Item) -> &[u8] {
        let at = item.at as usize;
        &self.bytes[at..at + usize::from(item.length)]
    }
    /// What is below a directory sorts as its name with a slash, which gives the order of whole paths.
    fn sort(&mut self) {
        let mut items = std::mem::take(&mut self.items);
        items.sort_unstable_by(|a, b| {
            let slash = |item: &Item| item.below.then_some(&b'/');
            self.name(a).iter().chain(slash(a)).cmp(self.name(b).iter().chain(slash(b)))
        });
        self.items = items;
    }
}

/// A directory on the way.
struct Level {
    directory: OwnedFd,
    /// Length of the path of its entries before their names: with the slash, 0 at the top.
    prefix: usize,
    names: Names,
    next: usize,
    /// Relations of this directory that have an init fork, sorted.
    unlogged: Vec<u32>,
}

/// An iterator over the entries of a data directory, in the byte order of their paths. It ends after an error.
pub struct Walk {
    top: PathBuf,
    version: String,
    scope: Scope,
    levels: Vec<Level>,
    path: Vec<u8>,
    /// The top itself, until it was given out.
    first: Option<Entry>,
    /// Device and inode of every tablespace's directory: one that lies in the data directory must not come twice.
    tablespaces: Vec<(u64, u64)>,
}

/// How a symbolic link at `path` is treated: is it followed?
fn is_followed(path: &[u8]) -> bool {
    path == b"pg_wal" || tablespace_oid(path).is_some() || (contents_excluded(path) && !path.contains(&b'/'))
}

/// The oid of `pg_tblspc/OID`.
fn tablespace_oid(path: &[u8]) -> Option<&[u8]> {
    let oid = path.strip_prefix(b"pg_tblspc/")?;
    (!oid.is_empty() && oid.iter().all(u8::is_ascii_digit)).then_some(oid)
}

fn nanoseconds(seconds: i64, rest: u64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(i64::try_from(rest).unwrap_or(0))
}

fn entry(path: Vec<u8>, class: FileClass, kind: Kind, stat: &Stat) -> Entry {
    #[allow(clippy::unnecessary_cast, reason = "the types of these fields differ between machines")]
    Entry {
        path,
        class,
        kind,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime_ns: nanoseconds(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
        ctime_ns: nanoseconds(stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        device: stat.st_dev as u64,
        inode: stat.st_ino as u64,
    }
}

/// `None` for what has vanished.
fn unless_gone<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Walk {
    /// Begins at a data directory (or a link to one). `version` is the directory of this server's files in tablespaces:
    /// see [`tablespace_version_directory`].
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn new(data_directory: &Path, version: &str, scope: Scope) -> Result<Self, WalkError> {
        let mut walk = Self {
            top: data_directory.to_path_buf(),
            version: version.to_owned(),
            scope,
            levels: Vec::new(),
            path: Vec::new(),
            first: None,
            tablespaces: Vec::new(),
        };
        let result: Result<(), Errno> = (|| {
            let directory = openat(CWD, data_directory, DIRECTORY, Mode::empty())?;
            walk.first = Some(entry(Vec::new(), FileClass::Other, Kind::Directory, &fstat(&directory)?));
            walk.tablespaces = tablespace_roots(&directory)?;
            let level = walk.read(directory)?;
            walk.levels.push(level);
            Ok(())
        })();
        result.map_err(|error| walk.io(error))?;
        Ok(walk)
    }

    fn io(&self, error: Errno) -> WalkError {
        let mut path = self.top.clone();
        if !self.path.is_empty() {
            path.push(OsStr::from_bytes(&self.path));
        }
        WalkError::Io { path, source: error.into() }
    }

    /// Reads the names in `directory`, whose path is `self.path`.
    fn read(&self, directory: OwnedFd) -> Result<Level, Errno> {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        let prefix = path.len();
        let in_tablespace = tablespace_oid(&self.path).is_some();
        let mut level = Level { directory, prefix, names: Names::default(), next: 0, unlogged: Vec::new() };
        for item in Dir::read_from(&level.directory)? {
            let item = item?;
            let name = item.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            path.truncate(prefix);
            path.extend_from_slice(name);
            let class = classify(&path);
            let foreign = in_tablespace && name != self.version.as_bytes();
            let excluded = foreign || matches!(class, FileClass::Excluded(_));
            if excluded && self.scope == Scope::Backup {
                continue;
            }
            if let FileClass::Relation(relation) = class
                && relation.fork == Fork::Init
            {
                level.unlogged.push(relation.number);
            }
            let kind = match item.file_type() {
                FileType::Unknown => {
                    match unless_gone(statat(&level.directory, name, AtFlags::SYMLINK_NOFOLLOW))? {
                        Some(stat) => FileType::from_raw_mode(stat.st_mode),
                        None => continue,
                    }
                }
                kind => kind,
            };
            let directory = kind == FileType::Directory || (kind == FileType::Symlink && is_followed(&path));
            let enter = self.scope == Scope::All || !contents_excluded(&path);
            level.names.push(name, directory && enter && !foreign);
        }
        level.names.sort();
        level.unlogged.sort_unstable();
        Ok(level)
    }

    /// The entry at `self.path`, named by `name` in the last level; `None` when it has vanished.
    fn look(&self, level: &Level) -> Result<Option<Entry>, Errno> {
        let name = &self.path[level.prefix..];
        let at = |flags| unless_gone(statat(&level.directory, name, flags));
        let Some(mut stat) = at(AtFlags::SYMLINK_NOFOLLOW)? else { return Ok(None) };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => {
                let Some(target) = unless_gone(readlinkat(&level.directory, name, Vec::new()))? else {
                    return Ok(None);
                };
                let target = target.into_bytes();
                let behind = if is_followed(&self.path) { at(AtFlags::empty())? } else { None };
                match behind {
                    Some(behind) => {
                        stat = behind;
                        Kind::DirectoryLink { target }
                    }
                    None => Kind::Symlink { target },
                }
            }
            _ => Kind::Special,
        };
        let mut class = classify(&self.path);
        if let FileClass::Relation(relation) = class
            && relation.fork != Fork::Init
            && level.unlogged.binary_search(&relation.number).is_ok()
        {
            class = FileClass::Excluded(Excluded::UnloggedRelation);
        }
        let above = &self.path[..level.prefix.saturating_sub(1)];
        if tablespace_oid(above).is_some() && name != self.version.as_bytes() {
            class = FileClass::Excluded(Excluded::OtherVersion);
        }
        Ok(Some(entry(self.path.clone(), class, kind, &stat)))
    }

    /// Goes into the directory at `self.path`.
    fn enter(&self, level: &Level) -> Result<Option<Level>, WalkError> {
        let name = &self.path[level.prefix..];
        let follow = if is_followed(&self.path) { OFlags::empty() } else { OFlags::NOFOLLOW };
        let opened = unless_gone(openat(&level.directory, name, DIRECTORY | follow, Mode::empty()));
        let opened = opened.map_err(|error| self.io(error))?;
        let tablespace = tablespace_oid(&self.path);
        let Some(directory) = opened else {
            return match tablespace {
                Some(oid) => self.missing(level, oid),
                None => Ok(None),
            };
        };
        if tablespace.is_none() && self.path != b"pg_wal" {
            let stat = fstat(&directory).map_err(|error| self.io(error))?;
            #[allow(clippy::unnecessary_cast, reason = "the types of these fields differ between machines")]
            let id = (stat.st_dev as u64, stat.st_ino as u64);
            if self.tablespaces.contains(&id) {
                return Ok(None);
            }
        }
        let below = self.read(directory).map_err(|error| self.io(error))?;
        match tablespace {
            Some(oid)
                if !below
                    .names
                    .items
                    .iter()
                    .any(|item| below.names.name(item) == self.version.as_bytes()) =>
            {
                self.missing(level, oid)
            }
            _ => Ok(Some(below)),
        }
    }

    /// A tablespace without files is either being dropped, which takes its link away in a moment, or lost.
    fn missing(&self, level: &Level, oid: &[u8]) -> Result<Option<Level>, WalkError> {
        let name = &self.path[level.prefix..];
        for _ in 0..20 {
            match unless_gone(statat(&level.directory, name, AtFlags::SYMLINK_NOFOLLOW)) {
                Ok(None) => return Ok(None),
                Ok(Some(_)) => std::thread::sleep(Duration::from_millis(50)),
                Err(error) => return Err(self.io(error)),
            }
            let version = format!("{}/{}", OsStr::from_bytes(name).display(), self.version);
            if let Ok(Some(_)) = unless_gone(statat(&level.directory, version, AtFlags::empty())) {
                // It was mounted just now.
                return self.enter(level);
            }
        }
        let target = readlinkat(&level.directory, name, Vec::new()).map(std::ffi::CString::into_bytes);
        let target = target.unwrap_or_else(|_| self.path.clone());
        Err(WalkError::MissingTablespace {
            oid: String::from_utf8_lossy(oid).into_owned(),
            version: self.version.clone(),
            target: PathBuf::from(OsStr::from_bytes(&target)),
        })
    }

    fn step(&mut self) -> Result<Option<Entry>, WalkError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        while let Some(mut level) = self.levels.pop() {
            let Some(item) = level.names.items.get(level.next) else { continue };
            self.path.truncate(level.prefix);
            if self.path.len() < level.prefix {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(level.names.name(item));
            let below = item.below;
            level.next += 1;
            if below {
                let next = self.enter(&level)?;
                self.levels.push(level);
                self.levels.extend(next);
                continue;
            }
            let found = self.look(&level).map_err(|error| self.io(error))?;
            self.levels.push(level);
            match found {
                Some(entry)
                    if self.scope == Scope::Backup && matches!(entry.class, FileClass::Excluded(_)) => {}
                Some(entry) => return Ok(Some(entry)),
                None => {}
            }
        }
        Ok(None)
    }
}

impl Iterator for Walk {
    type Item = Result<Entry, WalkError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = self.step();
        if result.is_err() {
            self.levels.clear();
        }
        result.transpose()
    }
}

/// Device and inode of each directory that a link in `pg_tblspc` leads to.
fn tablespace_roots(top: &OwnedFd) -> Result<Vec<(u64, u64)>, Errno> {
    let mut roots = Vec::new();
    let Some(links) = unless_gone(openat(top, "pg_tblspc", DIRECTORY, Mode::empty()))? else {
        return Ok(roots);
    };
    for item in Dir::read_from(&links)? {
        let item = item?;
        let name = item.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let link = unless_gone(statat(&links, name, AtFlags::SYMLINK_NOFOLLOW))?;
        if !link.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink) {
            continue;
        }
        if let Some(stat) = unless_gone(statat(&links, name, AtFlags::empty()))? {
            #[allow(clippy::unnecessary_cast, reason = "the types of these fields differ between machines")]
            roots.push((stat.st_dev as u64, stat.st_ino as u64));
        }
    }
    Ok(roots)
}

#[cfg(test)]
#[path = "walk/tests.rs"]
mod tests;
