//! Archiving through promotions, left timelines and servers that are not the one they were.

use std::fs;

use refloat_testkit::cluster::{StopMode, TestCluster};

use super::site::{Site, start_restored};
use crate::program;

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
