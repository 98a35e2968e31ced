//! Which moments a cluster can be recovered to, and how: decided from headers, before a byte is written anywhere.
//!
//! [`windows`] says of each backup how far it reaches; [`resolve`] finds for a target the backup, the timeline and the
//! WAL, or refuses and shows the windows. `path` knows which file holds which part of a timeline's past, `reach` where
//! the archive ends or has a gap, `search` finds transactions and names, `stop` where exactly replay should end, `wal` reads the archive. Nothing here changes
//! anything.

mod boundary;
mod error;
mod events;
mod path;
mod reach;
mod resolve;
mod search;
mod stop;
mod timeline;
mod wal;
mod window;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use refloat_repo::commit::CommitRecord;
use refloat_repo::repository::OwnerRecord;
use refloat_types::{BackupId, Lsn, TimelineId, Timestamp, WalSegmentName};

pub use error::TargetError;
pub use events::{Event, What};
pub use reach::{Gap, Reached};
pub use resolve::resolve;
pub use wal::{ArchivedWal, RepositoryWal, SegmentHead};
pub use window::{Window, windows};

use crate::wal::Archive;

/// How far recovery shall go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Everything archived.
    Latest,
    /// The moment the backup becomes consistent.
    Immediate,
    /// A moment by the server's clock.
    Time(Timestamp),
    /// A position.
    Lsn(Lsn),
    /// The end of a transaction; with or without its epoch, as PostgreSQL takes it.
    Xid(u64),
    /// A named restore point.
    Name(String),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Latest => f.write_str("everything archived"),
            Self::Immediate => f.write_str("the end of the backup"),
            Self::Time(time) => write!(f, "time {time}"),
            Self::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Self::Xid(xid) => write!(f, "transaction {xid}"),
            Self::Name(name) => write!(f, "restore point \"{name}\""),
        }
    }
}

/// Along which timeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TimelineChoice {
    /// The owner's, or the newest one that descends from it by promotion; without an owner the newest.
    #[default]
    Owner,
    /// The newest, whoever wrote it.
    Latest,
    /// This one.
    Number(TimelineId),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// How far.
    pub target: Target,
    /// Stop just before the target instead of just behind it (time, LSN, transaction).
    pub exclusive: bool,
    /// Along which timeline.
    pub timeline: TimelineChoice,
    /// From this backup; from the newest that can reach the target when `None`.
    pub backup: Option<BackupId>,
}

/// All that is known of one source in one repository.
#[derive(Clone, Copy)]
pub struct Situation<'a> {
    /// Its WAL archive.
    pub archive: &'a Archive,
    /// Its backups, in any order.
    pub commits: &'a [CommitRecord],
    /// Which server it is at present.
    pub owner: Option<&'a OwnerRecord>,
    /// Reads the archive's headers, and its records where that is needed.
    pub wal: &'a dyn ArchivedWal,
}

/// How a target is reached.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The backup to begin with.
    pub backup: CommitRecord,
    /// The timeline to recover along: `recovery_target_timeline`.
    pub timeline: TimelineId,
    /// The timelines whose WAL is replayed, in order.
    pub timelines: Vec<TimelineId>,
    /// What recovery is told to stop at. `Latest` where a time lies after the last transaction.
    pub target: Target,
    /// As it was asked for.
    pub exclusive: bool,
    /// Where a time, or a point just before a transaction's end, is better told to the server as a position: replay
    /// shall stop behind the record that begins here (`recovery_target_lsn`, with `recovery_target_inclusive` on).
    ///
    /// Told the time, PostgreSQL stops only at the end of the next transaction and has replayed what it did until then:
    /// while recovery is paused there, a table that it drops is locked, and a database that it drops has lost its files.
    /// This is the last record before that one that ends or prepares a transaction, so the same transactions are
    /// there. `None` where none is known behind the backup; then `target` and `exclusive` hold as they are.
    pub stop_lsn: Option<Lsn>,
    /// The WAL that is replayed; `None` when the backup carries all it needs. Then `restore_command` must be left out:
    /// it would be asked for WAL segments that the archive does not have.
    pub wal: Option<WalNeeded>,
    /// Where recovery ends, as far as that is known beforehand.
    pub reaches: Reached,
    /// Directories in which replay makes tablespaces that were made since the backup began. It uses them whatever is in
    /// them, also what another server has there.
    pub tablespaces: Vec<PathBuf>,
    /// What a person should know, as whole sentences.
    pub notes: Vec<String>,
}

/// A stretch of archived WAL without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalNeeded {
    /// Its first WAL segment.
    pub first: WalSegmentName,
    /// Its last one.
    pub last: WalSegmentName,
    /// How many.
    pub segments: u64,
    /// Bytes to replay at most.
    pub bytes: u64,
}
