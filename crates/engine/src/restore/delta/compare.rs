//! Reads what is there, page by page, and says which bytes of the backup are wanted.
//!
//! A relation's pages are compared by the keyed hashes of the backup, a range without hashes by its CRC. In the same pass
//! the CRC of what stays is taken: with that of what is fetched it must add up to the backup's, so a file is known to be
//! right as a whole, and what stays is read once. The directory cannot be started meanwhile, so a file is cut or
//! lengthened to its size first, and zeros that the backup does not store are written at once.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use refloat_repo::crypt::page_hash::PageHasher;
use refloat_repo::manifest::Leaf;
use refloat_types::fault;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::super::read::crc;
use super::super::read::{Compare, FileSlot, SinkError, There};
use crate::progress::Progress;

/// How much is read at a time.
const CHUNK: usize = 1 << 20;

/// Compares the files below a directory with a backup.
pub(in crate::restore) struct Comparer<'a> {
    root: OwnedFd,
    path: &'a Path,
    hasher: &'a PageHasher,
    progress: &'a dyn Progress,
    kept: AtomicU64,
}

impl<'a> Comparer<'a> {
    /// A comparer below `path`.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub(in crate::restore) fn new(
        path: &'a Path,
        hasher: &'a PageHasher,
        progress: &'a dyn Progress,
    ) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { root, path, hasher, progress, kept: AtomicU64::new(0) })
    }

    /// Bytes that stay as they are.
    pub(in crate::restore) fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    /// The file; links and what else is no file were swept away before.
    fn open(&self, path: &[u8]) -> io::Result<Option<File>> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.root, path, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(file) => Ok(Some(file.into())),
        }
    }

    fn look(&self, slot: &FileSlot, offset: u64, leaf: &Leaf, buffer: &mut Vec<u8>) -> io::Result<There> {
        fault::point("restore.delta.compare")?;
        let Some(file) = self.open(&slot.path)? else { return Ok(There::Nothing) };
        if file.metadata()?.len() != slot.size {
            rustix::fs::ftruncate(&file, slot.size)?;
        }
        let (wanted, kept_crc) = self.differing(&file, offset, leaf, buffer)?;
        let zeros = write_zeros(&file, offset, leaf, &wanted)?;
        let wanted_bytes: u64 = wanted.iter().map(|part| u64::from(part.end - part.start)).sum();
        self.kept.fetch_add(leaf.length - wanted_bytes, Ordering::Relaxed);
        self.progress.advance(leaf.length - wanted_bytes + zeros);
        Ok(There::File { wanted, kept_crc })
    }

    /// What differs, and what the rest adds to the range's CRC.
    fn differing(
        &self,
        file: &File,
        offset: u64,
        leaf: &Leaf,
        buffer: &mut Vec<u8>,
    ) -> io::Result<(Vec<Range<u32>>, u32)> {
        let block = leaf.block_size as usize;
        let hashed = (1..=CHUNK).contains(&block)
            && leaf.hashes.len() as u64 == leaf.length.div_ceil(u64::from(leaf.block_size));
        let chunk = if hashed { CHUNK / block * block } else { CHUNK };
        let mut kept = Kept::new(leaf.length);
        let mut hashes = leaf.hashes.chunks((chunk / block.max(1)).max(1));
        let mut at = 0;
        while at < leaf.length {
            let length = (leaf.length - at).min(chunk as u64) as usize;
            let of_chunk = hashes.next().unwrap_or_default();
            buffer.resize(length, 0);
            match file.read_exact_at(buffer, offset + at) {
                // A disk that cannot give them back has lost them.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => {}
                Err(error) => return Err(error),
                Ok(()) if hashed => {
                    let same = |(page, hash): (&[u8], &u64)| self.hasher.hash(page) == *hash;
                    let pages = buffer.chunks(block).zip(of_chunk).map(same);
                    kept.blocks(buffer, at, block, pages);
                }
                Ok(()) => kept.add(buffer, at),
            }
            at += length as u64;
        }
        Ok(kept.finish(leaf.crc32c, hashed))
    }
}

impl Compare for Comparer<'_> {
    fn compare(
        &self,
        file: &FileSlot,
        offset: u64,
        leaf: &Leaf,
        buffer: &mut Vec<u8>,
    ) -> Result<There, SinkError> {
        self.look(file, offset, leaf, buffer).map_err(|source| SinkError {
            action: "compare",
            path: self.path.join(PathBuf::from(std::ffi::OsStr::from_bytes(&file.path))),
            source,
        })
    }
}

