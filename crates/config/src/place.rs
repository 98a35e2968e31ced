//! Where a setting stands: file, line and column, and which of the layers it came from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A position in a configuration file. Prints `/etc/refloat/refloat.toml:12:3`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    file: Arc<Path>,
    line: u32,
    column: u32,
}

impl Place {
    /// A position; line and column count from 1, the column in characters.
    pub(crate) const fn new(file: Arc<Path>, line: u32, column: u32) -> Self {
        Self { file, line, column }
    }
    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }
    /// The line, from 1.
    pub const fn line(&self) -> u32 {
        self.line
    }
    /// The column in characters, from 1.
    pub const fn column(&self) -> u32 {
        self.column
    }
    /// `file:line`, as far as a person needs it to open an editor there.
    pub fn file_and_line(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// Where a value came from. A source's own key wins over its template's, that over `[defaults.KIND]`, that over the
/// built-in default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Set for exactly this thing.
    File(Place),
    /// Set in `[template.NAME]`, which the source is `like`.
    Template {
        /// The template's name.
        name: String,
        /// Where it is set there.
        place: Place,
    },
    /// Set in `[defaults.KIND]`.
    Defaults {
        /// The kind of source.
        kind: &'static str,
        /// Where it is set there.
        place: Place,
    },
    /// Not set anywhere: built in.
    Default,
}

impl Origin {
    /// The position in a file, if it is set in one.
    pub const fn place(&self) -> Option<&Place> {
        match self {
            Self::File(place) | Self::Template { place, .. } | Self::Defaults { place, .. } => Some(place),
            Self::Default => None,
        }
    }
    /// The file, if it is set in one.
    pub fn file(&self) -> Option<PathBuf> {
        self.place().map(|place| place.file().to_owned())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(place) => f.write_str(&place.file_and_line()),
            Self::Template { name, place } => write!(f, "{} [template.{name}]", place.file_and_line()),
            Self::Defaults { kind, place } => write!(f, "{} [defaults.{kind}]", place.file_and_line()),
            Self::Default => f.write_str("built in"),
        }
    }
}
