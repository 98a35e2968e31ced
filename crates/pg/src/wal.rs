//! WAL as PostgreSQL writes it: page headers, records, and what one pass over a WAL segment tells.
//!
//! [`SegmentInspector`] is fed the bytes of one WAL segment, in chunks of any size, and either refuses it with a
//! [`SegmentFault`] or ends with an [`Inspection`]: whose it is, which of its bytes mean something, and the
//! [`WalFacts`] that go into the archived object's header. Memory stays below 1 MiB whatever the size of the WAL
//! segment or of a record in it.
//!
//! Nothing here writes anything; a crash leaves nothing.

pub mod backup_history;
pub mod facts;
pub mod fault;
pub mod inspect;
pub mod page;
pub mod record;
pub mod tablespace;
pub mod version;
pub mod xact;

mod collect;
mod cursor;
mod walk;
mod xlog;

pub use backup_history::{BackupHistory, BackupHistoryFault};
pub use facts::{CheckpointFact, RestorePoint, TimelineSwitch, WalFacts, WalLevelChange};
pub use fault::{RecordFault, SegmentFault};
pub use inspect::{InspectOptions, Inspection, SegmentInspector, inspect_slice};
pub use record::{BlockRef, MalformedRecord, Record, RecordHeader, RecordParts, RecordVisitor};
pub use version::WalVersion;
