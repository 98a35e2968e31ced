//! What can go wrong with a store, sorted by what the caller can do.

mod mistake;

use std::io;

use refloat_types::{Advice, Explain};

/// What the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// There is no such object. The store answered; it knows.
    NotFound,
    /// An object of that name exists; it was not touched.
    AlreadyExists,
    /// The object ends before the bytes that were asked for.
    Truncated,
    /// No space, or a quota is reached.
    NoSpace,
    /// The store, or this part of it, cannot be written.
    ReadOnly,
    /// These credentials or this user may not.
    Denied,
    /// The credentials could not be had from where the settings say that they are: the store was not asked.
    NoKeys,
    /// No answer in time, or no connection: the call may or may not have taken effect; it can be made again.
    Unreachable,
    /// The store answered that the object is stored, and it is absent, short or different.
    Unconfirmed,
    /// This process ran out of something (descriptors, memory, processes).
    Exhausted,
    /// It is in a cold class and has to be thawed before it can be read.
    Cold,
    /// Anything else.
    Other,
}

/// A call to a store that did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[error("could not {action} \"{object}\" in {store}")]
pub struct StoreError {
    /// What the caller can do.
    pub kind: StoreErrorKind,
    /// What was attempted: "create", "read", "list", "delete".
    pub action: &'static str,
    /// The key or prefix; "" for the store itself.
    pub object: String,
    /// The store, as [`crate::Store::describe`] names it. Never holds a secret.
    pub store: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl StoreError {
    /// Sorts an operating-system error.
    pub fn from_io(action: &'static str, object: &str, store: &str, source: io::Error) -> Self {
        use io::ErrorKind as K;
        let kind = match source.kind() {
            K::NotFound => StoreErrorKind::NotFound,
            K::AlreadyExists => StoreErrorKind::AlreadyExists,
            K::UnexpectedEof => StoreErrorKind::Truncated,
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge => StoreErrorKind::NoSpace,
            K::ReadOnlyFilesystem => StoreErrorKind::ReadOnly,
            K::PermissionDenied => StoreErrorKind::Denied,
            K::TimedOut
            | K::ConnectionRefused
            | K::ConnectionReset
            | K::ConnectionAborted
            | K::NotConnected
            | K::BrokenPipe
            | K::HostUnreachable
            | K::NetworkUnreachable
            | K::StaleNetworkFileHandle => StoreErrorKind::Unreachable,
            K::OutOfMemory | K::WouldBlock => StoreErrorKind::Exhausted,
            // ENFILE and EMFILE have no kind of their own.
            _ if matches!(source.raw_os_error(), Some(23 | 24)) => StoreErrorKind::Exhausted,
            _ => StoreErrorKind::Other,
        };
        Self::new(kind, action, object, store, source)
    }
    /// An error whose kind is known.
    pub fn new(
        kind: StoreErrorKind,
        action: &'static str,
        object: &str,
        store: &str,
        source: impl Into<io::Error>,
    ) -> Self {
        let source = source.into();
        Self { kind, action, object: object.to_owned(), store: store.to_owned(), source }
    }
    /// Whether these credentials, or a lock, do not allow it.
    pub const fn is_denied(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Denied)
    }
    /// How long the store asked to be left alone, where it did.
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        self.source.get_ref()?.downcast_ref::<crate::object::failure::Told>()?.retry_after
    }
    /// Whether the store said it: one that asks to be left alone for a while is there.
    pub fn is_answer(&self) -> bool {
        let told = || self.source.get_ref()?.downcast_ref::<crate::object::failure::Told>();
        !self.is_retryable() || told().is_some_and(crate::object::failure::Told::is_answer)
    }
    /// Whether the same call may succeed when it is made again.
    pub const fn is_retryable(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Unreachable)
    }
}

impl Explain for StoreError {
    fn advice(&self) -> Advice {
        let advice = self.advice_of_kind();
        let may_be_wrong = matches!(
            self.kind,
            StoreErrorKind::Unreachable
                | StoreErrorKind::NotFound
                | StoreErrorKind::Denied
                | StoreErrorKind::Other
        );
        match mistake::correction(&self.source.to_string()).filter(|_| may_be_wrong) {
            Some(correct) => Advice { hints: vec![correct.to_owned()], ..advice },
            None => advice,
        }
    }
}

impl StoreError {
    fn advice_of_kind(&self) -> Advice {
        let safe = "nothing that was stored before is changed";
        match self.kind {
            StoreErrorKind::NoKeys => Advice::usage("STO-024", safe)
                .hint("Correct `credentials` of this repository: the cause says what is wrong. `refloat config check` tells which files cannot be read, and the line that mends it; a `command` is to be run by hand."),
            StoreErrorKind::NotFound => Advice::failed("STO-001", safe)
                .hint("Check the repository's url; `refloat init` makes a repository where there is none."),
            StoreErrorKind::AlreadyExists => Advice::failed("STO-002", "the existing object was not touched"),
            StoreErrorKind::Truncated => {
                Advice::failed("STO-003", safe).hint("Run `refloat verify` to see what depends on this object.")
            }
            StoreErrorKind::NoSpace => Advice::failed("STO-004", "earlier backups are whole; nothing half-written is visible")
                .hint("Make space in the repository and run the same command again; no restart is needed."),
            StoreErrorKind::ReadOnly => {
                Advice::failed("STO-005", safe).hint("Mount the repository's file system writable, then try again.")
            }
            StoreErrorKind::Denied if !self.store.starts_with("file:") && self.store.contains("://") => Advice::failed("STO-006", safe)
                .hint("Check `credentials` of this repository, and what they may do at the store: get, put, list, and delete where backups expire."),
            StoreErrorKind::Denied => Advice::failed("STO-006", safe)
                .hint("The repository must belong to the user that Refloat runs as, the owner of the data directory."),
            StoreErrorKind::Unreachable => {
                Advice::unreachable("STO-007", safe).hint("Try again when the store answers; nothing has to be undone.")
            }
            StoreErrorKind::Exhausted => Advice::failed("STO-008", safe)
                .hint("Raise the limit that was reached (open files, memory or processes) and try again."),
            StoreErrorKind::Unconfirmed => Advice::failed("STO-010", "nothing was acknowledged; the data is still where it came from")
                .hint("The store answered that it has stored what it has not; check the store itself, then try again."),
            StoreErrorKind::Cold => Advice::failed("STO-011", safe)
                .hint("It has to be thawed first: `restore` and `verify` run thaw_command of the repository for what they need, and wait."),
            StoreErrorKind::Other => Advice::failed("STO-009", safe).hint("See the cause above; `refloat check` repeats the test."),
        }
    }
}
