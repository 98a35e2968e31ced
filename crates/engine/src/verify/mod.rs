//! Proof that what is stored is there, whole, and ours; and a list of what was not proved.
//!
//! `census` lists what lies in the repository, `documents` checks every small signed object, `operations` the chains of
//! records, `retention` tombstones and holds, `kits` rescue kits, `backups` commits with their packs and manifests, `wal` WAL files, `chain` whether they follow each other,
//! `data` the bytes of packs. What is wrong goes into `ledger`, which merges findings about one object and, at the end,
//! tells for each what depends on it.
//!
//! Nothing is written, and nothing is remembered: each run begins anew. Memory grows with the number of objects (some
//! hundred bytes each) and is otherwise bounded by the window in which ranges of files are put together.

mod backups;
mod census;
mod chain;
mod cold;
mod data;
mod documents;
mod error;
mod kits;
mod ledger;
mod operations;
mod plan;
mod report;
mod retention;
mod run;
mod wal;

use refloat_repo::Repository;
use refloat_types::{BackupId, SourceId, SourceName, Timestamp};

pub use error::VerifyError;
pub use report::{
    BackupName, BackupVerdict, Depends, Finding, FindingKind, Grade, ObjectCounts, VerifyReport, WalStretch,
    WalVerdict,
};
pub use run::verify;

use crate::progress::Progress;

/// What shall be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// Everything that lies in the repository, whatever it is.
    #[default]
    Repository,
    /// Backups of one source, and the WAL that they need.
    Source(SourceRef, Which),
}

/// How a source is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceRef {
    /// By its name.
    Name(SourceName),
    /// By its id.
    Id(SourceId),
}

/// Which backups of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// All, and all WAL of their cluster.
    #[default]
    All,
    /// The newest one, and all WAL from its start on.
    Latest,
    /// This one, and the WAL that makes it consistent.
    Backup(BackupId),
}

/// Everything a verification needs to know.
pub struct VerifyRequest<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// What shall be looked at.
    pub scope: Scope,
    /// Whether every byte is read; otherwise manifests are, and of everything else that it is there.
    pub read_data: bool,
    /// Threads that read.
    pub jobs: usize,
    /// This host.
    pub host: &'a str,
    /// Host time.
    pub now: Timestamp,
    /// Who is told how far it is.
    pub progress: &'a dyn Progress,
}
