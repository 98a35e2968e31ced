//! How far the restored server goes.

use super::*;

#[test]
fn every_target_is_reached_and_old_ones_are_set_aside() {
    let mut source = archived(TestCluster::builder());
    source.cluster.psql("postgres", "create table t as select 0 a;");
    // Left over from an earlier recovery, in both files; two targets are fatal.
    source.cluster.configure("recovery_target_name", "long gone");
    source.cluster.configure("primary_conninfo", "host=elsewhere");
    source.cluster.psql("postgres", "alter system set restore_command = 'cp /somewhere/else/%f %p';");
    source.cluster.psql("postgres", "alter system set recovery_target_timeline = '1';");
    source.cluster.restart();
    let home = home(encrypted());
    let commit = backed_up(&source.cluster, &home);
    let sql = |sql: &str| source.cluster.psql("postgres", sql);
    let mut steps = Vec::new();
    for a in 1..=3 {
        let xid = sql(&format!("begin;\ninsert into t values ({a});\nselect txid_current();\ncommit;"));
        sql(&format!("select pg_create_restore_point('after {a}');"));
        let lsn = sql("select pg_current_wal_lsn();");
        let time = sql("select to_char(clock_timestamp(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"');");
        sql("select pg_sleep(0.05);");
        steps.push((xid, lsn, time));
    }
    source.settle();
    let (xid, lsn, time) = &steps[1];
    let number: u64 = xid.trim().parse().expect("a number");
    let place = source.cluster.make_dir("copies");
    for (name, target, inclusive, action, expected, in_recovery) in [
        ("latest", Target::Latest, true, TargetAction::Pause, "0,1,2,3", "f"),
        ("immediate", Target::Immediate, true, TargetAction::Promote, "0", "f"),
        ("time", Target::Time(time.trim().parse().expect("a time")), true, TargetAction::Pause, "0,1,2", "t"),
        ("lsn", Target::Lsn(lsn.trim().parse().expect("an LSN")), true, TargetAction::Promote, "0,1,2", "f"),
        ("xid", Target::Xid(number), true, TargetAction::Pause, "0,1,2", "t"),
        ("before", Target::Xid(number), false, TargetAction::Pause, "0,1", "t"),
        ("name", Target::Name("after 2".to_owned()), true, TargetAction::Pause, "0,1,2", "t"),
    ] {
        let directory = place.join(name);
        let mut request = to(&source.cluster, &commit, &directory);
        request.recovery.restore_command = Some(source.fetch());
        request.recovery.target = target;
        request.recovery.inclusive = inclusive;
        request.recovery.action = action;
        run(&home, request).expect("a restore");
        source.cluster.verifybackup(&directory).expect("pg_verifybackup is content");
        let copy = TestCluster::builder().setting("archive_mode", "off").start_existing(&directory);
        if in_recovery == "t" {
            copy.wait_for("postgres", "select pg_get_wal_replay_pause_state()", "paused");
        }
        copy.wait_for("postgres", "select pg_is_in_recovery()", in_recovery);
        let found = copy.psql("postgres", "select string_agg(a::text, ',' order by a) from t");
        assert_eq!(found, expected, "{name}");
        assert_eq!(copy.psql("postgres", "show primary_conninfo"), "");
    }
    source.cluster.stop(StopMode::Fast);
}

#[test]
fn a_target_before_the_backup_is_refused() {
    let cluster = TestCluster::builder().build();
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    let point = &commit.commit.cluster;
    let directory = cluster.make_dir("places").join("x");
    for target in [
        Target::Time(point.stop_time - std::time::Duration::from_secs(1)),
        Target::Lsn(refloat_types::Lsn(point.stop_lsn.0 - 1)),
    ] {
        let mut request = to(&cluster, &commit, &directory);
        request.recovery.target = target;
        let error = run(&home, request).expect_err("refused");
        assert!(matches!(error, RestoreError::TargetTooEarly { .. }), "{error:?}");
    }
    assert!(!directory.exists());
}
