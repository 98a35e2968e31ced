//! Opens the store that a URL names.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use refloat_types::{Advice, Explain};

use crate::posix::{Options, PosixStore};
use crate::{Store, StoreError};

/// A store that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The text is no URL.
    #[error("\"{0}\" is not the URL of a store")]
    NotAUrl(String),
    /// A kind of store that this build does not know.
    #[error("this build cannot open \"{scheme}\" stores; it knows: file")]
    UnknownScheme {
        /// What stands before `://`.
        scheme: String,
    },
    /// A file URL that names no absolute path of this host.
    #[error("\"{url}\" cannot be used: {reason}")]
    BadFileUrl {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The store's directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Explain for OpenError {
    fn advice(&self) -> Advice {
        let safe = "nothing was touched";
        match self {
            Self::NotAUrl(text) if text.starts_with('/') => {
                Advice::usage("STO-020", safe).hint(format!("Write it as a URL: file://{text}"))
            }
            Self::NotAUrl(_) => Advice::usage("STO-020", safe).hint("Write it as file:///absolute/path."),
            Self::UnknownScheme { .. } => Advice::usage("STO-021", safe)
                .hint("Use a local or mounted directory: file:///absolute/path."),
            Self::BadFileUrl { .. } => Advice::usage("STO-022", safe)
                .hint("Write it as file:///absolute/path, with %20 for a space."),
            Self::Store(error) => error.advice(),
        }
    }
}

/// Opens the store at `url`: `file:///absolute/path`, where `%` and two hex digits stand for any byte.
///
/// # Errors
/// A URL of another kind, or a directory that cannot be used.
pub fn open_url(url: &str, options: Options) -> Result<Box<dyn Store>, OpenError> {
    Ok(Box::new(PosixStore::open(file_path(url)?, options)?))
}

/// The path that a `file:` URL names.
///
/// # Errors
/// As for [`open_url`], except for the directory itself.
pub fn file_path(url: &str) -> Result<PathBuf, OpenError> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| OpenError::NotAUrl(url.to_owned()))?;
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    if scheme.is_empty() || !scheme.bytes().all(good) {
        return Err(OpenError::NotAUrl(url.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("file") {
        // Only the scheme goes into the message: the rest may hold a secret.
        return Err(OpenError::UnknownScheme { scheme: scheme.to_owned() });
    }
    let bad = |reason| OpenError::BadFileUrl { url: url.to_owned(), reason };
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(bad("a file URL has three slashes and an absolute path"));
    }
    if path.contains(['?', '#']) {
        return Err(bad("a file URL has neither a query nor a fragment"));
    }
    let bytes =
        percent_decode(path).ok_or_else(|| bad("% must be followed by two hex digits other than 00"))?;
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

/// The URL of `path`, as messages name a store.
pub(crate) fn file_url(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt as _;
    let mut url = String::from("file://");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'_' | b'-' | b'~' | b'+' | b'@' | b':' | b',' | b'=' => url.push(char::from(byte)),
            b if b.is_ascii_alphanumeric() => url.push(char::from(b)),
            b => {
                let _ = write!(url, "%{b:02X}");
            }
        }
    }
    url
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| char::from(b?).to_digit(16);
        let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
        out.push(u8::try_from(value).ok().filter(|&b| b != 0)?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_url() {
        for path in ["/srv/backup", "/with space/ä%", "/a#b?c"] {
            assert_eq!(file_path(&file_url(Path::new(path))).unwrap(), PathBuf::from(path));
        }
        assert_eq!(file_path("FILE://localhost/x").unwrap(), PathBuf::from("/x"));
    }

    #[test]
    fn what_cannot_be_opened_is_said() {
        let message = |url: &str| file_path(url).unwrap_err().to_string();
        assert_eq!(message("/srv/backup"), "\"/srv/backup\" is not the URL of a store");
        assert_eq!(message("s3://key:secret@bucket"), "this build cannot open \"s3\" stores; it knows: file");
        assert_eq!(
            message("file://srv/backup"),
            "\"file://srv/backup\" cannot be used: a file URL has three slashes and an absolute path"
        );
        for url in ["", "://x", "file:///a%", "file:///a%zz", "file:///a%00", "file:///a?b", "nothing at all"]
        {
            assert!(file_path(url).is_err(), "{url}");
        }
        let advice = file_path("/srv/backup").unwrap_err().advice();
        assert_eq!(advice.hints, ["Write it as a URL: file:///srv/backup"]);
    }
}
