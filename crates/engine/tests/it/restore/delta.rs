//! Restores over a cluster that is there.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use refloat_types::Explain as _;

use super::*;

/// A cluster that can be restored over, with a tablespace and some tables; stopped and started by the tests.
struct Scene {
    cluster: TestCluster,
    home: Home,
    commit: CommitRecord,
    tablespace: PathBuf,
}

const TRUTH: &str = "select (select sum(n) from kept), (select sum(n) from updated), (select count(*) from truncated), \
    (select count(*) from grown), (select count(*) from dropped), (select sum(n) from packed), (select sum(n) from spaced)";

fn scene() -> Scene {
    let cluster = TestCluster::builder()
        .checksums(true)
        .setting("archive_mode", "on")
        .setting("archive_command", "false")
        .setting("autovacuum", "off")
        .build();
    let tablespace = cluster.make_dir("fast");
    sql(&cluster, &format!("create tablespace fast location '{}'", tablespace.display()));
    for table in ["kept", "updated", "truncated", "grown", "dropped", "packed", "spaced"] {
        let place = if table == "spaced" { "tablespace fast" } else { "" };
        sql(
            &cluster,
            &format!(
                "create table {table} {place} as select n, repeat('x', 200) x from generate_series(1, 20000) n"
            ),
        );
    }
    sql(&cluster, "create index on updated (n)");
    sql(&cluster, "delete from packed where n % 2 = 0");
    sql(&cluster, "vacuum");
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    Scene { cluster, home, commit, tablespace }
}

fn sql(cluster: &TestCluster, text: &str) {
    cluster.psql("postgres", text);
}

/// The server runs on after the backup.
fn runs_on(cluster: &TestCluster) {
    for text in [
        "update updated set x = repeat('y', 200) where n % 500 = 0",
        "truncate truncated",
        "insert into grown select n, repeat('z', 200) from generate_series(1, 20000) n",
        "drop table dropped",
        "create table made as select generate_series(1, 5000) n",
        "vacuum full packed",
        "update spaced set n = n + 1 where n < 10",
        "create table made_there tablespace fast as select generate_series(1, 5000) n",
        "create database other",
        "delete from kept where n = 20000",
        "vacuum kept",
        "checkpoint",
        "select pg_switch_wal()",
    ] {
        sql(cluster, text);
    }
}

impl Scene {
    fn data(&self) -> PathBuf {
        self.cluster.data_directory().to_owned()
    }

    fn beside(&self, name: &str) -> PathBuf {
        let mut path = self.data().into_os_string();
        path.push(name);
        path.into()
    }

    /// Over the source's own directory.
    fn in_place(&self) -> RestoreRequest {
        let mut request = to(&self.cluster, &self.commit, &self.data());
        request.to = Destination::InPlace(self.data());
        request.delta = true;
        request
    }

    /// Beside the source, with the tablespace in a directory of its own.
    fn copy(&self, directory: &Path) -> RestoreRequest {
        let mut request = to(&self.cluster, &self.commit, directory);
        request.tablespaces.insert(self.tablespace.clone(), directory.with_extension("fast"));
        request
    }
}

/// What differs between two restores of one backup to different places.
fn may_differ(path: &Path) -> bool {
    let names = ["refloat.locked", "backup_manifest", "postgresql.auto.conf", "postgresql.conf"];
    names.iter().any(|name| path == Path::new(name))
}

/// Kind and permissions, owner, and time of a file.
type Shape = (u32, u32, Option<(i64, i64)>);

/// The shape of everything below a directory.
fn shape(directory: &Path) -> BTreeMap<PathBuf, Shape> {
    fn add(top: &Path, path: &Path, into: &mut BTreeMap<PathBuf, Shape>) {
        for entry in fs::read_dir(path).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = fs::metadata(&path).expect("there");
            let name = path.strip_prefix(top).expect("below").to_owned();
            let inside = name.components().count() > 1 && meta.is_file() && !name.ends_with("pg_control");
            let time = inside.then(|| (meta.mtime(), meta.mtime_nsec()));
            into.insert(name, (meta.mode(), meta.uid(), time));
            if meta.is_dir() {
                add(top, &path, into);
            }
        }
    }
    let mut into = BTreeMap::new();
    add(directory, directory, &mut into);
    into
}

