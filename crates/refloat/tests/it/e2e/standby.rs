//! Two nodes: a standby made from the repository, backups from it, a failover, and who of the two does what.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use refloat_testkit::cluster::{StopMode, TestCluster, wait_until};

use super::site::{Run, Site, prove, run, start_restored};

/// The second node: its own configuration and state, the same repository.
struct Second {
    config: PathBuf,
    data: PathBuf,
}

impl Second {
    fn beside(site: &Site, more: &str) -> Self {
        let home = site.cluster.make_dir("second");
        let data = home.join("data");
        let text = fs::read_to_string(&site.config).expect("reads");
        let text =
            text.replace(&site.cluster.data_directory().display().to_string(), &data.display().to_string());
        let config = home.join("refloat.toml");
        fs::write(&config, format!("{text}{more}")).expect("writes");
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("chmod");
        site.cluster.owner().give(&config);
        Self { config, data }
    }
    fn run(&self, site: &Site, arguments: &[&str]) -> Run {
        let mut command = site.cluster.owner().bare_command(crate::program());
        run(command.arg("--config").arg(&self.config).args(arguments))
    }
    /// What PostgreSQL archives by, as `init` prints it.
    fn archive_command(&self) -> String {
        format!("{} --config {} wal push %p", crate::program(), self.config.display())
    }
}

fn append(path: &Path, line: &str) {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new().append(true).open(path).expect("opens");
    writeln!(file, "{line}").expect("writes");
}

