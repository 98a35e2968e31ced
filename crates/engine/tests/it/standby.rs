//! Backups of standbys: with a primary that works, that is idle, that is dead.

use std::path::Path;

use refloat_engine::backup::{self, BackupError, BackupReport, Wanted};
use refloat_engine::progress::Progress;
use refloat_engine::restore::{Target, plan, restore};
use refloat_pg::sql::SqlError;
use refloat_repo::commit::CommitRecord;
use refloat_repo::repository::OwnerRecord;
use refloat_testkit::cluster::{StopMode, TestCluster, skip_without};
use refloat_types::{Clock as _, SystemClock, TimelineId};

use crate::backup::{Home, encrypted, home, record, request};
use crate::restore::to;

fn make(cluster: &TestCluster, home: &Home, wanted: Wanted) -> BackupReport {
    let mut request = request(cluster, home);
    request.wanted = wanted;
    backup::run(&request).expect("a backup of the standby")
}

/// Restores a backup as it was at its end, with its own WAL and nothing else, and starts it.
fn restored(home: &Home, of: &TestCluster, commit: &CommitRecord, directory: &Path) -> TestCluster {
    let mut request = to(of, commit, directory);
    request.recovery.target = Target::Immediate;
    request.recovery.action = refloat_engine::restore::TargetAction::Promote;
    restore(plan(&home.repository, request).expect("a plan"), &refloat_engine::progress::Silent, None)
        .expect("a restore");
    of.verifybackup(directory).expect("pg_verifybackup is content");
    let builder = TestCluster::builder().version(of.version());
    let copy = builder.setting("archive_mode", "off").start_existing(directory);
    copy.wait_for("postgres", "select pg_is_in_recovery()", "f");
    copy
}

/// With load on the primary, then with an idle one, then without any: each backup is whole by itself.
fn with_and_without_a_primary(version: u32) {
    if skip_without(version) {
        return;
    }
    let mut primary = TestCluster::builder().version(version).build();
    primary.pgbench_init(2);
    let standby = primary.standby(&[]);
    let (home, place) = (home(encrypted()), primary.make_dir("copies"));

    let load = primary.pgbench_run_for(60);
    primary.wait_for("postgres", "select count(*) > 100 from pgbench_history", "t");
    let busy = make(&standby, &home, Wanted::Full);
    drop(load);
    primary
        .psql("postgres", "insert into pgbench_history select 1, 1, 1, 1, now() from generate_series(1, 5)");
    standby.catch_up(&primary);
    let idle = make(&standby, &home, Wanted::Suitable);
    primary.stop(StopMode::Immediate);
    let alone = make(&standby, &home, Wanted::Suitable);
    assert_eq!(
        (busy.kind, idle.kind, alone.kind),
        ("full", "incr", "incr"),
        "{:?} {:?}",
        idle.notes,
        alone.notes
    );

    let truth = standby.dump_all_databases();
    for report in [&busy, &idle, &alone] {
        let commit = record(&home, report);
        assert!(commit.commit.own_wal && commit.commit.cluster.standby);
        let copy = restored(&home, &standby, &commit, &place.join(report.backup.to_string()));
        if report.backup == busy.backup {
            // What pgbench keeps true whatever was going on.
            let balanced = "select (select sum(abalance) from pgbench_accounts) = (select sum(tbalance) from pgbench_tellers)";
            assert_eq!(copy.psql("postgres", balanced), "t");
        } else {
            assert!(copy.dump_all_databases() == truth, "{report:?}");
        }
        copy.amcheck().expect("amcheck is content");
    }
}

#[test]
fn on_15() {
    with_and_without_a_primary(15);
}
#[test]
fn on_17() {
    with_and_without_a_primary(17);
}
#[test]
fn on_18() {
    with_and_without_a_primary(18);
}

/// Does something when the copy begins.
struct WhenCopying<'a>(Box<dyn Fn() + Send + Sync + 'a>);

impl Progress for WhenCopying<'_> {
    fn phase(&self, name: &str, _total: u64) {
        if name == "copy" {
            (self.0)();
        }
    }
    fn advance(&self, _by: u64) {}
    fn note(&self, _text: &str) {}
}

fn nothing_is_visible(home: &Home) {
    let source = home.repository.find_source(&"prod".parse().expect("a name")).expect("lists");
    let commits = source.map(|source| home.repository.commit_keys(source.id).expect("lists"));
    assert!(commits.unwrap_or_default().is_empty());
}

#[test]
fn a_promotion_ends_the_backup() {
    let primary = TestCluster::builder().build();
    let standby = primary.standby(&[]);
    let home = home(encrypted());
    let promote = WhenCopying(Box::new(|| standby.promote()));
    let error = backup::run(&backup::BackupRequest { progress: &promote, ..request(&standby, &home) })
        .expect_err("promoted");
    assert!(matches!(error, BackupError::Server(SqlError::Promoted { .. })), "{error:?}");
    nothing_is_visible(&home);
    // The next one is a primary's.
    let report = make(&standby, &home, Wanted::Suitable);
    assert!(!record(&home, &report).commit.cluster.standby);
}

