//! What is recorded with every backup because it cannot be taken afterwards: versions, settings, databases, roles,
//! tablespaces, collations, the host. Never a password.

use serde::{Deserialize, Serialize};

use super::host::HostFacts;
use super::redact::redact_setting;
use super::relations::{ListedDatabase, escaped, unescape};
use super::session::{Row, parse, parse_opt, text};
use super::{Session, Setting, SqlError};

/// Facts about a cluster, its server and its host at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The server.
    pub server: ServerFacts,
    /// The host.
    pub host: HostFacts,
    /// Settings that differ from the built-in defaults.
    pub settings: Vec<Setting>,
    /// Settings of databases and roles (`ALTER ... SET`): database oid or 0, role oid or 0, `name=value` each.
    pub overrides: Vec<(u32, u32, Vec<String>)>,
    /// Databases, by oid.
    pub databases: Vec<DatabaseFact>,
    /// Tablespaces, by oid.
    pub tablespaces: Vec<TablespaceFact>,
    /// Roles, by oid.
    pub roles: Vec<RoleFact>,
    /// Who is a member of which role.
    pub memberships: Vec<MembershipFact>,
}

/// The running server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// `server_version`.
    pub version: String,
    /// `server_version_num`.
    pub version_number: u32,
    /// `version()`: with compiler and machine.
    pub build: String,
    /// `data_directory`; `None` when the role may not see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_directory: Option<String>,
    /// When the postmaster started, microseconds since 1970.
    pub postmaster_start_us: i64,
    /// Whether it was in recovery.
    pub in_recovery: bool,
}

/// One database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseFact {
    /// Its oid, which names its directory.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Whether the name is UTF-8; if not, each byte of it was taken for one character.
    pub name_is_utf8: bool,
    /// Bytes on disk; `None` when it was dropped meanwhile or the role may not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Encoding: `UTF8`.
    pub encoding: String,
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
    /// Locale provider from 15: `c` libc, `i` ICU, `b` builtin.
    pub provider: char,
    /// Locale of the ICU or builtin provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    /// Version of the collation when the database was made or refreshed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collation_version: Option<String>,
    /// Version that the server's libraries have now: another one means that indexes on text may be wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual_collation_version: Option<String>,
    /// Oid of its default tablespace.
    pub tablespace: u32,
    /// Whether anyone may connect.
    pub allows_connections: bool,
    /// `datconnlimit`: -1 none, -2 the database is invalid (a DROP DATABASE was interrupted).
    pub connection_limit: i32,
    /// Whether it is a template.
    pub is_template: bool,
    /// What changed in it.
    pub changes: DatabaseChanges,
}

/// `pg_stat_database`: counters since they were reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseChanges {
    /// Transactions committed.
    pub commits: i64,
    /// Transactions rolled back.
    pub rollbacks: i64,
    /// Rows inserted.
    pub inserted: i64,
    /// Rows updated.
    pub updated: i64,
    /// Rows deleted.
    pub deleted: i64,
    /// Pages whose checksum failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum_failures: Option<i64>,
    /// Since when, microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_us: Option<i64>,
}

/// One tablespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceFact {
    /// Its oid, which names its link below `pg_tblspc`.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Its path; empty for `pg_default` and `pg_global`, relative for one inside the data directory.
    pub location: String,
}

/// One role, without its password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleFact {
    /// Its oid.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// What it may: `superuser`, `inherit`, `createrole`, `createdb`, `login`, `replication`, `bypassrls`.
    pub attributes: Vec<String>,
    /// Most connections at once; -1 for no limit.
    pub connection_limit: i32,
    /// `VALID UNTIL`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<String>,
}

/// A member of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipFact {
    /// Oid of the role.
    pub role: u32,
    /// Oid of its member.
    pub member: u32,
    /// Whether the member may grant it on.
    pub admin: bool,
}

