//! Copying ranges of files: one read, and everything computed from that buffer while it is in the cache.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use refloat_pg::page::check_pages;
use refloat_repo::crypt::page_hash::{PageHasher, PageKey};
use refloat_repo::manifest::leaf::LEAF_SPAN;
use refloat_repo::manifest::root::LeafName;
use refloat_repo::manifest::{Leaf, LeafRef};
use refloat_repo::pack::{Content, PackSummary, Packer};
use refloat_types::fault;

use super::BackupError;
use super::draft::{Draft, Old};
use super::files::FileToCopy;
use super::leftovers::{Crashed, CrashedReader, Note, Remains};
use super::pages::Suspect;
use super::parent::{Parent, ParentReader, Uses};
use super::throttle::Throttle;
use crate::progress::{ByteCounter, Progress};

/// Source bytes of one frame.
pub(super) const FRAME: usize = 256 << 10;

/// Files below this share frames.
const BUNDLED: usize = 128 << 10;

/// So many files wait for a frame at most: empty ones would never fill it.
const MOST_BUNDLED: usize = 4096;

/// What a copier tells the collector.
pub(super) enum Message {
    /// A leaf is complete.
    Leaf {
        /// Which.
        name: LeafName,
        /// Its bytes.
        encoded: Vec<u8>,
        /// How much of the file it covers.
        length: u64,
    },
    /// A leaf of the parent holds for this range too.
    Kept {
        /// Which range.
        name: LeafName,
        /// Where the parent has it.
        leaf: LeafRef,
        /// How much of the file it covers.
        length: u64,
    },
    /// The file is gone: dropped while the backup ran, and WAL says so.
    Vanished(usize),
    /// A page did not look right.
    Suspect(Suspect),
}

/// What all copiers share.
pub(super) struct Shared<'a> {
    pub(super) data_directory: &'a Path,
    pub(super) parent: Option<&'a Parent>,
    /// What pages are hashed under.
    pub(super) page_key: PageKey,
    /// What backups that died have left, hashed under the same.
    pub(super) crashed: &'a Crashed,
    /// Where this one notes what it stores; none where no later backup could compare with it.
    pub(super) note: Option<&'a Note>,
    pub(super) block_size: u32,
    pub(super) checksums: bool,
    pub(super) throttle: Throttle,
    pub(super) abort: AtomicBool,
    pub(super) read: ByteCounter,
    pub(super) progress: &'a dyn Progress,
}

impl Shared<'_> {
    pub(super) fn path(&self, relative: &[u8]) -> PathBuf {
        self.data_directory.join(OsStr::from_bytes(relative))
    }
    pub(super) fn is_aborted(&self) -> bool {
        self.abort.load(Ordering::Relaxed)
    }
}

/// A small file that waits for its frame.
struct Bundled {
    name: LeafName,
    path: Vec<u8>,
    leaf: Leaf,
    offset: u32,
}

/// Copies ranges into packs of its own. One a thread.
pub(super) struct Copier<'a> {
    shared: &'a Shared<'a>,
    hasher: PageHasher,
    packer: Packer,
    parent: Option<ParentReader<'a>>,
    crashed: CrashedReader<'a>,
    out: SyncSender<Message>,
    buffer: Vec<u8>,
    open: Option<(usize, File)>,
    /// Small files waiting for their common frame.
    bundle: Vec<u8>,
    bundled: Vec<Bundled>,
}

impl<'a> Copier<'a> {
    pub(super) fn new(
        shared: &'a Shared<'a>,
        packer: Packer,
        parent: Option<ParentReader<'a>>,
        out: SyncSender<Message>,
    ) -> Self {
        Self {
            shared,
            hasher: PageHasher::new(&shared.page_key),
            packer,
            parent,
            crashed: CrashedReader::new(shared.crashed),
            out,
            buffer: vec![0; FRAME],
            open: None,
            bundle: Vec::with_capacity(FRAME),
            bundled: Vec::new(),
        }
    }

