//! A map leaf: where the bytes of one range of a file are, and the hashes of its blocks.
//!
//! Bytes: varint length covered; varint block size (0: no hashes); u32 CRC32C of the covered bytes; a frame table; varint
//! number of runs, each varint length, varint place (0: zeros; else the frame at place − 1, then varint offset in the
//! frame's plain bytes); one u64 for each block, the last may be short.

use crate::binary::{BadBytes, Reader, put_varint};
use crate::pack::frame::{FrameRef, FrameTable};

/// How many bytes of a file one leaf covers at most.
pub const LEAF_SPAN: u64 = 32 << 20;

/// A range of bytes that lie together in one frame, or are all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// How many bytes.
    pub length: u64,
    /// The frame, by its place in the leaf's table, and where in its plain bytes; `None` for zeros, which are not stored.
    pub source: Option<(usize, u32)>,
}

/// The places of one range of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leaf {
    /// Bytes covered: the sum of the runs.
    pub length: u64,
    /// Size of the blocks that are hashed; 0 where none are.
    pub block_size: u32,
    /// CRC32C of the covered bytes as read.
    pub crc32c: u32,
    /// Frames that the runs name.
    pub frames: FrameTable,
    /// In the file's order.
    pub runs: Vec<Run>,
    /// Keyed hashes of the blocks.
    pub hashes: Vec<u64>,
}

/// Where a leaf's bytes are: a slice of a frame of leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeafRef {
    /// The frame.
    pub frame: FrameRef,
    /// Where in its plain bytes.
    pub offset: u32,
    /// How many bytes.
    pub length: u32,
}

impl Leaf {
    /// Appends `length` bytes found at `offset` of `frame`.
    pub fn push_frame(&mut self, length: u64, frame: &FrameRef, offset: u32) {
        let place = self.frames.place(frame);
        self.push_place(length, place, offset);
    }
    /// Appends `length` bytes found at `offset` of the frame at `place` of the table.
    pub fn push_place(&mut self, length: u64, place: usize, offset: u32) {
        self.push(Run { length, source: Some((place, offset)) });
    }
    /// Appends `length` zero bytes.
    pub fn push_zeros(&mut self, length: u64) {
        self.push(Run { length, source: None });
    }

    fn push(&mut self, run: Run) {
        self.length += run.length;
        let joins = |last: &Run| match (last.source, run.source) {
            (None, None) => true,
            (Some((a, at)), Some((b, next))) => a == b && u64::from(at) + last.length == u64::from(next),
            _ => false,
        };
        match self.runs.last_mut() {
            Some(last) if joins(last) => last.length += run.length,
            _ if run.length == 0 => {}
            _ => self.runs.push(run),
        }
    }

    /// Appends the leaf's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.length);
        put_varint(out, u64::from(self.block_size));
        out.extend_from_slice(&self.crc32c.to_le_bytes());
        self.frames.encode(out);
        put_varint(out, self.runs.len() as u64);
        for run in &self.runs {
            put_varint(out, run.length);
            match run.source {
                None => put_varint(out, 0),
                Some((place, offset)) => {
                    put_varint(out, place as u64 + 1);
                    put_varint(out, u64::from(offset));
                }
            }
        }
        for hash in &self.hashes {
            out.extend_from_slice(&hash.to_le_bytes());
        }
    }

    /// Reads a leaf.
    ///
    /// # Errors
    /// When the bytes are none, or its parts contradict each other.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadBytes> {
        let mut reader = Reader::new(bytes);
        let length = reader.varint()?;
        if length > LEAF_SPAN {
            return Err(BadBytes("a leaf covers more than a leaf may"));
        }
        let block_size = reader.varint32()?;
        let crc32c = reader.u32()?;
        let frames = FrameTable::decode(&mut reader)?;
        let mut runs = Vec::new();
        let mut covered = 0_u64;
        for _ in 0..reader.count(2)? {
            let run_length = reader.varint()?;
            let source = match reader.varint()? {
                0 => None,
                place => {
                    let place = usize::try_from(place - 1).map_err(|_| BadBytes("a run names no frame"))?;
                    let offset = reader.varint32()?;
                    let frame = frames.get(place).ok_or(BadBytes("a run names no frame"))?;
                    if u64::from(offset)
                        .checked_add(run_length)
                        .is_none_or(|end| end > u64::from(frame.plain))
                    {
                        return Err(BadBytes("a run ends behind its frame"));
                    }
                    Some((place, offset))
                }
            };
            covered = covered.checked_add(run_length).ok_or(BadBytes("a run is too long"))?;
            runs.push(Run { length: run_length, source });
        }
        if covered != length {
            return Err(BadBytes("its runs do not add up to its length"));
        }
        let blocks = if block_size == 0 { 0 } else { length.div_ceil(u64::from(block_size)) };
        if reader.remaining() as u64 != blocks * 8 {
            return Err(BadBytes("its hashes do not fit its length"));
        }
        let hashes = (0..blocks).map(|_| reader.u64()).collect::<Result<_, _>>()?;
        Ok(Self { length, block_size, crc32c, frames, runs, hashes })
    }
}
