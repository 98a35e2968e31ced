//! A map leaf in the making: which pages of a range are kept where an older backup has them, which are stored anew.
//!
//! Changed pages of a range are gathered, so that a page here and a page there share a frame. Where much of a slice has
//! changed, or its pages lie scattered over many frames, all of it is stored anew: a restore reads whole frames, and
//! incrementals for ever must not make it read one for each page.

use std::collections::{BTreeSet, HashMap};

use refloat_repo::RepoError;
use refloat_repo::manifest::Leaf;
use refloat_repo::pack::frame::FrameRef;
use refloat_repo::pack::{Content, Packer};
use refloat_types::ObjectId;

use super::copy::{FRAME, is_same, is_zero};

/// From how many frames the unchanged pages of a slice may come.
const MOST_FRAMES: usize = 16;

/// Where a piece of the range is.
#[derive(Clone, Copy)]
enum Place {
    Zeros,
    /// In a frame of an older backup, or one that is stored already; where in its plain bytes.
    Frame(FrameRef, u32),
    /// Among the gathered bytes.
    Gathered(u32),
}

/// A leaf in the making.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) leaf: Leaf,
    pieces: Vec<(u64, Place)>,
    gathered: Vec<u8>,
    /// Where in `pieces` those begin that are among the gathered bytes.
    waiting: Vec<usize>,
}

/// The same range as an older backup has it.
pub(super) struct Old<'a> {
    leaf: &'a Leaf,
    /// By block: it is not there any more. Those beyond the end are.
    lost: &'a [bool],
    /// The run at hand, and how far it is used.
    run: usize,
    used: u64,
}

impl<'a> Old<'a> {
    pub(super) fn new(leaf: &'a Leaf) -> Self {
        Self::with_losses(leaf, &[])
    }

    /// A range of which not every block is there.
    pub(super) fn with_losses(leaf: &'a Leaf, lost: &'a [bool]) -> Self {
        Self { leaf, lost, run: 0, used: 0 }
    }

    /// The hash of block `number` of the range, if it is there and was taken of blocks of this size.
    fn hash(&self, number: usize, block_size: u32) -> Option<u64> {
        let is_there = self.leaf.block_size == block_size && self.lost.get(number) != Some(&true);
        is_there.then(|| self.leaf.hashes.get(number).copied()).flatten()
    }

    /// Places of the next `length` bytes; fewer where the older range is shorter.
    fn places(&mut self, length: u64, mut each: impl FnMut(u64, Place)) {
        let mut left = length;
        while left > 0 {
            let Some(run) = self.leaf.runs.get(self.run) else { return };
            let take = left.min(run.length - self.used);
            let place = run.source.and_then(|(place, at)| {
                let frame = self.leaf.frames.get(place)?;
                Some(Place::Frame(*frame, at + self.used as u32))
            });
            each(take, place.unwrap_or(Place::Zeros));
            left -= take;
            self.used += take;
            if self.used == run.length {
                self.run += 1;
                self.used = 0;
            }
        }
    }

    fn skip(&mut self, length: u64) {
        self.places(length, |_, _| {});
    }
}

impl Draft {
    pub(super) fn new(block_size: u32) -> Self {
        Self { leaf: Leaf { block_size, ..Leaf::default() }, ..Self::default() }
    }

    /// Bytes of the range so far.
    pub(super) fn length(&self) -> u64 {
        self.pieces.iter().map(|(length, _)| length).sum()
    }

    /// Appends zeros.
    pub(super) fn zeros(&mut self, length: u64) {
        self.pieces.push((length, Place::Zeros));
    }

