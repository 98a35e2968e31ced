//! Writing one pack. Nothing is visible before `finish`; a crash leaves at most the store's temporary file.
//!
//! Bytes: header (64), frames (payload, then 16-byte tag) one behind the other, the table as the last frame, then a
//! footer of 32 bytes: table offset u64, table stored length u32, table plain length u32, number of frames u32, codec u8,
//! 3 zero bytes, the 8 bytes `RFLTPACK`. The table holds, for each frame: stored, plain as varints, codec, content.

use refloat_store::{ObjectWriter, Store};
use refloat_types::{ObjectId, fault};

use super::frame::{Content, FrameRef};
use crate::binary::{BadBytes, Reader, put_varint};
use crate::compress::Codec;
use crate::crypt::random;
use crate::crypt::seal::{DataKey, FrameInfo, ObjectSeal};
use crate::error::RepoError;
use crate::kind::{Kind, Suite};
use crate::layout;
use crate::object::{HEADER_BYTES, Header};

/// Length of the footer.
pub const FOOTER_BYTES: usize = 32;

const FOOTER_MAGIC: [u8; 8] = *b"RFLTPACK";

/// A pack being written.
pub struct PackWriter {
    object: Box<dyn ObjectWriter>,
    seal: ObjectSeal,
    id: ObjectId,
    key: ObjectId,
    offset: u64,
    frames: u32,
    table: Vec<u8>,
}

/// A pack that is whole and durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinishedPack {
    /// Its id.
    pub id: ObjectId,
    /// The data key it is sealed with; none where nothing is encrypted.
    pub key: ObjectId,
    /// Its size in the store.
    pub size: u64,
}

impl PackWriter {
    /// Begins a pack under a fresh id.
    ///
    /// # Errors
    /// When the store cannot begin one.
    pub fn create(store: &dyn Store, id: ObjectId, key: Option<&DataKey>) -> Result<Self, RepoError> {
        let suite = if key.is_some() { Suite::Standard } else { Suite::Plain };
        let key_id = key.map_or(ObjectId::NONE, DataKey::id);
        let header = Header { kind: Kind::Pack, suite, clear: 0, id, key: key_id, agent: ObjectId::NONE };
        fault::point("pack.create").map_err(|e| RepoError::internal("begin a pack", e))?;
        let mut object = store.create(&layout::pack(id))?;
        object.write(&header.encode())?;
        let seal = ObjectSeal::new(Kind::Pack, id, key);
        Ok(Self { object, seal, id, key: key_id, offset: HEADER_BYTES as u64, frames: 0, table: Vec::new() })
    }

    /// A fresh id for a pack.
    pub fn fresh_id() -> ObjectId {
        random::object_id()
    }

    /// Seals `payload` (compressed by `codec` from `plain` bytes) in place and appends it.
    ///
    /// # Errors
    /// The pack cannot be finished any more.
    pub fn append(
        &mut self,
        content: Content,
        codec: Codec,
        plain: u32,
        payload: &mut Vec<u8>,
    ) -> Result<FrameRef, RepoError> {
        let index = self.frames;
        let tag = self.seal.seal(FrameInfo { index, last: false, codec, plain }, payload);
        payload.extend_from_slice(&tag);
        let stored = u32::try_from(payload.len()).map_err(|e| RepoError::internal("append a frame", e))?;
        self.object.write(payload)?;
        put_varint(&mut self.table, u64::from(stored));
        put_varint(&mut self.table, u64::from(plain));
        self.table.push(codec.number());
        self.table.push(content.number());
        let frame = FrameRef { pack: self.id, offset: self.offset, index, stored, plain, codec, tag };
        self.offset += u64::from(stored);
        self.frames += 1;
        Ok(frame)
    }

    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.offset
    }

    /// Writes table and footer; `Ok` when the pack is durable under its name.
    ///
    /// # Errors
    /// It may or may not exist; nothing may refer to it.
    pub fn finish(mut self) -> Result<FinishedPack, RepoError> {
        let plain = u32::try_from(self.table.len()).map_err(|e| RepoError::internal("finish a pack", e))?;
        let mut table = std::mem::take(&mut self.table);
        let info = FrameInfo { index: self.frames, last: true, codec: Codec::None, plain };
        let tag = self.seal.seal(info, &mut table);
        table.extend_from_slice(&tag);
        let mut footer = [0; FOOTER_BYTES];
        footer[..8].copy_from_slice(&self.offset.to_le_bytes());
        footer[8..12].copy_from_slice(&(table.len() as u32).to_le_bytes());
        footer[12..16].copy_from_slice(&plain.to_le_bytes());
        footer[16..20].copy_from_slice(&self.frames.to_le_bytes());
        footer[20] = Codec::None.number();
        footer[24..].copy_from_slice(&FOOTER_MAGIC);
        let size = self.offset + table.len() as u64 + FOOTER_BYTES as u64;
        table.extend_from_slice(&footer);
        self.object.write(&table)?;
        fault::point("pack.before_finish").map_err(|e| RepoError::internal("finish a pack", e))?;
        self.object.finish()?;
        fault::point("pack.after_finish").map_err(|e| RepoError::internal("finish a pack", e))?;
        Ok(FinishedPack { id: self.id, key: self.key, size })
    }
}

/// What the footer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Where the table begins.
    pub table_offset: u64,
    /// Its stored length.
    pub table_stored: u32,
    /// Its length before sealing.
    pub table_plain: u32,
    /// Number of frames before it; its own index.
    pub frames: u32,
}

impl Footer {
    /// Reads a footer.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadBytes> {
        let mut reader = Reader::new(bytes);
        let footer = Self {
            table_offset: reader.u64()?,
            table_stored: reader.u32()?,
            table_plain: reader.u32()?,
            frames: reader.u32()?,
        };
        if reader.array::<4>()? != [0; 4] || reader.array::<8>()? != FOOTER_MAGIC {
            return Err(BadBytes("its last bytes are no footer"));
        }
        reader.end()?;
        Ok(footer)
    }
}