#[track_caller]
fn are_alike(one: &Path, other: &Path) {
    let (shape_one, shape_other) = (shape(one), shape(other));
    for path in shape_one.keys().chain(shape_other.keys()) {
        assert_eq!(shape_one.get(path), shape_other.get(path), "{}", path.display());
    }
    let (one, other) = (tree(one), tree(other));
    for (path, bytes) in &one {
        assert!(may_differ(path) || other.get(path) == Some(bytes), "{} differs", path.display());
    }
    assert!(one.len() > 900, "{} files", one.len());
}

#[test]
fn over_a_cluster_that_ran_on_it_gives_what_a_plain_restore_gives() {
    let mut scene = scene();
    let truth = scene.cluster.psql("postgres", TRUTH);
    runs_on(&scene.cluster);
    let later = scene.cluster.make_dir("later");
    sql(&scene.cluster, &format!("create tablespace later location '{}'", later.display()));
    sql(&scene.cluster, "create table late tablespace later as select 1 n");
    scene.cluster.stop(StopMode::Fast);
    let data = scene.data();
    fs::create_dir_all(data.join("base/junk/deep")).expect("made");
    for junk in
        ["junk", "base.junk", "base/5/junk", "base/junk/deep/file", "standby.signal", "tablespace_map"]
    {
        fs::write(data.join(junk), b"junk").expect("written");
    }
    symlink("/etc", data.join("base/link")).expect("linked");
    fs::create_dir(scene.tablespace.join("PG_14_202107181")).expect("made");

    let copy = scene.cluster.make_dir("places").join("copy");
    run(&scene.home, scene.copy(&copy)).expect("a plain restore");
    let planned = plan(&scene.home.repository, scene.in_place()).expect("a plan");
    assert!(planned.delta && !planned.again);
    let wal = scene.beside(".pg_wal.before-k7r2");
    let aside: Vec<&PathBuf> = planned.set_aside.iter().map(|step| &step.to).collect();
    assert_eq!(aside, [&wal, &later.with_file_name("later.before-k7r2")]);
    let was = tree(&data.join("pg_wal"));
    let report = restore(planned, &Silent, None).expect("a delta restore");

    let ready = report.ready_wal.expect("segments wait");
    assert!(ready.path == wal && ready.count >= 2, "{ready:?}");
    assert!(tree(&wal) == was, "the old WAL is untouched");
    assert!(later.with_file_name("later.before-k7r2").is_dir() && !later.exists());
    let reused = report.reused.expect("a cluster was there");
    assert_eq!(reused.kept + reused.rewritten, report.bytes);
    assert!(reused.kept > report.bytes / 2, "{reused:?}");
    assert!(scene.tablespace.join("PG_14_202107181").is_dir(), "another version's is left alone");
    fs::remove_dir(scene.tablespace.join("PG_14_202107181")).expect("empty");
    are_alike(&copy, &data);
    scene.cluster.verifybackup(&data).expect("pg_verifybackup is content");

    scene.cluster.start();
    scene.cluster.wait_for("postgres", "select pg_is_in_recovery()", "f");
    assert_eq!(scene.cluster.psql("postgres", TRUTH), truth);
    assert_eq!(
        scene.cluster.psql("postgres", "select count(*) from pg_database where datname = 'other'"),
        "0"
    );
    scene.cluster.amcheck().expect("sound");
    scene.cluster.stop(StopMode::Fast);
    scene.cluster.checksums_check().expect("sound");
}

