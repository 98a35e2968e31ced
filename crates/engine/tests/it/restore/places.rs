//! Where a restore may go, and where not.

use std::fs;
use std::os::unix::fs::symlink;

use refloat_types::Explain as _;

use super::*;

fn code(error: &RestoreError) -> &'static str {
    error.advice().code
}

#[test]
fn what_must_not_be_touched_is_refused_and_untouched() {
    let cluster = TestCluster::builder().build();
    let other = TestCluster::builder().fresh_identity().build_stopped();
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    let place = cluster.make_dir("places");
    fs::create_dir(place.join("full")).expect("made");
    fs::write(place.join("full/file"), b"mine").expect("written");
    fs::write(place.join("file"), b"mine").expect("written");
    symlink(place.join("full"), place.join("link")).expect("linked");
    symlink("/nowhere/at/all", place.join("dangling")).expect("linked");
    let data = cluster.data_directory();
    let before = tree(&place);
    let directory = |path: &Path| Destination::Directory(path.to_owned());
    let in_place = |path: &Path| Destination::InPlace(path.to_owned());
    for (destination, expected) in [
        (directory(&place.join("full")), "RST-001"),
        (directory(&place.join("link")), "RST-001"),
        (in_place(&place.join("full")), "RST-001"),
        (in_place(other.data_directory()), "RST-002"),
        (directory(other.data_directory()), "RST-002"),
        (directory(data), "RST-003"),
        (in_place(data), "RST-003"),
        (directory(&place.join("file")), "RST-008"),
        (directory(&place.join("dangling")), "RST-008"),
        (directory(&data.join("base/new")), "RST-008"),
        (directory(&other.data_directory().join("new")), "RST-008"),
        (directory(Path::new("relative")), "RST-008"),
        (directory(Path::new("/tmp/../etc")), "RST-008"),
        (directory(Path::new("/")), "RST-008"),
    ] {
        let mut request = to(&cluster, &commit, &place.join("x"));
        request.to = destination;
        let shown = format!("{:?}", request.to);
        let error = run(&home, request).expect_err("refused");
        assert_eq!(code(&error), expected, "{shown}: {error}");
        assert!(!error.advice().hints.is_empty());
    }
    assert!(tree(&place) == before && !place.join("x").exists());
    assert_eq!(cluster.psql("postgres", "select 1"), "1");
}

#[test]
fn a_file_system_that_is_too_small_is_refused() {
    let cluster = TestCluster::builder().build();
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    let place = cluster.make_dir("small");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m,mode=0777", "none"])
        .arg(&place)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("not tried: this user may not mount");
        return;
    }
    let result = run(&home, to(&cluster, &commit, &place));
    let _ = std::process::Command::new("umount").arg(&place).status();
    let error = result.expect_err("refused");
    assert!(matches!(error, RestoreError::NoSpace { need, free, .. } if need > free), "{error:?}");
    assert_eq!(code(&error), "RST-004");
}

struct WithTablespace {
    cluster: TestCluster,
    home: Home,
    commit: CommitRecord,
    tablespace: PathBuf,
}

fn with_tablespace() -> WithTablespace {
    let cluster = TestCluster::builder().build();
    let tablespace = cluster.make_dir("fast");
    cluster.psql(
        "postgres",
        &format!(
            "create tablespace fast location '{}'; \
             create table t tablespace fast as select generate_series(1, 10000) n; checkpoint;",
            tablespace.display()
        )
        .replace("; ", ";\n"),
    );
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    WithTablespace { cluster, home, commit, tablespace }
}

#[test]
fn tablespaces_need_a_new_place() {
    let WithTablespace { cluster, home, commit, tablespace } = with_tablespace();
    let place = cluster.make_dir("places");
    let copy = place.join("copy");
    let request = to(&cluster, &commit, &copy);
    let error = run(&home, request.clone()).expect_err("refused");
    assert!(
        matches!(&error, RestoreError::Unmapped { paths } if *paths == [tablespace.clone()]),
        "{error:?}"
    );
    assert_eq!(code(&error), "RST-005");
    for (old, new, expected) in [
        (place.join("no such"), place.join("new"), "RST-009"),
        (tablespace.clone(), tablespace.clone(), "RST-006"),
        (tablespace.clone(), copy.join("inside"), "RST-006"),
        (tablespace.clone(), cluster.data_directory().join("x"), "RST-006"),
        (tablespace.clone(), place.clone(), "RST-006"),
    ] {
        let mut request = request.clone();
        request.tablespaces = BTreeMap::from([(old, new)]);
        assert_eq!(code(&run(&home, request).expect_err("refused")), expected);
    }
    assert!(!copy.exists());
}

