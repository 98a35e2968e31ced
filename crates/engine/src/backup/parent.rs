//! The older backup that a differential or incremental one refers to.
//!
//! A backup keeps a reference to every frame that it needs, whichever backup stored it, so a restore follows no chain.
//! The parent only tells what need not be stored again: a page whose keyed hash is the one that the parent recorded, and,
//! where the file system's word can be taken for it, a file that need not even be read.

mod choice;
mod files;
mod held;
mod reader;

use std::collections::BTreeSet;
use std::sync::Arc;

use refloat_pg::history::TimelineHistory;
use refloat_pg::sql::StartPoint;
use refloat_repo::RepoError;
use refloat_repo::commit::{BackupType, CommitRecord};
use refloat_repo::crypt::page_hash::PageKey;
use refloat_repo::manifest::Root;
use refloat_repo::pack::reader::PackKeys;
use refloat_types::{BackupId, Lsn, SourceId, SystemIdentifier, Timestamp};

use crate::guard::Forbidden;

pub(super) use choice::{Choice, choose};
pub(super) use files::{Former, FormerFiles};
pub(super) use held::{Held, hold};
pub(super) use reader::{ParentReader, Uses};

/// What to make of a source that has backups already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wanted {
    /// A full one where there is nothing to refer to, else an incremental one.
    #[default]
    Suitable,
    /// One that refers to nothing older.
    Full,
    /// To the last full one.
    Diff,
    /// To the last one of any kind.
    Incr,
}

/// A backup that can be referred to.
pub(super) struct Parent {
    pub(super) record: CommitRecord,
    pub(super) keys: Arc<PackKeys>,
    root: Root,
    /// Files with pages that were bad: never believed unread.
    bad: BTreeSet<Vec<u8>>,
    /// Packs whose lock ends too early: what is in them is stored again.
    avoided: held::Avoided,
    /// Which files may be believed unread.
    pub(super) trust: Trust,
}

/// Whether the file system's word is taken that a file has not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trust {
    /// For files whose inode was last changed before this, in nanoseconds since 1970.
    Before(i64),
    /// For none: everything is read, and why.
    Nothing(String),
}

impl Parent {
    pub(super) fn id(&self) -> BackupId {
        self.record.commit.backup
    }

    /// What its pages are hashed under, and so those of what builds on it.
    pub(super) fn page_key(&self) -> Option<PageKey> {
        self.root.page_key
    }

    /// When everything was last read, if `everything` is not read now.
    pub(super) fn last_read(&self) -> Option<Timestamp> {
        self.root.reading.as_ref().map(|reading| reading.everything)
    }
}

/// What decides about a parent.
pub(super) struct Situation<'a> {
    pub(super) source: SourceId,
    pub(super) system: SystemIdentifier,
    pub(super) start: &'a StartPoint,
    /// How far the server is: what ends behind that is of another future.
    pub(super) reached: Lsn,
    /// The history of the server's timeline, where it could be had.
    pub(super) history: Option<TimelineHistory>,
    /// Before the first file is looked at.
    pub(super) began: Timestamp,
    /// What is being deleted, read after this backup was seen to run.
    pub(super) forbidden: Arc<Forbidden>,
}

impl Situation<'_> {
    /// Why a backup cannot be the parent of one that starts here; `None` when it can.
    fn refuses(&self, record: &CommitRecord) -> Option<String> {
        let point = &record.commit.cluster;
        let is_marked = self.forbidden.has_backup(self.source, record.commit.backup)
            || record.packs.iter().any(|pack| self.forbidden.has_pack(pack.id));
        if is_marked {
            return Some("it is about to be deleted".to_owned());
        }
        if point.system != self.system {
            return Some("it is of another cluster".to_owned());
        }
        if point.stop_lsn > self.reached {
            return Some(format!("it ends at {}, behind this server's {}", point.stop_lsn, self.reached));
        }
        let on_the_way = point.timeline == self.start.timeline
            || self.history.as_ref().is_some_and(|history| history.contains(point.timeline, point.stop_lsn));
        (!on_the_way).then(|| {
            format!("timeline {} is not known to lead to timeline {}", point.timeline, self.start.timeline)
        })
    }
}

/// What kind of backup is made of what was wanted.
const fn kind_of(wanted: Wanted) -> BackupType {
    match wanted {
        Wanted::Full => BackupType::Full,
        Wanted::Diff => BackupType::Diff,
        Wanted::Suitable | Wanted::Incr => BackupType::Incr,
    }
}

/// Whether an error says nothing about the parent itself, so that another attempt may succeed.
fn may_pass(error: &RepoError) -> bool {
    matches!(error, RepoError::Store(error) if error.is_retryable())
}
