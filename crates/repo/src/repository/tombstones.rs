//! Tombstones: what will be deleted, written long before it is.
//!
//! A tombstone is never taken back. Writers use nothing that one names, so what it names can be deleted at any later
//! time, however slow or suspended the deleter is. It is removed when nothing of it is left and another one carries on
//! what it says was deleted on purpose: the newest one stays as the record of that.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use refloat_store::Key;
use refloat_types::{BackupId, ObjectId, SourceId, SystemIdentifier, TimelineId, Timestamp, fault};
use serde::{Deserialize, Serialize};

use super::Repository;
use crate::crypt::random;
use crate::error::RepoError;
use crate::kind::Kind;
use crate::layout::{self, Named};
use crate::object::{Body, Document};

/// Largest tombstone accepted.
pub(super) const MAX_TOMBSTONE: u64 = 256 << 20;

/// Runs of numbers: first and last of each, in order.
type Numbers = Vec<(u64, u64)>;

/// What this and earlier tombstones name, by number: so that what is absent on purpose is told from what was lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marked {
    /// Commits by source.
    pub commits: BTreeMap<SourceId, Numbers>,
    /// The backups of these commits.
    pub backups: BTreeSet<BackupId>,
    /// WAL segments by `SYSTEM/TIMELINE`, as in their keys.
    pub wal: BTreeMap<String, Numbers>,
}

/// Adds a number to runs.
fn add(runs: &mut Numbers, number: u64) {
    let at = runs.partition_point(|(_, last)| last.checked_add(1).is_some_and(|next| next < number));
    match runs.get_mut(at) {
        Some((first, last)) if *first <= number && number <= *last => {}
        Some((_, last)) if last.checked_add(1) == Some(number) => {
            *last = number;
            if let Some((next, end)) = runs.get(at + 1).copied()
                && next == number + 1
            {
                runs[at].1 = end;
                runs.remove(at + 1);
            }
        }
        Some((first, _)) if number.checked_add(1) == Some(*first) => *first = number,
        _ => runs.insert(at, (number, number)),
    }
}

fn holds(runs: Option<&Numbers>, number: u64) -> bool {
    runs.is_some_and(|runs| runs.iter().any(|(first, last)| (*first..=*last).contains(&number)))
}

/// What of `first` to `last` is not in the runs.
fn lacking(runs: Option<&Numbers>, first: u64, last: u64) -> Numbers {
    let mut out = Numbers::new();
    let mut at = first;
    for (from, to) in runs.into_iter().flatten().filter(|(from, to)| *to >= first && *from <= last) {
        if *from > at {
            out.push((at, from - 1));
        }
        match to.checked_add(1) {
            Some(behind) => at = at.max(behind),
            None => return out,
        }
    }
    if at <= last {
        out.push((at, last));
    }
    out
}

fn wal_name(system: SystemIdentifier, timeline: TimelineId) -> String {
    format!("{system}/{:08X}", timeline.get())
}

impl Marked {
    /// A commit is marked.
    pub fn add_commit(&mut self, source: SourceId, number: u64, backup: BackupId) {
        self.backups.insert(backup);
        add(self.commits.entry(source).or_default(), number);
    }
    /// A WAL segment is marked.
    pub fn add_wal(&mut self, system: SystemIdentifier, timeline: TimelineId, number: u64) {
        add(self.wal.entry(wal_name(system, timeline)).or_default(), number);
    }
    /// Whether a commit of this number was to be deleted.
    pub fn has_commit(&self, source: SourceId, number: u64) -> bool {
        holds(self.commits.get(&source), number)
    }
    /// Whether a WAL segment of this number was to be deleted.
    pub fn has_wal(&self, system: SystemIdentifier, timeline: TimelineId, number: u64) -> bool {
        holds(self.wal.get(&wal_name(system, timeline)), number)
    }
    /// Which of these commits were never to be deleted: runs, first and last included.
    pub fn other_commits(&self, source: SourceId, first: u64, last: u64) -> Vec<(u64, u64)> {
        lacking(self.commits.get(&source), first, last)
    }
    /// Which of these WAL segments were never to be deleted: runs, first and last included.
    pub fn other_wal(
        &self,
        system: SystemIdentifier,
        timeline: TimelineId,
        first: u64,
        last: u64,
    ) -> Vec<(u64, u64)> {
        lacking(self.wal.get(&wal_name(system, timeline)), first, last)
    }
    /// Takes in all that `other` says.
    pub fn merge(&mut self, other: &Self) {
        fn each(into: &mut Numbers, from: &Numbers) {
            // Few and long: a run that is there already costs one look.
            for (first, last) in from {
                if into.iter().any(|(a, b)| a <= first && last <= b) {
                    continue;
                }
                into.push((*first, *last));
            }
            into.sort_unstable();
            let mut out: Numbers = Vec::with_capacity(into.len());
            for (first, last) in into.drain(..) {
                match out.last_mut() {
                    Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
                    _ => out.push((first, last)),
                }
            }
            *into = out;
        }
        self.backups.extend(&other.backups);
        for (source, runs) in &other.commits {
            each(self.commits.entry(*source).or_default(), runs);
        }
        for (name, runs) in &other.wal {
            each(self.wal.entry(name.clone()).or_default(), runs);
        }
    }
    /// Whether all that `other` says is said here too.
    pub fn includes(&self, other: &Self) -> bool {
        let mut both = self.clone();
        both.merge(other);
        both == *self
    }
}

