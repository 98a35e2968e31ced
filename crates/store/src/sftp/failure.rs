//! What went wrong behind SSH, sorted as the contract of a store wants it.

use std::fmt;
use std::io;

use russh_sftp::client::error::Error;
use russh_sftp::protocol::StatusCode;

use crate::{StoreError, StoreErrorKind};

/// One request that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) kind: StoreErrorKind,
    text: String,
    /// The connection is of no use any more.
    pub(super) is_broken: bool,
}

impl Failed {
    pub(super) fn new(kind: StoreErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), is_broken: false }
    }
    /// No connection, or none any more.
    pub(super) fn broken(text: impl Into<String>) -> Self {
        Self { kind: StoreErrorKind::Unreachable, text: text.into(), is_broken: true }
    }
    pub(super) fn into_error(self, action: &'static str, object: &str, store: &str) -> StoreError {
        let kind = self.kind;
        StoreError::new(kind, action, object, store, io::Error::other(self))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failed {}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        use StoreErrorKind as K;
        match error {
            Error::Status(status) => {
                // What a server writes is shown, but never as control characters.
                let said = status.error_message.escape_debug().to_string();
                let text = if said.is_empty() { status.status_code.to_string() } else { said };
                match status.status_code {
                    StatusCode::NoSuchFile => Self::new(K::NotFound, text),
                    StatusCode::PermissionDenied => Self::new(K::Denied, text),
                    StatusCode::NoConnection | StatusCode::ConnectionLost => Self::broken(text),
                    StatusCode::Eof => Self::new(K::Truncated, "the file ends earlier"),
                    _ => Self::new(K::Other, format!("the server answers: {text}")),
                }
            }
            Error::Timeout => Self::broken("no answer in time"),
            Error::Limited(text) => Self::new(K::Other, text),
            Error::IO(text) | Error::UnexpectedBehavior(text) => Self::broken(text),
            Error::UnexpectedPacket => Self::broken("the server answers something else than was asked"),
        }
    }
}
