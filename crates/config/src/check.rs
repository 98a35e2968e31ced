//! From the tree that was read to a configuration in which every value is checked.
//!
//! Goes on after a fault, so that a person sees all of them at once; what follows from a fault is not reported again.

mod sources;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use refloat_types::RepositoryName;

use crate::config::{Config, RepositoryConfig, Warning};
use crate::document::Document;
use crate::error::{ConfigError, Fault, Problem};
use crate::node::{Entry, Table, Value, toml_text};
use crate::options::{RepositoryOptions, TABLES, TopOptions};
use crate::place::Place;
use crate::setting::{At, Layer, nearest, refuse_unknown};
use crate::show::Showing;
use crate::values::plain::AbsolutePath;
use crate::values::retention::PolicyOptions;
use crate::values::words::Mode;

/// Checks everything.
pub(crate) fn check(file: PathBuf, document: Document) -> Result<Config, ConfigError> {
    let Document { files, root, mut problems } = document;
    if !problems.is_empty() {
        // What a broken text leaves out would only look like further faults.
        return Err(ConfigError::Invalid { problems });
    }
    let mut checker =
        Checker { root: &root, problems: &mut problems, shown: Showing::default(), warnings: Vec::new() };
    let at = At { path: "".into(), layer: &Layer::Own };
    refuse_unknown(&root, &at, &[TopOptions::KEYS, TABLES], checker.problems);
    let state = checker.state(&file);
    let repositories = checker.repositories();
    let sources = checker.sources(&repositories);
    let (shown, warnings) = (checker.shown.0, checker.warnings);
    if !problems.is_empty() {
        let order = |place: &Place| files.iter().position(|known| known == place.file());
        problems.sort_by_key(|problem| (order(&problem.place), problem.place.line(), problem.place.column()));
        return Err(ConfigError::Invalid { problems });
    }
    let repositories =
        repositories.into_iter().filter_map(|(name, checked)| Some((name, checked?))).collect();
    Ok(Config { file, files, state, repositories, sources, shown, warnings, text: toml_text(&root) })
}

/// A repository that is defined; `None` where something in it is wrong, which is reported already.
type Repositories = BTreeMap<RepositoryName, Option<RepositoryConfig>>;

struct Checker<'a> {
    root: &'a Table,
    problems: &'a mut Vec<Problem>,
    shown: Showing,
    warnings: Vec<Warning>,
}

impl<'a> Checker<'a> {
    /// A table at the top, or a fault when something else has its name.
    fn table(&mut self, name: &'static str) -> Option<&'a Table> {
        let node = self.root.get(name)?;
        match &node.value {
            Value::Table(table) => Some(table),
            other => {
                let fault =
                    Fault::WrongType { key: name.to_owned(), expected: "a table", found: other.type_name() };
                self.problems.push(Problem::new(node.place.clone(), fault));
                None
            }
        }
    }

    /// The tables in a table: `[repository.a]`, `[repository.b]`.
    fn tables(&mut self, name: &'static str) -> Vec<(&'a str, &'a Place, &'a Table)> {
        let Some(table) = self.table(name) else { return Vec::new() };
        let mut found = Vec::new();
        for (key, Entry { key: place, node }) in &table.entries {
            match &node.value {
                Value::Table(inner) => found.push((key.as_str(), place, inner)),
                _ => {
                    let what = format!("a {name} has a name: [{name}.NAME]");
                    let hint = format!("Write [{name}.NAME] above {key} = ….");
                    self.problems.push(Problem::bad_hint(place, format!("{name}.{key}"), what, hint));
                }
            }
        }
        found
    }

    fn state(&mut self, file: &Path) -> PathBuf {
        let at = At { path: "".into(), layer: &Layer::Own };
        let set = TopOptions::read_keys(self.root, &at, self.problems).state;
        let default = if file.parent() == Some(Path::new("/etc/refloat")) {
            PathBuf::from("/var/lib/refloat/postgres")
        } else {
            file.parent().unwrap_or_else(|| Path::new("/")).join("refloat-state")
        };
        self.shown.value("", "state", &set, AbsolutePath(default)).0
    }

    fn repositories(&mut self) -> Repositories {
        let mut repositories = Repositories::new();
        for (key, place, table) in self.tables("repository") {
            let path = format!("repository.{key}");
            match key.parse::<RepositoryName>() {
                Ok(name) if PolicyOptions::KEYS.contains(&key) => {
                    let why =
                        format!("\"{name}\" is a word of retention, so no repository can have that name");
                    self.problems.push(Problem::bad(place, path, why));
                }
                Ok(name) => {
                    let checked = self.repository(name.clone(), &path, place, table);
                    repositories.insert(name, checked);
                }
                Err(error) => self.problems.push(Problem::bad(place, path, error.to_string())),
            }
        }
        repositories
    }

    fn repository(
        &mut self,
        name: RepositoryName,
        path: &str,
        place: &Place,
        table: &Table,
    ) -> Option<RepositoryConfig> {
        let at = At { path: path.into(), layer: &Layer::Own };
        let before = self.problems.len();
        refuse_unknown(table, &at, &[RepositoryOptions::KEYS], self.problems);
        let raw = RepositoryOptions::read_keys(table, &at, self.problems);
        if raw.url.is_none() {
            self.missing("url", path, place, table, "Write url = \"file:///backup/db1\".");
        }
        if raw.encryption.is_none() {
            let hint = "Write encryption = { passphrase = { file = \"/etc/refloat/passphrase\" } }; an unencrypted repository is asked for with \"none\".";
            self.missing("encryption", path, place, table, hint);
        }
        if let Some(url) = &raw.url {
            self.store_fits(path, url.value.location().scheme(), &raw);
        }
        if self.problems.len() > before {
            return None;
        }
        let (url, encryption) = (raw.url.clone()?, raw.encryption.clone()?);
        self.shown.set(path, "url", &url);
        self.shown.set(path, "encryption", &encryption);
        let compression = self.shown.value(path, "compression", &raw.compression, Default::default());
        let fingerprint = self.shown.optional(path, "fingerprint", &raw.fingerprint).map(|text| text.0);
        let store = self.store(path, url.value.location().scheme(), &raw);
        Some(RepositoryConfig {
            name,
            url: url.value,
            encryption: encryption.value,
            compression,
            fingerprint,
            mode: self.shown.value(path, "mode", &raw.mode, Mode::Sync),
            store,
        })
    }

    /// Reports what is not there; a key that is there and wrong was reported when it was read.
    fn missing(
        &mut self,
        key: &'static str,
        path: &str,
        place: &Place,
        table: &Table,
        hint: impl Into<String>,
    ) {
        if !table.entries.contains_key(key) {
            let fault = Fault::Missing { key, table: format!("[{path}]"), hint: hint.into() };
            self.problems.push(Problem::new(place.clone(), fault));
        }
    }

    fn warn(&mut self, place: &Place, message: String) {
        self.warnings.push(Warning { place: place.clone(), message });
    }
}

/// "Did you mean", else the names there are.
fn defined<'n>(what: &str, name: &str, known: impl Iterator<Item = &'n str> + Clone) -> String {
    if let Some(meant) = nearest(name, known.clone()) {
        return format!("Did you mean \"{meant}\"?");
    }
    let all: Vec<String> = known.map(|known| format!("\"{known}\"")).collect();
    if all.is_empty() {
        return format!("There is no [{what}.NAME] at all.");
    }
    format!("There is {}; define it with [{what}.{name}].", all.join(", "))
}
