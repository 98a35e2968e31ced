//! WAL records: their header, the blocks they refer to, their data.
//!
//! A record: header (24 bytes), a header for each block reference, the header of the main data, then block images and
//! block data in the same order, and the main data last. [`Record::parts`] takes it apart; [`RecordVisitor`] sees every
//! record that an inspection finds whole.
//!
//! PostgreSQL: `src/include/access/xlogrecord.h`, `DecodeXLogRecord` in `src/backend/access/transam/xlogreader.c`.

use refloat_types::Lsn;

use super::cursor::Cursor;
use super::version::WalVersion;

/// Bytes of a record's header.
pub const RECORD_HEADER: usize = 24;
/// Bytes of the header that its CRC covers: all before the CRC itself.
pub(crate) const CRC_OFFSET: usize = 20;
/// The longest record: what PostgreSQL can allocate at once. Since 16 it writes none above 1020 MiB.
pub(crate) const MAX_RECORD: u32 = 0x3FFF_FFFF;
/// Bytes from the beginning of a record that hold all its block references: 33 of up to 27 bytes, and what surrounds
/// them.
pub const BLOCK_REFERENCES: usize = 1024;

/// Numbers of built-in resource managers.
pub mod manager {
    /// Checkpoints, restore points, settings, WAL switches.
    pub const XLOG: u8 = 0;
    /// Commits and aborts.
    pub const XACT: u8 = 1;
    /// Making and removing tablespaces.
    pub const TABLESPACE: u8 = 5;
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Bytes of the whole record, this header included, without padding.
    pub total: u32,
    /// The transaction it belongs to; 0 for none.
    pub xid: u32,
    /// Where the record before begins.
    pub previous: Lsn,
    /// The resource manager's operation in the upper half, general flags in the lower.
    pub info: u8,
    /// The resource manager.
    pub manager: u8,
    /// CRC-32C of the data, then of the first 20 bytes of the header.
    pub crc: u32,
}

impl RecordHeader {
    /// Reads a header. Nothing is checked.
    pub fn parse(bytes: &[u8; RECORD_HEADER]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self {
            total: word(0),
            xid: word(4),
            previous: Lsn(u64::from(word(12)) << 32 | u64::from(word(8))),
            info: bytes[16],
            manager: bytes[17],
            crc: word(20),
        }
    }
    /// The resource manager's operation: the upper half of `info`.
    pub const fn operation(&self) -> u8 {
        self.info & 0xF0
    }
    /// Does the rest of the WAL segment after this record mean nothing?
    pub const fn is_switch(&self) -> bool {
        self.manager == manager::XLOG && self.operation() == super::xlog::SWITCH
    }
}

/// A block that a record changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockRef {
    /// Oid of the tablespace.
    pub tablespace: u32,
    /// Oid of the database, 0 for relations that all databases share.
    pub database: u32,
    /// Number of the relation's file.
    pub relation: u32,
    /// 0 main, 1 free space map, 2 visibility map, 3 init.
    pub fork: u8,
    /// Number of the block in the fork.
    pub block: u32,
    /// Does the record hold an image of the whole block?
    pub has_image: bool,
}

/// A record whose CRC held. What it holds may be cut, see [`Record::is_whole`].
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Where it begins.
    pub at: Lsn,
    /// Where the next record may begin: its end, padding included. Replay "up to" this record stops here.
    pub end: Lsn,
    /// Its header.
    pub header: RecordHeader,
    /// Who wrote it.
    pub version: WalVersion,
    /// The record from its header on, or as much of it as was kept.
    pub bytes: &'a [u8],
}

/// A record whose CRC holds and whose inside is not as this version of PostgreSQL has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a WAL record cannot be understood: {0}")]
pub struct MalformedRecord(pub &'static str);

/// What a record holds beside its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordParts<'a> {
    /// Replication origin.
    pub origin: Option<u16>,
    /// Top-level transaction of the subtransaction that wrote the record; with `wal_level = logical` only.
    pub top_level_xid: Option<u32>,
    /// The main data, or as much of it as was kept.
    pub main: &'a [u8],
    /// Bytes the main data has.
    pub main_length: usize,
}

const MAX_BLOCK_ID: u8 = 32;
const ID_MAIN_SHORT: u8 = 255;
const ID_MAIN_LONG: u8 = 254;
const ID_ORIGIN: u8 = 253;
const ID_TOP_LEVEL_XID: u8 = 252;

const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const SAME_RELATION: u8 = 0x80;
const IMAGE_HAS_HOLE: u8 = 0x01;

impl<'a> Record<'a> {
    /// Was the whole record kept?
    pub const fn is_whole(&self) -> bool {
        self.bytes.len() >= self.header.total as usize
    }

