//! The files of the account: paths that differ in case alone are one.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest::{SHA256, digest};
use refloat_types::{Clock as _, SystemClock, Timestamp};
use serde_json::{Value as Json, json};

use super::super::double::time;

#[derive(Default)]
pub(super) struct Tree {
    /// By their paths in lower case.
    files: BTreeMap<String, File>,
    /// As they were made first, by their paths in lower case.
    folders: BTreeMap<String, String>,
    revision: u64,
}

pub(super) struct File {
    path: String,
    pub(super) body: Vec<u8>,
    modified: Timestamp,
    revision: String,
    hash: String,
}

/// Dropbox's digest of a file.
pub(super) fn content_hash(body: &[u8]) -> String {
    let blocks: Vec<u8> =
        body.chunks(4 << 20).flat_map(|block| digest(&SHA256, block).as_ref().to_vec()).collect();
    data_encoding::HEXLOWER.encode(digest(&SHA256, &blocks).as_ref())
}

/// The folders above a path, outermost first.
fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').filter(|(at, _)| *at > 0).filter_map(|(at, _)| path.get(..at))
}

impl Tree {
    pub(super) fn file(&self, path: &str) -> Option<&File> {
        self.files.get(&path.to_lowercase())
    }

    /// What keeps a file from being created at a path.
    pub(super) fn conflict(&self, path: &str) -> Option<&'static str> {
        let lower = path.to_lowercase();
        if above(&lower).any(|folder| self.files.contains_key(folder)) {
            return Some("file_ancestor");
        }
        if self.folders.contains_key(&lower) {
            return Some("folder");
        }
        self.files.contains_key(&lower).then_some("file")
    }

    /// Writes a file, over one that is there.
    pub(super) fn write(&mut self, path: &str, body: Vec<u8>) -> Result<Json, &'static str> {
        let lower = path.to_lowercase();
        if let Some(conflict) = self.conflict(path).filter(|what| *what != "file") {
            return Err(conflict);
        }
        for folder in above(path) {
            self.folders.entry(folder.to_lowercase()).or_insert_with(|| folder.to_owned());
        }
        self.revision += 1;
        let (revision, hash) = (format!("{:013x}", self.revision), content_hash(&body));
        let file = File { path: path.to_owned(), body, modified: SystemClock.now(), revision, hash };
        self.files.insert(lower.clone(), file);
        Ok(self.metadata(&lower).unwrap_or_default())
    }

    pub(super) fn metadata(&self, path: &str) -> Option<Json> {
        let lower = path.to_lowercase();
        if let Some(display) = self.folders.get(&lower) {
            let name = display.rsplit('/').next();
            return Some(json!({
                ".tag": "folder", "name": name, "id": format!("id:{lower}"), "path_lower": lower, "path_display": display,
            }));
        }
        let file = self.files.get(&lower)?;
        let modified = time(file.modified, 0);
        Some(json!({
            ".tag": "file", "name": file.path.rsplit('/').next(), "id": format!("id:{}", file.revision),
            "path_lower": lower, "path_display": file.path, "rev": file.revision, "size": file.body.len(),
            "client_modified": modified, "server_modified": modified, "content_hash": file.hash,
            "is_downloadable": true,
        }))
    }

    /// Paths in lower case of what is in a folder.
    pub(super) fn below(&self, path: &str, is_recursive: bool) -> Result<Vec<String>, &'static str> {
        let lower = path.to_lowercase();
        if self.files.contains_key(&lower) {
            return Err("not_folder");
        }
        if !lower.is_empty() && !self.folders.contains_key(&lower) {
            return Err("not_found");
        }
        let start = format!("{lower}/");
        let all: BTreeSet<&String> = self.folders.keys().chain(self.files.keys()).collect();
        let meant = all
            .into_iter()
            .filter(|path| path.strip_prefix(&start).is_some_and(|rest| is_recursive || !rest.contains('/')));
        Ok(meant.cloned().collect())
    }

    /// Removes a file, or a folder with all that is in it. Folders above it stay.
    pub(super) fn remove(&mut self, path: &str) {
        let lower = path.to_lowercase();
        let start = format!("{lower}/");
        self.files.retain(|path, _| *path != lower && !path.starts_with(&start));
        self.folders.retain(|path, _| *path != lower && !path.starts_with(&start));
    }

    pub(super) fn used(&self) -> u64 {
        self.files.values().map(|file| file.body.len() as u64).sum()
    }

    pub(super) fn paths(&self) -> Vec<String> {
        self.files.values().map(|file| file.path.clone()).collect()
    }

    pub(super) fn age(&mut self, part: &str, seconds: i64) {
        for file in self.files.values_mut().filter(|file| file.path.contains(part)) {
            let older = file.modified.as_second() - seconds;
            file.modified = Timestamp::from_second(older).unwrap_or(file.modified);
        }
    }
}
