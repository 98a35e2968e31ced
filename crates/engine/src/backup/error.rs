//! Why a backup was not made. In every case nothing of it is visible, and PostgreSQL is not left in backup mode.

use std::io;
use std::path::PathBuf;

use refloat_pg::control::ReadControlError;
use refloat_pg::layout::WalkError;
use refloat_pg::sql::SqlError;
use refloat_repo::RepoError;
use refloat_store::StoreErrorKind;
use refloat_types::{Advice, BackupId, ByteSize, Explain, Lsn, SystemIdentifier};

use crate::guard::GuardError;

/// A backup that was not made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The repository failed.
    #[error(transparent)]
    Repository(#[from] RepoError),
    /// The server failed.
    #[error(transparent)]
    Server(#[from] SqlError),
    /// The data directory cannot be walked.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The control file cannot be read.
    #[error(transparent)]
    Control(#[from] ReadControlError),
    /// A file cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another cluster than the one this source was.
    #[error("source \"{name}\" is cluster {known} in repository \"{repository}\", but {} is cluster {found}", directory.display())]
    OtherCluster {
        /// The source.
        name: String,
        /// The repository.
        repository: String,
        /// What the repository knows.
        known: SystemIdentifier,
        /// The data directory.
        directory: PathBuf,
        /// What is there.
        found: SystemIdentifier,
    },
    /// A restored directory that nobody has taken over.
    #[error("{} was restored from \"{source_name}\" at {at} and is not taken over", directory.display())]
    Locked {
        /// The data directory.
        directory: PathBuf,
        /// Where it came from.
        source_name: String,
        /// When.
        at: String,
    },
    /// Another backup of this source runs on this host.
    #[error("another backup of \"{name}\" runs: process {pid}, since {since}")]
    Running {
        /// The source.
        name: String,
        /// The process.
        pid: u32,
        /// When it began.
        since: String,
    },
    /// It would not fit.
    #[error("repository \"{repository}\" has {free} free, the backup needs about {needed}")]
    NoSpace {
        /// The repository.
        repository: String,
        /// Free there.
        free: ByteSize,
        /// Estimated by compressing a sample.
        needed: ByteSize,
    },
    /// The WAL did not arrive.
    #[error("WAL segment {missing} did not arrive in repository \"{repository}\" within {seconds} s")]
    WalMissing {
        /// The first that lacks.
        missing: String,
        /// The repository.
        repository: String,
        /// How long we waited.
        seconds: u64,
    },
    /// The WAL for the backup itself cannot be had from `pg_wal`.
    #[error("could not take WAL segment {segment} from pg_wal into the backup")]
    OwnWal {
        /// Which.
        segment: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A history file that recovery will ask for could not be stored.
    #[error("could not store {name}, which recovery will ask for")]
    History {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: Box<crate::wal::PushError>,
    },
    /// The server is in recovery.
    #[error("the server of {} is in recovery", directory.display())]
    InRecovery {
        /// The data directory.
        directory: PathBuf,
    },
    /// Another host makes a backup of this source.
    #[error("another backup of \"{name}\" runs on {host}, since {since}")]
    RunningElsewhere {
        /// The source.
        name: String,
        /// Which host, where it can be told.
        host: String,
        /// When it began, by that host's clock.
        since: String,
    },
    /// Another node makes this backup; nothing is wrong.
    #[error("nothing to do here: {0}")]
    NotHere(String),
    /// Standbys shall make the backups, and none does.
    #[error("standbys shall make the backups (run_on = \"standby\"), but {}",
        last.as_ref().map_or_else(|| "there is no backup yet".to_owned(), |last| format!("the last one was made at {last}")))]
    NoStandby {
        /// When the last backup was committed.
        last: Option<String>,
    },
    /// A standby that is not on the source's way.
    #[error("the standby of {} follows timeline {timeline} and is at {at}, but the source left that timeline{} for timeline {owner}",
        directory.display(), fork.map_or_else(String::new, |fork| format!(" at {fork}")))]
    StandbyLeft {
        /// Its data directory.
        directory: PathBuf,
        /// What it follows.
        timeline: u32,
        /// What it has replayed.
        at: Lsn,
        /// The source's timeline.
        owner: u32,
        /// Where the source left the standby's, where it was ever on it.
        fork: Option<Lsn>,
    },
    /// A standby that has not come as far as what is stored.
    #[error("the standby has replayed to {at}, and backup {backup} ends at {end} already")]
    StandbyBehind {
        /// What it has replayed.
        at: Lsn,
        /// The newest backup.
        backup: BackupId,
        /// Where that ends.
        end: Lsn,
    },
    /// A standby that follows another timeline than its last restartpoint was on.
    #[error("the standby went on from timeline {from} to timeline {to}")]
    StandbySwitched {
        /// Of its last restartpoint.
        from: u32,
        /// Now.
        to: u32,
    },
    /// What it uses is being deleted, or is gone.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// A file of the state directory failed.
    #[error("could not {action} {}", path.display())]
    State {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A pack of an older backup that this one would refer to is gone or cut short.
    #[error("{pack}, which an older backup stored and this one would use, is not there as it was")]
    ParentPack {
        /// Which.
        pack: String,
    },
    /// Something that should not happen did.
    #[error("could not finish the backup: {0}")]
    Internal(&'static str),
}

impl BackupError {
    /// Whether the repository has no space left.
    pub(super) fn is_out_of_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Repository(RepoError::Store(error))
            | Self::Guard(GuardError::Repository(RepoError::Store(error))) => {
                error.kind == StoreErrorKind::NoSpace
            }
            _ => false,
        }
    }
}