#[test]
fn wal_without_full_pages_ends_the_backup_and_refuses_the_next() {
    let primary = TestCluster::builder().build();
    primary.pgbench_init(1);
    let standby = primary.standby(&[]);
    let home = home(encrypted());
    let off = WhenCopying(Box::new(|| {
        primary.psql("postgres", "alter system set full_page_writes = off");
        primary.reload();
        primary.wait_for("postgres", "show full_page_writes", "off");
        primary.psql("postgres", "checkpoint; update pgbench_accounts set abalance = 1");
        standby.catch_up(&primary);
    }));
    let error = backup::run(&backup::BackupRequest { progress: &off, ..request(&standby, &home) })
        .expect_err("PostgreSQL refuses to end it");
    assert!(error.to_string().contains("end the backup"), "{error}");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(format!("{error} {cause}").contains("full_page_writes"), "{error}: {cause}");
    let error = backup::run(&request(&standby, &home)).expect_err("PostgreSQL refuses to begin");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(format!("{error} {cause}").contains("full_page_writes"), "{error}: {cause}");
    nothing_is_visible(&home);
    primary.psql("postgres", "alter system reset full_page_writes");
    primary.reload();
    primary.wait_for("postgres", "show full_page_writes", "on");
    primary.psql("postgres", "checkpoint");
    standby.catch_up(&primary);
    make(&standby, &home, Wanted::Full);
}

#[test]
fn a_standby_that_the_source_has_left_behind_is_refused() {
    let primary = TestCluster::builder().build();
    let standby = primary.standby(&[]);
    let home = home(encrypted());
    make(&standby, &home, Wanted::Full);
    let source =
        home.repository.find_source(&"prod".parse().expect("a name")).expect("lists").expect("there");
    let owner = home.repository.owner(source.id).expect("reads").expect("recorded");
    let at = primary.psql("postgres", "select pg_current_wal_insert_lsn()").trim().parse().expect("an LSN");
    let taken_over = |at| OwnerRecord {
        at: SystemClock.now(),
        timeline: TimelineId::new(2).expect("not zero"),
        fork_lsn: Some(at),
        ..owner.clone()
    };
    home.repository.put_owner(taken_over(at)).expect("stores");
    // It is where the source left its timeline, and may follow yet.
    make(&standby, &home, Wanted::Full);
    primary.psql("postgres", "create table only_here as select 1");
    standby.catch_up(&primary);
    let error = backup::run(&request(&standby, &home)).expect_err("refused");
    assert!(matches!(error, BackupError::StandbyLeft { timeline: 1, owner: 2, .. }), "{error:?}");
    assert!(error.to_string().contains("follows timeline 1"), "{error}");
}

#[test]
fn a_server_that_waits_at_its_target_is_no_standby() {
    let primary = TestCluster::builder().build();
    let mut standby = primary.standby(&[]);
    let home = home(encrypted());
    primary.psql("postgres", "create table t as select 1 a");
    standby.catch_up(&primary);
    standby.stop(StopMode::Fast);
    let signal = |name: &str| standby.data_directory().join(name);
    std::fs::rename(signal("standby.signal"), signal("recovery.signal")).expect("renamed");
    std::fs::OpenOptions::new()
        .append(true)
        .open(signal("postgresql.auto.conf"))
        .and_then(|mut file| {
            use std::io::Write as _;
            file.write_all(b"restore_command = '/bin/false'\nrecovery_target = 'immediate'\n")
        })
        .expect("written");
    standby.start();
    standby.wait_for("postgres", "select pg_get_wal_replay_pause_state()", "paused");
    let error = backup::run(&request(&standby, &home)).expect_err("refused");
    assert!(matches!(error, BackupError::InRecovery { .. }), "{error:?}");
}

/// A standby that replays late is backed up as what it is; nothing newer than itself is its parent.
#[test]
fn a_late_standby_is_backed_up_as_of_then() {
    let primary = TestCluster::builder().build();
    primary.psql("postgres", "create table t as select 1 a");
    let standby = primary.standby(&[]);
    let home = home(encrypted());
    primary.psql("postgres", "insert into t values (2)");
    standby.catch_up(&primary);
    standby.configure("recovery_min_apply_delay", "1h");
    standby.reload();
    standby.wait_for("postgres", "show recovery_min_apply_delay", "1h");
    let before = SystemClock.now();
    primary.psql("postgres", "insert into t values (3)");
    let received = "select pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()";
    standby.wait_for("postgres", received, "t");
    let late = make(&standby, &home, Wanted::Suitable);
    let commit = record(&home, &late);
    let point = &commit.commit.cluster;
    assert!(point.stop_time <= before, "{} {before}", point.stop_time);
    assert!(point.start_time <= point.stop_time);
    let copy = restored(&home, &primary, &commit, &primary.make_dir("copies").join("late"));
    assert_eq!(copy.psql("postgres", "select string_agg(a::text, ',' order by a) from t"), "1,2");

    // Behind what is stored by now, another one would pass for the newest state and is none.
    let newer = make(&primary, &home, Wanted::Suitable);
    let error = backup::run(&request(&standby, &home)).expect_err("refused");
    assert!(
        matches!(error, BackupError::StandbyBehind { backup, .. } if backup == newer.backup),
        "{error:?}"
    );
}

/// No slot keeps the WAL: nothing must be done that removes it.
#[test]
fn without_a_slot_the_wal_is_not_removed_under_the_backup() {
    let primary = TestCluster::builder().build();
    primary.pgbench_init(1);
    let standby = primary.standby(&[("max_replication_slots", "0"), ("wal_keep_size", "0")]);
    let home = home(encrypted());
    let busy = WhenCopying(Box::new(|| {
        for _ in 0..3 {
            primary.psql(
                "postgres",
                "update pgbench_accounts set abalance = abalance + 1; select pg_switch_wal()",
            );
        }
        primary.psql("postgres", "checkpoint");
        standby.catch_up(&primary);
    }));
    let report = backup::run(&backup::BackupRequest { progress: &busy, ..request(&standby, &home) });
    let report = report.expect("a backup that ends earlier, and is whole");
    let commit = record(&home, &report);
    let copy = restored(&home, &standby, &commit, &primary.make_dir("copies").join("noslot"));
    copy.amcheck().expect("amcheck is content");
}
