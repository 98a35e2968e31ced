//! The `backup_manifest` of a restored directory: `pg_verifybackup` accepts it before the first start.
//!
//! Files are listed while the plan reads the backup's manifest, with the CRC that their ranges add up to; what a restore
//! may change, and what it adds, is listed at the end from what is on disk.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use refloat_pg::manifest::{IGNORED_BY_VERIFYBACKUP, ManifestFile, ManifestWriter, WalRange};
use refloat_repo::StateDirectory;
use refloat_repo::manifest::{Entry, What};
use refloat_types::{SystemIdentifier, Timestamp};

use super::{Owner, WalNeed};
use crate::spill::RecordWriter;

/// Its name.
const NAME: &str = "backup_manifest";

/// Directories in which a restore changes nothing.
const UNCHANGED: [&[u8]; 12] = [
    b"base",
    b"global",
    b"pg_commit_ts",
    b"pg_logical",
    b"pg_multixact",
    b"pg_stat",
    b"pg_subtrans",
    b"pg_tblspc",
    b"pg_twophase",
    b"pg_xact",
    b"pg_replslot",
    b"pg_snapshots",
];

/// A `backup_manifest` that is being written.
pub(super) struct Listing {
    directory: PathBuf,
    writer: ManifestWriter<BufWriter<File>>,
    /// Paths whose files may still change, in order: as many as others have put into the data directory.
    later: RecordWriter,
    /// Files that the backup does not have.
    added: BTreeSet<Vec<u8>>,
}

impl Listing {
    /// Begins it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn begin(
        directory: &Path,
        major: u32,
        system: SystemIdentifier,
        owner: Option<Owner>,
        state: &StateDirectory,
    ) -> io::Result<Self> {
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(directory.join(NAME))?;
        if let Some(owner) = owner {
            owner.give(file.as_fd())?;
        }
        let writer = ManifestWriter::new(BufWriter::with_capacity(1 << 17, file), major, system)?;
        let later = RecordWriter::create(state).map_err(io::Error::other)?;
        Ok(Self { directory: directory.to_owned(), writer, later, added: BTreeSet::new() })
    }

    /// Lists a file that is placed as it was backed up, or keeps it for later.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn file(&mut self, entry: &Entry, crc32c: u32) -> io::Result<()> {
        let What::File { size, .. } = &entry.what else { return Ok(()) };
        let first = entry.path.split(|b| *b == b'/').next().unwrap_or_default();
        let inside = first.len() < entry.path.len();
        if IGNORED_BY_VERIFYBACKUP.iter().any(|name| first == name.as_bytes()) {
            return Ok(());
        }
        if !(inside && UNCHANGED.contains(&first)) {
            return self.later.push(&entry.path).map_err(io::Error::other);
        }
        let modified = Timestamp::from_nanosecond(i128::from(entry.mtime_ns)).unwrap_or_default();
        self.writer.file(&ManifestFile { path: &entry.path, size: *size, modified, crc32c })
    }

    /// Adds files that the backup does not have.
    pub(super) fn add(&mut self, file: &Path) {
        if let Ok(path) = file.strip_prefix(&self.directory) {
            self.added.insert(path.as_os_str().as_bytes().to_vec());
        }
    }

    /// Lists what is left, `global/pg_control` as it will be, and ends it.
    ///
    /// # Errors
    /// When a file cannot be read, or the manifest not be written.
    pub(super) fn finish(mut self, control: &[u8], now: Timestamp, wal: &WalNeed) -> io::Result<()> {
        let later = self.later.finish().map_err(io::Error::other)?;
        let mut reader = later.reader();
        while let Some(path) = reader.next().map_err(io::Error::other)? {
            self.added.remove(path);
            list(&self.directory, &mut self.writer, path)?;
        }
        for path in &self.added {
            list(&self.directory, &mut self.writer, path)?;
        }
        self.writer.file(&ManifestFile {
            path: b"global/pg_control",
            size: control.len() as u64,
            modified: now,
            crc32c: crc32c::crc32c(control),
        })?;
        let range = WalRange { timeline: wal.timeline, start: wal.start, end: wal.stop };
        let file = self.writer.finish(&[range])?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()
    }
}

/// Lists a file as it is on disk.
fn list(directory: &Path, writer: &mut ManifestWriter<BufWriter<File>>, path: &[u8]) -> io::Result<()> {
    let mut file = File::open(directory.join(std::ffi::OsStr::from_bytes(path)))?;
    let modified = Timestamp::from_second(file.metadata()?.mtime()).unwrap_or_default();
    let (mut size, mut crc32c, mut buffer) = (0, 0, vec![0; 64 << 10]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => {
                crc32c = crc32c::crc32c_append(crc32c, &buffer[..got]);
                size += got as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    writer.file(&ManifestFile { path, size, modified, crc32c })
}
