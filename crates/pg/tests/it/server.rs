//! Servers of this host, seen from outside.

use refloat_pg::server::{PostmasterStatus, ServerState, find_binaries, read_pg_version, server_state};
use refloat_testkit::cluster::{StopMode, TestCluster, bin_directory, skip_without};

#[test]
fn a_server_is_seen_until_its_last_process_is_gone() {
    if skip_without(15) {
        return;
    }
    let mut cluster = TestCluster::builder().build();
    let state = |cluster: &TestCluster| server_state(cluster.data_directory()).expect("readable");
    let ServerState::Running(file) = state(&cluster) else { panic!("{:?}", state(&cluster)) };
    assert_eq!(Some(file.pid), cluster.postmaster_pid());
    assert_eq!((file.port, file.status), (Some(cluster.port()), Some(PostmasterStatus::Ready)));
    assert_eq!(file.socket_directory, Some(cluster.socket_directory()));
    // Somebody removed the pid file of a living server.
    let pid_file = cluster.data_directory().join("postmaster.pid");
    let kept = std::fs::read(&pid_file).expect("it is there");
    std::fs::remove_file(&pid_file).expect("own directory");
    assert!(matches!(state(&cluster), ServerState::Doubtful { .. }), "{:?}", state(&cluster));
    std::fs::write(&pid_file, kept).expect("own directory");
    cluster.owner().give(&pid_file);
    cluster.crash();
    assert!(matches!(state(&cluster), ServerState::NotRunning { stale: Some(_) }), "{:?}", state(&cluster));
    cluster.start();
    cluster.stop(StopMode::Fast);
    assert_eq!(state(&cluster), ServerState::NotRunning { stale: None });
}

#[test]
fn backends_that_outlive_their_postmaster_keep_the_directory_occupied() {
    if skip_without(15) {
        return;
    }
    let mut cluster = TestCluster::builder().build();
    // A stopped process does not notice that its postmaster died.
    let mut client =
        cluster.client("psql").args(["-X", "-c", "select pg_sleep(600)"]).spawn().expect("started");
    cluster.wait_for("postgres", "select count(*) from pg_stat_activity where wait_event = 'PgSleep';", "1");
    let backend = cluster.psql("postgres", "select pid from pg_stat_activity where wait_event = 'PgSleep';");
    let signal = |name: &str, pid: &str| {
        assert!(std::process::Command::new("kill").args([name, pid]).status().expect("started").success());
    };
    signal("-STOP", &backend);
    let postmaster = cluster.postmaster_pid().expect("it runs").to_string();
    signal("-KILL", &postmaster);
    assert!(
        refloat_testkit::cluster::wait_until(std::time::Duration::from_secs(30), || !cluster.is_running())
    );
    let state = server_state(cluster.data_directory()).expect("readable");
    assert!(matches!(state, ServerState::Doubtful { .. }), "{state:?}");
    signal("-KILL", &backend);
    let free = || !server_state(cluster.data_directory()).expect("readable").is_occupied();
    assert!(refloat_testkit::cluster::wait_until(std::time::Duration::from_secs(30), free));
    client.kill().expect("own child");
    client.wait().expect("own child");
}

#[test]
fn programs_are_found_by_version() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().build();
    assert_eq!(read_pg_version(cluster.data_directory()).expect("a data directory"), 15);
    let found = find_binaries(15, bin_directory(15).as_deref(), None).expect("installed");
    assert!(found.path("pg_ctl").exists() && found.version_text.starts_with("15."), "{found:?}");
    let beside = find_binaries(15, None, cluster.postmaster_pid()).expect("the running server's own");
    assert_eq!(beside.version, 15);
    let error = find_binaries(99, None, None).expect_err("no such version");
    assert!(error.to_string().contains("/usr/lib/postgresql/99/bin, /usr/pgsql-99/bin"), "{error}");
    let error = read_pg_version(&cluster.socket_directory()).expect_err("no data directory");
    assert!(
        error.to_string().ends_with("is not a PostgreSQL data directory: it has no PG_VERSION"),
        "{error}"
    );
}
