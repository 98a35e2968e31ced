//! The tree that the files make: every value with its place. TOML's own types end here.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::place::Place;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    String(String),
    Integer(i64),
    Boolean(bool),
    Array(Vec<Node>),
    Table(Table),
    /// A float, a date or a number beyond 64 bits: no setting takes one.
    Other(&'static str),
}

/// A table. `open` tables (`[a.b]`, dotted keys) may be continued in another file, inline ones not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    pub open: bool,
    pub entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Where the key stands.
    pub key: Place,
    pub node: Node,
}

impl Value {
    /// With its article, for "takes a string, not …".
    pub(crate) const fn type_name(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Boolean(_) => "true or false",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(name) => name,
        }
    }
    /// As JSON; a value that no setting takes becomes null.
    pub(crate) fn to_json(&self) -> Json {
        match self {
            Self::String(text) => Json::from(text.as_str()),
            Self::Integer(number) => Json::from(*number),
            Self::Boolean(flag) => Json::from(*flag),
            Self::Array(items) => items.iter().map(|item| item.value.to_json()).collect(),
            Self::Table(table) => {
                table.entries.iter().map(|(key, entry)| (key.clone(), entry.node.value.to_json())).collect()
            }
            Self::Other(_) => Json::Null,
        }
    }
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries.get(key).map(|entry| &entry.node)
    }
}

/// Turns byte offsets of one file into places.
pub(crate) struct Lines<'a> {
    file: Arc<Path>,
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(file: Arc<Path>, text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file, text, starts }
    }
    pub(crate) fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or("");
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Place::new(Arc::clone(&self.file), number(line), number(before.chars().count() + 1))
    }

    /// Takes over a parsed table.
    pub(crate) fn table(&self, table: &DeTable<'_>, open: bool) -> Table {
        let entries = table.iter().map(|(key, value)| {
            let entry = Entry { key: self.place(key.span().start), node: self.node(value) };
            (key.get_ref().to_string(), entry)
        });
        Table { open, entries: entries.collect() }
    }

    fn node(&self, value: &Spanned<DeValue<'_>>) -> Node {
        let start = value.span().start;
        let converted = match value.get_ref() {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Value::Other("a number beyond 64 bits"), Value::Integer),
            DeValue::Float(_) => Value::Other("a fraction"),
            DeValue::Boolean(flag) => Value::Boolean(*flag),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(items) => Value::Array(items.iter().map(|item| self.node(item)).collect()),
            DeValue::Table(table) => {
                let inline = self.text.get(start..).is_some_and(|text| text.starts_with('{'));
                Value::Table(self.table(table, !inline))
            }
        };
        Node { place: self.place(start), value: converted }
    }
}

/// A value as TOML writes it on one line.
pub(crate) fn toml_inline(value: &Json) -> String {
    match value {
        Json::String(text) => toml_string(text),
        Json::Array(items) => {
            let items: Vec<_> = items.iter().map(toml_inline).collect();
            format!("[{}]", items.join(", "))
        }
        Json::Object(entries) if entries.is_empty() => "{}".to_owned(),
        Json::Object(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| format!("{} = {}", toml_key(key), toml_inline(value)))
                .collect();
            format!("{{ {} }}", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// A key, quoted where it has to be.
pub(crate) fn toml_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if bare { key.to_owned() } else { toml_string(key) }
}

fn toml_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A whole tree as TOML text: values first, then a `[header]` for each open table below.
pub(crate) fn toml_text(table: &Table) -> String {
    let mut out = String::new();
    write_table(table, "", &mut out);
    out
}

fn write_table(table: &Table, path: &str, out: &mut String) {
    let is_header = |node: &Node| matches!(&node.value, Value::Table(table) if table.open);
    let has_values = table.entries.values().any(|entry| !is_header(&entry.node));
    if !path.is_empty() && (has_values || table.entries.is_empty()) {
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&format!("[{path}]\n"));
    }
    for (key, entry) in table.entries.iter().filter(|(_, entry)| !is_header(&entry.node)) {
        out.push_str(&format!("{} = {}\n", toml_key(key), toml_inline(&entry.node.value.to_json())));
    }
    for (key, entry) in &table.entries {
        if let Value::Table(inner) = &entry.node.value
            && inner.open
        {
            let path = if path.is_empty() { toml_key(key) } else { format!("{path}.{}", toml_key(key)) };
            write_table(inner, &path, out);
        }
    }
}
