//! Reading a WAL file that PostgreSQL hands over, and refusing what must not be stored.
//!
//! A WAL segment comes out of the page cache, where PostgreSQL has just put it, so it is read in pieces into the same
//! small buffers, once to check it and once to store it, and the second time its digest must come out the same. A push
//! of 16 MiB peaks at 22 MiB that way, against 37 MiB when the segment was held; it is not shown to be quicker.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use refloat_pg::history::TimelineHistory;
use refloat_pg::wal::{BackupHistory, InspectOptions, Inspection, SegmentFault, SegmentInspector};
use refloat_repo::wal_object::WalDigest;
use refloat_types::{Lsn, SystemIdentifier, TimelineId, WalFileName, WalSegmentName};

use super::facts::{ArchivedFacts, BackupFacts, SealedFacts};
use super::push::PushError;

/// Larger files are streamed.
const MEMORY: u64 = 1 << 20;
/// How much is read at a time when a file is streamed.
const CHUNK: usize = 1 << 20;
/// No history file is larger: it has a line of some 100 bytes for each timeline.
const MAX_TEXT: u64 = 1 << 20;

/// A WAL file that may be stored.
pub(super) struct Checked {
    pub(super) name: WalFileName,
    pub(super) size: u64,
    pub(super) facts: ArchivedFacts,
    pub(super) sealed: SealedFacts,
    /// Its keyed digest for each repository, in the order of their naming keys.
    pub(super) digests: Vec<[u8; 32]>,
    /// Where its WAL ends, for a WAL segment; needs the size that its header names.
    pub(super) end: Option<Lsn>,
    content: Content,
}

enum Content {
    Memory(Vec<u8>),
    /// Streamed again for each repository.
    File {
        file: File,
        valid: u64,
    },
}

/// What the caller knows of the file.
pub(super) struct Known<'a> {
    pub(super) system: SystemIdentifier,
    /// Naming keys of the repositories.
    pub(super) keys: &'a [[u8; 32]],
}

/// Reads and checks the file at `path`.
pub(super) fn check(path: &Path, name: WalFileName, known: &Known<'_>) -> Result<Checked, PushError> {
    let fail = |source| PushError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() {
        return Err(fail(io::Error::other("it is not a regular file")));
    }
    match name {
        WalFileName::Segment(segment) => check_segment(path, file, meta.len(), name, segment, known),
        WalFileName::Partial(segment) => check_segment(path, file, meta.len(), name, segment, known),
        WalFileName::History(timeline) => {
            let bytes = read_text(file).map_err(fail)?;
            let history = TimelineHistory::parse(timeline, &bytes)
                .map_err(|source| PushError::History { name, source })?;
            Ok(Checked::small(name, bytes, ArchivedFacts::of_history(&history), known))
        }
        WalFileName::BackupHistory(segment, offset) => {
            let bytes = read_text(file).map_err(fail)?;
            let backup = BackupHistory::parse(segment, offset, &bytes)
                .map_err(|source| PushError::BackupHistory { name, source })?;
            let facts = BackupFacts { start: backup.start, stop: backup.stop };
            Ok(Checked::small(
                name,
                bytes,
                ArchivedFacts { backup: Some(facts), ..Default::default() },
                known,
            ))
        }
    }
}

/// The digests of `timeline`'s history file beside `path`, one for each naming key; `None` where there is no such file.
pub(super) fn local_history(
    path: &Path,
    timeline: TimelineId,
    keys: &[[u8; 32]],
) -> Result<Option<Vec<[u8; 32]>>, PushError> {
    let path: PathBuf = path.with_file_name(WalFileName::History(timeline).to_string());
    let bytes = match File::open(&path).and_then(read_text) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(PushError::Read { path, source }),
    };
    Ok(Some(keys.iter().map(|key| digest(key, &bytes)).collect()))
}

fn read_text(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(io::Error::other("it is far too large for a history file"));
    }
    Ok(bytes)
}

fn digest(key: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    let mut digest = WalDigest::new(key);
    digest.update(bytes);
    digest.finish()
}

fn check_segment(
    path: &Path,
    file: File,
    length: u64,
    name: WalFileName,
    segment: WalSegmentName,
    known: &Known<'_>,
) -> Result<Checked, PushError> {
    let partial = matches!(name, WalFileName::Partial(_));
    let options = InspectOptions { partial, expected_system: Some(known.system), ancestors: Vec::new() };
    let inspector = SegmentInspector::new(segment, options);
    let refused = |source| PushError::Segment { name, source };
    let fail = |source| PushError::Read { path: path.to_owned(), source };
    let (inspection, digests, content) = if length <= MEMORY {
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
        // One byte more than it had: a file that grows is noticed.
        (&file).take(length + 1).read_to_end(&mut bytes).map_err(fail)?;
        let (inspection, digests) = in_memory(inspector, &mut bytes, length, known).map_err(refused)?;
        (inspection, digests, Content::Memory(bytes))
    } else {
        let (inspection, whole) = std::thread::scope(|scope| {
            let whole = scope.spawn(|| digest_stream(&file, length, length, known));
            (inspect_stream(inspector, &file, length, refused, fail), whole.join())
        });
        let inspection = inspection?;
        let valid = inspection.valid_bytes.min(length);
        let digests = match whole {
            // Nothing is cleared: what was digested meanwhile is what will be stored.
            Ok(Ok(digests)) if is_clear(&file, valid, length).map_err(fail)? => digests,
            _ => digest_stream(&file, length, valid, known).map_err(fail)?,
        };
        (inspection, digests, Content::File { file, valid })
    };
    let start = segment.start(inspection.segment_size);
    let end = if partial { start.plus(inspection.valid_bytes) } else { segment.end(inspection.segment_size) };
    let (facts, sealed) = ArchivedFacts::of_segment(inspection, start, |offset| match &content {
        Content::Memory(bytes) => {
            let rest = bytes.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
            rest[..rest.len().min(24)].to_vec()
        }
        Content::File { file, .. } => {
            let mut header = vec![0; 24.min(length.saturating_sub(offset)) as usize];
            match file.read_exact_at(&mut header, offset) {
                Ok(()) => header,
                Err(_) => Vec::new(),
            }
        }
    });
    Ok(Checked { name, size: length, facts, sealed, digests, end: Some(end), content })
}

