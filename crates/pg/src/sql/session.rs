//! One connection to one backend, with settings that nobody else's configuration can disturb.

use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{Cause, ConnectOptions, Place, SqlError};

/// What the server said about itself when the session began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// `server_version_num`: 150019.
    pub version_number: u32,
    /// `server_version`: `15.19 (Debian 15.19-0+deb12u1)`.
    pub version: String,
    /// The backend that serves this session.
    pub backend_pid: u32,
    /// `current_user`.
    pub user: String,
    /// Whether that is a superuser.
    pub is_superuser: bool,
    /// When the postmaster started, microseconds since 1970.
    pub postmaster_start_us: i64,
    /// Encoding of the session's database: `UTF8`.
    pub database_encoding: String,
}

impl ServerInfo {
    /// Major version: 15.
    pub const fn major(&self) -> u32 {
        self.version_number / 10_000
    }
}

/// A session with one backend of its own. Dropped: the connection closes.
#[derive(Debug)]
pub struct Session {
    runtime: Runtime,
    client: Client,
    connection: JoinHandle<()>,
    goodbye: Arc<Mutex<Option<Cause>>>,
    options: ConnectOptions,
    marker: String,
    info: ServerInfo,
}

/// One row, by position; `None` is SQL's null.
pub(super) type Row = Vec<Option<String>>;

