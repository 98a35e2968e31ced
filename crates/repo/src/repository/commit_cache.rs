//! Commits that this host has read and verified before, kept in its state directory: listing ten thousand backups then
//! reads one file.
//!
//! A commit never changes, so what was verified once under a name, a size and a time of creation holds. Only commits that
//! the store lists are asked for, so what was deleted is not seen again; what is new is read from the store. The file may be
//! deleted at any time. One that is cut or damaged is dropped without a word, and written anew; it is written beside its
//! place and renamed, and needs no sync for that reason. Nothing that deletes relies on it, and `verify` does not ask it.
//!
//! Bytes: [`MAGIC`]; for each commit: its key, varint size, 16 bytes time of creation in nanoseconds since 1970, 16 bytes
//! agent, clear section (JSON), pack table as in the commit, names (JSON; empty: this host could not open them); each but the
//! numbers a varint length and bytes. Last 32 bytes BLAKE3 of all before.

use std::collections::BTreeMap;

use refloat_store::{Key, ObjectInfo};
use refloat_types::{ObjectId, SourceId};

use super::Repository;
use super::backups::{MAX_COMMIT, commit_of};
use super::mend::is_damage;
use crate::binary::{BadBytes, Reader, put_bytes, put_varint};
use crate::commit::{CommitNames, CommitRecord, decode_packs, encode_packs};
use crate::error::RepoError;
use crate::kind::Kind;
use crate::layout;

/// What the file begins with; a change of the format changes it.
const MAGIC: &[u8] = b"refloat commits 1\n";
const DIGEST: usize = 32;
/// A commit that takes more is read from the store each time: one of more than a thousand packs (50 GB stored).
const MAX_ROW: usize = 64 << 10;
/// A file larger than this is dropped.
const MAX_FILE: u64 = 1 << 30;

/// A commit, and its sealed part where this host can open it.
#[derive(Debug, Clone)]
pub struct KnownCommit {
    /// The commit.
    pub record: CommitRecord,
    /// Its names.
    pub names: Option<CommitNames>,
}

/// The commits of one source that this host knows.
pub struct CommitCache<'a> {
    repository: &'a Repository,
    source: SourceId,
    /// The file's bytes, and where in them each commit's row is.
    bytes: Vec<u8>,
    rows: BTreeMap<Key, std::ops::Range<usize>>,
    /// Rows as they will be written.
    kept: BTreeMap<Key, Row>,
    is_changed: bool,
}

/// A row that will be written.
enum Row {
    /// As it was read.
    Old(std::ops::Range<usize>),
    New(Vec<u8>),
}

impl Repository {
    /// The commits of `source` that this host knows: none, where it knows none or what it knew is damaged.
    pub fn commit_cache(&self, source: SourceId) -> CommitCache<'_> {
        let mut cache = CommitCache {
            repository: self,
            source,
            bytes: Vec::new(),
            rows: BTreeMap::new(),
            kept: BTreeMap::new(),
            is_changed: false,
        };
        let read = self.state().read_bytes(&cache.file(), MAX_FILE);
        if let Ok(Some(bytes)) = read
            && let Ok(rows) = index(&bytes)
        {
            (cache.bytes, cache.rows) = (bytes, rows);
        }
        cache
    }

    /// The commit that this host has verified before under exactly this key, whatever the store has there now.
    pub(super) fn verified_commit(&self, source: SourceId, key: &Key) -> Option<KnownCommit> {
        let cache = self.commit_cache(source);
        let mut reader = Reader::new(cache.bytes.get(cache.rows.get(key)?.clone())?);
        if reader.bytes().ok()? != key.as_str().as_bytes() {
            return None;
        }
        reader.varint().ok()?;
        reader.take(16).ok()?;
        let known = known_of(&mut reader, key)?;
        let commit = &known.record.commit;
        (layout::commit(commit.source, commit.number, commit.backup) == *key).then_some(known)
    }
}

