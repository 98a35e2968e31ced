//! What the session's role must be allowed to do, and the statements that allow it.

use super::session::{quote_literal, text};
use super::{Session, SqlError};

impl Session {
    /// Refuses a role that lacks a right that a backup needs, naming every missing one and its remedy at once. A
    /// superuser lacks none.
    ///
    /// # Errors
    /// [`SqlError::MissingRights`], or the session is lost.
    pub fn check_backup_rights(&self) -> Result<(), SqlError> {
        if self.info().is_superuser {
            return Ok(());
        }
        let role = quote_identifier(&self.info().user);
        let (start, stop) = if self.info().major() >= 15 {
            ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)")
        } else {
            ("pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)")
        };
        let mut missing = Vec::new();
        let mut grants = Vec::new();
        for (can, function) in [
            ("start a backup", start),
            ("end a backup", stop),
            ("switch to a new WAL segment", "pg_switch_wal()"),
        ] {
            if !self.may_execute(function)? {
                missing.push(can.to_owned());
                grants.push(format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {role};"));
            }
        }
        // pg_monitor: all settings, statistics, sizes, and the directories of WAL.
        if !self.is_member("pg_monitor")? {
            missing.push("read all settings and statistics".to_owned());
            grants.push(format!("GRANT pg_monitor TO {role};"));
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(SqlError::MissingRights { role: self.info().user.clone(), missing, grants })
    }

    fn may_execute(&self, function: &str) -> Result<bool, SqlError> {
        let what = "ask what this role may do";
        let sql = format!(
            "select has_function_privilege({}, 'execute')",
            quote_literal(&format!("pg_catalog.{function}"))
        );
        Ok(text(what, &self.row(what, &sql)?, 0)? == "t")
    }

    fn is_member(&self, role: &str) -> Result<bool, SqlError> {
        let what = "ask what this role may do";
        let sql = format!("select pg_has_role({}, 'usage')", quote_literal(role));
        Ok(text(what, &self.row(what, &sql)?, 0)? == "t")
    }
}

fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
