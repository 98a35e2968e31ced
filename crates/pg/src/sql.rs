//! Talking SQL to a server: sessions, the backup mode, WAL switches, and the facts recorded with every backup.
//!
//! The interface is blocking: each [`Session`] owns a small single-threaded runtime. Everything goes through the simple
//! query protocol and comes back as text, so that one code path serves every major version. Nothing here changes data;
//! the only traces are a backup in progress (ended by PostgreSQL itself when the session ends, however it ends), a
//! temporary replication slot (likewise) and one logical message in the WAL per [`Session::switch_wal`]. Only
//! [`Session::promote`] changes what the server does.

mod backup_mode;
mod config_files;
mod error;
mod facts;
mod host;
mod options;
mod recovery;
mod redact;
mod relations;
mod rights;
mod session;
mod settings;
mod wal;

pub use backup_mode::{BackupMode, BackupStart, Ping, Reservation, StartPoint, StopPoint};
pub use config_files::{ConfigFile, ConfigFileKind};
pub use error::{Cause, SqlError};
pub use facts::{
    CollationFact, DatabaseChanges, DatabaseContents, DatabaseFact, ExtensionFact, Facts, MembershipFact,
    RoleFact, ServerFacts, TablespaceFact,
};
pub use host::HostFacts;
pub use options::{ConnectOptions, Password, Place, SslMode};
pub use recovery::{ReplayState, StandbyPosition};
pub use redact::redact;
pub use relations::{ListedDatabase, RelationFact, Unlisted};
pub use session::{ServerInfo, Session};
pub use settings::Setting;
pub use wal::{ArchiverStatus, SwitchedWal};
