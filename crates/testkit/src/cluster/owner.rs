//! Whom test servers run as: `postgres` when the test runs as root (PostgreSQL refuses root), oneself otherwise; and
//! commands and directories for that user.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc;

use rustix::process::Signal;

/// The user that servers, their directories and their tools belong to.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Name in the password file.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    switch: bool,
}

impl Owner {
    /// `postgres` when this process is root, this process's user otherwise.
    ///
    /// # Panics
    /// When root and there is no user `postgres`.
    pub fn current() -> Self {
        let me = nix::unistd::geteuid();
        if me.is_root() {
            let user = nix::unistd::User::from_name("postgres").ok().flatten();
            let user = user.expect("tests that run as root need a user \"postgres\" to run servers as");
            return Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), switch: true };
        }
        let name =
            nix::unistd::User::from_uid(me).ok().flatten().map_or_else(|| me.to_string(), |user| user.name);
        Self { name, uid: me.as_raw(), gid: nix::unistd::getegid().as_raw(), switch: false }
    }

    /// A command that runs as this user, in a directory it may enter, with an environment of nothing at all.
    pub fn bare_command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir("/");
        if self.switch {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// [`Owner::bare_command`] with the few variables tools want: `PATH`, `LC_ALL=C`, UTF-8 from `psql`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.bare_command(program);
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("PGCLIENTENCODING", "UTF8");
        command
    }

    /// A new temporary directory of this user, with a path short enough for a socket below it (107 bytes).
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn temp_dir(&self) -> tempfile::TempDir {
        let mut base = std::env::temp_dir();
        if base.as_os_str().len() > 40 {
            base = "/tmp".into();
        }
        let dir = tempfile::Builder::new()
            .prefix("rf-")
            .tempdir_in(base)
            .expect("a temporary directory can be made");
        self.give(dir.path());
        dir
    }

    /// Makes a directory of this user, mode 0700, with its parents.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn make_dir(&self, path: &Path) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::create_dir_all(path).expect("a directory can be made");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).expect("own directory");
        self.give(path);
    }

    /// Gives one file or directory to this user.
    ///
    /// # Panics
    /// When root may not.
    pub fn give(&self, path: &Path) {
        if self.switch {
            std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)).expect("root can give files away");
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Spawns a child that gets `signal` when this process dies, however it dies. The kernel sends it when the *thread* that
/// spawned the child ends, so one thread that lives as long as the process spawns them all.
///
/// # Panics
/// When the program cannot be started.
pub(crate) fn spawn_tied(mut command: Command, signal: Signal) -> Child {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || jobs.into_iter().for_each(|job| job()))
            .expect("a thread can be started");
        sender
    });
    // SAFETY: the closure makes one prctl system call; it allocates nothing and takes no lock. It runs after the change
    // of user, which would clear the signal again.
    #[expect(unsafe_code, reason = "PR_SET_PDEATHSIG can only be set by the child itself")]
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(signal)).map_err(std::io::Error::from)
        });
    }
    let (answer, child) = mpsc::channel();
    let job: Job = Box::new(move || {
        let spawned = command.spawn();
        let _ = answer.send((spawned, format!("{command:?}")));
    });
    spawner.send(job).expect("the spawner lives as long as the process");
    let (child, what) = child.recv().expect("the spawner answers");
    child.unwrap_or_else(|error| panic!("could not start {what}: {error}"))
}