impl CommitCache<'_> {
    fn file(&self) -> String {
        self.repository.state_name(&format!("commits/{}", self.source))
    }

    /// A commit that the store has just listed.
    ///
    /// # Errors
    /// As [`Repository::read_commit`].
    pub fn read(&mut self, info: &ObjectInfo) -> Result<KnownCommit, RepoError> {
        if let Some(range) = self.rows.get(&info.key).cloned()
            && let Some(known) = self.bytes.get(range.clone()).and_then(|row| self.decode(row, info))
        {
            self.kept.insert(info.key.clone(), Row::Old(range));
            return Ok(known);
        }
        let read = self.read_anew(info);
        if let Err(error) = &read
            && is_damage(error)
            && let Some(range) = self.rows.get(&info.key).cloned()
        {
            // What was verified before is what it can be healed by.
            self.kept.insert(info.key.clone(), Row::Old(range));
        }
        read
    }

    fn read_anew(&mut self, info: &ObjectInfo) -> Result<KnownCommit, RepoError> {
        let document = self.repository.get_signed(&info.key, Kind::Commit, MAX_COMMIT)?;
        let record = commit_of(&info.key, &document)?;
        let names = match self.repository.open_document(&info.key, &document) {
            Ok(names) => Some(names),
            Err(RepoError::Store(error)) if error.is_retryable() => return Err(error.into()),
            Err(_) => None,
        };
        let known = KnownCommit { record, names };
        if let Some(row) = encode(info, &known) {
            self.kept.insert(info.key.clone(), Row::New(row));
            self.is_changed = true;
        }
        Ok(known)
    }

    /// What a row says, if it is of this very object and this host could not learn more by reading it again.
    fn decode(&self, row: &[u8], info: &ObjectInfo) -> Option<KnownCommit> {
        let mut reader = Reader::new(row);
        let is_same = reader.bytes().ok()? == info.key.as_str().as_bytes()
            && reader.varint().ok()? == info.size
            && i128::from_le_bytes(reader.array().ok()?) == info.created.as_nanosecond();
        if !is_same {
            return None;
        }
        let known = known_of(&mut reader, &info.key)?;
        (known.names.is_some() || !self.repository.can_read()).then_some(known)
    }

    /// All commits of the source were asked for: keeps what is new, and forgets what was not asked for. That it cannot be
    /// kept is no error: this host may not have a state directory that it can write.
    pub fn close(self) {
        if !self.is_changed && self.kept.len() == self.rows.len() {
            return;
        }
        let mut out = MAGIC.to_vec();
        for row in self.kept.values() {
            match row {
                Row::Old(range) => out.extend_from_slice(self.bytes.get(range.clone()).unwrap_or_default()),
                Row::New(row) => out.extend_from_slice(row),
            }
        }
        let digest = blake3::hash(&out);
        out.extend_from_slice(digest.as_bytes());
        if let Err(error) = self.repository.state().replace(&self.file(), &out) {
            tracing::debug!(%error, "what was read of backups is not kept for the next time");
        }
    }
}

/// What stands in a row behind what tells the object.
fn known_of(reader: &mut Reader<'_>, key: &Key) -> Option<KnownCommit> {
    let agent = ObjectId(reader.array().ok()?);
    let commit = serde_json::from_slice(reader.bytes().ok()?).ok()?;
    let packs = decode_packs(key.as_str(), reader.bytes().ok()?).ok()?;
    let names = reader.bytes().ok()?;
    let names = if names.is_empty() { None } else { Some(serde_json::from_slice(names).ok()?) };
    Some(KnownCommit { record: CommitRecord { commit, packs, agent }, names })
}

fn encode(info: &ObjectInfo, known: &KnownCommit) -> Option<Vec<u8>> {
    let mut row = Vec::new();
    put_bytes(&mut row, info.key.as_str().as_bytes());
    put_varint(&mut row, info.size);
    row.extend_from_slice(&info.created.as_nanosecond().to_le_bytes());
    row.extend_from_slice(&known.record.agent.0);
    put_bytes(&mut row, &serde_json::to_vec(&known.record.commit).ok()?);
    put_bytes(&mut row, &encode_packs(&known.record.packs));
    let names = known.names.as_ref().map(serde_json::to_vec).transpose().ok()?;
    put_bytes(&mut row, &names.unwrap_or_default());
    (row.len() <= MAX_ROW).then_some(row)
}

/// Where each commit's row is.
fn index(bytes: &[u8]) -> Result<BTreeMap<Key, std::ops::Range<usize>>, BadBytes> {
    let end = bytes.len().checked_sub(DIGEST).ok_or(BadBytes("it ends early"))?;
    let (body, digest) = bytes.split_at(end);
    if *blake3::hash(body).as_bytes() != *digest {
        return Err(BadBytes("it is not what was written"));
    }
    let rest = body.strip_prefix(MAGIC).ok_or(BadBytes("it is something else"))?;
    let mut reader = Reader::new(rest);
    let mut rows = BTreeMap::new();
    while reader.remaining() > 0 {
        let start = end - reader.remaining();
        let key = str::from_utf8(reader.bytes()?).ok().and_then(|key| key.parse().ok());
        reader.varint()?;
        reader.take(16 + 16)?;
        for _ in 0..3 {
            reader.bytes()?;
        }
        rows.insert(key.ok_or(BadBytes("a key is none"))?, start..end - reader.remaining());
    }
    Ok(rows)
}
