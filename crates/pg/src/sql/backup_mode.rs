//! The server in backup mode, from start to stop, on one held session.
//!
//! The non-exclusive interface ties the backup to the session: when the session ends without a stop, whether by an
//! error, a panic or a kill, PostgreSQL itself aborts the backup and drops the temporary slot. Nothing has to be undone.
//!
//! PostgreSQL: `xlogfuncs.c` (`pg_backup_start`, `pg_backup_stop`, from 15; `pg_start_backup`, `pg_stop_backup` before).

use std::time::Duration;

use refloat_types::{Lsn, SystemIdentifier, TimelineId, Timestamp, WalSegmentName, WalSegmentSize};

use super::session::{parse, parse_opt, quote_literal, text};
use super::{Cause, Session, SqlError};

/// How long PostgreSQL may take to stop: it writes a record and a small file, and does not wait for the archive.
const STOP_PATIENCE: Duration = Duration::from_secs(600);

/// How a backup begins.
#[derive(Debug, Clone)]
pub struct BackupStart {
    /// `LABEL` of `backup_label`; at most 1024 bytes.
    pub label: String,
    /// Whether the checkpoint is made at once, or spread out as `checkpoint_completion_target` says (minutes).
    pub fast: bool,
}

/// Where and when a backup began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartPoint {
    /// Redo position of the backup's checkpoint: replay begins here.
    pub lsn: Lsn,
    /// The timeline that position is on.
    pub timeline: TimelineId,
    /// The WAL segment that holds it: the first one that the backup needs.
    pub wal_segment: WalSegmentName,
    /// Size of WAL segments.
    pub wal_segment_size: WalSegmentSize,
    /// The cluster.
    pub system: SystemIdentifier,
    /// The server's clock after the checkpoint.
    pub server_time: Timestamp,
    /// Whether this is a standby.
    pub in_recovery: bool,
    /// When the postmaster started, microseconds since 1970.
    pub postmaster_start_us: i64,
}

/// Where and when a backup ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopPoint {
    /// WAL up to here is needed. On a standby this is its `minRecoveryPoint` at best; see the control file.
    pub lsn: Lsn,
    /// The last WAL segment that the backup needs.
    pub wal_segment: WalSegmentName,
    /// `backup_label`, byte for byte.
    pub label: Vec<u8>,
    /// `tablespace_map`, byte for byte; empty without tablespaces.
    pub tablespace_map: Vec<u8>,
    /// The server's clock.
    pub server_time: Timestamp,
}

/// A sign of life while files are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Where the server writes WAL now; on a standby, what it has replayed.
    pub lsn: Lsn,
    /// Whether the slot of [`Session::reserve_wal`] still holds its WAL; `None` without a slot.
    pub wal_held: Option<bool>,
}

/// Whether the server keeps the WAL of a backup in `pg_wal` for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// A temporary slot of this session holds WAL from this position on.
    Held {
        /// Its name.
        slot: String,
        /// From where on.
        lsn: Lsn,
    },
    /// The server would not make a slot.
    NotPossible {
        /// Why, in the server's words.
        reason: String,
    },
}

impl Reservation {
    /// From where on WAL is held, if it is.
    pub const fn lsn(&self) -> Option<Lsn> {
        match self {
            Self::Held { lsn, .. } => Some(*lsn),
            Self::NotPossible { .. } => None,
        }
    }
}

/// The server is in backup mode while this lives. Owns the session: dropped without [`BackupMode::stop`], the connection
/// closes and PostgreSQL aborts the backup.
#[must_use = "dropping this aborts the backup"]
#[derive(Debug)]
pub struct BackupMode {
    session: Session,
    start: StartPoint,
}

impl Session {
    /// Asks the server to keep all WAL from its last checkpoint on, by a temporary physical slot of this session. Call it
    /// before [`Session::start_backup`], so that the backup's first WAL segment is held too.
    ///
    /// # Errors
    /// The session is lost. That the server has no slot to give is no error.
    pub fn reserve_wal(&self) -> Result<Reservation, SqlError> {
        let what = "reserve WAL for the backup";
        let slot = self.slot_name();
        let sql = format!(
            "select lsn from pg_create_physical_replication_slot({}, true, true)",
            quote_literal(&slot)
        );
        match self.row(what, &sql) {
            Ok(row) => Ok(Reservation::Held { slot, lsn: parse(what, &row, 0)? }),
            Err(SqlError::Failed { cause, .. }) => Ok(Reservation::NotPossible { reason: cause.text }),
            Err(error) => Err(error),
        }
    }

