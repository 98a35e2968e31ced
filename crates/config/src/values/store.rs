//! Settings of stores behind a network.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::error::Problem;
use crate::node::{Node, Value};
use crate::setting::{At, Setting, options, read_text, refuse_unknown, schema_of, wrong_type};
use crate::values::plain::Text;

/// How the store encrypts what it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sse {
    /// With keys of the store.
    Aes256,
    /// With this key of the key service.
    Kms(String),
}

options! {
    /// A key of the key service.
    pub(crate) struct SseOptions {
        /// Its id or ARN.
        kms: Text,
    }
}

impl Setting for Sse {
    const TAKES: &'static str = "\"AES256\" or { kms = \"KEY\" }";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let table = match &node.value {
            Value::String(text) if text == "AES256" => return Some(Self::Aes256),
            Value::String(_) => {
                let why = format!("it takes {}", Self::TAKES);
                problems.push(Problem::bad(&node.place, at.path.clone(), why));
                return None;
            }
            Value::Table(table) => table,
            _ => return wrong_type(node, at, Self::TAKES, problems),
        };
        let before = problems.len();
        refuse_unknown(table, at, &[SseOptions::KEYS], problems);
        let raw = SseOptions::read_keys(table, at, problems);
        match raw.kms {
            Some(key) if problems.len() == before => Some(Self::Kms(key.value.0)),
            None if problems.len() == before => {
                let why = format!("it takes {}", Self::TAKES);
                problems.push(Problem::bad(&node.place, at.path.clone(), why));
                None
            }
            _ => None,
        }
    }
    fn show(&self) -> Json {
        match self {
            Self::Aes256 => json!("AES256"),
            Self::Kms(key) => json!({ "kms": key }),
        }
    }
}
schema_of!(Sse, |generator| {
    let table = generator.subschema_for::<SseOptions>();
    schemars::json_schema!({ "anyOf": [table, { "const": "AES256" }] })
});

/// Names and values that each object gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metadata(pub BTreeMap<String, String>);

impl Setting for Metadata {
    const TAKES: &'static str = "a table such as { owner = \"dba\" }";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Table(table) = &node.value else { return wrong_type(node, at, Self::TAKES, problems) };
        let before = problems.len();
        let mut read = BTreeMap::new();
        for (key, entry) in &table.entries {
            // What all of the stores take: Azure wants names that are words.
            let good = key.starts_with(|c: char| c.is_ascii_lowercase())
                && key.len() <= 64
                && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !good || key == "refloatupload" {
                let why = "a name is of lower-case letters, digits and \"_\"; \"refloatupload\" is taken";
                problems.push(Problem::bad(&entry.key, format!("{}.{key}", at.path), why));
                continue;
            }
            let value = read_text(&entry.node, &at.key(key), "a string", problems, |text| {
                let good =
                    !text.is_empty() && text.len() <= 256 && text.bytes().all(|b| matches!(b, b' '..=b'~'));
                if good {
                    Ok(text.to_owned())
                } else {
                    Err("a value is of 1 to 256 plain ASCII characters".to_owned())
                }
            });
            read.extend(value.map(|value| (key.clone(), value)));
        }
        (problems.len() == before).then_some(Self(read))
    }
    fn show(&self) -> Json {
        json!(self.0)
    }
}
schema_of!(Metadata, |_g| schemars::json_schema!({
    "type": "object", "additionalProperties": { "type": "string", "description": "a value" }
}));

/// How many calls at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connections(pub u32);

/// More connections than this have no store faster.
const MOST: u32 = 256;

impl Default for Connections {
    fn default() -> Self {
        Self(32)
    }
}

impl Setting for Connections {
    const TAKES: &'static str = "a whole number";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Integer(number) = node.value else { return wrong_type(node, at, Self::TAKES, problems) };
        match u32::try_from(number) {
            Ok(number) if (1..=MOST).contains(&number) => Some(Self(number)),
            _ => {
                let why = format!("{number} is not between 1 and {MOST}");
                problems.push(Problem::bad(&node.place, at.path.clone(), why));
                None
            }
        }
    }
    fn show(&self) -> Json {
        json!(self.0)
    }
}
schema_of!(Connections, |_g| schemars::json_schema!({
    "type": "integer", "minimum": 1, "maximum": MOST, "description": "a whole number"
}));
