//! Real PostgreSQL servers for tests: each with its own directory and socket, as a user PostgreSQL accepts, gone when the
//! test ends however it ends.
//!
//! ```no_run
//! use refloat_testkit::cluster::{TestCluster, skip_without};
//! if skip_without(15) { return; }
//! let cluster = TestCluster::builder().version(15).checksums(true).setting("work_mem", "1MB").build();
//! assert_eq!(cluster.psql("postgres", "show work_mem;"), "1MB");
//! ```

mod binaries;
pub(crate) mod owner;
mod server;
mod template;
#[cfg(test)]
mod tests;
mod tools;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub use binaries::{available, bin_directory, cache_directory, skip_without};
pub use owner::Owner;
pub use server::StopMode;
pub use tools::Background;

/// A PostgreSQL cluster with its server. Dropped: the server is stopped at once and the directories are removed.
#[derive(Debug)]
pub struct TestCluster {
    version: u32,
    bin: PathBuf,
    owner: Owner,
    /// Socket directory, server log, and the data directory of a cluster made here.
    home: tempfile::TempDir,
    data: PathBuf,
    port: u16,
    command_line: Vec<(String, String)>,
    env: Vec<(String, String)>,
    postmaster: Option<Child>,
}

/// How to make a cluster, or how to start an existing directory.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    options: template::Options,
    settings: Vec<(String, String)>,
    env: Vec<(String, String)>,
    fresh: bool,
    port: u16,
    tcp: bool,
}

impl ClusterBuilder {
    /// Major version; 15 when not called.
    #[must_use]
    pub const fn version(mut self, version: u32) -> Self {
        self.options.version = version;
        self
    }
    /// Whether pages carry checksums; they do when not called.
    #[must_use]
    pub const fn checksums(mut self, on: bool) -> Self {
        self.options.checksums = on;
        self
    }
    /// Size of WAL segments; 16 when not called.
    #[must_use]
    pub const fn wal_segment_size_mb(mut self, size: u32) -> Self {
        self.options.wal_segment_size_mb = size;
        self
    }
    /// A line of `postgresql.conf`; of the command line when an existing directory is started.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
    /// A variable of the server's environment, which is empty otherwise.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
    /// Runs initdb instead of copying a template, so that the system identifier is its own.
    #[must_use]
    pub const fn fresh_identity(mut self) -> Self {
        self.fresh = true;
        self
    }
    /// Listens on 127.0.0.1 as well, on a free port.
    #[must_use]
    pub const fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Makes the cluster and starts its server.
    ///
    /// # Panics
    /// When this version is not installed or the server does not start.
    pub fn build(self) -> TestCluster {
        let mut cluster = self.build_stopped();
        cluster.start();
        cluster
    }

    /// Makes the cluster without starting it.
    ///
    /// # Panics
    /// When this version is not installed.
    pub fn build_stopped(mut self) -> TestCluster {
        let mut cluster = self.empty_cluster();
        cluster.data = cluster.home.path().join("data");
        template::make_cluster(&cluster.owner, &cluster.bin, &self.options, self.fresh, &cluster.data);
        let mut lines = String::from("\n# for tests\n");
        for (name, value) in self.place(&cluster).into_iter().chain(quiet_settings()).chain(self.settings) {
            let _ = writeln!(lines, "{name} = '{}'", value.replace('\'', "''"));
        }
        append(&cluster.data.join("postgresql.conf"), &lines);
        cluster
    }

    /// Starts the server of an existing directory, which stays when the cluster is dropped. Settings given here, the
    /// socket directory and the port go on the command line; `postgresql.conf` is not changed.
    ///
    /// # Panics
    /// When this version is not installed or the server does not start.
    pub fn start_existing(self, data: impl Into<PathBuf>) -> TestCluster {
        self.try_start_existing(data).unwrap_or_else(|log| panic!("the server did not start:\n{log}"))
    }