    fn slot_name(&self) -> String {
        format!("refloat_{}", self.info().backend_pid)
    }

    /// Puts the server into backup mode. Takes as long as a checkpoint does.
    ///
    /// # Errors
    /// Rights are missing, WAL is not written for archiving (`wal_level = minimal`), or the session is lost. The backup
    /// mode ends with the session, which is dropped.
    pub fn start_backup(self, options: &BackupStart) -> Result<BackupMode, SqlError> {
        self.check_backup_rights()?;
        self.check_backend()?;
        let what = "start a backup";
        let label = quote_literal(&options.label);
        let call = if self.info().major() >= 15 {
            format!("select pg_backup_start({label}, {})", options.fast)
        } else {
            format!("select pg_start_backup({label}, {}, false)", options.fast)
        };
        // No limit: a spread checkpoint takes minutes by design.
        let started = self.row_within(what, &call, None)?;
        let lsn: Lsn = parse(what, &started, 0)?;
        let start = self.describe_start(lsn)?;
        Ok(BackupMode { session: self, start })
    }

    fn describe_start(&self, lsn: Lsn) -> Result<StartPoint, SqlError> {
        let what = "ask where the backup started";
        // The insert timeline of a primary is in the names of its WAL segments; a standby's is in its control file. The
        // null is inside the call, because the planner evaluates a call with a constant before any CASE around it.
        let row = self.row(
            what,
            &format!(
                "select left(pg_walfile_name(case when pg_is_in_recovery() then null else '{lsn}'::pg_lsn end), 8), \
                 (select timeline_id from pg_control_checkpoint()), \
                 (select bytes_per_wal_segment from pg_control_init()), \
                 (select system_identifier from pg_control_system()), \
                 (extract(epoch from clock_timestamp()) * 1000000)::bigint, pg_is_in_recovery(), \
                 (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint"
            ),
        )?;
        let unexpected = |answer: String| SqlError::Unexpected { what: what.to_owned(), answer };
        let timeline = match row.first() {
            Some(Some(hex)) => {
                u32::from_str_radix(hex, 16).map_err(|_| unexpected(format!("timeline \"{hex}\"")))?
            }
            _ => parse(what, &row, 1)?,
        };
        let timeline = TimelineId::new(timeline).ok_or_else(|| unexpected("timeline 0".to_owned()))?;
        let size: u32 = parse(what, &row, 2)?;
        let wal_segment_size =
            WalSegmentSize::new(size).ok_or_else(|| unexpected(format!("WAL segments of {size} bytes")))?;
        // A bigint in SQL: identifiers of clusters made after 2038 would be negative there.
        let system: i64 = parse(what, &row, 3)?;
        Ok(StartPoint {
            lsn,
            timeline,
            wal_segment: WalSegmentName::containing(timeline, lsn, wal_segment_size),
            wal_segment_size,
            system: SystemIdentifier(system.cast_unsigned()),
            server_time: timestamp(what, &parse(what, &row, 4)?)?,
            in_recovery: text(what, &row, 5)? == "t",
            postmaster_start_us: parse(what, &row, 6)?,
        })
    }
}

/// Microseconds since 1970 as a time.
pub(super) fn timestamp(what: &str, microseconds: &i64) -> Result<Timestamp, SqlError> {
    Timestamp::from_microsecond(*microseconds)
        .map_err(|_| SqlError::Unexpected { what: what.to_owned(), answer: format!("time {microseconds}") })
}

impl BackupMode {
    /// Where and when it began.
    pub const fn start(&self) -> &StartPoint {
        &self.start
    }

    /// The session, for reading facts meanwhile.
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Proves that the backup still goes on: same backend, same server, no promotion, WAL still held. Call it every few
    /// seconds while copying: hours of copying are lost otherwise before anyone notices.
    ///
    /// # Errors
    /// The session is lost (with a diagnosis), a standby was promoted, or the timeline changed.
    pub fn ping(&self) -> Result<Ping, SqlError> {
        self.alive("copying files")
    }