#[test]
fn what_is_the_same_is_not_written() {
    let scene = scene();
    let copy = scene.cluster.make_dir("places").join("copy");
    let mut request = scene.copy(&copy);
    // Into nothing it is a plain restore.
    request.delta = true;
    let planned = plan(&scene.home.repository, request.clone()).expect("a plan");
    assert!(!planned.delta);
    assert_eq!(restore(planned, &Silent, None).expect("a restore").reused, None);
    let inodes = |directory: &Path| -> BTreeMap<PathBuf, u64> {
        let all = tree(&directory.join("base")).into_keys();
        all.map(|path| {
            let inode = fs::metadata(directory.join("base").join(&path)).expect("there").ino();
            (path, inode)
        })
        .collect()
    };
    let before = inodes(&copy);
    request.restore_id = "k8".to_owned();
    let report = run(&scene.home, request.clone()).expect("a delta restore");
    let reused = report.reused.expect("a cluster was there");
    // The WAL in the backup comes anew, because pg_wal is set aside.
    let wal = (report.wal.segments().count() as u64) << 24;
    assert!(reused.rewritten - wal < 64 << 10, "settings and pg_control differ, nothing else: {reused:?}");
    assert!(inodes(&copy) == before, "no file was replaced");

    // One page of one table, and one that is cut.
    let relation = scene.cluster.psql("postgres", "select pg_relation_filepath('grown')");
    let other = scene.cluster.psql("postgres", "select pg_relation_filepath('updated')");
    let mut bytes = fs::read(copy.join(&relation)).expect("read");
    bytes[3 * 8192 + 100] ^= 1;
    fs::write(copy.join(&relation), &bytes).expect("written");
    let cut = fs::OpenOptions::new().write(true).open(copy.join(&other)).expect("opens");
    let length = cut.metadata().expect("there").len();
    cut.set_len(length - 2 * 8192 - 5).expect("cut");
    fs::remove_file(copy.join("base/1/PG_VERSION")).expect("removed");
    request.restore_id = "k9".to_owned();
    let again = run(&scene.home, request).expect("a delta restore").reused.expect("a cluster was there");
    assert_eq!(again.rewritten - reused.rewritten, 4 * 8192 + 3, "three pages and a small file: {again:?}");
    scene.cluster.verifybackup(&copy).expect("pg_verifybackup is content");
    let plain = scene.cluster.make_dir("places").join("plain");
    run(&scene.home, scene.copy(&plain)).expect("a plain restore");
    are_alike(&plain, &copy);
}

/// Zeros, which no frame holds; files of several ranges; and files that are no relations.
#[test]
fn zeros_and_long_files_come_back() {
    const MIB: usize = 1 << 20;
    let cluster = TestCluster::builder().build();
    let data = cluster.data_directory();
    let noise = |length: usize, seed: u64| -> Vec<u8> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        (0..length).map(next).collect()
    };
    let (long, holes, plain) = ("base/5/4000000000", "base/5/4000000001", "plain");
    fs::write(data.join(long), noise(70 * MIB, 1)).expect("written");
    let mut bytes = vec![0; 5 * MIB];
    bytes[2 * MIB..3 * MIB].copy_from_slice(&noise(MIB, 2));
    fs::write(data.join(holes), &bytes).expect("written");
    bytes.truncate(4 * MIB);
    fs::write(data.join(plain), &bytes).expect("written");
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    let place = cluster.make_dir("places");
    let mut request = to(&cluster, &commit, &place.join("copy"));
    request.delta = true;
    let restored = |request: &RestoreRequest| run(&home, request.clone()).expect("a restore").reused;
    assert_eq!(restored(&request), None);
    let nothing_to_do = restored(&request).expect("a cluster was there").rewritten;
    let copy = request.to.path().to_owned();
    let was = tree(&copy);
    let error = run(&home, request.clone()).expect_err("the new name of pg_wal is taken");
    assert_eq!(error.advice().code, "RST-007", "{error}");
    assert!(tree(&copy) == was);
    fs::remove_dir_all(place.join("copy.pg_wal.before-k7r2")).expect("the WAL was set aside");
    let change = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(copy.join(name)).expect("read");
        change(&mut bytes);
        fs::write(copy.join(name), bytes).expect("written");
    };
    // The blocks that are wanted again, or bytes.
    for (name, wanted, with) in [
        (
            long,
            3 * 8192,
            &(|b: &mut Vec<u8>| [0, 33 * MIB, 70 * MIB - 1].iter().for_each(|at| b[*at] ^= 1))
                as &dyn Fn(&mut Vec<u8>),
        ),
        (long, 30 * MIB, &|b| b.truncate(40 * MIB)),
        (long, 0, &|b| b.resize(80 * MIB, 7)),
        (holes, 8192, &|b| b[MIB] = 1),
        (holes, 2 * 8192, &|b| b[2 * MIB - 1..=2 * MIB].fill(9)),
        (holes, MIB, &|b| b.truncate(MIB)),
        (plain, 8192, &|b| b[0] = 1),
        (plain, MIB, &|b| b.truncate(1)),
        (plain, 0, &|b| b.push(1)),
    ] {
        change(name, with);
        let rewritten = restored(&request).expect("a cluster was there").rewritten;
        assert_eq!((rewritten - nothing_to_do) as usize, wanted, "{name}");
        let is = tree(&copy);
        for (path, bytes) in &was {
            assert!(may_differ(path) || is.get(path) == Some(bytes), "{name}: {} differs", path.display());
        }
        fs::remove_dir_all(place.join("copy.pg_wal.before-k7r2")).expect("the WAL was set aside");
    }
    cluster.verifybackup(&copy).expect("pg_verifybackup is content");
}

