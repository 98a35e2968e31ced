//! The files of a data directory: what each is, which belong to a backup, and how to walk through them.
//!
//! [`classify`] judges a path by its bytes alone; [`Walk`] reads a directory that a server may be changing at the same
//! time. Nothing here writes; a crash leaves nothing.
//!
//! PostgreSQL: `src/backend/backup/basebackup.c`, `src/backend/storage/file/reinit.c`, `src/common/relpath.c`.

mod class;
mod walk;

pub use class::{
    Excluded, FileClass, Fork, RelationFile, TABLESPACE_DEFAULT, TABLESPACE_GLOBAL, checksummed, classify,
    contents_excluded,
};
pub use walk::{Entry, Kind, Scope, Walk, WalkError, tablespace_version_directory};

/// The file that locks a restored clone against archiving, at the top of the data directory.
pub const LOCK_FILE: &str = "refloat.locked";
/// What a restore says of a data directory, at its top; it speaks of that directory alone.
pub const RESTORE_FILES: [&str; 3] = [LOCK_FILE, "refloat.restoring", "refloat.aside"];
