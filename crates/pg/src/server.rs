//! The server on this host: where its programs are, whether it runs in a data directory, and how it is started.

mod binaries;
mod debian;
mod error;
mod postmaster;
mod running;
mod start;

pub use binaries::{Binaries, find_binaries};
pub use debian::{DebianCluster, debian_cluster};
pub use error::ServerError;
pub use postmaster::{PostmasterPid, PostmasterStatus, read_postmaster_pid};
pub use running::{ServerState, listening, postmaster_pid, server_state};
pub use start::{Surroundings, start_commands};

use std::path::Path;

/// Major version of the cluster in a data directory, from its `PG_VERSION`.
///
/// # Errors
/// The file is missing (it is no data directory), cannot be read, or holds something else.
pub fn read_pg_version(data_directory: &Path) -> Result<u32, ServerError> {
    let path = data_directory.join("PG_VERSION");
    let text = std::fs::read_to_string(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ServerError::NoDataDirectory { path: data_directory.to_owned() },
        _ => ServerError::Unreadable { path: path.clone(), source },
    })?;
    let number = text.trim().parse::<u32>().ok().filter(|number| (10..1000).contains(number));
    number.ok_or_else(|| ServerError::BadVersion { path, text: text.trim().chars().take(40).collect() })
}
