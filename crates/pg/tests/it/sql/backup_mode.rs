use refloat_pg::sql::{BackupStart, Reservation, Session, SqlError};
use refloat_testkit::cluster::{StopMode, TestCluster, skip_without};
use refloat_types::Explain as _;

use super::{full, options, session};

fn fast(label: &str) -> BackupStart {
    BackupStart { label: label.to_owned(), fast: true }
}

fn sessions_of_refloat(cluster: &TestCluster) -> String {
    cluster.psql("postgres", "select count(*) from pg_stat_activity where application_name = 'refloat';")
}

#[test]
fn a_backup_starts_pings_and_stops() {
    if skip_without(15) {
        return;
    }
    backup_of_version(15);
}

#[test]
fn a_backup_of_17_and_18_too() {
    for version in [17, 18] {
        if !skip_without(version) {
            backup_of_version(version);
        }
    }
}

fn backup_of_version(version: u32) {
    let cluster = TestCluster::builder().version(version).build();
    let space = cluster.make_dir("spa ce");
    cluster.psql("postgres", &format!("create tablespace \"Spä\" location '{}';", space.display()));
    let session = session(&cluster);
    let reserved = session.reserve_wal().expect("asked");
    let backup = session.start_backup(&fast("it's a label")).expect("a superuser may");
    let start = backup.start().clone();
    assert!(reserved.lsn().is_some_and(|held| held <= start.lsn), "{reserved:?} {start:?}");
    let control = |field: &str| cluster.psql("postgres", &format!("select {field};"));
    assert_eq!(start.system.to_string(), control("system_identifier from pg_control_system()"));
    assert_eq!(start.lsn.to_string(), control("redo_lsn from pg_control_checkpoint()"));
    assert_eq!(start.wal_segment.to_string(), control("redo_wal_file from pg_control_checkpoint()"));
    assert_eq!((start.timeline.get(), start.in_recovery), (1, false));
    cluster.psql("postgres", "create table t as select generate_series(1, 1000);");
    let ping = backup.ping().expect("it goes on");
    assert!(ping.lsn > start.lsn && ping.wal_held == Some(true), "{ping:?}");
    let (stop, session) = backup.stop().expect("it stops");
    let label = String::from_utf8(stop.label).expect("ASCII");
    assert!(
        label.contains(&format!("START WAL LOCATION: {} (file {})", start.lsn, start.wal_segment)),
        "{label}"
    );
    assert!(label.contains("LABEL: it's a label\n") && label.contains("BACKUP METHOD: streamed"), "{label}");
    let oid = control("oid from pg_tablespace where spcname = 'Spä'");
    assert_eq!(
        String::from_utf8(stop.tablespace_map).expect("UTF-8"),
        format!("{oid} {}\n", space.display())
    );
    assert!(
        stop.lsn > start.lsn
            && stop.wal_segment >= start.wal_segment
            && stop.server_time >= start.server_time
    );
    // The slot goes with the session.
    assert_eq!(control("count(*) from pg_replication_slots"), "1");
    session.close();
    cluster.wait_for("postgres", "select count(*) from pg_replication_slots;", "0");
}

#[test]
fn dropping_it_leaves_the_server_clean() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().setting("log_min_messages", "warning").build();
    let backup = session(&cluster).start_backup(&fast("dropped")).expect("it starts");
    // No view shows backups that run; PostgreSQL's own words in its log are the witness.
    assert_eq!(sessions_of_refloat(&cluster), "1");
    drop(backup);
    cluster.wait_for(
        "postgres",
        "select count(*) from pg_stat_activity where application_name = 'refloat';",
        "0",
    );
    let log = cluster.log();
    assert!(log.contains("aborting backup due to backend exiting before pg_backup_stop was called"), "{log}");
    // Nothing is left: the next one works and its label is its own.
    let (stop, _) =
        session(&cluster).start_backup(&fast("next")).expect("it starts").stop().expect("it stops");
    assert!(String::from_utf8_lossy(&stop.label).contains("LABEL: next\n"));
    assert!(!cluster.data_directory().join("backup_label").exists());
}