    fn alive(&self, during: &str) -> Result<Ping, SqlError> {
        self.session.check_backend().map_err(|error| self.diagnose(during, error))?;
        let what = "ask how the backup goes on";
        let slot = quote_literal(&self.session.slot_name());
        let row = self
            .session
            .row(
                what,
                &format!(
                    "select pg_is_in_recovery(), case when pg_is_in_recovery() then \
                     coalesce(pg_last_wal_replay_lsn(), '0/0') else pg_current_wal_insert_lsn() end, \
                     case when pg_is_in_recovery() then null else left(pg_walfile_name(pg_current_wal_lsn()), 8) end, \
                     (select wal_status not in ('unreserved', 'lost') from pg_replication_slots where slot_name = {slot})"
                ),
            )
            .map_err(|error| self.diagnose(during, error))?;
        if self.start.in_recovery && text(what, &row, 0)? == "f" {
            return Err(SqlError::Promoted { target: self.session.options().describe() });
        }
        if let Some(Some(hex)) = row.get(2) {
            let now = u32::from_str_radix(hex, 16).unwrap_or_default();
            if now != self.start.timeline.get() {
                return Err(SqlError::TimelineChanged { from: self.start.timeline.get(), to: now });
            }
        }
        let held: Option<String> = parse_opt(what, &row, 3)?;
        Ok(Ping { lsn: parse(what, &row, 1)?, wal_held: held.map(|held| held == "t") })
    }

    /// Ends the backup without waiting for the archive, and hands the session back.
    ///
    /// # Errors
    /// As [`BackupMode::ping`]; PostgreSQL also refuses when a standby ran with `full_page_writes = off` on its primary
    /// meanwhile. The backup is aborted then.
    pub fn stop(self) -> Result<(StopPoint, Session), SqlError> {
        const DURING: &str = "ending the backup";
        self.alive(DURING)?;
        let what = "end the backup";
        let call = if self.session.info().major() >= 15 {
            "pg_backup_stop(false)"
        } else {
            "pg_stop_backup(false, false)"
        };
        // Hex, because paths of tablespaces may hold bytes that are not UTF-8.
        let sql = format!(
            "select lsn, encode(convert_to(labelfile, 'SQL_ASCII'), 'hex'), \
             encode(convert_to(spcmapfile, 'SQL_ASCII'), 'hex'), \
             (extract(epoch from clock_timestamp()) * 1000000)::bigint from {call}"
        );
        let row = self
            .session
            .row_within(what, &sql, Some(STOP_PATIENCE))
            .map_err(|error| self.promoted(self.diagnose(DURING, error)))?;
        let lsn: Lsn = parse(what, &row, 0)?;
        let map = row.get(2).cloned().flatten().unwrap_or_default();
        let stop = StopPoint {
            lsn,
            wal_segment: WalSegmentName::ending(self.start.timeline, lsn, self.start.wal_segment_size),
            label: unhex(what, text(what, &row, 1)?)?,
            tablespace_map: unhex(what, &map)?,
            server_time: timestamp(what, &parse(what, &row, 3)?)?,
        };
        Ok((stop, self.session))
    }

    /// PostgreSQL notices a promotion itself when the backup ends.
    fn promoted(&self, error: SqlError) -> SqlError {
        match error {
            SqlError::Failed { cause, .. } if cause.text.contains("promoted during online backup") => {
                SqlError::Promoted { target: self.session.options().describe() }
            }
            other => other,
        }
    }

    /// Knocks once more to say what became of the server.
    fn diagnose(&self, during: &str, error: SqlError) -> SqlError {
        let cause = match error {
            SqlError::Lost { cause, .. } => cause,
            SqlError::Silent { seconds, .. } => Cause::said(format!("no answer within {seconds} s")),
            other => return other,
        };
        let diagnosis = match self.session.knock() {
            Ok(again) if again.info().postmaster_start_us != self.start.postmaster_start_us => {
                "the server was restarted"
            }
            Ok(_) => {
                "the server runs, but this session was ended (by an administrator, a crash of another session, or a time limit)"
            }
            Err(SqlError::NoAnswer { cause, .. }) if cause.has_state(&["57P03"]) => {
                "the server is starting, stopping or recovering"
            }
            Err(_) => "the server does not answer any more",
        };
        let (target, during) = (self.session.options().describe(), during.to_owned());
        SqlError::Lost { target, during, diagnosis: diagnosis.to_owned(), cause }
    }
}

fn unhex(what: &str, hex: &str) -> Result<Vec<u8>, SqlError> {
    let byte = |at: usize| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
    bytes.ok_or_else(|| SqlError::Unexpected {
        what: what.to_owned(),
        answer: "text that is not hexadecimal".to_owned(),
    })
}
