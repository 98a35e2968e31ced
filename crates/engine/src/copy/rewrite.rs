//! A backup's frames in packs of its own: for one that shall refer to nothing older, and where packs cannot be taken over
//! as they are.
//!
//! Parts are read one after the other; the frames that have to move are read, opened, and sealed again, and leaves and parts
//! that named them are written anew. Pages are not compressed again differently and hashes stay. Memory: a part, its leaves'
//! references, and the places of the frames that moved last; a frame whose place was forgotten is stored twice.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::Read as _;
use std::sync::Arc;

use refloat_repo::crypt::page_hash::PageKey;
use refloat_repo::manifest::root::{BlobReader, LeafGatherer, LeafReader, RootRef, read_part};
use refloat_repo::manifest::{Entry, Leaf, LeafRef, ManifestWriter, Root, What};
use refloat_repo::pack::frame::FrameRef;
use refloat_repo::pack::reader::PackKeys;
use refloat_repo::pack::{Content, FrameOpener, PackSummary, Packer};
use refloat_repo::{RepoError, layout};
use refloat_store::Store;
use refloat_types::ObjectId;

use crate::progress::Progress;

/// Places of so many moved frames are remembered: some 40 MB.
const REMEMBERED: usize = 1 << 18;
/// Neighbouring frames are read together up to so many bytes.
const TOGETHER: u64 = 4 << 20;

/// How much of a byte string is read at a time.
const PIECE: usize = 128 << 10;

/// What is used of each pack by what was written: live bytes of packs that stay.
pub(super) type Uses = std::collections::BTreeMap<ObjectId, u64>;

/// Moves frames.
pub(super) struct Rewriter<'a> {
    store: &'a dyn Store,
    opener: FrameOpener,
    leaves: LeafReader,
    keys: Arc<PackKeys>,
    /// Packs whose frames move.
    moving: &'a BTreeSet<ObjectId>,
    packer: Packer,
    moved: HashMap<(ObjectId, u32), FrameRef>,
    order: VecDeque<(ObjectId, u32)>,
    uses: Uses,
    progress: &'a dyn Progress,
}

/// A manifest that was written anew.
pub(super) struct Rewritten {
    pub(super) root: RootRef,
    /// Packs that were written.
    pub(super) packs: Vec<PackSummary>,
    /// What is used of packs that stay.
    pub(super) uses: Uses,
}

impl<'a> Rewriter<'a> {
    pub(super) fn new(
        store: &'a dyn Store,
        keys: Arc<PackKeys>,
        moving: &'a BTreeSet<ObjectId>,
        packer: Packer,
        progress: &'a dyn Progress,
    ) -> Result<Self, RepoError> {
        let opener = FrameOpener::new(Arc::clone(&keys))?;
        let (moved, order, uses) = (HashMap::new(), VecDeque::new(), Uses::new());
        let leaves = LeafReader::default();
        Ok(Self { store, opener, leaves, keys, moving, packer, moved, order, uses, progress })
    }

    /// Writes the manifest of a backup whose root is `root` anew, into packs of `meta`. Pages stay hashed under `page_key`.
    pub(super) fn run(
        mut self,
        root: &Root,
        mut meta: Packer,
        page_key: PageKey,
    ) -> Result<Rewritten, RepoError> {
        let mut written = ManifestWriter::new(&mut meta);
        for part in &root.parts {
            let mut entries = read_part(self.store, &mut self.opener, part)?;
            self.move_leaves(&mut entries)?;
            entries.iter().try_for_each(|entry| written.push(entry))?;
        }
        for (name, blob) in &root.blobs {
            let opener = FrameOpener::new(Arc::clone(&self.keys))?;
            let mut reader = BlobReader::new(self.store, opener, blob);
            written.blob_of(name, &mut |into| more(&mut reader, into))?;
        }
        if let Some(reading) = &root.reading {
            written.reading(reading.clone());
        }
        written.page_key(page_key);
        let root = written.finish()?;
        let packs = vec![self.packer.finish()?, meta.finish()?];
        Ok(Rewritten { root, packs, uses: self.uses })
    }

    /// Writes the leaves of these entries that have to be written, and puts their places into the entries.
    fn move_leaves(&mut self, entries: &mut [Entry]) -> Result<(), RepoError> {
        let mut gatherer = LeafGatherer::default();
        let mut placed: HashMap<(usize, usize), LeafRef> = HashMap::new();
        for (at, entry) in entries.iter().enumerate() {
            let What::File { leaves, .. } = &entry.what else { continue };
            for (span, place) in leaves.iter().enumerate() {
                let leaf = self.leaves.read(self.store, &mut self.opener, place)?;
                match self.moved_leaf(place, &leaf)? {
                    None => {
                        *self.uses.entry(place.frame.pack).or_default() +=
                            place.frame.share(u64::from(place.length));
                        self.count(&leaf);
                    }
                    Some(moved) => {
                        self.count(&moved);
                        let mut encoded = Vec::new();
                        moved.encode(&mut encoded);
                        placed.extend(gatherer.add(&mut self.packer, (at, span), &encoded)?);
                    }
                }
                self.progress.advance(leaf.length);
            }
        }
        placed.extend(gatherer.flush(&mut self.packer)?);
        for (at, entry) in entries.iter_mut().enumerate() {
            let What::File { leaves, .. } = &mut entry.what else { continue };
            let new = |(span, place): (usize, &LeafRef)| placed.get(&(at, span)).copied().unwrap_or(*place);
            *leaves = leaves.iter().enumerate().map(new).collect();
        }
        Ok(())
    }

