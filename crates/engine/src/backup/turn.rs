//! Of several nodes one makes a backup: which one, and that two do not make the same at once.
//!
//! It spares work and protects nothing: where a list lags behind, two backups are made, and both are whole.

use std::time::Duration;

use refloat_repo::RepoError;
use refloat_repo::commit::BackupType;
use refloat_repo::repository::SeenPin;
use refloat_types::{BackupId, ObjectId, SourceId, Timestamp};

use super::{BackupError, BackupRequest, Wanted};
use crate::guard::Guard;

/// A backup that another node began so recently was asked for by the same line of the same plan.
const SAME_TURN: Duration = Duration::from_secs(300);
/// Without a backup for so long no standby does what it should.
const TOO_LONG: Duration = Duration::from_secs(25 * 3600);

/// Which of several nodes makes backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunOn {
    /// The primary.
    Primary,
    /// Standbys, whichever is first.
    Standby,
    /// Whichever is first.
    Any,
}

/// Makes sure that this is a node for it.
///
/// # Errors
/// `NotHere` where another node shall do it; `NoStandby` when that is a standby and none did for more than a day.
pub(super) fn by_role(
    request: &BackupRequest<'_>,
    source: SourceId,
    is_standby: bool,
    now: Timestamp,
) -> Result<(), BackupError> {
    match (request.run_on, is_standby) {
        (RunOn::Primary, true) => Err(BackupError::NotHere(
            "this server is a standby, and run_on = \"primary\"; run_on = \"any\" backs up whichever is there".to_owned(),
        )),
        (RunOn::Standby, false) => {
            let last = match request.repository.commit_keys(source)?.pop() {
                Some(key) => Some(request.repository.read_commit(&key)?.commit.finished),
                None => None,
            };
            match last {
                Some(last) if apart(last, now) <= TOO_LONG => Err(BackupError::NotHere(
                    "this server is the primary, and run_on = \"standby\"".to_owned(),
                )),
                _ => Err(BackupError::NoStandby { last: last.map(|at| format!("{at:.0}")) }),
            }
        }
        _ => Ok(()),
    }
}

/// Makes sure that no other host makes a backup of this source now, or has just made the one that is wanted. Call it when
/// this backup's own pin is there.
///
/// # Errors
/// `RunningElsewhere`, or `NotHere` where any node would do.
pub(super) fn by_others(
    request: &BackupRequest<'_>,
    guard: &Guard<'_>,
    source: SourceId,
    now: Timestamp,
) -> Result<(), BackupError> {
    match rival(request, guard, source) {
        Ok(None) => {}
        Ok(Some((seen, host))) => {
            let host = host.unwrap_or_else(|| "another host".to_owned());
            let since = seen.pin.since;
            return Err(match request.run_on {
                RunOn::Primary => BackupError::RunningElsewhere {
                    name: request.source.to_string(),
                    host,
                    since: format!("{since:.0}"),
                },
                _ => BackupError::NotHere(format!("{host} makes a backup of it, since {since:.0}")),
            });
        }
        Err(error) => tracing::warn!(%error, "whether another host makes a backup now cannot be told"),
    }
    if request.run_on != RunOn::Primary
        && request.label.is_none()
        && let Some((backup, at)) = just_made(request, source, now)?
    {
        return Err(BackupError::NotHere(format!("another node began {backup} at {at:.0}")));
    }
    Ok(())
}

/// The backup of the same source that another host makes, where it began before this one: of two that see each other one
/// goes on.
///
/// What this host left before it was started again is none: it holds the source's lock now.
fn rival(
    request: &BackupRequest<'_>,
    guard: &Guard<'_>,
    source: SourceId,
) -> Result<Option<(SeenPin, Option<String>)>, RepoError> {
    let repository = request.repository;
    let pins = repository.list_pins()?;
    let place = |seen: &SeenPin| (seen.began.unwrap_or(seen.renewed), seen.pin.pin);
    let own: Option<(Timestamp, ObjectId)> = pins.iter().find(|seen| seen.pin.pin == guard.pin()).map(place);
    let own = own.unwrap_or((guard.store_now(), guard.pin()));
    let holder = guard.holder();
    let others = pins.into_iter().filter(|seen| {
        seen.pin.source == Some(source)
            && seen.pin.backup.is_some()
            && seen.pin.holder != holder
            && seen.is_alive(guard.store_now())
            && place(seen) < own
    });
    let mut named = others.map(|seen| {
        let host = repository.pinned_on(&seen);
        (seen, host)
    });
    let is_ours = |seen: &SeenPin, host: &Option<String>| {
        seen.pin.agent == repository.agent() && host.as_ref().is_none_or(|host| *host == request.host)
    };
    Ok(named.find(|(seen, host)| !is_ours(seen, host)))
}

/// The newest backup, where another host began it a moment ago and it is what is wanted, or more.
fn just_made(
    request: &BackupRequest<'_>,
    source: SourceId,
    now: Timestamp,
) -> Result<Option<(BackupId, Timestamp)>, BackupError> {
    let Some(key) = request.repository.commit_keys(source)?.pop() else { return Ok(None) };
    let record = request.repository.read_commit(&key)?;
    let commit = &record.commit;
    let enough = match request.wanted {
        Wanted::Suitable | Wanted::Incr => true,
        Wanted::Diff => commit.kind != BackupType::Incr,
        Wanted::Full => commit.kind == BackupType::Full,
    };
    let is_recent = apart(commit.started, now) < SAME_TURN;
    let is_others = record.agent != request.repository.agent();
    Ok((enough && is_recent && is_others).then_some((commit.backup, commit.started)))
}

/// How far two moments are apart. One that is still to come says that a clock is wrong.
fn apart(at: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(at).unsigned_abs()
}
