//! What can go wrong when looking at a server on this host.

use std::io;
use std::path::PathBuf;

use refloat_types::{Advice, Explain};

/// A server, its directory or its programs could not be found or read.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no `PG_VERSION`.
    #[error("{} is not a PostgreSQL data directory: it has no PG_VERSION", path.display())]
    NoDataDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("could not read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `PG_VERSION` holds no version.
    #[error("{} holds \"{text}\", which is no PostgreSQL version", path.display())]
    BadVersion {
        /// The file.
        path: PathBuf,
        /// Its beginning.
        text: String,
    },
    /// `postmaster.pid` makes no sense.
    #[error("could not understand {}: {why}", path.display())]
    BadPidFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No server runs in the directory.
    #[error("no server runs in {}", path.display())]
    NotRunning {
        /// The directory.
        path: PathBuf,
    },
    /// The programs of a version are not installed.
    #[error("could not find the programs of PostgreSQL {version} (looked in {})", looked_in.join(", "))]
    NoBinaries {
        /// Major version.
        version: u32,
        /// Directories without them.
        looked_in: Vec<String>,
    },
}

impl Explain for ServerError {
    fn advice(&self) -> Advice {
        const SAFE: &str = "nothing was changed";
        match self {
            Self::NoDataDirectory { .. } => Advice::usage("SRV-001", SAFE)
                .hint("Give the directory that holds PG_VERSION: SHOW data_directory; prints it."),
            Self::Unreadable { .. } => Advice::failed("SRV-002", SAFE)
                .hint("Run Refloat as the owner of the data directory, or as root."),
            Self::BadVersion { .. } => {
                Advice::failed("SRV-003", SAFE).hint("The data directory is damaged, or it is none.")
            }
            Self::BadPidFile { .. } => Advice::failed("SRV-004", SAFE)
                .hint("The server may be starting: try again. If no server runs, remove the file."),
            Self::NotRunning { .. } => {
                Advice::unreachable("SRV-005", SAFE).hint("Start the server, then try again.")
            }
            Self::NoBinaries { .. } => Advice::failed("SRV-006", SAFE)
                .hint("Install the server package of this version, or configure where its programs are."),
        }
    }
}
