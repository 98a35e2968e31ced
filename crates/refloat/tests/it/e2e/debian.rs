//! Debian's layout: configuration in `/etc/postgresql`, an archiver with an empty environment, `pg_ctlcluster`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use refloat_testkit::cluster::{Owner, wait_until};

use super::site::{Run, program, run};

/// A cluster made by `pg_createcluster`, gone when the test ends.
struct DebianCluster {
    name: String,
    home: tempfile::TempDir,
    port: u16,
}

impl DebianCluster {
    fn create() -> Option<Self> {
        let there = Path::new("/usr/bin/pg_createcluster").exists()
            && Path::new("/usr/lib/postgresql/15/bin/postgres").exists();
        if !there || !nix::unistd::geteuid().is_root() {
            refloat_testkit::skipped("pg_createcluster needs Debian's postgresql-common and root");
            return None;
        }
        let home = tempfile::Builder::new().prefix("rf-debian-").tempdir_in("/var/tmp").expect("a directory");
        fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let name = format!("rf{}", std::process::id());
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a free port")
            .port();
        let cluster = Self { name, home, port };
        let data = cluster.data();
        // As Debian has it: the directory above the data directory is the server's user's.
        Owner::current().make_dir(&cluster.home.path().join("15"));
        let created = Command::new("pg_createcluster")
            .args(["15", &cluster.name, "-d"])
            .arg(&data)
            .args([
                "-p",
                &port.to_string(),
                "--start-conf",
                "manual",
                "--",
                "--data-checksums",
                "-A",
                "trust",
            ])
            .output()
            .expect("pg_createcluster runs");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
        Some(cluster)
    }
    fn data(&self) -> PathBuf {
        self.home.path().join("15/data")
    }
    fn ctl(&self, action: &str) -> Run {
        run(Command::new("pg_ctlcluster").args(["--skip-systemctl-redirect", "15", &self.name, action]))
    }
    fn configure(&self, lines: &str) {
        let path = format!("/etc/postgresql/15/{}/conf.d/refloat.conf", self.name);
        fs::write(&path, lines).expect("writes");
        Owner::current().give(Path::new(&path));
    }
    fn psql(&self, sql: &str) -> String {
        let mut command = Owner::current().command("psql");
        let port = self.port.to_string();
        command.args([
            "-h",
            "/var/run/postgresql",
            "-p",
            &port,
            "-U",
            "postgres",
            "-XAtq",
            "-c",
            sql,
            "postgres",
        ]);
        run(&mut command).ends(0).stdout.trim().to_owned()
    }
}

impl Drop for DebianCluster {
    fn drop(&mut self) {
        let dropped = Command::new("pg_dropcluster").args(["--stop", "15", &self.name]).output();
        if !dropped.is_ok_and(|d| d.status.success()) {
            let _ = self.ctl("stop");
            let _ = fs::remove_dir_all(format!("/etc/postgresql/15/{}", self.name));
        }
        let _ = fs::remove_file(format!("/var/log/postgresql/postgresql-15-{}.log", self.name));
    }
}

