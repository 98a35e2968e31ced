//! The journal of a running backup: where the bytes of each range were put, with the hashes of its pages.
//!
//! It lies beside the backup's note in the state directory, because the map leaves themselves reach the repository late:
//! of a backup that died they are mostly lost. It only makes a later backup cheaper. What cannot be written is not noted,
//! and what cannot be read is not there: no backup fails for it. Every record carries a digest, so of a journal that a crash
//! cut short everything up to there is good, and no damaged record names a frame.
//!
//! A record: length (u32), the first 16 bytes of BLAKE3 of what follows, then so many bytes. The first is the header, as
//! JSON. Each other one is a range: its number in the file (varint), the path (varint length, bytes), and the leaf.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use refloat_repo::binary::{BadBytes, Reader, put_bytes, put_varint};
use refloat_repo::manifest::Leaf;
use refloat_types::{ObjectId, SystemIdentifier};
use serde::{Deserialize, Serialize};

/// The form of a journal; another one is not read.
pub(super) const VERSION: u32 = 1;
/// A journal grows no further: a leaf is a thousandth of what it covers, so this is the journal of a terabyte.
const MOST_BYTES: u64 = 1 << 30;
/// Nor has it more ranges.
const MOST_RECORDS: u64 = 1 << 20;
/// Largest record believed: a damaged length must not become an allocation.
const MAX_RECORD: usize = 4 << 20;
const DIGEST: usize = 16;
/// Length and digest.
const FRONT: usize = 4 + DIGEST;

/// Whose journal it is: one of anything else is of no use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::backup) struct Header {
    pub(in crate::backup) version: u32,
    pub(in crate::backup) host: String,
    pub(in crate::backup) data_directory: String,
    pub(in crate::backup) system: SystemIdentifier,
    /// The key that seals the packs; none where nothing is encrypted.
    pub(in crate::backup) key: ObjectId,
}

fn digest(payload: &[u8]) -> [u8; DIGEST] {
    let mut first = [0; DIGEST];
    first.copy_from_slice(&blake3::hash(payload).as_bytes()[..DIGEST]);
    first
}

/// What a range is looked for by.
pub(super) fn name_of(path: &[u8], span: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&span.to_le_bytes()).update(path);
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// A journal that is being written.
pub(super) struct Journal {
    path: PathBuf,
    /// None any more when writing has failed, or it is full.
    open: Mutex<Option<Open>>,
}

struct Open {
    file: File,
    bytes: u64,
    records: u64,
    record: Vec<u8>,
}

impl Open {
    fn append(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut record = std::mem::take(&mut self.record);
        record.clear();
        record.resize(FRONT, 0);
        fill(&mut record);
        let (front, payload) = record.split_at_mut(FRONT);
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        front[..4].copy_from_slice(&length.to_le_bytes());
        front[4..].copy_from_slice(&digest(payload));
        // One write: a crash cuts a record short, and never mixes two.
        self.file.write_all(&record)?;
        self.bytes += record.len() as u64;
        self.records += 1;
        self.record = record;
        Ok(())
    }
}

impl Journal {
    /// Begins a journal; without a file where that cannot be.
    pub(super) fn begin(path: PathBuf, header: &Header) -> Self {
        let begun = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path);
        let begun = begun.and_then(|file| {
            let mut open = Open { file, bytes: 0, records: 0, record: Vec::new() };
            let header = serde_json::to_vec(header)?;
            open.append(|record| record.extend_from_slice(&header))?;
            Ok(open)
        });
        let open = begun.inspect_err(|error| unwritten(&path, error)).ok();
        Self { path, open: Mutex::new(open) }
    }

    /// Notes the leaf of a range.
    pub(super) fn leaf(&self, path: &[u8], span: u64, encoded: &[u8]) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(journal) = open.as_mut() else { return };
        let written = journal.append(|record| {
            put_varint(record, span);
            put_bytes(record, path);
            record.extend_from_slice(encoded);
        });
        let is_full = journal.bytes >= MOST_BYTES || journal.records >= MOST_RECORDS;
        if let Err(error) = &written {
            unwritten(&self.path, error);
        }
        if written.is_err() || is_full {
            *open = None;
        }
    }
}

fn unwritten(path: &Path, error: &io::Error) {
    tracing::warn!(path = %path.display(), %error, "what this backup stores cannot be noted: if it dies, the next one stores it again");
}

/// A journal that was left.
pub(super) struct Left {
    file: File,
    end: u64,
}

impl Left {
    /// Opens the journal of a backup that died; `None` where there is none that can be read.
    pub(super) fn open(path: &Path) -> Option<(Self, Header)> {
        let file = File::open(path).ok()?;
        let end = file.metadata().ok()?.len();
        let left = Self { file, end };
        let mut payload = Vec::new();
        left.record(0, &mut payload)?;
        let header: Header = serde_json::from_slice(&payload).ok()?;
        Some((left, header))
    }

