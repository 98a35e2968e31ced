//! Whether a recovering server has gone as far as it will, and ending its recovery.
//!
//! PostgreSQL: `src/backend/access/transam/xlogrecovery.c` (`CheckForStandbyTrigger`), `src/bin/pg_ctl/pg_ctl.c`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use refloat_pg::server::postmaster_pid;
use refloat_pg::sql::Session;
use rustix::process::{Pid, Signal, kill_process};

use super::TakeoverError;

/// Replay that stands still for so long, and fetches nothing meanwhile, waits for a person.
const STILL: Duration = Duration::from_secs(2);
/// How long replay is watched before it is called going on.
const WATCH: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until replay waits. Ending it earlier would end recovery at a moment that nobody chose.
///
/// # Errors
/// [`TakeoverError::Replaying`] when it goes on.
pub(super) fn wait_until_settled(directory: &Path, session: &Session) -> Result<(), TakeoverError> {
    let began = Instant::now();
    let mut at = session.current_wal_lsn()?;
    let mut since = Instant::now();
    while since.elapsed() < STILL {
        if began.elapsed() > WATCH {
            return Err(TakeoverError::Replaying { at });
        }
        std::thread::sleep(PAUSE);
        // It may end by itself just now.
        if !session.is_in_recovery()? {
            return Ok(());
        }
        let now = session.current_wal_lsn()?;
        if now != at || is_fetching(directory) {
            (at, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// Whether the startup process waits for a command of its own: `restore_command`, most likely one that tries again.
fn is_fetching(directory: &Path) -> bool {
    let Some(postmaster) = postmaster_pid(directory) else { return false };
    let processes = processes();
    let children = |parent: u32| processes.iter().filter(move |(_, its)| *its == parent).map(|(pid, _)| *pid);
    let startup = children(postmaster).find(|pid| {
        let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&title).contains("startup")
    });
    startup.is_some_and(|startup| children(startup).next().is_some())
}

/// Every process with its parent. The name in `/proc/PID/stat` may hold anything, so the last parenthesis ends it.
fn processes() -> Vec<(u32, u32)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect()
}

/// Ends recovery as `pg_ctl promote` does, which needs no right in the server, and waits for it.
///
/// # Errors
/// [`TakeoverError::Slow`] when it has not ended in time; it may still.
pub(super) fn promote(directory: &Path, session: &Session, patience: Duration) -> Result<(), TakeoverError> {
    let trigger = directory.join("promote");
    let fail = |source| TakeoverError::Io { action: "promote", path: directory.to_owned(), source };
    fs::write(&trigger, b"").map_err(fail)?;
    let pid = postmaster_pid(directory).and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let told = pid.ok_or_else(|| std::io::Error::other("its server has just ended"));
    let told = told.and_then(|pid| Ok(kill_process(pid, Signal::USR1)?));
    if let Err(error) = told {
        let _ = fs::remove_file(&trigger);
        return Err(fail(error));
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