/// What else was read in one database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseContents {
    /// Its oid.
    pub database: u32,
    /// How many relations were listed, or why none.
    pub listed: ListedDatabase,
    /// Its extensions.
    pub extensions: Vec<ExtensionFact>,
    /// Collations that are used in it or were made by users.
    pub collations: Vec<CollationFact>,
}

/// One extension.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtensionFact {
    /// Its name.
    pub name: String,
    /// The version in use.
    pub version: String,
    /// Its schema.
    pub schema: String,
}

/// One collation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollationFact {
    /// Its oid; 100 is the database's default.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `d` the database's, `c` libc, `i` ICU, `b` builtin.
    pub provider: char,
    /// Version when it was made or refreshed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_version: Option<String>,
    /// Version that the server's libraries have now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual_version: Option<String>,
}

impl Session {
    /// Reads the facts of the whole cluster. What is in each database comes from [`Session::contents`].
    ///
    /// # Errors
    /// The session is lost. What the role may not see is left out.
    pub fn facts(&self) -> Result<Facts, SqlError> {
        let what = "ask for the server's version";
        let data_directory = self.data_directory()?;
        let postmaster =
            data_directory.as_deref().and_then(|directory| crate::server::postmaster_pid(directory.as_ref()));
        Ok(Facts {
            server: ServerFacts {
                version: self.info().version.clone(),
                version_number: self.info().version_number,
                build: self.value(what, "select version()")?,
                data_directory,
                postmaster_start_us: self.info().postmaster_start_us,
                in_recovery: self.is_in_recovery()?,
            },
            host: HostFacts::read(postmaster),
            settings: self.changed_settings()?,
            overrides: self.overrides()?,
            databases: self.databases()?,
            tablespaces: self.tablespaces()?,
            roles: self.roles()?,
            memberships: self.memberships()?,
        })
    }

    /// Every database, with what changed in it.
    ///
    /// # Errors
    /// The session is lost.
    pub fn databases(&self) -> Result<Vec<DatabaseFact>, SqlError> {
        let what = "list the databases";
        let locale = match self.info().major() {
            ..=14 => "'c', null, null, null",
            15 | 16 => {
                "d.datlocprovider, d.daticulocale, d.datcollversion, pg_database_collation_actual_version(d.oid)"
            }
            _ => {
                "d.datlocprovider, d.datlocale, d.datcollversion, pg_database_collation_actual_version(d.oid)"
            }
        };
        let sql = format!(
            "select d.oid, {}, pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, {locale}, d.dattablespace, \
             d.datallowconn, d.datconnlimit, d.datistemplate, s.xact_commit, s.xact_rollback, s.tup_inserted, \
             s.tup_updated, s.tup_deleted, s.checksum_failures, (extract(epoch from s.stats_reset) * 1000000)::bigint \
             from pg_database d left join pg_stat_database s on s.datid = d.oid order by d.oid",
            escaped("d.datname")
        );
        let mut databases = Vec::new();
        for row in self.rows(what, &sql)? {
            let (name, name_is_utf8) = unescape(text(what, &row, 1)?);
            let oid = parse(what, &row, 0)?;
            let count = |at| parse_opt::<i64>(what, &row, at).map(Option::unwrap_or_default);
            databases.push(DatabaseFact {
                oid,
                name,
                name_is_utf8,
                size_bytes: self.database_size(oid)?,
                encoding: text(what, &row, 2)?.to_owned(),
                collate: text(what, &row, 3)?.to_owned(),
                ctype: text(what, &row, 4)?.to_owned(),
                provider: parse(what, &row, 5)?,
                locale: parse_opt(what, &row, 6)?,
                collation_version: parse_opt(what, &row, 7)?,
                actual_collation_version: parse_opt(what, &row, 8)?,
                tablespace: parse(what, &row, 9)?,
                allows_connections: is_true(&row, 10),
                connection_limit: parse(what, &row, 11)?,
                is_template: is_true(&row, 12),
                changes: DatabaseChanges {
                    commits: count(13)?,
                    rollbacks: count(14)?,
                    inserted: count(15)?,
                    updated: count(16)?,
                    deleted: count(17)?,
                    checksum_failures: parse_opt(what, &row, 18)?,
                    since_us: parse_opt(what, &row, 19)?,
                },
            });
        }
        Ok(databases)
    }

