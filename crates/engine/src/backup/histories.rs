//! The history files of the timeline that is backed up.
//!
//! PostgreSQL archives a history file only when archiving is on at the promotion. A cluster that was promoted before
//! Refloat came has its own in `pg_wal` alone, and recovery along its timeline asks the archive for it: without it no
//! archived WAL could be replayed. So a backup stores those that are not there yet.

use refloat_pg::history::TimelineHistory;
use refloat_types::{SystemIdentifier, TimelineId, WalFileName};

use super::own_wal::push_file;
use super::{BackupError, BackupRequest};

/// Stores the history files of `timeline` and its ancestors. Answers what a person should know.
pub(super) fn keep(
    request: &BackupRequest<'_>,
    system: SystemIdentifier,
    timeline: TimelineId,
) -> Result<Vec<String>, BackupError> {
    let mut notes = Vec::new();
    let mut wanted = vec![timeline];
    if let Some(history) = local(request, timeline)? {
        wanted.extend(history.ancestors());
    }
    for timeline in wanted.into_iter().filter(|timeline| *timeline != TimelineId::FIRST) {
        let name = WalFileName::History(timeline);
        if !request.repository.find_wal(system, name)?.is_empty() {
            continue;
        }
        let path = request.data_directory.join("pg_wal").join(name.to_string());
        if !path.exists() {
            notes.push(format!(
                "{name} is neither in pg_wal nor in the repository: this backup can be restored with its own WAL only \
                 (--target immediate); copy the file from another server and push it: refloat wal push pg_wal/{name}"
            ));
            continue;
        }
        push_file(request, system, name)
            .map_err(|source| BackupError::History { name: name.to_string(), source: Box::new(source) })?;
    }
    Ok(notes)
}

/// The history file of `timeline` in `pg_wal`, where there is one that can be read.
pub(super) fn local(
    request: &BackupRequest<'_>,
    timeline: TimelineId,
) -> Result<Option<TimelineHistory>, BackupError> {
    let path = request.data_directory.join("pg_wal").join(WalFileName::History(timeline).to_string());
    match std::fs::read(&path) {
        Ok(bytes) => Ok(TimelineHistory::parse(timeline, &bytes).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(BackupError::Read { path, source }),
    }
}
