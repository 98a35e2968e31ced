//! Windows: ranges of files whose pieces lie in packs, gathered until there are enough to be read together.
//!
//! Ranges come from the manifests of all backups, so a frame that several of them share is read once.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use refloat_repo::manifest::{Leaf, LeafRef};
use refloat_types::ObjectId;

use crate::restore::read::crc;
use crate::restore::read::frames::{ByFrame, Taken};

/// Most pieces of a window: 20 bytes of memory each, and 60 for each frame.
const MAX_PIECES: usize = 1 << 20;
/// Most ranges of a window: some 150 bytes of memory each.
const MAX_RANGES: usize = 1 << 17;
/// Most bytes of files of a window: packs at its border are read twice.
const MAX_BYTES: u64 = 32 << 30;

/// A part of a frame that belongs to a range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Where in the frame's plain bytes.
    at: u32,
    length: u32,
    range: u32,
    /// Bytes of the range behind this piece.
    behind: u32,
}

/// A range of a file that has a checksum of its own.
#[derive(Debug)]
pub(super) struct Range {
    /// Which backup.
    pub(super) backup: u32,
    /// Path of the file.
    pub(super) path: Vec<u8>,
    /// Where the range begins in it.
    pub(super) offset: u64,
    pub(super) length: u64,
    /// The pack that holds the leaf.
    pub(super) leaf: ObjectId,
    expected: u32,
    /// XOR of what the pieces contributed so far.
    found: AtomicU32,
    /// A frame of it cannot be had: that is said already.
    damaged: AtomicBool,
}

/// What is read together.
#[derive(Debug, Default)]
pub(super) struct Window {
    pub(super) ranges: Vec<Range>,
    taken: Taken<Piece>,
    bytes: u64,
}

/// A window in the order of its packs.
#[derive(Debug)]
pub(super) struct Ordered {
    pub(super) ranges: Vec<Range>,
    /// By pack, then by their place in it.
    pub(super) taken: ByFrame<Piece>,
    /// The frames of each pack.
    pub(super) packs: Vec<(ObjectId, std::ops::Range<usize>)>,
}

impl Window {
    /// Whether it should be read before more is added.
    pub(super) fn is_full(&self) -> bool {
        self.taken.pieces() >= MAX_PIECES || self.ranges.len() >= MAX_RANGES || self.bytes >= MAX_BYTES
    }
    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Adds a range of a file.
    pub(super) fn add(&mut self, backup: u32, path: &[u8], offset: u64, leaf: &Leaf, at: &LeafRef) {
        let range = self.ranges.len() as u32;
        let (mut done, mut zeros) = (0_u64, 0);
        for run in &leaf.runs {
            done += run.length;
            let behind = leaf.length.saturating_sub(done);
            match run.source.and_then(|(place, at)| Some((leaf.frames.get(place)?, at))) {
                None => zeros ^= crc::contribution(crc::of_zeros(run.length), behind),
                Some((frame, at)) => {
                    let frame = self.taken.number(frame);
                    // A leaf covers 32 MiB at most, so each of these fits 32 bits.
                    let (length, behind) = (run.length as u32, behind as u32);
                    self.taken.take(frame, Piece { at, length, range, behind });
                }
            }
        }
        self.bytes += leaf.length;
        self.ranges.push(Range {
            backup,
            path: path.to_vec(),
            offset,
            length: leaf.length,
            leaf: at.frame.pack,
            expected: leaf.crc32c,
            found: AtomicU32::new(zeros),
            damaged: AtomicBool::new(false),
        });
    }

    /// Takes everything out, in the order of packs.
    pub(super) fn take(&mut self) -> Ordered {
        let Self { ranges, taken, .. } = std::mem::take(self);
        let taken = taken.by_frame(|frame| (frame.pack, frame.index));
        let mut packs: Vec<(ObjectId, std::ops::Range<usize>)> = Vec::new();
        for (at, frame) in taken.frames.iter().enumerate() {
            match packs.last_mut() {
                Some((pack, range)) if *pack == frame.pack => range.end = at + 1,
                _ => packs.push((frame.pack, at..at + 1)),
            }
        }
        Ordered { ranges, taken, packs }
    }
}

impl Ordered {
    /// The plain bytes of a frame are here.
    pub(super) fn place(&self, frame: usize, plain: &[u8]) {
        for piece in self.taken.pieces_of(frame) {
            let start = piece.at as usize;
            let range = &self.ranges[piece.range as usize];
            // The leaf was checked against the frame's length, and the frame opened to exactly that.
            match plain.get(start..start + piece.length as usize) {
                Some(bytes) => {
                    let part = crc::contribution(crc32c::crc32c(bytes), u64::from(piece.behind));
                    range.found.fetch_xor(part, Ordering::Relaxed);
                }
                None => range.damaged.store(true, Ordering::Relaxed),
            }
        }
    }

    /// A frame cannot be had: the ranges that need it.
    pub(super) fn lose(&self, frame: usize) -> impl Iterator<Item = &Range> {
        let mut seen = HashSet::new();
        self.taken.pieces_of(frame).filter(move |piece| seen.insert(piece.range)).map(|piece| {
            let range = &self.ranges[piece.range as usize];
            range.damaged.store(true, Ordering::Relaxed);
            range
        })
    }