    /// One statement for each, because one database that is dropped meanwhile must not hide the others.
    fn database_size(&self, oid: u32) -> Result<Option<u64>, SqlError> {
        let what = "ask for the size of a database";
        match self.row(what, &format!("select pg_database_size({oid}::oid)")) {
            Ok(row) => parse_opt(what, &row, 0),
            Err(SqlError::Failed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every tablespace.
    ///
    /// # Errors
    /// The session is lost.
    pub fn tablespaces(&self) -> Result<Vec<TablespaceFact>, SqlError> {
        let what = "list the tablespaces";
        let sql = format!(
            "select oid, {}, {} from pg_tablespace order by oid",
            escaped("spcname"),
            escaped("pg_tablespace_location(oid)")
        );
        let fact = |row: &Row| {
            let location = row.get(2).and_then(Option::as_deref).unwrap_or_default();
            Ok(TablespaceFact {
                oid: parse(what, row, 0)?,
                name: unescape(text(what, row, 1)?).0,
                location: unescape(location).0,
            })
        };
        self.rows(what, &sql)?.iter().map(fact).collect()
    }

    fn roles(&self) -> Result<Vec<RoleFact>, SqlError> {
        const ATTRIBUTES: [&str; 7] =
            ["superuser", "inherit", "createrole", "createdb", "login", "replication", "bypassrls"];
        let what = "list the roles";
        // pg_roles, not pg_authid: it has no passwords and everybody may read it.
        let sql = format!(
            "select oid, {}, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, \
             rolconnlimit, rolvaliduntil from pg_roles order by oid",
            escaped("rolname")
        );
        let fact = |row: &Row| {
            let has = |at: &usize| is_true(row, at + 2);
            Ok(RoleFact {
                oid: parse(what, row, 0)?,
                name: unescape(text(what, row, 1)?).0,
                attributes: (0..7)
                    .filter(has)
                    .filter_map(|at| ATTRIBUTES.get(at))
                    .map(ToString::to_string)
                    .collect(),
                connection_limit: parse(what, row, 9)?,
                valid_until: parse_opt(what, row, 10)?,
            })
        };
        self.rows(what, &sql)?.iter().map(fact).collect()
    }

    fn memberships(&self) -> Result<Vec<MembershipFact>, SqlError> {
        let what = "list the memberships of roles";
        let sql =
            "select roleid, member, bool_or(admin_option) from pg_auth_members group by 1, 2 order by 1, 2";
        let fact = |row: &Row| {
            Ok(MembershipFact {
                role: parse(what, row, 0)?,
                member: parse(what, row, 1)?,
                admin: is_true(row, 2),
            })
        };
        self.rows(what, sql)?.iter().map(fact).collect()
    }

    fn overrides(&self) -> Result<Vec<(u32, u32, Vec<String>)>, SqlError> {
        let what = "list the settings of databases and roles";
        let sql = format!(
            "select setdatabase, setrole, {} from pg_db_role_setting, unnest(setconfig) as s(line) \
             order by setdatabase, setrole",
            escaped("line")
        );
        let mut all: Vec<(u32, u32, Vec<String>)> = Vec::new();
        for row in self.rows(what, &sql)? {
            let (database, role) = (parse(what, &row, 0)?, parse(what, &row, 1)?);
            let (line, _) = unescape(text(what, &row, 2)?);
            let (name, value) = line.split_once('=').unwrap_or((&line, ""));
            let line = format!("{name}={}", redact_setting(name, value));
            match all.last_mut() {
                Some(last) if (last.0, last.1) == (database, role) => last.2.push(line),
                _ => all.push((database, role, vec![line])),
            }
        }
        Ok(all)
    }
}

fn is_true(row: &Row, at: usize) -> bool {
    row.get(at).and_then(Option::as_deref) == Some("t")
}
