//! Why nothing was deleted, or no more.

use refloat_repo::RepoError;
use refloat_types::{Advice, Explain};

use crate::guard::GuardError;

/// An expiry that could not be done, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExpireError {
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// Its own pin could not be written.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Something that must be known cannot be read.
    #[error("could not read {what}, so nobody knows what is needed")]
    Unsure {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: RepoError,
    },
    /// The clocks disagree.
    #[error("clocks disagree: {what}")]
    Clocks {
        /// Which, and by how much.
        what: String,
    },
    /// What was read was old before it could be used.
    #[error(
        "reading commits, pins, holds and tombstones took {seconds} s, longer than they can be relied on"
    )]
    TooSlow {
        /// How long.
        seconds: u64,
    },
}

impl Explain for ExpireError {
    fn advice(&self) -> Advice {
        let safe = "nothing that is needed was deleted; what was marked stays marked";
        let with_safe = |advice: Advice| Advice { safe: safe.into(), ..advice };
        match self {
            Self::Repository(error) => with_safe(error.advice()),
            Self::Guard(error) => with_safe(error.advice()),
            Self::Unsure { .. } => Advice::failed("EXP-003", "nothing more was deleted").hint(
                "Find out what is wrong with it: refloat verify. Expiry goes on when every commit, pin, hold and tombstone can be read.",
            ),
            Self::Clocks { .. } => Advice::failed("EXP-004", "nothing was deleted")
                .hint("Set the clocks of this host, of the server and of the store right.")
                .hint("Are they right? Make a backup first, then expire: what was just stored tells the time."),
            Self::TooSlow { .. } => Advice::failed("EXP-005", "nothing more was deleted")
                .hint("Run it again when the repository answers faster; it goes on where it stopped."),
        }
    }
}
