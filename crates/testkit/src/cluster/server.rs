//! Starting, stopping and killing the server of a test cluster. The postmaster is our child, so its end is never missed.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{TestCluster, owner, run, wait_until};

/// How long a start, a stop or a recovery may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// How a server is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for sessions to end.
    Smart,
    /// Ends sessions, writes a shutdown checkpoint.
    Fast,
    /// Ends at once; the next start recovers.
    Immediate,
}

impl TestCluster {
    /// Starts the server and waits until it accepts connections (read-only ones while in recovery).
    ///
    /// # Panics
    /// When it does not start, with its log.
    #[track_caller]
    pub fn start(&mut self) {
        if let Err(log) = self.try_start() {
            panic!("the server did not start:\n{log}");
        }
    }

    /// [`TestCluster::start`] that may fail.
    ///
    /// # Errors
    /// The server's log since this start.
    ///
    /// # Panics
    /// When it runs already.
    pub fn try_start(&mut self) -> Result<(), String> {
        assert!(!self.is_running(), "the server runs already");
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.log_file()).expect("own directory");
        let before = log.metadata().map_or(0, |meta| meta.len());
        self.owner.give(&self.log_file());
        let mut command = self.owner.bare_command(self.bin("postgres"));
        command.envs(self.env.iter().cloned()).arg("-D").arg(&self.data);
        for (name, value) in &self.command_line {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor is free")).stderr(log);
        command.current_dir(self.home.path());
        self.postmaster = Some(owner::spawn_tied(command, Signal::QUIT));
        let ready = wait_until(PATIENCE, || self.is_ready() || !self.is_running());
        if ready && self.is_running() {
            return Ok(());
        }
        let log = self.log();
        self.end(Signal::QUIT);
        Err(log.get(usize::try_from(before).unwrap_or(0)..).unwrap_or(&log).to_owned())
    }

    /// Stops the server and waits for its end. Does nothing when it does not run.
    pub fn stop(&mut self, mode: StopMode) {
        self.end(match mode {
            StopMode::Smart => Signal::TERM,
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        });
    }

    /// Kills the postmaster as a crash would, and waits until no process of the server is left.
    pub fn crash(&mut self) {
        self.end(Signal::KILL);
        let data = self.data.clone();
        let gone = wait_until(PATIENCE, || !has_processes_in(&data));
        assert!(gone, "processes of the killed server are still there");
    }

    /// Stops (fast) and starts.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop(StopMode::Fast);
        self.start();
    }

    /// Makes the server read its configuration, and waits until it did.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn reload(&self) {
        let loaded = || self.psql("postgres", "select pg_conf_load_time();");
        let before = loaded();
        self.psql("postgres", "select pg_reload_conf();");
        assert!(wait_until(PATIENCE, || loaded() != before), "the configuration was not loaded again");
    }

    /// A standby of this server, which streams from it. Its settings come first on its command line.
    ///
    /// # Panics
    /// When it cannot be made or does not start.
    #[must_use]
    pub fn standby(&self, settings: &[(&str, &str)]) -> TestCluster {
        let copy = (1..).map(|number| format!("standby{number}"));
        let path = copy.map(|name| self.home.path().join(name)).find(|path| !path.exists());
        let path = path.expect("names do not end");
        self.owner.make_dir(&path);
        run(self.client("pg_basebackup").arg("-D").arg(&path).args(["--checkpoint=fast", "-R"]));
        let builder = TestCluster::builder().version(self.version);
        let add = |builder: super::ClusterBuilder, (name, value): &(&str, &str)| builder.setting(name, value);
        settings.iter().fold(builder, add).start_existing(&path)
    }

    /// Waits until this standby has replayed all that `primary` has written.
    pub fn catch_up(&self, primary: &TestCluster) {
        let lsn = primary.psql("postgres", "select pg_current_wal_insert_lsn();");
        self.wait_for("postgres", &format!("select pg_last_wal_replay_lsn() >= '{}';", lsn.trim()), "t");
    }

    /// Promotes a standby and waits for the end of its recovery.
    #[track_caller]
    pub fn promote(&self) {
        self.psql("postgres", "select pg_promote(true, 120);");
        self.wait_for_end_of_recovery();
    }

    /// Waits until the server is a primary.
    #[track_caller]
    pub fn wait_for_end_of_recovery(&self) {
        self.wait_for("postgres", "select pg_is_in_recovery();", "f");
    }

    /// Whether the postmaster lives.
    pub fn is_running(&mut self) -> bool {
        self.postmaster.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The postmaster's process id while it runs.
    pub fn postmaster_pid(&self) -> Option<u32> {
        self.postmaster.as_ref().map(std::process::Child::id)
    }

    /// The file of the server's log.
    pub fn log_file(&self) -> PathBuf {
        self.home.path().join("server.log")
    }

    /// All the server said so far.
    pub fn log(&self) -> String {
        fs::read(self.log_file())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// `postmaster.pid` ends with `ready` when connections are accepted, with `standby` in recovery without them.
    fn is_ready(&self) -> bool {
        let Ok(text) = fs::read_to_string(self.data.join("postmaster.pid")) else { return false };
        let ours =
            text.lines().next().map(str::trim) == self.postmaster_pid().map(|pid| pid.to_string()).as_deref();
        ours && text.lines().nth(7).is_some_and(|status| matches!(status.trim(), "ready" | "standby"))
    }

    fn end(&mut self, signal: Signal) {
        if !self.is_running() {
            self.postmaster = None;
            return;
        }
        let Some(child) = &mut self.postmaster else { return };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
        if !wait_until(PATIENCE, || !matches!(child.try_wait(), Ok(None))) {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.postmaster = None;
    }
}

/// Whether any process works in this directory, as all of a server's do.
fn has_processes_in(data: &std::path::Path) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    entries.flatten().any(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data))
}

impl Drop for TestCluster {
    #[expect(clippy::print_stderr, reason = "tests only: the log of a failed test's server")]
    fn drop(&mut self) {
        self.end(Signal::QUIT);
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n");
            eprintln!("---- log of the server in {} ----\n{tail}\n----", self.data.display());
        }
    }
}