    /// Takes the record apart: calls `block` for each block reference and returns the rest.
    ///
    /// # Errors
    /// When the inside is not as PostgreSQL writes it, or so little was kept that block references are missing.
    pub fn parts(&self, mut block: impl FnMut(BlockRef)) -> Result<RecordParts<'a>, MalformedRecord> {
        const ENDS: MalformedRecord = MalformedRecord("it ends within its headers");
        let total = self.header.total as usize;
        let mut from = Cursor(self.bytes.get(RECORD_HEADER..).ok_or(ENDS)?);
        // Bytes that the headers seen so far say will follow all headers.
        let mut payload = 0_usize;
        let mut relation = None;
        let mut next_id = 0;
        let mut parts = RecordParts { origin: None, top_level_xid: None, main: &[], main_length: 0 };
        loop {
            let read = self.bytes.len() - from.0.len();
            let left = total.checked_sub(read).ok_or(ENDS)?;
            if left == payload {
                return Ok(parts);
            }
            if left < payload {
                return Err(MalformedRecord("its parts are longer than the whole"));
            }
            match from.u8().ok_or(ENDS)? {
                id @ (ID_MAIN_SHORT | ID_MAIN_LONG) => {
                    let length = if id == ID_MAIN_SHORT { from.u8().map(u32::from) } else { from.u32() };
                    parts.main_length = length.ok_or(ENDS)? as usize;
                    let headers = self.bytes.len() - from.0.len();
                    let start = total.checked_sub(parts.main_length);
                    // By convention the header of the main data is the last one.
                    let start = start.filter(|start| *start == headers.saturating_add(payload));
                    let start = start.ok_or(MalformedRecord("its parts are not as long as the whole"))?;
                    parts.main = self.bytes.get(start..).unwrap_or_default();
                    return Ok(parts);
                }
                ID_ORIGIN => parts.origin = Some(from.u16().ok_or(ENDS)?),
                ID_TOP_LEVEL_XID => parts.top_level_xid = Some(from.u32().ok_or(ENDS)?),
                id if id <= MAX_BLOCK_ID => {
                    if id < next_id {
                        return Err(MalformedRecord("its block references are out of order"));
                    }
                    next_id = id + 1;
                    let (reference, length) = self.block_header(&mut from, relation)?;
                    relation = Some((reference.tablespace, reference.database, reference.relation));
                    payload += length;
                    block(reference);
                }
                _ => return Err(MalformedRecord("it has a part of an unknown kind")),
            }
        }
    }

    /// Reads one block reference behind its id, and how many bytes it has behind all headers.
    fn block_header(
        &self,
        from: &mut Cursor<'_>,
        before: Option<(u32, u32, u32)>,
    ) -> Result<(BlockRef, usize), MalformedRecord> {
        const ENDS: MalformedRecord = MalformedRecord("it ends within a block reference");
        let flags = from.u8().ok_or(ENDS)?;
        let mut length = usize::from(from.u16().ok_or(ENDS)?);
        if flags & HAS_IMAGE != 0 {
            length += usize::from(from.u16().ok_or(ENDS)?);
            let _hole_offset = from.u16().ok_or(ENDS)?;
            let image = from.u8().ok_or(ENDS)?;
            if image & self.version.compressed_image_bits() != 0 && image & IMAGE_HAS_HOLE != 0 {
                let _hole_length = from.u16().ok_or(ENDS)?;
            }
        }
        let (tablespace, database, relation) = if flags & SAME_RELATION == 0 {
            (from.u32().ok_or(ENDS)?, from.u32().ok_or(ENDS)?, from.u32().ok_or(ENDS)?)
        } else {
            before.ok_or(MalformedRecord("its first block reference repeats a relation"))?
        };
        let block = from.u32().ok_or(ENDS)?;
        let has_image = flags & HAS_IMAGE != 0;
        Ok((BlockRef { tablespace, database, relation, fork: flags & FORK_MASK, block, has_image }, length))
    }
}

/// Sees every whole record of a WAL segment, in order, each after its CRC was found to hold. A record that began in an
/// earlier WAL segment is not seen: its beginning, and so its CRC, is elsewhere.
pub trait RecordVisitor {
    /// How many bytes from the beginning of a record that spans pages this needs to see; records within a page are
    /// always shown whole, and 512 KiB is the most that is kept. All block references by default.
    fn keep(&self, header: &RecordHeader) -> usize {
        let _ = header;
        BLOCK_REFERENCES
    }
    /// Sees one record.
    fn record(&mut self, record: &Record<'_>);
}

/// Looks at nothing.
impl RecordVisitor for () {
    fn keep(&self, _: &RecordHeader) -> usize {
        0
    }
    #[inline]
    fn record(&mut self, _: &Record<'_>) {}
}