/// What stays is not asked for, so only damage that is needed is met; and met damage is never started.
#[test]
fn damage_is_met_where_it_is_needed_and_never_started() {
    let mut scene = scene();
    let relation = scene.cluster.psql("postgres", "select pg_relation_filepath('grown')");
    scene.cluster.stop(StopMode::Fast);
    let data = scene.data();
    let root = scene.home.repository.store().describe().trim_start_matches("file://").to_owned();
    let mut packs = Vec::new();
    scene
        .home
        .repository
        .store()
        .list("packs/", &mut |info| {
            packs.push(Path::new(&root).join(info.key.as_str()));
            std::ops::ControlFlow::Continue(())
        })
        .expect("lists");
    let (mut met, mut done) = (0, 0);
    for pack in &packs {
        let mut bytes = fs::read(data.join(&relation)).expect("read");
        bytes.chunks_mut(8192).for_each(|page| page[200] ^= 1);
        fs::write(data.join(&relation), &bytes).expect("written");
        let good = fs::read(pack).expect("read");
        fs::remove_file(pack).expect("removed");
        fs::write(pack, &good[..good.len() / 2]).expect("written");
        let result = run(&scene.home, scene.in_place());
        let startable = data.join("global/pg_control").exists();
        fs::remove_file(pack).expect("removed");
        fs::write(pack, &good).expect("written");
        match result {
            Ok(_) => done += 1,
            Err(_) => {
                met += 1;
                if data.join("refloat.restoring").exists() {
                    assert!(!startable);
                    failed_to_start(&data);
                }
                run(&scene.home, scene.in_place()).expect("whole again");
            }
        }
        scene.cluster.verifybackup(&data).expect("pg_verifybackup is content");
        fs::remove_dir_all(scene.beside(".pg_wal.before-k7r2")).expect("the WAL was set aside");
    }
    assert!(met > 0, "{met} met, {done} done");
}

#[test]
fn nothing_is_written_through_what_was_planted() {
    let mut scene = scene();
    let path =
        |table: &str| scene.cluster.psql("postgres", &format!("select pg_relation_filepath('{table}')"));
    let (kept, updated, grown, packed) = (path("kept"), path("updated"), path("grown"), path("packed"));
    scene.cluster.stop(StopMode::Fast);
    let data = scene.data();
    let mine = scene.cluster.make_dir("mine");
    let moved = |name: &str, to: &str| fs::rename(data.join(name), mine.join(to)).expect("moved");
    moved(&kept, "linked");
    symlink(mine.join("linked"), data.join(&kept)).expect("linked");
    moved(&updated, "hard");
    fs::hard_link(mine.join("hard"), data.join(&updated)).expect("linked");
    fs::remove_file(data.join(&grown)).expect("removed");
    let fifo = std::process::Command::new("mkfifo").arg(data.join(&grown)).status();
    assert!(fifo.expect("mkfifo runs").success());
    fs::remove_file(data.join(&packed)).expect("removed");
    fs::create_dir(data.join(&packed)).expect("made");
    moved("base/1", "directory");
    symlink(mine.join("directory"), data.join("base/1")).expect("linked");
    fs::remove_dir_all(data.join("pg_xact")).expect("removed");
    fs::write(data.join("pg_xact"), b"a file").expect("written");
    for own in ["refloat.locked", "backup_manifest", "backup_label", "recovery.signal"] {
        fs::write(mine.join(own), b"mine").expect("written");
        symlink(mine.join(own), data.join(own)).expect("linked");
    }
    fs::set_permissions(data.join("PG_VERSION"), fs::Permissions::from_mode(0o666)).expect("ours");
    for file in tree(&mine).keys().filter(|file| file.starts_with("linked") || file.starts_with("hard")) {
        let mut bytes = fs::read(mine.join(file)).expect("read");
        bytes[9000] ^= 1;
        fs::write(mine.join(file), bytes).expect("written");
    }
    let before = tree(&mine);
    run(&scene.home, scene.in_place()).expect("a delta restore");
    assert!(tree(&mine) == before, "something outside was written to");
    let copy = scene.cluster.make_dir("places").join("copy");
    run(&scene.home, scene.copy(&copy)).expect("a plain restore");
    are_alike(&copy, &data);
    scene.cluster.verifybackup(&data).expect("pg_verifybackup is content");
}