#[test]
fn a_killed_server_is_noticed_and_named() {
    if skip_without(15) {
        return;
    }
    let mut cluster = TestCluster::builder().build();
    let backup = session(&cluster).start_backup(&fast("killed")).expect("it starts");
    backup.ping().expect("it goes on");
    cluster.crash();
    let error = backup.ping().expect_err("the server is dead");
    assert!(matches!(error, SqlError::Lost { .. }) && error.is_lost(), "{error:?}");
    assert!(
        error.to_string().ends_with("while copying files: the server does not answer any more"),
        "{error}"
    );
    assert_eq!((error.advice().code, error.advice().exit_code()), ("PG-008", 5));
    cluster.start();
    let error = backup.ping().expect_err("another server process");
    assert!(error.to_string().ends_with("the server was restarted"), "{error}");
    let error = backup.stop().map(drop).expect_err("nothing to stop");
    assert!(error.to_string().contains("while ending the backup"), "{error}");
}

#[test]
fn a_terminated_session_says_who_ended_it() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().build();
    let backup = session(&cluster).start_backup(&fast("terminated")).expect("it starts");
    cluster.psql(
        "postgres",
        "select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = 'refloat';",
    );
    let error = backup.ping().expect_err("terminated");
    let text = full(&error);
    assert!(
        text.contains("this session was ended")
            && text.contains("terminating connection due to administrator command"),
        "{text}"
    );
}

#[test]
fn a_promotion_during_a_standby_s_backup_ends_it() {
    if skip_without(15) {
        return;
    }
    let primary = TestCluster::builder().build();
    let copy = primary.make_dir("standby");
    let status =
        primary.client("pg_basebackup").arg("-D").arg(&copy).args(["--checkpoint=fast", "-R"]).status();
    assert!(status.expect("started").success());
    let standby = TestCluster::builder().start_existing(&copy);
    let on_standby = || Session::connect(&options(&standby)).expect("it runs");
    let (stop, _) = on_standby().start_backup(&fast("standby")).expect("it starts").stop().expect("it stops");
    assert!(String::from_utf8_lossy(&stop.label).contains("BACKUP FROM: standby"));
    let error = on_standby().switch_wal().expect_err("a standby");
    assert!(matches!(error, SqlError::OnStandby { .. }), "{error:?}");
    let backup = on_standby().start_backup(&fast("promoted")).expect("it starts");
    assert!(backup.start().in_recovery);
    standby.promote();
    assert!(matches!(backup.ping(), Err(SqlError::Promoted { .. })));
    let error = backup.stop().map(drop).expect_err("promoted");
    assert!(matches!(error, SqlError::Promoted { .. }), "{error:?}");
}

#[test]
fn a_server_without_slots_says_so_and_backs_up_all_the_same() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().setting("max_replication_slots", "0").build();
    let session = session(&cluster);
    let reserved = session.reserve_wal().expect("asked");
    assert!(
        matches!(&reserved, Reservation::NotPossible { reason } if reason.contains("max_replication_slots")),
        "{reserved:?}"
    );
    let backup = session.start_backup(&fast("no slot")).expect("it starts");
    assert_eq!(backup.ping().expect("it goes on").wal_held, None);
    backup.stop().expect("it stops");
}

#[test]
fn wal_level_minimal_is_refused_in_the_server_s_words() {
    if skip_without(15) {
        return;
    }
    let mut cluster =
        TestCluster::builder().setting("wal_level", "minimal").setting("max_wal_senders", "0").build();
    let error = session(&cluster).start_backup(&fast("minimal")).map(drop).expect_err("not enough WAL");
    assert!(
        full(&error).contains("WAL level not sufficient for making an online backup"),
        "{}",
        full(&error)
    );
    cluster.stop(StopMode::Fast);
}
