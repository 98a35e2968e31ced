//! What a restore is asked to do.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use refloat_repo::commit::CommitRecord;
use refloat_types::{TimelineId, Timestamp};

use crate::locked::Purpose;
pub use crate::pitr::Target;

/// Where a backup is restored to. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A directory that does not exist, or is empty; with `delta` also one that holds the backup's cluster.
    Directory(PathBuf),
    /// The source's own data directory; what is there is renamed beside it, or reused with `delta`.
    InPlace(PathBuf),
}

impl Destination {
    /// The directory.
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(path) | Self::InPlace(path) => path,
        }
    }
}

/// What the server does when it has reached the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetAction {
    /// Waits, read-only.
    Pause,
    /// Begins a new timeline and accepts writes.
    Promote,
    /// Stops.
    Shutdown,
}

impl TargetAction {
    /// `pause`, `promote`, `shutdown`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Promote => "promote",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Which timeline recovery follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowTimeline {
    /// The newest in the archive.
    Latest,
    /// The one the backup was taken on.
    Current,
    /// This one.
    Number(TimelineId),
}

/// The recovery that the restored server begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// How far.
    pub target: Target,
    /// Whether the target itself is replayed too (time, LSN and transaction).
    pub inclusive: bool,
    /// What then; without effect where the target is [`Target::Latest`].
    pub action: TargetAction,
    /// Along which timeline.
    pub timeline: FollowTimeline,
    /// The command that fetches a WAL file, such as `/usr/bin/refloat wal fetch --source prod`; ` %f %p` is appended
    /// where it does not hold `%f`. `None`: nothing is fetched, all WAL must be in the directory.
    pub restore_command: Option<String>,
    /// Whom a standby streams from, such as `host=db1 user=replicator`; it follows the archive alone without.
    pub primary_conninfo: Option<String>,
}

/// What the restored server will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Become {
    /// Not decided: archiving is locked.
    Undecided,
    /// A throw-away: archives nothing, ever.
    Copy,
    /// The source's primary: restore and takeover in one. The caller records the new owner.
    Primary,
    /// A standby of the source: follows its archive, and streams where a primary is named. It writes nothing of its own
    /// before it is promoted, so there is nothing to lock.
    Standby,
}

impl Become {
    /// What the lock says; `None` where there is no lock.
    pub const fn purpose(self) -> Option<Purpose> {
        match self {
            Self::Undecided => Some(Purpose::Undecided),
            Self::Copy => Some(Purpose::Copy),
            Self::Primary | Self::Standby => None,
        }
    }
}

/// Whom the files shall belong to; only root can give them away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Owner {
    pub(super) fn give(self, file: BorrowedFd<'_>) -> io::Result<()> {
        let (uid, gid) = (rustix::fs::Uid::from_raw(self.uid), rustix::fs::Gid::from_raw(self.gid));
        Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
    }
}

/// A restore, fully decided.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// What to restore.
    pub commit: CommitRecord,
    /// Name of the source, for the lock and messages.
    pub source_name: String,
    /// Where to.
    pub to: Destination,
    /// Where a cluster is there already: reuse what is the same, rewrite what differs, remove what the backup lacks.
    pub delta: bool,
    /// How recovery goes.
    pub recovery: Recovery,
    /// What the server will be.
    pub becomes: Become,
    /// New place of tablespaces, by old place. Both absolute.
    pub tablespaces: BTreeMap<PathBuf, PathBuf>,
    /// Tablespaces without a new place go into the data directory.
    pub tablespaces_inside: bool,
    /// Directories in which replay makes tablespaces, as the plan for the target says. Absolute.
    pub made_tablespaces: Vec<PathBuf>,
    /// Also places the WAL that makes the backup consistent, so that no archive is needed to start.
    pub with_wal: bool,
    /// Threads; at least 1.
    pub jobs: usize,
    /// Whom files shall belong to. `None`: whoever runs this.
    pub owner: Option<Owner>,
    /// This host.
    pub host: String,
    /// Host time.
    pub now: Timestamp,
    /// Short id of this restore, such as `k7r2`: part of the names of what is set aside.
    pub restore_id: String,
}
