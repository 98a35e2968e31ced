//! The bytes of a WAL file on their way from PostgreSQL's directory into repositories.
//!
//! A WAL segment comes out of the page cache, where PostgreSQL has just put it. One pass over it inspects, digests and
//! compresses each piece while that is in the processor's cache; what is stored is written when the inspection has
//! accepted all of it. A segment too large to be held compressed is read a second time for each repository.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use refloat_pg::wal::{Inspection, SegmentInspector};
use refloat_repo::compress::Compression;
use refloat_repo::wal_object::{NewWal, WalDigest, WalFrames};
use refloat_repo::{RepoError, Repository};
use refloat_store::Key;
use refloat_types::WalFileName;

use super::check::Known;
use super::push::PushError;

/// Larger files are not held: they are read again, and go to the store in stretches of this size.
const HELD: u64 = 32 << 20;
/// How much is read at a time where nothing else decides.
const PIECE: usize = 256 << 10;

/// What is to be stored of a file.
pub(super) enum Content {
    /// Compressed already.
    Held(WalFrames),
    /// Read again for each repository: the file up to `valid`, then zeros.
    File { file: File, valid: u64 },
}

/// What one pass over a WAL segment found.
pub(super) struct Segment {
    pub(super) inspection: Inspection,
    pub(super) digests: Vec<[u8; 32]>,
    /// Where it is small enough to be held.
    pub(super) frames: Option<WalFrames>,
}

/// Where a WAL segment is read.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) file: &'a File,
    pub(super) name: WalFileName,
    pub(super) length: u64,
}

impl Source<'_> {
    fn failed(&self, source: io::Error) -> PushError {
        PushError::Read { path: self.path.to_owned(), source }
    }

    /// Inspects, digests and compresses. What lies behind the valid bytes is stored as zeros: it is not WAL, and may be
    /// an old file's. It hardly ever is anything else, so the first pass takes the file as it is.
    pub(super) fn read(
        &self,
        inspector: &dyn Fn() -> SegmentInspector,
        known: &Known<'_>,
    ) -> Result<Segment, PushError> {
        let first = self.pass(inspector(), known, self.length)?;
        let valid = first.inspection.valid_bytes.min(self.length);
        if self.is_clear(valid).map_err(|source| self.failed(source))? {
            return Ok(first);
        }
        let second = self.pass(inspector(), known, valid)?;
        if second.inspection.valid_bytes != first.inspection.valid_bytes {
            return Err(self.failed(io::Error::other("the file changed while it was read")));
        }
        Ok(second)
    }

    fn pass(
        &self,
        mut inspector: SegmentInspector,
        known: &Known<'_>,
        valid: u64,
    ) -> Result<Segment, PushError> {
        let mut digests: Vec<WalDigest> = known.keys.iter().map(WalDigest::new).collect();
        let refused = |source| PushError::Segment { name: self.name, source };
        let mut at = 0;
        let mut take = |buffer: &mut [u8]| {
            self.file.read_exact_at(buffer, at).map_err(|source| self.failed(source))?;
            inspector.feed(buffer).map_err(refused)?;
            clear_from(valid, at, buffer);
            digests.iter_mut().for_each(|digest| digest.update(buffer));
            at += buffer.len() as u64;
            Ok::<_, PushError>(())
        };
        let frames = if self.length <= HELD {
            Some(WalFrames::compress(known.compression, self.length, &mut take)?)
        } else {
            let mut buffer = vec![0; PIECE];
            let mut left = self.length;
            while left > 0 {
                let piece = left.min(PIECE as u64);
                take(&mut buffer[..piece as usize])?;
                left -= piece;
            }
            None
        };
        let inspection = inspector.finish(self.length).map_err(refused)?;
        Ok(Segment { inspection, digests: digests.iter().map(WalDigest::finish).collect(), frames })
    }

    /// Whether the file holds nothing but zeros from `valid` on.
    fn is_clear(&self, valid: u64) -> io::Result<bool> {
        let mut buffer = vec![0; PIECE];
        let mut at = valid;
        while at < self.length {
            let piece = (self.length - at).min(PIECE as u64) as usize;
            self.file.read_exact_at(&mut buffer[..piece], at)?;
            if buffer[..piece].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += piece as u64;
        }
        Ok(true)
    }
}

/// Zeros what lies behind `valid` in a buffer that was read at offset `at`.
fn clear_from(valid: u64, at: u64, buffer: &mut [u8]) {
    let own = valid.saturating_sub(at).min(buffer.len() as u64) as usize;
    buffer[own..].fill(0);
}

impl Content {
    /// Stores it; `Ok` when it is durable. Answers its key and its size in the store.
    pub(super) fn put(&self, repository: &Repository, wal: &NewWal<'_>) -> Result<(Key, u64), RepoError> {
        match self {
            Self::Held(frames) => repository.put_wal(wal, frames),
            Self::File { file, valid } => stream(repository, wal, file, *valid),
        }
    }
}

/// Reads a file again. It becomes visible only when all of it is what was inspected.
fn stream(
    repository: &Repository,
    wal: &NewWal<'_>,
    file: &File,
    valid: u64,
) -> Result<(Key, u64), RepoError> {
    let mut object = repository.create_wal(wal)?;
    let mut digest = WalDigest::new(repository.naming_key());
    let mut at = 0;
    while at < wal.size {
        let stretch = HELD.min(wal.size - at);
        let frames = WalFrames::compress(wal.compression, stretch, &mut |buffer| {
            file.read_exact_at(buffer, at).map_err(|e| RepoError::internal("read the WAL file", e))?;
            clear_from(valid, at, buffer);
            digest.update(buffer);
            at += buffer.len() as u64;
            Ok::<_, RepoError>(())
        })?;
        object.append(&frames)?;
    }
    if digest.finish() != wal.digest {
        return Err(RepoError::internal("read the WAL file", "it changed while it was stored"));
    }
    object.finish()
}

/// A text file, which is small.
pub(super) fn held(compression: Compression, bytes: &[u8]) -> Result<Content, PushError> {
    Ok(Content::Held(WalFrames::of(compression, bytes)?))
}
