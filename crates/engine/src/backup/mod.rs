//! A backup of a running server: full, or one that stores only what has changed.
//!
//! `run` is the whole story: prepare (`prepare`), put the server into backup mode, choose the parent, copy ranges of files on
//! several threads, read the control file last, end the backup mode and make sure of the WAL (`end`), write the manifest, commit.
//! Nothing is visible before the commit; whatever a crash leaves behind is known to `leftovers`, and the next backup uses or
//! clears it.

mod collect;
mod commit;
mod copy;
mod draft;
mod end;
mod error;
pub mod facts;
mod files;
mod histories;
mod leftovers;
mod others;
mod own_wal;
mod pages;
mod parent;
mod places;
mod preflight;
mod prepare;
mod queue;
mod record;
mod run;
mod standby;
mod tee;
mod throttle;
mod turn;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use refloat_pg::sql::{ArchiverStatus, ConnectOptions, Session, SqlError};
use refloat_repo::{Compression, Repository};
use refloat_types::{BackupId, Clock, Lsn, SourceName, Timestamp};
use serde::Serialize;

pub use error::BackupError;
pub use others::{Failed, InOther, Other};
pub use parent::Wanted;
pub use run::run;
pub use turn::RunOn;

use crate::generation::NewGeneration;
use crate::progress::Progress;

/// Where the WAL that makes a backup consistent shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OwnWal {
    /// Verified in the archive where archiving works, else inside the backup.
    #[default]
    Auto,
    /// Inside the backup.
    Include,
    /// Verified in the archive; without it there is no backup.
    Archive,
}

/// Everything a backup needs to know.
pub struct BackupRequest<'a> {
    /// Where to.
    pub repository: &'a Repository,
    /// What the repository is called, for messages.
    pub repository_name: String,
    /// Other repositories that get the same backup. One that fails leaves this one as it is.
    pub others: Vec<Other<'a>>,
    /// What the source is called.
    pub source: SourceName,
    /// The data directory.
    pub data_directory: PathBuf,
    /// How to reach its server.
    pub connection: ConnectOptions,
    /// Which of several nodes makes it.
    pub run_on: RunOn,
    /// Which type.
    pub wanted: Wanted,
    /// Read every file, whatever the file system says of changes.
    pub scan: bool,
    /// Which machine this is, since when it was started: its files' times are taken for those of no other, and none from
    /// before a crash.
    pub machine: String,
    /// `--label`.
    pub label: Option<String>,
    /// Threads that copy.
    pub jobs: usize,
    /// How frames are compressed.
    pub compression: Compression,
    /// Whether the checkpoint is made at once.
    pub fast_checkpoint: bool,
    /// Where the WAL shall be.
    pub own_wal: OwnWal,
    /// How long to wait for the last WAL segment to arrive in the archive.
    pub archive_timeout: Duration,
    /// Bytes read from the data directory a second, at most.
    pub max_read_rate: Option<u64>,
    /// How long a backup of its type shall stay, where an age says so: what it refers to is locked for as long.
    pub keep: Option<Duration>,
    /// The configuration without its secrets.
    pub configuration: String,
    /// This host.
    pub host: String,
    /// Time.
    pub clock: &'a dyn Clock,
    /// Who is told how far it is.
    pub progress: &'a dyn Progress,
}

/// A page that failed its checksum twice with the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadPage {
    /// The file, relative to the data directory.
    pub path: String,
    /// The block, counted in the whole relation fork.
    pub block: u32,
    /// The relation, where it could be told.
    pub relation: Option<String>,
    /// What is wrong with it.
    pub what: String,
}

/// What PostgreSQL could not archive when a backup ended: moments after the backup cannot be reached until it can.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailingArchiver {
    /// The file that it tries again and again; nothing behind it is archived.
    pub file: String,
    /// When it last failed.
    pub at: Option<Timestamp>,
    /// How often something failed since the server's statistics were reset.
    pub times: u64,
}

impl FailingArchiver {
    /// What fails still, some seconds on. PostgreSQL tries a file again after a second: one failure says little, and there
    /// is one whenever a server is promoted a moment before its archiving is unlocked.
    fn lasting(session: &Session) -> Result<Option<Self>, SqlError> {
        let began = Instant::now();
        loop {
            let failing = Self::of(&session.archiver_status()?);
            if failing.is_none() || began.elapsed() > Duration::from_secs(5) {
                return Ok(failing);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn of(archiver: &ArchiverStatus) -> Option<Self> {
        (archiver.mode != "off" && archiver.is_failing()).then(|| Self {
            file: archiver.last_failed.clone().unwrap_or_default(),
            at: archiver.last_failed_at,
            times: archiver.failed,
        })
    }
}

/// What a backup did.
#[derive(Debug, Clone, Serialize)]
pub struct BackupReport {
    /// Its id.
    pub backup: BackupId,
    /// Its number.
    pub number: u64,
    /// `full`, `diff`, `incr`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What it refers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<BackupId>,
    /// What the source is called.
    pub source: String,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where the backup becomes consistent.
    pub stop_lsn: Lsn,
    /// The earliest moment it can be restored to (server time).
    pub stop_time: Timestamp,
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of the cluster's files.
    pub source_bytes: u64,
    /// Bytes of them that were read; the others are known not to have changed.
    pub read_bytes: u64,
    /// Bytes added to the repository.
    pub stored_bytes: u64,
    /// Bytes that a backup had stored which did not finish, and that this one uses.
    pub reused_bytes: u64,
    /// Seconds of the whole.
    pub seconds: f64,
    /// The WAL that makes it consistent is inside the backup.
    pub own_wal: bool,
    /// Archiving fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archiver_failing: Option<FailingArchiver>,
    /// The source is another cluster than before: it was upgraded in place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_generation: Option<NewGeneration>,
    /// Pages that a person must look at.
    pub bad_pages: Vec<BadPage>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Objects of crashed backups that were cleared.
    pub cleared_packs: u64,
    /// What became of it in the other repositories.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<InOther>,
}
