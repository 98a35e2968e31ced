//! The words every crate shares: positions in the WAL, names, ids, sizes, times, and what an error owes its reader.
//!
//! Nothing here does I/O or knows of async. Everything is parsed once, at the border; holding a value proves it valid.

pub mod advice;
pub mod clock;
pub mod fault;
pub mod hex;
pub mod id;
pub mod location;
pub mod lsn;
pub mod name;
pub mod size;
pub mod wal_name;

pub use advice::{Advice, Explain, Severity};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use id::{BackupId, ObjectId, SourceId};
pub use location::{BadLocation, Location, Scheme};
pub use lsn::{Lsn, SystemIdentifier, TimelineId};
pub use name::{BadName, RepositoryName, SourceName};
pub use size::{Age, ByteSize, Wait};
pub use wal_name::{WalFileName, WalSegmentName, WalSegmentSize};
