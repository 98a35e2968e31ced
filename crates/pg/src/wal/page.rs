//! Headers of WAL pages.
//!
//! A page is 8192 bytes. Its header: magic (2), flags (2), timeline (4), address (8), bytes that a record from the page
//! before still has (4), padding (4). The first page of a WAL segment goes on: system identifier (8), size of WAL
//! segments (4), size of WAL pages (4).
//!
//! PostgreSQL: `XLogPageHeaderData` and `XLogLongPageHeaderData` in `src/include/access/xlog_internal.h`.

use refloat_types::{Lsn, SystemIdentifier};

use super::cursor::Cursor;

/// Bytes of a WAL page. PostgreSQL can be built with others; such WAL is refused.
pub const PAGE: usize = 8192;
/// Bytes of the header of every page but the first.
pub const SHORT_HEADER: usize = 24;
/// Bytes of the header of the first page of a WAL segment.
pub const LONG_HEADER: usize = 40;

/// The page begins with the rest of a record of the page before.
pub const FIRST_IS_CONTRECORD: u16 = 0x0001;
/// The header is a long one.
pub const HAS_LONG_HEADER: u16 = 0x0002;
/// The record that should have gone on here was lost in a crash and never will.
pub const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
/// All flags there are; 0x0004 tells a compressing archiver that full-page images may go, and means nothing else.
pub const ALL_FLAGS: u16 = 0x000F;

/// The header of a WAL page. Its fields may be anything: nothing is checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// Tells the major version.
    pub magic: u16,
    /// The flags above.
    pub flags: u16,
    /// Timeline of the first record on the page.
    pub timeline: u32,
    /// Where the page belongs.
    pub address: Lsn,
    /// Bytes that a record from the page before still has, here and on pages after.
    pub remaining: u32,
}

impl PageHeader {
    /// Reads a header; `None` for fewer than 24 bytes.
    pub fn parse(page: &[u8]) -> Option<Self> {
        let mut from = Cursor(page.get(..SHORT_HEADER)?);
        Some(Self {
            magic: from.u16()?,
            flags: from.u16()?,
            timeline: from.u32()?,
            address: Lsn(from.u64()?),
            remaining: from.u32()?,
        })
    }
    /// Is this flag set?
    pub const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// What only the first page of a WAL segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    /// Whose WAL it is.
    pub system: SystemIdentifier,
    /// Bytes of a WAL segment.
    pub segment_size: u32,
    /// Bytes of a WAL page.
    pub page_size: u32,
}

impl LongHeader {
    /// Reads what follows the short header; `None` for fewer than 40 bytes.
    pub fn parse(page: &[u8]) -> Option<Self> {
        let mut from = Cursor(page.get(SHORT_HEADER..LONG_HEADER)?);
        Some(Self {
            system: SystemIdentifier(from.u64()?),
            segment_size: from.u32()?,
            page_size: from.u32()?,
        })
    }
}

/// Are all bytes zero? Looks at 256 at a time.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (steps, rest) = bytes.as_chunks::<256>();
    let none = |part: &[u8]| part.iter().fold(0, |all, byte| all | byte) == 0;
    steps.iter().all(|step| none(step)) && none(rest)
}