    /// Reads all of it once: `each` gets the name of every range and where its record is, until it answers `false`, or
    /// the first record that is not whole.
    pub(super) fn index(&self, each: &mut dyn FnMut(u64, u64) -> bool) {
        let mut at = 0_u64;
        let mut file = BufReader::with_capacity(1 << 20, Cursor { file: &self.file, at: 0 });
        let mut payload = Vec::new();
        while next(&mut file, self.end - at, &mut payload).is_some() {
            let begins = at;
            at += (FRONT + payload.len()) as u64;
            if begins == 0 {
                continue;
            }
            let Ok((path, span, _)) = split(&payload) else { return };
            if !each(name_of(path, span), begins) {
                return;
            }
        }
    }

    /// The leaf in the record at `at`, if it is that of this range.
    pub(super) fn leaf(&self, at: u64, path: &[u8], span: u64, payload: &mut Vec<u8>) -> Option<Leaf> {
        self.record(at, payload)?;
        let (found, number, leaf) = split(payload).ok()?;
        if found != path || number != span {
            return None;
        }
        Leaf::decode(leaf).ok()
    }

    fn record(&self, at: u64, payload: &mut Vec<u8>) -> Option<()> {
        next(&mut Cursor { file: &self.file, at }, self.end.checked_sub(at)?, payload)
    }
}

/// A place of its own in a file that threads share.
struct Cursor<'a> {
    file: &'a File,
    at: u64,
}

impl io::Read for Cursor<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(into, self.at)?;
        self.at += got as u64;
        Ok(got)
    }
}

/// The next record, of which no more than `left` bytes are there; `None` when it is not whole.
fn next(file: &mut impl io::Read, left: u64, payload: &mut Vec<u8>) -> Option<()> {
    let mut front = [0; FRONT];
    file.read_exact(&mut front).ok()?;
    let (length, expected) = front.split_at(4);
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    if length > MAX_RECORD || (FRONT + length) as u64 > left {
        return None;
    }
    payload.clear();
    payload.resize(length, 0);
    file.read_exact(payload).ok()?;
    (digest(payload) == expected).then_some(())
}

/// Path, number of the range, leaf.
fn split(payload: &[u8]) -> Result<(&[u8], u64, &[u8]), BadBytes> {
    let mut reader = Reader::new(payload);
    let span = reader.varint()?;
    let length = usize::try_from(reader.varint()?).map_err(|_| BadBytes("a path is too long"))?;
    let path = reader.take(length)?;
    let rest = reader.remaining();
    Ok((path, span, reader.take(rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            version: VERSION,
            host: "db1".to_owned(),
            data_directory: "/data".to_owned(),
            system: SystemIdentifier(7),
            key: ObjectId([3; 16]),
        }
    }

    fn leaf(length: u64) -> Leaf {
        let mut leaf = Leaf { block_size: 8192, hashes: vec![length; 1], ..Leaf::default() };
        leaf.push_zeros(length);
        leaf
    }

    fn written(directory: &Path, records: u64) -> PathBuf {
        let path = directory.join("journal");
        let journal = Journal::begin(path.clone(), &header());
        for n in 0..records {
            let mut encoded = Vec::new();
            leaf(n + 1).encode(&mut encoded);
            journal.leaf(format!("base/{n}").as_bytes(), n % 3, &encoded);
        }
        path
    }

    /// What is found, by the number of the record.
    fn found(path: &Path) -> Vec<u64> {
        let Some((left, read)) = Left::open(path) else { return Vec::new() };
        assert_eq!(read, header());
        let mut places = Vec::new();
        left.index(&mut |name, at| {
            places.push((name, at));
            true
        });
        let mut payload = Vec::new();
        let leaf_of = |(n, (name, at)): (u64, (u64, u64))| {
            let path = format!("base/{n}");
            assert_eq!(name, name_of(path.as_bytes(), n % 3));
            assert_eq!(left.leaf(at, path.as_bytes(), n % 3, &mut payload), Some(leaf(n + 1)));
            assert_eq!(left.leaf(at, b"base/other", n % 3, &mut payload), None);
            assert_eq!(left.leaf(at, path.as_bytes(), n % 3 + 1, &mut payload), None);
            n
        };
        (0..).zip(places).map(leaf_of).collect()
    }

    #[test]
    fn what_was_noted_is_found() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(found(&written(directory.path(), 40)), (0..40).collect::<Vec<_>>());
    }

    #[test]
    fn of_a_damaged_or_cut_journal_what_is_before_holds() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = written(directory.path(), 6);
        let whole = std::fs::read(&path).expect("reads");
        let mut fewest = usize::MAX;
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, &damaged).expect("writes");
            let after_damage = found(&path);
            assert!(after_damage.len() < 6, "byte {at}");
            std::fs::write(&path, &whole[..at]).expect("writes");
            assert_eq!(found(&path), after_damage, "cut at {at}");
            fewest = fewest.min(after_damage.len());
        }
        assert_eq!(fewest, 0);
    }
}