#[test]
fn what_must_not_be_restored_over_is_refused_and_untouched() {
    let mut scene = scene();
    let other = TestCluster::builder().fresh_identity().build_stopped();
    let place = scene.cluster.make_dir("places");
    fs::create_dir(place.join("full")).expect("made");
    fs::write(place.join("full/file"), b"mine").expect("written");
    let refused = |to: Destination, code: &str, tablespaces: &[(&Path, &Path)]| {
        let mut request = scene.in_place();
        let looked = to.path().to_owned();
        request.to = to;
        request.tablespaces =
            tablespaces.iter().map(|(old, new)| ((*old).to_owned(), (*new).to_owned())).collect();
        let before = tree(&looked);
        let error = run(&scene.home, request).expect_err("refused");
        assert_eq!(error.advice().code, code, "{}: {error}", looked.display());
        assert!(!error.advice().hints.is_empty());
        assert!(tree(&looked).keys().eq(before.keys()) && !looked.join("refloat.restoring").exists());
    };
    let directory = |path: &Path| Destination::Directory(path.to_owned());
    let in_place = |path: &Path| Destination::InPlace(path.to_owned());
    for to in [in_place, directory] {
        refused(to(&scene.data()), "RST-003", &[]);
        refused(to(other.data_directory()), "RST-002", &[]);
        refused(to(&place.join("full")), "RST-001", &[]);
    }
    assert_eq!(scene.cluster.psql("postgres", "select count(*) from kept"), "20000");
    scene.cluster.stop(StopMode::Fast);

    // A copy of the directory has links into the tablespaces of its original.
    let (data, copy, fast) = (scene.data(), place.join("copied"), scene.tablespace.clone());
    let copied = std::process::Command::new("cp").arg("-a").args([&data, &copy]).status();
    assert!(copied.expect("cp runs").success());
    let refused = |to: Destination, code: &str, tablespaces: &[(&Path, &Path)]| {
        let mut request = scene.in_place();
        request.to = to;
        request.tablespaces =
            tablespaces.iter().map(|(old, new)| ((*old).to_owned(), (*new).to_owned())).collect();
        let before = (tree(&copy), tree(&data), tree(&fast));
        let error = run(&scene.home, request).expect_err("refused");
        assert_eq!(error.advice().code, code, "{error}");
        assert!((tree(&copy), tree(&data), tree(&fast)) == before, "something was changed");
    };
    refused(directory(&copy), "RST-005", &[]);
    refused(directory(&copy), "RST-006", &[(&fast, &fast)]);
    // Not certain which cluster it is.
    fs::write(copy.join("global/pg_control"), b"garbage").expect("written");
    refused(directory(&copy), "RST-025", &[(&fast, &place.join("new"))]);
    fs::copy(data.join("global/pg_control"), copy.join("global/pg_control")).expect("copied");
    // With a place of its own the copy is as good as any, and the original's tablespace stays as it is.
    let before = tree(&fast);
    let mut request = scene.copy(&copy);
    request.delta = true;
    let report = run(&scene.home, request).expect("a delta restore");
    assert!(report.reused.expect("a cluster was there").kept > 0);
    assert!(tree(&fast) == before, "the source's tablespace was touched");
    scene.cluster.verifybackup(&copy).expect("pg_verifybackup is content");
}

