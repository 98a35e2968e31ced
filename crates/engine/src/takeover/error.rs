//! Why a takeover was refused, or did not finish.

use std::io;
use std::path::PathBuf;

use refloat_pg::control::ReadControlError;
use refloat_pg::server::ServerError;
use refloat_pg::sql::SqlError;
use refloat_repo::RepoError;
use refloat_types::{Advice, Explain, Lsn, Severity, SystemIdentifier};

/// A takeover that did not happen, or did not finish.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// It was restored as a throw-away.
    #[error("{} was restored as a copy of {source_name}, which never archives", path.display())]
    IsCopy {
        /// The directory.
        path: PathBuf,
        /// The source it was made of.
        source_name: String,
    },
    /// It is another cluster.
    #[error("{} is cluster {found}, the source is cluster {expected}", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The cluster there.
        found: SystemIdentifier,
        /// The source's cluster.
        expected: SystemIdentifier,
    },
    /// A repository does not know the source.
    #[error("the repository at {repository} does not know this source")]
    NoSuchSource {
        /// Where.
        repository: String,
    },
    /// It cannot be told whether the server runs.
    #[error("cannot tell whether a server runs in {}: {why}", path.display())]
    Doubtful {
        /// The directory.
        path: PathBuf,
        /// What was seen.
        why: String,
    },
    /// The server is stopped before the end of its recovery.
    #[error("the server of {} is stopped, and its recovery has not ended", path.display())]
    NotRecovered {
        /// The directory.
        path: PathBuf,
    },
    /// Replay goes on.
    #[error("the server still replays WAL, at {at}")]
    Replaying {
        /// How far it is.
        at: Lsn,
    },
    /// The server was told to end its recovery, and has not.
    #[error("recovery did not end within {seconds} s")]
    Slow {
        /// How long that was.
        seconds: u64,
    },
    /// Not every repository knows the new owner.
    #[error("could not record the new owner in {repository}")]
    NotRecorded {
        /// The first that does not.
        repository: String,
        /// Those that do.
        recorded: Vec<String>,
        /// Why not.
        #[source]
        source: RepoError,
    },
    /// A repository that should know the new owner cannot be asked: nothing was begun.
    #[error("could not record the new owner in {repository}")]
    Away {
        /// Which.
        repository: String,
        /// What its own error allows.
        severity: Severity,
    },
    /// A file or the server process could not be handled.
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
    /// The control file cannot be read.
    #[error(transparent)]
    Control(#[from] ReadControlError),
    /// The server's state cannot be told.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The server failed.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// A repository failed.
    #[error(transparent)]
    Repository(#[from] RepoError),
}

impl Explain for TakeoverError {
    fn advice(&self) -> Advice {
        const SAFE: &str = "nothing was changed; archiving stays locked and WAL stays in pg_wal";
        match self {
            Self::IsCopy { .. } => Advice::failed("TKO-001", "nothing was changed")
                .hint("Restore again without --as copy to get a server that can take over."),
            Self::Foreign { .. } => {
                Advice::failed("TKO-002", SAFE).hint("Check source and data directory in the configuration.")
            }
            Self::NotRecovered { .. } => Advice::failed("TKO-003", SAFE)
                .hint("Start the server and let it recover, look at its data, then call takeover again."),
            Self::Replaying { .. } => Advice::locked("TKO-004", SAFE)
                .hint("Wait until it has reached its target (its log says so), then call takeover again.")
                .hint("A standby that shall follow no longer: select pg_promote() there, then call takeover again."),
            Self::Slow { .. } => {
                Advice::unreachable("TKO-005", "archiving stays locked and WAL stays in pg_wal")
                    .hint("Look at the server's log; once it accepts writes call takeover again.")
            }
            Self::Doubtful { .. } => {
                Advice::failed("TKO-006", SAFE).hint("Run it where the server runs, as its user or as root.")
            }
            Self::NoSuchSource { .. } => Advice::failed("TKO-007", SAFE)
                .hint("Check the repositories of the source in the configuration."),
            Self::Io { .. } => Advice::failed("TKO-008", "archiving stays locked and WAL stays in pg_wal")
                .hint("See the cause above, then call takeover again."),
            Self::NotRecorded { recorded, source, .. } => {
                let advice = Advice::failed("TKO-009", "archiving stays locked and WAL stays in pg_wal");
                let advice = Advice { severity: source.advice().severity, ..advice };
                let again = "See the cause above, then call takeover again: it goes on where it stopped.";
                match recorded.as_slice() {
                    [] => advice.hint(again),
                    recorded => advice.hint(format!("Recorded in {}.", recorded.join(", "))).hint(again),
                }
            }
            Self::Away { severity, .. } => Advice { severity: *severity, ..Advice::failed("TKO-009", SAFE) },
            Self::Control(error) => error.advice(),
            Self::Server(error) => error.advice(),
            Self::Sql(error) => error.advice(),
            Self::Repository(error) => error.advice(),
        }
    }
}
