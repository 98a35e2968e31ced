//! Sources: what they say themselves, over their template, over the defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use refloat_types::{RepositoryName, SourceName};

use super::{Checker, Repositories, defined};
use crate::config::SourceConfig;
use crate::error::{Fault, Problem};
use crate::node::Table;
use crate::options::{PostgresOptions, SourceHead};
use crate::place::{Origin, Place};
use crate::setting::{At, Layer, Layered, Set, refuse_unknown};
use crate::values::plain::{AbsolutePath, Acknowledge, Size, Text};
use crate::values::retention::RetentionOptions;
use crate::values::words::{BackupWal, Checkpoint, Kind, Mode, RunOn, Wal};

/// `wal push` and `wal fetch` give up after this.
const WAL_TIMEOUT: (Duration, &str) = (Duration::from_secs(60), "60s");

impl<'a> Checker<'a> {
    /// `[defaults.postgres]` and every template.
    fn layers(&mut self) -> (PostgresOptions, BTreeMap<&'a str, PostgresOptions>) {
        let mut defaults = PostgresOptions::default();
        for (key, place, table) in self.tables("defaults") {
            let layer = Layer::Defaults("postgres");
            let at = At { path: format!("defaults.{key}").into(), layer: &layer };
            if key == "postgres" {
                refuse_unknown(table, &at, &[PostgresOptions::KEYS], self.problems);
                defaults = PostgresOptions::read_keys(table, &at, self.problems);
            } else {
                let fault = Fault::NotBuilt {
                    what: format!("[defaults.{key}]"),
                    can: "This version backs up PostgreSQL clusters: [defaults.postgres].".to_owned(),
                };
                self.problems.push(Problem::new(place.clone(), fault));
            }
        }
        let mut templates = BTreeMap::new();
        for (key, _, table) in self.tables("template") {
            let layer = Layer::Template(key.to_owned());
            let at = At { path: format!("template.{key}").into(), layer: &layer };
            refuse_unknown(table, &at, &[PostgresOptions::KEYS], self.problems);
            templates.insert(key, PostgresOptions::read_keys(table, &at, self.problems));
        }
        (defaults, templates)
    }

    pub(super) fn sources(&mut self, repositories: &Repositories) -> BTreeMap<SourceName, SourceConfig> {
        let (defaults, templates) = self.layers();
        let mut sources: BTreeMap<SourceName, SourceConfig> = BTreeMap::new();
        let mut directories: BTreeMap<PathBuf, (SourceName, Place)> = BTreeMap::new();
        for (key, place, table) in self.tables("source") {
            let path = format!("source.{key}");
            let name = match key.parse::<SourceName>() {
                Ok(name) => name,
                Err(error) => {
                    self.problems.push(Problem::bad(place, path, error.to_string()));
                    continue;
                }
            };
            let Some(raw) = self.source_options(&path, place, table, &defaults, &templates) else { continue };
            if let Some(set) = &raw.data_directory {
                self.claim(&name, set, &mut directories);
            }
            if let Some(source) = self.source(&name, &path, place, raw, repositories) {
                sources.insert(name, source);
            }
        }
        sources
    }

    /// Remembers whose a data directory is; two sources cannot share one. The later of the two lines is at fault.
    fn claim(
        &mut self,
        name: &SourceName,
        set: &Set<AbsolutePath>,
        directories: &mut BTreeMap<PathBuf, (SourceName, Place)>,
    ) {
        let mine = (name.clone(), set.place.clone());
        let Some(theirs) = directories.insert(set.value.0.clone(), mine.clone()) else { return };
        let mine_is_above = mine.1.file() == theirs.1.file() && mine.1.line() < theirs.1.line();
        let (first, second) = if mine_is_above { (mine, theirs) } else { (theirs, mine) };
        self.problems.push(Problem::new(second.1, Fault::Claimed { by: first.0, at: first.1 }));
    }

