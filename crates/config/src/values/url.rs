//! Where a repository is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::Value as Json;

use crate::error::{Fault, Problem};
use crate::node::{Node, Value};
use crate::setting::{At, Setting, schema_of, text_schema, wrong_type};
use crate::values::plain::absolute;

/// Schemes of the stores to come, with their names.
const LATER: &[(&str, &str)] = &[
    ("s3", "S3"),
    ("gs", "Google Cloud Storage"),
    ("azblob", "Azure Blob Storage"),
    ("sftp", "SFTP"),
    ("webdav", "WebDAV"),
    ("webdavs", "WebDAV"),
    ("dropbox", "Dropbox"),
    ("gdrive", "Google Drive"),
];

/// The address of a repository. Prints as a URL; never holds a user's password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryUrl {
    path: PathBuf,
}

/// An address that names no repository this version can use. Never holds the address's user or password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// No URL, or a wrong path in it.
    #[error("{0}")]
    Wrong(String),
    /// Right, but this version has no such store.
    #[error("a repository on {store} ({scheme}://) is not built yet")]
    NotBuilt {
        /// `s3`.
        scheme: String,
        /// `S3`.
        store: &'static str,
    },
}

impl BadUrl {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self {
            Self::Wrong(_) => "Write the absolute path of a directory: url = \"file:///backup/db1\".".to_owned(),
            Self::NotBuilt { .. } => {
                "This version keeps repositories in directories: url = \"file:///backup/db1\"; it may be on a mounted disk of another host."
                    .to_owned()
            }
        }
    }
}

impl RepositoryUrl {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl FromStr for RepositoryUrl {
    type Err = BadUrl;
    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let wrong = |why: String| BadUrl::Wrong(why);
        let Some((scheme, rest)) = text.split_once("://") else {
            if text.starts_with('/') {
                return Err(wrong(format!("\"{text}\" is a path, not a URL; its URL is \"file://{text}\"")));
            }
            return Err(wrong("it is not a URL".to_owned()));
        };
        if scheme != "file" {
            return Err(match LATER.iter().find(|(known, _)| *known == scheme) {
                Some((_, store)) => BadUrl::NotBuilt { scheme: scheme.to_owned(), store },
                None => wrong(format!("\"{}://\" is no kind of store", scheme.escape_debug())),
            });
        }
        if !rest.starts_with('/') {
            return Err(wrong("\"file://\" is followed by an absolute path, so by a third slash".to_owned()));
        }
        if rest.contains(['?', '#']) {
            return Err(wrong("\"?\" and \"#\" in a path are written \"%3F\" and \"%23\"".to_owned()));
        }
        let path = percent_decode(rest)
            .ok_or_else(|| wrong(format!("\"{text}\" has a \"%\" without two hex digits")))?;
        let path = absolute(&path).map_err(wrong)?;
        if path == Path::new("/") {
            return Err(wrong("the root directory cannot be a repository".to_owned()));
        }
        Ok(Self { path })
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("file://")?;
        for c in self.path.to_string_lossy().chars() {
            if matches!(c, '%' | '?' | '#' | ' ') || c.is_ascii_control() {
                write!(f, "%{:02X}", u32::from(c))?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

impl Setting for RepositoryUrl {
    const TAKES: &'static str = "a URL such as \"file:///backup/db1\"";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::String(text) = &node.value else { return wrong_type(node, at, Self::TAKES, problems) };
        match text.parse() {
            Ok(url) => Some(url),
            Err(error @ BadUrl::NotBuilt { .. }) => {
                let what = error.to_string();
                let what = what.strip_suffix(" is not built yet").unwrap_or(&what).to_owned();
                problems.push(Problem::new(node.place.clone(), Fault::NotBuilt { what, can: error.hint() }));
                None
            }
            Err(error) => {
                let (why, hint) = (error.to_string(), error.hint());
                problems.push(Problem::bad_hint(&node.place, at.path.clone(), why, hint));
                None
            }
        }
    }
    fn show(&self) -> Json {
        Json::from(self.to_string())
    }
}
schema_of!(RepositoryUrl, |_g| text_schema("a URL such as \"file:///backup/db1\"", Some("^file:///.")));