/// The clear section of a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// Its number.
    pub number: u64,
    /// Host time.
    pub at: Timestamp,
    /// Who judged.
    pub agent: ObjectId,
    /// All commits that were seen, as `NUMBER-BACKUP`: by them it was judged.
    pub judged: BTreeMap<SourceId, Vec<String>>,
    /// What this and earlier tombstones name.
    pub marked: Marked,
}

/// A tombstone as it was found.
#[derive(Debug, Clone)]
pub struct StoredTombstone {
    /// Where it is.
    pub key: Key,
    /// When it was written, by the store's clock.
    pub created: Timestamp,
    /// What it says.
    pub tombstone: Tombstone,
    /// What it names, sorted.
    pub names: Vec<Key>,
}

/// What a tombstone whose signature holds says.
pub(super) fn tombstone_of(key: &Key, document: &Document) -> Result<(Tombstone, Vec<Key>), RepoError> {
    let damaged = |what: &str| RepoError::damaged(key, what);
    let sections = document.unverified();
    let tombstone: Tombstone = sections.clear_as(key.as_str())?;
    if *key != layout::tombstone(tombstone.number, document.header.id)
        || tombstone.agent != document.header.agent
    {
        return Err(damaged("it lies under another tombstone's name"));
    }
    let text = std::str::from_utf8(sections.table).map_err(|_| damaged("its list is no text"))?;
    let mut names = Vec::new();
    for line in text.lines() {
        let name: Key = line.parse().map_err(|_| damaged("its list holds what is no key"))?;
        // Whatever a tombstone says: nothing else is ever deleted by one.
        match Named::parse(&name) {
            Some(Named::Commit(..) | Named::Pack(_) | Named::Wal(..)) => names.push(name),
            _ => return Err(damaged("it names something that never expires")),
        }
    }
    if names.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(damaged("its list is not in order"));
    }
    Ok((tombstone, names))
}

impl Repository {
    /// All tombstones, in the order of their numbers.
    ///
    /// # Errors
    /// When one cannot be believed: it may name anything.
    pub fn list_tombstones(&self) -> Result<Vec<StoredTombstone>, RepoError> {
        let mut found = Vec::new();
        self.store.list(layout::TOMBSTONES, &mut |info| {
            if let Some(Named::Tombstone(..)) = Named::parse(&info.key) {
                found.push((info.key, info.created));
            }
            ControlFlow::Continue(())
        })?;
        found.sort();
        let mut out = Vec::new();
        for (key, created) in found {
            let document = match self.get_signed(&key, Kind::Tombstone, MAX_TOMBSTONE) {
                // Removed meanwhile: nothing of it is left.
                Err(RepoError::Missing { .. }) => continue,
                other => other?,
            };
            let (tombstone, names) = tombstone_of(&key, &document)?;
            out.push(StoredTombstone { key, created, tombstone, names });
        }
        Ok(out)
    }

    /// What was ever to be deleted, as the tombstones that can be believed say; for those who only explain.
    ///
    /// # Errors
    /// When the store cannot list.
    pub fn marked(&self) -> Result<Marked, RepoError> {
        let mut marked = Marked::default();
        for stored in self.list_tombstones()? {
            marked.merge(&stored.tombstone.marked);
        }
        Ok(marked)
    }

    /// Writes a tombstone that names these keys; they are sorted here.
    ///
    /// # Errors
    /// It may or may not exist; nothing is deleted by that alone.
    pub fn put_tombstone(
        &self,
        mut names: Vec<Key>,
        judged: BTreeMap<SourceId, Vec<String>>,
        marked: Marked,
        now: Timestamp,
    ) -> Result<Key, RepoError> {
        names.sort();
        names.dedup();
        let number = 1 + self.highest_number(layout::TOMBSTONES)?;
        let tombstone = Tombstone { number, at: now, agent: self.agent(), judged, marked };
        let id = random::object_id();
        let key = layout::tombstone(number, id);
        let mut table = String::new();
        for name in &names {
            table.push_str(name.as_str());
            table.push('\n');
        }
        fault::point("expire.before_tombstone").map_err(|e| RepoError::internal("write a tombstone", e))?;
        self.put_signed(&key, Kind::Tombstone, id, &tombstone, table.as_bytes(), Body::Empty)?;
        fault::point("expire.after_tombstone").map_err(|e| RepoError::internal("write a tombstone", e))?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_join_to_runs() {
        let mut runs = Numbers::new();
        for number in [5, 3, 9, 4, 4, 1, 10, 2, 8] {
            add(&mut runs, number);
        }
        assert_eq!(runs, [(1, 5), (8, 10)]);
        let (source, backup) = (SourceId([1; 16]), BackupId::from_random([1; 8]));
        let (mut a, mut b) = (Marked::default(), Marked::default());
        [1, 2, 3, 9].into_iter().for_each(|n| a.add_commit(source, n, backup));
        [4, 5, 8].into_iter().for_each(|n| b.add_commit(source, n, backup));
        assert!(!a.includes(&b));
        a.merge(&b);
        assert!(a.includes(&b) && !b.includes(&a));
        assert_eq!(a.commits[&source], [(1, 5), (8, 9)]);
        assert!(a.has_commit(source, 8) && !a.has_commit(source, 7));
        assert_eq!(a.other_commits(source, 3, 12), [(6, 7), (10, 12)]);
        assert_eq!(a.other_commits(source, 1, 5), []);
        assert_eq!(a.other_commits(source, 6, 7), [(6, 7)]);
        assert!(!a.has_wal(SystemIdentifier(1), TimelineId::FIRST, 1));
    }
}
