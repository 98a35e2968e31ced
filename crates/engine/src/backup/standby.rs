//! What differs when the server that is backed up is a standby. The primary is not needed, and may be gone.
//!
//! Its backup begins at its last restartpoint and ends at the `minRecoveryPoint` of the control file in it: every page
//! that was copied before is no newer, because PostgreSQL moves that point before it writes a page. The WAL up to there
//! may never be archived (a WAL segment that is not full is closed by the primary alone), so the backup carries it unless
//! it is archived already. A promotion ends the backup; so does WAL without full page images, as PostgreSQL says itself.

use std::time::Duration;

use refloat_pg::control::ControlFile;
use refloat_pg::label::BackupLabel;
use refloat_pg::sql::{BackupMode, Session, SqlError, StandbyPosition, StartPoint, StopPoint};
use refloat_types::{Lsn, TimelineId, Timestamp, WalSegmentName};

use super::{BackupError, BackupRequest};
use crate::wal::KnownSource;

/// A standby that is further behind is told of.
const FAR_BEHIND: Duration = Duration::from_secs(300);

/// Makes sure that a server in recovery is a standby of this source; answers what a person should know.
///
/// # Errors
/// `InRecovery` when it is not a standby but on its way to a target; `StandbyLeft` when it follows a timeline that the
/// source has left before; `StandbyBehind` when a backup is stored that ends behind what it has replayed.
pub(super) fn admit(
    request: &BackupRequest<'_>,
    session: &Session,
    control: &ControlFile,
) -> Result<Vec<String>, BackupError> {
    let directory = &request.data_directory;
    if !directory.join("standby.signal").exists() {
        return Err(BackupError::InRecovery { directory: directory.clone() });
    }
    let position = session.standby_position()?;
    let at = position.replayed.or(control.min_recovery_point).unwrap_or(Lsn(0));
    is_on_the_way(request, control, at)?;
    let mut notes = vec!["the server is a standby; its primary is not asked for anything".to_owned()];
    notes.extend(behind(&position));
    Ok(notes)
}

/// Makes sure that a standby which is at `at` is where the source is going, and not behind what is stored: retention and
/// windows take a later backup for a later state.
fn is_on_the_way(request: &BackupRequest<'_>, control: &ControlFile, at: Lsn) -> Result<(), BackupError> {
    let (system, timeline) = (control.system_identifier, followed(control));
    let Some(known) = KnownSource::read(request.repository, &request.source)? else { return Ok(()) };
    if let Some(left) = known.left(system, timeline).filter(|left| left.is_passed(at)) {
        return Err(BackupError::StandbyLeft {
            directory: request.data_directory.clone(),
            timeline: timeline.get(),
            at,
            owner: left.owner.get(),
            fork: left.fork,
        });
    }
    let Some(key) = request.repository.commit_keys(known.id)?.pop() else { return Ok(()) };
    let newest = request.repository.read_commit(&key)?.commit;
    let point = &newest.cluster;
    if point.system == system && point.timeline >= timeline && point.stop_lsn > at {
        return Err(BackupError::StandbyBehind { at, backup: newest.backup, end: point.stop_lsn });
    }
    Ok(())
}

/// That the standby is far behind, as far as it can tell by itself.
fn behind(position: &StandbyPosition) -> Option<String> {
    let last = position.last_commit?;
    let age = Duration::try_from(position.now.duration_since(last)).ok()?;
    let since = format!("the last transaction that the standby has replayed ended at {last}");
    match (age > FAR_BEHIND, position.is_streaming, position.waits) {
        (false, ..) => None,
        (true, _, true) => Some(format!("{since}: it is behind, or delays replay on purpose")),
        // A primary without writers ends no transactions.
        (true, true, false) => None,
        (true, false, false) => Some(format!("{since}, and nothing streams to it: is its primary gone?")),
    }
}

/// The timeline that a standby follows now.
fn followed(control: &ControlFile) -> TimelineId {
    control.min_recovery_timeline.unwrap_or(control.checkpoint.timeline)
}

/// What the standby has replayed: nothing that ends behind it is a parent of its backup.
pub(super) fn reached(session: &Session) -> Result<Lsn, BackupError> {
    Ok(session.standby_position()?.replayed.unwrap_or(Lsn(0)))
}

/// Makes sure that start and end of the backup are on one timeline.
///
/// # Errors
/// `StandbySwitched` when the standby has begun to follow another one.
pub(super) fn same_timeline(start: &StartPoint, control: &ControlFile) -> Result<(), BackupError> {
    let now = followed(control);
    if now == start.timeline {
        return Ok(());
    }
    Err(BackupError::StandbySwitched { from: start.timeline.get(), to: now.get() })
}

/// Makes sure that the server that was a standby when it was looked at was one when the backup began.
///
/// # Errors
/// `Promoted`.
pub(super) fn still(start: &StartPoint, request: &BackupRequest<'_>) -> Result<(), BackupError> {
    if start.in_recovery {
        return Ok(());
    }
    let target = request.data_directory.display().to_string();
    Err(SqlError::Promoted { target }.into())
}

/// Moves `minRecoveryPoint` on to what has been replayed, so that the backup ends there and not minutes before. Without the
/// right to it the backup ends earlier, and is whole all the same; so it does where nothing holds the WAL that it needs
/// (a restartpoint would remove it), and where checkpoints shall be spread.
pub(super) fn settle(request: &BackupRequest<'_>, mode: &BackupMode) -> Result<(), BackupError> {
    if !request.fast_checkpoint || mode.ping()?.wal_held != Some(true) {
        return Ok(());
    }
    let session = mode.session();
    // The first makes a restartpoint where there is a new checkpoint to make it from; one that has nothing to do moves
    // the point. PostgreSQL: `CreateRestartPoint`.
    if session.checkpoint()? {
        session.checkpoint()?;
    }
    Ok(())
}

/// The end of a standby's backup: where the control file in it says that recovery becomes consistent, and the last moment
/// that may be in it.
pub(super) fn stop(
    request: &BackupRequest<'_>,
    told: StopPoint,
    start: &StartPoint,
    control: &ControlFile,
    session: &Session,
) -> Result<StopPoint, BackupError> {
    same_timeline(start, control)?;
    let label =
        BackupLabel::parse(&told.label).map_err(|_| BackupError::Internal("the label cannot be read"))?;
    if label.start_timeline != start.timeline {
        let (from, to) = (label.start_timeline.get(), start.timeline.get());
        return Err(BackupError::StandbySwitched { from, to });
    }
    let lsn =
        control.min_recovery_point.ok_or(BackupError::Internal("the standby has no minRecoveryPoint"))?;
    is_on_the_way(request, control, lsn)?;
    // No transaction after this one can be in the backup. Where none was replayed since the server was started, none came
    // behind the checkpoint that it started from.
    let last = session.standby_position()?.last_commit;
    let server_time: Timestamp = last.unwrap_or(control.checkpoint.time);
    let wal_segment = WalSegmentName::ending(start.timeline, lsn, start.wal_segment_size);
    Ok(StopPoint { lsn, wal_segment, server_time, ..told })
}
