//! Promotions, and clones that must not write into the archive they came from.

use std::fs;

use refloat_testkit::cluster::{StopMode, TestCluster};

use super::pitr::assert_same;
use super::site::{Site, prove, start_restored};

/// Every object below `wal/`, to see that nothing was added.
fn archived(site: &Site) -> Vec<String> {
    fn walk(directory: &std::path::Path, out: &mut Vec<String>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { walk(&path, out) } else { out.push(path.display().to_string()) }
        }
    }
    let mut out = Vec::new();
    walk(&site.repo().join("wal"), &mut out);
    out.sort();
    out
}

#[test]
fn a_promotion_between_backup_and_target() {
    let mut site = Site::new(TestCluster::builder().checksums(true));
    site.cluster.pgbench_init(2);
    site.backup();
    site.cluster.psql("postgres", "create table before_fork as select generate_series(1, 100) n");
    let before = site.cluster.psql("postgres", "select clock_timestamp()");
    site.archive_all();

    // The source itself is put back to that moment, in place, and taken over: timeline 2.
    site.cluster.psql("postgres", "drop table before_fork");
    site.archive_all();
    site.cluster.stop(StopMode::Fast);
    let lines = site.run(&["restore", "prod", &before, "--in-place", "--yes"]).ends(0);
    let data = site.cluster.data_directory().to_owned();
    let aside: Vec<_> = fs::read_dir(data.parent().expect("a parent"))
        .expect("lists")
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("data.before-"))
        .collect();
    assert_eq!(aside.len(), 1, "what was there is kept: {}{}", lines.stdout, lines.stderr);
    site.cluster.start();
    site.cluster.wait_for("postgres", "select pg_get_wal_replay_pause_state()", "paused");
    assert_eq!(site.cluster.psql("postgres", "select count(*) from before_fork"), "100");
    site.run(&["takeover", "prod"]).ends(0);
    site.cluster.wait_for_end_of_recovery();
    site.cluster.psql("postgres", "create table after_fork as select generate_series(1, 200) n");
    site.archive_all();
    let truth = site.cluster.dump_all_databases();
    let moment = site.cluster.psql("postgres", "select clock_timestamp()");
    std::thread::sleep(std::time::Duration::from_millis(20));
    site.cluster.psql("postgres", "drop table after_fork, before_fork");
    site.archive_all();

    // From a backup of timeline 1 to a moment on timeline 2.
    let directory = site.restore("along", &[&moment, "--as", "copy"]);
    let clone = start_restored(15, &directory);
    assert_same("timeline 2", &clone.dump_all_databases(), &truth);
    prove(clone);
}

#[test]
fn a_clone_never_writes_into_its_sources_archive() {
    let site = Site::new(TestCluster::builder().checksums(true));
    site.cluster.pgbench_init(1);
    let place = site.cluster.make_dir("space");
    site.cluster.psql("postgres", &format!("create tablespace s location '{}'", place.display()));
    site.cluster.psql("postgres", "create table spaced tablespace s as select generate_series(1, 1000) n");
    site.backup();
    site.archive_all();
    let source_files = archived(&site);
    let mapped = site.path("mapped");
    let map = format!("{}={}", place.display(), mapped.display());
    for (name, purpose) in [("undecided", None), ("copy", Some("copy"))] {
        let mut arguments = vec!["latest", "--target-action", "promote"];
        if name == "undecided" {
            arguments.extend(["--tablespace-map", &map]);
        } else {
            arguments.push("--tablespaces-inside");
        }
        arguments.extend(purpose.iter().flat_map(|p| ["--as", p]));
        let directory = site.restore(name, &arguments);
        let clone = TestCluster::builder().start_existing(&directory);
        clone.wait_for_end_of_recovery();
        clone.psql(
            "postgres",
            "insert into spaced select generate_series(1, 100000); checkpoint; select pg_switch_wal()",
        );
        // The archiver has had its turn when it has failed, or when it claims to have archived.
        if clone.psql("postgres", "show archive_mode") == "on" {
            clone.wait_for(
                "postgres",
                "select failed_count > 0 or archived_count > 0 from pg_stat_archiver",
                "t",
            );
        }
        assert_eq!(archived(&site), source_files, "{name}: nothing was added");
        assert_eq!(
            site.cluster.psql("postgres", "select count(*) from spaced"),
            "1000",
            "production's tablespace"
        );
        if name == "undecided" {
            assert!(clone.log().contains("archiving is locked"), "{}", clone.log());
            let waiting = fs::read_dir(directory.join("pg_wal/archive_status")).expect("lists").flatten();
            assert!(
                waiting.filter(|e| e.file_name().to_string_lossy().ends_with(".ready")).count() > 0,
                "WAL is kept"
            );
        }
    }
}

/// PostgreSQL archives no history file when archiving is off at the promotion; recovery asks for it all the same.
#[test]
fn a_cluster_promoted_before_refloat_came() {
    let mut site = Site::with(TestCluster::builder().checksums(true), false, "");
    site.cluster.stop(StopMode::Fast);
    let signal = site.cluster.data_directory().join("standby.signal");
    fs::write(&signal, "").expect("writes");
    site.cluster.owner().give(&signal);
    site.cluster.start();
    site.cluster.promote();
    site.cluster.wait_for_end_of_recovery();
    site.cluster.psql("postgres", "create table t as select generate_series(1, 10) n");
    site.backup();
    let to = site.path("history");
    site.run(&["wal", "fetch", "--source", "prod", "00000002.history", to.to_str().expect("a path")]).ends(0);
    let original = site.cluster.data_directory().join("pg_wal/00000002.history");
    assert_eq!(fs::read(&to).expect("reads"), fs::read(original).expect("reads"));
    let directory = site.restore("promoted", &["latest", "--target-action", "promote", "--as", "copy"]);
    let clone = start_restored(15, &directory);
    clone.wait_for_end_of_recovery();
    assert_eq!(clone.psql("postgres", "select count(*) from t"), "10");
    prove(clone);
}