/// The part of a range that is right.
struct Kept {
    length: u64,
    crc: u32,
    /// Up to here everything is said.
    next: u64,
    wanted: Vec<Range<u32>>,
}

impl Kept {
    const fn new(length: u64) -> Self {
        Self { length, crc: 0, next: 0, wanted: Vec::new() }
    }

    /// These bytes, at `at` of the range, are right; what was left out before them is wanted.
    fn add(&mut self, bytes: &[u8], at: u64) {
        let end = at + bytes.len() as u64;
        self.crc ^= crc::contribution(crc32c::crc32c(bytes), self.length - end);
        self.want_up_to(at);
        self.next = end;
    }

    /// The same of those blocks of a buffer that are.
    fn blocks(&mut self, buffer: &[u8], at: u64, block: usize, same: impl Iterator<Item = bool>) {
        let mut start = 0;
        let mut end = 0;
        for same in same {
            let next = (end + block).min(buffer.len());
            if !same {
                if start < end {
                    self.add(&buffer[start..end], at + start as u64);
                }
                start = next;
            }
            end = next;
        }
        if start < end {
            self.add(&buffer[start..end], at + start as u64);
        }
    }

    /// A leaf covers 32 MiB at most, so this fits 32 bits.
    fn want_up_to(&mut self, at: u64) {
        if self.next < at {
            self.wanted.push(self.next as u32..at as u32);
        }
    }

    /// What is wanted, and the CRC of the rest. Where all seems to be right and the CRC is another, nothing is believed;
    /// without hashes a part proves nothing.
    fn finish(mut self, expected: u32, hashed: bool) -> (Vec<Range<u32>>, u32) {
        self.want_up_to(self.length);
        let believed = if self.wanted.is_empty() { self.crc == expected } else { hashed };
        let all = 0..self.length as u32;
        if believed { (self.wanted, self.crc) } else { (std::iter::once(all).collect(), 0) }
    }
}

/// Writes the zeros of what is wanted, because no frame holds them; answers how many.
fn write_zeros(file: &File, offset: u64, leaf: &Leaf, wanted: &[Range<u32>]) -> io::Result<u64> {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let (mut written, mut next) = (0, 0_u32);
    for run in &leaf.runs {
        let begin = next;
        next += run.length as u32;
        if run.source.is_some() {
            continue;
        }
        for part in wanted.iter().filter(|part| part.start < next && begin < part.end) {
            let (mut at, end) = (part.start.max(begin), part.end.min(next));
            while at < end {
                let length = (end - at).min(ZEROS.len() as u32);
                file.write_all_at(&ZEROS[..length as usize], offset + u64::from(at))?;
                (at, written) = (at + length, written + u64::from(length));
            }
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc(bytes: &[u8]) -> u32 {
        crc32c::crc32c(bytes)
    }

    #[test]
    fn pages_that_differ_are_wanted_and_the_rest_adds_up() {
        let bytes: Vec<u8> = (0..40).collect();
        let mut kept = Kept::new(40);
        kept.blocks(&bytes[..20], 0, 8, [true, false, true].into_iter());
        kept.blocks(&bytes[20..], 20, 8, [true, true, false].into_iter());
        let (wanted, found) = kept.finish(crc(&bytes), true);
        assert_eq!(wanted, [8..16, 36..40]);
        let fetched = crc::contribution(crc(&bytes[8..16]), 24) ^ crc(&bytes[36..]);
        assert_eq!(found ^ fetched, crc(&bytes));
    }

    #[test]
    fn what_is_not_proven_is_wanted() {
        let bytes = [7; 40];
        let all = |hashed: bool, known: usize, expected: u32| {
            let mut kept = Kept::new(40);
            kept.add(&bytes[..known], 0);
            kept.finish(expected, hashed).0
        };
        assert!(all(true, 40, crc(&bytes)).is_empty() && all(false, 40, crc(&bytes)).is_empty());
        for (hashed, known, expected, wanted) in [
            // The hashes agree, and the CRC does not.
            (true, 40, 1, 0..40),
            (false, 40, 1, 0..40),
            // A part that could not be read: without hashes nothing is known of the rest.
            (true, 16, crc(&bytes), 16..40),
            (false, 16, crc(&bytes), 0..40),
        ] {
            assert_eq!(all(hashed, known, expected), [wanted], "{hashed} {known}");
        }
    }
}
