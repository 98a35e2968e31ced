//! The root of a manifest: names its parts and everything else that belongs to the backup.
//!
//! The root is JSON, cut into frames of content 3. Its digest stands in the signed commit; from there every reference
//! carries the tag of what it names, so the commit vouches for every byte of the backup.

use std::collections::BTreeMap;
use std::io::{self, Read};

use refloat_store::Store;
use refloat_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::leaf::Leaf;
use super::part::{self, Entry, PartBuilder};
use crate::crypt::page_hash::PageKey;
use crate::error::RepoError;
use crate::layout;
use crate::object::document;
use crate::pack::frame::{Content, FrameRef};
use crate::pack::{FrameOpener, Packer};

/// A part is closed when it has grown beyond this.
const PART_TARGET: usize = 256 << 10;

/// Largest piece of a byte string that is kept beside the files.
const BLOB_PIECE: usize = 256 << 10;

/// Bytes kept beside the files, in pieces.
pub type Blob = Vec<FrameRef>;

/// What the commit points to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Parts, in the order of their paths.
    pub parts: Vec<PartRef>,
    /// Other byte strings by name: `backup_label`, `tablespace_map`, `facts`, `outside_files`, `configuration`.
    pub blobs: BTreeMap<String, Blob>,
    /// How its files were read; not said by backups that can be no parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<Reading>,
    /// What the pages in its leaves are hashed under. Not said before backups went from one repository to another: then it is
    /// the repository's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page_key: Option<PageKey>,
}

/// How the files of a backup were read: what a later backup must know before it believes that a file has not changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Which machine, since when it was started: its times and inodes mean nothing on another one.
    pub machine: String,
    /// Host time before the checkpoint that began the backup, which waits for all writes that are on their way.
    pub began: Timestamp,
    /// Host time when the last backup began that read every file: this one, or one before it.
    pub everything: Timestamp,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRef {
    /// Where it is.
    pub frame: FrameRef,
    /// How many entries it has.
    pub entries: u64,
}

/// A root as the commit names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRef {
    /// Its pieces.
    pub frames: Blob,
    /// BLAKE3 of its bytes.
    #[serde(with = "refloat_types::hex::array")]
    pub digest: [u8; 32],
}

/// Writes a manifest as its entries come, in order; memory does not grow with their number.
pub struct ManifestWriter<'a> {
    packer: &'a mut Packer,
    part: PartBuilder,
    root: Root,
}

