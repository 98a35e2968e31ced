//! Files and folders, and what a search knows of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use refloat_types::{Clock as _, SystemClock, Timestamp};
use serde_json::{Map, Value as Json, json};

use super::super::double::time;
use super::query::Search;

pub(super) const FOLDER: &str = "application/vnd.google-apps.folder";

#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) mime: String,
    pub(super) parents: Vec<String>,
    pub(super) properties: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
    pub(super) created: Timestamp,
    pub(super) is_trashed: bool,
}

impl File {
    pub(super) fn new(id: String, what: &Json, body: Vec<u8>) -> Self {
        let text = |name: &str| what.get(name).and_then(Json::as_str).map(str::to_owned);
        let parents = what.get("parents").and_then(Json::as_array);
        let parents =
            parents.map(|all| all.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect());
        let properties = what.get("properties").and_then(Json::as_object).into_iter().flatten();
        Self {
            id,
            name: text("name").unwrap_or_else(|| "Untitled".to_owned()),
            mime: text("mimeType").unwrap_or_else(|| "application/octet-stream".to_owned()),
            parents: parents.unwrap_or_else(|| vec!["root".to_owned()]),
            properties: properties
                .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                .collect(),
            body,
            created: Timestamp::UNIX_EPOCH,
            is_trashed: false,
        }
    }

    pub(super) fn is_folder(&self) -> bool {
        self.mime == FOLDER
    }

    /// What was asked for of it.
    fn describe(&self, fields: &str, is_trashed: bool) -> Json {
        let asked: BTreeSet<&str> = fields.split(|c: char| !c.is_ascii_alphanumeric()).collect();
        let mut all = json!({
            "kind": "drive#file", "id": self.id, "name": self.name, "mimeType": self.mime,
            "parents": self.parents, "createdTime": time(self.created, 3), "trashed": is_trashed,
            "properties": self.properties,
        });
        if !self.is_folder() {
            all["size"] = json!(self.body.len().to_string());
            all["sha256Checksum"] =
                json!(data_encoding::HEXLOWER.encode(digest(&SHA256, &self.body).as_ref()));
        }
        let told = all.as_object().into_iter().flatten();
        let told = told.filter(|(name, _)| asked.contains(name.as_str()));
        Json::Object(told.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>())
    }
}

/// All of them.
#[derive(Default)]
pub(super) struct Files {
    files: BTreeMap<String, File>,
    /// After how many more searches one is found.
    unknown: BTreeMap<String, u64>,
    /// Destroyed, and for how many more searches one is found all the same.
    ghosts: BTreeMap<String, (File, u64)>,
    /// Ids that had a file.
    used: BTreeSet<String>,
    newest: Timestamp,
}

impl Files {
    /// Adds a file that searches know after `lag` of them. No two are created in the same moment.
    pub(super) fn add(&mut self, mut file: File, lag: u64) {
        let next = Timestamp::from_millisecond(self.newest.as_millisecond() + 1).unwrap_or(self.newest);
        let now = Timestamp::from_millisecond(SystemClock.now().as_millisecond()).unwrap_or(next);
        file.created = now.max(next);
        self.newest = file.created;
        self.used.insert(file.id.clone());
        if lag > 0 {
            self.unknown.insert(file.id.clone(), lag);
        }
        self.files.insert(file.id.clone(), file);
    }

    /// Removes a file, or a folder with all that is in it; `false` where there is none.
    pub(super) fn remove(&mut self, id: &str, lag: u64) -> bool {
        let Some(file) = self.files.remove(id) else { return false };
        let inside = self.files.values().filter(|one| one.parents.iter().any(|parent| parent == id));
        for child in inside.map(|one| one.id.clone()).collect::<Vec<_>>() {
            self.remove(&child, lag);
        }
        if lag > 0 {
            self.ghosts.insert(id.to_owned(), (file, lag));
        }
        true
    }

    pub(super) fn get(&self, id: &str) -> Option<&File> {
        self.files.get(id)
    }
    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut File> {
        self.files.get_mut(id)
    }
    pub(super) fn all(&self) -> impl Iterator<Item = &File> {
        self.files.values()
    }
    pub(super) fn was_used(&self, id: &str) -> bool {
        self.used.contains(id)
    }

    /// A file as a search tells it.
    pub(super) fn listed(&self, id: &str, fields: &str) -> Option<Json> {
        let file = self.files.get(id).or_else(|| self.ghosts.get(id).map(|(file, _)| file))?;
        Some(file.describe(fields, self.is_trashed(file)))
    }

    /// What was asked for of a file.
    pub(super) fn describe(&self, id: &str, fields: &str) -> Option<Json> {
        let file = self.files.get(id)?;
        Some(file.describe(fields, self.is_trashed(file)))
    }

    /// Whether a file is in the trash, itself or by a folder above it.
    fn is_trashed(&self, file: &File) -> bool {
        file.is_trashed
            || file.parents.iter().any(|id| self.files.get(id).is_some_and(|one| self.is_trashed(one)))
    }

    /// The ids of what a search finds, oldest first.
    pub(super) fn search(&mut self, search: &Search) -> Vec<String> {
        let known = self.files.values().filter(|file| !self.unknown.contains_key(&file.id));
        let all = known.chain(self.ghosts.values().map(|(file, _)| file));
        let mut found: Vec<&File> = all.filter(|file| search.fits(file, self.is_trashed(file))).collect();
        found.sort_by_key(|file| file.created);
        let found = found.into_iter().map(|file| file.id.clone()).collect();
        self.unknown.retain(|_, left| {
            *left -= 1;
            *left > 0
        });
        self.ghosts.retain(|_, (_, left)| {
            *left -= 1;
            *left > 0
        });
        found
    }

    pub(super) fn age(&mut self, which: impl Fn(&File) -> bool, seconds: i64) {
        for file in self.files.values_mut().filter(|file| which(file)) {
            let older = Duration::from_secs(seconds.unsigned_abs());
            file.created = file.created.checked_sub(older).unwrap_or(file.created);
        }
    }
}
