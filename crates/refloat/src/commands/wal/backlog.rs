//! Whether archiving goes on again after it had failed.
//!
//! PostgreSQL's log tells of each push that fails, and of none that ends well: whoever saw the failures would have to ask whether
//! they are over. So the first failure is noted in the state directory, and the push behind which nothing waits any more
//! says so in the log, once. So does the one that finds that a repository, of which the log said that it was left behind, has
//! been brought what it lacked. The notes can be lost: then nothing is said.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use refloat_repo::RepoError;
use refloat_types::{Clock as _, SourceName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::render::text::count;
use crate::render::time;

/// What is noted of pushes that failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    /// Since when.
    since: Timestamp,
    /// How often.
    failures: u64,
}

/// What waits to be archived of a source.
pub(super) struct Backlog<'c> {
    /// Where notes are kept.
    pub context: &'c Context,
    /// The source.
    pub source: &'c SourceName,
    /// Whose WAL it is.
    pub data_directory: &'c Path,
}

impl Backlog<'_> {
    fn file(&self) -> String {
        format!("archiving/{}.json", self.source)
    }

    /// Where PostgreSQL notes what waits.
    fn status(&self) -> PathBuf {
        self.data_directory.join("pg_wal/archive_status")
    }

    /// Repositories of which the log says that they were left behind.
    fn told_file(&self) -> String {
        format!("archiving/{}.behind.json", self.source)
    }

    /// The log was told that these are behind now; answers the lines for those that are no more.
    pub(super) fn told(&self, behind: &[String]) -> Vec<String> {
        let before: BTreeSet<String> =
            self.context.state().read(&self.told_file()).ok().flatten().unwrap_or_default();
        let lacks = |name: &String| {
            behind.contains(name)
                || self.context.down(name).is_some()
                || self.context.behind(self.source).lacks(name)
        };
        let (still, over): (BTreeSet<String>, BTreeSet<String>) = before.iter().cloned().partition(lacks);
        let now: BTreeSet<String> = still.into_iter().chain(behind.iter().cloned()).collect();
        let written = || -> Result<(), RepoError> {
            if now == before {
                return Ok(());
            }
            self.context.state().directory("archiving")?;
            self.context.state().write(&self.told_file(), &now)
        };
        match written() {
            Ok(()) => over
                .iter()
                .map(|name| format!("refloat: {name} has caught up: it lacks nothing any more\n"))
                .collect(),
            Err(error) => {
                tracing::debug!(%error, "which repositories are behind could not be noted");
                Vec::new()
            }
        }
    }

    fn note(&self) -> Option<Note> {
        self.context.state().read(&self.file()).ok().flatten()
    }

    /// A push of `file` failed. One that PostgreSQL has not offered is somebody's own attempt.
    pub(super) fn failed(&self, file: &Path) {
        let Some(name) = file.file_name().and_then(|name| name.to_str()) else { return };
        if !self.status().join(format!("{name}.ready")).exists() {
            return;
        }
        let before = self.note();
        let note = Note {
            since: before.as_ref().map_or_else(|| self.context.clock.now(), |note| note.since),
            failures: before.map_or(0, |note| note.failures).saturating_add(1),
        };
        let written = || -> Result<(), RepoError> {
            self.context.state().directory("archiving")?;
            self.context.state().write(&self.file(), &note)
        };
        if let Err(error) = written() {
            tracing::debug!(%error, "that archiving fails could not be noted");
        }
    }

    /// A push of `file` ended well: the line for the log, where the last one that had waited is stored with it.
    pub(super) fn stored(&self, file: &Path) -> Option<String> {
        let note = self.note()?;
        let own = format!("{}.ready", file.file_name()?.to_str()?);
        let entries = fs::read_dir(self.status()).ok()?;
        let mut names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        if names.any(|name| name.ends_with(".ready") && name != own) {
            return None;
        }
        if let Err(error) = self.context.state().remove(&self.file()) {
            tracing::debug!(%error, "that archiving goes on again could not be noted");
            return None;
        }
        let failures = count(usize::try_from(note.failures).unwrap_or(usize::MAX), "attempt");
        let since = time::moment(note.since);
        Some(format!(
            "refloat: archiving has caught up: all that waited is stored; {failures} had failed since {since}\n"
        ))
    }
}
