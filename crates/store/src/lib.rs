//! Where objects are kept.
//!
//! A store is flat: keys and bytes. Objects are created once and never changed; deleting is the only other operation.
//! [`Store`] is the contract, [`posix`] keeps objects in a directory, [`wrap`] adds deadlines and retries, and
//! [`mod@confirm`] puts an object and asks whether it is there.
//! The trait is synchronous on purpose: the data plane runs on threads, and a process that archives one WAL segment
//! should start no runtime. A network store drives its own runtime inside.

pub mod confirm;
pub mod error;
pub mod key;
pub mod posix;
pub mod store;
pub mod url;
pub mod wrap;

pub use confirm::{Assurance, Confirmed, confirm, put_confirmed};
pub use error::{StoreError, StoreErrorKind};
pub use key::{BadKey, Key};
pub use posix::{Options, PosixStore};
pub use store::{Features, ObjectInfo, ObjectWriter, Space, Store, read_whole};
pub use url::{OpenError, file_path, open_url};
pub use wrap::{Backoff, Deadline, Limits, Retry};
