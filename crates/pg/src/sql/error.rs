//! What can go wrong in a session, sorted by what the caller can do.

use std::fmt;
use std::io;

use refloat_types::{Advice, Explain};

/// Why a call to the server failed, in the server's or the system's words. Never holds a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FATAL: role "x" does not exist`, or the chain of system errors.
    pub text: String,
    /// The server's SQLSTATE, when the server answered.
    pub sqlstate: Option<String>,
    /// The kind of system error, when there was one.
    pub io: Option<io::ErrorKind>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Cause {}

impl Cause {
    pub(super) fn said(text: impl Into<String>) -> Self {
        Self { text: text.into(), sqlstate: None, io: None }
    }

    pub(super) fn has_state(&self, states: &[&str]) -> bool {
        self.sqlstate.as_deref().is_some_and(|state| states.contains(&state))
    }
}

impl From<&tokio_postgres::Error> for Cause {
    fn from(error: &tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            let mut text = format!("{}: {}", db.severity(), db.message());
            for (word, more) in [("detail", db.detail()), ("hint", db.hint()), ("context", db.where_())] {
                if let Some(more) = more {
                    text.push_str(&format!(" ({word}: {more})"));
                }
            }
            return Self { text, sqlstate: Some(db.code().code().to_owned()), io: None };
        }
        let mut text = error.to_string();
        let mut io = None;
        let mut next = std::error::Error::source(error);
        while let Some(source) = next {
            text.push_str(&format!(": {source}"));
            io = io.or_else(|| source.downcast_ref::<io::Error>().map(io::Error::kind));
            next = source.source();
        }
        Self { text, sqlstate: None, io }
    }
}

