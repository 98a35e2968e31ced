//! Paths, numbers, sizes, lengths of time, names and lists.

use std::path::{Path, PathBuf};
use std::time::Duration;

use refloat_types::{Age, ByteSize, RepositoryName};
use serde_json::Value as Json;

use crate::error::Problem;
use crate::node::{Node, Value};
use crate::setting::{At, Setting, items_schema, read_text, schema_of, text_schema, wrong_type};

/// An absolute path without `.` or `..`, so that what is shown is what is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AbsolutePath(pub PathBuf);

/// Checks a path.
pub(crate) fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = |part: &str| part != "." && part != "..";
    if text.is_empty() {
        Err("the path is empty".to_owned())
    } else if text.contains('\0') {
        Err("the path holds a zero byte".to_owned())
    } else if !path.is_absolute() {
        Err(format!("\"{text}\" is not an absolute path"))
    } else if !text.split('/').all(plain) {
        Err(format!("\"{text}\" has \".\" or \"..\" in it; write the path it stands for"))
    } else {
        // Collecting the components drops doubled and trailing slashes.
        Ok(path.components().collect())
    }
}

impl Setting for AbsolutePath {
    const TAKES: &'static str = "an absolute path";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        read_text(node, at, Self::TAKES, problems, |text| absolute(text).map(Self))
    }
    fn show(&self) -> Json {
        Json::from(self.0.display().to_string())
    }
}
schema_of!(AbsolutePath, |_g| text_schema("an absolute path", Some("^/")));

/// Words without blanks or control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text(pub String);

impl Setting for Text {
    const TAKES: &'static str = "a string";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        read_text(node, at, Self::TAKES, problems, |text| {
            if text.trim().is_empty() {
                Err("it is empty".to_owned())
            } else if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
                Err("it has blanks or control characters in it".to_owned())
            } else {
                Ok(Self(text.to_owned()))
            }
        })
    }
    fn show(&self) -> Json {
        Json::from(self.0.as_str())
    }
}
schema_of!(Text, |_g| text_schema("a string", None));

/// How many workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Jobs(pub u32);

/// More workers than this have never helped, and each holds an open pack in memory.
const MOST_JOBS: u32 = 64;

impl Setting for Jobs {
    const TAKES: &'static str = "a whole number";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Integer(number) = node.value else { return wrong_type(node, at, Self::TAKES, problems) };
        match u32::try_from(number) {
            Ok(jobs) if (1..=MOST_JOBS).contains(&jobs) => Some(Self(jobs)),
            _ => {
                let why = format!("{number} is not between 1 and {MOST_JOBS}");
                problems.push(Problem::bad(&node.place, at.path.clone(), why));
                None
            }
        }
    }
    fn show(&self) -> Json {
        Json::from(self.0)
    }
}
schema_of!(Jobs, |_g| schemars::json_schema!({
    "type": "integer", "minimum": 1, "maximum": MOST_JOBS, "description": "a whole number"
}));

/// How many repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Acknowledge(pub u32);

/// Nobody keeps more copies of one WAL segment than this.
const MOST_COPIES: u32 = 16;

impl Setting for Acknowledge {
    const TAKES: &'static str = "a whole number";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Integer(number) = node.value else { return wrong_type(node, at, Self::TAKES, problems) };
        match u32::try_from(number) {
            Ok(count) if (1..=MOST_COPIES).contains(&count) => Some(Self(count)),
            _ => {
                let why = format!("{number} is not between 1 and {MOST_COPIES}");
                problems.push(Problem::bad(&node.place, at.path.clone(), why));
                None
            }
        }
    }
    fn show(&self) -> Json {
        Json::from(self.0)
    }
}
schema_of!(Acknowledge, |_g| schemars::json_schema!({
    "type": "integer", "minimum": 1, "maximum": MOST_COPIES, "description": "a whole number"
}));

/// Bytes a second: `"100MB"`, `"100MB/s"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rate {
    pub bytes: ByteSize,
    text: String,
}

impl Setting for Rate {
    const TAKES: &'static str = "a rate such as \"100MB/s\"";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        read_text(node, at, Self::TAKES, problems, |text| {
            let size = text.trim().strip_suffix("/s").unwrap_or(text);
            let bytes: ByteSize = size.parse().map_err(|_| {
                format!("\"{text}\" is not a rate (expected a number with kB, MB or GB, such as \"100MB/s\")")
            })?;
            if bytes.0 < 1 << 20 {
                return Err(format!("\"{text}\" is less than 1 MB a second; a backup would never end"));
            }
            Ok(Self { bytes, text: text.to_owned() })
        })
    }
    fn show(&self) -> Json {
        Json::from(self.text.as_str())
    }
}
schema_of!(Rate, |_g| text_schema("bytes a second, such as \"100MB/s\"", None));