impl<'a> ManifestWriter<'a> {
    /// Begins a manifest in the packs of `packer`.
    pub fn new(packer: &'a mut Packer) -> Self {
        Self {
            packer,
            part: PartBuilder::default(),
            root: Root { parts: Vec::new(), blobs: BTreeMap::new(), reading: None, page_key: None },
        }
    }
    /// Appends an entry, whose path must come after the one before.
    ///
    /// # Errors
    /// When a part cannot be stored.
    pub fn push(&mut self, entry: &Entry) -> Result<(), RepoError> {
        self.part.push(entry);
        if self.part.size() >= PART_TARGET { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), RepoError> {
        if self.part.is_empty() {
            return Ok(());
        }
        let part = std::mem::take(&mut self.part);
        let frame = self.packer.add(Content::Part, &part.encode())?;
        self.root.parts.push(PartRef { frame, entries: part.count() });
        Ok(())
    }
    /// Keeps `bytes` under `name`.
    ///
    /// # Errors
    /// When they cannot be stored.
    pub fn blob(&mut self, name: &str, bytes: &[u8]) -> Result<(), RepoError> {
        let blob = store_blob(self.packer, bytes)?;
        self.root.blobs.insert(name.to_owned(), blob);
        Ok(())
    }
    /// Keeps bytes under `name` that come little by little: `more` appends some, and answers `false` with the last.
    ///
    /// # Errors
    /// When they cannot be stored, or what `more` answers.
    pub fn blob_of(
        &mut self,
        name: &str,
        more: &mut dyn FnMut(&mut Vec<u8>) -> Result<bool, RepoError>,
    ) -> Result<(), RepoError> {
        let (mut blob, mut bytes, mut goes_on) = (Blob::new(), Vec::new(), true);
        while goes_on {
            goes_on = more(&mut bytes)?;
            let mut done = 0;
            while bytes.len() - done >= BLOB_PIECE || (!goes_on && done < bytes.len()) {
                let end = bytes.len().min(done + BLOB_PIECE);
                blob.push(self.packer.add(Content::Root, &bytes[done..end])?);
                done = end;
            }
            bytes.drain(..done);
        }
        self.root.blobs.insert(name.to_owned(), blob);
        Ok(())
    }
    /// Says how the files were read.
    pub fn reading(&mut self, reading: Reading) {
        self.root.reading = Some(reading);
    }
    /// Says what its pages are hashed under.
    pub fn page_key(&mut self, key: PageKey) {
        self.root.page_key = Some(key);
    }
    /// Stores the last part and the root.
    ///
    /// # Errors
    /// When they cannot be stored.
    pub fn finish(mut self) -> Result<RootRef, RepoError> {
        self.flush()?;
        let bytes =
            serde_json::to_vec(&self.root).map_err(|e| RepoError::internal("write a manifest's root", e))?;
        let frames = store_blob(self.packer, &bytes)?;
        Ok(RootRef { frames, digest: *blake3::hash(&bytes).as_bytes() })
    }
}

fn store_blob(packer: &mut Packer, bytes: &[u8]) -> Result<Blob, RepoError> {
    bytes.chunks(BLOB_PIECE).map(|piece| packer.add(Content::Root, piece)).collect()
}

/// Reads a byte string that was kept in pieces.
///
/// # Errors
/// When a piece cannot be read.
pub fn read_blob(
    store: &dyn Store,
    opener: &mut FrameOpener,
    blob: &[FrameRef],
) -> Result<Vec<u8>, RepoError> {
    let mut out = Vec::new();
    let mut piece = Vec::new();
    for frame in blob {
        opener.fetch(store, frame, &mut piece)?;
        out.extend_from_slice(&piece);
    }
    Ok(out)
}

/// Reads a byte string that was kept in pieces, one of them in memory at a time.
pub struct BlobReader<'a> {
    store: &'a dyn Store,
    opener: FrameOpener,
    frames: std::slice::Iter<'a, FrameRef>,
    piece: Vec<u8>,
    used: usize,
}

impl<'a> BlobReader<'a> {
    /// From its first byte on.
    pub fn new(store: &'a dyn Store, opener: FrameOpener, blob: &'a [FrameRef]) -> Self {
        Self { store, opener, frames: blob.iter(), piece: Vec::new(), used: 0 }
    }
}

impl Read for BlobReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.used == self.piece.len() {
            let Some(frame) = self.frames.next() else { return Ok(0) };
            self.opener.fetch(self.store, frame, &mut self.piece).map_err(io::Error::other)?;
            self.used = 0;
        }
        let length = into.len().min(self.piece.len() - self.used);
        into[..length].copy_from_slice(&self.piece[self.used..self.used + length]);
        self.used += length;
        Ok(length)
    }
}

impl Root {
    /// Reads the root that a commit names.
    ///
    /// # Errors
    /// When it cannot be read or is not the one that was signed.
    pub fn read(store: &dyn Store, opener: &mut FrameOpener, root: &RootRef) -> Result<Self, RepoError> {
        let bytes = read_blob(store, opener, &root.frames)?;
        let object = root.frames.first().map_or_else(String::new, |f| layout::pack(f.pack).to_string());
        if *blake3::hash(&bytes).as_bytes() != root.digest {
            return Err(RepoError::damaged(
                object,
                "the manifest's root in it is not the one the commit names",
            ));
        }
        document::parse(&object, &bytes)
    }

    /// The byte string kept under `name`; `None` when the backup has none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn blob(
        &self,
        store: &dyn Store,
        opener: &mut FrameOpener,
        name: &str,
    ) -> Result<Option<Vec<u8>>, RepoError> {
        self.blobs.get(name).map(|blob| read_blob(store, opener, blob)).transpose()
    }
}