    /// What a source says itself, over its template, over the defaults. `None` when what it is cannot be told, or when
    /// one of its own settings is wrong.
    fn source_options(
        &mut self,
        path: &str,
        place: &Place,
        table: &Table,
        defaults: &PostgresOptions,
        templates: &BTreeMap<&str, PostgresOptions>,
    ) -> Option<PostgresOptions> {
        let at = At { path: path.into(), layer: &Layer::Own };
        let before = self.problems.len();
        let head = SourceHead::read_keys(table, &at, self.problems);
        self.missing("kind", path, place, table, "Write kind = \"postgres\".");
        if head.kind.is_none() && table.entries.contains_key("kind") {
            // Another kind has other settings: this version cannot judge them.
            return None;
        }
        refuse_unknown(table, &at, &[SourceHead::KEYS, PostgresOptions::KEYS], self.problems);
        let own = PostgresOptions::read_keys(table, &at, self.problems);
        let template = head.like.as_ref().and_then(|like| self.template(like, templates));
        if self.problems.len() > before {
            return None;
        }
        self.shown.set(path, "kind", head.kind.as_ref()?);
        if let Some(like) = &head.like {
            self.shown.set(path, "like", like);
        }
        let middle = template.cloned().unwrap_or_default().over(defaults);
        Some(own.over(&middle))
    }

