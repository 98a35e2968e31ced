//! Records that make a tablespace: replay links it to the directory that they name, whatever is in that.
//!
//! PostgreSQL: `tblspc_redo` and `create_tablespace_directories` in `src/backend/commands/tablespace.c`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::record::{Record, manager};

const CREATE: u8 = 0x00;

/// Whether a record of this resource manager and operation makes a tablespace.
pub const fn is_made(manager: u8, info: u8) -> bool {
    manager == manager::TABLESPACE && info & 0xF0 == CREATE
}

/// The directory of the tablespace that a record makes; `None` also for one inside of the data directory.
pub fn directory(record: &Record<'_>) -> Option<PathBuf> {
    if !is_made(record.header.manager, record.header.info) {
        return None;
    }
    // Its oid, then the path up to a zero byte.
    let main = record.parts(|_| ()).ok()?.main;
    let path = main.get(4..)?.split(|byte| *byte == 0).next().filter(|path| !path.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(path)))
}
