//! `postmaster.pid`: what the server writes about itself into its data directory.
//!
//! PostgreSQL: `pidfile.h`, `miscinit.c`. Lines are added while the server starts, so any but the first two may be missing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::ServerError;

/// What the server is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostmasterStatus {
    /// It starts or recovers.
    Starting,
    /// It stops.
    Stopping,
    /// It accepts connections.
    Ready,
    /// It recovers and accepts no connections (`hot_standby = off`).
    Standby,
}

/// The content of `postmaster.pid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostmasterPid {
    /// Process id of the postmaster, or of a standalone backend.
    pub pid: u32,
    /// Whether it is a standalone backend (`postgres --single`); the file has a negative number then.
    pub standalone: bool,
    /// The data directory, as the server calls it.
    pub data_directory: PathBuf,
    /// When it started, seconds since 1970.
    pub started: Option<i64>,
    /// Its port.
    pub port: Option<u16>,
    /// Directory of its first Unix socket.
    pub socket_directory: Option<PathBuf>,
    /// Its first listen address: `localhost`, `*`.
    pub listen_address: Option<String>,
    /// Key and id of its System V shared memory segment.
    pub shared_memory: Option<(u64, u64)>,
    /// What it is doing.
    pub status: Option<PostmasterStatus>,
}

/// Reads `postmaster.pid`; `None` when there is none.
///
/// # Errors
/// It cannot be read, or its first line is no process id (an empty file is one: a server is just writing it, or a crash
/// of the host cut it).
pub fn read_postmaster_pid(data_directory: &Path) -> Result<Option<PostmasterPid>, ServerError> {
    let path = data_directory.join("postmaster.pid");
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ServerError::Unreadable { path, source }),
    };
    let found = parse(&bytes);
    found
        .map(Some)
        .ok_or_else(|| ServerError::BadPidFile { path, why: "the first line is no process id".to_owned() })
}

fn parse(bytes: &[u8]) -> Option<PostmasterPid> {
    use std::os::unix::ffi::OsStrExt as _;
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let raw = |at: usize| lines.get(at).copied().filter(|line| !line.is_empty());
    let text = |at: usize| raw(at).and_then(|line| std::str::from_utf8(line).ok()).map(str::trim);
    let path = |at: usize| raw(at).map(|line| PathBuf::from(std::ffi::OsStr::from_bytes(line)));
    let number: i64 = text(0)?.parse().ok()?;
    let pid = u32::try_from(number.unsigned_abs()).ok().filter(|pid| *pid > 0)?;
    Some(PostmasterPid {
        pid,
        standalone: number < 0,
        data_directory: path(1).unwrap_or_default(),
        started: text(2).and_then(|line| line.parse().ok()),
        port: text(3).and_then(|line| line.parse().ok()).filter(|port| *port > 0),
        socket_directory: path(4),
        listen_address: text(5).map(str::to_owned).filter(|address| !address.is_empty()),
        shared_memory: text(6).and_then(|line| {
            let mut words = line.split_ascii_whitespace().map(str::parse);
            Some((words.next()?.ok()?, words.next()?.ok()?))
        }),
        status: text(7).and_then(|line| match line {
            "starting" => Some(PostmasterStatus::Starting),
            "stopping" => Some(PostmasterStatus::Stopping),
            "ready" => Some(PostmasterStatus::Ready),
            "standby" => Some(PostmasterStatus::Standby),
            _ => None,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_understood_and_may_be_missing() {
        let whole = b"4711\n/data\n1700000000\n5433\n/run/pg\nlocalhost\n  5433001     65536\nready   \n";
        let found = parse(whole).expect("whole");
        assert_eq!((found.pid, found.standalone, found.port), (4711, false, Some(5433)));
        assert_eq!(found.socket_directory, Some("/run/pg".into()));
        assert_eq!(found.listen_address.as_deref(), Some("localhost"));
        assert_eq!(
            (found.shared_memory, found.status),
            (Some((5_433_001, 65_536)), Some(PostmasterStatus::Ready))
        );
        let single = parse(b"-12\n/data\n").expect("a standalone backend");
        assert_eq!((single.pid, single.standalone, single.status), (12, true, None));
        let no_socket = parse(b"1\n/d\n1\n5432\n\n*\n").expect("TCP only");
        assert_eq!((no_socket.socket_directory, no_socket.listen_address.as_deref()), (None, Some("*")));
        for bad in [&b""[..], b"\n", b"x\n", b"0\n", b"99999999999999999999\n", b"\xff\xfe"] {
            assert_eq!(parse(bad), None);
        }
    }
}
