//! Whether a server runs in a data directory. A wrong "no" would let a restore write below a living server, so every
//! doubt counts as "yes".

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{PostmasterPid, ServerError, read_postmaster_pid};

/// What is known of the server of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerState {
    /// Nothing runs there. `stale`: what a crashed server left in `postmaster.pid`.
    NotRunning {
        /// The left-over file.
        stale: Option<PostmasterPid>,
    },
    /// A server runs there.
    Running(PostmasterPid),
    /// Something of a server is there, or may be: reason enough to keep away.
    Doubtful {
        /// What was seen: `process 12 of a server still works in this directory`.
        why: String,
    },
}

impl ServerState {
    /// Whether the directory must be left alone.
    pub const fn is_occupied(&self) -> bool {
        !matches!(self, Self::NotRunning { .. })
    }
}

/// Finds out whether a server, or what is left of one, works in `data_directory`.
///
/// Looked at, in this order: the process that `postmaster.pid` names (alive, no zombie, working in this directory); any
/// other process of a server that works in it (a removed pid file, backends that outlived their postmaster); processes
/// attached to its shared memory; somebody of another process namespace (a container) who answers on its socket. A pid
/// that now belongs to something else, elsewhere, is no server.
///
/// # Errors
/// The directory or its `postmaster.pid` cannot be read.
pub fn server_state(data_directory: &Path) -> Result<ServerState, ServerError> {
    let unreadable = |source| ServerError::Unreadable { path: data_directory.to_owned(), source };
    let directory = fs::metadata(data_directory).map_err(unreadable)?;
    let identity = (directory.dev(), directory.ino());
    let file = read_postmaster_pid(data_directory)?;
    if let Some(file) = &file {
        match place_of(file.pid) {
            Place::Directory(found) if found == identity => return Ok(ServerState::Running(file.clone())),
            Place::Hidden => {
                let why = format!(
                    "process {} of postmaster.pid is alive and its directory cannot be seen",
                    file.pid
                );
                return Ok(ServerState::Doubtful { why });
            }
            Place::Directory(_) | Place::Gone => {}
        }
    }
    if let Some(pid) = other_process(identity) {
        return Ok(ServerState::Doubtful {
            why: format!("process {pid} of a server still works in this directory"),
        });
    }
    let Some(file) = file else { return Ok(ServerState::NotRunning { stale: None }) };
    if let Some((key, id)) = file.shared_memory
        && let Some(attached) = shared_memory_users(key, id)
        && attached > 0
    {
        let why = format!("{attached} processes are attached to the shared memory of its server");
        return Ok(ServerState::Doubtful { why });
    }
    if answers_from_elsewhere(&file) {
        let why = "a process of another container answers on its socket".to_owned();
        return Ok(ServerState::Doubtful { why });
    }
    Ok(ServerState::NotRunning { stale: Some(file) })
}

/// Where the server of `data_directory` listens.
///
/// # Errors
/// None runs there, or the directory cannot be read.
pub fn listening(data_directory: &Path) -> Result<PostmasterPid, ServerError> {
    super::read_pg_version(data_directory)?;
    match server_state(data_directory)? {
        ServerState::Running(file) => Ok(file),
        // In doubt, whoever asks will find out by connecting.
        ServerState::Doubtful { .. } => read_postmaster_pid(data_directory)?
            .ok_or_else(|| ServerError::NotRunning { path: data_directory.to_owned() }),
        ServerState::NotRunning { .. } => Err(ServerError::NotRunning { path: data_directory.to_owned() }),
    }
}

/// The process of the server that runs in `data_directory`, when there is one for sure.
pub fn postmaster_pid(data_directory: &Path) -> Option<u32> {
    match server_state(data_directory) {
        Ok(ServerState::Running(file)) => Some(file.pid),
        _ => None,
    }
}

/// Where a process works.
enum Place {
    /// In this directory (device and inode).
    Directory((u64, u64)),
    /// It lives, and we may not see where.
    Hidden,
    /// There is no such process, or only what its parent has not collected yet.
    Gone,
}

fn place_of(pid: u32) -> Place {
    if is_gone(pid) {
        return Place::Gone;
    }
    match fs::metadata(format!("/proc/{pid}/cwd")) {
        Ok(directory) => Place::Directory((directory.dev(), directory.ino())),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Place::Hidden,
        // It ended between the two looks.
        Err(_) if is_gone(pid) => Place::Gone,
        Err(_) => Place::Hidden,
    }
}

/// `/proc/PID/stat` is `PID (name) STATE ...`; the name may hold anything, so the last parenthesis ends it.
fn is_gone(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => {
            let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
            matches!(state, Some('Z' | 'X'))
        }
        Err(error) => error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3),
    }
}