impl Explain for BackupError {
    fn advice(&self) -> Advice {
        let safe = "no backup was made; earlier backups are whole and PostgreSQL is not in backup mode";
        let with_safe = |advice: Advice| Advice { safe: safe.into(), ..advice };
        match self {
            Self::Repository(error) => with_safe(error.advice()),
            Self::Server(error) => with_safe(error.advice()),
            Self::History { source, .. } => with_safe(source.advice()),
            Self::Guard(error) => with_safe(error.advice()),
            Self::Walk(error) => with_safe(error.advice()),
            Self::Control(error) => with_safe(error.advice()),
            Self::Read { source, .. } => read_advice(source, safe),
            Self::OtherCluster { name, .. } => Advice::failed("BAK-002", safe)
                .hint("Is this the right data directory? Check data_directory of this source in the configuration.")
                .hint(format!(
                    "Shall this cluster be {name} from now on (initdb, an upgrade to another directory)? \
                     refloat takeover {name} --new-cluster. The old one's backups stay restorable."
                ))
                .hint(format!("Is it another one beside it? Give it a source of its own, such as [source.{name}-new].")),
            Self::Locked { .. } => Advice::locked("BAK-003", safe)
                .hint("Shall this server be the source from now on? refloat takeover SOURCE")
                .hint("Is it a throw-away? Then it needs no backup."),
            Self::Running { .. } => {
                Advice::locked("BAK-004", "the other backup goes on").hint("Wait for it; `refloat status` shows how far it is.")
            }
            Self::RunningElsewhere { .. } => Advice::locked("BAK-013", "the other backup goes on")
                .hint("Wait for it. Where that host is lost, its claim ends after half an hour."),
            Self::NotHere(_) => Advice::locked("BAK-014", "earlier backups are whole")
                .hint("Run it on the other node, or set run_on of this source."),
            Self::NoStandby { .. } => Advice::failed("BAK-015", safe)
                .hint("Find out why no standby makes backups: run refloat backup there.")
                .hint("Or let whichever node is there do it: run_on = \"any\""),
            Self::NoSpace { .. } => Advice::failed("BAK-005", safe)
                .hint("Make space in the repository or choose another one, then run the same command again."),
            Self::WalMissing { .. } => Advice::failed("BAK-006", safe)
                .hint("Find out why archiving does not get on: refloat check")
                .hint("Or let the backup carry its own WAL: backup_wal = \"include\" in this source."),
            Self::OwnWal { .. } => Advice::failed("BAK-007", safe).hint(
                "PostgreSQL removed it before it was copied. Raise max_replication_slots or wal_keep_size, or archive WAL.",
            ),
            Self::InRecovery { .. } => Advice::failed("BAK-008", safe)
                .hint("Is this a restored server that waits at its target? First: refloat takeover SOURCE")
                .hint("Shall it be a standby? Then its directory holds standby.signal: refloat restore SOURCE --as standby"),
            Self::StandbyLeft { .. } => Advice::failed("BAK-011", safe)
                .hint("What it holds is not what the source holds. Run the backup on the primary, or on a standby that follows it.")
                .hint("Make this standby anew from the repository: refloat restore SOURCE --in-place --as standby --delta")
                .hint("Is this server the source from now on? Promote it by: refloat takeover SOURCE"),
            Self::StandbyBehind { .. } => Advice::failed("BAK-016", safe)
                .hint("A backup of it would be an older state than the newest that is stored. Run it on the primary, or on a standby that is not behind."),
            Self::StandbySwitched { .. } => Advice::unreachable("BAK-012", safe)
                .hint("Run it again after the next checkpoint; CHECKPOINT on the primary hastens it."),
            Self::State { .. } => Advice::failed("STA-002", safe)
                .hint("The state directory must be writable by the user that Refloat runs as."),
            Self::ParentPack { .. } => Advice::failed(
                "BAK-010",
                "no backup was made, and PostgreSQL is not in backup mode; older backups that need this pack are damaged",
            )
            .hint("Make a backup that refers to nothing older: refloat backup SOURCE --type full")
            .hint("Find out what else is damaged: refloat verify SOURCE"),
            Self::Internal(_) => Advice::failed("BAK-009", safe).hint("Run it again with -v and look at the log."),
        }
    }
}

fn read_advice(source: &io::Error, safe: &'static str) -> Advice {
    let advice = Advice::failed("BAK-001", safe);
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            advice.hint("Refloat must run as the owner of the data directory; as root it switches to that user by itself.")
        }
        _ if matches!(source.raw_os_error(), Some(23 | 24)) => {
            advice.hint("The limit of open files is reached: raise it (ulimit -n, LimitNOFILE=) and run it again.")
        }
        _ => advice.hint("Look at the kernel's log for errors of the disk; run it again when the cause is mended."),
    }
}