    fn template<'t>(
        &mut self,
        like: &Set<Text>,
        templates: &'t BTreeMap<&str, PostgresOptions>,
    ) -> Option<&'t PostgresOptions> {
        let name = like.value.0.as_str();
        if let Some(template) = templates.get(name) {
            return Some(template);
        }
        let hint = defined("template", name, templates.keys().copied());
        let fault = Fault::Undefined { what: format!("template \"{name}\""), hint };
        self.problems.push(Problem::new(like.place.clone(), fault));
        None
    }

    fn source(
        &mut self,
        name: &SourceName,
        path: &str,
        place: &Place,
        raw: PostgresOptions,
        repositories: &Repositories,
    ) -> Option<SourceConfig> {
        let before = self.problems.len();
        if raw.data_directory.is_none() {
            let hint = "Write data_directory = \"/var/lib/postgresql/15/main\" (as `SHOW data_directory` prints it).";
            let fault =
                Fault::Missing { key: "data_directory", table: format!("[{path}]"), hint: hint.to_owned() };
            self.problems.push(Problem::new(place.clone(), fault));
        }
        let listed = self.source_repositories(path, place, &raw, repositories);
        let retention = raw.retention.as_ref().map(|set| set.value.clone()).unwrap_or_default();
        self.retention(path, &retention, &listed, repositories);
        self.acknowledge(path, place, &raw, &listed, repositories);
        if self.problems.len() > before {
            return None;
        }
        if let Some(set) = &raw.schedule {
            self.warn(
                &set.place,
                format!(
                    "{path}.schedule: this version starts no backup by itself; cron or a systemd timer does"
                ),
            );
        }
        let shown = &mut self.shown;
        let directory = raw.data_directory?;
        shown.set(path, "data_directory", &directory);
        Some(SourceConfig {
            name: name.clone(),
            kind: Kind::Postgres,
            data_directory: directory.value.0,
            connection: shown.optional(path, "connection", &raw.connection),
            repositories: listed,
            acknowledge: shown.value(path, "acknowledge", &raw.acknowledge, Acknowledge(1)).0,
            retention: retention.general.map(|placed| placed.policy),
            retention_of: retention
                .repositories
                .into_iter()
                .map(|(name, placed)| (name, placed.policy))
                .collect(),
            schedule: shown.optional(path, "schedule", &raw.schedule),
            wal: shown.value(path, "wal", &raw.wal, Wal::Push),
            wal_push_timeout: shown.timeout(path, "wal_push_timeout", &raw.wal_push_timeout, WAL_TIMEOUT),
            wal_fetch_timeout: shown.timeout(path, "wal_fetch_timeout", &raw.wal_fetch_timeout, WAL_TIMEOUT),
            wal_fetch_ahead: shown
                .value(path, "wal_fetch_ahead", &raw.wal_fetch_ahead, Size::default())
                .bytes,
            backup_wal: shown.value(path, "backup_wal", &raw.backup_wal, BackupWal::Auto),
            checkpoint: shown.value(path, "checkpoint", &raw.checkpoint, Checkpoint::Fast),
            jobs: shown.optional(path, "jobs", &raw.jobs).map(|jobs| jobs.0),
            max_read_rate: shown.optional(path, "max_read_rate", &raw.max_read_rate).map(|rate| rate.bytes),
            user: shown.optional(path, "user", &raw.user).map(|user| user.0),
            run_on: shown.value(path, "run_on", &raw.run_on, RunOn::Primary),
        })
    }

    /// The repositories of a source: those it lists, else the only one there is.
    fn source_repositories(
        &mut self,
        path: &str,
        place: &Place,
        raw: &PostgresOptions,
        repositories: &Repositories,
    ) -> Vec<RepositoryName> {
        if let Some(set) = &raw.repositories {
            self.shown.set(path, "repositories", set);
            for (name, place) in set.value.0.iter().filter(|(name, _)| !repositories.contains_key(name)) {
                self.undefined_repository(name, place, repositories);
            }
            return set.value.0.iter().map(|(name, _)| name.clone()).collect();
        }
        let mut names = repositories.keys();
        match (names.next(), names.next()) {
            (Some(only), None) => {
                self.shown.built_in(path, "repositories", serde_json::json!([only.as_str()]));
                vec![only.clone()]
            }
            (first, _) => {
                let all: Vec<String> = repositories.keys().map(|name| format!("\"{name}\"")).collect();
                let hint = match first {
                    Some(_) => {
                        format!("Several are defined; name one or more: repositories = [{}].", all.join(", "))
                    }
                    None => "There is none yet; write [repository.NAME] with url and encryption.".to_owned(),
                };
                let fault = Fault::Missing { key: "repositories", table: format!("[{path}]"), hint };
                self.problems.push(Problem::new(place.clone(), fault));
                Vec::new()
            }
        }
    }

    fn undefined_repository(&mut self, name: &RepositoryName, place: &Place, repositories: &Repositories) {
        let hint = defined("repository", name.as_str(), repositories.keys().map(RepositoryName::as_str));
        let fault = Fault::Undefined { what: format!("repository \"{name}\""), hint };
        if !self.problems.iter().any(|known| known.place == *place && known.fault == fault) {
            self.problems.push(Problem::new(place.clone(), fault));
        }
    }

    /// What must be acknowledged can be only by repositories that get everything at once.
    fn acknowledge(
        &mut self,
        path: &str,
        place: &Place,
        raw: &PostgresOptions,
        listed: &[RepositoryName],
        repositories: &Repositories,
    ) {
        let known = || listed.iter().filter_map(|name| repositories.get(name)?.as_ref());
        if known().count() < listed.len() || listed.is_empty() {
            return;
        }
        let at_once = known().filter(|repository| repository.mode == Mode::Sync).count() as u32;
        if at_once == 0 {
            let why =
                "all of its repositories are \"async\": nothing would ever be stored in one of them first";
            let hint = "Set mode = \"sync\" in one of them.";
            self.problems.push(Problem::bad_hint(place, format!("{path}.repositories"), why, hint));
        } else if let Some(set) = raw.acknowledge.as_ref().filter(|set| set.value.0 > at_once) {
            let why = format!("{} must acknowledge, and it has {at_once} that store at once", set.value.0);
            let hint = "Lower it, or add repositories with mode = \"sync\".";
            self.problems.push(Problem::bad_hint(&set.place, format!("{path}.acknowledge"), why, hint));
        }
    }

    fn retention(
        &mut self,
        path: &str,
        retention: &RetentionOptions,
        listed: &[RepositoryName],
        repositories: &Repositories,
    ) {
        for (name, placed) in &retention.repositories {
            if !repositories.contains_key(name) {
                self.undefined_repository(name, &placed.place, repositories);
            } else if !listed.contains(name) && matches!(placed.origin, Origin::File(_)) {
                let why = format!("[{path}] keeps nothing in repository \"{name}\"");
                let hint = format!("Add \"{name}\" to its repositories, or remove this table.");
                self.problems.push(Problem::bad_hint(
                    &placed.place,
                    format!("{path}.retention.{name}"),
                    why,
                    hint,
                ));
            }
        }
        let general = retention.general.iter().map(|placed| (format!("{path}.retention"), placed));
        let single = retention.repositories.iter();
        for (at, placed) in
            general.chain(single.map(|(name, placed)| (format!("{path}.retention.{name}"), placed)))
        {
            self.shown.policy(&at, placed);
        }
    }
}
