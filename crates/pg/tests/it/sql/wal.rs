use refloat_testkit::cluster::{TestCluster, skip_without};

use super::session;

#[test]
fn a_switch_on_an_idle_server_makes_a_segment_each_time() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().wal_segment_size_mb(1).setting("archive_mode", "on").build();
    let archive = cluster.make_dir("archive");
    cluster.configure("archive_command", &format!("cp %p {}/%f", archive.display()));
    cluster.reload();
    let session = session(&cluster);
    let mut last = None;
    for _ in 0..3 {
        let switched = session.switch_wal().expect("a superuser may");
        assert!(last < Some(switched.segment), "{last:?} {switched:?}");
        last = Some(switched.segment);
        // The archiver really gets the segment that was named.
        cluster.wait_for(
            "postgres",
            &format!("select last_archived_wal >= '{}' from pg_stat_archiver;", switched.segment),
            "t",
        );
        assert!(archive.join(switched.segment.to_string()).exists());
        assert!(session.current_wal_lsn().expect("read") > switched.lsn);
    }
    let status = session.archiver_status().expect("read");
    assert_eq!((status.mode.as_str(), status.is_failing()), ("on", false));
    assert!(status.command.starts_with("cp %p") && status.archived >= 3, "{status:?}");
    assert_eq!(status.last_archived, last.map(|segment| segment.to_string()));
    assert!(status.last_archived_file().is_some());
}

#[test]
fn a_failing_archiver_is_seen() {
    if skip_without(15) {
        return;
    }
    let cluster =
        TestCluster::builder().setting("archive_mode", "on").setting("archive_command", "false").build();
    let session = session(&cluster);
    let switched = session.switch_wal().expect("a superuser may");
    cluster.wait_for("postgres", "select failed_count > 0 from pg_stat_archiver;", "t");
    let status = session.archiver_status().expect("read");
    assert!(status.is_failing() && status.failed > 0, "{status:?}");
    assert_eq!(status.last_failed, Some(switched.segment.to_string()));
}

#[test]
fn an_unset_archiver_has_no_command() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().build();
    let status = session(&cluster).archiver_status().expect("read");
    assert_eq!((status.mode.as_str(), status.command.as_str(), status.last_archived), ("off", "", None));
}

#[test]
fn restore_points_are_written_whatever_their_name() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().build();
    let session = session(&cluster);
    let lsn = session.create_restore_point("vor'm \\ Umzug ü").expect("a superuser may");
    session.switch_wal().expect("a superuser may");
    let dump = cluster
        .as_owner(cluster.bin("pg_waldump"))
        .arg("-p")
        .arg(cluster.data_directory().join("pg_wal"))
        .args(["-s", "0/1000000", "-r", "XLOG"])
        .output()
        .expect("started");
    let text = String::from_utf8_lossy(&dump.stdout);
    assert!(text.contains("RESTORE_POINT vor'm \\ Umzug ü"), "{text}");
    assert!(session.current_wal_lsn().expect("read") >= lsn);
}
