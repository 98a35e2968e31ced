//! Why a job may not go on with what it uses.

use refloat_repo::RepoError;
use refloat_types::{Advice, Explain};

/// What a job wanted to use is being deleted, or is gone.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// A tombstone names it.
    #[error("what the new backup needs is going to be deleted: \"{object}\" is named by {tombstone}")]
    Marked {
        /// What.
        object: String,
        /// By which tombstone.
        tombstone: String,
    },
    /// It was deleted while this process did not run.
    #[error(
        "what the new backup needs was deleted meanwhile: {count} objects, the first of them \"{object}\""
    )]
    Gone {
        /// The first.
        object: String,
        /// How many.
        count: usize,
    },
    /// It must be withdrawn, and this host may not delete.
    #[error("the new backup must not be used and these credentials cannot withdraw it: {why}")]
    NotWithdrawn {
        /// Its commit.
        commit: String,
        /// Why it must not be used.
        why: String,
    },
}

impl Explain for GuardError {
    fn advice(&self) -> Advice {
        let safe = "the new backup was withdrawn; earlier backups are as they were";
        match self {
            Self::Repository(error) => error.advice(),
            Self::Marked { .. } => Advice::failed("EXP-001", safe)
                .hint("Run the backup again: it will not use what is being deleted."),
            Self::Gone { .. } => Advice::failed("EXP-002", safe)
                .hint("The backup was stopped for very long (a suspended machine, SIGSTOP), or somebody deleted it. Run it again."),
            Self::NotWithdrawn { commit, .. } => Advice::failed(
                "EXP-006",
                "earlier backups are as they were; the new one is marked for deletion and nothing builds on it",
            )
            .hint("Run the backup again.")
            .hint(format!("It stays listed until somebody who may delete removes \"{commit}\".")),
        }
    }
}