/// A session that could not be had, or a call in it that failed.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// Nobody answers there, or not in time, or the server is starting or stopping.
    #[error("could not connect to {target}")]
    NoAnswer {
        /// Where.
        target: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// The server answered and refused.
    #[error("could not connect to {target} as {role}: the server refused")]
    Refused {
        /// Where.
        target: String,
        /// `role "backup"`, or the operating-system user when no role is configured.
        role: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// TLS would be needed.
    #[error("cannot connect to {target}: {why}, and Refloat does not speak TLS to a server")]
    TlsNotSpoken {
        /// Where.
        target: String,
        /// Which setting asks for it.
        why: &'static str,
    },
    /// The server is older than 13.
    #[error("cannot work with {target}: it is PostgreSQL {version}, and Refloat needs 13 or later")]
    TooOld {
        /// Where.
        target: String,
        /// `server_version`.
        version: String,
    },
    /// The role may not do what a backup needs.
    #[error("role \"{role}\" cannot {}", missing.join(", "))]
    MissingRights {
        /// `current_user`.
        role: String,
        /// What it cannot do: `start a backup`.
        missing: Vec<String>,
        /// The statements that mend it.
        grants: Vec<String>,
    },
    /// A connection pooler stands between.
    #[error("cannot use {target}: a connection pooler answers there, not PostgreSQL itself ({evidence})")]
    Pooler {
        /// Where.
        target: String,
        /// What gave it away.
        evidence: String,
    },
    /// The server answers, but it is not the server of the data directory.
    #[error("cannot use {target}: its data directory is {found}, not {expected}")]
    OtherServer {
        /// Where.
        target: String,
        /// The configured data directory.
        expected: String,
        /// What the server says.
        found: String,
    },
    /// The session ended while it was needed.
    #[error("lost the connection to {target} while {during}: {diagnosis}")]
    Lost {
        /// Where.
        target: String,
        /// What was going on: `copying files`.
        during: String,
        /// What a second connection showed: whether the server runs, and since when.
        diagnosis: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// The server did not answer in time within a session.
    #[error("could not {what}: {target} did not answer within {seconds} s")]
    Silent {
        /// Where.
        target: String,
        /// What was attempted.
        what: String,
        /// How long it had.
        seconds: u64,
    },
    /// A statement failed.
    #[error("could not {what}")]
    Failed {
        /// What was attempted: `start a backup`.
        what: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// A standby was promoted while it was backed up.
    #[error("the standby at {target} was promoted while it was backed up")]
    Promoted {
        /// Where.
        target: String,
    },
    /// The timeline changed while a backup ran.
    #[error("the server moved from timeline {from} to timeline {to} while it was backed up")]
    TimelineChanged {
        /// At the start.
        from: u32,
        /// Now.
        to: u32,
    },
    /// Only a primary can do this.
    #[error("cannot {what} on a standby")]
    OnStandby {
        /// What was attempted.
        what: &'static str,
    },
    /// The server's answer makes no sense to us.
    #[error("could not {what}: unexpected answer from the server: {answer}")]
    Unexpected {
        /// What was attempted.
        what: String,
        /// What came.
        answer: String,
    },
    /// The receiver of streamed facts failed.
    #[error("could not keep the list of relations of database \"{database}\"")]
    Sink {
        /// Whose list.
        database: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Where the server listens could not be found out.
    #[error("could not find the server of the data directory")]
    Server(#[from] crate::server::ServerError),
}

impl SqlError {
    /// Sorts a failed attempt to connect.
    pub(super) fn connecting(target: String, role: Option<&str>, cause: Cause) -> Self {
        if cause.text.contains("unsupported startup parameter")
            || cause.text.contains("unsupported options startup")
        {
            return Self::Pooler { target, evidence: format!("it refused a startup option: {}", cause.text) };
        }
        // 57P03: starting up or shutting down, 53300: too many connections, 57P01/57P02: going down, 53*: no resources.
        let later = ["57P03", "53300", "53400", "53200", "53000", "57P01", "57P02", "57P05"];
        // The library itself gives up when a password is asked for and none is configured.
        let no_password =
            cause.text.contains("password missing") || cause.text.contains("authentication error");
        if (cause.sqlstate.is_none() && !no_password) || cause.has_state(&later) {
            return Self::NoAnswer { target, cause };
        }
        let role = role.map_or_else(
            || "the role named like the operating-system user".to_owned(),
            |r| format!("role \"{r}\""),
        );
        Self::Refused { target, role, cause }
    }

    /// Whether the session is gone.
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Silent { .. })
    }
}

fn connect_hint(cause: &Cause) -> String {
    if cause.has_state(&["57P03"]) {
        return "The server is starting, stopping or recovering without hot standby; its log says how far it is.".into();
    }
    if cause.has_state(&["53300"]) {
        return "All connections are in use: raise max_connections or reserve some with superuser_reserved_connections.".into();
    }
    match cause.io {
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            "Start the server, or correct the socket directory and port in the configuration.".into()
        }
        Some(io::ErrorKind::PermissionDenied) => {
            "The socket directory cannot be entered: run Refloat as the owner of the data directory.".into()
        }
        _ => "See whether the server runs and answers: psql -l".into(),
    }
}

fn refused_hints(advice: Advice, role: &str, cause: &Cause) -> Advice {
    if cause.has_state(&["3D000"]) {
        return advice.hint("Name a database that exists; `postgres` is there unless somebody dropped it.");
    }
    if cause.text.contains("does not exist") {
        return advice.hint(format!(
            "Make {role}, or name another one in the configuration of the source: connection = \"user=NAME\""
        ));
    }
    if cause.text.contains("pg_hba.conf") {
        return advice
            .hint("Add this line to pg_hba.conf, above others, then reload: local all postgres peer")
            .hint("Refloat connects as the owner of the data directory, through the Unix socket.");
    }
    if cause.has_state(&["28P01"]) || cause.text.contains("password") {
        return advice.hint(
            "Refloat sends no password: allow `peer` for this role in pg_hba.conf, and connect through the socket.",
        );
    }
    advice
        .hint("See pg_hba.conf and pg_ident.conf: they decide which operating-system user may be which role.")
}

impl Explain for SqlError {
    fn advice(&self) -> Advice {
        const SAFE: &str = "nothing was changed on the server or in a repository";
        const ABORTED: &str =
            "earlier backups are untouched; PostgreSQL itself ended the backup when the session ended";
        match self {
            Self::NoAnswer { cause, .. } => Advice::unreachable("PG-001", SAFE).hint(connect_hint(cause)),
            Self::Refused { role, cause, .. } => refused_hints(Advice::failed("PG-002", SAFE), role, cause),
            Self::TlsNotSpoken { .. } => Advice::usage("PG-003", SAFE)
                .hint("Run Refloat on the server's own host and let it use the Unix socket or 127.0.0.1."),
            Self::TooOld { .. } => Advice::failed("PG-004", SAFE).hint("Back up this server with pg_dump, then upgrade it."),
            Self::MissingRights { grants, .. } => {
                let advice = Advice::failed("PG-005", SAFE).hint("Run this as a superuser in the database that Refloat connects to:");
                grants.iter().fold(advice, |advice, line| advice.hint(line.as_str()))
            }
            Self::Pooler { .. } => Advice::usage("PG-006", SAFE)
                .hint("A backup needs one session of its own. Configure the server's own socket directory and port."),
            Self::OtherServer { .. } => Advice::usage("PG-007", SAFE)
                .hint("Correct the data directory or the port in the configuration: they name two different servers."),
            Self::Lost { .. } => Advice::unreachable("PG-008", ABORTED)
                .hint("See the server's log for the reason, then run the same command again."),
            Self::Silent { .. } => {
                Advice::unreachable("PG-009", ABORTED).hint("See whether the server is overloaded or its disks hang, then try again.")
            }
            Self::Failed { .. } => Advice::failed("PG-010", SAFE).hint("The server's own message above says what is missing."),
            Self::Promoted { .. } => Advice::failed("PG-011", ABORTED)
                .hint("The backup cannot be completed across a promotion. Run it again; it will be a backup of a primary."),
            Self::TimelineChanged { .. } => Advice::failed("PG-012", ABORTED).hint("Run the backup again on the new timeline."),
            Self::OnStandby { .. } => Advice::failed("PG-013", SAFE).hint("Run this on the primary."),
            Self::Unexpected { .. } => Advice::failed("PG-014", SAFE)
                .hint("Report this with the server's version; a fork of PostgreSQL may answer differently."),
            Self::Sink { .. } => Advice::failed("PG-015", SAFE),
            Self::Server(error) => error.advice(),
        }
    }
}
