//! A source becomes another cluster: after pg_upgrade by itself, otherwise when somebody says so.
//!
//! The source keeps its name and its older backups, which stay restorable as the cluster that they are of. A new generation
//! of its description says which cluster it is from now on, and a new owner which server. A crash between the two leaves
//! the old owner, who is of another cluster and so nobody's: the next backup or takeover records the new one.

use refloat_pg::control::ControlFile;
use refloat_repo::repository::{OwnerRecord, SourceDescription, SourceInfo};
use refloat_repo::{RepoError, Repository};
use refloat_types::{SourceId, SystemIdentifier, Timestamp};
use serde::Serialize;

/// A cluster took another's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewGeneration {
    /// The cluster that the source was.
    pub was: SystemIdentifier,
    /// The cluster that it is.
    pub is: SystemIdentifier,
    /// Its major version before.
    pub from_version: u32,
    /// Its major version now.
    pub to_version: u32,
}

/// Whether the cluster in a data directory is an upgrade of the source's, as pg_upgrade leaves it: the same host, the same
/// directory, a newer major version, and WAL that goes on behind the old one's, which pg_upgrade sees to and no initdb does.
/// Two clusters of one version, a new empty one, or a data directory that was mistaken for another, are for a person to judge.
///
/// PostgreSQL: `pg_upgrade.c`, `copy_xact_xlog_xid`.
///
/// # Errors
/// When the newest backup cannot be read.
pub fn is_upgrade(
    repository: &Repository,
    known: &SourceInfo,
    now: &SourceDescription,
    found: &ControlFile,
    major: u32,
) -> Result<bool, RepoError> {
    let is_same_place = known
        .description
        .as_ref()
        .is_some_and(|known| known.host == now.host && known.data_directory == now.data_directory);
    let Some(key) = repository.commit_keys(known.id)?.pop().filter(|_| is_same_place) else {
        return Ok(false);
    };
    let before = repository.read_commit(&key)?.commit.cluster;
    let goes_on = found.checkpoint.redo > before.stop_lsn;
    Ok(known.system == Some(before.system) && before.server_version / 10_000 < major && goes_on)
}

/// What changed since the newest backup of a source, where that is of another cluster.
///
/// # Errors
/// When that backup cannot be read.
pub fn since_last(
    repository: &Repository,
    source: SourceId,
    is: SystemIdentifier,
    to_version: u32,
) -> Result<Option<NewGeneration>, RepoError> {
    let Some(key) = repository.commit_keys(source)?.pop() else { return Ok(None) };
    let before = repository.read_commit(&key)?.commit.cluster;
    let from_version = before.server_version / 10_000;
    Ok((before.system != is).then_some(NewGeneration { was: before.system, is, from_version, to_version }))
}

/// Makes the cluster in `found` what the source is from now on.
///
/// # Errors
/// When it cannot be recorded; it can be begun again.
pub fn begin(
    repository: &Repository,
    known: &SourceInfo,
    description: &SourceDescription,
    found: &ControlFile,
    now: Timestamp,
) -> Result<SourceInfo, RepoError> {
    let described = repository.describe_source(Some(known.id), description, found.system_identifier, now)?;
    put_owner(repository, known.id, found, now)?;
    Ok(described)
}

/// Makes the server of a cluster the source's.
pub(crate) fn put_owner(
    repository: &Repository,
    source: SourceId,
    found: &ControlFile,
    now: Timestamp,
) -> Result<OwnerRecord, RepoError> {
    repository.put_owner(OwnerRecord {
        source,
        number: 0,
        at: now,
        system: found.system_identifier,
        timeline: found.timeline(),
        fork_lsn: None,
        restored_from: None,
    })
}
