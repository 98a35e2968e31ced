//! What this process knows of files better than Drive's search, which lags behind: what it has created and destroyed
//! itself, ids, and creations whose answer did not come.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use super::api::File;
use crate::Key;

/// After so long the search knows as well.
const LAG: Duration = Duration::from_secs(600);

/// Most entries that are remembered of each kind: some hundred bytes each.
const MOST: usize = 20_000;

/// What is known.
#[derive(Default)]
pub(super) struct Known {
    /// Ids of objects.
    ids: HashMap<Key, String>,
    /// Files of our own.
    created: HashMap<Key, (Instant, File)>,
    /// Ids that we have destroyed.
    destroyed: HashMap<String, Instant>,
    /// Creations that may have happened: the id, and the digest of the bytes.
    unanswered: HashMap<Key, (String, String)>,
    /// Ids that may be used.
    spare: Vec<String>,
}

impl Known {
    /// The id of an object.
    pub(super) fn id(&self, key: &Key) -> Option<String> {
        self.ids.get(key).cloned()
    }

    pub(super) fn learn(&mut self, key: &Key, id: &str) {
        if self.ids.len() >= MOST {
            self.ids.clear();
        }
        self.ids.insert(key.clone(), id.to_owned());
    }

    pub(super) fn forget(&mut self, key: &Key) {
        self.ids.remove(key);
    }

    /// An object was created here.
    pub(super) fn created(&mut self, key: &Key, file: File) {
        self.unanswered.remove(key);
        self.learn(key, &file.id);
        if self.created.len() >= MOST {
            self.created.retain(|_, (at, _)| at.elapsed() <= LAG);
        }
        self.created.insert(key.clone(), (Instant::now(), file));
    }

    /// A file was destroyed here.
    pub(super) fn destroyed(&mut self, key: &Key, id: &str) {
        self.forget(key);
        if self.created.get(key).is_some_and(|(_, file)| file.id == id) {
            self.created.remove(key);
        }
        if self.destroyed.len() >= MOST {
            self.destroyed.retain(|_, at| at.elapsed() <= LAG);
        }
        self.destroyed.insert(id.to_owned(), Instant::now());
    }

    /// Whether a file that is found was destroyed here.
    pub(super) fn is_gone(&self, id: &str) -> bool {
        self.destroyed.contains_key(id)
    }

    /// The file that was created here under a name not long ago.
    pub(super) fn own(&self, key: &Key) -> Option<File> {
        self.created.get(key).filter(|(at, _)| at.elapsed() <= LAG).map(|(_, file)| file.clone())
    }

    /// The names that were created here not long ago and begin with `prefix`.
    pub(super) fn recent(&self, prefix: &str) -> Vec<Key> {
        let fresh = self
            .created
            .iter()
            .filter(|(key, (at, _))| at.elapsed() <= LAG && key.as_str().starts_with(prefix));
        fresh.map(|(key, _)| key.clone()).collect()
    }

    /// The id of an earlier attempt to create the same bytes.
    pub(super) fn unanswered(&self, key: &Key, digest: &str) -> Option<String> {
        self.unanswered.get(key).filter(|(_, same)| same == digest).map(|(id, _)| id.clone())
    }

    /// An attempt begins.
    pub(super) fn attempt(&mut self, key: &Key, id: &str, digest: &str) {
        if self.unanswered.len() >= MOST {
            self.unanswered.clear();
        }
        self.unanswered.insert(key.clone(), (id.to_owned(), digest.to_owned()));
    }

    /// An attempt was answered, with whatever.
    pub(super) fn answered(&mut self, key: &Key) {
        self.unanswered.remove(key);
    }

    /// An id to use.
    pub(super) fn take_id(&mut self) -> Option<String> {
        self.spare.pop()
    }

    pub(super) fn keep_ids(&mut self, ids: Vec<String>) {
        self.spare.extend(ids);
    }
}

/// Names that came by, 16 bytes for each whatever its length: a list may have half a million.
#[derive(Default)]
pub(super) struct Seen {
    one: RandomState,
    other: RandomState,
    digests: HashSet<(u64, u64)>,
}

impl Seen {
    fn digest(&self, key: &Key) -> (u64, u64) {
        (self.one.hash_one(key), self.other.hash_one(key))
    }
    /// Whether this is the first time.
    pub(super) fn insert(&mut self, key: &Key) -> bool {
        self.digests.insert(self.digest(key))
    }
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.digests.contains(&self.digest(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_here_ends_with_the_file() {
        let (key, digest) = ("a".parse().unwrap(), "d");
        let file = |id: &str| File {
            id: id.to_owned(),
            name: "a".to_owned(),
            size: 1,
            created: refloat_types::Timestamp::UNIX_EPOCH,
            is_trashed: false,
            sha256: None,
        };
        let mut known = Known::default();
        known.attempt(&key, "1", digest);
        assert_eq!(known.unanswered(&key, digest).as_deref(), Some("1"));
        assert_eq!(known.unanswered(&key, "others"), None, "other bytes are another object");
        known.created(&key, file("1"));
        assert_eq!((known.id(&key).as_deref(), known.unanswered(&key, digest)), (Some("1"), None));
        assert_eq!((known.own(&key), known.recent("")), (Some(file("1")), vec![key.clone()]));
        assert!(known.recent("b").is_empty());
        // One that lost leaves the object as it is.
        known.destroyed(&key, "2");
        assert_eq!(known.own(&key), Some(file("1")));
        known.destroyed(&key, "1");
        assert_eq!((known.own(&key), known.id(&key), known.is_gone("1")), (None, None, true));
        let mut seen = Seen::default();
        assert!(seen.insert(&key) && !seen.insert(&key) && seen.contains(&key));
    }
}
