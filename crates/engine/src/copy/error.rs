//! Why something was not copied. In every case the repository it comes from is untouched, and in the other one nothing half is
//! visible.

use refloat_repo::RepoError;
use refloat_types::{Advice, BackupId, Explain, Severity, SystemIdentifier};

use crate::guard::GuardError;
use crate::wal::PushError;

/// A copy that failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A repository failed.
    #[error("repository \"{repository}\"")]
    Repository {
        /// Which.
        repository: String,
        /// Why.
        #[source]
        source: RepoError,
    },
    /// What is used could not be kept from being deleted.
    #[error("repository \"{repository}\"")]
    Guard {
        /// Which.
        repository: String,
        /// Why.
        #[source]
        source: GuardError,
    },
    /// The repository it shall come from does not know the source.
    #[error("repository \"{repository}\" has no source \"{name}\"")]
    NoSource {
        /// The repository.
        repository: String,
        /// The source.
        name: String,
    },
    /// The repository it shall come from does not have the backup.
    #[error("repository \"{repository}\" has no backup {backup} of this source")]
    NoBackup {
        /// The repository.
        repository: String,
        /// The backup.
        backup: BackupId,
    },
    /// It was not found there when it was copied.
    #[error("repository \"{repository}\" does not show backup {backup}")]
    NotThere {
        /// The repository it shall be in.
        repository: String,
        /// The backup.
        backup: BackupId,
    },
    /// A source of that name is there, of a cluster that this one never was.
    #[error(
        "source \"{name}\" is cluster {there} in repository \"{repository}\" and was never cluster {here}"
    )]
    OtherCluster {
        /// The source.
        name: String,
        /// The repository it shall go to.
        repository: String,
        /// Its cluster there.
        there: SystemIdentifier,
        /// The cluster of the backup.
        here: SystemIdentifier,
    },
    /// Its data cannot be opened here, and that would be needed.
    #[error("this host cannot read repository \"{repository}\", and {why}")]
    CannotRead {
        /// The repository.
        repository: String,
        /// Why it would have to.
        why: &'static str,
        /// Why it cannot.
        #[source]
        source: RepoError,
    },
    /// WAL that a backup needs is not in the repository it comes from.
    #[error("repository \"{repository}\" lacks WAL segment {segment}, which backup {backup} needs")]
    WalMissing {
        /// The repository.
        repository: String,
        /// The first that lacks.
        segment: String,
        /// The backup.
        backup: BackupId,
    },
    /// A WAL file could not be stored.
    #[error("could not copy {name}")]
    Wal {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: Box<PushError>,
    },
    /// This host's own files.
    #[error("could not {action} {path}")]
    State {
        /// What was attempted.
        action: &'static str,
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl CopyError {
    /// Whether a repository did not answer: then nothing else can be had of it now.
    pub fn is_unreachable(&self) -> bool {
        self.advice().severity == Severity::Unreachable
    }

    /// The repository that it is about, where it is about one.
    pub fn repository(&self) -> Option<&str> {
        match self {
            Self::Repository { repository, .. }
            | Self::Guard { repository, .. }
            | Self::NoSource { repository, .. }
            | Self::NoBackup { repository, .. }
            | Self::NotThere { repository, .. }
            | Self::OtherCluster { repository, .. }
            | Self::CannotRead { repository, .. }
            | Self::WalMissing { repository, .. } => Some(repository),
            Self::Wal { .. } | Self::State { .. } => None,
        }
    }
}

/// What is safe whatever failed.
const SAFE: &str =
    "the repository it comes from is untouched; what was copied before is whole, and is not copied again";

impl Explain for CopyError {
    fn advice(&self) -> Advice {
        match self {
            Self::Repository { source, .. } => source.advice(),
            Self::Guard { source, .. } => source.advice(),
            Self::NoSource { .. } => {
                Advice::usage("CPY-001", SAFE).hint("`refloat list -r REPOSITORY` shows what it has.")
            }
            Self::NoBackup { .. } => {
                Advice::usage("CPY-002", SAFE).hint("`refloat list -r REPOSITORY` shows what it has.")
            }
            Self::NotThere { .. } => Advice::failed("CPY-007", SAFE)
                .hint("A newer backup may have come there first, or its list lags: `refloat copy --dry-run` tells."),
            Self::OtherCluster { .. } => Advice::failed("CPY-003", SAFE)
                .hint("Two clusters cannot be one source. Give one of them another name, in its configuration."),
            Self::CannotRead { .. } => Advice::failed("CPY-004", SAFE)
                .hint("Copy on a host that holds the repository's passphrase or an identity of its recipients."),
            Self::WalMissing { .. } => Advice::failed("CPY-005", SAFE)
                .hint("A backup without its WAL cannot be restored, so it is not copied: `refloat verify` tells what else lacks."),
            Self::Wal { source, .. } => source.advice(),
            Self::State { .. } => {
                Advice::failed("CPY-006", SAFE).hint("The state directory must be writable and have space for two WAL segments.")
            }
        }
    }
}
