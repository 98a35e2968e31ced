//! Deleting what the policy does not want, and never what is needed.
//!
//! No lock is relied on, because no object store can check one. One run marks: it writes a signed tombstone that names
//! exactly what will be deleted. A later run, when the grace time is over by the store's clock, reads all commits, pins,
//! holds and tombstones again and deletes what is still not needed: commits first, then packs and WAL. A tombstone is never
//! taken back, and nobody uses anew what one names ([`crate::guard`]); so it does not matter how slow, how often
//! interrupted or how many those who delete are. Whatever cannot be read stops it.
//!
//! A crash leaves things half deleted that nobody needs, and the tombstone that names the rest: the next run goes on.
//! Data keys are not deleted: they are small, and one envelope may open much.

mod calendar;
mod clocks;
mod error;
mod facts;
mod judge;
mod policy;
mod reason;
mod run;
mod tidy;
mod wal;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use refloat_repo::Repository;
use refloat_types::{Clock, SourceId, Timestamp};

pub use calendar::Period;
pub use error::ExpireError;
pub use judge::BackupVerdict;
pub(crate) use policy::would_keep;
pub use policy::{Keep, Policy};
pub use reason::Reason;
pub use run::{expire, explain};
pub use wal::{WalVerdict, YOUNGEST_WAL};

use crate::guard::Uptime;
use crate::progress::Progress;

/// What its pins say.
pub(crate) const OPERATION: &str = "expire";
/// What is marked is deleted so much later, unless said otherwise.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);
/// Never sooner.
pub const SHORTEST_GRACE: Duration = Duration::from_secs(3600);

/// Everything an expiry needs to know.
pub struct ExpireRequest<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// What is to be kept; sources that are not named keep everything.
    pub policies: BTreeMap<SourceId, Policy>,
    /// Time from marking to deleting; [`SHORTEST_GRACE`] at least.
    pub grace: Duration,
    /// This host.
    pub host: &'a str,
    /// Time.
    pub clock: &'a dyn Clock,
    /// What measures whether this process was stopped.
    pub uptime: Arc<dyn Uptime>,
    /// Who is told how far it is.
    pub progress: &'a dyn Progress,
}

/// So many objects, and their bytes in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Backups.
    pub backups: u64,
    /// Packs.
    pub packs: u64,
    /// WAL files.
    pub wal: u64,
    /// Bytes of packs and WAL files.
    pub bytes: u64,
}

impl Amount {
    /// Whether it is nothing.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What an expiry did, or would do.
#[derive(Debug, Clone)]
pub struct ExpireReport {
    /// Every backup, oldest first by source.
    pub backups: Vec<BackupVerdict>,
    /// WAL by timeline.
    pub wal: Vec<WalVerdict>,
    /// What was deleted.
    pub deleted: Amount,
    /// What was marked now.
    pub marked: Amount,
    /// What was marked before and is still there.
    pub waiting: Amount,
    /// When the next of it may be deleted, by the store's clock.
    pub next: Option<Timestamp>,
    /// What a person should know.
    pub notes: Vec<String>,
}
