//! The stage of the demonstration: one temporary directory with a cluster, a configuration and a repository; everything is
//! stopped and removed when the play is over, however it ends.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use refloat_pg::server::{Binaries, find_binaries};

use super::Voice;
use crate::commands::init::keep_passphrase;
use crate::error::{CliError, Failure};
use crate::identity::{is_root, make_directory};

/// Versions that are looked for, the best tested first.
const VERSIONS: [u32; 6] = [15, 17, 18, 16, 14, 13];
/// Ports name the sockets only; nothing listens on a network.
const PORT: u16 = 5432;

/// The stage.
pub(super) struct Stage {
    directory: PathBuf,
    binaries: Binaries,
    user: Option<(u32, u32)>,
    servers: Arc<Mutex<Vec<PathBuf>>>,
    /// The program that runs now, so that it can be ended.
    current: Arc<Mutex<Option<u32>>>,
    stopped: Arc<AtomicBool>,
    verbose: bool,
}

/// A server of the demonstration.
pub(super) struct Server<'s> {
    stage: &'s Stage,
    sockets: PathBuf,
}

impl Stage {
    /// Finds PostgreSQL and makes the directory.
    pub(super) fn set(verbose: bool) -> Result<Self, Failure> {
        let binaries = find()?;
        let user = if is_root() { Some(postgres()?) } else { None };
        let unique = refloat_repo::crypt::random::backup_id();
        // A socket's path is short: /tmp whatever the directory for temporary files is.
        let directory = PathBuf::from(format!("/tmp/refloat-demo-{}-{unique}", std::process::id()));
        let owner = user
            .unwrap_or((crate::identity::Identity::current().uid, crate::identity::Identity::current().gid));
        let fail = |source| CliError::file("create", &directory, source);
        make_directory(&directory, 0o755, owner).map_err(fail)?;
        let stage = Self {
            directory,
            binaries,
            user,
            servers: Arc::default(),
            current: Arc::default(),
            stopped: Arc::default(),
            verbose,
        };
        stage.clear_on_signal();
        Ok(stage)
    }

    /// Version text of the server.
    pub(super) fn version(&self) -> &str {
        self.binaries.version_text.split(' ').next().unwrap_or_default()
    }
    /// The directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
    fn config(&self) -> PathBuf {
        self.directory.join("refloat.toml")
    }
    /// The program, where the server's user can run it.
    fn program(&self) -> PathBuf {
        self.directory.join("refloat")
    }

