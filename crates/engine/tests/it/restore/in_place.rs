//! Restores into the source's own directory.

use std::fs;

use super::*;

#[test]
fn what_was_there_is_renamed_and_its_unarchived_wal_is_named() {
    use std::os::unix::fs::MetadataExt as _;
    let mut cluster =
        TestCluster::builder().setting("archive_mode", "on").setting("archive_command", "false").build();
    let tablespace = cluster.make_dir("fast");
    cluster.psql("postgres", &format!("create tablespace fast location '{}';", tablespace.display()));
    cluster.psql("postgres", "create table t tablespace fast as select 1 a;");
    // WAL on a disk of its own.
    cluster.stop(StopMode::Fast);
    let data = cluster.data_directory().to_owned();
    let wal = cluster.make_dir("wal disk").join("wal");
    fs::rename(data.join("pg_wal"), &wal).expect("moved");
    std::os::unix::fs::symlink(&wal, data.join("pg_wal")).expect("linked");
    fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o750)).expect("own directory");
    cluster.start();
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    cluster.psql("postgres", "insert into t values (2);\nselect pg_switch_wal();");
    cluster.stop(StopMode::Fast);
    let was = fs::metadata(&data).expect("exists");

    let mut request = to(&cluster, &commit, &data);
    request.to = Destination::InPlace(data.clone());
    request.owner = None;
    let planned = plan(&home.repository, request.clone()).expect("a plan");
    let beside = |path: &Path| PathBuf::from(format!("{}.before-k7r2", path.display()));
    let mut names: Vec<PathBuf> = planned.set_aside.iter().map(|step| step.to.clone()).collect();
    names.sort();
    let mut expected = vec![beside(&data), beside(&tablespace), beside(&wal)];
    expected.sort();
    assert_eq!(names, expected);
    assert!(data.join("global/pg_control").exists(), "a plan changes nothing");
    let report = restore(planned, &Silent, None).expect("a restore");
    let ready = report.ready_wal.expect("segments wait");
    assert_eq!(ready.path, beside(&data).join("pg_wal"));
    assert!(ready.count >= 2, "{}", ready.count);
    let is = fs::metadata(&data).expect("exists");
    assert_eq!((was.mode(), was.uid(), was.gid()), (is.mode(), is.uid(), is.gid()));
    assert_eq!(fs::read_link(data.join("pg_wal")).expect("a link"), wal);
    assert!(!data.join("tablespace_map").exists());
    cluster.start();
    cluster.wait_for("postgres", "select pg_is_in_recovery()", "f");
    assert_eq!(cluster.psql("postgres", "select count(*) from t"), "1");
    cluster.stop(StopMode::Fast);
    let old = TestCluster::builder().start_existing(beside(&data));
    assert_eq!(old.psql("postgres", "select count(*) from t"), "2");
    drop(old);

    // Once more, from nothing: a lost disk.
    fs::remove_dir_all(&data).expect("removed");
    fs::remove_dir_all(&wal).expect("removed");
    request.owner = owner(&cluster);
    let error = run(&home, request.clone()).expect_err("the tablespace is still there");
    assert!(matches!(&error, RestoreError::BadOutside { path, .. } if *path == tablespace), "{error:?}");
    fs::remove_dir_all(&tablespace).expect("removed");
    run(&home, request).expect("a restore");
    cluster.start();
    cluster.wait_for("postgres", "select pg_is_in_recovery()", "f");
    assert_eq!(cluster.psql("postgres", "select count(*) from t"), "1");
}

#[test]
fn a_mount_point_is_refused_with_advice() {
    let mut cluster = TestCluster::builder().build();
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    cluster.stop(StopMode::Fast);
    let place = cluster.make_dir("mounted");
    let mount = |program: &str, arguments: &[&str]| {
        let status = std::process::Command::new(program).args(arguments).arg(&place).status();
        status.is_ok_and(|status| status.success())
    };
    if !mount("mount", &["-t", "tmpfs", "-o", "size=200m", "none"]) {
        eprintln!("not tried: this user may not mount");
        return;
    }
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(format!("{}/.", cluster.data_directory().display()))
        .arg(&place)
        .status();
    let mut request = to(&cluster, &commit, &place);
    request.to = Destination::InPlace(place.clone());
    let result = run(&home, request);
    mount("umount", &[]);
    assert!(copied.is_ok_and(|status| status.success()));
    let error = result.expect_err("refused");
    assert!(matches!(error, RestoreError::CannotSetAside { .. }), "{error:?}");
}
