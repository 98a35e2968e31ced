//! References to frames, and how leaves and manifest parts write them down.

use refloat_types::ObjectId;
use serde::{Deserialize, Serialize};

use crate::binary::{BadBytes, Reader, put_varint};
use crate::compress::Codec;
use crate::crypt::seal::{FrameInfo, TAG_BYTES, Tag};

/// Largest frame accepted: a damaged length must not become an allocation. Data frames hold 256 KiB.
pub const MAX_FRAME: u32 = 16 << 20;

/// What a frame holds; numbered in the format, written in the pack's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// 0: bytes of files.
    Data,
    /// 1: map leaves.
    Leaves,
    /// 2: a manifest part.
    Part,
    /// 3: a piece of a manifest root or of what it names.
    Root,
    /// 4: the pack's own table.
    Table,
}

impl Content {
    /// Its number.
    pub const fn number(self) -> u8 {
        self as u8
    }
    /// The content of this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Data),
            1 => Some(Self::Leaves),
            2 => Some(Self::Part),
            3 => Some(Self::Root),
            4 => Some(Self::Table),
            _ => None,
        }
    }
}

/// Everything needed to read one frame with one ranged read, and to know that it is the one that was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FrameRef {
    /// The pack.
    pub pack: ObjectId,
    /// Where its payload begins in the pack.
    pub offset: u64,
    /// Its place among the pack's frames.
    pub index: u32,
    /// Bytes stored, tag included.
    pub stored: u32,
    /// Bytes before compression.
    pub plain: u32,
    /// How it is compressed.
    pub codec: Codec,
    /// Its tag.
    #[serde(with = "refloat_types::hex::array")]
    pub tag: Tag,
}

impl FrameRef {
    /// What is authenticated with it. A referenced frame is never the last: that is the table.
    pub fn info(&self) -> FrameInfo {
        FrameInfo { index: self.index, last: false, codec: self.codec, plain: self.plain }
    }
    /// How many of its stored bytes `length` of its plain ones stand for: what a backup that needs only those counts as
    /// live.
    pub fn share(&self, length: u64) -> u64 {
        (u64::from(self.stored) * length).div_ceil(u64::from(self.plain).max(1))
    }
    /// Where its stored bytes end in the pack.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.stored))
    }
}

/// The frames that a leaf or a part refers to: written once, then named by their place here.
///
/// Bytes: varint number of packs, 16 bytes each; varint number of frames, each `pack place, index, offset, stored,
/// plain` as varints, codec byte, 16-byte tag.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameTable {
    frames: Vec<FrameRef>,
}

impl FrameTable {
    /// The place of `frame`, which is added when it is not the one added last.
    pub fn place(&mut self, frame: &FrameRef) -> usize {
        if self.frames.last() != Some(frame) {
            self.frames.push(*frame);
        }
        self.frames.len() - 1
    }
    /// The frame at this place.
    pub fn get(&self, place: usize) -> Option<&FrameRef> {
        self.frames.get(place)
    }
    /// All frames.
    pub fn frames(&self) -> &[FrameRef] {
        &self.frames
    }
    /// Appends the table's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut packs: Vec<ObjectId> = Vec::new();
        let mut places = Vec::with_capacity(self.frames.len());
        for frame in &self.frames {
            let known = packs.iter().rposition(|pack| *pack == frame.pack);
            places.push(known.unwrap_or_else(|| {
                packs.push(frame.pack);
                packs.len() - 1
            }));
        }
        put_varint(out, packs.len() as u64);
        for pack in &packs {
            out.extend_from_slice(&pack.0);
        }
        put_varint(out, self.frames.len() as u64);
        for (frame, place) in self.frames.iter().zip(places) {
            put_varint(out, place as u64);
            put_varint(out, u64::from(frame.index));
            put_varint(out, frame.offset);
            put_varint(out, u64::from(frame.stored));
            put_varint(out, u64::from(frame.plain));
            out.push(frame.codec.number());
            out.extend_from_slice(&frame.tag);
        }
    }
    /// Reads a table.
    ///
    /// # Errors
    /// When the bytes are no table.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, BadBytes> {
        let packs: Vec<ObjectId> =
            (0..reader.count(16)?).map(|_| reader.array().map(ObjectId)).collect::<Result<_, _>>()?;
        let mut frames = Vec::new();
        for _ in 0..reader.count(TAG_BYTES + 6)? {
            let pack = reader.varint()?;
            let pack =
                usize::try_from(pack).ok().and_then(|p| packs.get(p)).ok_or(BadBytes("it names no pack"))?;
            let frame = FrameRef {
                pack: *pack,
                index: reader.varint32()?,
                offset: reader.varint()?,
                stored: reader.varint32()?,
                plain: reader.varint32()?,
                codec: Codec::from_number(reader.u8()?).ok_or(BadBytes("a codec is not known"))?,
                tag: reader.array()?,
            };
            if frame.plain > MAX_FRAME
                || frame.stored > MAX_FRAME + TAG_BYTES as u32
                || frame.stored < TAG_BYTES as u32
            {
                return Err(BadBytes("a frame's length is impossible"));
            }
            frames.push(frame);
        }
        Ok(Self { frames })
    }
}
