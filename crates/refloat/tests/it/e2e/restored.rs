//! What a restore says when it is done, and whether it is true.

use refloat_testkit::cluster::TestCluster;

use super::site::{Site, prove, start_restored};

/// A restore that is not decided yet, to a time; what it printed.
fn restored_to(site: &Site, name: &str, time: &str) -> String {
    let to = site.path(name).display().to_string();
    let run = site.run(&["restore", "prod", time, "--to", &to, "--yes"]).ends(0);
    run.stdout.replace(&site.home.display().to_string(), "HOME")
}

fn now(site: &Site) -> String {
    let time = site.cluster.psql("postgres", "select clock_timestamp()");
    // What comes after must have a later time.
    site.cluster.wait_for(
        "postgres",
        &format!("select clock_timestamp() > '{time}'::timestamptz + '5 ms'"),
        "t",
    );
    time
}

#[test]
fn a_table_that_cannot_be_read_yet_is_told_only_where_there_is_one() {
    let site = Site::new(TestCluster::builder());
    site.cluster.psql("postgres", "create table early as select 1 a; create table late as select 1 a");
    site.backup();
    // Nothing ends between the backup and this drop, so recovery can only stop within it.
    let first = now(&site);
    site.cluster.psql("postgres", "drop table early");
    site.cluster.psql("postgres", "insert into late values (2)");
    let second = now(&site);
    site.cluster.psql("postgres", "drop table late");
    site.archive_all();

    let filters = vec![
        (r"restored to .*: .* in [0-9.]+ s", "restored to TIME: SIZE in SECONDS"),
        (r"replays \S+ \S+ at most", "replays SIZE at most"),
        (r"sudo -u \S+ ", ""),
        (r"-p \d+", "-p PORT"),
        (r"/\S+/bin/pg_ctl", "pg_ctl"),
        (r"/\S+/refloat ", "refloat "),
        (r"refloat --config \S+ ", "refloat "),
    ];
    insta::with_settings!({filters => filters}, {
        insta::assert_snapshot!("restored_within", restored_to(&site, "within", &first));
        insta::assert_snapshot!("restored_exactly", restored_to(&site, "exactly", &second));
    });
    let within = start_restored(15, &site.path("within"));
    let locked = within.try_psql("postgres", "set lock_timeout = '100ms'; select count(*) from early");
    assert!(locked.is_err_and(|why| why.contains("lock timeout")), "it is locked, as was said");
    drop(within);
    let exactly = start_restored(15, &site.path("exactly"));
    let read = exactly.try_psql("postgres", "set lock_timeout = '100ms'; select count(*) from late");
    assert_eq!(read.expect("it can be read").trim(), "2");
}

/// What is archived after a restore was planned, and before its server starts, lies behind the target.
#[test]
fn what_is_archived_later_is_not_replayed() {
    let site = Site::new(TestCluster::builder());
    site.cluster.psql("postgres", "create table t as select 1 a");
    site.backup();
    site.cluster.psql("postgres", "insert into t values (2)");
    let time = now(&site);
    site.archive_all();
    let to = site.path("before");
    let path = to.display().to_string();
    let run = site.run(&["restore", "prod", &time, "--to", &path, "--as", "copy", "--yes"]).ends(0);
    assert!(run.stderr.contains("nothing that is archived from now on is"), "{}", run.stderr);
    // No transaction had ended after that time. Now one does.
    site.cluster.psql("postgres", "delete from t");
    site.archive_all();
    let clone = start_restored(15, &to);
    assert_eq!(clone.psql("postgres", "select sum(a) from t"), "3");
    prove(clone);
}
