//! What applies, setting by setting, and where each came from: `config show`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::config::Config;
use crate::node::{toml_inline, toml_key};
use crate::place::Origin;
use crate::setting::{Set, Setting};
use crate::values::plain::Timeout;
use crate::values::retention::Placed;

/// A value that applies.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub value: Json,
    pub origin: Origin,
}

/// Collects what applies while it is checked, by dotted path.
#[derive(Debug, Default)]
pub(crate) struct Showing(pub BTreeMap<String, Shown>);

impl Showing {
    fn insert(&mut self, table: &str, key: &str, value: Json, origin: Origin) {
        let path = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
        self.0.insert(path, Shown { value, origin });
    }
    pub(crate) fn set<T: Setting>(&mut self, table: &str, key: &str, set: &Set<T>) {
        self.insert(table, key, set.value.show(), set.origin.clone());
    }
    pub(crate) fn built_in(&mut self, table: &str, key: &str, value: Json) {
        self.insert(table, key, value, Origin::Default);
    }
    /// What is set, else the default.
    pub(crate) fn value<T: Setting + Clone>(
        &mut self,
        table: &str,
        key: &str,
        set: &Option<Set<T>>,
        default: T,
    ) -> T {
        match set {
            Some(set) => {
                self.set(table, key, set);
                set.value.clone()
            }
            None => {
                self.built_in(table, key, default.show());
                default
            }
        }
    }
    /// What is set, if anything.
    pub(crate) fn optional<T: Setting + Clone>(
        &mut self,
        table: &str,
        key: &str,
        set: &Option<Set<T>>,
    ) -> Option<T> {
        let set = set.as_ref()?;
        self.set(table, key, set);
        Some(set.value.clone())
    }
    /// Each key of a policy; all of them come from one place, because policies are taken whole.
    pub(crate) fn policy(&mut self, table: &str, placed: &Placed) {
        if let Json::Object(entries) = placed.policy.show() {
            for (key, value) in entries {
                self.insert(table, &key, value, placed.origin.clone());
            }
        }
    }
    pub(crate) fn timeout(
        &mut self,
        table: &str,
        key: &str,
        set: &Option<Set<Timeout>>,
        default: (Duration, &str),
    ) -> Duration {
        match self.optional(table, key, set) {
            Some(timeout) => timeout.length,
            None => {
                self.built_in(table, key, Json::from(default.1));
                default.0
            }
        }
    }
}

impl Config {
    /// What applies, as TOML text; with `origin`, each line says where it came from. Secrets are shown by where they are.
    pub fn show(&self, origin: bool) -> String {
        let mut lines: Vec<(String, String, &Origin)> = Vec::new();
        for (path, shown) in &self.shown {
            let (table, key) = split(path);
            lines.push((table, format!("{} = {}", toml_key(key), toml_inline(&shown.value)), &shown.origin));
        }
        // Values of the top come before every table.
        lines.sort_by(|(a, ..), (b, ..)| a.cmp(b));
        let width = lines
            .iter()
            .map(|(_, text, _)| text.chars().count())
            .filter(|width| *width <= 60)
            .max()
            .unwrap_or(0);
        let (mut out, mut table) = (String::new(), "");
        for (of, text, from) in &lines {
            if of != table {
                table = of;
                out.push_str(&format!("\n[{table}]\n"));
            }
            if origin {
                out.push_str(&format!("{text:width$}  # {from}\n"));
            } else {
                out.push_str(&format!("{text}\n"));
            }
        }
        out
    }

    /// The same as one JSON document, with `"format": 1`. Secrets are shown by where they are.
    pub fn view(&self, origin: bool) -> Json {
        let mut root = Map::new();
        let mut origins = Map::new();
        for (path, shown) in &self.shown {
            let (table, key) = split(path);
            let mut at = &mut root;
            for part in table.split('.').filter(|part| !part.is_empty()) {
                let entry = at.entry(part).or_insert_with(|| Json::Object(Map::new()));
                at = entry.as_object_mut().expect("a table's path never ends in a value");
            }
            at.insert(key.to_owned(), shown.value.clone());
            origins.insert(path.clone(), Json::from(shown.origin.to_string()));
        }
        let files: Vec<String> = self.files.iter().map(|file| file.display().to_string()).collect();
        let mut view = json!({ "format": 1, "files": files, "settings": root });
        if origin {
            view["origins"] = Json::Object(origins);
        }
        let warnings: Vec<String> = self.warnings.iter().map(ToString::to_string).collect();
        view["warnings"] = json!(warnings);
        view
    }
}

/// Table and key of a dotted path. Names hold no dots.
fn split(path: &str) -> (String, &str) {
    path.rsplit_once('.').map_or((String::new(), path), |(table, key)| (table.to_owned(), key))
}
