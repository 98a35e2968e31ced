//! Why a WAL file was not acknowledged.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use refloat_pg::control::ReadControlError;
use refloat_pg::history::HistoryFault;
use refloat_pg::wal::{BackupHistoryFault, SegmentFault};
use refloat_repo::{RepoError, Repository};
use refloat_types::wal_name::BadWalName;
use refloat_types::{Advice, Explain, TimelineId, Timestamp, WalFileName};

use crate::wal::keep::{Refusal, Task, Writer};

/// A WAL file that not all repositories hold. PostgreSQL keeps it and offers it again.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// No WAL file has such a name.
    #[error("cannot archive this file")]
    Name {
        /// Why.
        #[source]
        source: BadWalName,
    },
    /// Nowhere to store it.
    #[error("there is no repository to archive to")]
    NoRepository,
    /// Neither a data directory nor a system identifier.
    #[error("it is not known which cluster this WAL is of")]
    WhoseWal,
    /// The file could not be read.
    #[error("could not read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The control file could not be read.
    #[error("could not find out which cluster this WAL is of")]
    Control(#[source] ReadControlError),
    /// It is no whole WAL segment of this cluster.
    #[error("{name} is refused")]
    Segment {
        /// Which.
        name: WalFileName,
        /// Why.
        #[source]
        source: SegmentFault,
    },
    /// It is no history file.
    #[error("{name} is refused")]
    History {
        /// Which.
        name: WalFileName,
        /// Why.
        #[source]
        source: HistoryFault,
    },
    /// It is no backup history file.
    #[error("{name} is refused")]
    BackupHistory {
        /// Which.
        name: WalFileName,
        /// Why.
        #[source]
        source: BackupHistoryFault,
    },
    /// It could not be compressed.
    #[error("could not prepare the file for storing")]
    Prepare(#[from] RepoError),
    /// The directory was restored and nobody has said yet that it is the source from now on.
    #[error("archiving is locked: restored from {source_name} at {}, not yet taken over", minute(at))]
    Locked {
        /// The source it was restored from.
        source_name: String,
        /// When.
        at: Timestamp,
    },
    /// There is a lock and it cannot be read.
    #[error("could not read refloat.locked in {}", directory.display())]
    LockUnreadable {
        /// The data directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another file of this name, with other bytes, is stored. Both are kept.
    #[error("{name} conflicts in {repository}: {}", tell(writers))]
    Conflict {
        /// Which file.
        name: WalFileName,
        /// In which repository.
        repository: String,
        /// Who wrote which.
        writers: Vec<Writer>,
    },
    /// The timeline was begun by another server too.
    #[error(
        "{name} is refused by {repository}: timeline {timeline} has another history there: {}",
        tell(writers)
    )]
    OtherHistory {
        /// Which file.
        name: WalFileName,
        /// In which repository.
        repository: String,
        /// The timeline.
        timeline: TimelineId,
        /// Who wrote which history.
        writers: Vec<Writer>,
    },
    /// Time was up.
    #[error("could not archive {name} to {repository} in time")]
    Late {
        /// Which file.
        name: WalFileName,
        /// To which repository.
        repository: String,
    },
    /// A repository failed.
    #[error("could not archive {name} to {repository}")]
    Repository {
        /// Which file.
        name: WalFileName,
        /// Which repository.
        repository: String,
        /// Why.
        #[source]
        source: RepoError,
    },
    /// More than one repository failed.
    #[error("{} of {of} repositories failed: {}", errors.len(), join(errors))]
    Several {
        /// How many there are.
        of: usize,
        /// Each one's error.
        errors: Vec<PushError>,
    },
}

fn minute(at: &Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// Who wrote which, as short as a log line wants it.
fn tell(writers: &[Writer]) -> String {
    let mut text = String::new();
    for (index, writer) in writers.iter().enumerate() {
        let join = if index == 0 { "" } else { ", " };
        let agent = writer.agent.map_or_else(|| "unknown".to_owned(), |id| id.to_string()[..8].to_owned());
        let whose = if writer.ours { "this" } else { "another" };
        let _ = write!(text, "{join}{whose} of agent {agent}");
        if let Some(stored) = writer.stored {
            let _ = write!(text, " at {}", stored.strftime("%Y-%m-%d %H:%M:%SZ"));
        }
    }
    text
}

fn join(errors: &[PushError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl PushError {
    pub(super) fn refused(repository: &Repository, task: &Task<'_>, refusal: Refusal) -> Self {
        let (name, repository) = (task.file.name, repository.store().describe().to_owned());
        match refusal {
            Refusal::Conflict(writers) => Self::Conflict { name, repository, writers },
            Refusal::OtherHistory { timeline, writers } => {
                Self::OtherHistory { name, repository, timeline, writers }
            }
            Refusal::Late => Self::Late { name, repository },
            Refusal::Repo(source) => Self::Repository { name, repository, source },
        }
    }
}

impl Explain for PushError {
    fn advice(&self) -> Advice {
        let safe = "nothing was stored; PostgreSQL keeps the file in pg_wal and offers it again";
        match self {
            Self::Name { .. } => Advice::usage("WAL-001", safe)
                .hint("`wal push` takes the files that PostgreSQL names in archive_command: refloat wal push %p"),
            Self::Read { .. } => Advice::failed("WAL-002", safe)
                .hint("Run as the owner of the data directory, in the data directory or with an absolute path."),
            Self::Conflict { .. } => Advice::failed(
                "WAL-003",
                "both files are stored; PostgreSQL keeps this one; other WAL and other repositories go on",
            )
            .hint("Two servers archive as the same cluster and timeline: stop the one that should not.")
            .hint("To see who wrote which: refloat wal status"),
            Self::OtherHistory { .. } => Advice::failed("WAL-004", safe)
                .hint("Two servers were promoted to the same timeline: stop archiving on the one that should not.")
                .hint("The one that is to go on can be promoted again, to a timeline that nobody has."),
            Self::WhoseWal => Advice::usage("WAL-005", safe)
                .hint("Start it in the data directory, or name the source: refloat wal push --source NAME %p"),
            Self::NoRepository => Advice::usage("WAL-006", safe)
                .hint("Name a repository in the configuration of this source."),
            Self::Late { .. } => Advice::unreachable("WAL-007", safe)
                .hint("Nothing has to be undone: PostgreSQL tries again by itself."),
            Self::Locked { source_name, .. } => {
                Advice::locked("WAL-021", "nothing was stored; WAL stays in pg_wal")
                    .hint(format!("If this server is {source_name} from now on: refloat takeover {source_name}"))
            }
            Self::LockUnreadable { .. } => {
                Advice::locked("WAL-022", "nothing was stored; WAL stays in pg_wal").hint(
                    "A directory whose lock cannot be read counts as locked; give the file back to its owner.",
                )
            }
            Self::Control(source) => Advice { safe: safe.into(), ..source.advice() },
            Self::Prepare(source) => Advice { safe: safe.into(), ..source.advice() },
            Self::Segment { source, .. } => source.advice(),
            Self::History { source, .. } => source.advice(),
            Self::BackupHistory { source, .. } => source.advice(),
            Self::Repository { source, .. } => Advice {
                safe: "PostgreSQL keeps the file in pg_wal and offers it again".into(),
                ..source.advice()
            },
            Self::Several { errors, .. } => {
                let first = errors.first().map_or_else(|| Advice::failed("WAL-008", safe), Self::advice);
                Advice { code: "WAL-008", safe: "PostgreSQL keeps the file in pg_wal and offers it again".into(), ..first }
            }
        }
    }
}
