//! The repository format. Bytes on disk live here; `docs/src/format` describes each of them.
//!
//! Lowest first: `binary` and `compress` know bytes, `crypt` keys, `object` what every object begins with, `pack`
//! frames, `manifest` what a backup holds, `commit` and `wal_object` what becomes visible, `state` what a host keeps for
//! itself, `repository` ties them to a store.

pub mod binary;
pub mod commit;
pub mod compress;
pub mod crypt;
pub mod error;
pub mod kind;
pub mod layout;
pub mod manifest;
pub mod object;
pub mod pack;
pub mod repository;
pub mod state;
pub mod wal_object;

pub use compress::Compression;
pub use error::{KeyError, RepoError};
pub use repository::Repository;
pub use state::StateDirectory;