#[test]
fn a_cluster_in_debians_layout() {
    let Some(cluster) = DebianCluster::create() else { return };
    let etc = cluster.home.path().join("etc");
    fs::create_dir(&etc).expect("a directory");
    let config = etc.join("refloat.toml");
    let secret = etc.join("passphrase");
    let home = cluster.home.path().display();
    let text = format!(
        "state = \"{home}/state\"\n\n[repository.local]\nurl = \"file://{home}/repo\"\n\
         encryption = {{ passphrase = {{ file = \"{}\" }} }}\n\n\
         [source.prod]\nkind = \"postgres\"\ndata_directory = \"{}\"\nrepositories = [\"local\"]\nwal = \"push\"\n",
        secret.display(),
        cluster.data().display(),
    );
    fs::write(&config, text).expect("writes");
    fs::write(&secret, "correct horse battery staple 42\n").expect("writes");
    for (path, mode) in [(&etc, 0o755), (&config, 0o644), (&secret, 0o600)] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("chmod");
    }
    Owner::current().give(&secret);
    // What root makes for the owner of the data directory must be theirs.
    for name in ["repo", "state"] {
        let path = cluster.home.path().join(name);
        fs::create_dir(&path).expect("a directory");
        Owner::current().give(&path);
    }
    let refloat = |arguments: &[&str]| {
        run(Command::new(program()).env_clear().arg("--config").arg(&config).args(arguments))
    };
    let init = refloat(&["init", "--key-kept"]).ends(0);
    // The printed lines are what goes into the server's configuration, letter for letter.
    let printed = format!("{}\n{}", init.stdout, init.stderr);
    let line = |name: &str| {
        let found = printed.lines().map(str::trim).find(|l| l.starts_with(&format!("{name} =")));
        found.unwrap_or_else(|| panic!("init prints {name}:\n{printed}")).to_owned()
    };
    let lines = ["archive_mode", "archive_command", "archive_timeout"].map(line).join("\n");
    cluster.configure(&format!("{lines}\nfsync = off\n"));
    cluster.ctl("start").ends(0);
    cluster.psql("create table t as select generate_series(1, 1000) n");
    let check = refloat(&["check", "prod"]);
    assert!(matches!(check.code, Some(0 | 3)), "{}{}", check.stdout, check.stderr);
    assert!(!check.stdout.contains("FAULT"), "{}", check.stdout);
    refloat(&["backup", "prod"]).ends(0);
    cluster.psql("insert into t select generate_series(1001, 2000)");
    let time = cluster.psql("select clock_timestamp()");
    std::thread::sleep(Duration::from_millis(20));
    cluster.psql("drop table t");
    let last = cluster.psql("select pg_walfile_name(pg_switch_wal())");
    let archived = || cluster.psql("select coalesce(last_archived_wal, '') from pg_stat_archiver") >= last;
    assert!(wait_until(Duration::from_secs(60), archived), "the archiver's empty environment is enough");

    let running = refloat(&["restore", "prod", &time, "--in-place", "--yes"]).ends(1);
    assert!(running.stderr.contains("RST-003"), "{}", running.stderr);
    cluster.ctl("stop").ends(0);
    let restored = refloat(&["restore", "prod", &time, "--in-place", "--yes"]).ends(0);
    let said = format!("{}{}", restored.stdout, restored.stderr);
    assert!(
        said.contains(&format!("15 {}", cluster.name)) || said.contains(&format!("15-{}", cluster.name)),
        "{said}"
    );
    cluster.ctl("start").ends(0);
    let paused = || cluster.psql("select pg_get_wal_replay_pause_state()") == "paused";
    assert!(wait_until(Duration::from_secs(60), paused), "it waits for a look");
    assert_eq!(cluster.psql("select count(*), sum(n) from t"), "2000|2001000");
    refloat(&["takeover", "prod"]).ends(0);
    assert!(wait_until(Duration::from_secs(60), || cluster.psql("select pg_is_in_recovery()") == "f"));
    cluster.psql("insert into t values (0)");
    let last = cluster.psql("select pg_walfile_name(pg_switch_wal())");
    let archived = || cluster.psql("select coalesce(last_archived_wal, '') from pg_stat_archiver") >= last;
    assert!(wait_until(Duration::from_secs(60), archived), "archiving goes on after the takeover");

    // A copy beside it starts from its own directory alone, though the original's configuration is in /etc.
    let copy = cluster.home.path().join("15/copy");
    let path = copy.display().to_string();
    refloat(&["restore", "prod", "latest", "--to", &path, "--as", "copy", "--yes"]).ends(0);
    // The key of Debian's certificate is for a group that the test does not give to the server.
    let clone = refloat_testkit::cluster::TestCluster::builder().setting("ssl", "off").start_existing(&copy);
    clone.wait_for_end_of_recovery();
    assert_eq!(clone.psql("postgres", "select count(*) from t"), "2001");
}
