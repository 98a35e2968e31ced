//! Which backups another repository lacks, and which of them it shall have.

use std::collections::BTreeSet;
use std::fmt;

use refloat_repo::commit::{Commit, CommitRecord};
use refloat_repo::repository::Marked;
use refloat_types::{BackupId, Timestamp};
use serde::{Serialize, Serializer};

use crate::expire::{Policy, would_keep};

/// A backup that is not in the other repository and does not get there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// Which.
    pub backup: BackupId,
    /// Why.
    pub why: WhyPassed,
}

/// Why a backup is not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyPassed {
    /// It was there, and was deleted by that repository's retention.
    Deleted,
    /// A newer one is there.
    Older(BackupId),
    /// The other repository's retention would not keep it.
    NotKept,
}

impl fmt::Display for WhyPassed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deleted => f.write_str("it was deleted there by retention"),
            Self::Older(newer) => write!(f, "{newer}, which is newer, is there already"),
            Self::NotKept => f.write_str("the retention there would not keep it"),
        }
    }
}

impl Serialize for WhyPassed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What to do with each backup that is missing.
#[derive(Debug, Default)]
pub(crate) struct Selection<'a> {
    /// To copy, oldest first.
    pub(crate) wanted: Vec<&'a CommitRecord>,
    /// Not to copy.
    pub(crate) passed: Vec<Passed>,
}

/// Both lists are of one source, oldest first.
pub(crate) fn select<'a>(
    from: &'a [CommitRecord],
    to: &[CommitRecord],
    marked: &Marked,
    policy: Option<&Policy>,
    now: Timestamp,
) -> Selection<'a> {
    let there: BTreeSet<BackupId> = to.iter().map(|record| record.commit.backup).collect();
    // In what is called a repository's order, the newest that both have: what came before it cannot come behind it.
    let common = from.iter().rposition(|record| there.contains(&record.commit.backup));
    let kept = policy.map(|policy| {
        let commits: Vec<&Commit> = from.iter().map(|record| &record.commit).collect();
        would_keep(policy, &commits, now)
    });
    let mut selection = Selection::default();
    for (at, record) in from.iter().enumerate() {
        let backup = record.commit.backup;
        if there.contains(&backup) {
            continue;
        }
        let why = if marked.backups.contains(&backup) {
            Some(WhyPassed::Deleted)
        } else if let Some(common) = common.filter(|common| at < *common) {
            Some(WhyPassed::Older(from[common].commit.backup))
        } else if kept.as_ref().is_some_and(|kept| !kept.contains(&backup)) {
            Some(WhyPassed::NotKept)
        } else {
            None
        };
        match why {
            Some(why) => selection.passed.push(Passed { backup, why }),
            None => selection.wanted.push(record),
        }
    }
    selection
}
