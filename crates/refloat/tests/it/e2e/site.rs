//! A server with Refloat set up beside it, as its user would have it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use refloat_testkit::cluster::{ClusterBuilder, StopMode, TestCluster, wait_until};
use serde_json::Value;

/// A cluster, its configuration and its repository. Everything belongs to the cluster's user.
pub(crate) struct Site {
    pub(crate) cluster: TestCluster,
    pub(crate) home: PathBuf,
    pub(crate) config: PathBuf,
}

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Panics with all that was printed unless the exit code is this one.
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}\n{}", self.stdout, self.stderr))
    }
}

pub(crate) use crate::program;

pub(crate) fn run(command: &mut Command) -> Run {
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Site {
    /// A running server that archives through Refloat, with an initialised repository.
    pub(crate) fn new(builder: ClusterBuilder) -> Self {
        Self::with(builder, true, "")
    }

    /// The same with more lines for the source, and with or without archiving.
    pub(crate) fn with(builder: ClusterBuilder, archiving: bool, source: &str) -> Self {
        Self::made(builder, archiving, source, None, None)
    }

    /// The same whose repository is in another store: what its table says, and the secret that is in the file `{secret}`.
    pub(crate) fn in_store(builder: ClusterBuilder, store: (&str, &str)) -> Self {
        Self::made(builder, true, "", None, Some(store))
    }

    /// The same, whose table says all that is needed, with more lines for the source.
    pub(crate) fn stored(builder: ClusterBuilder, repository: &str, source: &str) -> Self {
        Self::made(builder, true, source, None, Some((repository, "")))
    }

    /// The same whose repository is encrypted otherwise.
    pub(crate) fn encrypted(builder: ClusterBuilder, encryption: &str) -> Self {
        Self::made(builder, true, "", Some(encryption), None)
    }

    fn made(
        builder: ClusterBuilder,
        archiving: bool,
        source: &str,
        encryption: Option<&str>,
        store: Option<(&str, &str)>,
    ) -> Self {
        let cluster = builder.build_stopped();
        let home = cluster.make_dir("refloat");
        let config = home.join("refloat.toml");
        let (secret, store_secret) = (home.join("passphrase"), home.join("store-secret"));
        let place = store.map_or_else(
            || format!("url = \"file://{}/repo\"", home.display()),
            |(lines, _)| lines.replace("{secret}", &store_secret.display().to_string()),
        );
        let mut text = String::new();
        let _ = write!(
            text,
            "[repository.local]\n{place}\nencryption = {encryption}\n\n\
             [source.prod]\nkind = \"postgres\"\ndata_directory = \"{data}\"\nrepositories = [\"local\"]\nwal = \"push\"\n\
             connection = \"user=postgres\"\n{source}\n",
            encryption = encryption.map_or_else(
                || format!("{{ passphrase = {{ file = \"{}\" }} }}", secret.display()),
                str::to_owned,
            ),
            data = cluster.data_directory().display(),
        );
        let owner = cluster.owner();
        let store_text = store.map_or("none\n", |(_, secret)| secret);
        let files = [
            (&config, text.as_str()),
            (&secret, "correct horse battery staple 42\n"),
            (&store_secret, store_text),
        ];
        for (path, text) in files {
            fs::write(path, text).expect("writes");
            fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
            owner.give(path);
        }
        if archiving {
            cluster.configure("archive_mode", "on");
            let command = format!("{} --config {} wal push %p", program(), config.display());
            cluster.configure("archive_command", &command);
        }
        let site = Self { cluster, home, config };
        site.run(&["init", "--key-kept"]).ends(0);
        let mut site = site;
        site.cluster.start();
        site
    }

    /// The program with this site's configuration, as the cluster's user, with an empty environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.cluster.owner().bare_command(program());
        command.arg("--config").arg(&self.config).args(arguments);
        command
    }
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        run(&mut self.command(arguments))
    }
    pub(crate) fn repo(&self) -> PathBuf {
        self.home.join("repo")
    }
    /// A full backup that must end well; answers its id.
    #[track_caller]
    pub(crate) fn backup(&self) -> String {
        let run = self.run(&["backup", "prod", "--type", "full", "--json"]).ends(0);
        let json = run.json();
        backup_id(&json).unwrap_or_else(|| panic!("no backup id in {json}"))
    }
    /// Ends the current WAL segment and waits until it is archived.
    #[track_caller]
    pub(crate) fn archive_all(&self) {
        let cluster = &self.cluster;
        let last = cluster.psql(
            "postgres",
            "select pg_walfile_name(pg_switch_wal()) from pg_logical_emit_message(false, 'test', 'switch')",
        );
        let archived =
            || cluster.psql("postgres", "select coalesce(last_archived_wal, '') from pg_stat_archiver");
        let done = wait_until(Duration::from_secs(60), || archived().as_str() >= last.as_str());
        assert!(done, "{last} is not archived, last is {}:\n{}", archived(), cluster.log());
    }
    /// A fresh path below this site's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }
    /// Restores and starts the server of it, which waits at its target.
    #[track_caller]
    pub(crate) fn restore(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let to = self.path(name);
        let mut all = vec!["restore", "prod"];
        all.extend_from_slice(arguments);
        let path = to.display().to_string();
        all.extend(["--to", &path, "--yes"]);
        self.run(&all).ends(0);
        to
    }
}

/// Starts a restored directory and waits until it waits at its target (or has ended recovery).
pub(crate) fn start_restored(version: u32, directory: &Path) -> TestCluster {
    let clone = TestCluster::builder().version(version).start_existing(directory);
    let settled = "select not pg_is_in_recovery() or pg_get_wal_replay_pause_state() = 'paused'";
    clone.wait_for("postgres", settled, "t");
    clone
}

/// Ends recovery where it waits.
pub(crate) fn promote(clone: &TestCluster) {
    if clone.psql("postgres", "select pg_is_in_recovery()") == "t" {
        clone.promote();
        clone.wait_for_end_of_recovery();
    }
}

/// Everything that can be asked of a restored cluster by PostgreSQL's own tools.
pub(crate) fn prove(mut clone: TestCluster) {
    promote(&clone);
    clone.amcheck().expect("amcheck");
    clone.stop(StopMode::Fast);
    clone.checksums_check().expect("checksums");
}

/// Finds the id of the backup in what `backup --json` prints.
pub(crate) fn backup_id(json: &Value) -> Option<String> {
    match json {
        Value::Object(map) => match map.get("backup") {
            Some(Value::String(id)) => Some(id.clone()),
            _ => map.values().find_map(backup_id),
        },
        Value::Array(items) => items.iter().find_map(backup_id),
        _ => None,
    }
}