impl Session {
    /// Connects and prepares the session: empty `search_path`, every timeout 0, UTC.
    ///
    /// # Errors
    /// Nothing answers, the server refuses, it is too old, or a pooler stands between. Nothing is left behind.
    pub fn connect(options: &ConnectOptions) -> Result<Self, SqlError> {
        let marker = random_marker();
        let config = options.config(&marker)?;
        let target = options.describe();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
                SqlError::NoAnswer { target: target.clone(), cause: Cause::said(error.to_string()) }
            })?;
        // The library's own limit covers each address; this one also covers a peer that accepts and then says nothing.
        let limit = options.connect_timeout + Duration::from_secs(1);
        let connected = runtime.block_on(async { tokio::time::timeout(limit, config.connect(NoTls)).await });
        let (client, connection) = match connected {
            Ok(Ok(pair)) => pair,
            Ok(Err(error)) => {
                return Err(SqlError::connecting(target, options.user.as_deref(), Cause::from(&error)));
            }
            Err(_) => {
                let seconds = options.connect_timeout.as_secs();
                let cause = Cause {
                    io: Some(std::io::ErrorKind::TimedOut),
                    ..Cause::said(format!("no answer within {seconds} s"))
                };
                return Err(SqlError::NoAnswer { target, cause });
            }
        };
        let goodbye = Arc::new(Mutex::new(None));
        let heard = Arc::clone(&goodbye);
        let connection = runtime.spawn(async move {
            if let Err(error) = connection.await {
                *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Cause::from(&error));
            }
        });
        let info = ServerInfo {
            version_number: 0,
            version: String::new(),
            backend_pid: 0,
            user: String::new(),
            is_superuser: false,
            postmaster_start_us: 0,
            database_encoding: String::new(),
        };
        let mut session =
            Self { runtime, client, connection, goodbye, options: options.clone(), marker, info };
        session.info = session.read_info()?;
        session.prepare()?;
        Ok(session)
    }

    /// Connects to the server that runs in `data_directory`: socket and port come from its `postmaster.pid` unless
    /// `options` names them, and the answering server is asked for its data directory.
    ///
    /// # Errors
    /// As [`Session::connect`]; also when no server runs there, or another one answers.
    pub fn connect_to(data_directory: &Path, options: &ConnectOptions) -> Result<Self, SqlError> {
        let mut options = options.clone();
        if options.place.is_none() || options.port.is_none() {
            let found = crate::server::listening(data_directory)?;
            options.port = options.port.or(found.port);
            if options.place.is_none() {
                options.place = Some(match (found.socket_directory, found.listen_address) {
                    (Some(directory), _) => Place::Socket(directory),
                    (None, Some(address)) => {
                        Place::Tcp(if address == "*" { "localhost".to_owned() } else { address })
                    }
                    (None, None) => options.place_or_default(),
                });
            }
        }
        let session = Self::connect(&options)?;
        let Some(found) = session.data_directory()? else { return Ok(session) };
        let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if real(Path::new(&found)) != real(data_directory) {
            let expected = data_directory.display().to_string();
            return Err(SqlError::OtherServer { target: options.describe(), expected, found });
        }
        Ok(session)
    }

    /// What the server said about itself.
    pub const fn info(&self) -> &ServerInfo {
        &self.info
    }
    /// How this session was reached, with the place and port that were found.
    pub const fn options(&self) -> &ConnectOptions {
        &self.options
    }
    /// `data_directory`; `None` when the role may not see it.
    ///
    /// # Errors
    /// The session is lost.
    pub fn data_directory(&self) -> Result<Option<String>, SqlError> {
        let rows = self.rows(
            "read the data directory",
            "select setting from pg_settings where name = 'data_directory'",
        )?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// Whether the server is in recovery: a standby, or a restored one still replaying.
    ///
    /// # Errors
    /// The session is lost.
    pub fn is_in_recovery(&self) -> Result<bool, SqlError> {
        Ok(self.value("ask whether the server is in recovery", "select pg_is_in_recovery()")? == "t")
    }

    /// Ends the session in order.
    pub fn close(self) {
        let Self { runtime, client, connection, .. } = self;
        drop(client);
        let _ = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(2), connection).await });
    }

    fn read_info(&self) -> Result<ServerInfo, SqlError> {
        let what = "ask the server for its version";
        let row = self.row(
            what,
            "select current_setting('server_version_num'), current_setting('server_version'), pg_backend_pid(), \
             current_user, coalesce((select rolsuper from pg_roles where rolname = current_user), false), \
             (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint, \
             current_setting('refloat.session', true), current_setting('server_encoding')",
        )?;
        let info = ServerInfo {
            version_number: parse(what, &row, 0)?,
            version: text(what, &row, 1)?.to_owned(),
            backend_pid: parse(what, &row, 2)?,
            user: text(what, &row, 3)?.to_owned(),
            is_superuser: text(what, &row, 4)? == "t",
            postmaster_start_us: parse(what, &row, 5)?,
            database_encoding: text(what, &row, 7)?.to_owned(),
        };
        self.check_marker(row.get(6).and_then(Option::as_deref))?;
        if info.version_number < 130_000 {
            return Err(SqlError::TooOld { target: self.options.describe(), version: info.version });
        }
        Ok(info)
    }

    /// A pooler opens its server connections itself, with its own startup packet, so the marker does not come through.
    fn check_marker(&self, found: Option<&str>) -> Result<(), SqlError> {
        if found == Some(self.marker.as_str()) {
            return Ok(());
        }
        let evidence = "the startup option refloat.session did not reach the backend".to_owned();
        Err(SqlError::Pooler { target: self.options.describe(), evidence })
    }

    /// Proves that the same backend still serves this session.
    pub(super) fn check_backend(&self) -> Result<(), SqlError> {
        let what = "ask for a sign of life";
        // Lets the connection read first: the server's goodbye, if any, says more than a broken pipe.
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        let row = self.row(what, "select pg_backend_pid(), current_setting('refloat.session', true)")?;
        self.check_marker(row.get(1).and_then(Option::as_deref))?;
        let pid: u32 = parse(what, &row, 0)?;
        if pid != self.info.backend_pid {
            let evidence =
                format!("the backend changed from process {} to process {pid}", self.info.backend_pid);
            return Err(SqlError::Pooler { target: self.options.describe(), evidence });
        }
        Ok(())
    }

    fn prepare(&self) -> Result<(), SqlError> {
        // synchronous_commit: what little we write must never wait for a standby that is away.
        let mut settings = vec![
            ("search_path", ""),
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
            ("idle_in_transaction_session_timeout", "0"),
            ("synchronous_commit", "local"),
            ("default_transaction_read_only", "off"),
            ("standard_conforming_strings", "on"),
            ("datestyle", "ISO, YMD"),
            ("timezone", "UTC"),
            ("client_min_messages", "warning"),
        ];
        if self.info.major() >= 14 {
            settings.push(("idle_session_timeout", "0"));
        }
        if self.info.major() >= 17 {
            settings.push(("transaction_timeout", "0"));
        }
        let calls: Vec<_> = settings
            .iter()
            .map(|(name, value)| {
                format!("pg_catalog.set_config({}, {}, false)", quote_literal(name), quote_literal(value))
            })
            .collect();
        self.rows("prepare the session", &format!("select {}", calls.join(", "))).map(drop)
    }

    /// Rows of one statement, as text.
    pub(super) fn rows(&self, what: &str, sql: &str) -> Result<Vec<Row>, SqlError> {
        self.rows_within(what, sql, Some(self.options.answer_timeout))
    }

    /// Rows of one statement that may take as long as `limit`; `None` waits for ever.
    pub(super) fn rows_within(
        &self,
        what: &str,
        sql: &str,
        limit: Option<Duration>,
    ) -> Result<Vec<Row>, SqlError> {
        let asked = self.wait(limit, self.client.simple_query(sql)).ok_or_else(|| SqlError::Silent {
            target: self.options.describe(),
            what: what.to_owned(),
            seconds: limit.map_or(0, |limit| limit.as_secs()),
        })?;
        let messages = asked.map_err(|error| self.sort(what, &error))?;
        let mut rows = Vec::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                let mut values = Vec::with_capacity(row.len());
                for at in 0..row.len() {
                    values.push(row.try_get(at).map_err(|error| self.sort(what, &error))?.map(str::to_owned));
                }
                rows.push(values);
            }
        }
        Ok(rows)
    }

    /// The one row a statement must return.
    pub(super) fn row(&self, what: &str, sql: &str) -> Result<Row, SqlError> {
        self.row_within(what, sql, Some(self.options.answer_timeout))
    }

    pub(super) fn row_within(&self, what: &str, sql: &str, limit: Option<Duration>) -> Result<Row, SqlError> {
        let mut rows = self.rows_within(what, sql, limit)?;
        match (rows.pop(), rows.len()) {
            (Some(row), 0) => Ok(row),
            (_, more) => Err(SqlError::Unexpected {
                what: what.to_owned(),
                answer: format!("{more} rows besides one"),
            }),
        }
    }

    /// The one value a statement must return.
    pub(super) fn value(&self, what: &str, sql: &str) -> Result<String, SqlError> {
        Ok(text(what, &self.row(what, sql)?, 0)?.to_owned())
    }

    fn wait<T>(&self, limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async {
            match limit {
                Some(limit) => tokio::time::timeout(limit, work).await.ok(),
                None => Some(work.await),
            }
        })
    }

    fn sort(&self, what: &str, error: &tokio_postgres::Error) -> SqlError {
        let cause = Cause::from(error);
        // 57P01..57P05, 08*: the backend said goodbye. Without a state the connection itself broke.
        let goodbye =
            cause.has_state(&["57P01", "57P02", "57P03", "57P04", "57P05", "08006", "08003", "08P01"]);
        if error.is_closed() || cause.io.is_some() || goodbye {
            let diagnosis = "the session ended".to_owned();
            let (target, during) = (self.options.describe(), format!("trying to {what}"));
            return SqlError::Lost { target, during, diagnosis, cause: self.last_words().unwrap_or(cause) };
        }
        SqlError::Failed { what: what.to_owned(), cause }
    }

    /// Why the connection ended, as far as its own task knows: the server's goodbye may lie unread in the socket.
    fn last_words(&self) -> Option<Cause> {
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
        self.goodbye.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same server through a new connection, with little patience: for a diagnosis.
    pub(super) fn knock(&self) -> Result<Self, SqlError> {
        Self::connect(&ConnectOptions {
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(5),
            ..self.options.clone()
        })
    }
}

