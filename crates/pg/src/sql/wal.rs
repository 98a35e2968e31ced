//! WAL as SQL sees it: where it is written, switching segments, and how archiving goes.

use refloat_types::{Lsn, Timestamp, WalFileName, WalSegmentName, WalSegmentSize};

use super::backup_mode::timestamp;
use super::session::{parse, parse_opt, quote_literal, text};
use super::{Session, SqlError};

/// A WAL segment that is complete now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwitchedWal {
    /// End of the record that was written to it last by us. WAL up to here leaves with the segment.
    pub lsn: Lsn,
    /// The segment: the archiver gets it next.
    pub segment: WalSegmentName,
}

/// How archiving is set up and how it goes (`pg_stat_archiver`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiverStatus {
    /// `archive_mode`: `off`, `on` or `always`.
    pub mode: String,
    /// `archive_command`; empty when unset or when the role may not see it.
    pub command: String,
    /// `archive_library`, from 15.
    pub library: String,
    /// Files archived since the statistics were reset.
    pub archived: u64,
    /// The last file archived: a segment, a history file or a backup history file.
    pub last_archived: Option<String>,
    /// When.
    pub last_archived_at: Option<Timestamp>,
    /// Attempts that failed since the statistics were reset.
    pub failed: u64,
    /// The file of the last failed attempt.
    pub last_failed: Option<String>,
    /// When.
    pub last_failed_at: Option<Timestamp>,
    /// When the statistics were reset.
    pub statistics_since: Option<Timestamp>,
}

impl ArchiverStatus {
    /// Whether the last thing that happened was a failure.
    pub fn is_failing(&self) -> bool {
        self.last_failed_at.is_some() && self.last_failed_at > self.last_archived_at
    }
    /// The last archived file, when its name is one of PostgreSQL's.
    pub fn last_archived_file(&self) -> Option<WalFileName> {
        self.last_archived.as_deref().and_then(|name| name.parse().ok())
    }
}

impl Session {
    /// Where WAL is written now; on a standby, what is replayed.
    ///
    /// # Errors
    /// The session is lost.
    pub fn current_wal_lsn(&self) -> Result<Lsn, SqlError> {
        let what = "ask where WAL is written";
        let sql = "select case when pg_is_in_recovery() then coalesce(pg_last_wal_replay_lsn(), '0/0') \
                   else pg_current_wal_lsn() end";
        parse(what, &self.row(what, sql)?, 0)
    }

    /// Completes the current WAL segment and says which one it was.
    ///
    /// On a server where nothing was written since the last switch, `pg_switch_wal` does nothing and names a segment that
    /// will not be archived. So a record is written first: a non-transactional logical message with prefix `refloat`. It
    /// needs no right and works at every `wal_level`, and unlike a restore point it does not show up as a recovery target.
    ///
    /// # Errors
    /// The server is a standby, the role may not switch, or the session is lost.
    pub fn switch_wal(&self) -> Result<SwitchedWal, SqlError> {
        let what = "switch to a new WAL segment";
        if self.is_in_recovery()? {
            return Err(SqlError::OnStandby { what });
        }
        // The message's end says which segment holds it, also when another session switches in between.
        let message = "select pg_logical_emit_message(false, 'refloat'::text, 'wal switch'::text)";
        let lsn: Lsn = parse(what, &self.row(what, message)?, 0)?;
        let row = self.row(
            what,
            &format!("select pg_walfile_name('{lsn}'), (select bytes_per_wal_segment from pg_control_init()), pg_switch_wal()"),
        )?;
        let named: WalSegmentName = parse(what, &row, 0)?;
        let unexpected = || SqlError::Unexpected { what: what.to_owned(), answer: format!("{row:?}") };
        let size = WalSegmentSize::new(parse(what, &row, 1)?).ok_or_else(unexpected)?;
        Ok(SwitchedWal { lsn, segment: WalSegmentName::ending(named.timeline, lsn, size) })
    }

    /// Writes a named restore point and returns its LSN.
    ///
    /// # Errors
    /// The server is a standby, `wal_level` is minimal, the name is longer than 63 bytes, or the role may not.
    pub fn create_restore_point(&self, name: &str) -> Result<Lsn, SqlError> {
        let what = "create a restore point";
        if self.is_in_recovery()? {
            return Err(SqlError::OnStandby { what });
        }
        parse(what, &self.row(what, &format!("select pg_create_restore_point({})", quote_literal(name)))?, 0)
    }

    /// How archiving is set up and how it goes.
    ///
    /// # Errors
    /// The session is lost.
    pub fn archiver_status(&self) -> Result<ArchiverStatus, SqlError> {
        let what = "ask how archiving goes";
        let time = |column: &str| format!("(extract(epoch from {column}) * 1000000)::bigint");
        let sql = format!(
            "select current_setting('archive_mode'), \
             coalesce((select setting from pg_settings where name = 'archive_command'), ''), \
             coalesce((select setting from pg_settings where name = 'archive_library'), ''), \
             archived_count, last_archived_wal, {}, failed_count, last_failed_wal, {}, {} from pg_stat_archiver",
            time("last_archived_time"),
            time("last_failed_time"),
            time("stats_reset")
        );
        let row = self.row(what, &sql)?;
        let at = |column: usize| -> Result<Option<Timestamp>, SqlError> {
            parse_opt::<i64>(what, &row, column)?.map(|us| timestamp(what, &us)).transpose()
        };
        // PostgreSQL shows an unset command as "(disabled)" while archiving is off.
        let command = text(what, &row, 1)?;
        Ok(ArchiverStatus {
            mode: text(what, &row, 0)?.to_owned(),
            command: if command == "(disabled)" { String::new() } else { command.to_owned() },
            library: text(what, &row, 2)?.to_owned(),
            archived: parse(what, &row, 3)?,
            last_archived: parse_opt(what, &row, 4)?,
            last_archived_at: at(5)?,
            failed: parse(what, &row, 6)?,
            last_failed: parse_opt(what, &row, 7)?,
            last_failed_at: at(8)?,
            statistics_since: at(9)?,
        })
    }
}
