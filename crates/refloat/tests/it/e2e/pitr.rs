//! Point-in-time recovery by every kind of target, while the source is written, with tablespaces and DDL going on.

use std::collections::BTreeMap;
use std::time::Duration;

use refloat_testkit::cluster::{StopMode, TestCluster, skip_without};

use super::site::{Site, prove, start_restored};

/// What a cluster held at one moment, and every way to name the moment.
struct Moment {
    truth: BTreeMap<String, String>,
    time: String,
    lsn: String,
    xid: String,
    name: String,
}

/// Records the truth and names the moment. Nothing else writes meanwhile.
fn moment(cluster: &TestCluster, number: usize) -> Moment {
    let name = format!("moment {number}");
    cluster.psql(
        "postgres",
        &format!("create table if not exists marks(n int); insert into marks values ({number})"),
    );
    // The last transaction that belongs to the moment.
    let xid = cluster.psql(
        "postgres",
        &format!("insert into marks values ({number}) returning pg_current_xact_id()::text"),
    );
    let truth = cluster.dump_all_databases();
    cluster.psql("postgres", &format!("select pg_create_restore_point('{name}')"));
    let lsn = cluster.psql("postgres", "select pg_current_wal_insert_lsn()");
    let time = cluster.psql("postgres", "select clock_timestamp()");
    // What comes after must have a later time and a later LSN.
    std::thread::sleep(Duration::from_millis(50));
    let xid = xid.lines().next().unwrap_or_default().trim().to_owned();
    Moment { truth, time, lsn, xid, name }
}

fn load_with_ddl(site: &Site) {
    let cluster = &site.cluster;
    cluster.psql("postgres", "create database during_backup");
    cluster
        .psql("during_backup", "create table t as select generate_series(1, 5000) n; create index on t(n)");
    cluster.psql("postgres", "drop database to_be_dropped");
    cluster.psql(
        "postgres",
        "drop table if exists churn; create table churn as select generate_series(1, 20000) n",
    );
    cluster.psql("postgres", "truncate churn; insert into churn select generate_series(1, 3000)");
    cluster.psql("postgres", "create unlogged table fleeting as select generate_series(1, 1000) n");
    cluster.psql("postgres", "vacuum full churn");
}

fn by_each_target(version: u32) {
    if skip_without(version) {
        return;
    }
    let builder = TestCluster::builder().version(version).checksums(true).setting("full_page_writes", "on");
    // Slow enough that the load really goes on while files are copied.
    let site = Site::with(builder, true, "max_read_rate = \"30MB\"\n");
    let cluster = &site.cluster;
    let place = cluster.make_dir("space one");
    cluster.psql("postgres", "create database to_be_dropped");
    cluster.psql("postgres", &format!("create tablespace \"Räume\" location '{}'", place.display()));
    cluster.psql("postgres", "create table spaced tablespace \"Räume\" as select n, repeat('x', 200) v from generate_series(1, 30000) n");
    cluster.pgbench_init(8);

    let backup = std::thread::scope(|scope| {
        let backup = scope.spawn(|| site.backup());
        let load = cluster.pgbench_run_for(30);
        std::thread::sleep(Duration::from_millis(500));
        load_with_ddl(&site);
        let id = backup.join().expect("the backup ends");
        drop(load);
        id
    });

    // pg_dump shows contents of unlogged tables on a primary only, so the comparison does without.
    cluster.psql("postgres", "drop table fleeting");
    let mut moments = Vec::new();
    for number in 0..3 {
        cluster.pgbench_transactions(300);
        cluster.psql("postgres", &format!("create table step_{number} as select generate_series(1, 1000) n"));
        moments.push(moment(cluster, number));
    }
    cluster.psql("postgres", "drop table spaced, step_1");
    cluster.psql("postgres", "delete from pgbench_accounts where aid % 3 = 0");
    let last = moment(cluster, 3);
    site.archive_all();

    let [first, second, third] = &moments[..] else { panic!("three moments") };
    let mut exclusive = vec!["--target-xid", &third.xid, "--target-timeline", "1"];
    exclusive.truncate(2);
    let cases: [(&str, Vec<&str>, &BTreeMap<String, String>); 5] = [
        ("time", vec!["--target-time", &first.time], &first.truth),
        ("lsn", vec!["--target-lsn", &second.lsn], &second.truth),
        ("xid", exclusive, &third.truth),
        ("name", vec!["--target-name", &second.name], &second.truth),
        ("latest", vec!["latest", "--target-action", "promote"], &last.truth),
    ];
    for (what, arguments, truth) in cases {
        let mut all = arguments;
        all.extend(["--tablespaces-inside", "--as", "copy"]);
        let directory = site.restore(&format!("to-{what}"), &all);
        cluster.verifybackup(&directory).unwrap_or_else(|e| panic!("{what}: {e}"));
        let clone = start_restored(version, &directory);
        let found = clone.dump_all_databases();
        assert_same(what, &found, truth);
        prove(clone);
    }

    // Immediate: consistent at the end of the backup; what it holds lies between the moments, so only its soundness is told.
    let directory = site
        .restore("to-immediate", &[&backup, "--target", "immediate", "--tablespaces-inside", "--as", "copy"]);
    cluster.verifybackup(&directory).expect("pg_verifybackup");
    let clone = start_restored(version, &directory);
    assert_eq!(
        clone.psql("postgres", "select count(*) from pg_database where datname = 'to_be_dropped'"),
        "0"
    );
    prove(clone);
}

