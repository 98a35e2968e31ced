//! One TOML file: load, check, secrets, where each value came from, schema.
//!
//! [`Config::load`] reads `refloat.toml` and `conf.d/*.toml` beside it, reports everything that is wrong with its place,
//! and gives a [`Config`] in which every value is checked. Secrets are named there and read by [`SecretRef::read`] when
//! they are first needed. Nothing here reads the environment, a clock or a terminal, and nothing writes.
//!
//! Modules, lowest first: `place`, `error`, `node` (the tree), `rights`, `document` (the files), `setting` (one setting),
//! [`secret`], [`values`] (types of settings), `options` (all settings), `show`, `check`, `config`, `schema`.

mod check;
mod config;
mod document;
mod error;
mod node;
mod options;
mod place;
mod rights;
mod schema;
pub mod secret;
mod setting;
mod show;
pub mod values;

pub use config::{Config, DEFAULT_FILE, RepositoryConfig, SourceConfig, StoreConfig, Warning, file_to_load};
pub use error::{ConfigError, Fault, Problem};
pub use place::{Origin, Place};
pub use schema::{reference, schema};
pub use secret::read::{Environment, SecretError, SecretFault, SecretReader};
pub use secret::{Secret, SecretRef, SecretSource};
pub use values::compression::Compression;
pub use values::connection::{Connection, conninfo_keys};
pub use values::credentials::{Credentials, WebIdentity};
pub use values::encryption::Encryption;
pub use values::retention::{Keep, Policy, Window};
pub use values::schedule::{Cron, Schedule, Zone};
pub use values::store::Sse;
pub use values::url::{BadUrl, RepositoryUrl};
pub use values::words::{BackupWal, Checkpoint, Kind, Mode, RunOn, Style, Wal};
