//! The other repositories of a backup: each gets its own commit when the first one has its.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use refloat_repo::Repository;
use refloat_repo::commit::CommitNames;
use refloat_repo::crypt::seal::DataKey;
use refloat_store::Store;
use refloat_types::{BackupId, Explain as _, Severity};
use serde::Serialize;

use super::prepare::Prepared;
use super::tee::Tee;
use super::{BackupReport, BackupRequest};
use crate::copy::{self, CopyError, CopyRequest, Fresh, Named};

/// How long one WAL file may take on its way into another repository.
const WAL_TIMEOUT: Duration = Duration::from_secs(60);

/// Another repository that gets the same backup.
pub struct Other<'a> {
    /// What it is called.
    pub name: String,
    /// It.
    pub repository: &'a Repository,
    /// How long the backup shall stay there, where that is known.
    pub keep: Option<Duration>,
}

/// What became of a backup in another repository.
#[derive(Debug, Clone, Serialize)]
pub struct InOther {
    /// What it is called.
    pub repository: String,
    /// Backups that it got now, this one last; none where it failed.
    pub backups: Vec<BackupId>,
    /// Bytes that had to be copied, because they were not written there while the backup ran.
    pub copied_bytes: u64,
    /// Why it does not have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failed>,
}

/// Why another repository does not have a backup.
#[derive(Debug, Clone, Serialize)]
pub struct Failed {
    /// Its code.
    pub code: &'static str,
    /// What happened, with its causes.
    pub why: String,
    /// It may pass by itself.
    pub may_pass: bool,
}

/// The store that packs are written to: that of the first repository, and those of the others whose objects are sealed alike.
pub(super) fn store(request: &BackupRequest<'_>) -> Arc<dyn Store> {
    let first = Arc::clone(request.repository.store());
    let is_alike = |other: &&Other<'_>| other.repository.is_encrypted() == request.repository.is_encrypted();
    let others: Vec<_> =
        request.others.iter().filter(is_alike).map(|other| Arc::clone(other.repository.store())).collect();
    if others.is_empty() { first } else { Arc::new(Tee::new(first, others)) }
}

/// The backups that every other repository has too; `None` where there is no other, or one cannot be asked.
pub(super) fn common(request: &BackupRequest<'_>) -> Option<BTreeSet<BackupId>> {
    let mut common: Option<BTreeSet<BackupId>> = None;
    for other in &request.others {
        let source = other.repository.find_source(&request.source).ok()?;
        let keys = match source {
            Some(source) => other.repository.commit_keys(source.id).ok()?,
            None => Vec::new(),
        };
        let id = |name: &str| name.split_once('-').and_then(|(_, id)| id.parse().ok());
        let has: BTreeSet<BackupId> = keys.iter().filter_map(|key| id(key.file_name())).collect();
        common = Some(match common {
            None => has,
            Some(before) => before.intersection(&has).copied().collect(),
        });
    }
    common
}

/// Gives the backup to the others. One that fails does not keep it from the next.
pub(super) fn bring(
    request: &BackupRequest<'_>,
    prepared: &Prepared<'_>,
    report: &BackupReport,
    names: &CommitNames,
) -> Vec<InOther> {
    let keys: Vec<Arc<DataKey>> = prepared.key.iter().chain(&prepared.map_key).cloned().collect();
    let fresh = Fresh { backup: report.backup, names, keys: &keys };
    let one = |other: &Other<'_>| {
        let asked = CopyRequest {
            from: Named { name: &request.repository_name, repository: request.repository },
            to: Named { name: &other.name, repository: other.repository },
            source: &request.source,
            only: None,
            keeps: None,
            keep: other.keep,
            self_contained: false,
            wal: false,
            compression: request.compression,
            jobs: request.jobs,
            wal_timeout: WAL_TIMEOUT,
            host: &request.host,
            clock: request.clock,
            progress: request.progress,
        };
        let done = copy::bring(&asked, &fresh);
        let repository = other.name.clone();
        match done {
            Ok(copied) => InOther {
                repository,
                backups: copied.backups.iter().map(|one| one.backup).collect(),
                copied_bytes: copied.backups.iter().map(|one| one.bytes).sum(),
                failed: None,
            },
            Err(error) => {
                let failed = Some(Failed::of(&error));
                InOther { repository, backups: Vec::new(), copied_bytes: 0, failed }
            }
        }
    };
    request.others.iter().map(one).collect()
}

impl Failed {
    fn of(error: &CopyError) -> Self {
        let mut why = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            why.push_str(&format!(": {error}"));
            cause = error.source();
        }
        let advice = error.advice();
        Self { code: advice.code, why, may_pass: advice.severity == Severity::Unreachable }
    }
}
