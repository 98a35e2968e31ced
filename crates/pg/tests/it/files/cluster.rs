//! A throw-away cluster of this test binary.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) const BIN: &str = "/usr/lib/postgresql/15/bin";
/// The directory of a PostgreSQL 15 server in tablespaces.
pub(crate) const VERSION: &str = "PG_15_202209061";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command of PostgreSQL, as a user PostgreSQL accepts.
pub(crate) fn tool(name: &str) -> Command {
    let path = if name.contains('/') { PathBuf::from(name) } else { Path::new(BIN).join(name) };
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(path);
        command
    } else {
        Command::new(path)
    };
    command.env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
    command
}

pub(crate) fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("could not run {command:?}: {error}"))
}

/// Runs it, expects success, gives its standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A directory in which the user of PostgreSQL may write.
pub(crate) fn directory() -> tempfile::TempDir {
    let top = tempfile::Builder::new().prefix("rf").tempdir_in("/tmp").expect("temporary directory");
    std::fs::set_permissions(top.path(), std::fs::Permissions::from_mode(0o755)).expect("changed");
    if is_root() {
        run(Command::new("chown").arg("postgres:postgres").arg(top.path()));
    }
    top
}

/// A server on a socket in its own directory, stopped when dropped.
pub(crate) struct Cluster {
    pub(crate) top: tempfile::TempDir,
    pub(crate) data: PathBuf,
}

impl Cluster {
    /// A new, running cluster with these further settings.
    pub(crate) fn start(conf: &str) -> Self {
        let cluster = Self::create(conf);
        cluster.pg_ctl("start");
        cluster
    }
    pub(crate) fn create(conf: &str) -> Self {
        let top = directory();
        let data = top.path().join("data");
        run(tool("initdb").args(["-N", "-k", "-U", "postgres", "-A", "trust", "-D"]).arg(&data));
        let text = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nshared_buffers = 16MB\n\
             max_wal_size = 64MB\nautovacuum = off\n{conf}\n",
            top.path().display()
        );
        let path = data.join("postgresql.conf");
        let old = std::fs::read_to_string(&path).expect("readable");
        std::fs::write(&path, old + &text).expect("written");
        Self { top, data }
    }
    pub(crate) fn pg_ctl(&self, what: &str) {
        assert!(self.try_pg_ctl(what), "pg_ctl {what} failed: {}", self.log());
    }
    pub(crate) fn try_pg_ctl(&self, what: &str) -> bool {
        let mut command = tool("pg_ctl");
        command.args(["-w", "-t", "60", "-s", "-D"]).arg(&self.data);
        command.arg("-l").arg(self.top.path().join("log"));
        if what == "stop" {
            command.args(["-m", "fast"]);
        }
        output(command.arg(what)).status.success()
    }
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.top.path().join("log")).unwrap_or_default()
    }
    pub(crate) fn sql(&self, text: &str) -> String {
        self.sql_in("postgres", text)
    }
    /// Several statements, each in its own transaction.
    pub(crate) fn sql_in(&self, database: &str, text: &str) -> String {
        let mut psql = tool("psql");
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]).arg(self.top.path());
        psql.args(["-d", database]);
        for statement in text.split("; ") {
            psql.args(["-c", statement]);
        }
        run(&mut psql).trim_end().to_owned()
    }
    /// A plain base backup with the tool's own options.
    pub(crate) fn base_backup(&self, to: &Path, more: &[&str]) {
        let mut command = tool("pg_basebackup");
        command.args(["-U", "postgres", "-c", "fast", "-N", "-Fp", "-h"]).arg(self.top.path());
        run(command.arg("-D").arg(to).args(more));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut command = tool("pg_ctl");
        let _ = command.args(["-w", "-s", "-m", "immediate", "stop", "-D"]).arg(&self.data).output();
    }
}
