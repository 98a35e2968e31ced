//! Why an object could not be put right.

use refloat_repo::RepoError;
use refloat_types::{Advice, Explain};

/// Why an object could not be put right.
#[derive(Debug, thiserror::Error)]
pub enum HealError {
    /// Nothing that is right was found.
    #[error(
        "nothing can take the place of \"{object}\": this host has kept no copy, and no other repository has one that can be believed here"
    )]
    NoCopy {
        /// The object.
        object: String,
        /// What is wrong with it.
        #[source]
        source: RepoError,
    },
    /// It is no object of a repository.
    #[error("\"{object}\" is no object that Refloat has put there")]
    NotOurs {
        /// The object.
        object: String,
    },
    /// Nobody can say whether it is right.
    #[error("could not look at \"{object}\"")]
    Unread {
        /// The object.
        object: String,
        /// Why.
        #[source]
        source: RepoError,
    },
    /// The store did not let it be replaced.
    #[error("could not replace \"{object}\" by a right copy")]
    Refused {
        /// The object.
        object: String,
        /// Why.
        #[source]
        source: RepoError,
    },
}

impl Explain for HealError {
    fn advice(&self) -> Advice {
        match self {
            Self::NoCopy { .. } => Advice::failed("HEA-001", "nothing was changed")
                .hint("`refloat verify` says what depends on it. A new full backup needs nothing of an older one."),
            Self::NotOurs { .. } => Advice::failed("HEA-002", "nothing was changed")
                .hint("Find out who put it there, then delete it with the store's own tools."),
            Self::Unread { source, .. } => {
                let inner = source.advice();
                Advice { code: "HEA-003", safe: "nothing was changed".into(), ..inner }
            }
            Self::Refused { .. } => Advice::failed(
                "HEA-004",
                "the right copy is untouched; here the damaged object is as it was, or missing",
            )
            .hint("A store that refuses deletion keeps the damaged object until its lock ends; then: refloat verify --heal"),
        }
    }
}