#[test]
fn a_copy_that_ran_is_brought_back_with_its_tablespace_and_its_disk_for_wal() {
    let mut scene = scene();
    let truth = scene.cluster.psql("postgres", TRUTH);
    let copy = scene.cluster.make_dir("places").join("copy");
    let mut request = scene.copy(&copy);
    request.becomes = Become::Copy;
    run(&scene.home, request.clone()).expect("a plain restore");
    let wal = scene.cluster.make_dir("wal disk").join("wal");
    fs::rename(copy.join("pg_wal"), &wal).expect("moved");
    symlink(&wal, copy.join("pg_wal")).expect("linked");
    let mut clone = TestCluster::builder().start_existing(&copy);
    clone.wait_for("postgres", "select pg_is_in_recovery()", "f");
    runs_on(&clone);
    clone.stop(StopMode::Fast);
    request.delta = true;
    let report = run(&scene.home, request).expect("a delta restore");
    let names: Vec<&PathBuf> = report.set_aside.iter().map(|step| &step.to).collect();
    assert_eq!(names, [&wal.with_file_name("wal.before-k7r2")]);
    assert!(names[0].join("archive_status").is_dir(), "it is the old one");
    assert_eq!(fs::read_link(copy.join("pg_wal")).expect("a link"), wal);
    assert!(!wal.join("refloat.restoring").exists());
    let reused = report.reused.expect("a cluster was there");
    assert!(reused.kept > report.bytes / 2, "{reused:?}");
    scene.cluster.verifybackup(&copy).expect("pg_verifybackup is content");
    drop(clone);
    let clone = TestCluster::builder().start_existing(&copy);
    clone.wait_for("postgres", "select pg_is_in_recovery()", "f");
    assert_eq!(clone.psql("postgres", TRUTH), truth);
    drop(clone);
    assert_eq!(scene.cluster.psql("postgres", TRUTH), truth, "the source goes on");
    scene.cluster.stop(StopMode::Fast);
}

#[test]
fn a_pg_wal_that_cannot_be_renamed_is_refused_before_anything_is_touched() {
    let mut scene = scene();
    scene.cluster.stop(StopMode::Fast);
    let data = scene.data();
    fs::rename(data.join("pg_wal"), data.join("wal")).expect("moved");
    symlink(data.join("wal"), data.join("pg_wal")).expect("linked");
    let before = tree(&data);
    let error = run(&scene.home, scene.in_place()).expect_err("refused");
    assert_eq!(error.advice().code, "RST-007", "{error}");
    assert!(tree(&data) == before);
    // With what the hint says done by hand there is nothing to rename.
    fs::remove_file(data.join("pg_wal")).expect("removed");
    fs::rename(data.join("wal"), scene.beside(".wal")).expect("moved");
    fs::create_dir_all(data.join("pg_wal/archive_status")).expect("made");
    let report = run(&scene.home, scene.in_place()).expect("a delta restore");
    assert!(report.set_aside.is_empty() && report.ready_wal.is_none());
    scene.cluster.verifybackup(&data).expect("pg_verifybackup is content");
}

/// A data directory that is a disk of its own: nothing can be renamed out of it.
#[test]
fn a_mount_point_is_restored_over_once_its_wal_is_elsewhere() {
    let mut scene = scene();
    scene.cluster.stop(StopMode::Fast);
    let place = scene.cluster.make_dir("mounted");
    let mount = |program: &str, arguments: &[&str]| {
        let status = std::process::Command::new(program).args(arguments).arg(&place).status();
        status.is_ok_and(|status| status.success())
    };
    if !mount("mount", &["-t", "tmpfs", "-o", "size=400m", "none"]) {
        eprintln!("not tried: this user may not mount");
        return;
    }
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(format!("{}/.", scene.data().display()))
        .arg(&place)
        .status();
    let mut request = scene.in_place();
    request.to = Destination::InPlace(place.clone());
    let refused = run(&scene.home, request.clone());
    let emptied = fs::remove_dir_all(place.join("pg_wal"));
    let done = run(&scene.home, request);
    let verified = scene.cluster.verifybackup(&place);
    mount("umount", &[]);
    assert!(copied.is_ok_and(|status| status.success()) && emptied.is_ok());
    assert_eq!(refused.expect_err("refused").advice().code, "RST-007");
    assert!(done.expect("a delta restore").set_aside.is_empty());
    verified.expect("pg_verifybackup is content");
}

#[cfg(feature = "failpoints")]
mod killed {
    use super::super::faults::killed::{NOWHERE, job, killed_at, killed_at_pass, points};
    use super::*;

    /// Until `pg_control` has its other name nothing is touched, and the server may start.
    const NOT_BEGUN: [&str; 3] =
        ["restore.before_rename", "restore.after_marker", "restore.before_unstartable"];
    /// In the middle of many.
    const LATER: [(&str, u32); 3] =
        [("restore.delta.compare", 400), ("restore.delta.remove", 4), ("restore.file", 900)];
    const FINISHED: [&str; 2] = ["restore.after_control", "restore.before_release"];