    fn send(&self, message: Message) -> Result<(), BackupError> {
        self.out.send(message).map_err(|_| BackupError::Internal("nobody collects the map leaves"))
    }

    /// Copies range `span` of a file, or keeps what the parent has of it.
    pub(super) fn range(&mut self, index: usize, file: &FileToCopy, span: usize) -> Result<(), BackupError> {
        fault::point("backup.range").map_err(|source| self.failed(file, source))?;
        if self.shared.is_aborted() {
            return Err(BackupError::Internal("another thread failed"));
        }
        let start = span as u64 * LEAF_SPAN;
        let name = (index, span);
        let old = self.former(file, span)?;
        if let (Some((place, leaf)), true) = (&old, file.former.as_ref().is_some_and(|f| f.is_unchanged))
            && leaf.length == file.size.saturating_sub(start).min(LEAF_SPAN)
        {
            self.shared.progress.advance(leaf.length);
            return self.keep(name, place, leaf);
        }
        if !self.open_file(index, file)? {
            return self.send(Message::Vanished(index));
        }
        let size = self.size_to_copy(file)?;
        let wanted = (size - start.min(size)).min(LEAF_SPAN);
        let is_last = start + wanted >= size;
        if is_last && span == 0 && wanted < BUNDLED as u64 {
            return self.small(name, file, wanted as usize, old);
        }
        let mut draft = Draft::new(self.shared.block_size);
        let remains = self.crashed.read(&file.entry.path, span);
        let parents = old.iter().map(|(_, leaf)| Old::new(leaf));
        let mut olds: Vec<Old<'_>> = parents.chain(remains.iter().map(Remains::old)).collect();
        let mut at = 0;
        while at < wanted {
            let length = (wanted - at).min(FRAME as u64) as usize;
            let got = self.read(file, start + at, length)?;
            if got > 0 {
                self.take(file, start + at, got, &mut draft.leaf)?;
                draft.slice(&self.buffer[..got], &mut olds, &mut self.packer)?;
            }
            at += got as u64;
            if got < length {
                break;
            }
        }
        if !is_last {
            // Truncated meanwhile: replay truncates it again. The spans behind keep their places.
            self.pad(wanted - at, &mut draft);
        }
        match (draft.finish(old.as_ref().map(|(_, leaf)| leaf), &mut self.packer)?, old) {
            (Some(leaf), _) => self.finish_leaf(name, Some(&file.entry.path), &leaf),
            (None, Some((place, leaf))) => self.keep(name, &place, &leaf),
            (None, None) => Err(BackupError::Internal("a range is the same as none")),
        }
    }

    /// What the parent has of a range, where that can be read.
    fn former(&mut self, file: &FileToCopy, span: usize) -> Result<Option<(LeafRef, Leaf)>, BackupError> {
        let place = file.former.as_ref().and_then(|former| former.leaves.get(span));
        let (Some(place), Some(parent)) = (place, &mut self.parent) else { return Ok(None) };
        Ok(parent.read(place)?.map(|leaf| (*place, leaf)))
    }

    fn keep(&mut self, name: LeafName, place: &LeafRef, leaf: &Leaf) -> Result<(), BackupError> {
        if let Some(parent) = &mut self.parent {
            parent.takes_leaf(place, leaf);
        }
        self.send(Message::Kept { name, leaf: *place, length: leaf.length })
    }

    /// How far a file is copied. Replay makes relation segments longer by itself; anything else (configuration, which
    /// is replaced while the backup runs) is taken whole as it is when it is opened.
    fn size_to_copy(&self, file: &FileToCopy) -> Result<u64, BackupError> {
        if file.first_block.is_some() || file.size > LEAF_SPAN {
            return Ok(file.size);
        }
        let (_, opened) = self.open.as_ref().ok_or(BackupError::Internal("no file is open"))?;
        let now = opened.metadata().map_err(|source| self.failed(file, source))?.len();
        Ok(now.min(LEAF_SPAN))
    }

