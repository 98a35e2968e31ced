//! A source becomes another cluster: pg_upgrade in place, and by word.

use std::fs;
use std::path::Path;

use refloat_testkit::cluster::{StopMode, TestCluster, run as must, skip_without};

use super::site::{Site, prove, start_restored};

/// The server of another directory in the place of the source's, archiving as that did.
fn instead(site: &Site, version: u32, new: &Path) -> TestCluster {
    let data = site.cluster.data_directory();
    fs::rename(new, data).expect("moved");
    let command = format!("{} --config {} wal push %p", crate::program(), site.config.display());
    TestCluster::builder()
        .version(version)
        .setting("archive_mode", "on")
        .setting("archive_command", &command)
        .start_existing(data)
}

#[test]
fn pg_upgrade_in_place_begins_a_new_generation() {
    if skip_without(17) {
        return;
    }
    let mut site = Site::new(TestCluster::builder());
    site.cluster.psql("postgres", "create table t as select generate_series(1, 1000) a");
    site.backup();
    let before = site.cluster.psql("postgres", "select clock_timestamp()");
    site.cluster.psql("postgres", "insert into t values (1001)");
    site.archive_all();
    site.cluster.stop(StopMode::Fast);

    let fresh = TestCluster::builder().version(17).fresh_identity().build_stopped();
    let aside = site.path("data.old");
    fs::rename(site.cluster.data_directory(), &aside).expect("moved");
    let work = site.path("work");
    site.cluster.owner().make_dir(&work);
    let old = site.cluster.bin("postgres");
    let (old, new) = (old.parent().expect("a directory"), fresh.bin("postgres"));
    let mut upgrade = site.cluster.as_owner(fresh.bin("pg_upgrade"));
    upgrade.current_dir(&work).arg("-b").arg(old).arg("-B").arg(new.parent().expect("a directory"));
    upgrade.arg("-d").arg(&aside).arg("-D").arg(fresh.data_directory()).args([
        "-U",
        "postgres",
        "--socketdir",
    ]);
    must(upgrade.arg(&work));
    let server = instead(&site, 17, fresh.data_directory());

    // It is told before anybody backs it up, and by the backup, which is a full one.
    let said = site.run(&["check", "prod"]);
    assert!(said.stdout.contains("was cluster"), "{}", said.stdout);
    let made = site.run(&["backup", "prod", "--json"]).ends(3);
    let report = made.json();
    assert_eq!(report["backups"][0]["type"], "full", "{}", made.stdout);
    assert_eq!(report["backups"][0]["new_generation"]["to_version"], 17, "{}", made.stdout);
    assert!(made.stderr.contains("prod is another cluster now"), "{}", made.stderr);
    let made = site.run(&["backup", "prod"]).ends(0);
    assert!(made.stdout.contains("incr backup"), "{}", made.stdout);
    server.psql("postgres", "insert into t values (1002)");
    let last = server.psql("postgres", "select pg_walfile_name(pg_switch_wal())");
    server.wait_for("postgres", &format!("select last_archived_wal >= '{last}' from pg_stat_archiver"), "t");

    // Both generations come back: the new one to now, the old one to its own moments.
    let copy = start_restored(17, &site.restore("now", &["--as", "copy"]));
    copy.wait_for_end_of_recovery();
    assert_eq!(copy.psql("postgres", "select max(a) from t"), "1002");
    prove(copy);
    let copy = start_restored(15, &site.restore("then", &[before.trim(), "--as", "copy"]));
    copy.wait_for_end_of_recovery();
    assert_eq!(copy.psql("postgres", "select max(a) from t"), "1000");
    prove(copy);
    let sound = site.run(&["verify", "prod", "--read-data"]).ends(0);
    assert!(sound.stdout.contains("prod"), "{}", sound.stdout);
    site.run(&["list", "prod"]).ends(0);
    site.run(&["check", "prod"]);
}

/// A newer version in the same place is no upgrade when its WAL does not go on behind the old one's: initdb made it.
#[test]
fn a_new_empty_cluster_of_a_newer_version_is_refused() {
    if skip_without(17) {
        return;
    }
    let mut site = Site::new(TestCluster::builder());
    site.archive_all();
    site.cluster.psql("postgres", "create table t as select 1 a");
    site.archive_all();
    site.backup();
    site.cluster.stop(StopMode::Fast);
    let fresh = TestCluster::builder().version(17).fresh_identity().build_stopped();
    fs::rename(site.cluster.data_directory(), site.path("data.old")).expect("moved");
    let _server = instead(&site, 17, fresh.data_directory());
    let refused = site.run(&["backup", "prod"]).ends(1);
    assert!(refused.stderr.contains("BAK-002"), "{}", refused.stderr);
}

/// Another cluster of the same version may be a mistake: it is refused until somebody says so.
#[test]
fn another_cluster_becomes_the_source_by_word() {
    let mut site = Site::new(TestCluster::builder());
    let old = site.backup();
    site.cluster.stop(StopMode::Fast);
    let fresh = TestCluster::builder().fresh_identity().build_stopped();
    fs::rename(site.cluster.data_directory(), site.path("data.old")).expect("moved");
    let server = instead(&site, 15, fresh.data_directory());
    server.psql("postgres", "create table fresh as select 1 a");

    let refused = site.run(&["backup", "prod"]).ends(1);
    assert!(
        refused.stderr.contains("BAK-002") && refused.stderr.contains("--new-cluster"),
        "{}",
        refused.stderr
    );
    let plan = site.run(&["takeover", "prod", "--new-cluster", "--dry-run"]).ends(0);
    assert!(plan.stdout.contains("would record that prod is cluster"), "{}", plan.stdout);
    site.run(&["backup", "prod"]).ends(1);
    site.run(&["takeover", "prod", "--new-cluster"]).ends(0);
    let made = site.run(&["backup", "prod", "--json"]).ends(3);
    assert_eq!(made.json()["backups"][0]["type"], "full", "{}", made.stdout);
    let copy = start_restored(15, &site.restore("new", &["--as", "copy"]));
    copy.wait_for_end_of_recovery();
    assert_eq!(copy.psql("postgres", "select count(*) from fresh"), "1");
    let copy = start_restored(15, &site.restore("old", &[&old, "--target", "immediate", "--as", "copy"]));
    copy.wait_for_end_of_recovery();
    assert_eq!(copy.psql("postgres", "select count(*) from pg_class where relname = 'fresh'"), "0");
}
