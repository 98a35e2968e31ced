//! A server in recovery: how far it is, whether it waits, and ending its recovery.

use refloat_types::Lsn;

use super::session::{parse, text};
use super::{Session, SqlError};

/// What a server's recovery does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayState {
    /// Nothing: it has ended, or there was none.
    Ended,
    /// It replays, or waits for WAL to replay.
    Replaying {
        /// End of the last record that was replayed.
        at: Lsn,
    },
    /// It has reached its target and waits, or somebody told it to wait.
    Paused {
        /// End of the last record that was replayed.
        at: Lsn,
    },
}

/// `object_not_in_prerequisite_state`: recovery ended while it was asked about.
const NOT_IN_RECOVERY: &str = "55000";
/// `insufficient_privilege`.
const MAY_NOT: &str = "42501";

impl Session {
    /// What the server's recovery does. Needs no right.
    ///
    /// # Errors
    /// The session is lost.
    pub fn replay_state(&self) -> Result<ReplayState, SqlError> {
        let what = "ask how far recovery is";
        if !self.is_in_recovery()? {
            return Ok(ReplayState::Ended);
        }
        let paused = if self.info().major() >= 14 {
            "pg_get_wal_replay_pause_state() = 'paused'"
        } else {
            "pg_is_wal_replay_paused()"
        };
        let sql = format!("select {paused}, coalesce(pg_last_wal_replay_lsn(), '0/0')");
        let row = match self.row(what, &sql) {
            Err(SqlError::Failed { cause, .. }) if cause.has_state(&[NOT_IN_RECOVERY]) => {
                return Ok(ReplayState::Ended);
            }
            other => other?,
        };
        let at = parse(what, &row, 1)?;
        Ok(if text(what, &row, 0)? == "t" {
            ReplayState::Paused { at }
        } else {
            ReplayState::Replaying { at }
        })
    }

    /// Tells the server to end its recovery and does not wait for it; `false` when the role may not.
    ///
    /// # Errors
    /// The session is lost.
    pub fn promote(&self) -> Result<bool, SqlError> {
        match self.value("end recovery", "select pg_promote(false)") {
            Ok(told) => Ok(told == "t"),
            Err(SqlError::Failed { cause, .. }) if cause.has_state(&[NOT_IN_RECOVERY]) => Ok(true),
            Err(SqlError::Failed { cause, .. }) if cause.has_state(&[MAY_NOT]) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