/// Inspects and digests at the same time; the digest is taken again in the rare case that the file's tail is cleared.
fn in_memory(
    mut inspector: SegmentInspector,
    bytes: &mut [u8],
    length: u64,
    known: &Known<'_>,
) -> Result<(Inspection, Vec<[u8; 32]>), SegmentFault> {
    let (inspection, digests) = std::thread::scope(|scope| {
        let bytes = &*bytes;
        let digests = scope.spawn(|| known.keys.iter().map(|key| digest(key, bytes)).collect::<Vec<_>>());
        inspector.feed(bytes)?;
        let inspection = inspector.finish(length)?;
        Ok::<_, SegmentFault>((inspection, digests.join()))
    })?;
    let valid = usize::try_from(inspection.valid_bytes).unwrap_or(usize::MAX).min(bytes.len());
    let tail = &mut bytes[valid..];
    let clear = tail.iter().any(|byte| *byte != 0);
    if clear {
        tail.fill(0);
    }
    let digests = match digests {
        Ok(digests) if !clear => digests,
        _ => known.keys.iter().map(|key| digest(key, bytes)).collect(),
    };
    Ok((inspection, digests))
}

fn inspect_stream(
    mut inspector: SegmentInspector,
    mut file: &File,
    length: u64,
    refused: impl Fn(SegmentFault) -> PushError,
    fail: impl Fn(io::Error) -> PushError,
) -> Result<Inspection, PushError> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return inspector.finish(length).map_err(refused),
            Ok(count) => inspector.feed(&buffer[..count]).map_err(&refused)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fail(error)),
        }
    }
}

fn digest_stream(file: &File, length: u64, valid: u64, known: &Known<'_>) -> io::Result<Vec<[u8; 32]>> {
    let mut digests: Vec<WalDigest> = known.keys.iter().map(WalDigest::new).collect();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < length {
        let count = read_cleared(file, at, length, valid, &mut buffer)?;
        digests.iter_mut().for_each(|digest| digest.update(&buffer[..count]));
        at += count as u64;
    }
    Ok(digests.iter().map(WalDigest::finish).collect())
}

/// Whether the file holds nothing but zeros from `valid` on.
fn is_clear(file: &File, valid: u64, length: u64) -> io::Result<bool> {
    let mut buffer = vec![0; CHUNK];
    let mut at = valid;
    while at < length {
        let count = read_cleared(file, at, length, length, &mut buffer)?;
        if buffer[..count].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += count as u64;
    }
    Ok(true)
}

/// Fills `buffer` from offset `at` with what is stored there: the file's bytes, and zeros from `valid` on.
fn read_cleared(file: &File, at: u64, length: u64, valid: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let count = (length - at).min(buffer.len() as u64) as usize;
    let own = valid.saturating_sub(at).min(count as u64) as usize;
    file.read_exact_at(&mut buffer[..own], at)?;
    buffer[own..count].fill(0);
    Ok(count)
}

impl Checked {
    fn small(name: WalFileName, bytes: Vec<u8>, facts: ArchivedFacts, known: &Known<'_>) -> Self {
        Self {
            name,
            size: bytes.len() as u64,
            facts,
            sealed: SealedFacts::default(),
            digests: known.keys.iter().map(|key| digest(key, &bytes)).collect(),
            end: None,
            content: Content::Memory(bytes),
        }
    }

    /// The bytes to be stored, for the repository with this naming key and digest.
    pub(super) fn reader<'a>(&'a self, key: &[u8; 32], digest: &[u8; 32]) -> Box<dyn Read + 'a> {
        match &self.content {
            Content::Memory(bytes) => Box::new(bytes.as_slice()),
            Content::File { file, valid } => Box::new(Again {
                file,
                at: 0,
                length: self.size,
                valid: *valid,
                digest: WalDigest::new(key),
                expected: *digest,
            }),
        }
    }
}

/// A second pass over a file. Its last bytes are given out only when all of them are those of the first pass.
struct Again<'a> {
    file: &'a File,
    at: u64,
    length: u64,
    valid: u64,
    digest: WalDigest,
    expected: [u8; 32],
}

impl Read for Again<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.at >= self.length {
            return Ok(0);
        }
        let count = read_cleared(self.file, self.at, self.length, self.valid, buffer)?;
        self.digest.update(&buffer[..count]);
        self.at += count as u64;
        if self.at == self.length && self.digest.finish() != self.expected {
            return Err(io::Error::other("the file changed while it was stored"));
        }
        Ok(count)
    }
}