    /// When every frame was placed or lost: ranges whose bytes are not those that were backed up.
    pub(super) fn wrong(&self) -> impl Iterator<Item = &Range> {
        self.ranges.iter().filter(|range| {
            !range.damaged.load(Ordering::Relaxed) && range.found.load(Ordering::Relaxed) != range.expected
        })
    }
}

impl Range {
    /// `base/5/16384 (bytes 0 to 33554432)`
    pub(super) fn describe(&self) -> String {
        let path = String::from_utf8_lossy(&self.path);
        format!("{path} (bytes {} to {})", self.offset, self.offset.saturating_add(self.length))
    }
}

/// Leaves that several backups share are checked once. Only those in packs that several backups name are remembered: 17
/// to 39 bytes of memory each.
#[derive(Debug, Default)]
pub(super) struct Shared {
    packs: HashMap<ObjectId, Pack>,
    seen: HashSet<Seen>,
}

#[derive(Debug, Default)]
struct Pack {
    number: u32,
    users: u32,
}

/// A leaf, as far as two that a signed backup names can differ, and a sum of all the rest.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Seen {
    pack: u32,
    frame: u32,
    offset: u32,
    rest: u32,
}

impl Shared {
    /// A backup names this pack.
    pub(super) fn count(&mut self, pack: ObjectId) {
        let number = self.packs.len() as u32;
        self.packs.entry(pack).or_insert(Pack { number, users: 0 }).users += 1;
    }
    /// Whether this leaf is met for the first time.
    pub(super) fn is_new(&mut self, leaf: &LeafRef) -> bool {
        let frame = &leaf.frame;
        let Some(pack) = self.packs.get(&frame.pack).filter(|pack| pack.users > 1) else { return true };
        let numbers = [leaf.length, frame.stored, frame.plain, u32::from(frame.codec.number())];
        let rest = numbers.iter().fold(crc32c::crc32c(&frame.tag), |sum, number| {
            crc32c::crc32c_append(sum, &number.to_le_bytes())
        });
        let rest = crc32c::crc32c_append(rest, &frame.offset.to_le_bytes());
        self.seen.insert(Seen { pack: pack.number, frame: frame.index, offset: leaf.offset, rest })
    }
}

#[cfg(test)]
mod tests {
    use refloat_repo::compress::Codec;
    use refloat_repo::pack::frame::FrameRef;

    use super::*;

    #[test]
    fn leaves_that_backups_share_are_met_once_and_others_always() {
        let frame = FrameRef {
            pack: ObjectId([1; 16]),
            offset: 64,
            index: 3,
            stored: 100,
            plain: 50,
            codec: Codec::None,
            tag: [7; 16],
        };
        let leaf = LeafRef { frame, offset: 10, length: 5 };
        let mut shared = Shared::default();
        shared.count(frame.pack);
        assert!(shared.is_new(&leaf) && shared.is_new(&leaf), "one backup alone meets each once");
        shared.count(frame.pack);
        assert!(shared.is_new(&leaf));
        assert!(!shared.is_new(&leaf));
        let others = [
            LeafRef { offset: 11, ..leaf },
            LeafRef { length: 6, ..leaf },
            LeafRef { frame: FrameRef { index: 4, ..frame }, ..leaf },
            LeafRef { frame: FrameRef { offset: 65, ..frame }, ..leaf },
            LeafRef { frame: FrameRef { tag: [8; 16], ..frame }, ..leaf },
            LeafRef { frame: FrameRef { codec: Codec::Zstd, ..frame }, ..leaf },
        ];
        assert!(others.iter().all(|other| shared.is_new(other)), "another reference is another leaf");
    }

    #[test]
    fn ranges_add_up_whatever_the_order_of_their_frames() {
        let frame = |index: u32| FrameRef {
            pack: ObjectId([1; 16]),
            offset: 64 + u64::from(index) * 100,
            index,
            stored: 100,
            plain: 50,
            codec: Codec::None,
            tag: [index as u8; 16],
        };
        let plain = |index: u32| (0..50).map(|b| (b + index * 7) as u8).collect::<Vec<_>>();
        let mut leaf = Leaf::default();
        let mut bytes = Vec::new();
        for (index, from, length) in [(2, 0, 50), (0, 10, 20), (1, 49, 1)] {
            leaf.push_frame(length as u64, &frame(index), from as u32);
            bytes.extend_from_slice(&plain(index)[from..from + length]);
            leaf.push_zeros(1000);
            bytes.resize(bytes.len() + 1000, 0);
        }
        leaf.crc32c = crc32c::crc32c(&bytes);
        let at = LeafRef { frame: frame(9), offset: 0, length: 1 };
        let mut window = Window::default();
        window.add(0, b"a", 0, &leaf, &at);
        leaf.crc32c ^= 1;
        window.add(0, b"b", 0, &leaf, &at);
        let ordered = window.take();
        assert_eq!(ordered.packs, [(ObjectId([1; 16]), 0..3)]);
        for (place, frame) in ordered.taken.frames.iter().enumerate().rev() {
            ordered.place(place, &plain(frame.index));
        }
        assert_eq!(ordered.wrong().map(|range| range.path.as_slice()).collect::<Vec<_>>(), [b"b"]);
        assert_eq!(ordered.lose(0).count(), 2);
        assert_eq!(ordered.wrong().count(), 0, "said already");
        assert!(window.is_empty());
    }
}
