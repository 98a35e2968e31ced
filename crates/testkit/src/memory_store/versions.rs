//! Versions and locks of the store in memory, as a bucket has them.

use std::collections::BTreeMap;
use std::time::Duration;

use refloat_store::{DefaultLock, Immutability, Key, Known, LockMode, Version};
use refloat_types::Timestamp;

/// A version; one without a body hides those before it.
struct Row {
    id: String,
    body: Option<Vec<u8>>,
    created: Timestamp,
    locked_until: Option<Timestamp>,
}

/// Every version of every object, oldest first.
pub(super) struct Versions {
    period: Duration,
    rows: BTreeMap<Key, Vec<Row>>,
    made: u64,
}

impl Versions {
    pub(super) const fn new(period: Duration) -> Self {
        Self { period, rows: BTreeMap::new(), made: 0 }
    }

    pub(super) fn immutability(&self) -> Immutability {
        let lock = DefaultLock { period: self.period, mode: LockMode::Compliance };
        Immutability { versions: Known::Yes(()), lock: Known::Yes(lock) }
    }

    pub(super) fn put(&mut self, key: &Key, body: Option<Vec<u8>>, now: Timestamp) {
        self.made += 1;
        // What hides is never locked.
        let locked_until = body.as_ref().map(|_| now + self.period);
        let row = Row { id: format!("v{}", self.made), body, created: now, locked_until };
        self.rows.entry(key.clone()).or_default().push(row);
    }

    fn find(&self, key: &Key, version: Option<&str>) -> Option<&Row> {
        let rows = self.rows.get(key)?;
        match version {
            None => rows.last().filter(|row| row.body.is_some()),
            Some(id) => rows.iter().find(|row| row.id == id),
        }
    }

    pub(super) fn end(&self, key: &Key, version: Option<&str>) -> Option<Timestamp> {
        self.find(key, version)?.locked_until
    }

    /// `false` when there is no such object.
    pub(super) fn extend(&mut self, key: &Key, until: Timestamp) -> bool {
        match self.rows.get_mut(key).and_then(|rows| rows.last_mut()) {
            Some(row) if row.body.is_some() => {
                row.locked_until = row.locked_until.max(Some(until));
                true
            }
            _ => false,
        }
    }

    pub(super) fn list(&self, prefix: &str) -> Vec<Version> {
        let matching = self.rows.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        let version = |key: &Key, row: &Row, is_latest| Version {
            key: key.clone(),
            id: row.id.clone(),
            size: row.body.as_ref().map_or(0, |body| body.len() as u64),
            created: row.created,
            is_latest,
            is_marker: row.body.is_none(),
        };
        let of = |(key, rows): (&Key, &Vec<Row>)| -> Vec<Version> {
            rows.iter().rev().enumerate().map(|(at, row)| version(key, row, at == 0)).collect()
        };
        matching.flat_map(of).collect()
    }

    /// `false` when a lock holds it.
    pub(super) fn destroy(&mut self, key: &Key, version: &str, now: Timestamp) -> bool {
        if self.end(key, Some(version)).is_some_and(|end| end > now) {
            return false;
        }
        if let Some(rows) = self.rows.get_mut(key) {
            rows.retain(|row| row.id != version);
            if rows.is_empty() {
                self.rows.remove(key);
            }
        }
        true
    }

    /// What a read finds.
    pub(super) fn shown(&self, key: &Key) -> Option<(Vec<u8>, Timestamp)> {
        let row = self.find(key, None)?;
        row.body.clone().map(|body| (body, row.created))
    }
}
