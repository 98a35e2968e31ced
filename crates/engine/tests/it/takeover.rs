//! Restored servers that take over.

use std::path::Path;
use std::time::Duration;

use refloat_engine::backup;
use refloat_engine::locked::Locked;
use refloat_engine::progress::Silent;
use refloat_engine::restore::{Become, Destination, Target, TargetAction, plan, restore};
use refloat_engine::takeover::{TakeoverError, TakeoverReport, TakeoverRequest, takeover};
use refloat_pg::sql::{ConnectOptions, Place};
use refloat_repo::commit::CommitRecord;
use refloat_testkit::cluster::{StopMode, TestCluster};
use refloat_types::{Clock as _, SystemClock, TimelineId};

use crate::backup::{Home, encrypted, home};
use crate::restore::{archived, backed_up, to};

fn take(home: &Home, commit: &CommitRecord, server: &TestCluster) -> Result<TakeoverReport, TakeoverError> {
    let request = TakeoverRequest {
        data_directory: server.data_directory().to_owned(),
        source: commit.commit.source,
        connection: ConnectOptions {
            place: Some(Place::Socket(server.socket_directory())),
            port: Some(server.port()),
            user: Some("postgres".to_owned()),
            ..ConnectOptions::default()
        },
        patience: Duration::from_secs(60),
        now: SystemClock.now(),
    };
    takeover(&request, &[&home.repository], &Silent)
}

fn restored(home: &Home, cluster: &TestCluster, commit: &CommitRecord, at: &Path, becomes: Become) {
    let mut request = to(cluster, commit, at);
    request.recovery.target = Target::Immediate;
    request.recovery.action = TargetAction::Pause;
    request.becomes = becomes;
    assert_eq!(request.to, Destination::Directory(at.to_owned()));
    restore(plan(&home.repository, request).expect("a plan"), &Silent, None).expect("a restore");
}

#[test]
fn a_paused_recovery_ends_and_archiving_is_unlocked() {
    let cluster =
        TestCluster::builder().setting("archive_mode", "on").setting("archive_command", "false").build();
    cluster.psql("postgres", "create table t as select 1 a;");
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    let directory = cluster.make_dir("copy");
    restored(&home, &cluster, &commit, &directory, Become::Undecided);
    let mut copy = TestCluster::builder().start_existing(&directory);
    copy.wait_for("postgres", "select pg_get_wal_replay_pause_state()", "paused");
    assert!(copy.try_psql("postgres", "insert into t values (2)").is_err(), "read-only until then");
    let report = take(&home, &commit, &copy).expect("a takeover");
    assert!(report.promoted && report.was_locked && report.running);
    assert_eq!(report.timeline, TimelineId::new(2).expect("not 0"));
    assert!(report.fork_lsn.is_some_and(|fork| fork >= commit.commit.cluster.stop_lsn));
    assert!(report.waiting_wal >= 1, "its history file waits");
    assert_eq!(Locked::read(&directory).expect("readable"), None);
    copy.psql("postgres", "insert into t values (2);");
    let owner = home.repository.owner(commit.commit.source).expect("reads").expect("there");
    assert_eq!((owner.timeline, owner.fork_lsn), (report.timeline, report.fork_lsn));
    assert_eq!(owner.restored_from.as_deref(), Some("k7r2"));
    assert_eq!(report.owner_generations, [owner.number]);
    let timeline = copy.psql("postgres", "select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)");
    assert_eq!(timeline, "00000002");
    // Once more, running or stopped: nothing is left to do.
    let again = take(&home, &commit, &copy).expect("a takeover");
    assert!(!again.promoted && !again.was_locked);
    copy.stop(StopMode::Fast);
    assert!(!take(&home, &commit, &copy).expect("a takeover").running);
}

#[test]
fn what_cannot_take_over_is_refused_and_stays_locked() {
    let cluster = TestCluster::builder().build();
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    let directory = cluster.make_dir("copy");
    restored(&home, &cluster, &commit, &directory, Become::Undecided);
    let mut copy = TestCluster::builder().start_existing(&directory);
    copy.wait_for("postgres", "select pg_get_wal_replay_pause_state()", "paused");
    copy.stop(StopMode::Fast);
    let error = take(&home, &commit, &copy).expect_err("recovery has not ended");
    assert!(matches!(error, TakeoverError::NotRecovered { .. }), "{error:?}");
    let other = TestCluster::builder().fresh_identity().build_stopped();
    let error = take(&home, &commit, &other).expect_err("another cluster");
    assert!(matches!(error, TakeoverError::Foreign { .. }), "{error:?}");
    assert!(Locked::read(&directory).expect("readable").is_some());

    let throw_away = cluster.make_dir("throw away");
    restored(&home, &cluster, &commit, &throw_away, Become::Copy);
    let copy = TestCluster::builder().start_existing(&throw_away);
    let error = take(&home, &commit, &copy).expect_err("a copy");
    assert!(matches!(error, TakeoverError::IsCopy { .. }), "{error:?}");
    let owner = home.repository.owner(commit.commit.source).expect("reads").expect("the first backup's");
    assert_eq!(owner.number, 1);
}

#[test]
fn a_server_that_still_fetches_is_not_cut_short() {
    let source = archived(TestCluster::builder());
    let home = home(encrypted());
    let commit = backed_up(&source.cluster, &home);
    // Replay looks ahead as far as half a megabyte, and would wait there before it is consistent.
    source.cluster.psql("postgres", "create table t as select generate_series(1, 100000) a;");
    source.settle();
    let cluster = &source.cluster;
    let directory = cluster.make_dir("copy");
    let mut request = to(cluster, &commit, &directory);
    // Consistent by what is archived, then waiting for more.
    let fetch = source.fetch();
    let wait = "case %f in *.history) exit 1;; esac; sleep 30; exit 255";
    request.recovery.restore_command = Some(format!("{fetch} 2>/dev/null && exit 0; {wait}"));
    restore(plan(&home.repository, request).expect("a plan"), &Silent, None).expect("a restore");
    let mut copy = TestCluster::builder().setting("hot_standby", "on").start_existing(&directory);
    let error = take(&home, &commit, &copy).expect_err("it waits for WAL");
    assert!(matches!(error, TakeoverError::Replaying { .. }), "{error:?}");
    assert!(Locked::read(&directory).expect("readable").is_some());
    copy.stop(StopMode::Immediate);
}

#[test]
fn a_locked_clone_is_refused_as_a_source_of_backups() {
    let cluster = TestCluster::builder().build();
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    let directory = cluster.make_dir("copy");
    let mut request = to(&cluster, &commit, &directory);
    request.recovery.target = Target::Immediate;
    request.recovery.action = TargetAction::Promote;
    restore(plan(&home.repository, request).expect("a plan"), &Silent, None).expect("a restore");
    let clone = TestCluster::builder().start_existing(&directory);
    clone.wait_for("postgres", "select pg_is_in_recovery()", "f");
    assert!(backup::run(&crate::backup::request(&clone, &home)).is_err(), "locked");
    take(&home, &commit, &clone).expect("a takeover");
    backup::run(&crate::backup::request(&clone, &home)).expect("the source's server now");
}
