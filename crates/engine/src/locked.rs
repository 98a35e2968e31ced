//! `refloat.locked`: says of a data directory that it was restored and is not yet anybody's server.
//!
//! It lies in the data directory itself, so it travels with copies, and backups leave it out. While it is there `wal push`
//! and `backup` refuse: a clone must never write into the archive it came from. It is written before `pg_control`
//! is installed, so no restored server ever starts without it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use refloat_types::{SystemIdentifier, Timestamp};
use serde::{Deserialize, Serialize};

/// Name of the file in the data directory.
pub const LOCK_FILE: &str = "refloat.locked";

/// What a restored directory is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Not yet decided: archiving is refused, WAL stays in `pg_wal`.
    Undecided,
    /// A throw-away: its pushes end 0 and store nothing.
    Copy,
}

/// The file's contents (JSON).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    /// Which restore made it.
    pub restore: String,
    /// The source it came from.
    pub source: String,
    /// The backup it came from.
    pub backup: String,
    /// When.
    pub at: Timestamp,
    /// What for.
    pub purpose: Purpose,
    /// The cluster.
    pub system: SystemIdentifier,
}

impl Locked {
    /// Reads the lock of a data directory; `None` when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read: then the directory counts as locked.
    pub fn read(data_directory: &Path) -> io::Result<Option<Self>> {
        match fs::read(data_directory.join(LOCK_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
        }
    }

    /// Writes the lock durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, data_directory: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        let path = data_directory.join(LOCK_FILE);
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::File::open(data_directory)?.sync_all()
    }

    /// Lifts the lock durably; absent already is fine.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(data_directory: &Path) -> io::Result<()> {
        match fs::remove_file(data_directory.join(LOCK_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => fs::File::open(data_directory)?.sync_all(),
        }
    }
}
