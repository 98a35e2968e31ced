//! Backups with their WAL from one repository to another, without PostgreSQL.
//!
//! A pack is the same object in every repository, so it is copied as it is and checked on the way; envelopes, sources and
//! commits are made anew for the repository they go to. Whatever is there is not copied again: a copy that was interrupted
//! goes on where it was. A backup appears in the other repository when its commit does, after everything that it names.
//!
//! The order of backups is that of their numbers, and a number is given when a backup is committed. So a backup is copied only
//! behind those that were made before it: one that is older than the newest that both repositories have is passed over.
//!
//! Lowest first: `error`; `select` says what lacks; `held` sees to locks; `packs`, `rewrite` and `wal` carry the parts; `carry` carries one backup;
//! `run` is a whole copy.

mod carry;
mod error;
mod held;
mod packs;
mod rewrite;
mod run;
mod select;
mod wal;

use std::time::Duration;

use refloat_repo::{Compression, Repository};
use refloat_types::{BackupId, Clock, SourceName};
use serde::Serialize;

use crate::expire::Policy;
use crate::progress::Progress;

pub use error::CopyError;
pub(crate) use run::{Fresh, bring};
pub use run::{copy, plan};
pub use select::{Passed, WhyPassed};
pub use wal::WalCopied;

/// A repository and what it is called.
#[derive(Clone, Copy)]
pub struct Named<'a> {
    /// For messages.
    pub name: &'a str,
    /// It.
    pub repository: &'a Repository,
}

/// What to copy, and how.
pub struct CopyRequest<'a> {
    /// Where from.
    pub from: Named<'a>,
    /// Where to.
    pub to: Named<'a>,
    /// What the source is called in both.
    pub source: &'a SourceName,
    /// Only this backup; else all that are missing.
    pub only: Option<BackupId>,
    /// What the other repository keeps: what it would delete at once is not copied.
    pub keeps: Option<&'a Policy>,
    /// How long what is copied shall stay there, where that is known: as long as what it refers to has to be locked.
    pub keep: Option<Duration>,
    /// Store everything again in packs of the backup's own.
    pub self_contained: bool,
    /// Copy WAL files too, beyond those that the backups need.
    pub wal: bool,
    /// How what is stored again is compressed.
    pub compression: Compression,
    /// Threads.
    pub jobs: usize,
    /// How long one WAL file may take.
    pub wal_timeout: Duration,
    /// This host.
    pub host: &'a str,
    /// Time.
    pub clock: &'a dyn Clock,
    /// Who is told how far it is.
    pub progress: &'a dyn Progress,
}

/// What was copied, or would be.
#[derive(Debug, Clone, Serialize)]
pub struct CopyReport {
    /// What the source is called.
    pub source: String,
    /// Where from.
    pub from: String,
    /// Where to.
    pub to: String,
    /// Backups, oldest first.
    pub backups: Vec<BackupCopied>,
    /// Backups that are not there and were not copied.
    pub passed: Vec<Passed>,
    /// WAL.
    pub wal: WalCopied,
    /// What a person should know.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

/// A backup that was copied, or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BackupCopied {
    /// Which.
    pub backup: BackupId,
    /// Packs that were copied as they are.
    pub packs: u64,
    /// Bytes that were written: these packs, and what was stored again.
    pub bytes: u64,
    /// Bytes of them that were stored again, in packs of the backup's own.
    pub stored_again: u64,
    /// Packs that were there already.
    pub present: u64,
    /// Packs among them whose lock ends before the backup may go, and that could neither be locked for longer nor stored again;
    /// `None` where these credentials may not ask for locks.
    pub short_locks: Option<u64>,
}