    /// A leaf with its frames where they are now; `None` where it can stay as it is.
    fn moved_leaf(&mut self, place: &LeafRef, leaf: &Leaf) -> Result<Option<Leaf>, RepoError> {
        let wanted: Vec<FrameRef> =
            leaf.frames.frames().iter().filter(|frame| self.moving.contains(&frame.pack)).copied().collect();
        if wanted.is_empty() && !self.moving.contains(&place.frame.pack) {
            return Ok(None);
        }
        self.move_frames(&wanted)?;
        let mut new = Leaf {
            block_size: leaf.block_size,
            crc32c: leaf.crc32c,
            hashes: leaf.hashes.clone(),
            ..Leaf::default()
        };
        for run in &leaf.runs {
            let Some((number, offset)) = run.source else {
                new.push_zeros(run.length);
                continue;
            };
            let frame = leaf.frames.get(number).ok_or_else(|| lost(place))?;
            let frame = match self.moving.contains(&frame.pack) {
                true => self.moved.get(&(frame.pack, frame.index)).ok_or_else(|| lost(place))?,
                false => frame,
            };
            new.push_frame(run.length, frame, offset);
        }
        Ok(Some(new))
    }

    /// Moves those of these frames that have not moved yet; neighbours are read together.
    fn move_frames(&mut self, wanted: &[FrameRef]) -> Result<(), RepoError> {
        let mut todo: Vec<FrameRef> = wanted
            .iter()
            .filter(|frame| !self.moved.contains_key(&(frame.pack, frame.index)))
            .copied()
            .collect();
        todo.sort_unstable_by_key(|frame| (frame.pack, frame.offset));
        todo.dedup_by_key(|frame| (frame.pack, frame.index));
        let (mut stored, mut plain) = (Vec::new(), Vec::new());
        let mut rest = todo.as_slice();
        while let Some(first) = rest.first() {
            let is_next = |frame: &&FrameRef| {
                frame.pack == first.pack && frame.end().saturating_sub(first.offset) <= TOGETHER
            };
            let (run, behind) = rest.split_at(rest.iter().take_while(is_next).count().max(1));
            rest = behind;
            let end = run.last().map_or(first.end(), FrameRef::end);
            stored.clear();
            self.store.read(&layout::pack(first.pack), first.offset..end, &mut stored)?;
            for frame in run {
                let at = (frame.offset - first.offset) as usize;
                let bytes = stored.get_mut(at..at + frame.stored as usize);
                let bytes =
                    bytes.ok_or_else(|| RepoError::damaged(layout::pack(frame.pack), "it is cut short"))?;
                self.opener.open(frame, bytes, &mut plain)?;
                let new = self.packer.add(Content::Data, &plain)?;
                self.remember((frame.pack, frame.index), new, wanted);
            }
        }
        Ok(())
    }

    fn remember(&mut self, old: (ObjectId, u32), new: FrameRef, wanted: &[FrameRef]) {
        self.moved.insert(old, new);
        self.order.push_back(old);
        while self.order.len() > REMEMBERED.max(2 * wanted.len()) {
            if let Some(oldest) = self.order.pop_front() {
                self.moved.remove(&oldest);
            }
        }
    }

    /// What a leaf uses of packs that stay.
    fn count(&mut self, leaf: &Leaf) {
        for run in &leaf.runs {
            let Some(frame) = run.source.and_then(|(place, _)| leaf.frames.get(place)) else { continue };
            if self.keys.packs.contains_key(&frame.pack) && !self.moving.contains(&frame.pack) {
                *self.uses.entry(frame.pack).or_default() += frame.share(run.length);
            }
        }
    }
}

/// Appends the next bytes of a byte string; `false` behind the last.
fn more(reader: &mut BlobReader<'_>, into: &mut Vec<u8>) -> Result<bool, RepoError> {
    let before = into.len();
    into.resize(before + PIECE, 0);
    let got =
        reader.read(&mut into[before..]).map_err(|e| RepoError::internal("read what a manifest names", e))?;
    into.truncate(before + got);
    Ok(got > 0)
}

fn lost(place: &LeafRef) -> RepoError {
    RepoError::damaged(layout::pack(place.frame.pack), "a map leaf in it names a frame that it does not have")
}
