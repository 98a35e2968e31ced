//! Commit and abort records.
//!
//! Main data: time (8 bytes); with the info bit 0x80 a word of flags, and for each flag set, in this order: database
//! and tablespace, subtransactions, dropped relations, dropped statistics (since 15), invalidations (commits only), the
//! id of the prepared transaction, its name, the replication origin.
//!
//! PostgreSQL: `src/include/access/xact.h`, `ParseCommitRecord` and `ParseAbortRecord` in
//! `src/backend/access/rmgrdesc/xactdesc.c`.

use super::cursor::Cursor;
use super::record::MalformedRecord;
use super::version::WalVersion;

const OPERATION_MASK: u8 = 0x70;
const COMMIT: u8 = 0x00;
const ABORT: u8 = 0x20;
const COMMIT_PREPARED: u8 = 0x30;
const ABORT_PREPARED: u8 = 0x40;
const PREPARE: u8 = 0x10;
const HAS_INFO: u8 = 0x80;

/// Where the header of a prepared transaction has its time: `prepared_at` of `xl_xact_prepare`.
const PREPARED_AT: usize = 16;

const HAS_DATABASE: u32 = 1 << 0;
const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
const HAS_RELATIONS: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;
const HAS_DROPPED_STATS: u32 = 1 << 8;

/// Bytes of a shared invalidation message.
const INVALIDATION: usize = 16;

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By a commit.
    Commit,
    /// By a rollback.
    Abort,
}

/// What this record of the transaction manager ends, if anything, and whether it was prepared before.
pub const fn ending(info: u8) -> Option<(Ending, bool)> {
    match info & OPERATION_MASK {
        COMMIT => Some((Ending::Commit, false)),
        ABORT => Some((Ending::Abort, false)),
        COMMIT_PREPARED => Some((Ending::Commit, true)),
        ABORT_PREPARED => Some((Ending::Abort, true)),
        _ => None,
    }
}

/// Whether this record of the transaction manager prepares a transaction for two-phase commit.
pub const fn prepares(info: u8) -> bool {
    info & OPERATION_MASK == PREPARE
}

/// What the main data of a commit or abort record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionEnd {
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub time: i64,
    /// The prepared transaction that ends here: the record itself carries another transaction's id, or none.
    pub prepared_xid: Option<u32>,
}

/// Reads the time of a prepared transaction.
pub fn prepared_time(main: &[u8]) -> Option<i64> {
    time(main.get(PREPARED_AT..)?)
}

/// Reads the time of a commit or abort record.
pub fn time(main: &[u8]) -> Option<i64> {
    Cursor(main).i64()
}

/// Reads the main data of a commit or abort record.
///
/// # Errors
/// It ends too early.
pub fn parse(
    main: &[u8],
    info: u8,
    ending: Ending,
    version: WalVersion,
) -> Result<TransactionEnd, MalformedRecord> {
    let mut from = Cursor(main);
    read(&mut from, info, ending, version).ok_or(MalformedRecord("a commit or abort record ends too early"))
}

fn read(from: &mut Cursor<'_>, info: u8, ending: Ending, version: WalVersion) -> Option<TransactionEnd> {
    let time = from.i64()?;
    let flags = if info & HAS_INFO != 0 { from.u32()? } else { 0 };
    if flags & HAS_TWO_PHASE == 0 {
        return Some(TransactionEnd { time, prepared_xid: None });
    }
    if flags & HAS_DATABASE != 0 {
        from.take(8)?;
    }
    if flags & HAS_SUBTRANSACTIONS != 0 {
        from.skip_list(4)?;
    }
    if flags & HAS_RELATIONS != 0 {
        from.skip_list(12)?;
    }
    if flags & HAS_DROPPED_STATS != 0 {
        from.skip_list(version.dropped_stats_item())?;
    }
    if ending == Ending::Commit && flags & HAS_INVALIDATIONS != 0 {
        from.skip_list(INVALIDATION)?;
    }
    Some(TransactionEnd { time, prepared_xid: Some(from.u32()?) })
}