    #[test]
    fn half_a_plain_restore_is_begun_anew() {
        let scene = scene();
        let work = scene.cluster.make_dir("work");
        let copy = work.join("copy");
        let mut job = job(&scene.home, &scene.cluster, &copy, false, "k1");
        job.tablespaces.insert(scene.tablespace.clone(), copy.with_extension("fast"));
        assert!(killed_at("restore.before_label", &job, &work));
        let mut request = scene.copy(&copy);
        request.delta = true;
        let planned = plan(&scene.home.repository, request).expect("a plan");
        assert!(planned.again && !planned.delta);
        restore(planned, &Silent, None).expect("a restore");
        scene.cluster.verifybackup(&copy).expect("pg_verifybackup is content");
    }

    /// Goes on to another place for its tablespace; what it took before is the old cluster's, and stays.
    #[test]
    fn a_place_that_is_no_longer_wanted_keeps_what_is_in_it() {
        let mut scene = scene();
        scene.cluster.stop(StopMode::Fast);
        let (data, work) = (scene.data(), scene.cluster.make_dir("work"));
        let mut job = job(&scene.home, &scene.cluster, &data, true, "k1");
        job.delta = true;
        assert!(killed_at("restore.after_lock", &job, &work));
        let before = tree(&scene.tablespace);
        assert!(before.contains_key(Path::new("refloat.restoring")));
        let mut request = scene.in_place();
        request.tablespaces.insert(scene.tablespace.clone(), work.join("new"));
        let report = run(&scene.home, request).expect("a delta restore");
        let aside = scene.tablespace.with_file_name("fast.before-k1");
        assert!(report.set_aside.iter().any(|step| step.to == aside));
        let mut after = tree(&aside);
        after.insert("refloat.restoring".into(), before[Path::new("refloat.restoring")].clone());
        assert!(after == before, "only the mark went");
        scene.cluster.verifybackup(&data).expect("pg_verifybackup is content");
    }

    #[test]
    fn at_any_point_it_cannot_be_started_and_the_next_run_finishes() {
        let mut scene = scene();
        let truth = scene.cluster.psql("postgres", TRUTH);
        let (data, work) = (scene.data(), scene.cluster.make_dir("work"));
        let mut all: BTreeSet<String> = BTreeSet::from(["first".to_owned()]);
        let mut done = BTreeSet::new();
        while let Some(point) = all.difference(&done).next().cloned() {
            runs_on(&scene.cluster);
            let later = scene.cluster.make_dir(&format!("later {point}"));
            sql(&scene.cluster, &format!("create tablespace later location '{}'", later.display()));
            scene.cluster.stop(StopMode::Fast);
            let mut job = job(&scene.home, &scene.cluster, &data, true, &format!("a{}", done.len()));
            job.delta = true;
            if done.is_empty() {
                // The first run meets them all.
                all = points(&job, &work);
                assert!(all.len() >= 14 && all.iter().any(|name| name == "restore.delta.remove"), "{all:?}");
                all.insert(point.clone());
                all.extend(LATER.map(|(name, pass)| format!("{name}@{pass}")));
            } else {
                let (name, pass) = point.split_once('@').unwrap_or((&point, "1"));
                let pass = pass.parse().expect("a number");
                assert!(killed_at_pass(name, pass, &job, &work), "{point} was never reached");
                if !NOT_BEGUN.contains(&point.as_str()) && !FINISHED.contains(&point.as_str()) {
                    failed_to_start(&data);
                    let mut plain = scene.in_place();
                    plain.delta = false;
                    let error =
                        run(&scene.home, plain).expect_err("it would remove what may be the only copy");
                    assert_eq!(error.advice().code, "RST-024", "{point}: {error}");
                }
                // What it began with it goes on with: another id makes no difference.
                job.restore_id = format!("b{}", done.len());
                assert!(!killed_at(NOWHERE, &job, &work), "{point}");
            }
            scene.cluster.verifybackup(&data).expect("pg_verifybackup is content");
            assert!(!scene.tablespace.join("refloat.restoring").exists(), "{point}: no mark stays");
            scene.cluster.start();
            scene.cluster.wait_for("postgres", "select pg_is_in_recovery()", "f");
            assert_eq!(scene.cluster.psql("postgres", TRUTH), truth, "{point}");
            let id = if NOT_BEGUN.contains(&point.as_str()) { "b" } else { "a" };
            let wal = scene.beside(&format!(".pg_wal.before-{id}{}", done.len()));
            assert!(wal.join("archive_status").is_dir(), "{point}: {}", wal.display());
            done.insert(point);
        }
    }
}
