//! A stopped cluster that ran on after its backup is brought back without fetching what is the same.

use std::fs;

use refloat_testkit::cluster::{StopMode, TestCluster};
use refloat_testkit::failpoints::arm;

use super::site::{Site, prove, run, start_restored};

/// A site whose cluster was spoiled after `moment`, and is stopped; with the truth of that moment.
fn spoiled() -> (Site, String, String) {
    let mut site = Site::new(TestCluster::builder().checksums(true));
    site.cluster.pgbench_init(4);
    site.backup();
    site.cluster.pgbench_transactions(200);
    // What is restored over has pages of both backups.
    site.run(&["backup", "prod", "--type", "incremental"]).ends(0);
    site.cluster.pgbench_transactions(50);
    let truth = site.cluster.psql("postgres", TRUTH);
    let moment = site.cluster.psql("postgres", "select clock_timestamp()");
    site.cluster.wait_for(
        "postgres",
        &format!("select clock_timestamp() > '{moment}'::timestamptz + '5 ms'"),
        "t",
    );
    site.cluster.psql("postgres", "truncate pgbench_history");
    site.cluster.psql("postgres", "drop table pgbench_tellers");
    site.cluster.psql("postgres", "create table late as select generate_series(1, 1000) n");
    site.archive_all();
    site.cluster.stop(StopMode::Fast);
    (site, moment, truth)
}

const TRUTH: &str = "select (select sum(abalance) from pgbench_accounts), (select count(*) from pgbench_history), \
    (select sum(tbalance) from pgbench_tellers)";

#[test]
fn in_place_it_says_what_it_does_and_what_stayed() {
    let (mut site, moment, truth) = spoiled();
    let data = site.cluster.data_directory().to_owned();
    let restore = ["restore", "prod", &moment, "--in-place", "--delta"];
    let with = |more: &[&'static str]| -> Vec<String> {
        restore.iter().chain(more).map(|word| (*word).to_owned()).collect()
    };
    let go = |more: &[&'static str]| {
        let all = with(more);
        site.run(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let planned = go(&["--dry-run"]).ends(0).stdout;
    assert!(planned.contains("  delta       what is the same there stays"), "{planned}");
    assert!(planned.contains(&format!("{}/pg_wal becomes {0}.pg_wal.before-", data.display())), "{planned}");
    assert_eq!(go(&["--dry-run", "--json"]).ends(0).json()["plan"]["delta"], true);
    // Without a terminal it has to be said.
    let asked = go(&[]).ends(2);
    assert!(asked.stderr.contains("--in-place --delta --yes"), "{}", asked.stderr);
    assert!(data.join("global/pg_control").exists() && !data.join("refloat.restoring").exists());

    let mut command = site.command(&with(&["--yes"]).iter().map(String::as_str).collect::<Vec<_>>());
    let killed = run(arm(&mut command, "restore.before_label=kill"));
    assert_eq!(killed.code, None, "{}", killed.stderr);
    assert!(TestCluster::builder().try_start_existing(&data).is_err(), "a half-restored directory started");
    let plain = site.run(&["restore", "prod", &moment, "--in-place", "--yes"]).ends(1);
    assert!(plain.stderr.contains("RST-024"), "{}", plain.stderr);

    let done = go(&["--yes", "--json"]).ends(0).json();
    let (kept, rewritten) = (done["delta"]["kept"].as_u64(), done["delta"]["rewritten"].as_u64());
    assert_eq!(kept.zip(rewritten).map(|(a, b)| a + b), done["bytes"].as_u64(), "{done}");
    assert!(kept > rewritten, "{done}");
    let aside = done["set_aside"][0]["to"].as_str().expect("a path").to_owned();
    assert!(fs::exists(format!("{aside}/archive_status")).expect("read"), "{aside}");
    site.cluster.start();
    site.cluster.wait_for("postgres", "select pg_get_wal_replay_pause_state()", "paused");
    assert_eq!(site.cluster.psql("postgres", TRUTH), truth);
    site.run(&["takeover", "prod"]).ends(0);
    site.cluster.psql("postgres", "create table after as select 1 a");
    site.archive_all();
    site.cluster.amcheck().expect("amcheck");
}

#[test]
fn a_copy_is_brought_back_to_another_moment() {
    let (mut site, moment, truth) = spoiled();
    site.cluster.start();
    let copy = site.restore("copy", &["latest", "--as", "copy"]);
    let mut clone = start_restored(15, &copy);
    assert_eq!(clone.psql("postgres", "select count(*) from late"), "1000");
    clone.stop(StopMode::Fast);
    drop(clone);
    let to = copy.display().to_string();
    let restore = ["restore", "prod", &moment, "--to", &to, "--as", "copy"];
    let refused = site.run(&restore).ends(1);
    assert!(refused.stderr.contains("RST-001"), "{}", refused.stderr);
    let delta = [&restore[..], &["--delta"]].concat();
    let asked = site.run(&delta).ends(2);
    assert!(asked.stderr.contains("--to DIR --delta --yes"), "{}", asked.stderr);
    let told = site.run(&[&delta[..], &["--yes"]].concat()).ends(0).stdout;
    assert!(told.contains(" of it were there and stay, "), "{told}");
    assert!(told.contains("copy.pg_wal.before-"), "{told}");
    let clone = start_restored(15, &copy);
    clone.wait_for_end_of_recovery();
    assert_eq!(clone.psql("postgres", TRUTH), truth);
    prove(clone);
}
