//! Windows: which pieces of which files come from which frames, in the order of the packs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::mpsc::SyncSender;

use refloat_repo::manifest::root::{LeafReader, read_part};
use refloat_repo::manifest::{Entry, Leaf, What};
use refloat_repo::pack::frame::FrameRef;
use refloat_repo::{RepoError, layout};
use refloat_types::ObjectId;

use super::crc;
use super::frames::{ByFrame, Taken};
use super::{Backup, FileSlot, OnEntry, ReadError, Window};

/// Frames at most this far apart are read together: seeking costs more than the bytes between.
const GAP: u64 = 128 << 10;
/// Stored bytes of one read, and bytes of files that come out of it.
const UNIT_STORED: u64 = 4 << 20;
const UNIT_PLAIN: u64 = 16 << 20;

/// A part of a frame that goes to a place in a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) at: u32,
    pub(super) length: u32,
    pub(super) range: u32,
    pub(super) offset: u32,
}

/// A range of a file that has a CRC of its own.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) file: u32,
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) expected: u32,
    /// XOR of what pieces contributed so far.
    pub(super) found: AtomicU32,
    /// A frame of it could not be read, which was said already.
    pub(super) damaged: AtomicBool,
}

/// A file of the window.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) slot: FileSlot,
    pub(super) ranges: std::ops::Range<u32>,
    /// The file ends in this window.
    pub(super) ends: bool,
    /// All of it is one piece.
    pub(super) single: bool,
}

/// Frames of one pack that are read at once.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub(super) frames: std::ops::Range<u32>,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// A window, ready to be read.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) files: Vec<Part>,
    pub(super) ranges: Vec<Range>,
    /// In the order of packs and offsets.
    pub(super) taken: ByFrame<Piece>,
    pub(super) units: Vec<Unit>,
}

/// Plans window after window until the manifest ends or nobody takes them any more.
pub(super) fn windows(
    backup: &Backup,
    each: OnEntry<'_>,
    limits: Window,
    to: &SyncSender<Planned>,
) -> Result<(), ReadError> {
    let (mut opener, mut reader) = (backup.opener()?, LeafReader::default());
    let mut gathering = Gathering::default();
    let mut number = 0;
    for part in &backup.root.parts {
        for entry in read_part(backup.store.as_ref(), &mut opener, part)? {
            let What::File { size, leaves, .. } = &entry.what else {
                each(&entry, 0)?;
                continue;
            };
            number += 1;
            let slot = slot(&entry, number, *size);
            // Leaves are read before `each` is told the CRC that they add up to; a file has few.
            let mut crc = 0;
            let mut decoded = Vec::new();
            for leaf in leaves.iter() {
                let leaf = reader.read(backup.store.as_ref(), &mut opener, leaf)?;
                crc = crc::contribution(crc, leaf.length) ^ leaf.crc32c;
                decoded.push(leaf);
            }
            if decoded.iter().map(|leaf| leaf.length).sum::<u64>() != *size {
                let path = String::from_utf8_lossy(&entry.path);
                let what = format!("a manifest part in it gives {path} a size that its leaves do not have");
                return Err(RepoError::damaged(layout::pack(part.frame.pack), what).into());
            }
            if !each(&entry, crc)? {
                continue;
            }
            let count = decoded.len();
            if count == 0 {
                gathering.begin(&slot, true);
            }
            let mut offset = 0;
            for (at, leaf) in decoded.iter().enumerate() {
                if gathering.is_full(limits) && to.send(gathering.planned()).is_err() {
                    return Ok(());
                }
                gathering.add(&slot, offset, leaf, at + 1 == count);
                offset += leaf.length;
            }
        }
    }
    if !gathering.files.is_empty() {
        let _ = to.send(gathering.planned());
    }
    Ok(())
}

