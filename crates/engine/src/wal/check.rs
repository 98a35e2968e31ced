//! Reading a WAL file that PostgreSQL hands over, and refusing what must not be stored.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use refloat_pg::history::TimelineHistory;
use refloat_pg::wal::{BackupHistory, InspectOptions, SegmentInspector};
use refloat_repo::compress::Compression;
use refloat_repo::wal_object::WalDigest;
use refloat_types::{Lsn, SystemIdentifier, TimelineId, WalFileName, WalSegmentName};

use super::content::{Content, Source, held};
use super::facts::{ArchivedFacts, BackupFacts, SealedFacts};
use super::push::PushError;

/// No history file is larger: it has a line of some 100 bytes for each timeline.
const MAX_TEXT: u64 = 1 << 20;
/// Bytes of a WAL record's header.
const RECORD_HEADER: u64 = 24;

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
    pub(super) content: Content,
}

/// What the caller knows of the file.
pub(super) struct Known<'a> {
    pub(super) system: SystemIdentifier,
    /// Naming keys of the repositories.
    pub(super) keys: &'a [[u8; 32]],
    /// How to compress.
    pub(super) compression: Compression,
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
            Checked::small(name, &bytes, ArchivedFacts::of_history(&history), known)
        }
        WalFileName::BackupHistory(segment, offset) => {
            let bytes = read_text(file).map_err(fail)?;
            let backup = BackupHistory::parse(segment, offset, &bytes)
                .map_err(|source| PushError::BackupHistory { name, source })?;
            let facts = BackupFacts { start: backup.start, stop: backup.stop };
            let facts = ArchivedFacts { backup: Some(facts), ..Default::default() };
            Checked::small(name, &bytes, facts, known)
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
    let source = Source { path, file: &file, name, length };
    let read = source.read(&|| SegmentInspector::new(segment, options.clone()), known)?;
    let inspection = read.inspection;
    let valid = inspection.valid_bytes.min(length);
    let start = segment.start(inspection.segment_size);
    let end = if partial { start.plus(valid) } else { segment.end(inspection.segment_size) };
    let (facts, sealed) = ArchivedFacts::of_segment(inspection, start, |offset| {
        let mut header = vec![0; RECORD_HEADER.min(length.saturating_sub(offset)) as usize];
        match file.read_exact_at(&mut header, offset) {
            Ok(()) => header,
            Err(_) => Vec::new(),
        }
    });
    let content = match read.frames {
        Some(frames) => Content::Held(frames),
        None => Content::File { file, valid },
    };
    Ok(Checked { name, size: length, facts, sealed, digests: read.digests, end: Some(end), content })
}

impl Checked {
    fn small(
        name: WalFileName,
        bytes: &[u8],
        facts: ArchivedFacts,
        known: &Known<'_>,
    ) -> Result<Self, PushError> {
        Ok(Self {
            name,
            size: bytes.len() as u64,
            facts,
            sealed: SealedFacts::default(),
            digests: known.keys.iter().map(|key| digest(key, bytes)).collect(),
            end: None,
            content: held(known.compression, bytes)?,
        })
    }
}