#[test]
fn a_standby_from_the_repository_streams_is_backed_up_and_takes_over() {
    let mut site = Site::new(TestCluster::builder());
    site.cluster.pgbench_init(1);
    site.backup();
    site.cluster.psql("postgres", "create table t as select 1 a");
    site.archive_all();

    let second = Second::beside(&site, "run_on = \"any\"\n");
    second.run(&site, &["init", "--key-kept"]).ends(0);
    let to = second.data.display().to_string();
    let primary = format!(
        "host={} port={} user=postgres",
        site.cluster.socket_directory().display(),
        site.cluster.port()
    );
    let asked = ["restore", "prod", "--to", &to, "--as", "standby", "--primary", &primary, "--yes"];
    let said = second.run(&site, &asked).ends(0);
    assert!(said.stdout.contains("it is a standby of prod"), "{}", said.stdout);
    assert!(second.data.join("standby.signal").exists() && !second.data.join("recovery.signal").exists());
    assert!(!second.data.join("refloat.locked").exists());
    site.cluster.verifybackup(&second.data).expect("pg_verifybackup is content");
    append(
        &second.data.join("postgresql.auto.conf"),
        &format!("archive_command = '{}'", second.archive_command()),
    );
    let standby = TestCluster::builder().start_existing(&second.data);
    standby.wait_for("postgres", "select count(*) from pg_stat_wal_receiver where status = 'streaming'", "1");
    site.cluster.psql("postgres", "insert into t values (2)");
    standby.catch_up(&site.cluster);
    assert_eq!(standby.psql("postgres", "select sum(a) from t"), "3");

    // The second node enrolled itself, and could take over.
    let checked = second.run(&site, &["check", "--json"]);
    assert!(
        checked.stdout.contains("promoted, this server would archive: its settings are right"),
        "{checked:?}"
    );
    let said = second.run(&site, &["backup", "prod", "--label", "from the standby"]).ends(0);
    assert!(said.stdout.contains("carries its own WAL"), "{}", said.stdout);
    // A standby from that backup, behind which nothing is archived, follows all the same, and does not promote itself.
    let third = site.path("third").display().to_string();
    second.run(&site, &["restore", "prod", "--to", &third, "--as", "standby", "--primary", &primary]).ends(0);
    let settings = fs::read_to_string(Path::new(&third).join("postgresql.auto.conf")).expect("reads");
    assert!(!settings.lines().any(|line| line.starts_with("recovery_target =")), "{settings}");
    let follower = TestCluster::builder().start_existing(&third);
    follower.wait_for(
        "postgres",
        "select count(*) from pg_stat_wal_receiver where status = 'streaming'",
        "1",
    );
    assert_eq!(follower.psql("postgres", "select pg_is_in_recovery()"), "t");
    drop(follower);
    let shown = second.run(&site, &["list", "prod", "--json"]).ends(0);
    assert_eq!(shown.stdout.matches("\"standby\": true").count(), 1, "{}", shown.stdout);

    // The primary is gone; the standby is backed up, promoted, and archives from then on.
    site.cluster.stop(StopMode::Immediate);
    second.run(&site, &["backup", "prod", "--label", "the primary is gone"]).ends(0);
    let truth = standby.dump_all_databases();
    let alone = site.path("alone").display().to_string();
    let newest = newest(&second.run(&site, &["list", "prod", "--json"]));
    second
        .run(&site, &["restore", "prod", &newest, "--target", "immediate", "--to", &alone, "--as", "copy"])
        .ends(0);
    let copy = TestCluster::builder().start_existing(&alone);
    copy.wait_for_end_of_recovery();
    assert!(copy.dump_all_databases() == truth);
    prove(copy);

    standby.promote();
    standby.wait_for_end_of_recovery();
    standby.psql("postgres", "insert into t values (4)");
    archive_all(&standby);
    let said = second.run(&site, &["backup", "prod", "--label", "after the failover"]).ends(0);
    assert!(said.stdout.contains("incr backup"), "{}", said.stdout);
    let after = site.path("after").display().to_string();
    second.run(&site, &["restore", "prod", "--to", &after, "--as", "copy"]).ends(0);
    let copy = start_restored(15, Path::new(&after));
    copy.wait_for_end_of_recovery();
    assert_eq!(copy.psql("postgres", "select sum(a) from t"), "7");
    prove(copy);
    // 54: what was a standby's backup promotes at its target, and follows nobody.
    let lsn = standby.psql("postgres", "select pg_current_wal_insert_lsn()");
    standby.psql("postgres", "insert into t values (8)");
    archive_all(&standby);
    let point = site.path("point").display().to_string();
    let all = [
        "restore",
        "prod",
        &newest,
        "--target-lsn",
        lsn.trim(),
        "--to",
        &point,
        "--target-action",
        "promote",
    ];
    second.run(&site, &all).ends(0);
    assert!(!Path::new(&point).join("standby.signal").exists());
    let copy = TestCluster::builder().setting("archive_mode", "off").start_existing(&point);
    copy.wait_for_end_of_recovery();
    assert_eq!(copy.psql("postgres", "select sum(a) from t"), "7");
    assert_eq!(copy.psql("postgres", "show primary_conninfo"), "");

    // The old primary comes back as a standby of the new one, and keeps what is the same.
    let primary = format!("host={} user=postgres", standby.socket_directory().display());
    let again =
        ["restore", "prod", "--in-place", "--delta", "--as", "standby", "--primary", &primary, "--yes"];
    let said = site.run(&again).ends(0);
    assert!(said.stdout.contains("were there and stay"), "{}", said.stdout);
    site.cluster.start();
    site.cluster.wait_for(
        "postgres",
        "select count(*) from pg_stat_wal_receiver where status = 'streaming'",
        "1",
    );
    standby.psql("postgres", "insert into t values (16)");
    site.cluster.catch_up(&standby);
    assert_eq!(site.cluster.psql("postgres", "select sum(a) from t"), "31");
    assert!(site.cluster.dump("postgres") == standby.dump("postgres"));
}

/// Ends the current WAL segment and waits until it is archived.
fn archive_all(server: &TestCluster) {
    let last = server.psql("postgres", "select pg_walfile_name(pg_switch_wal())");
    let archived = "select coalesce(last_archived_wal, '') from pg_stat_archiver";
    let done = || server.psql("postgres", archived) >= last;
    assert!(wait_until(std::time::Duration::from_secs(60), done), "{}", server.log());
}

fn newest(list: &Run) -> String {
    let json = list.json();
    let backups = json.pointer("/backups").and_then(|all| all.as_array()).expect("a list");
    let newest = backups.iter().max_by_key(|one| one["number"].as_u64()).expect("one");
    newest["id"].as_str().or(newest["backup"].as_str()).expect("an id").to_owned()
}

