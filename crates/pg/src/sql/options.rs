//! Where a session connects to, and as whom.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::SqlError;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The directory of its Unix socket.
    Socket(PathBuf),
    /// A host name or address.
    Tcp(String),
}

/// Whether a connection is encrypted. Refloat runs on the server's host and does not speak TLS to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SslMode {
    /// Never.
    Disable,
    /// Not needed: a socket and the loopback interface do without.
    #[default]
    Prefer,
    /// Needed: refused.
    Require,
}

/// A password that prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How to reach a server.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Where it listens. `None`: where `postmaster.pid` says, with [`super::Session::connect_to`], otherwise
    /// `/var/run/postgresql`.
    pub place: Option<Place>,
    /// Its port. `None`: as `place`, otherwise 5432.
    pub port: Option<u16>,
    /// The role. `None`: named like the operating-system user of this process.
    pub user: Option<String>,
    /// The database.
    pub database: String,
    /// A password, when `pg_hba.conf` asks for one.
    pub password: Option<Password>,
    /// Whether TLS is wanted.
    pub ssl_mode: SslMode,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an answer may take, where the server does not wait for something by design (a checkpoint).
    pub answer_timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            place: None,
            port: None,
            user: None,
            database: "postgres".to_owned(),
            password: None,
            ssl_mode: SslMode::Prefer,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(120),
        }
    }
}

impl ConnectOptions {
    /// The same server, another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        Self { database: name.to_owned(), ..self.clone() }
    }

    /// What messages call the server: `socket /run/postgresql, port 5432`. Holds no secret.
    pub fn describe(&self) -> String {
        let port = self.port.unwrap_or(5432);
        match self.place_or_default() {
            Place::Socket(directory) => {
                format!("the server at socket directory {}, port {port}", directory.display())
            }
            Place::Tcp(host) => format!("the server at host {host}, port {port}"),
        }
    }

    pub(super) fn place_or_default(&self) -> Place {
        self.place.clone().unwrap_or_else(|| Place::Socket(PathBuf::from("/var/run/postgresql")))
    }

    /// What tokio-postgres is told; `marker` comes back only from a backend that was started for this connection.
    pub(super) fn config(&self, marker: &str) -> Result<tokio_postgres::Config, SqlError> {
        let mut config = tokio_postgres::Config::new();
        if self.ssl_mode == SslMode::Require {
            return Err(SqlError::TlsNotSpoken { target: self.describe(), why: "sslmode is require" });
        }
        match self.place_or_default() {
            Place::Socket(directory) => config.host_path(directory),
            Place::Tcp(host) if is_loopback(&host) || self.ssl_mode == SslMode::Disable => config.host(host),
            Place::Tcp(_) => {
                return Err(SqlError::TlsNotSpoken {
                    target: self.describe(),
                    why: "the server is on another host, and sslmode is not disable",
                });
            }
        };
        config.port(self.port.unwrap_or(5432)).dbname(self.database.as_str()).application_name("refloat");
        config.ssl_mode(tokio_postgres::config::SslMode::Disable).connect_timeout(self.connect_timeout);
        config.keepalives(true).keepalives_idle(Duration::from_secs(30));
        config.keepalives_interval(Duration::from_secs(10)).keepalives_retries(6);
        // The path is empty before the first statement is parsed: no function of a user can stand in for PostgreSQL's.
        // Nor may a time limit of the role end that statement; limits that 13 lacks are lifted later.
        config.options(format!(
            "-c search_path= -c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off \
             -c refloat.session={marker}"
        ));
        if let Some(user) = &self.user {
            config.user(user.as_str());
        }
        if let Some(Password(password)) = &self.password {
            config.password(password.as_str());
        }
        Ok(config)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use refloat_types::Explain as _;

    use super::*;

    #[test]
    fn tls_is_refused_before_anything_is_sent() {
        let required = ConnectOptions { ssl_mode: SslMode::Require, ..ConnectOptions::default() };
        let error = required.config("m").expect_err("no TLS");
        assert_eq!(
            error.to_string(),
            "cannot connect to the server at socket directory /var/run/postgresql, port 5432: sslmode is require, and \
             Refloat does not speak TLS to a server"
        );
        assert_eq!(error.advice().exit_code(), 2);
        let remote =
            ConnectOptions { place: Some(Place::Tcp("db.example".into())), ..ConnectOptions::default() };
        assert!(remote.config("m").is_err());
        for near in ["localhost", "127.0.0.1", "::1"] {
            let near = ConnectOptions { place: Some(Place::Tcp(near.into())), ..ConnectOptions::default() };
            assert!(near.config("m").is_ok());
        }
    }

    #[test]
    fn a_password_is_never_printed() {
        let options =
            ConnectOptions { password: Some(Password("hunter2".into())), ..ConnectOptions::default() };
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