    /// A command as the stage's user, with next to no environment.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        command.current_dir(&self.directory).stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn output(&self, command: &mut Command) -> std::io::Result<Output> {
        let child = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            let child = command.spawn()?;
            *current = Some(child.id());
            child
        };
        let output = child.wait_with_output();
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if self.stopped.load(Ordering::SeqCst) {
            wait_for_the_end();
        }
        output
    }

    fn run(&self, command: &mut Command) -> Result<String, String> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        if self.verbose {
            crate::render::complain(&format!("{command:?}\n"));
        }
        let output = self.output(command).map_err(|error| format!("could not start {command:?}: {error}"))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let name =
            Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Err(format!("{name} ended with {}\n{stdout}{stderr}", output.status).trim_end().to_owned())
    }

    /// Makes the cluster and its configuration.
    pub(super) fn make_cluster(&self) -> Result<(), String> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |error: std::io::Error| format!("could not {what}: {error}")
        };
        let own = std::env::current_exe().map_err(io("find this program"))?;
        std::fs::copy(own, self.program()).map_err(io("copy this program"))?;
        std::fs::set_permissions(self.program(), PermissionsExt::from_mode(0o755))
            .map_err(io("copy this program"))?;
        let owner = self.user;
        for name in ["sockets", "copy-sockets"] {
            let path = self.directory.join(name);
            std::fs::create_dir(&path).map_err(io("make a directory"))?;
            if let Some((uid, gid)) = owner {
                std::os::unix::fs::chown(&path, Some(uid), Some(gid)).map_err(io("give a directory away"))?;
            }
        }
        let data = self.directory.join("data");
        let text = format!(
            "[repository.backup]\nurl = \"file://{0}/repository\"\nencryption = {{ passphrase = {{ file = \"{0}/passphrase\" }} }}\n\n\
             [source.prod]\nkind = \"postgres\"\ndata_directory = \"{0}/data\"\n",
            self.directory.display()
        );
        std::fs::write(self.config(), text).map_err(io("write the configuration"))?;
        // Nobody has to keep what is gone in a minute, and only what is there can be said to be kept.
        keep_passphrase(&self.directory.join("passphrase"), owner.unwrap_or((0, 0)))
            .map_err(io("keep a passphrase"))?;
        let mut initdb = self.command(self.binaries.path("initdb"));
        initdb.args(["-A", "trust", "-E", "UTF8", "--locale=C", "--data-checksums", "-N", "-D"]).arg(&data);
        self.run(&mut initdb)?;
        let settings = format!(
            "\nlisten_addresses = ''\nport = {PORT}\nunix_socket_directories = '{0}/sockets'\nshared_buffers = 64MB\n\
             max_wal_size = 1GB\nfsync = off\narchive_mode = on\n\
             archive_command = '{0}/refloat --config {0}/refloat.toml wal push %p'\narchive_timeout = 60\n",
            self.directory.display()
        );
        let conf = data.join("postgresql.conf");
        let mut text = std::fs::read_to_string(&conf).map_err(io("read postgresql.conf"))?;
        text.push_str(&settings);
        std::fs::write(&conf, text).map_err(io("write postgresql.conf"))
    }

    /// Starts the cluster's server.
    pub(super) fn start(&self) -> Result<Server<'_>, String> {
        // Nothing is pushed before `init`: the first segments wait.
        self.start_in(&self.directory.join("data"), &self.directory.join("sockets"))
    }

    /// Starts the restored copy and waits until it has reached its target.
    pub(super) fn start_copy(&self, data: &Path) -> Result<Server<'_>, String> {
        let server = self.start_in(data, &self.directory.join("copy-sockets"))?;
        let began = Instant::now();
        while server.value("select pg_is_in_recovery()")? != "f" {
            if began.elapsed() > Duration::from_secs(60) {
                return Err("the copy did not end its recovery within a minute".to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    fn start_in(&self, data: &Path, sockets: &Path) -> Result<Server<'_>, String> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).push(data.to_owned());
        let log =
            self.directory.join(format!("{}.log", data.file_name().unwrap_or_default().to_string_lossy()));
        let mut pg_ctl = self.command(self.binaries.path("pg_ctl"));
        let options = format!("-k {} -c listen_addresses=", sockets.display());
        pg_ctl.arg("-D").arg(data).arg("-l").arg(&log).args(["-w", "-s", "-o", &options, "start"]);
        // The server must not keep our pipes open.
        pg_ctl.stdout(Stdio::null()).stderr(Stdio::null());
        let ended = self.output(&mut pg_ctl).map_err(|error| format!("could not start pg_ctl: {error}"))?;
        if !ended.status.success() {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(8).collect();
            return Err(format!(
                "the server did not start:\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            ));
        }
        Ok(Server { stage: self, sockets: sockets.to_owned() })
    }

    /// Runs Refloat as a person would, and shows what was typed.
    pub(super) fn refloat(&self, voice: &Voice, arguments: &[&str]) -> Result<String, String> {
        let shown: Vec<String> = arguments.iter().map(|word| crate::render::text::shell(word)).collect();
        voice.typed(&format!("refloat {}", shown.join(" ")));
        let mut command = self.command(self.program());
        command.arg("--config").arg(self.config()).args(arguments);
        self.run(&mut command)
    }

    /// Bytes of the repository.
    pub(super) fn repository_bytes(&self) -> u64 {
        bytes(&self.directory.join("repository"))
    }

    /// Stops every server and removes everything.
    pub(super) fn clear(&self) {
        if self.stopped.load(Ordering::SeqCst) {
            wait_for_the_end();
        }
        clear(&self.directory, &self.binaries, self.user, &self.servers);
    }

    /// Ctrl-C and the like also clear the stage. The signals are blocked for this process and taken by a thread.
    fn clear_on_signal(&self) {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        if signals.thread_block().is_err() {
            return;
        }
        let (directory, binaries, user) = (self.directory.clone(), self.binaries.clone(), self.user);
        let (servers, current, stopped) =
            (Arc::clone(&self.servers), Arc::clone(&self.current), Arc::clone(&self.stopped));
        let waiter = std::thread::Builder::new().name("signals".to_owned());
        let started = waiter.spawn(move || {
            if signals.wait().is_ok() {
                stopped.store(true, Ordering::SeqCst);
                // Held until the end: no further program is started.
                let running = current.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(pid) = running.and_then(|pid| i32::try_from(pid).ok()) {
                    let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                clear(&directory, &binaries, user, &servers);
                crate::render::complain("\nstopped; nothing is left behind\n");
                std::process::exit(130);
            }
        });
        if let Err(error) = started {
            tracing::warn!(%error, "Ctrl-C will leave {} behind", self.directory.display());
        }
    }
}

/// The thread that took the signal clears the stage and ends the process.
fn wait_for_the_end() -> ! {
    loop {
        std::thread::park();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.clear();
    }
}

fn clear(directory: &Path, binaries: &Binaries, user: Option<(u32, u32)>, servers: &Mutex<Vec<PathBuf>>) {
    let running = std::mem::take(&mut *servers.lock().unwrap_or_else(PoisonError::into_inner));
    for data in running {
        let mut pg_ctl = Command::new(binaries.path("pg_ctl"));
        pg_ctl.env_clear().current_dir("/").arg("-D").arg(&data).args([
            "-m",
            "immediate",
            "-w",
            "-s",
            "stop",
        ]);
        if let Some((uid, gid)) = user {
            pg_ctl.uid(uid).gid(gid);
        }
        let _ = pg_ctl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
    // A server or archiver that is just writing may add a file while the directory is removed.
    for _ in 0..50 {
        if std::fs::remove_dir_all(directory).is_ok() || !directory.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Server<'_> {
    fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = self.stage.command(self.stage.binaries.path("psql"));
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-p"]).arg(PORT.to_string());
        psql.arg("-h").arg(&self.sockets).arg("-c").arg(sql);
        Ok(self.stage.run(&mut psql)?.trim().to_owned())
    }
    /// Runs SQL in the shop.
    pub(super) fn sql(&self, sql: &str) -> Result<(), String> {
        self.psql("shop", sql).map(drop)
    }
    /// Runs SQL in another database.
    pub(super) fn in_database(&self, database: &str, sql: &str) -> Result<(), String> {
        self.psql(database, sql).map(drop)
    }
    /// One value out of the shop.
    pub(super) fn value(&self, sql: &str) -> Result<String, String> {
        self.psql("shop", sql)
    }
    /// Lets the archiver try again at once: it pauses for a minute after failures, and nothing could be archived yet.
    pub(super) fn reload(&self) -> Result<(), String> {
        self.psql("postgres", "select pg_reload_conf()").map(drop)
    }
}

fn find() -> Result<Binaries, CliError> {
    let from_path = Command::new("/bin/sh").args(["-c", "command -v postgres"]).output().ok();
    let from_path = from_path.and_then(|output| {
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Binaries::in_directory(Path::new(&text).parent()?)
    });
    let installed = VERSIONS.iter().find_map(|version| find_binaries(*version, None, None).ok());
    let whole =
        |found: &Binaries| ["initdb", "pg_ctl", "psql"].iter().all(|program| found.path(program).exists());
    installed.filter(whole).or_else(|| from_path.filter(whole)).ok_or_else(|| {
        CliError::usage(
            "the programs of PostgreSQL (postgres, initdb, pg_ctl, psql) are not installed on this host",
            "Install them, such as: sudo apt-get install postgresql",
        )
    })
}

fn postgres() -> Result<(u32, u32), CliError> {
    crate::identity::Wanted::named("postgres", Path::new("/")).map(|user| user.ids()).map_err(|_| {
        CliError::usage(
            "PostgreSQL refuses to run as root, and there is no user \"postgres\"",
            "Run the demo as another user.",
        )
    })
}

fn bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
