//! Reading the control file of a server that may be writing it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use refloat_types::{Advice, Explain};

use super::{ControlFile, ControlFileError};

/// Why a control file could not be read from disk.
#[derive(Debug, thiserror::Error)]
pub enum ReadControlError {
    /// The file could not be read.
    #[error("could not read the control file {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was read and is none.
    #[error("could not understand the control file {}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ControlFileError,
    },
}

impl Explain for ReadControlError {
    fn advice(&self) -> Advice {
        match self {
            Self::Content { source, .. } => source.advice(),
            Self::Io { source, .. } => {
                let advice = Advice::failed("FILE-004", "nothing was changed");
                match source.kind() {
                    io::ErrorKind::NotFound => advice.hint(
                        "This is no data directory of PostgreSQL, or a restore into it was never finished.",
                    ),
                    io::ErrorKind::PermissionDenied => {
                        advice.hint("Run refloat as the user that owns the data directory.")
                    }
                    _ => advice.hint("Look at the kernel's log for errors of this disk."),
                }
            }
        }
    }
}

/// Tries before a CRC that does not hold is believed, and the pause between them: half a second together.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// Reads `global/pg_control` below `data_directory` and returns it with its bytes. A running server may rewrite it at
/// any moment, and Linux does not promise that a reader sees a write whole: a CRC that does not hold is tried again.
///
/// # Errors
/// When the file cannot be read, or its CRC does not hold for half a second.
pub fn read_settled(data_directory: &Path) -> Result<(ControlFile, Vec<u8>), ReadControlError> {
    let path = data_directory.join("global/pg_control");
    let mut tries = 0;
    loop {
        tries += 1;
        let bytes =
            std::fs::read(&path).map_err(|source| ReadControlError::Io { path: path.clone(), source })?;
        match ControlFile::parse(&bytes) {
            Ok(control) => return Ok((control, bytes)),
            Err(ControlFileError::Crc { .. } | ControlFileError::Short { .. }) if tries < TRIES => {
                std::thread::sleep(PAUSE);
            }
            Err(source) => return Err(ReadControlError::Content { path, source }),
        }
    }
}
