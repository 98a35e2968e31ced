//! How the server is reached, where the data directory does not say it.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::error::{Fault, Problem};
use crate::node::{Node, Value};
use crate::setting::{At, Setting, nearest, schema_of, text_schema, wrong_type};

/// What may be said. Everything else is Refloat's to decide: a backup session has its own timeouts and settings.
const KEYS: &[&str] = &["host", "port", "user", "dbname"];

/// `host=… port=… user=… dbname=…`; what is left out is found in the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    text: String,
    values: BTreeMap<String, String>,
}

impl Connection {
    /// As configured. Never holds a password.
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// The host name, or the absolute path of the directory with the socket.
    pub fn host(&self) -> Option<&str> {
        self.values.get("host").map(String::as_str)
    }
    /// The port.
    pub fn port(&self) -> Option<u16> {
        self.values.get("port").and_then(|port| port.parse().ok())
    }
    /// The role to log in as.
    pub fn user(&self) -> Option<&str> {
        self.values.get("user").map(String::as_str)
    }
    /// The database to connect to.
    pub fn dbname(&self) -> Option<&str> {
        self.values.get("dbname").map(String::as_str)
    }
}

/// The names of what a libpq connection string sets, such as `host`, `user`.
///
/// # Errors
/// Why it is none, in words.
pub fn conninfo_keys(text: &str) -> Result<Vec<String>, String> {
    if text.contains("://") {
        return Err("an address with \"://\" is not understood here".to_owned());
    }
    Ok(pairs(text)?.into_iter().map(|(key, _)| key).collect())
}

/// Splits `key = value` pairs as libpq does: blanks between, values with blanks in single quotes, `\` escapes.
///
/// PostgreSQL: src/interfaces/libpq/fe-connect.c, `conninfo_parse`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut chars = text.chars().peekable();
    let mut pairs = Vec::new();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.peek().is_none() {
            return Ok(pairs);
        }
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next() != Some('=') {
            return Err(format!(
                "\"{key}\" is not followed by \"=\" (expected host=… port=… user=… dbname=…)"
            ));
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.peek().copied() {
                Some('\'') if quoted => {
                    chars.next();
                    break;
                }
                None if quoted => return Err(format!("the quote after \"{key}=\" is not closed")),
                None => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some('\\') => {
                    chars.next();
                    value.extend(chars.next());
                }
                Some(c) => {
                    chars.next();
                    value.push(c);
                }
            }
        }
        pairs.push((key, value));
    }
}

impl Setting for Connection {
    const TAKES: &'static str = "a string such as \"host=/run/postgresql port=5432 user=postgres\"";

    fn read(node: &Node, at: &At<'_>, problems: &mut Vec<Problem>) -> Option<Self> {
        let Value::String(text) = &node.value else { return wrong_type(node, at, Self::TAKES, problems) };
        let before = problems.len();
        let mut bad = |why: String, hint: Option<String>| {
            let key = at.path.clone().into_owned();
            problems.push(Problem::new(node.place.clone(), Fault::BadValue { key, why, hint }));
        };
        if text.contains("://") {
            bad(
                "an address with \"://\" is not understood here".to_owned(),
                Some("Write host=… port=… user=….".to_owned()),
            );
            return None;
        }
        let mut values = BTreeMap::new();
        match pairs(text) {
            Err(why) => bad(why, None),
            Ok(pairs) => {
                for (key, value) in pairs {
                    if matches!(key.as_str(), "password" | "passfile" | "sslpassword") {
                        let hint = "Let the server trust this user by its socket: `local all postgres peer` in pg_hba.conf.";
                        bad(
                            format!("\"{key}\" cannot be given here: a password has no place in this file"),
                            Some(hint.to_owned()),
                        );
                    } else if !KEYS.contains(&key.as_str()) {
                        let hint = nearest(&key, KEYS.iter().copied())
                            .map(|meant| format!("Did you mean \"{meant}\"?"));
                        bad(format!("\"{key}\" is not one of host, port, user, dbname"), hint);
                    } else if key == "port" && value.parse::<u16>().map_or(true, |port| port == 0) {
                        bad(format!("\"{value}\" is not a port"), None);
                    } else if value.is_empty() {
                        bad(format!("\"{key}\" is empty"), None);
                    } else if values.insert(key.clone(), value).is_some() {
                        bad(format!("\"{key}\" is given twice"), None);
                    }
                }
            }
        }
        (problems.len() == before).then(|| Self { text: text.clone(), values })
    }

    fn show(&self) -> Json {
        Json::from(self.text.as_str())
    }
}
schema_of!(Connection, |_g| text_schema("\"host=… port=… user=… dbname=…\"; never a password", None));
