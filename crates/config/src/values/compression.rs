//! How frames are compressed.

use std::fmt;
use std::str::FromStr;

use serde_json::Value as Json;

use crate::error::Problem;
use crate::node::Node;
use crate::setting::{At, Setting, read_text, schema_of, text_schema};

/// How frames are compressed before they are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard at a level from −7 (fastest) to 19 (smallest).
    Zstd(i8),
    /// LZ4.
    Lz4,
    /// As it is.
    None,
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(1)
    }
}

impl FromStr for Compression {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("\"{text}\" is not \"zstd:N\" with N from -7 to 19, \"lz4\" or \"none\"");
        match text {
            "lz4" => Ok(Self::Lz4),
            "none" => Ok(Self::None),
            "zstd" => Ok(Self::default()),
            _ => {
                let level =
                    text.strip_prefix("zstd:").and_then(|level| level.parse::<i8>().ok()).ok_or_else(bad)?;
                if (-7..=19).contains(&level) { Ok(Self::Zstd(level)) } else { Err(bad()) }
            }
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd(level) => write!(f, "zstd:{level}"),
            Self::Lz4 => f.write_str("lz4"),
            Self::None => f.write_str("none"),
        }
    }
}

impl Setting for Compression {
    const TAKES: &'static str = "\"zstd:N\", \"lz4\" or \"none\"";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        read_text(node, at, Self::TAKES, problems, |text| text.parse())
    }
    fn show(&self) -> Json {
        Json::from(self.to_string())
    }
}
schema_of!(Compression, |_g| text_schema(
    "\"zstd:N\" with N from -7 (fastest) to 19 (smallest), \"lz4\" or \"none\"",
    Some("^(zstd(:(-[1-7]|[0-9]|1[0-9]))?|lz4|none)$"),
));
