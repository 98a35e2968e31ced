use refloat_pg::sql::{ConnectOptions, ReplayState, Session};
use refloat_testkit::cluster::{TestCluster, skip_without, wait_until};
use std::time::Duration;

use super::{options, session};

fn a_standby_s_recovery(version: u32) {
    if skip_without(version) {
        return;
    }
    let primary = TestCluster::builder().version(version).build();
    primary.psql("postgres", "create role plain login;");
    assert_eq!(session(&primary).replay_state().expect("asked"), ReplayState::Ended);
    let copy = primary.make_dir("standby");
    let status =
        primary.client("pg_basebackup").arg("-D").arg(&copy).args(["--checkpoint=fast", "-R"]).status();
    assert!(status.expect("started").success());
    let standby = TestCluster::builder().version(version).start_existing(&copy);
    let plain = ConnectOptions { user: Some("plain".to_owned()), ..options(&standby) };
    let plain = Session::connect(&plain).expect("it runs");
    let superuser = session(&standby);

    let ReplayState::Replaying { at } = plain.replay_state().expect("asked") else { panic!("it follows") };
    primary.psql("postgres", "create table t as select generate_series(1, 1000);");
    let goes_on = || matches!(plain.replay_state(), Ok(ReplayState::Replaying { at: now }) if now > at);
    assert!(wait_until(Duration::from_secs(60), goes_on), "{:?}", plain.replay_state());
    standby.psql("postgres", "select pg_wal_replay_pause();");
    let paused = || matches!(plain.replay_state(), Ok(ReplayState::Paused { at: now }) if now > at);
    assert!(wait_until(Duration::from_secs(60), paused), "{:?}", plain.replay_state());

    assert!(!plain.promote().expect("answered"), "it may not");
    assert!(matches!(plain.replay_state().expect("asked"), ReplayState::Paused { .. }));
    assert!(superuser.promote().expect("a superuser may"));
    let ended = || matches!(plain.replay_state(), Ok(ReplayState::Ended));
    assert!(wait_until(Duration::from_secs(60), ended), "{:?}", plain.replay_state());
    assert!(superuser.promote().expect("nothing is left to end"));
}

#[test]
fn replay_is_told_and_ended_15() {
    a_standby_s_recovery(15);
}

#[test]
fn replay_is_told_and_ended_17_and_18() {
    a_standby_s_recovery(17);
    a_standby_s_recovery(18);
}
