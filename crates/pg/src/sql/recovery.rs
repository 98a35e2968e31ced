//! A server in recovery: how far it is, whether it waits, and ending its recovery.

use refloat_types::{Lsn, Timestamp};

use super::backup_mode::timestamp;
use super::session::{parse, parse_opt, text};
use super::{Session, SqlError};

/// How far a standby is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandbyPosition {
    /// End of the last record that was replayed.
    pub replayed: Option<Lsn>,
    /// When, by its primary's clock, the last transaction ended that was replayed; `None` when there was none since it
    /// was started.
    pub last_commit: Option<Timestamp>,
    /// The server's own clock.
    pub now: Timestamp,
    /// A primary, or another standby, streams to it.
    pub is_streaming: bool,
    /// Received, and not replayed yet.
    pub waits: bool,
}

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

    /// How far this standby is. Needs no right, but without that of `pg_monitor` nothing is known to be streaming.
    ///
    /// # Errors
    /// The session is lost, or the server is no standby any more.
    pub fn standby_position(&self) -> Result<StandbyPosition, SqlError> {
        let what = "ask how far the standby is";
        let row = self.row(
            what,
            "select pg_last_wal_replay_lsn(), \
             (extract(epoch from pg_last_xact_replay_timestamp()) * 1000000)::bigint, \
             (extract(epoch from clock_timestamp()) * 1000000)::bigint, \
             exists (select from pg_stat_wal_receiver where status = 'streaming'), \
             coalesce(pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn(), false)",
        )?;
        let last_commit: Option<i64> = parse_opt(what, &row, 1)?;
        Ok(StandbyPosition {
            replayed: parse_opt(what, &row, 0)?,
            last_commit: last_commit.map(|at| timestamp(what, &at)).transpose()?,
            now: timestamp(what, &parse(what, &row, 2)?)?,
            is_streaming: text(what, &row, 3)? == "t",
            waits: text(what, &row, 4)? == "t",
        })
    }

    /// Makes a checkpoint, on a standby a restartpoint; `false` when the role may not. Takes as long as it takes to write
    /// what has changed since the last one.
    ///
    /// # Errors
    /// The session is lost.
    pub fn checkpoint(&self) -> Result<bool, SqlError> {
        match self.rows_within("make a checkpoint", "checkpoint", None) {
            Ok(_) => Ok(true),
            Err(SqlError::Failed { cause, .. }) if cause.has_state(&[MAY_NOT]) => Ok(false),
            Err(error) => Err(error),
        }
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