/// A value for a startup option: letters and digits, new for each connection. It identifies; it is no secret.
fn random_marker() -> String {
    let draw = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("r{:016x}{:016x}", draw(), draw())
}

/// A string constant, safe with `standard_conforming_strings` on or off.
pub(super) fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// The column's text, which must not be null.
pub(super) fn text<'a>(what: &str, row: &'a Row, at: usize) -> Result<&'a str, SqlError> {
    let missing =
        || SqlError::Unexpected { what: what.to_owned(), answer: format!("column {at} is missing or null") };
    row.get(at).and_then(Option::as_deref).ok_or_else(missing)
}

/// The column parsed, which must not be null.
pub(super) fn parse<T: std::str::FromStr>(what: &str, row: &Row, at: usize) -> Result<T, SqlError> {
    let text = text(what, row, at)?;
    text.parse().map_err(|_| SqlError::Unexpected {
        what: what.to_owned(),
        answer: format!("column {at} is \"{text}\""),
    })
}

/// The column parsed; `None` for null.
pub(super) fn parse_opt<T: std::str::FromStr>(
    what: &str,
    row: &Row,
    at: usize,
) -> Result<Option<T>, SqlError> {
    match row.get(at) {
        Some(Some(_)) => parse(what, row, at).map(Some),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_hold_whatever_is_in_them() {
        assert_eq!(quote_literal("o'clock"), "'o''clock'");
        assert_eq!(quote_literal(r"a\'b"), r"E'a\\''b'");
    }
}
