//! Where a repository is.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use refloat_types::{BadLocation, Location, Scheme};
use serde_json::Value as Json;

use crate::error::Problem;
use crate::node::{Node, Value};
use crate::setting::{At, Setting, schema_of, text_schema, wrong_type};

/// The address of a repository. Prints as a URL; never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryUrl(Location);

/// An address that names no repository. Never holds the address's user or password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct BadUrl(#[from] BadLocation);

impl BadUrl {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match &self.0 {
            BadLocation::Wrong { scheme, .. } if *scheme != Scheme::File => {
                format!("Write it like this: url = \"{}\".", scheme.example())
            }
            _ => "Write the absolute path of a directory: url = \"file:///backup/db1\".".to_owned(),
        }
    }
}

impl RepositoryUrl {
    /// The parsed address.
    pub const fn location(&self) -> &Location {
        &self.0
    }
    /// The directory, where it is one of this host.
    pub fn directory(&self) -> Option<&Path> {
        self.0.directory()
    }
}

impl From<Location> for RepositoryUrl {
    fn from(location: Location) -> Self {
        Self(location)
    }
}

impl FromStr for RepositoryUrl {
    type Err = BadUrl;
    fn from_str(text: &str) -> Result<Self, BadUrl> {
        Ok(Self(text.parse()?))
    }
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Setting for RepositoryUrl {
    const TAKES: &'static str = "a URL such as \"file:///backup/db1\" or \"s3://bucket/db1\"";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::String(text) = &node.value else { return wrong_type(node, at, Self::TAKES, problems) };
        match text.parse::<Self>() {
            Ok(url) => Some(url),
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
schema_of!(RepositoryUrl, |_g| text_schema(
    "a URL such as \"file:///backup/db1\" or \"s3://bucket/db1\"",
    Some("^(file|s3|gs|azblob|sftp|webdavs?|dropbox|gdrive)://")
));
