//! Which repository a recovery is ended with.
//!
//! A recovery that ends asks for what may lie behind its end, and stops where a repository cannot say. Who ends it by
//! `-r NAME takeover` has decided to go without the others: while that server, which has gone as far as it will, is promoted,
//! and no longer, its fetches ask that one alone. So the note names the server's data directory, and counts only while its
//! writer lives, who holds a lock on it; one that is left behind means nothing.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use refloat_config::SourceConfig;
use refloat_engine::takeover::Held;
use refloat_types::SourceName;
use serde::{Deserialize, Serialize};

use super::Context;

/// What is noted.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// The repository's name in the configuration.
    repository: String,
    /// Device and inode of the data directory.
    directory: (u64, u64),
}

fn file(source: &SourceName) -> String {
    format!("taking-over/{source}")
}

fn identity(directory: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::metadata(directory)?;
    Ok((meta.dev(), meta.ino()))
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

impl Context {
    /// Has fetches for the server of this source ask the repository of `-r` alone, where that is given, as long as what is
    /// answered is kept.
    ///
    /// # Errors
    /// It cannot be noted, or another takeover runs.
    pub(crate) fn fetch_from_one(&self, source: &SourceConfig) -> io::Result<Held> {
        if self.global.repository.is_none() {
            return Ok(Box::new(()));
        }
        // `-r` may be its URL.
        let named = self.repositories(None).map_err(|failure| io::Error::other(failure.line()))?;
        let Some(config) = named.into_iter().next() else { return Ok(Box::new(())) };
        let note = Note { repository: config.name.to_string(), directory: identity(&source.data_directory)? };
        self.state().directory("taking-over").map_err(io::Error::other)?;
        let path = self.state().path().join(file(&source.name));
        let mut options = OpenOptions::new();
        options.create(true).read(true).write(true).truncate(false).mode(0o600);
        let mut written = options.open(&path)?;
        lock(&written)?;
        written.set_len(0)?;
        written.write_all(&serde_json::to_vec(&note)?)?;
        Ok(Box::new(written))
    }

    /// The repository that fetches for the server in `directory` ask alone now.
    pub(crate) fn fetched_from_alone(&self, source: &SourceName, directory: &Path) -> Option<String> {
        let mut note = File::open(self.state().path().join(file(source))).ok()?;
        match note.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {}
            // Nobody holds it any more, or that cannot be told: all are asked.
            Ok(()) | Err(TryLockError::Error(_)) => return None,
        }
        let mut text = String::new();
        note.read_to_string(&mut text).ok()?;
        let note: Note = serde_json::from_str(&text).ok()?;
        (note.directory == identity(directory).ok()?).then_some(note.repository)
    }
}
