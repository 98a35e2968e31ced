//! `refloat.restoring`: says of a directory that it is half of a restore, so that the same restore may begin again there.
//!
//! Whoever finds it believes it only in the directory it was written for, and only while the server was never started:
//! `pg_control` is missing, or still the one that we installed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use refloat_pg::control::{ControlFile, POISONED_CHECKPOINT};
use refloat_types::{SourceId, Timestamp};
use serde::{Deserialize, Serialize};

use super::disk::write_durably;
use super::{Owner, RestoreRequest};

/// Its name.
pub(super) const MARKER: &str = "refloat.restoring";

/// Its contents (JSON).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    pub(super) restore: String,
    pub(super) source: SourceId,
    pub(super) source_name: String,
    pub(super) at: Timestamp,
    /// The directory it was written for: a copy of it is not ours to clear.
    device: u64,
    inode: u64,
    /// Directories of tablespaces that are ours too; each was empty before.
    pub(super) tablespaces: Vec<PathBuf>,
    /// A directory for WAL outside of the data directory.
    pub(super) wal_directory: Option<PathBuf>,
}

impl Marker {
    /// The marker of this restore in `directory`.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(super) fn new(
        directory: &Path,
        request: &RestoreRequest,
        tablespaces: Vec<PathBuf>,
    ) -> io::Result<Self> {
        let meta = fs::metadata(directory)?;
        Ok(Self {
            restore: request.restore_id.clone(),
            source: request.commit.commit.source,
            source_name: request.source_name.clone(),
            at: request.now,
            device: meta.dev(),
            inode: meta.ino(),
            tablespaces,
            wal_directory: None,
        })
    }

    /// Writes it durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write(&self, directory: &Path, owner: Option<Owner>) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        write_durably(&directory.join(MARKER), &bytes, 0o600, owner)
    }

    /// The marker of a directory, when there is one that can be believed.
    ///
    /// # Errors
    /// When something of the directory cannot be read.
    pub(super) fn believed(directory: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(directory.join(MARKER)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let Ok(marker) = serde_json::from_slice::<Self>(&bytes) else { return Ok(None) };
        let meta = fs::metadata(directory)?;
        let here = (meta.dev(), meta.ino()) == (marker.device, marker.inode);
        Ok((here && was_never_started(directory)?).then_some(marker))
    }
}

fn was_never_started(directory: &Path) -> io::Result<bool> {
    match fs::read(directory.join("global/pg_control")) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(true)
        }
        Err(error) => Err(error),
        Ok(bytes) => {
            Ok(ControlFile::parse(&bytes).is_ok_and(|c| c.checkpoint.location == POISONED_CHECKPOINT))
        }
    }
}
