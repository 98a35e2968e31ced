//! Packs whose lock ends before the new backup may go.
//!
//! An older pack's lock began when it was stored. A backup that refers to it is only as immutable as that pack, so it is
//! locked for longer, or, where these credentials may not do that, what it holds is written again into a new one.

use std::collections::BTreeSet;
use std::time::Duration;

use refloat_repo::commit::PackUse;
use refloat_repo::{RepoError, Repository};
use refloat_types::{ObjectId, Timestamp};

use super::Parent;
use crate::backup::BackupError;
use crate::locks::Locks;

/// How long what a new backup needs shall be locked.
#[derive(Debug, Clone, Copy)]
pub(in crate::backup) struct Held {
    /// It may not go before.
    until: Timestamp,
    /// What is locked for longer is locked until then, so that not every backup has to do it.
    extended: Timestamp,
}

/// Sees to it that the new backup refers to nothing whose lock ends too early. `keep` is how long it shall stay; nothing
/// can be held for longer than what is new is locked. Answers `None` where nothing is locked, and what a person should
/// know.
///
/// # Errors
/// When the repository does not answer.
pub(in crate::backup) fn hold(
    repository: &Repository,
    parent: Option<&mut Parent>,
    keep: Option<Duration>,
    now: Timestamp,
) -> Result<(Option<Held>, Option<String>), BackupError> {
    let Some(locks) = Locks::of(repository, now)? else { return Ok((None, None)) };
    let period = locks.default_lock().period;
    let later = |by: Duration| now.checked_add(by).unwrap_or(Timestamp::MAX);
    let held = Held { until: later(keep.map_or(period, |keep| keep.min(period))), extended: later(period) };
    let note = match parent {
        Some(parent) => avoid(&locks, held, parent)?,
        None => None,
    };
    locks.close();
    Ok((Some(held), note))
}

/// Where the first pack cannot be locked for longer, none is used whose lock is too short.
fn avoid(locks: &Locks<'_>, held: Held, parent: &mut Parent) -> Result<Option<String>, RepoError> {
    let short = match locks.short(parent.record.packs.iter(), held.until) {
        Err(RepoError::Store(error)) if error.is_denied() => {
            return Ok(Some(
                "how long older packs are locked is not known: these credentials may not ask for it"
                    .to_owned(),
            ));
        }
        other => other?,
    };
    let Some(first) = short.first() else { return Ok(None) };
    match locks.extend(first, held.extended) {
        Ok(()) => Ok(None),
        Err(RepoError::Store(error)) if error.is_retryable() => Err(error.into()),
        Err(error) => {
            let count = short.len();
            tracing::debug!(%error, count, "packs cannot be locked for longer");
            parent.avoided = short.into_iter().map(|pack| pack.id).collect();
            Ok(Some(format!(
                "what {count} older packs hold is stored again, because their lock ends before this backup may go and \
                 these credentials cannot lock them for longer"
            )))
        }
    }
}

impl Held {
    /// Locks for longer what is used of older packs. Answers what a person should know.
    pub(in crate::backup) fn extend<'p>(
        self,
        repository: &Repository,
        used: impl Iterator<Item = &'p PackUse>,
        now: Timestamp,
    ) -> Option<String> {
        let extended = || -> Result<Vec<RepoError>, RepoError> {
            let Some(locks) = Locks::of(repository, now)? else { return Ok(Vec::new()) };
            let mut failed = Vec::new();
            for pack in used {
                if !locks.pack_reaches(pack, self.until)? {
                    failed.extend(locks.extend(pack, self.extended).err());
                }
            }
            locks.close();
            Ok(failed)
        };
        match extended() {
            Ok(failed) => {
                let why = failed.first()?;
                Some(format!(
                    "{} older packs are not locked for as long as this backup shall stay: {why}",
                    failed.len()
                ))
            }
            Err(error) => Some(format!("how long older packs are locked could not be told: {error}")),
        }
    }
}

impl Parent {
    /// Whether nothing of this pack may be used.
    pub(super) fn avoids(&self, pack: ObjectId) -> bool {
        self.avoided.contains(&pack)
    }
}

/// Packs that are not used.
pub(super) type Avoided = BTreeSet<ObjectId>;
