//! Whether a recovering server has gone as far as it will, and ending its recovery.
//!
//! PostgreSQL: `src/backend/access/transam/xlogrecovery.c` (`recoveryPausesHere`), `src/bin/pg_ctl/pg_ctl.c`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use refloat_pg::server::postmaster_pid;
use refloat_pg::sql::{ReplayState, Session};
use rustix::process::{Pid, Signal, kill_process};

use super::TakeoverError;

/// How long replay is watched before it is called going on.
const WATCH: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until the server waits at its target, or has ended its recovery by itself. Ending it earlier would end recovery
/// at a moment that nobody chose.
///
/// # Errors
/// [`TakeoverError::Replaying`] when it goes on.
pub(super) fn wait_until_settled(session: &Session) -> Result<(), TakeoverError> {
    let began = Instant::now();
    while let ReplayState::Replaying { at } = session.replay_state()? {
        if began.elapsed() > WATCH {
            return Err(TakeoverError::Replaying { at });
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Ends recovery and waits for it.
///
/// # Errors
/// [`TakeoverError::Slow`] when it has not ended in time; it may still.
pub(super) fn promote(directory: &Path, session: &Session, patience: Duration) -> Result<(), TakeoverError> {
    if !session.promote()? {
        promote_as_owner(directory).map_err(|source| TakeoverError::Io {
            action: "promote",
            path: directory.to_owned(),
            source,
        })?;
    }
    let began = Instant::now();
    while session.is_in_recovery()? {
        if began.elapsed() > patience {
            return Err(TakeoverError::Slow { seconds: patience.as_secs() });
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// As `pg_ctl promote` does it: the directory's owner may where the session's role may not, and no right can be granted
/// to a role of a server that is read-only.
fn promote_as_owner(directory: &Path) -> std::io::Result<()> {
    let trigger = directory.join("promote");
    fs::write(&trigger, b"")?;
    let pid = postmaster_pid(directory).and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let told = pid.ok_or_else(|| std::io::Error::other("its server has just ended"));
    told.and_then(|pid| Ok(kill_process(pid, Signal::USR1)?)).inspect_err(|_| {
        let _ = fs::remove_file(&trigger);
    })
}
