//! Packs that are there already and whose lock ends before the copied backup may go.
//!
//! As for a backup that is made there: they are locked for longer, or, where these credentials may not do that, what they hold is
//! stored again in packs that are new, and locked as long as anything new is.

use std::collections::BTreeSet;
use std::time::Duration;

use refloat_repo::commit::PackUse;
use refloat_repo::{RepoError, Repository};
use refloat_types::{ObjectId, Timestamp};

use crate::locks::Locks;

/// Locks these packs for as long as a backup shall stay that refers to them: `keep`, or as long as what is new is locked where
/// that is shorter. Answers those that cannot be; `None` where these credentials may not ask how long they are locked.
///
/// # Errors
/// When the store does not answer.
pub(super) fn hold(
    to: &Repository,
    packs: &[PackUse],
    keep: Option<Duration>,
    now: Timestamp,
) -> Result<Option<BTreeSet<ObjectId>>, RepoError> {
    if packs.is_empty() {
        return Ok(Some(BTreeSet::new()));
    }
    let Some(locks) = Locks::of(to, now)? else { return Ok(Some(BTreeSet::new())) };
    let period = locks.default_lock().period;
    let later = |by: Duration| now.checked_add(by).unwrap_or(Timestamp::MAX);
    let until = later(keep.map_or(period, |keep| keep.min(period)));
    let short = match locks.short(packs.iter(), until) {
        Err(RepoError::Store(error)) if error.is_denied() => return Ok(None),
        other => other?,
    };
    let mut refused = BTreeSet::new();
    for (at, pack) in short.iter().enumerate() {
        match locks.extend(pack, later(period)) {
            Ok(()) => {}
            Err(RepoError::Store(error)) if error.is_retryable() => return Err(error.into()),
            Err(error) => {
                tracing::debug!(%error, "packs cannot be locked for longer");
                refused = short.iter().skip(at).map(|pack| pack.id).collect();
                break;
            }
        }
    }
    locks.close();
    Ok(Some(refused))
}