/// Reads the entries of one part.
///
/// # Errors
/// When the part cannot be read or is damaged.
pub fn read_part(
    store: &dyn Store,
    opener: &mut FrameOpener,
    part: &PartRef,
) -> Result<Vec<Entry>, RepoError> {
    let mut bytes = Vec::new();
    opener.fetch(store, &part.frame, &mut bytes)?;
    let entries = part::decode(&bytes).map_err(|e| part::damaged(layout::pack(part.frame.pack), e))?;
    if entries.len() as u64 == part.entries {
        Ok(entries)
    } else {
        Err(RepoError::damaged(
            layout::pack(part.frame.pack),
            "a manifest part in it has another number of entries",
        ))
    }
}

/// So many frames of leaves are kept: after some incremental backups, leaves of neighbours lie in as many.
const KEPT_FRAMES: usize = 4;

/// Reads leaves; keeps the frames it read last, because neighbours share them.
#[derive(Default)]
pub struct LeafReader {
    /// The one used last comes last.
    frames: Vec<(FrameRef, Vec<u8>)>,
}

impl LeafReader {
    /// Reads one leaf.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn read(
        &mut self,
        store: &dyn Store,
        opener: &mut FrameOpener,
        leaf: &super::LeafRef,
    ) -> Result<Leaf, RepoError> {
        let bytes = self.frame(store, opener, &leaf.frame)?;
        let damaged = |what: &str| RepoError::damaged(layout::pack(leaf.frame.pack), what);
        let start = leaf.offset as usize;
        let bytes = start.checked_add(leaf.length as usize).and_then(|end| bytes.get(start..end));
        let bytes = bytes.ok_or_else(|| damaged("a leaf ends behind its frame"))?;
        Leaf::decode(bytes).map_err(|e| damaged(&format!("a map leaf in it is wrong: {}", e.0)))
    }

    fn frame(
        &mut self,
        store: &dyn Store,
        opener: &mut FrameOpener,
        frame: &FrameRef,
    ) -> Result<&[u8], RepoError> {
        let kept = match self.frames.iter().position(|(kept, _)| kept == frame) {
            Some(at) => self.frames.remove(at),
            None => {
                let full = self.frames.len() >= KEPT_FRAMES;
                let mut bytes = if full { self.frames.remove(0).1 } else { Vec::new() };
                opener.fetch(store, frame, &mut bytes)?;
                (*frame, bytes)
            }
        };
        self.frames.push(kept);
        Ok(self.frames.last().map_or(&[][..], |(_, bytes)| bytes))
    }
}

/// How a caller names a leaf until its place is known: place of the file, place of the leaf in the file.
pub type LeafName = (usize, usize);

/// Gathers encoded leaves into frames, so that a thousand small files do not make a thousand frames.
#[derive(Default)]
pub struct LeafGatherer {
    bytes: Vec<u8>,
    waiting: Vec<(LeafName, u32, u32)>,
}

impl LeafGatherer {
    /// Adds a leaf known to the caller as `name`; when the frame is full, answers where its leaves are.
    ///
    /// # Errors
    /// When the frame cannot be stored.
    pub fn add(
        &mut self,
        packer: &mut Packer,
        name: LeafName,
        leaf: &[u8],
    ) -> Result<Vec<(LeafName, super::LeafRef)>, RepoError> {
        let length = u32::try_from(leaf.len()).map_err(|e| RepoError::internal("store a map leaf", e))?;
        self.waiting.push((name, self.bytes.len() as u32, length));
        self.bytes.extend_from_slice(leaf);
        if self.bytes.len() >= BLOB_PIECE { self.flush(packer) } else { Ok(Vec::new()) }
    }
    /// Stores what is gathered.
    ///
    /// # Errors
    /// When the frame cannot be stored.
    pub fn flush(&mut self, packer: &mut Packer) -> Result<Vec<(LeafName, super::LeafRef)>, RepoError> {
        if self.waiting.is_empty() {
            return Ok(Vec::new());
        }
        let frame = packer.add(Content::Leaves, &self.bytes)?;
        self.bytes.clear();
        let place = |(name, offset, length)| (name, super::LeafRef { frame, offset, length });
        Ok(self.waiting.drain(..).map(place).collect())
    }
}