fn slot(entry: &Entry, number: u64, size: u64) -> FileSlot {
    let (path, mode, mtime_ns) = (entry.path.clone(), entry.mode, entry.mtime_ns);
    FileSlot { number, path, mode, mtime_ns, size }
}

#[derive(Default)]
struct Gathering {
    files: Vec<Part>,
    ranges: Vec<Range>,
    taken: Taken<Piece>,
    bytes: u64,
}

impl Gathering {
    fn is_full(&self, limits: Window) -> bool {
        self.bytes >= limits.bytes || self.taken.pieces() >= limits.pieces || self.files.len() >= limits.files
    }

    /// The file's place in this window.
    fn begin(&mut self, slot: &FileSlot, ends: bool) -> u32 {
        let ranges = self.ranges.len() as u32;
        if self.files.last().is_none_or(|last| last.slot.number != slot.number) {
            let part = Part { slot: slot.clone(), ranges: ranges..ranges, ends, single: false };
            self.files.push(part);
        }
        self.files.len() as u32 - 1
    }

    fn add(&mut self, slot: &FileSlot, start: u64, leaf: &Leaf, ends: bool) {
        let file = self.begin(slot, ends);
        let range = self.ranges.len() as u32;
        let mut places: Vec<Option<u32>> = vec![None; leaf.frames.frames().len()];
        let (mut offset, mut zeros) = (0_u64, 0);
        for run in &leaf.runs {
            let behind = leaf.length - offset - run.length;
            match run.source {
                None => zeros ^= crc::contribution(crc::of_zeros(run.length), behind),
                Some((place, at)) => {
                    let Some(frame) = leaf.frames.get(place) else { continue };
                    let frame = match places[place] {
                        Some(known) => known,
                        None => *places[place].insert(self.taken.number(frame)),
                    };
                    // A leaf covers 32 MiB at most, so each of these fits 32 bits.
                    let (length, offset) = (run.length as u32, offset as u32);
                    self.taken.take(frame, Piece { at, length, range, offset });
                }
            }
            offset += run.length;
        }
        let single = leaf.length == slot.size && leaf.runs.len() == 1 && zeros == 0;
        let (length, expected) = (leaf.length as u32, leaf.crc32c);
        let found = AtomicU32::new(zeros);
        let damaged = AtomicBool::new(false);
        self.ranges.push(Range { file, offset: start, length, expected, found, damaged });
        if let Some(part) = self.files.last_mut() {
            part.ranges.end = range + 1;
            part.ends = ends;
            part.single = single && leaf.runs.first().is_some_and(|run| run.source.is_some());
        }
        self.bytes += leaf.length;
    }

    /// The window, in the order of its packs; begins the next one.
    fn planned(&mut self) -> Planned {
        let done = std::mem::take(self);
        // Packs in the order in which the files first need them, so that files are written about in order too.
        let mut packs: HashMap<ObjectId, u32> = HashMap::new();
        let taken = done.taken.by_frame(|frame| {
            let next = packs.len() as u32;
            (*packs.entry(frame.pack).or_insert(next), frame.offset)
        });
        let units = units(&taken.frames);
        Planned { files: done.files, ranges: done.ranges, taken, units }
    }
}

fn units(frames: &[FrameRef]) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    let mut plain = 0;
    for (at, frame) in frames.iter().enumerate() {
        let at = at as u32;
        let joins = |unit: &Unit| {
            let same = frames[unit.frames.start as usize].pack == frame.pack;
            let near = frame.offset >= unit.end && frame.offset - unit.end <= GAP;
            same && near && frame.end() - unit.start <= UNIT_STORED && plain < UNIT_PLAIN
        };
        match units.last_mut() {
            Some(unit) if joins(unit) => {
                unit.frames.end = at + 1;
                unit.end = frame.end();
            }
            _ => {
                units.push(Unit { frames: at..at + 1, start: frame.offset, end: frame.end() });
                plain = 0;
            }
        }
        plain += u64::from(frame.plain);
    }
    units
}
