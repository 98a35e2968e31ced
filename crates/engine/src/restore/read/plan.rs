//! Windows: which pieces of which files come from which frames, in the order of the packs.
//!
//! Where files may be there already, ranges wait until there are enough of them to be compared by several threads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::mpsc::SyncSender;

use refloat_repo::manifest::root::{LeafReader, read_part};
use refloat_repo::manifest::{Entry, Leaf, What};
use refloat_repo::pack::frame::FrameRef;
use refloat_repo::{RepoError, layout};
use refloat_types::ObjectId;

use super::compare::{Compare, There, Waiting, compare_all};
use super::crc;
use super::frames::{ByFrame, Taken};
use super::{Backup, FileSlot, OnEntry, ReadError, Window};

/// Frames at most this far apart are read together: seeking costs more than the bytes between.
const GAP: u64 = 128 << 10;
/// Stored bytes of one read.
const UNIT_STORED: u64 = 4 << 20;
/// Bytes of files that come out of one read: few reads, and enough of them that all threads end together.
const UNIT_PLAIN: std::ops::RangeInclusive<u64> = 16 << 20..=64 << 20;
/// Reads of a window in which much is compressed.
const UNITS: u64 = 64;
/// Ranges that are compared together: some 40 kB of memory each, and ten times that in the worst case, when every block of
/// it is in another frame.
const TOGETHER: usize = 128;

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

/// Plans window after window until the manifest ends or nobody takes them any more; `over` compares what is there, with so
/// many threads.
pub(super) fn windows(
    backup: &Backup,
    over: Option<(&dyn Compare, usize)>,
    each: OnEntry<'_>,
    limits: Window,
    to: &SyncSender<Planned>,
) -> Result<(), ReadError> {
    let (mut opener, mut reader) = (backup.opener()?, LeafReader::default());
    let mut windows = Windows { gathering: Gathering::default(), waiting: Vec::new(), over, limits, to };
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
            if each(&entry, crc)? && !windows.file(&slot, decoded)? {
                return Ok(());
            }
        }
    }
    if windows.compare()? && !windows.gathering.files.is_empty() {
        let _ = to.send(windows.gathering.planned());
    }
    Ok(())
}

/// Windows on their way from the manifest to whoever takes them.
struct Windows<'a> {
    gathering: Gathering,
    /// Ranges that are to be compared first.
    waiting: Vec<Waiting>,
    over: Option<(&'a dyn Compare, usize)>,
    limits: Window,
    to: &'a SyncSender<Planned>,
}

impl Windows<'_> {
    /// Takes in a file; `false` when nobody takes windows any more.
    fn file(&mut self, slot: &FileSlot, leaves: Vec<Leaf>) -> Result<bool, ReadError> {
        let leaves = if leaves.is_empty() { vec![Leaf::default()] } else { leaves };
        let (count, mut offset) = (leaves.len(), 0);
        for (at, leaf) in leaves.into_iter().enumerate() {
            let (length, ends) = (leaf.length, at + 1 == count);
            let goes_on = if self.over.is_none() {
                self.add(slot, offset, &leaf, ends, &There::Nothing)
            } else {
                self.waiting.push(Waiting { slot: slot.clone(), offset, leaf, ends });
                self.waiting.len() < TOGETHER || self.compare()?
            };
            if !goes_on {
                return Ok(false);
            }
            offset += length;
        }
        Ok(true)
    }

    /// Compares what waits, and takes in what differs.
    fn compare(&mut self) -> Result<bool, ReadError> {
        let Some((compare, jobs)) = self.over else { return Ok(true) };
        let waiting = std::mem::take(&mut self.waiting);
        let found = compare_all(compare, &waiting, jobs)?;
        let mut each = waiting.iter().zip(&found);
        Ok(each.all(|(range, there)| self.add(&range.slot, range.offset, &range.leaf, range.ends, there)))
    }

    fn add(&mut self, slot: &FileSlot, start: u64, leaf: &Leaf, ends: bool, there: &There) -> bool {
        if self.gathering.is_full(self.limits) && self.to.send(self.gathering.planned()).is_err() {
            return false;
        }
        if slot.size == 0 {
            self.gathering.begin(slot, true);
        } else {
            self.gathering.add(slot, start, leaf, ends, there);
        }
        true
    }
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

    fn add(&mut self, slot: &FileSlot, start: u64, leaf: &Leaf, ends: bool, there: &There) {
        let file = self.begin(slot, ends);
        let range = self.ranges.len() as u32;
        // A leaf covers 32 MiB at most, so what is counted within it fits 32 bits.
        let all = 0..leaf.length as u32;
        let (wanted, kept_crc) = match there {
            There::Nothing => (std::slice::from_ref(&all), 0),
            There::File { wanted, kept_crc } => (wanted.as_slice(), *kept_crc),
        };
        let mut places: Vec<Option<u32>> = vec![None; leaf.frames.frames().len()];
        let (mut next, mut first, mut crc) = (0_u32, 0, kept_crc);
        for run in &leaf.runs {
            let begin = next;
            next += run.length as u32;
            first += wanted[first..].iter().take_while(|part| part.end <= begin).count();
            for part in wanted[first..].iter().take_while(|part| part.start < next) {
                let (offset, end) = (part.start.max(begin), part.end.min(next));
                let length = end - offset;
                let Some((place, at)) = run.source else {
                    crc ^= crc::contribution(crc::of_zeros(length.into()), leaf.length - u64::from(end));
                    continue;
                };
                let Some(frame) = leaf.frames.get(place) else { continue };
                let frame = match places[place] {
                    Some(known) => known,
                    None => *places[place].insert(self.taken.number(frame)),
                };
                self.taken.take(frame, Piece { at: at + (offset - begin), length, range, offset });
            }
        }
        let single = *there == There::Nothing && leaf.length == slot.size && leaf.runs.len() == 1;
        let (length, expected) = (leaf.length as u32, leaf.crc32c);
        let found = AtomicU32::new(crc);
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
        let units = units(&taken.frames, (done.bytes / UNITS).clamp(*UNIT_PLAIN.start(), *UNIT_PLAIN.end()));
        Planned { files: done.files, ranges: done.ranges, taken, units }
    }
}

fn units(frames: &[FrameRef], most_plain: u64) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    let mut plain = 0;
    for (at, frame) in frames.iter().enumerate() {
        let at = at as u32;
        let joins = |unit: &Unit| {
            let same = frames[unit.frames.start as usize].pack == frame.pack;
            let near = frame.offset >= unit.end && frame.offset - unit.end <= GAP;
            same && near && frame.end() - unit.start <= UNIT_STORED && plain < most_plain
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