/// How much WAL is read ahead: `"128 MB"`, and `"0"` for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Size {
    pub bytes: ByteSize,
    text: String,
}

/// Most bytes that a recovery may take before it needs them.
const MOST_AHEAD: ByteSize = ByteSize(64 << 30);

impl Default for Size {
    fn default() -> Self {
        Self { bytes: ByteSize(128 << 20), text: "128 MB".to_owned() }
    }
}

impl Setting for Size {
    const TAKES: &'static str = "a size such as \"128 MB\"";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        read_text(node, at, Self::TAKES, problems, |text| {
            let bytes: ByteSize = text.parse().map_err(|_| {
                format!("\"{text}\" is not a size (expected a number with MB or GB, such as \"128 MB\")")
            })?;
            if bytes > MOST_AHEAD {
                return Err(format!("\"{text}\" is more than 64 GB"));
            }
            Ok(Self { bytes, text: text.to_owned() })
        })
    }
    fn show(&self) -> Json {
        Json::from(self.text.as_str())
    }
}
schema_of!(Size, |_g| text_schema("a size, such as \"128 MB\"", None));

/// How long something may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Timeout {
    pub length: Duration,
    text: String,
}

/// Checks a length of time.
pub(crate) fn age(text: &str) -> Result<Age, String> {
    text.parse::<Age>().map_err(|error| error.to_string())
}

impl Setting for Timeout {
    const TAKES: &'static str = "a length of time such as \"60s\"";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        read_text(node, at, Self::TAKES, problems, |text| {
            let length = age(text)?.0;
            let (least, most) = (Duration::from_secs(1), Duration::from_secs(86_400));
            if !(least..=most).contains(&length) {
                return Err(format!("\"{text}\" is not between 1s and 1d"));
            }
            Ok(Self { length, text: text.to_owned() })
        })
    }
    fn show(&self) -> Json {
        Json::from(self.text.as_str())
    }
}
schema_of!(Timeout, |_g| text_schema(
    "a length of time from 1s to 1d: a number with ms, s, min, h or d",
    None
));

/// Names of repositories, in order, none twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repositories(pub Vec<(RepositoryName, crate::place::Place)>);

impl Setting for Repositories {
    const TAKES: &'static str = "a list of repository names such as [\"offsite\"]";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Array(items) = &node.value else { return wrong_type(node, at, Self::TAKES, problems) };
        let mut names: Vec<(RepositoryName, _)> = Vec::new();
        let before = problems.len();
        for item in items {
            let name = read_text(item, at, Self::TAKES, problems, |text| {
                text.parse::<RepositoryName>().map_err(|error| error.to_string())
            });
            match name {
                Some(name) if names.iter().any(|(known, _)| *known == name) => {
                    problems.push(Problem::bad(
                        &item.place,
                        at.path.clone(),
                        format!("\"{name}\" is listed twice"),
                    ));
                }
                Some(name) => names.push((name, item.place.clone())),
                None => {}
            }
        }
        if items.is_empty() {
            problems.push(Problem::bad(
                &node.place,
                at.path.clone(),
                "the list is empty: nothing would be kept anywhere",
            ));
        }
        (problems.len() == before).then_some(Self(names))
    }
    fn show(&self) -> Json {
        self.0.iter().map(|(name, _)| Json::from(name.as_str())).collect()
    }
}
schema_of!(Repositories, |generator| items_schema::<String>(generator, "a list of repository names"));

/// Name of an operating-system user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserName(pub String);

impl Setting for UserName {
    const TAKES: &'static str = "the name of a user";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        read_text(node, at, Self::TAKES, problems, |text| {
            let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.$@".contains(&b));
            if text == "root" {
                Err("Refloat does not work as root; name the owner of the data directory, usually postgres"
                    .to_owned())
            } else if first && rest {
                Ok(Self(text.to_owned()))
            } else {
                Err(format!("\"{text}\" is not the name of a user"))
            }
        })
    }
    fn show(&self) -> Json {
        Json::from(self.0.as_str())
    }
}
schema_of!(UserName, |_g| text_schema("the name of a user of this host, not root", None));
