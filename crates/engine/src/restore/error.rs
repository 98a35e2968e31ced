//! Why a restore was refused, or failed.

use std::io;
use std::path::PathBuf;

use refloat_pg::control::ControlFileError;
use refloat_pg::server::ServerError;
use refloat_repo::RepoError;
use refloat_types::{Advice, ByteSize, Explain, SystemIdentifier};

use super::read::{ReadError, SinkError};
use crate::guard::GuardError;

/// A restore that did not happen, or did not finish.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A server runs there.
    #[error("{} belongs to a running server{}", path.display(), who.as_deref().map(|w| format!(" ({w})")).unwrap_or_default())]
    Running {
        /// The directory.
        path: PathBuf,
        /// `process 1214, port 5432`, or what else was seen.
        who: Option<String>,
    },
    /// There is something.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// It belongs to another cluster.
    #[error("{} holds cluster {found}, the backup is of cluster {expected}", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The cluster there.
        found: SystemIdentifier,
        /// The cluster of the backup.
        expected: SystemIdentifier,
    },
    /// A restore of another source stopped half-way there.
    #[error("{} holds a half-finished restore of source {other}", path.display())]
    OtherRestore {
        /// The directory.
        path: PathBuf,
        /// That source.
        other: String,
    },
    /// A restore over a cluster stopped half-way there, and this one would begin anew.
    #[error("{} holds a half-finished restore with --delta", path.display())]
    HalfDelta {
        /// The directory.
        path: PathBuf,
    },
    /// Nothing proves that it is the backup's cluster, and it would be written over.
    #[error("it is not certain which cluster {} holds: {why}", path.display())]
    UnknownCluster {
        /// The directory.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The path is not one to restore into.
    #[error("cannot restore into {}: {why}", path.display())]
    BadPlace {
        /// The path.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A file system is too small.
    #[error("the file system of {} has {} free, the restore needs {}", path.display(), ByteSize(*free), ByteSize(*need))]
    NoSpace {
        /// A directory on it.
        path: PathBuf,
        /// Bytes needed.
        need: u64,
        /// Bytes free.
        free: u64,
    },
    /// Tablespaces would be written where they were.
    #[error("the backup has tablespaces outside of its data directory: {}", list(paths))]
    Unmapped {
        /// Where they were.
        paths: Vec<PathBuf>,
    },
    /// A mapping for a tablespace that the backup does not have.
    #[error("the backup has no tablespace at {}", path.display())]
    NoSuchTablespace {
        /// The old place given.
        path: PathBuf,
        /// The old places there are.
        known: Vec<PathBuf>,
    },
    /// A directory outside of the data directory cannot be used.
    #[error("cannot put {what} into {}: {why}", path.display())]
    BadOutside {
        /// `a tablespace`, `WAL`.
        what: &'static str,
        /// The directory.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Replay would use a directory that something else uses.
    #[error("the WAL on the way makes a tablespace in {}, which is not empty", path.display())]
    TablespaceInUse {
        /// The directory.
        path: PathBuf,
    },
    /// Something cannot be renamed, and nothing is ever deleted.
    #[error("cannot set {} aside: {why}", path.display())]
    CannotSetAside {
        /// What.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The target lies before the backup's end.
    #[error("the target {target} lies before {end}, where this backup becomes consistent")]
    TargetTooEarly {
        /// The target.
        target: String,
        /// The backup's end.
        end: String,
    },
    /// Something that every backup has is not in this one.
    #[error("the backup has no {what}")]
    Incomplete {
        /// What.
        what: &'static str,
    },
    /// The control file of the backup makes no sense.
    #[error("could not understand the control file of the backup")]
    Control(#[source] ControlFileError),
    /// The server's state cannot be told.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// What is restored could not be kept from being deleted.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Data could not be read, or not be written.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file or directory could not be handled.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// WAL that the backup needs could not be fetched.
    #[error("could not fetch WAL file {name}")]
    Wal {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl From<SinkError> for RestoreError {
    fn from(error: SinkError) -> Self {
        Self::Io { action: error.action, path: error.path, source: error.source }
    }
}

/// Turns an I/O error into one that names what was attempted.
pub(super) fn io_error(
    action: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> RestoreError {
    let path = path.into();
    move |source| RestoreError::Io { action, path, source }
}

const UNTOUCHED: &str = "nothing was read or written";
const DAMAGED: &str = "the directory cannot be started as it is; nothing in the repository was changed, and what other backups need is \
                       whole as far as is known";
const UNFINISHED: &str = "the directory cannot be started as it is; the backup is unharmed";

impl Explain for RestoreError {
    fn advice(&self) -> Advice {
        match self {
            Self::NotEmpty { path } => Advice::failed("RST-001", UNTOUCHED)
                .hint("Choose a directory that is empty or does not exist yet.")
                .hint(format!(
                    "If {} is the source's own data directory: restore with --in-place; what is there is renamed beside it.",
                    path.display()
                ))
                .hint("If it holds a stopped cluster of this source: with --delta it is restored over, and what is the same in it is reused."),
            Self::Foreign { .. } => Advice::failed("RST-002", UNTOUCHED)
                .hint("Check source and directory. A cluster is never replaced by another one: choose an empty directory."),
            Self::Running { .. } => Advice::failed("RST-003", "nothing was touched; the server goes on")
                .hint("To look at another moment beside it, restore with --to into an empty directory, --as copy.")
                .hint("To put the whole cluster back, stop the server, then restore with --in-place."),
            Self::NoSpace { .. } => Advice::failed("RST-004", UNTOUCHED)
                .hint("Free space there, or restore to a larger file system with --to."),
            Self::Unmapped { paths } => {
                let maps = paths.iter().map(|path| format!("--tablespace-map {0}=/new/place{0}", path.display()));
                Advice::usage("RST-005", "nothing was written; the source's tablespaces were not touched")
                    .hint(format!("Name new places: {}", maps.collect::<Vec<_>>().join(" ")))
                    .hint("Or put them into the data directory: --tablespaces-inside")
            }
            Self::BadOutside { .. } => Advice::failed("RST-006", UNTOUCHED)
                .hint("Choose a directory that is empty or does not exist yet, or move what is there elsewhere."),
            Self::TablespaceInUse { .. } => Advice::failed("RST-023", UNTOUCHED)
                .hint("PostgreSQL would write there while it recovers, into the files of whoever uses it. No mapping changes that.")
                .hint("For a moment after a new backup: refloat backup, then restore from that one.")
                .hint("For an earlier moment: choose one before that tablespace was made, or restore on a host where the directory is free."),
            Self::CannotSetAside { path, .. } => Advice::failed("RST-007", UNTOUCHED)
                .hint(format!("Move the contents of {} elsewhere by hand, then run the same restore again.", path.display()))
                .hint("Or restore with --to into a directory beside it."),
            Self::BadPlace { .. } => {
                Advice::usage("RST-008", UNTOUCHED).hint("Choose a directory that is empty or does not exist yet.")
            }
            Self::NoSuchTablespace { known, .. } => {
                let advice = Advice::usage("RST-009", UNTOUCHED);
                if known.is_empty() {
                    advice.hint("The backup has no tablespaces outside of its data directory: leave the mapping out.")
                } else {
                    advice.hint(format!("Its tablespaces are at {}.", list(known)))
                }
            }
            Self::Read(ReadError::Damaged { .. }) => Advice::failed("RST-010", DAMAGED)
                .hint("Run `refloat verify --read-data` to see what else is damaged.")
                .hint("Restore from another repository, or another backup with its WAL."),
            Self::Incomplete { .. } | Self::Control(_) => {
                Advice::failed("RST-012", UNTOUCHED).hint("Restore another backup; report this one.")
            }
            Self::OtherRestore { .. } => Advice::failed("RST-013", UNTOUCHED)
                .hint("Finish that restore, or remove the directory, or choose another one."),
            Self::HalfDelta { path } => {
                Advice::failed("RST-024", "nothing was touched; the directory cannot be started as it is")
                    .hint("Run the restore again with --delta: it goes on, and reuses what is there.")
                    .hint(format!("Or move {} elsewhere, and restore without --delta.", path.display()))
            }
            Self::UnknownCluster { .. } => Advice::failed("RST-025", UNTOUCHED)
                .hint("With --delta what is there is written over, so it must be certain that it is this cluster.")
                .hint("Restore with --in-place and without --delta: what is there is renamed beside it. Or choose an empty directory."),
            Self::TargetTooEarly { .. } => {
                Advice::usage("RST-018", UNTOUCHED).hint("Choose an older backup, or a later target.")
            }
            Self::Wal { .. } => Advice::failed("RST-019", UNFINISHED)
                .hint("Run the same restore again once the WAL can be fetched."),
            Self::Io { .. } | Self::Read(ReadError::Sink(_) | ReadError::Thread(_)) => {
                let advice = Advice::failed("RST-020", UNFINISHED);
                let advice = if self.is_full() {
                    advice.hint("Free space on that file system.")
                } else {
                    advice.hint("See the cause above.")
                };
                advice.hint("Running the same restore again begins anew and finishes it.")
            }
            Self::Server(error) => error.advice(),
            Self::Repository(error) | Self::Read(ReadError::Repository(error)) => error.advice(),
            Self::Guard(error) => error.advice(),
        }
    }
}

impl RestoreError {
    /// Whether data of the backup are damaged, in every repository that was read.
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Read(ReadError::Damaged { .. }))
    }
    fn is_full(&self) -> bool {
        let source = match self {
            Self::Io { source, .. } => source,
            Self::Read(ReadError::Sink(error)) => &error.source,
            _ => return false,
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}
