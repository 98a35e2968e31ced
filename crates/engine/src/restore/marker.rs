//! `refloat.restoring`: says of a directory that it is half of a restore, so that the same restore may begin again there.
//!
//! The one in the data directory is believed only in the directory it was written for, and only while the server was
//! never started: `pg_control` is missing, or still the one that we installed. Those outside of it: `claim`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use refloat_pg::control::{ControlFile, POISONED_CHECKPOINT};
use refloat_types::{SourceId, Timestamp};
use serde::{Deserialize, Serialize};

use super::aside::Move;
use super::disk::{read_own, write_durably};
use super::{Owner, RestoreRequest};

/// Its name.
pub(super) const MARKER: &str = "refloat.restoring";

/// Its contents (JSON).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The restore that began; one that begins again goes on under its id.
    pub(super) restore: String,
    pub(super) source: SourceId,
    pub(super) source_name: String,
    pub(super) at: Timestamp,
    /// The directory it was written for: a copy of it is not ours to clear.
    place: Identity,
    /// Directories outside of it that this restore takes, or took when it began before.
    pub(super) outside: Vec<PathBuf>,
    /// The one for WAL.
    pub(super) wal_directory: Option<PathBuf>,
    /// A restore over a cluster that is there, and what it sets aside, to be told.
    #[serde(default)]
    pub(super) delta: Option<Vec<Move>>,
}

/// Which directory it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Of the directory at a path.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn of(directory: &Path) -> io::Result<Self> {
        let meta = fs::metadata(directory)?;
        Ok(Self { device: meta.dev(), inode: meta.ino() })
    }
}

/// What the mark in a directory outside must say for it to belong to a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    restore: String,
    data_directory: Identity,
}

impl Marker {
    /// The marker of this restore in `directory`.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(super) fn new(directory: &Path, request: &RestoreRequest) -> io::Result<Self> {
        Ok(Self {
            restore: request.restore_id.clone(),
            source: request.commit.commit.source,
            source_name: request.source_name.clone(),
            at: request.now,
            place: Identity::of(directory)?,
            outside: Vec::new(),
            wal_directory: None,
            delta: None,
        })
    }

    /// Makes it the one of a restore that began before, and goes on.
    pub(super) fn goes_on(&mut self, before: &Self) {
        self.restore.clone_from(&before.restore);
        let more: Vec<PathBuf> =
            before.outside.iter().filter(|path| !self.outside.contains(path)).cloned().collect();
        self.outside.extend(more);
    }

    /// What it claims outside.
    pub(super) fn claim(&self) -> Claim {
        Claim { restore: self.restore.clone(), data_directory: self.place }
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
        let Some(bytes) = read_own(&directory.join(MARKER))? else { return Ok(None) };
        let Ok(marker) = serde_json::from_slice::<Self>(&bytes) else { return Ok(None) };
        let here = Identity::of(directory)? == marker.place;
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