#[test]
fn a_mapped_clone_never_writes_into_the_source() {
    let WithTablespace { cluster, home, commit, tablespace } = with_tablespace();
    let copy = cluster.make_dir("places").join("copy");
    let new = cluster.make_dir("new fast");
    for inside in [false, true] {
        let directory = copy.with_extension(if inside { "inside" } else { "mapped" });
        let mut request = to(&cluster, &commit, &directory);
        request.becomes = Become::Copy;
        if inside {
            request.tablespaces_inside = true;
        } else {
            request.tablespaces = BTreeMap::from([(tablespace.clone(), new.clone())]);
        }
        run(&home, request).expect("a restore");
        cluster.verifybackup(&directory).expect("pg_verifybackup is content");
        let before = tree(&tablespace);
        let clone = TestCluster::builder().start_existing(&directory);
        clone.wait_for("postgres", "select pg_is_in_recovery()", "f");
        assert_eq!(clone.psql("postgres", "show archive_mode"), "off");
        clone.psql(
            "postgres",
            "update t set n = n + 1;\ncreate table u tablespace fast as select 1;\ncheckpoint;",
        );
        assert_eq!(clone.psql("postgres", "select sum(n) from t"), "50015000");
        drop(clone);
        assert!(tree(&tablespace) == before, "the source's tablespace was touched");
        assert_eq!(cluster.psql("postgres", "select sum(n) from t"), "50005000");
        assert!(inside || !tree(&new).is_empty(), "it is where it was sent");
    }
}

#[test]
fn a_directory_without_configuration_gets_its_own() {
    let mut cluster = TestCluster::builder().build();
    cluster.stop(StopMode::Fast);
    let etc = cluster.make_dir("etc");
    fs::create_dir(etc.join("conf.d")).expect("made");
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        fs::rename(cluster.data_directory().join(name), etc.join(name)).expect("moved");
    }
    let main = etc.join("postgresql.conf");
    let mut text = fs::read_to_string(&main).expect("read");
    text.push_str(&format!(
        "\ndata_directory = '{}'\nhba_file = '{}'\nident_file = '{}'\nexternal_pid_file = '{}'\ninclude_dir = 'conf.d'\n",
        cluster.data_directory().display(),
        etc.join("pg_hba.conf").display(),
        etc.join("pg_ident.conf").display(),
        etc.join("pid").display(),
    ));
    fs::write(&main, text).expect("written");
    fs::write(etc.join("conf.d/a.conf"), "work_mem = 7MB\nrecovery_target = immediate\n").expect("written");
    for file in tree(&etc).keys() {
        cluster.owner().give(&etc.join(file));
    }
    let data = cluster.data_directory().to_owned();
    let start =
        || TestCluster::builder().setting("config_file", &main.display().to_string()).start_existing(&data);
    let mut debian = start();
    let home = home(encrypted());
    let commit = backed_up(&debian, &home);
    let directory = cluster.make_dir("copy");
    run(&home, to(&debian, &commit, &directory)).expect("a restore");
    debian.verifybackup(&directory).expect("pg_verifybackup is content");
    let copy = TestCluster::builder().start_existing(&directory);
    copy.wait_for("postgres", "select pg_is_in_recovery()", "f");
    assert_eq!(copy.psql("postgres", "show work_mem"), "7MB");
    assert_eq!(copy.psql("postgres", "show data_directory"), directory.display().to_string());
    assert_eq!(copy.psql("postgres", "show recovery_target"), "", "an old target is set aside");
    drop(copy);
    // In place, the files outside are still there and stay as they are.
    debian.stop(StopMode::Fast);
    let outside = tree(&etc);
    let mut request = to(&debian, &commit, &data);
    request.to = Destination::InPlace(data.clone());
    run(&home, request).expect("a restore");
    assert!(!data.join("postgresql.conf").exists() && tree(&etc) == outside);
    let back = start();
    back.wait_for("postgres", "select pg_is_in_recovery()", "f");
    assert_eq!(back.psql("postgres", "show recovery_target"), "");
}
