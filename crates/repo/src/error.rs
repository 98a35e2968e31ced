//! What can go wrong with a repository.

use refloat_store::StoreError;
use refloat_types::{Advice, Explain, ObjectId, Timestamp};

/// Codes of errors that say that an object is damaged, missing, or not of this repository: another copy of it may be right.
pub const DAMAGE: &[&str] = &["REP-001", "REP-002", "REP-004"];

/// A repository that could not be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum RepoError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object is not what was written.
    #[error("\"{object}\" is damaged: {what}")]
    Damaged {
        /// Its key.
        object: String,
        /// How that shows.
        what: String,
    },
    /// An object that must be there is not.
    #[error("\"{object}\" is missing from the repository")]
    Missing {
        /// Its key.
        object: String,
    },
    /// A later release wrote this.
    #[error("\"{object}\" has format {found}; this release reads formats up to {newest}")]
    NewerFormat {
        /// Its key.
        object: String,
        /// Format number found.
        found: u16,
        /// Newest format number known here.
        newest: u16,
    },
    /// Not signed by anybody enrolled here.
    #[error("\"{object}\" does not come from an agent of this repository: {why}")]
    UnknownOrigin {
        /// Its key.
        object: String,
        /// What does not hold.
        why: String,
    },
    /// The repository is another one than the one this host trusts.
    #[error("the repository at {store} has the fingerprint {found}, expected {expected}")]
    WrongFingerprint {
        /// The store.
        store: String,
        /// What it shows.
        found: String,
        /// What the state directory, the configuration or the sheet says.
        expected: String,
    },
    /// There is no repository.
    #[error("there is no repository at {store}")]
    NotARepository {
        /// The store.
        store: String,
    },
    /// Something else is there.
    #[error("{store} is not empty and holds no repository")]
    NotEmpty {
        /// The store.
        store: String,
    },
    /// This host was never enrolled.
    #[error("this host is not enrolled in the repository at {store}")]
    NotEnrolled {
        /// The store.
        store: String,
    },
    /// The passphrase does not open the identity.
    #[error("the passphrase does not open the identity of the repository at {store}{}", since(changed.as_ref()))]
    WrongPassphrase {
        /// The store.
        store: String,
        /// When the passphrase was changed, if it ever was.
        changed: Option<Timestamp>,
    },
    /// This host cannot open the root key.
    #[error("this host cannot open the root key of the repository at {store}")]
    NoRoot {
        /// The store.
        store: String,
    },
    /// An invitation that is of no use any more.
    #[error("this invitation to the repository at {store} is over: {why}")]
    InvitationOver {
        /// The store.
        store: String,
        /// Expired or used.
        why: &'static str,
    },
    /// Another host rotated at the same time.
    #[error("another host has changed who can read at the same time: \"{object}\" is there")]
    AlreadyRotated {
        /// The generation that it made.
        object: String,
    },
    /// A data key cannot be opened here.
    #[error("could not open data key {key}")]
    NoKey {
        /// Its id.
        key: ObjectId,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// The repository's encryption is not what the configuration says.
    #[error("the repository at {store} is {found}, the configuration says {configured}")]
    EncryptionDiffers {
        /// The store.
        store: String,
        /// "encrypted" or "not encrypted".
        found: &'static str,
        /// The same of the configuration.
        configured: &'static str,
    },
    /// The state directory failed.
    #[error("could not {action} {path}")]
    State {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Compression, ciphers or a random source failed.
    #[error("could not {action}")]
    Internal {
        /// What was attempted.
        action: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Why a key cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Sealed for others.
    #[error("its envelope is sealed for other identities than {have}")]
    OtherRecipients {
        /// Recipients this host holds identities for.
        have: String,
    },
    /// Sealed for a later generation than this host has opened.
    #[error(
        "it is sealed to generation {number} of the recipients, of {created}; this host has opened generation {have}"
    )]
    Rotated {
        /// The generation this host has opened.
        have: u64,
        /// The current one.
        number: u64,
        /// When that was made.
        created: Timestamp,
    },
    /// No identity here.
    #[error("this host can write, not read: no identity is opened here")]
    NoIdentity,
    /// The commitment does not hold.
    #[error("the key in its envelope is not the key it commits to")]
    Commitment,
    /// The envelope cannot be read.
    #[error("its envelope is damaged")]
    Damaged,
}

