//! Settings as the running server has them, with where each came from.

use serde::{Deserialize, Serialize};

use super::redact::redact_setting;
use super::session::{parse_opt, quote_literal, text};
use super::{Session, SqlError};

/// One setting of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value in the base unit, as `pg_settings` has it; passwords and the like read `***`.
    pub value: String,
    /// The base unit: `8kB`, `ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Where it came from: `configuration file`, `command line`, `database`.
    pub source: String,
    /// The file. `None` when the role may not see it, or when it came from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// When a change takes effect: `postmaster`, `sighup`, `user`.
    pub context: String,
    /// Whether the files hold another value that waits for a restart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending_restart: bool,
}

const COLUMNS: &str =
    "select name, setting, unit, source, sourcefile, sourceline, context, pending_restart from pg_settings";

impl Session {
    /// The settings of these names that the server has; unknown names are left out.
    ///
    /// # Errors
    /// The session is lost.
    pub fn settings(&self, names: &[&str]) -> Result<Vec<Setting>, SqlError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<_> = names.iter().map(|name| quote_literal(name)).collect();
        self.read_settings(&format!("{COLUMNS} where name in ({}) order by name", names.join(", ")))
    }

    /// One setting as `SHOW` prints it: `16MB`.
    ///
    /// # Errors
    /// There is no such setting, the role may not see it, or the session is lost.
    pub fn show(&self, name: &str) -> Result<String, SqlError> {
        self.value(
            &format!("read setting {name}"),
            &format!("select current_setting({})", quote_literal(name)),
        )
    }

    /// Every setting that differs from its built-in default, except those of this very session.
    ///
    /// # Errors
    /// The session is lost.
    pub fn changed_settings(&self) -> Result<Vec<Setting>, SqlError> {
        self.read_settings(&format!(
            "{COLUMNS} where source not in ('default', 'session', 'client') order by name"
        ))
    }

    fn read_settings(&self, sql: &str) -> Result<Vec<Setting>, SqlError> {
        let what = "read the server's settings";
        let mut settings = Vec::new();
        for row in self.rows(what, sql)? {
            let name = text(what, &row, 0)?.to_owned();
            let value = row.get(1).cloned().flatten().unwrap_or_default();
            settings.push(Setting {
                value: redact_setting(&name, &value),
                name,
                unit: parse_opt(what, &row, 2)?,
                source: text(what, &row, 3)?.to_owned(),
                file: parse_opt(what, &row, 4)?,
                line: parse_opt(what, &row, 5)?,
                context: text(what, &row, 6)?.to_owned(),
                pending_restart: text(what, &row, 7)? == "t",
            });
        }
        Ok(settings)
    }
}
