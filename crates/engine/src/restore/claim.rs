//! Directories outside of the data directory that a restore writes to: tablespaces, and WAL on a disk of its own.
//!
//! Each is taken while it is empty, and gets a `refloat.restoring` of its own. A restore that begins again clears it by
//! that mark alone: since then another directory may have come to the same path. Marks go when the restore is finished;
//! one that a crash leaves then means nothing, because the marker of the data directory is gone. PostgreSQL never looks
//! at it: in a tablespace it knows only the directory of its version, in `pg_wal` only its own names.

use std::fs;
use std::io;
use std::path::Path;

use refloat_types::fault;
use serde::{Deserialize, Serialize};

use super::Owner;
use super::disk::{is_empty, make_directory, read_own, remove_contents, write_durably};
use super::marker::{Claim, Identity, MARKER};
use super::sync::sync_directory;

/// The mark (JSON).
#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    #[serde(flatten)]
    claim: Claim,
    /// The directory it was written for: a copy of it is not ours to clear.
    place: Identity,
}

/// What is at the path of a directory outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, or an empty directory.
    Free,
    /// A directory that this restore took.
    Ours,
    /// Something else.
    Taken,
}

/// Looks at a path, for the restore that claims it; `None` for one that has not begun.
///
/// # Errors
/// When it cannot be read.
pub(super) fn look(path: &Path, claim: Option<&Claim>) -> io::Result<Found> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Free),
        Err(error) => return Err(error),
        Ok(meta) if !meta.is_dir() => return Ok(Found::Taken),
        Ok(_) => {}
    }
    let mark = read_own(&path.join(MARKER))?.and_then(|bytes| serde_json::from_slice::<Mark>(&bytes).ok());
    let here = Identity::of(path)?;
    Ok(if mark.is_some_and(|mark| Some(&mark.claim) == claim && mark.place == here) {
        Found::Ours
    } else if is_empty(path)? {
        Found::Free
    } else {
        Found::Taken
    })
}

/// Takes a directory, made when it is missing.
///
/// # Errors
/// When it is neither free nor ours; then it is as it was.
pub(super) fn take(path: &Path, claim: &Claim, owner: Option<Owner>) -> io::Result<()> {
    let found = look(path, Some(claim))?;
    if found == Found::Taken {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is not empty"));
    }
    make_directory(path, 0o700, owner)?;
    if found == Found::Free {
        let mark = Mark { claim: claim.clone(), place: Identity::of(path)? };
        let bytes = serde_json::to_vec_pretty(&mark).map_err(io::Error::other)?;
        write_durably(&path.join(MARKER), &bytes, 0o600, owner)?;
    }
    fault::point("restore.after_take")
}

/// Marks a directory with all that is in it: a tablespace of the cluster that is restored over.
///
/// # Errors
/// When it cannot be read, or the mark not be written.
pub(super) fn adopt(path: &Path, claim: &Claim, owner: Option<Owner>) -> io::Result<()> {
    if look(path, Some(claim))? != Found::Ours {
        let mark = Mark { claim: claim.clone(), place: Identity::of(path)? };
        let bytes = serde_json::to_vec_pretty(&mark).map_err(io::Error::other)?;
        write_durably(&path.join(MARKER), &bytes, 0o600, owner)?;
    }
    fault::point("restore.after_take")
}

/// Removes what a restore that stopped half-way left in a directory, if it is ours; the mark stays.
///
/// # Errors
/// Some may be gone.
pub(super) fn clear(path: &Path, claim: &Claim) -> io::Result<Found> {
    let found = look(path, Some(claim))?;
    if found == Found::Ours {
        remove_contents(path, &[MARKER])?;
    }
    Ok(found)
}

/// Removes the mark.
///
/// # Errors
/// When it may come back after a crash.
pub(super) fn release(path: &Path) -> io::Result<()> {
    fs::remove_file(path.join(MARKER))?;
    sync_directory(path)
}