#[track_caller]
pub(super) fn assert_same(what: &str, found: &BTreeMap<String, String>, truth: &BTreeMap<String, String>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), truth.keys().collect::<Vec<_>>(), "{what}: databases");
    for (database, dump) in truth {
        // Where a clone's tablespaces lie is its own affair.
        let ours = |dump: &str| -> Vec<String> {
            let kept = dump.lines().filter(|line| !line.contains("LOCATION"));
            kept.map(str::to_owned).collect()
        };
        let (found, dump) = (ours(&found[database]), ours(dump));
        if let Some(at) = (0..found.len().max(dump.len())).find(|i| found.get(*i) != dump.get(*i)) {
            panic!("{what}: {database}: line {at}: found {:?}, expected {:?}", found.get(at), dump.get(at));
        }
    }
}

#[test]
fn by_each_target_15() {
    by_each_target(15);
}

#[test]
fn by_each_target_17() {
    by_each_target(17);
}

#[test]
fn by_each_target_18() {
    by_each_target(18);
}

#[test]
fn a_table_over_one_gigabyte() {
    let site = Site::new(
        TestCluster::builder().checksums(true).setting("max_wal_size", "4GB").setting("wal_level", "replica"),
    );
    let cluster = &site.cluster;
    cluster.psql(
        "postgres",
        "create table big as select n, repeat(chr(65 + n % 26), 8000) v from generate_series(1, 10) n; \
         alter table big alter v set storage plain; insert into big select n, repeat(chr(65 + n % 26), 4000) from generate_series(11, 280000) n",
    );
    let path = cluster.psql("postgres", "select pg_relation_filepath('big')");
    assert!(cluster.data_directory().join(format!("{path}.1")).exists(), "the table has a second segment");
    let sum = "select count(*), sum(n), sum(length(v)), md5(string_agg(left(v, 1), '' order by n)) from big";
    let truth = cluster.psql("postgres", sum);
    site.backup();
    site.archive_all();
    let directory = site.restore("big", &["latest", "--as", "copy"]);
    cluster.verifybackup(&directory).expect("pg_verifybackup");
    let mut clone = start_restored(15, &directory);
    assert_eq!(clone.psql("postgres", sum), truth);
    clone.stop(StopMode::Fast);
    clone.checksums_check().expect("checksums");
}

#[test]
fn without_an_archive_the_backup_stands_alone() {
    let site = Site::with(TestCluster::builder().checksums(true), false, "");
    site.cluster.pgbench_init(2);
    let truth = site.cluster.psql("postgres", "select sum(abalance), count(*) from pgbench_accounts");
    let id = site.backup();
    let directory = site.restore("alone", &[&id, "--target", "immediate", "--as", "copy"]);
    std::fs::rename(site.repo(), site.path("gone")).expect("the repository is away");
    let clone = start_restored(15, &directory);
    assert_eq!(clone.psql("postgres", "select sum(abalance), count(*) from pgbench_accounts"), truth);
    prove(clone);
}