/// A process of a server that works in this directory.
fn other_process(identity: (u64, u64)) -> Option<u32> {
    let entries = fs::read_dir("/proc").ok()?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter().find(|pid| {
        is_server_program(*pid) && matches!(place_of(*pid), Place::Directory(found) if found == identity)
    })
}

/// By name, so that a shell whose user has changed to the data directory is not taken for a server.
fn is_server_program(pid: u32) -> bool {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let comm = comm.trim();
    ["postgres", "postmaster", "edb-postgres", "edb-postmaster"].iter().any(|name| comm.starts_with(name))
}

/// How many processes are attached to a System V shared memory segment; `None` when there is none of that key and id.
fn shared_memory_users(key: u64, id: u64) -> Option<u64> {
    let table = fs::read_to_string("/proc/sysvipc/shm").ok()?;
    let mut lines = table.lines();
    let header: Vec<_> = lines.next()?.split_ascii_whitespace().collect();
    let column = |name: &str| header.iter().position(|word| *word == name);
    let (key_at, id_at, users_at) = (column("key")?, column("shmid")?, column("nattch")?);
    lines.find_map(|line| {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        // The table prints the key as a signed number.
        let its_key = words.get(key_at)?.parse::<i64>().ok()?;
        let same = its_key as u32 == key as u32 && words.get(id_at)?.parse::<u64>().ok()? == id;
        if same { words.get(users_at)?.parse().ok() } else { None }
    })
}

/// Whether somebody whom this process namespace cannot show listens on the socket. A listener that it does show was
/// already asked where it works, so it is another cluster's server with the same port.
fn answers_from_elsewhere(file: &PostmasterPid) -> bool {
    let (Some(directory), Some(port)) = (&file.socket_directory, file.port) else { return false };
    let Ok(stream) = UnixStream::connect(directory.join(format!(".s.PGSQL.{port}"))) else { return false };
    // The kernel translates the listener's pid; for one of another namespace that is 0.
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else { return true };
    let _inside = runtime.enter();
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    let listener = tokio::net::UnixStream::from_std(stream).and_then(|stream| stream.peer_cred());
    !matches!(listener.map(|who| who.pid()), Ok(Some(1..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory_with(pid_file: Option<&str>) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        if let Some(text) = pid_file {
            fs::write(directory.path().join("postmaster.pid"), text).expect("written");
        }
        directory
    }

    #[test]
    fn without_a_pid_file_and_processes_nothing_runs() {
        let directory = directory_with(None);
        let state = server_state(directory.path()).expect("readable");
        assert_eq!(state, ServerState::NotRunning { stale: None });
    }

    #[test]
    fn a_pid_that_belongs_to_another_program_is_stale() {
        let directory = directory_with(Some(&format!("{}\n/data\n", std::process::id())));
        let state = server_state(directory.path()).expect("readable");
        assert!(matches!(state, ServerState::NotRunning { stale: Some(_) }), "{state:?}");
    }

    #[test]
    fn a_zombie_is_gone() {
        let mut child = std::process::Command::new("/bin/true").spawn().expect("started");
        let stat = format!("/proc/{}/stat", child.id());
        while !fs::read_to_string(&stat).expect("not reaped yet").contains(") Z ") {
            std::thread::yield_now();
        }
        assert!(matches!(place_of(child.id()), Place::Gone));
        child.wait().expect("reaped");
        assert!(matches!(place_of(child.id()), Place::Gone));
    }

    #[test]
    fn a_process_that_works_in_the_directory_occupies_it() {
        let directory = directory_with(None);
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("60")
            .current_dir(directory.path())
            .spawn()
            .expect("started");
        let identity =
            fs::metadata(directory.path()).map(|meta| (meta.dev(), meta.ino())).expect("it exists");
        assert!(matches!(place_of(child.id()), Place::Directory(found) if found == identity));
        assert_eq!(other_process(identity), None, "a sleeping shell is no server");
        fs::write(directory.path().join("postmaster.pid"), format!("{}\n", child.id())).expect("written");
        assert!(server_state(directory.path()).expect("readable").is_occupied());
        child.kill().expect("own child");
        child.wait().expect("reaped");
        assert!(!server_state(directory.path()).expect("readable").is_occupied());
    }

    #[test]
    fn a_cut_pid_file_is_an_error_and_not_a_no() {
        let directory = directory_with(Some(""));
        assert!(matches!(server_state(directory.path()), Err(ServerError::BadPidFile { .. })));
    }
}