    /// Appends a slice of the file, at most a frame of it, whose hashes `leaf` has already as its last ones. A page that
    /// several of `olds` have is taken from the first of them.
    pub(super) fn slice(
        &mut self,
        bytes: &[u8],
        olds: &mut [Old<'_>],
        packer: &mut Packer,
    ) -> Result<(), RepoError> {
        if olds.is_empty() {
            return self.whole(bytes, packer);
        }
        let from = self.origins(bytes, olds);
        let (blocks, kept) = (from.len(), from.iter().flatten().count());
        if kept == 0 || (kept < blocks && kept <= blocks / 2) {
            olds.iter_mut().for_each(|old| old.skip(bytes.len() as u64));
            return self.whole(bytes, packer);
        }
        let mut places = Vec::new();
        for (page, from) in bytes.chunks(self.block()).zip(from) {
            let length = page.len() as u64;
            for (number, old) in olds.iter_mut().enumerate() {
                if from == Some(number) {
                    old.places(length, |length, place| places.push((length, Some(place))));
                } else {
                    old.skip(length);
                }
            }
            if from.is_none() {
                places.push((length, None));
            }
        }
        if kept < blocks && scattered(&places) {
            return self.whole(bytes, packer);
        }
        let mut rest = bytes;
        for (length, place) in places {
            let (now, later) = rest.split_at(length as usize);
            rest = later;
            match place {
                Some(place) => self.pieces.push((length, place)),
                None => self.changed(now, packer)?,
            }
        }
        Ok(())
    }

    fn block(&self) -> usize {
        self.leaf.block_size.max(1) as usize
    }

    /// Which of `olds` has each page of the slice.
    fn origins(&self, bytes: &[u8], olds: &[Old<'_>]) -> Vec<Option<usize>> {
        let block = self.block();
        let blocks = bytes.len().div_ceil(block);
        let first = self.leaf.hashes.len() - blocks.min(self.leaf.hashes.len());
        let hashes = self.leaf.hashes[first..].iter().zip(first..);
        hashes
            .map(|(hash, at)| olds.iter().position(|old| old.hash(at, block as u32) == Some(*hash)))
            .collect()
    }

    /// Stores all of a slice.
    fn whole(&mut self, bytes: &[u8], packer: &mut Packer) -> Result<(), RepoError> {
        let place =
            if is_zero(bytes) { Place::Zeros } else { Place::Frame(packer.add(Content::Data, bytes)?, 0) };
        self.pieces.push((bytes.len() as u64, place));
        Ok(())
    }

    /// Gathers a changed page.
    fn changed(&mut self, page: &[u8], packer: &mut Packer) -> Result<(), RepoError> {
        if is_zero(page) {
            self.zeros(page.len() as u64);
            return Ok(());
        }
        if self.gathered.len() + page.len() > FRAME {
            self.store_gathered(packer)?;
        }
        self.waiting.push(self.pieces.len());
        self.pieces.push((page.len() as u64, Place::Gathered(self.gathered.len() as u32)));
        self.gathered.extend_from_slice(page);
        Ok(())
    }

    fn store_gathered(&mut self, packer: &mut Packer) -> Result<(), RepoError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let frame = packer.add(Content::Data, &self.gathered)?;
        for at in self.waiting.drain(..) {
            if let (_, place @ Place::Gathered(_)) = &mut self.pieces[at]
                && let Place::Gathered(offset) = *place
            {
                *place = Place::Frame(frame, offset);
            }
        }
        self.gathered.clear();
        Ok(())
    }

    /// The leaf; `None` when it is `old`, page by page and to the last byte.
    pub(super) fn finish(
        mut self,
        old: Option<&Leaf>,
        packer: &mut Packer,
    ) -> Result<Option<Leaf>, RepoError> {
        self.store_gathered(packer)?;
        if old.is_some_and(|old| old.length == self.length() && is_same(old, &self.leaf)) {
            return Ok(None);
        }
        let mut table: HashMap<(ObjectId, u32), usize> = HashMap::new();
        let mut leaf = self.leaf;
        for (length, place) in self.pieces {
            match place {
                Place::Zeros => leaf.push_zeros(length),
                Place::Gathered(_) => {
                    return Err(RepoError::internal("write a map leaf", "a page of it is not stored"));
                }
                Place::Frame(frame, at) => {
                    let place =
                        *table.entry((frame.pack, frame.index)).or_insert_with(|| leaf.frames.place(&frame));
                    leaf.push_place(length, place, at);
                }
            }
        }
        Ok(Some(leaf))
    }
}

/// Whether unchanged pages come from so many frames that reading them again costs more than storing them once.
fn scattered(places: &[(u64, Option<Place>)]) -> bool {
    let frames = places.iter().filter_map(|(_, place)| match place {
        Some(Place::Frame(frame, _)) => Some((frame.pack, frame.index)),
        _ => None,
    });
    frames.collect::<BTreeSet<_>>().len() > MOST_FRAMES
}

#[cfg(test)]
mod tests;