    /// [`ClusterBuilder::start_existing`] that may fail.
    ///
    /// # Errors
    /// The server's log when it did not start.
    pub fn try_start_existing(mut self, data: impl Into<PathBuf>) -> Result<TestCluster, String> {
        let mut cluster = self.empty_cluster();
        cluster.data = data.into();
        cluster.command_line = self.place(&cluster);
        cluster.command_line.push(("fsync".into(), "off".into()));
        cluster.command_line.extend(self.settings);
        cluster.try_start()?;
        Ok(cluster)
    }

    fn empty_cluster(&mut self) -> TestCluster {
        let version = self.options.version;
        let bin = bin_directory(version).unwrap_or_else(|| panic!("PostgreSQL {version} is not installed"));
        let owner = Owner::current();
        let home = owner.temp_dir();
        owner.make_dir(&home.path().join("s"));
        if self.tcp {
            self.port = free_port();
        }
        let env = std::mem::take(&mut self.env);
        let (port, data) = (self.port, PathBuf::new());
        TestCluster { version, bin, owner, home, data, port, command_line: Vec::new(), env, postmaster: None }
    }

    /// Settings that keep this server away from all others.
    fn place(&self, cluster: &TestCluster) -> Vec<(String, String)> {
        let sockets = cluster.socket_directory().display().to_string();
        [
            ("port", self.port.to_string()),
            ("listen_addresses", if self.tcp { "127.0.0.1".to_owned() } else { String::new() }),
            ("unix_socket_directories", sockets),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// Settings of a cluster made here: small, fast, and telling what happened.
fn quiet_settings() -> Vec<(String, String)> {
    [
        ("fsync", "off"),
        ("shared_buffers", "32MB"),
        ("max_connections", "30"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("log_line_prefix", "%m [%p] %q%a "),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

impl TestCluster {
    /// PostgreSQL 15, checksums, 16 MiB WAL segments, a socket and no TCP, unless the builder is told otherwise.
    pub fn builder() -> ClusterBuilder {
        let options = template::Options { version: 15, checksums: true, wal_segment_size_mb: 16 };
        ClusterBuilder {
            options,
            settings: Vec::new(),
            env: Vec::new(),
            fresh: false,
            port: 5432,
            tcp: false,
        }
    }

    /// Major version.
    pub const fn version(&self) -> u32 {
        self.version
    }
    /// The data directory.
    pub fn data_directory(&self) -> &Path {
        &self.data
    }
    /// The directory of the server's socket.
    pub fn socket_directory(&self) -> PathBuf {
        self.home.path().join("s")
    }
    /// The port: of the socket's name, and of 127.0.0.1 with [`ClusterBuilder::tcp`].
    pub const fn port(&self) -> u16 {
        self.port
    }
    /// A program of this version.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
    /// Whom the server runs as.
    pub const fn owner(&self) -> &Owner {
        &self.owner
    }
    /// A command that runs as the server's user with a clean environment; add what it needs.
    pub fn as_owner(&self, program: impl AsRef<OsStr>) -> Command {
        self.owner.command(program)
    }
    /// A new directory of the server's user that lives as long as the cluster.
    pub fn make_dir(&self, name: &str) -> PathBuf {
        let path = self.home.path().join(name);
        self.owner.make_dir(&path);
        path
    }
    /// Adds a line to `postgresql.conf`; for the next start or reload.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn configure(&self, name: &str, value: &str) {
        append(&self.data.join("postgresql.conf"), &format!("{name} = '{}'\n", value.replace('\'', "''")));
    }
}

/// A TCP port of 127.0.0.1 that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    listener.local_addr().expect("a bound socket has an address").port()
}

fn append(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().append(true).open(path).expect("the file exists");
    file.write_all(text.as_bytes()).expect("the file can be written");
}

/// Runs a command that must succeed and returns what it printed.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("could not start {command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// Asks every 10 ms until the condition holds; `false` when `limit` has passed first.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}
