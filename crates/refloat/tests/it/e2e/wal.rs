//! Archiving through promotions, left timelines and servers that are not the one they were.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use refloat_testkit::cluster::{StopMode, TestCluster, wait_until};
use refloat_types::Timestamp;
use serde_json::Value;

use super::site::{Run, Site, run, start_restored};
use crate::program;

/// The files in which a host keeps what it knows of the source `prod`.
fn kept(state: &Path) -> Vec<PathBuf> {
    let repositories = fs::read_dir(state.join("repositories")).expect("it is enrolled").flatten();
    let kept = repositories.map(|entry| entry.path().join("sources/prod.json"));
    kept.filter(|path| path.exists()).collect()
}

/// Two minutes pass for what a host keeps of the source.
fn age(state: &Path) {
    let kept = kept(state);
    assert!(!kept.is_empty(), "something is kept below {}", state.display());
    for path in kept {
        let mut json: Value = serde_json::from_slice(&fs::read(&path).expect("reads")).expect("JSON");
        let asked: Timestamp = json["asked"].as_str().and_then(|at| at.parse().ok()).expect("a time");
        let before = asked.checked_sub(Duration::from_secs(120)).expect("long after 1970");
        json["asked"] = Value::String(before.to_string());
        // Written in place: the file stays its owner's.
        fs::write(&path, json.to_string()).expect("writes");
    }
}

/// Makes the server of this site a standby of nobody, and promotes it.
fn promote(site: &mut Site) {
    site.cluster.stop(StopMode::Fast);
    let signal = site.cluster.data_directory().join("standby.signal");
    fs::write(&signal, "").expect("writes");
    site.cluster.owner().give(&signal);
    site.cluster.start();
    site.cluster.promote();
    site.cluster.wait_for_end_of_recovery();
}

/// PostgreSQL offers the last WAL segment of a timeline that was left while archiving was off under its whole name.
#[test]
fn the_end_of_a_timeline_that_was_left_while_archiving_was_off_does_not_stop_archiving() {
    let mut site = Site::with(TestCluster::builder().checksums(true), false, "");
    site.cluster.psql("postgres", "create table t as select generate_series(1, 1000) n");
    promote(&mut site);
    let history = fs::read_to_string(site.cluster.data_directory().join("pg_wal/00000002.history"));
    let history = history.expect("it was promoted");
    site.cluster.psql("postgres", "insert into t select generate_series(1, 1000)");
    let left = "000000010000000000000001";
    assert!(history.starts_with("1\t0/1"), "timeline 1 was left inside of {left}: {history}");
    site.cluster.configure("archive_mode", "on");
    let command = format!("{} --config {} wal push %p", program(), site.config.display());
    site.cluster.configure("archive_command", &command);
    site.cluster.restart();
    // A checkpoint that removes WAL asks first whether it is archived.
    for _ in 0..2 {
        site.cluster.psql("postgres", "insert into t values (1); select pg_switch_wal()");
    }
    site.cluster.psql("postgres", "checkpoint");
    let status = site.cluster.data_directory().join("pg_wal/archive_status");
    let offered = ["ready", "done"].map(|what| status.join(format!("{left}.{what}")));
    assert!(offered.iter().any(|path| path.exists()), "PostgreSQL offers {left}");
    site.archive_all();

    // It is stored as PostgreSQL archives it when archiving is on.
    let dest = site.path("fetched");
    let fetch =
        |name: &str| site.run(&["wal", "fetch", "--source", "prod", name, dest.to_str().expect("a path")]);
    fetch(left).ends(1);
    fetch(&format!("{left}.partial")).ends(0);
    let original = fs::read(&dest).expect("fetched");
    assert_eq!(original.len(), 16 << 20);
    // The next timeline's file holds all of it that counts.
    fetch("000000020000000000000001").ends(0);

    // From a backup of now to the latest moment.
    site.backup();
    site.cluster.psql("postgres", "insert into t values (7)");
    site.archive_all();
    let clone = start_restored(15, &site.restore("latest", &["latest", "--as", "copy"]));
    assert_eq!(clone.psql("postgres", "select count(*) from t where n = 7"), "3");
}