/// When the passphrase was changed, as the end of a sentence.
fn since(changed: Option<&Timestamp>) -> String {
    changed.map_or_else(String::new, |at| format!("; it was changed at {at}"))
}

impl RepoError {
    /// An object that is not what was written.
    pub fn damaged(object: impl ToString, what: impl ToString) -> Self {
        Self::Damaged { object: object.to_string(), what: what.to_string() }
    }
    /// An internal failure.
    pub fn internal(
        action: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Internal { action, source: std::io::Error::other(source) }
    }
    /// Whether the object simply is not there.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Missing { .. } => true,
            Self::Store(error) => error.kind == refloat_store::StoreErrorKind::NotFound,
            _ => false,
        }
    }
}

impl Explain for RepoError {
    fn advice(&self) -> Advice {
        let unchanged = "nothing in the repository was changed";
        match self {
            Self::Store(error) => error.advice(),
            Self::Damaged { .. } => Advice::failed("REP-001", unchanged)
                .hint("Run `refloat verify --read-data` to see what depends on it; other backups may be whole."),
            Self::Missing { .. } => Advice::failed("REP-002", unchanged)
                .hint("Run `refloat verify` to see what depends on it; other backups may be whole."),
            Self::NewerFormat { .. } => {
                Advice::failed("REP-003", unchanged).hint("Install the release of Refloat that wrote it, or a later one.")
            }
            Self::UnknownOrigin { .. } => Advice::failed("REP-004", "it was not used").hint(
                "Somebody else may have written to the store: look at who can. `refloat verify` names all such objects.",
            ),
            Self::WrongFingerprint { .. } => Advice::failed("REP-005", unchanged)
                .hint("Is the url right? Compare the fingerprint with the recovery sheet before trusting this repository."),
            Self::NotARepository { .. } => Advice::failed("REP-006", "nothing was written")
                .hint("Check the url. To make a repository there: refloat init"),
            Self::NotEmpty { .. } => Advice::failed("REP-007", "nothing was written")
                .hint("Choose an empty directory, or one that does not exist yet."),
            Self::NotEnrolled { .. } => {
                Advice::failed("REP-008", unchanged)
                    .hint("Enrol this host, which is safe to repeat: refloat init")
                    .hint("Where this host cannot open the root key, by a token of the host that made the repository: refloat key invite")
            }
            Self::WrongPassphrase { .. } => Advice::failed("KEY-001", unchanged)
                .hint("Compare with the recovery sheet; the passphrase is the one of this repository, printed by `refloat init`."),
            Self::NoKey { source: KeyError::Rotated { .. }, .. } => Advice::failed("KEY-004", unchanged)
                .hint("This host writes on. To read, put the new passphrase or identity into the configuration, then: refloat init"),
            Self::NoKey { source: KeyError::NoIdentity, .. } => Advice::failed("KEY-002", unchanged).hint(
                "This host can write and cannot read. Do it on a host that holds the passphrase or an identity; or put that into the configuration here, then: refloat init",
            ),
            Self::NoRoot { .. } => Advice::failed("KEY-005", unchanged)
                .hint("Run it on a host that has opened the repository with its passphrase or identity; of one without encryption, on the host that made it."),
            Self::InvitationOver { .. } => Advice::failed("KEY-007", unchanged)
                .hint("Ask for another one, on a host that can open the root key: refloat key invite"),
            Self::AlreadyRotated { .. } => Advice::failed("KEY-006", unchanged)
                .hint("See what the other host did: refloat key list"),
            Self::NoKey { .. } => Advice::failed("KEY-002", unchanged)
                .hint("Give the identity or passphrase that this backup was sealed for (see the recovery sheet)."),
            Self::EncryptionDiffers { .. } => Advice::usage("KEY-003", unchanged)
                .hint("Correct `encryption` of this repository in the configuration."),
            Self::State { .. } => Advice::failed("STA-001", unchanged)
                .hint("The state directory must be writable by the user that Refloat runs as; it can be made anew with `refloat init`."),
            Self::Internal { .. } => Advice::failed("REP-009", unchanged).hint("See the cause above."),
        }
    }
}
