//! Records of the WAL's own resource manager that tell something about the cluster.
//!
//! PostgreSQL: `src/include/catalog/pg_control.h` (operations, `CheckPoint`), `src/include/access/xlog_internal.h`.

use refloat_types::{Lsn, TimelineId};

use super::cursor::Cursor;

pub(crate) const CHECKPOINT_SHUTDOWN: u8 = 0x00;
pub(crate) const CHECKPOINT_ONLINE: u8 = 0x10;
pub(crate) const SWITCH: u8 = 0x40;
pub(crate) const PARAMETER_CHANGE: u8 = 0x60;
pub(crate) const RESTORE_POINT: u8 = 0x70;
pub(crate) const FPW_CHANGE: u8 = 0x80;
pub(crate) const END_OF_RECOVERY: u8 = 0x90;
pub(crate) const OVERWRITE_CONTRECORD: u8 = 0xD0;

/// The beginning of a checkpoint record: redo position (8), timeline (4), the one before (4), full_page_writes (1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) redo: Lsn,
    pub(crate) timeline: TimelineId,
    pub(crate) previous: TimelineId,
}

pub(crate) fn checkpoint(main: &[u8]) -> Option<Checkpoint> {
    let mut from = Cursor(main);
    let redo = Lsn(from.u64()?);
    Some(Checkpoint {
        redo,
        timeline: TimelineId::new(from.u32()?)?,
        previous: TimelineId::new(from.u32()?)?,
    })
}

/// End of recovery: time (8), timeline (4), the one before (4); since 17 `wal_level` (4).
pub(crate) fn end_of_recovery(main: &[u8]) -> Option<(i64, TimelineId, TimelineId)> {
    let mut from = Cursor(main);
    Some((from.i64()?, TimelineId::new(from.u32()?)?, TimelineId::new(from.u32()?)?))
}

/// Settings that standbys need: max_connections, max_worker_processes, max_wal_senders, max_prepared_transactions,
/// max_locks_per_transaction, then `wal_level`, which is returned.
pub(crate) fn parameter_change(main: &[u8]) -> Option<u32> {
    let mut from = Cursor(main);
    from.take(5 * 4)?;
    from.u32()
}

/// A restore point: time (8), name (64 bytes, ended by a zero).
pub(crate) fn restore_point(main: &[u8]) -> Option<(i64, String)> {
    let mut from = Cursor(main);
    let time = from.i64()?;
    let name = from.take(64.min(from.0.len()))?;
    let name = name.split(|byte| *byte == 0).next()?;
    Some((time, String::from_utf8_lossy(name).into_owned()))
}

/// Where the record began that a crash cut off.
pub(crate) fn overwritten(main: &[u8]) -> Option<Lsn> {
    Cursor(main).u64().map(Lsn)
}