    /// Copies bytes that are already in memory as a file of their own.
    pub(super) fn bytes(&mut self, index: usize, bytes: &[u8]) -> Result<(), BackupError> {
        for (span, range) in bytes.chunks(LEAF_SPAN as usize).enumerate() {
            let mut leaf = Leaf { crc32c: crc32c::crc32c(range), ..Leaf::default() };
            for piece in range.chunks(FRAME) {
                self.store(piece, &mut leaf)?;
            }
            self.finish_leaf((index, span), None, &leaf)?;
        }
        Ok(())
    }

    /// A file smaller than half a frame shares one.
    fn small(
        &mut self,
        name: LeafName,
        file: &FileToCopy,
        length: usize,
        old: Option<(LeafRef, Leaf)>,
    ) -> Result<(), BackupError> {
        let got = if length == 0 { 0 } else { self.read(file, 0, length)? };
        let mut leaf = Leaf { block_size: self.shared.block_size, ..Leaf::default() };
        self.take(file, 0, got, &mut leaf)?;
        if let Some((place, old)) = &old
            && old.length == got as u64
            && is_same(old, &leaf)
        {
            return self.keep(name, place, old);
        }
        let remains = self.crashed.read(&file.entry.path, 0);
        let same = |remains: &&Remains| {
            remains.is_whole() && remains.leaf.length == got as u64 && is_same(&remains.leaf, &leaf)
        };
        if let Some(remains) = remains.iter().find(same) {
            return self.finish_leaf(name, Some(&file.entry.path), &remains.leaf);
        }
        if self.bundle.len() + got > FRAME || self.bundled.len() >= MOST_BUNDLED {
            self.flush_bundle()?;
        }
        let offset = self.bundle.len() as u32;
        self.bundle.extend_from_slice(&self.buffer[..got]);
        leaf.length = got as u64;
        self.bundled.push(Bundled { name, path: file.entry.path.clone(), leaf, offset });
        Ok(())
    }

    fn flush_bundle(&mut self) -> Result<(), BackupError> {
        let frame = match self.bundle.len() {
            0 => None,
            _ => Some(self.packer.add(Content::Data, &self.bundle)?),
        };
        for Bundled { name, path, mut leaf, offset } in std::mem::take(&mut self.bundled) {
            let length = std::mem::take(&mut leaf.length);
            if let (Some(frame), true) = (&frame, length > 0) {
                leaf.push_frame(length, frame, offset);
            }
            self.finish_leaf(name, Some(&path), &leaf)?;
        }
        self.bundle.clear();
        Ok(())
    }

    /// Tells the collector, and for files that another backup may find as they are the journal.
    fn finish_leaf(&mut self, name: LeafName, path: Option<&[u8]>, leaf: &Leaf) -> Result<(), BackupError> {
        if let Some(parent) = &mut self.parent {
            parent.takes_frames(leaf);
        }
        self.crashed.takes_frames(leaf);
        let mut encoded = Vec::new();
        leaf.encode(&mut encoded);
        if let (Some(path), Some(note)) = (path, self.shared.note)
            && !leaf.frames.frames().is_empty()
        {
            note.leaf(path, name.1, &encoded);
        }
        self.send(Message::Leaf { name, encoded, length: leaf.length })
    }

    /// `false` when the file is gone.
    fn open_file(&mut self, index: usize, file: &FileToCopy) -> Result<bool, BackupError> {
        if self.open.as_ref().is_some_and(|(open, _)| *open == index) {
            return Ok(true);
        }
        self.open = None;
        match File::open(self.shared.path(&file.entry.path)) {
            Ok(opened) => {
                self.open = Some((index, opened));
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.failed(file, source)),
        }
    }

    fn failed(&self, file: &FileToCopy, source: io::Error) -> BackupError {
        BackupError::Read { path: self.shared.path(&file.entry.path), source }
    }

