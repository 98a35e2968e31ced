//! Restored servers that take over.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use refloat_engine::backup;
use refloat_engine::locked::Locked;
use refloat_engine::progress::Silent;
use refloat_engine::restore::{Become, Destination, Target, TargetAction, plan, restore};
use refloat_engine::takeover::{Held, Kept, TakeoverError, TakeoverReport, TakeoverRequest, takeover};
use refloat_pg::sql::{ConnectOptions, Place};
use refloat_repo::commit::CommitRecord;
use refloat_store::StoreErrorKind;
use refloat_store::posix::{Options, PosixStore};
use refloat_testkit::cluster::{StopMode, TestCluster};
use refloat_testkit::fault_plan::{Effect, FaultPlan, Faulty, On, Rule};
use refloat_types::{Clock as _, Explain as _, SystemClock, TimelineId};

use crate::backup::{Home, encrypted, home, reopened};
use crate::restore::{archived, backed_up, to};

fn take(home: &Home, commit: &CommitRecord, server: &TestCluster) -> Result<TakeoverReport, TakeoverError> {
    let kept = Kept { repository: &home.repository, source: commit.commit.source };
    take_in(&[kept], server, "postgres")
}

fn take_in(
    repositories: &[Kept<'_>],
    server: &TestCluster,
    user: &str,
) -> Result<TakeoverReport, TakeoverError> {
    take_noting(repositories, server, user).0
}

/// Answers too how often it came as far as promoting the server.
fn take_noting(
    repositories: &[Kept<'_>],
    server: &TestCluster,
    user: &str,
) -> (Result<TakeoverReport, TakeoverError>, u32) {
    let promoting = std::cell::Cell::new(0);
    let request = TakeoverRequest {
        data_directory: server.data_directory().to_owned(),
        connection: ConnectOptions {
            place: Some(Place::Socket(server.socket_directory())),
            port: Some(server.port()),
            user: Some(user.to_owned()),
            ..ConnectOptions::default()
        },
        patience: Duration::from_secs(60),
        now: SystemClock.now(),
    };
    let note = || {
        promoting.set(promoting.get() + 1);
        Ok(Box::new(()) as Held)
    };
    let result = takeover(&request, repositories, &note, &Silent);
    (result, promoting.get())
}

fn restored(home: &Home, cluster: &TestCluster, commit: &CommitRecord, at: &Path, becomes: Become) {
    restored_as("k7r2", home, cluster, commit, at, becomes);
}

fn restored_as(
    id: &str,
    home: &Home,
    cluster: &TestCluster,
    commit: &CommitRecord,
    at: &Path,
    becomes: Become,
) {
    let mut request = to(cluster, commit, at);
    request.restore_id = id.to_owned();
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
    // Reading ahead was off for this recovery alone.
    assert_eq!(copy.psql("postgres", "show recovery_prefetch"), "off");
    copy.reload();
    copy.wait_for("postgres", "show recovery_prefetch", "try");
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
    let kept = Kept { repository: &home.repository, source: commit.commit.source };
    let (result, promoting) = take_noting(&[kept], &copy, "postgres");
    let error = result.expect_err("it waits for WAL");
    assert!(matches!(error, TakeoverError::Replaying { .. }), "{error:?}");
    assert_eq!(promoting, 0, "what counts for a promotion counts at no time while WAL is replayed");
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

/// Rights cannot be granted to a role of a server that is read-only.
#[test]
fn a_role_without_rights_can_take_over() {
    let cluster = TestCluster::builder().build();
    cluster.psql("postgres", "create role plain login;");
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    let directory = cluster.make_dir("copy");
    restored(&home, &cluster, &commit, &directory, Become::Undecided);
    let copy = TestCluster::builder().start_existing(&directory);
    let kept = Kept { repository: &home.repository, source: commit.commit.source };
    let (report, promoting) = take_noting(&[kept], &copy, "plain");
    let report = report.expect("a takeover");
    assert_eq!(promoting, 1);
    assert!(report.promoted && Locked::read(&directory).expect("readable").is_none());
    assert_eq!(copy.psql("postgres", "select pg_is_in_recovery()"), "f");
    assert!(!directory.join("promote").exists(), "the server has seen it");
}

#[test]
fn a_standby_that_follows_quietly_is_not_promoted() {
    let cluster = TestCluster::builder().build();
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    let directory = cluster.make_dir("copy");
    restore(plan(&home.repository, to(&cluster, &commit, &directory)).expect("a plan"), &Silent, None)
        .expect("a restore");
    std::fs::rename(directory.join("recovery.signal"), directory.join("standby.signal")).expect("renamed");
    let copy = TestCluster::builder().start_existing(&directory);
    let error = take(&home, &commit, &copy).expect_err("it waits for WAL that may come");
    assert!(matches!(error, TakeoverError::Replaying { .. }), "{error:?}");
    assert_eq!(copy.psql("postgres", "select pg_is_in_recovery()"), "t");
    assert!(Locked::read(&directory).expect("readable").is_some());
}

#[test]
fn the_lock_stays_until_every_repository_knows_the_new_owner() {
    let cluster = TestCluster::builder().build();
    let (good, bad) = (home(encrypted()), home(encrypted()));
    let commit = backed_up(&cluster, &good);
    let second = backed_up(&cluster, &bad);
    let place = |home: &Home| home.repository.store().describe().to_owned();
    let faults = FaultPlan::new();
    let root = place(&bad).trim_start_matches("file://").to_owned();
    let store = PosixStore::open(root, Options::default()).expect("a store");
    let bad = reopened(&bad, Arc::new(Faulty::new(store, &faults)));
    let of_good = Kept { repository: &good.repository, source: commit.commit.source };
    let of_bad = Kept { repository: &bad, source: second.commit.source };
    assert_ne!(of_good.source, of_bad.source);
    let owners = |number: u64| {
        let number_of =
            |kept: &Kept<'_>| kept.repository.owner(kept.source).expect("reads").map(|o| o.number);
        assert_eq!(number_of(&of_good), Some(number), "the one that works knows, once");
        number_of(&of_bad)
    };
    for (name, order) in [("first", [of_bad, of_good]), ("last", [of_good, of_bad])] {
        let directory = cluster.make_dir(name);
        restored_as(name, &good, &cluster, &commit, &directory, Become::Undecided);
        let copy = TestCluster::builder().start_existing(&directory);
        let before = good.repository.owner(of_good.source).expect("reads").map_or(0, |owner| owner.number);
        faults.add(Rule::new(On::Put, Effect::Refuse(StoreErrorKind::Unreachable)).key("/owner/"));
        for _ in 0..2 {
            let error = take_in(&order, &copy, "postgres").expect_err("one does not answer");
            assert!(error.to_string().contains(bad.store().describe()), "{error}");
            let advice = error.advice();
            assert_eq!((advice.code, advice.exit_code()), ("TKO-009", 5));
            assert!(advice.hints[0].contains(&place(&good)), "{:?}", advice.hints);
            assert!(Locked::read(&directory).expect("readable").is_some(), "{name}: it is still locked");
            owners(before + 1);
        }
        faults.clear();
        let report = take_in(&order, &copy, "postgres").expect("a takeover");
        assert!(!report.promoted && report.was_locked);
        assert_eq!(Locked::read(&directory).expect("readable"), None);
        assert!(owners(before + 1).is_some(), "both know");
        assert_eq!(report.owner_generations.len(), 2);
    }
}
