//! Where objects are kept.
//!
//! A store is flat: keys and bytes. Objects are created once and never changed; deleting is the only other operation.
//! [`Store`] is the contract, [`posix`] keeps objects in a directory, [`object`] in a bucket,
//! [`sftp`] on a host behind SSH, [`webdav`] on a WebDAV server, [`dropbox`] and [`gdrive`] in a folder of such an
//! account, [`wrap`] adds deadlines and retries, and
//! [`mod@confirm`] puts an object and asks whether it is there.
//! The trait is synchronous on purpose: the data plane runs on threads, and a process that archives one WAL segment
//! should start no runtime. A network store drives its own runtime inside.

pub mod cold;
pub mod confirm;
pub mod dropbox;
pub mod error;
pub mod gdrive;
pub mod key;
pub mod object;
pub mod open;
pub mod posix;
pub mod probe;
pub mod protect;
mod rest;
pub mod settings;
pub mod sftp;
pub mod store;
pub mod webdav;
pub mod wrap;

pub use cold::{Readiness, is_cold_class};
pub use confirm::{Assurance, Confirmed, confirm, put_confirmed};
pub use dropbox::DropboxStore;
pub use error::{StoreError, StoreErrorKind};
pub use gdrive::GdriveStore;
pub use key::{BadKey, Key};
pub use object::ObjectStore;
pub use object::transport::CERTIFICATE_VARIABLES;
pub use open::{OpenError, file_path, open, open_url};
pub use posix::{Options, PosixStore};
pub use probe::{Abilities, Conditional, probe};
pub use protect::{BucketSettings, DefaultLock, Immutability, Known, LifecycleRule, LockMode, Version};
pub use settings::{
    Credentials, FetchKeys, Keys, Patience, Secret, ServerSideEncryption, StorageClass, StoreSettings, Style,
};
pub use sftp::SftpStore;
pub use store::{Features, MOST_SMALL, ObjectInfo, ObjectWriter, Space, Store, read_whole};
pub use webdav::WebdavStore;
pub use wrap::{Around, Backoff, Breaker, Deadline, Limit, Limits, Retry, resilient};
