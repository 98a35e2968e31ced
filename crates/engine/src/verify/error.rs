//! Why a verification could not be done. What it found wrong is no error: that is its answer.

use refloat_repo::RepoError;
use refloat_types::{Advice, BackupId, Explain};

use crate::guard::GuardError;

/// A verification that says nothing about the repository.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store does not answer, or this host ran out of something.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// What is looked at could not be kept from being deleted.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// There is no such source.
    #[error("the repository at {store} has no source \"{source_name}\"")]
    NoSuchSource {
        /// The store.
        store: String,
        /// As asked for.
        source_name: String,
        /// Sources whose description cannot be read.
        unreadable: usize,
    },
    /// There is no such backup.
    #[error("source \"{source_name}\" has no backup {backup} in the repository at {store}")]
    NoSuchBackup {
        /// The store.
        store: String,
        /// The source.
        source_name: String,
        /// As asked for.
        backup: BackupId,
    },
    /// A thread could not be started.
    #[error("could not start a thread")]
    Thread(#[source] std::io::Error),
}

impl Explain for VerifyError {
    fn advice(&self) -> Advice {
        let safe = "nothing was changed; nothing is known either: verify did not finish";
        match self {
            Self::Repository(error) => error.advice(),
            Self::Guard(error) => error.advice(),
            Self::NoSuchSource { unreadable, .. } => {
                let advice = Advice::failed("VER-001", safe).hint("List what there is: refloat list");
                match unreadable {
                    0 => advice,
                    n => advice.hint(format!(
                        "{n} sources have a description that cannot be read here; `refloat verify` without a source names them."
                    )),
                }
            }
            Self::NoSuchBackup { source_name, .. } => Advice::failed("VER-002", safe)
                .hint(format!("List what there is: refloat list {source_name}")),
            Self::Thread(_) => Advice::failed("VER-003", safe)
                .hint("Raise the limit of processes or memory, or ask for fewer threads: --jobs 1"),
        }
    }
}
