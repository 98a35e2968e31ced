//! Which repository a recovery is ended with.
//!
//! A recovery that ends asks for what may lie behind its end, and stops where a repository cannot say. Who ends it by
//! `-r NAME takeover` has decided to go without the others: as long as that takeover runs, and no longer, fetches ask that one
//! alone. So the note counts only while its writer lives, who holds a lock on it; one that is left behind means nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use refloat_types::SourceName;

use super::Context;
use crate::error::{CliError, Failure};

fn file(source: &SourceName) -> String {
    format!("taking-over/{source}")
}

/// A fetch that looks whether anybody holds it, holds it for a moment itself.
fn lock(note: &File) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match note.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if began.elapsed() > Duration::from_secs(1) => {
                return Err(io::Error::other("another takeover of this source runs"));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// As long as this is kept, fetches for the source ask one repository alone.
pub(crate) struct Alone {
    _locked: File,
}

impl Context {
    /// Has fetches for this source ask the repository of `-r` alone, where that is given.
    ///
    /// # Errors
    /// It cannot be noted, or another takeover runs.
    pub(crate) fn fetch_from_one(&self, source: &SourceName) -> Result<Option<Alone>, Failure> {
        if self.global.repository.is_none() {
            return Ok(None);
        }
        // `-r` may be its URL.
        let Some(config) = self.repositories(None)?.into_iter().next() else { return Ok(None) };
        self.state().directory("taking-over")?;
        let path = self.state().path().join(file(source));
        let written = || -> io::Result<File> {
            let mut note = OpenOptions::new()
                .create(true)
                .read(true)
                .write(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            lock(&note)?;
            note.set_len(0)?;
            note.write_all(config.name.as_str().as_bytes())?;
            Ok(note)
        };
        let locked = written().map_err(|source| CliError::file("write", &path, source))?;
        Ok(Some(Alone { _locked: locked }))
    }

    /// The repository that fetches for this source ask alone now.
    pub(crate) fn fetched_from_alone(&self, source: &SourceName) -> Option<String> {
        let mut note = File::open(self.state().path().join(file(source))).ok()?;
        match note.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {}
            // Nobody holds it any more, or that cannot be told: all are asked.
            Ok(()) | Err(TryLockError::Error(_)) => return None,
        }
        let mut name = String::new();
        note.read_to_string(&mut name).ok()?;
        Some(name).filter(|name| !name.is_empty())
    }
}
