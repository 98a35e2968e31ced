//! Records that matter for where recovery stops, and for what it may touch: ends of transactions, restore points, prepared
//! transactions, tablespaces.
//!
//! PostgreSQL: `recoveryStopsBefore` and `recoveryStopsAfter` in `src/backend/access/transam/xlogrecovery.c`.

use std::path::PathBuf;

use refloat_pg::wal::record::manager;
use refloat_pg::wal::{Record, RecordHeader, RecordVisitor, tablespace, xact};
use refloat_types::{Lsn, Timestamp};

/// A record that matters for a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where the record begins.
    pub at: Lsn,
    /// Where it ends.
    pub end: Lsn,
    /// The time it carries.
    pub time: Option<Timestamp>,
    /// What it is.
    pub what: What,
}

/// What a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A transaction ended, one way or the other.
    TransactionEnd {
        /// Which.
        xid: u32,
    },
    /// A transaction was prepared for two-phase commit. Recovery does not stop at it, and must not stop before it where
    /// its client was told that it is safe.
    Prepare {
        /// Which.
        xid: u32,
    },
    /// A named restore point.
    RestorePoint {
        /// Its name.
        name: String,
    },
    /// A tablespace outside of the data directory is made.
    Tablespace {
        /// Its directory.
        path: PathBuf,
    },
}

impl Event {
    /// Whether a transaction ended.
    pub const fn is_transaction_end(&self) -> bool {
        matches!(self.what, What::TransactionEnd { .. })
    }
    /// Whether a transaction ended or was prepared: whether it changes what somebody was promised.
    pub const fn is_promise(&self) -> bool {
        matches!(self.what, What::TransactionEnd { .. } | What::Prepare { .. })
    }
    /// Whether the transaction with this id ended.
    pub fn ends(&self, id: u32) -> bool {
        matches!(self.what, What::TransactionEnd { xid } if xid == id)
    }
    /// Whether it is a restore point of this name.
    pub fn is_named(&self, wanted: &str) -> bool {
        matches!(&self.what, What::RestorePoint { name } if name == wanted)
    }
}

const RESTORE_POINT: u8 = 0x70;

/// Whether a record of this resource manager and operation ends a transaction.
pub(super) const fn is_transaction_end(manager: u8, info: u8) -> bool {
    manager == manager::XACT && xact::ending(info).is_some()
}

/// Whether it prepares a transaction for two-phase commit.
const fn is_prepare(manager: u8, info: u8) -> bool {
    manager == manager::XACT && xact::prepares(info)
}

/// Whether it ends a transaction or prepares one.
pub(super) const fn is_promise(manager: u8, info: u8) -> bool {
    is_transaction_end(manager, info) || is_prepare(manager, info)
}

/// Whether it is a restore point.
pub(super) const fn is_restore_point(manager: u8, info: u8) -> bool {
    manager == manager::XLOG && info & 0xF0 == RESTORE_POINT
}

/// What a record is, if it matters.
pub(super) fn event(record: &Record<'_>) -> Option<Event> {
    let header = &record.header;
    if let Some(path) = tablespace::directory(record) {
        return Some(Event { at: record.at, end: record.end, time: None, what: What::Tablespace { path } });
    }
    let (is_prepare, is_point) =
        (is_prepare(header.manager, header.info), is_restore_point(header.manager, header.info));
    if !is_prepare && !is_point && !is_transaction_end(header.manager, header.info) {
        return None;
    }
    let main = record.parts(|_| ()).ok()?.main;
    // A restore point begins with its time too.
    let time = if is_prepare { xact::prepared_time(main) } else { xact::time(main) };
    let time = time.and_then(timestamp);
    let what = if is_point {
        let name = main.get(8..)?.split(|byte| *byte == 0).next()?;
        What::RestorePoint { name: String::from_utf8_lossy(name.get(..64).unwrap_or(name)).into_owned() }
    } else if is_prepare {
        What::Prepare { xid: header.xid }
    } else {
        let (ending, prepared) = xact::ending(header.info)?;
        let end =
            prepared.then(|| xact::parse(main, header.info, ending, record.version)).transpose().ok()?;
        What::TransactionEnd { xid: end.map_or(Some(header.xid), |end| end.prepared_xid)? }
    };
    Some(Event { at: record.at, end: record.end, time, what })
}

/// Microseconds since 2000-01-01.
fn timestamp(microseconds: i64) -> Option<Timestamp> {
    const EPOCH: i64 = 946_684_800_000_000;
    Timestamp::from_microsecond(microseconds.checked_add(EPOCH)?).ok()
}

/// Gathers events from the records of a WAL segment.
#[derive(Debug, Default)]
pub(super) struct Gather(pub(super) Vec<Event>);

impl RecordVisitor for Gather {
    fn keep(&self, header: &RecordHeader) -> usize {
        let wanted = is_promise(header.manager, header.info)
            || is_restore_point(header.manager, header.info)
            || tablespace::is_made(header.manager, header.info);
        if wanted { usize::MAX } else { 0 }
    }
    fn record(&mut self, record: &Record<'_>) {
        self.0.extend(event(record));
    }
}
