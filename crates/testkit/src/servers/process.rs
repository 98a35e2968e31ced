//! The process of a store's server: started and waited for, killed, started again.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;

use crate::cluster::owner::spawn_tied;
use crate::cluster::{Owner, free_port, wait_until};

/// How long a start may take. Python needs seconds to load a server on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

type Start = Box<dyn Fn(&Owner, &Path, u16) -> Command + Send + Sync>;
type Ready = fn(u16) -> bool;

/// A running server. Dropped: it is killed and its directory removed.
pub struct ServerProcess {
    name: &'static str,
    owner: Owner,
    home: tempfile::TempDir,
    port: u16,
    start: Start,
    ready: Ready,
    child: Mutex<Option<Child>>,
}

impl fmt::Debug for ServerProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerProcess")
            .field("name", &self.name)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl ServerProcess {
    /// Starts what `start` makes of the owner, a new directory and a free port; answers when `ready` holds for the port.
    ///
    /// # Panics
    /// When the server does not start, with its log.
    pub(super) fn begin(
        name: &'static str,
        prepare: impl FnOnce(&Owner, &Path),
        start: impl Fn(&Owner, &Path, u16) -> Command + Send + Sync + 'static,
        ready: Ready,
    ) -> Self {
        let owner = Owner::current();
        let home = owner.temp_dir();
        prepare(&owner, home.path());
        let child = Mutex::new(None);
        let mut server = Self { name, owner, home, port: 0, start: Box::new(start), ready, child };
        // Between choosing a port and listening on it somebody else may take it: then another is tried.
        let mut attempts = 0;
        loop {
            server.port = free_port();
            attempts += 1;
            match server.launch() {
                Ok(()) => return server,
                Err(log) => assert!(attempts < 3, "{name} did not start:\n{log}"),
            }
        }
    }

    fn launch(&self) -> Result<(), String> {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("own directory");
        let mut command = (self.start)(&self.owner, self.home.path(), self.port);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor is free")).stderr(log);
        command.current_dir(self.home.path());
        *self.child() = Some(spawn_tied(command, Signal::KILL));
        let up = wait_until(PATIENCE, || (self.ready)(self.port) || !self.is_running());
        if up && self.is_running() {
            return Ok(());
        }
        self.kill();
        Err(self.log())
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_file(&self) -> PathBuf {
        self.home.path().join("server.log")
    }

    /// Whether it lives.
    pub fn is_running(&self) -> bool {
        self.child().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The port on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its directory.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Whom it runs as.
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }

    /// All it has said.
    pub fn log(&self) -> String {
        fs::read(self.log_file()).map(|all| String::from_utf8_lossy(&all).into_owned()).unwrap_or_default()
    }

    /// Kills it and waits for its end.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Kills it if it lives and starts it on the same port.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn restart(&self) {
        self.kill();
        if let Err(log) = self.launch() {
            panic!("{} did not start again:\n{log}", self.name);
        }
    }
}

impl Drop for ServerProcess {
    #[expect(clippy::print_stderr, reason = "tests only: the log of a failed test's server")]
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n");
            eprintln!("---- log of {} on port {} ----\n{tail}\n----", self.name, self.port);
        }
    }
}

/// Ready when it accepts a connection.
pub(super) fn accepts(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Ready when it answers an HTTP request, whatever it says.
pub(super) fn answers_http(port: u16) -> bool {
    accepts(port) && crate::http::request(port, "GET", "/", &[], b"").is_ok()
}