#[test]
fn a_backup_says_that_archiving_fails() {
    let site = Site::new(TestCluster::builder());
    site.backup();
    // What archives meanwhile is another tool, which fails.
    let command = site.cluster.psql("postgres", "show archive_command");
    site.cluster.configure("archive_command", "false");
    site.cluster.reload();
    site.cluster.psql("postgres", "create table t as select 1; select pg_switch_wal()");
    site.cluster.wait_for("postgres", "select failed_count > 0 from pg_stat_archiver", "t");
    let run = site.run(&["backup", "prod", "--json"]).ends(3);
    let failing = &run.json()["backups"][0]["archiver_failing"];
    assert!(failing["file"].as_str().is_some_and(|file| file.len() == 24), "{}", run.stdout);
    assert!(run.stderr.contains("archiving fails: archive_command could not archive 0000"), "{}", run.stderr);
    // It heals.
    site.cluster.configure("archive_command", &command);
    site.cluster.reload();
    site.archive_all();
    site.backup();
}

/// Copies the data directory of a stopped server.
fn copy_data(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(status.expect("cp starts").success());
}

/// Faults 14 and 20: the old primary does not know that it was replaced.
#[test]
fn a_server_that_writes_on_after_another_was_promoted_is_told_of() {
    let mut site = Site::new(TestCluster::builder());
    site.cluster.psql("postgres", "create table t (v int)");
    site.backup();
    site.archive_all();
    // Another host, with a configuration and a state of its own.
    let (other, state) = (site.path("other"), site.path("other-state"));
    let (own_state, config) = (site.path("refloat-state"), site.path("other.toml"));
    let data = site.cluster.data_directory().display().to_string();
    let text = fs::read_to_string(&site.config).expect("reads").replace(&data, &other.display().to_string());
    fs::write(&config, format!("state = \"{}\"\n{text}", state.display())).expect("writes");
    site.cluster.owner().give(&config);
    site.cluster.stop(StopMode::Fast);
    copy_data(site.cluster.data_directory(), &other);
    let signal = other.join("standby.signal");
    fs::write(&signal, "").expect("writes");
    site.cluster.owner().give(&signal);
    site.cluster.start();
    let push = format!("{} --config {} wal push %p", program(), config.display());
    let promoted = TestCluster::builder().setting("archive_command", &push).start_existing(&other);
    promoted.promote();
    promoted.wait_for_end_of_recovery();
    let archive_all = |cluster: &TestCluster, value: u32| {
        let sql = format!("insert into t values ({value}); select pg_walfile_name(pg_switch_wal())");
        let last = cluster.psql("postgres", &sql);
        let archived = "select coalesce(last_archived_wal, '') from pg_stat_archiver";
        let done = wait_until(Duration::from_secs(60), || cluster.psql("postgres", archived) >= last);
        assert!(done, "{last} is not archived:\n{}", cluster.log());
    };
    archive_all(&promoted, 2);
    assert!(!promoted.log().contains("refloat["), "{}", promoted.log());

    // What this host keeps is a minute old at most.
    age(&own_state);
    archive_all(&site.cluster, 1);
    assert!(
        site.cluster.log().contains("refloat[WAL-012]: timeline 1 was left at 0/"),
        "{}",
        site.cluster.log()
    );
    let told = "two servers are writing";
    let on_other = |arguments: &[&str]| -> Run {
        let mut command = site.cluster.owner().bare_command(program());
        run(command.arg("--config").arg(&config).args(arguments))
    };
    let here = |arguments: &[&str]| -> Run { site.run(arguments) };
    for look in [&here as &dyn Fn(&[&str]) -> Run, &on_other] {
        assert!(look(&["status", "--exit-code"]).ends(3).stdout.contains(told));
        assert!(look(&["wal", "status"]).ends(0).stdout.contains(told));
        let check = look(&["check"]).ends(3).stdout;
        assert!(check.contains("FAULT owner prod") && check.contains(told), "{check}");
    }
    // Its WAL is stored all the same.
    let stored = site.run(&["wal", "status", "--json"]).ends(0).json();
    let timelines = &stored["sources"][0]["repositories"][0]["timelines"];
    assert_eq!(timelines.as_array().map(Vec::len), Some(2), "{stored}");

    // The old one is the right one after all: its operator says so.
    drop(promoted);
    site.run(&["takeover", "prod"]).ends(0);
    age(&own_state);
    let before = site.cluster.log().len();
    archive_all(&site.cluster, 3);
    assert!(!site.cluster.log()[before..].contains("WAL-012"));
    let check = site.run(&["check"]).stdout;
    assert!(check.contains("ok    owner prod"), "{check}");
}