    /// Reads up to `length` bytes into the buffer; fewer only where the file ends.
    fn read(&mut self, file: &FileToCopy, offset: u64, length: usize) -> Result<usize, BackupError> {
        if self.shared.is_aborted() {
            return Err(BackupError::Internal("another thread failed"));
        }
        self.shared.throttle.take(length as u64);
        let (_, opened) = self.open.as_ref().ok_or(BackupError::Internal("no file is open"))?;
        let mut got = 0;
        while got < length {
            match opened.read_at(&mut self.buffer[got..length], offset + got as u64) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed(file, source)),
            }
        }
        self.shared.read.add(got as u64);
        self.shared.progress.advance(got as u64);
        Ok(got)
    }

    /// Checks and hashes the first `length` bytes of the buffer, which stand at `offset` of the file.
    fn take(
        &mut self,
        file: &FileToCopy,
        offset: u64,
        length: usize,
        leaf: &mut Leaf,
    ) -> Result<(), BackupError> {
        let bytes = &self.buffer[..length];
        leaf.crc32c = crc32c::crc32c_append(leaf.crc32c, bytes);
        let block_size = self.shared.block_size as usize;
        leaf.hashes.extend(bytes.chunks(block_size).map(|page| self.hasher.hash(page)));
        let (Some(first_block), true) = (file.first_block, file.checked) else { return Ok(()) };
        let first = first_block.wrapping_add((offset / block_size as u64) as u32);
        let mut suspects = Vec::new();
        check_pages(bytes, first, block_size, self.shared.checksums, |block, state| {
            let at = (block.wrapping_sub(first)) as usize * block_size;
            let page = &bytes[at.min(length)..(at + block_size).min(length)];
            let file_offset = offset + at as u64;
            suspects.push(Suspect {
                path: file.entry.path.clone(),
                block,
                file_offset,
                length: page.len() as u32,
                hash: self.hasher.hash(page),
                state,
            });
        });
        suspects.into_iter().try_for_each(|suspect| self.send(Message::Suspect(suspect)))
    }

    /// Stores one frame's worth of bytes, or notes that they are zero.
    fn store(&mut self, bytes: &[u8], leaf: &mut Leaf) -> Result<(), BackupError> {
        if is_zero(bytes) {
            leaf.push_zeros(bytes.len() as u64);
        } else {
            let frame = self.packer.add(Content::Data, bytes)?;
            leaf.push_frame(bytes.len() as u64, &frame, 0);
        }
        Ok(())
    }

    fn pad(&self, missing: u64, draft: &mut Draft) {
        let mut left = missing;
        let zeros = [0; 8192];
        while left > 0 {
            let length = left.min(zeros.len() as u64) as usize;
            draft.leaf.crc32c = crc32c::crc32c_append(draft.leaf.crc32c, &zeros[..length]);
            left -= length as u64;
        }
        draft.zeros(missing);
        let blocks = draft.length().div_ceil(u64::from(self.shared.block_size)) as usize;
        let zero = self.hasher.hash(&vec![0; self.shared.block_size as usize]);
        draft.leaf.hashes.resize(blocks, zero);
    }

    /// Stores what waits and makes the last pack durable.
    pub(super) fn finish(mut self) -> Result<Copies, BackupError> {
        self.flush_bundle()?;
        let packs = self.packer.finish()?;
        let (mut uses, lost) = self.parent.map(ParentReader::finish).unwrap_or_default();
        // No pack is the parent's and one of a backup that died.
        uses.extend(self.crashed.finish());
        Ok(Copies { packs, uses, lost })
    }
}

/// What one copier made.
pub(super) struct Copies {
    /// Its packs.
    pub(super) packs: PackSummary,
    /// What it uses of packs that are there already.
    pub(super) uses: Uses,
    /// How many of the parent's leaves could not be read, and why the first could not.
    pub(super) lost: (u64, Option<String>),
}

/// Whether two leaves of one length cover the same bytes, page by page.
pub(super) fn is_same(old: &Leaf, new: &Leaf) -> bool {
    old.block_size == new.block_size && old.hashes == new.hashes && old.crc32c == new.crc32c
}

/// Compares with zeros in steps that the compiler makes wide; most pages answer at the first.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0)
        && bytes.chunks(512).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
