//! Secrets: named in the configuration, read when first needed, never printed.

pub mod command;
pub mod read;

use std::fmt;
use std::path::PathBuf;

use serde_json::{Value as Json, json};
use zeroize::Zeroizing;

use crate::error::{Fault, Problem};
use crate::node::{Node, Value};
use crate::place::Place;
use crate::setting::{At, Setting, options, refuse_unknown, schema_of, text_schema, wrong_type};
use crate::values::plain::{AbsolutePath, absolute};

/// A secret's content. Prints `***`, and its memory is overwritten when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over a text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
    /// The content. Whoever asks must not log, print or store it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a secret is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file that only Refloat may read.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// What a program prints: an absolute path and its arguments.
    Command(Vec<String>),
    /// A systemd credential of this service.
    Credential(String),
}

/// A secret that the configuration names. [`SecretRef::read`] fetches it.
#[derive(Debug, Clone)]
pub struct SecretRef {
    setting: String,
    place: Place,
    source: SecretSource,
}

impl PartialEq for SecretRef {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}
impl Eq for SecretRef {}

impl SecretRef {
    /// Which setting names it: `repository.offsite.encryption.passphrase`.
    pub fn setting(&self) -> &str {
        &self.setting
    }
    /// Where that stands.
    pub const fn place(&self) -> &Place {
        &self.place
    }
    /// Where the secret is.
    pub const fn source(&self) -> &SecretSource {
        &self.source
    }
}

options! {
    /// Where a secret is: exactly one of these.
    pub(crate) struct SecretOptions {
        /// A file: 0600 and owned by the user Refloat runs as, or 0640 and owned by root. A newline at its end is not part of the secret.
        file: AbsolutePath,
        /// A variable of the environment. PostgreSQL's archiver often has none: for containers.
        env: VariableName,
        /// A program, by its absolute path, and its arguments; what it prints is the secret. It has 30 s and an empty environment but for PATH.
        command: Program,
        /// A systemd credential (`LoadCredential=` of the unit).
        credential: CredentialName,
    }
}

/// Name of a variable.
#[derive(Debug, Clone)]
pub(crate) struct VariableName(String);

/// A program by its absolute path, and its arguments.
#[derive(Debug, Clone)]
pub(crate) struct Program(pub Vec<String>);

/// Name of a credential: a plain file name.
#[derive(Debug, Clone)]
pub(crate) struct CredentialName(String);

fn name_like(text: &str, more: &[u8]) -> bool {
    text.len() <= 255
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || more.contains(&b))
}

impl Setting for VariableName {
    const TAKES: &'static str = "the name of a variable";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        // The value is not repeated: it may be the secret itself, put here by mistake.
        crate::setting::read_text(node, at, Self::TAKES, problems, |text| {
            if name_like(text, b"") {
                Ok(Self(text.to_owned()))
            } else {
                Err("this is not the name of a variable".to_owned())
            }
        })
    }
    fn show(&self) -> Json {
        Json::from(self.0.as_str())
    }
}
schema_of!(VariableName, |_g| text_schema("the name of a variable", Some("^[A-Za-z_][A-Za-z0-9_]*$")));

impl Setting for CredentialName {
    const TAKES: &'static str = "the name of a systemd credential";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        crate::setting::read_text(node, at, Self::TAKES, problems, |text| {
            if name_like(text, b"-.") {
                Ok(Self(text.to_owned()))
            } else {
                Err("this is not the name of a credential".to_owned())
            }
        })
    }
    fn show(&self) -> Json {
        Json::from(self.0.as_str())
    }
}
schema_of!(CredentialName, |_g| text_schema("the name of a systemd credential", None));

impl Setting for Program {
    const TAKES: &'static str = "a list such as [\"/usr/bin/program\", \"argument\"]";
    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::Array(items) = &node.value else { return wrong_type(node, at, Self::TAKES, problems) };
        let mut words = Vec::new();
        for item in items {
            let Value::String(word) = &item.value else { return wrong_type(item, at, "a string", problems) };
            words.push(word.clone());
        }
        let why = match words.first() {
            None => "the list is empty".to_owned(),
            Some(_) if words.iter().any(|word| word.contains('\0')) => {
                "an argument holds a zero byte".to_owned()
            }
            Some(program) => match absolute(program) {
                Ok(_) => return Some(Self(words)),
                Err(why) => {
                    format!("{why}; a program is named by its absolute path, because nothing depends on PATH")
                }
            },
        };
        problems.push(Problem::bad(&node.place, at.path.clone(), why));
        None
    }
    fn show(&self) -> Json {
        self.0.iter().map(|word| Json::from(word.as_str())).collect()
    }
}
schema_of!(Program, |generator| crate::setting::items_schema::<String>(
    generator,
    "a program and its arguments"
));

impl Setting for SecretRef {
    const TAKES: &'static str =
        "{ file = \"/path\" }, { env = \"NAME\" }, { command = [\"/path\"] } or { credential = \"NAME\" }";

    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let key = || at.path.clone().into_owned();
        let table = match &node.value {
            Value::String(_) => {
                problems.push(Problem::new(node.place.clone(), Fault::LiteralSecret { key: key() }));
                return None;
            }
            Value::Table(table) => table,
            _ => return wrong_type(node, at, Self::TAKES, problems),
        };
        let before = problems.len();
        refuse_unknown(table, at, &[SecretOptions::KEYS], problems);
        let raw = SecretOptions::read_keys(table, at, problems);
        if problems.len() > before {
            return None;
        }
        let mut sources = [
            raw.file.map(|set| SecretSource::File(set.value.0)),
            raw.env.map(|set| SecretSource::Env(set.value.0)),
            raw.command.map(|set| SecretSource::Command(set.value.0)),
            raw.credential.map(|set| SecretSource::Credential(set.value.0)),
        ]
        .into_iter()
        .flatten();
        match (sources.next(), sources.next()) {
            (Some(source), None) => Some(Self { setting: key(), place: node.place.clone(), source }),
            _ => {
                let why = format!("a secret is exactly one of {}", Self::TAKES);
                problems.push(Problem::bad(&node.place, at.path.clone(), why));
                None
            }
        }
    }

    fn show(&self) -> Json {
        match &self.source {
            SecretSource::File(path) => json!({ "file": path.display().to_string() }),
            SecretSource::Env(name) => json!({ "env": name }),
            SecretSource::Command(words) => json!({ "command": words }),
            SecretSource::Credential(name) => json!({ "credential": name }),
        }
    }
}
schema_of!(SecretRef, |generator| {
    let mut schema = <SecretOptions as schemars::JsonSchema>::json_schema(generator);
    schema.insert("minProperties".to_owned(), Json::from(1));
    schema.insert("maxProperties".to_owned(), Json::from(1));
    schema
});