#[test]
fn check_fails_on_a_standby_that_could_not_archive() {
    let site = Site::new(TestCluster::builder());
    site.backup();
    let second = Second::beside(&site, "");
    second.run(&site, &["init", "--key-kept"]).ends(0);
    let to = second.data.display().to_string();
    second.run(&site, &["restore", "prod", "--to", &to, "--as", "standby", "--yes"]).ends(0);
    append(&second.data.join("postgresql.auto.conf"), "archive_mode = off");
    let standby = TestCluster::builder().start_existing(&second.data);
    // Without a primary it follows the archive.
    site.cluster.psql("postgres", "create table t as select 1 a");
    site.archive_all();
    standby.wait_for("postgres", "select count(*) from pg_class where relname = 't'", "1");
    let found = second.run(&site, &["check"]).ends(3);
    assert!(found.stdout.contains("nothing streams to it; it follows the archive"), "{}", found.stdout);
    assert!(found.stdout.contains("promoted, this server would archive nothing"), "{}", found.stdout);
    assert!(found.stdout.contains("archive_mode is off"), "{}", found.stdout);
}

#[test]
fn of_several_nodes_one_makes_the_backup() {
    let site = Site::new(TestCluster::builder());
    let second = Second::beside(&site, "");
    let standby = site.cluster.standby(&[]);
    let text = fs::read_to_string(&second.config).expect("reads");
    let at_standby =
        text.replace(&second.data.display().to_string(), &standby.data_directory().display().to_string());
    let set = |path: &Path, text: &str, run_on: &str| {
        fs::write(path, format!("{text}run_on = \"{run_on}\"\n")).expect("writes");
    };
    let at_primary = fs::read_to_string(&site.config).expect("reads");
    let both = |run_on: &str| {
        set(&site.config, &at_primary, run_on);
        set(&second.config, &at_standby, run_on);
    };
    both("primary");
    second.run(&site, &["init", "--key-kept"]).ends(0);
    let said = second.run(&site, &["backup", "--json"]).ends(0);
    assert!(said.stdout.contains("this server is a standby"), "{}", said.stdout);

    both("standby");
    let said = site.run(&["backup"]).ends(1);
    assert!(
        said.stderr.contains("BAK-015") && said.stderr.contains("there is no backup yet"),
        "{}",
        said.stderr
    );
    second.run(&site, &["backup"]).ends(0);
    let said = site.run(&["backup"]).ends(0);
    assert!(said.stdout.contains("nothing to do here: this server is the primary"), "{}", said.stdout);

    both("any");
    let said = site.run(&["backup"]).ends(0);
    assert!(said.stdout.contains("nothing to do here: another node began"), "{}", said.stdout);
    site.run(&["backup", "--label", "all the same"]).ends(0);
    assert_eq!(site.run(&["list", "prod", "--json"]).json()["backups"].as_array().map(Vec::len), Some(2));
}

/// One is stopped in the middle; the other host sees that it runs.
#[test]
fn two_hosts_do_not_back_up_at_once() {
    let site = Site::new(TestCluster::builder());
    site.cluster.pgbench_init(5);
    let second = Second::beside(&site, "");
    let text = fs::read_to_string(&second.config).expect("reads");
    let data = site.cluster.data_directory().display().to_string();
    fs::write(&second.config, text.replace(&second.data.display().to_string(), &data)).expect("writes");
    second.run(&site, &["init", "--key-kept"]).ends(0);
    let seen = site.path("seen");
    let mut slow = site.command(&["backup", "prod"]);
    let mut slow = slow
        .env("REFLOAT_FAILPOINTS", "backup.before_stop=stop")
        .env("REFLOAT_FAILPOINTS_SEEN", &seen)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("starts");
    let log = || fs::read_to_string(&seen).unwrap_or_default();
    assert!(wait_until(std::time::Duration::from_secs(60), || log().contains("backup.before_stop")));
    let said = second.run(&site, &["backup", "prod"]).ends(4);
    assert!(said.stderr.contains("BAK-013") && said.stderr.contains("runs on"), "{}", said.stderr);
    slow.kill().expect("kills");
    slow.wait().expect("ends");
}
