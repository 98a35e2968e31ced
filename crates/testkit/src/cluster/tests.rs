use super::*;

#[test]
fn a_cluster_starts_crashes_recovers_and_vanishes() {
    if skip_without(15) {
        return;
    }
    let mut cluster = TestCluster::builder().setting("work_mem", "1MB").tcp().env("REFLOAT_X", "1").build();
    assert_eq!(cluster.psql("postgres", "show work_mem;"), "1MB");
    cluster.psql("postgres", "create table t as select generate_series(1, 10) as n;");
    let pid = cluster.postmaster_pid().expect("it runs");
    let environment = std::fs::read(format!("/proc/{pid}/environ")).expect("own process");
    assert_eq!(String::from_utf8_lossy(&environment).split('\0').next(), Some("REFLOAT_X=1"));
    cluster.crash();
    assert!(!cluster.is_running());
    cluster.start();
    assert_eq!(cluster.psql("postgres", "select sum(n) from t;"), "55");
    cluster.configure("work_mem", "2MB");
    cluster.reload();
    assert_eq!(cluster.psql("postgres", "show work_mem;"), "2MB");
    cluster.amcheck().expect("a sound cluster");
    cluster.stop(StopMode::Fast);
    cluster.checksums_check().expect("a sound cluster");
    let home = cluster.home.path().to_owned();
    drop(cluster);
    assert!(!home.exists());
}

#[test]
fn copies_share_an_identity_and_fresh_clusters_do_not() {
    if skip_without(15) {
        return;
    }
    let identity = |builder: ClusterBuilder| {
        let cluster = builder.build_stopped();
        let text = run(cluster.as_owner(cluster.bin("pg_controldata")).arg(cluster.data_directory()));
        let line = text.lines().find(|line| line.contains("system identifier")).expect("it is printed");
        line.to_owned()
    };
    let one = identity(TestCluster::builder().wal_segment_size_mb(1));
    assert_eq!(one, identity(TestCluster::builder().wal_segment_size_mb(1)));
    assert_ne!(one, identity(TestCluster::builder().wal_segment_size_mb(1).fresh_identity()));
}

#[test]
fn an_existing_directory_is_started_with_other_settings_and_stays() {
    if skip_without(15) {
        return;
    }
    let original = TestCluster::builder().checksums(false).build();
    original.pgbench_init(1);
    original.pgbench_transactions(10);
    original.psql("postgres", "create database \"odd \"\"näme\";");
    let copy = original.make_dir("copy");
    let mut basebackup = original.client("pg_basebackup");
    run(basebackup.arg("-D").arg(&copy).args(["--checkpoint=fast"]));
    let restored = TestCluster::builder().setting("work_mem", "3MB").start_existing(&copy);
    assert_eq!(restored.psql("postgres", "show work_mem;"), "3MB");
    let (ours, theirs) = (restored.dump_all_databases(), original.dump_all_databases());
    assert_eq!(ours, theirs);
    assert!(
        ours.contains_key("odd \"näme") && ours["postgres"].contains("pgbench_accounts"),
        "{:?}",
        ours.keys()
    );
    drop(restored);
    assert!(copy.join("PG_VERSION").exists());
}

#[test]
fn a_server_that_cannot_start_says_why() {
    if skip_without(15) {
        return;
    }
    let mut cluster = TestCluster::builder().build_stopped();
    cluster.configure("shared_buffers", "many");
    let log = cluster.try_start().expect_err("a bad setting");
    assert!(log.contains("shared_buffers"), "{log}");
}

#[test]
fn load_in_the_background_ends_with_its_handle() {
    if skip_without(15) {
        return;
    }
    let cluster = TestCluster::builder().build();
    cluster.pgbench_init(1);
    let load = cluster.pgbench_run_for(600);
    let busy = "select count(*) > 0 from pg_stat_activity where application_name = 'pgbench';";
    cluster.wait_for("postgres", busy, "t");
    drop(load);
    cluster.wait_for("postgres", busy, "f");
    assert!(cluster.psql("postgres", "select count(*) from pgbench_history;").parse::<u64>().is_ok());
}

#[test]
fn standbys_are_promoted() {
    if skip_without(15) {
        return;
    }
    let primary = TestCluster::builder().build();
    let copy = primary.make_dir("standby");
    run(primary.client("pg_basebackup").arg("-D").arg(&copy).args(["--checkpoint=fast", "-R"]));
    let standby = TestCluster::builder().start_existing(&copy);
    assert_eq!(standby.psql("postgres", "select pg_is_in_recovery();"), "t");
    standby.promote();
    standby.psql("postgres", "create table written();");
}