/// A restore as primary is the owner from the start; where its timeline began is known when it was promoted.
#[test]
fn a_restore_as_primary_is_the_owner_on_its_new_timeline() {
    let mut site = Site::new(TestCluster::builder());
    site.backup();
    site.archive_all();
    site.cluster.stop(StopMode::Fast);
    site.run(&["restore", "prod", "latest", "--in-place", "--as", "primary", "--yes"]).ends(0);
    site.cluster.start();
    site.cluster.wait_for_end_of_recovery();
    site.archive_all();
    let check = site.run(&["check"]).stdout;
    assert!(
        check.contains("ok    owner prod") && check.contains(", timeline 2, as local knows it"),
        "{check}"
    );
    assert!(!site.cluster.log().contains("refloat["), "{}", site.cluster.log());
}

/// Somebody ran initdb in the directory of the source.
#[test]
fn wal_of_another_cluster_is_stored_apart_and_told_of() {
    let mut site = Site::new(TestCluster::builder());
    site.backup();
    site.archive_all();
    site.cluster.stop(StopMode::Fast);
    let data = site.cluster.data_directory().to_owned();
    let settings = fs::read(data.join("postgresql.conf")).expect("reads");
    fs::rename(&data, data.with_file_name("old")).expect("renames");
    let fresh = TestCluster::builder().fresh_identity().build_stopped();
    copy_data(fresh.data_directory(), &data);
    fs::write(data.join("postgresql.conf"), settings).expect("writes");
    site.cluster.start();
    let system = site.cluster.psql("postgres", "select system_identifier from pg_control_system()");
    site.archive_all();
    assert!(site.cluster.log().contains(&format!("refloat[WAL-014]: this is cluster {system}")));
    assert!(site.repo().join("wal").join(&system).exists(), "its WAL is stored");
    let told = format!("holds cluster {system}, and prod was cluster");
    assert!(site.run(&["status", "--exit-code"]).ends(3).stdout.contains(&told));
    assert!(site.run(&["wal", "status"]).ends(0).stdout.contains(&told));
    let check = site.run(&["check"]).ends(3).stdout;
    assert!(check.contains("FAULT owner prod") && check.contains(&told), "{check}");
    site.run(&["backup"]).ends(1);
}

#[test]
fn a_switch_ends_when_the_segment_is_archived() {
    let site = Site::new(TestCluster::builder());
    site.cluster.psql("postgres", "create table t as select 1");
    let run = site.run(&["wal", "switch", "prod", "--json"]).ends(0);
    let segment = run.json()["segment"].as_str().expect("a name").to_owned();
    assert_eq!(run.json()["archived"], true);
    let dest = site.path("fetched");
    site.run(&["wal", "fetch", "--source", "prod", &segment, dest.to_str().expect("a path")]).ends(0);

    let quiet = Site::with(TestCluster::builder(), false, "");
    quiet.cluster.psql("postgres", "create table t as select 1");
    let run = quiet.run(&["wal", "switch", "prod"]).ends(0);
    assert!(run.stdout.contains("will not be archived: archive_mode is off"), "{}", run.stdout);
}

/// Where nothing is archived, the line that mends it can be typed as it is, and the list says what a backup carries instead.
#[test]
fn a_server_that_archives_nothing_is_told_what_to_type() {
    let site = Site::with(TestCluster::builder(), false, "");
    let checked = site.run(&["check", "prod"]).ends(3).stdout;
    let mend = format!("/bin/pg_ctl -D {} restart", site.cluster.data_directory().display());
    assert!(checked.contains(&mend), "{mend} is not in:\n{checked}");
    site.run(&["backup", "prod"]).ends(0);
    let listed = site.run(&["list", "prod"]).ends(0).stdout;
    assert!(listed.lines().nth(1).is_some_and(|line| line.ends_with("carries its own WAL")), "{listed}");
    assert!(!listed.lines().next().is_some_and(|header| header.contains("wal")), "{listed}");
}
