//! What came to the path of a directory since a restore into it was killed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use refloat_types::Explain as _;
use serde_json::json;

use super::faults::killed::{NOWHERE, job, killed_at, killed_at_pass, newest, with_a_tablespace};
use super::*;

const MARKER: &str = "refloat.restoring";

/// A restore that was killed when most of it was done.
struct Half {
    cluster: TestCluster,
    home: Home,
    work: PathBuf,
    tablespace: PathBuf,
    fast: PathBuf,
    copy: PathBuf,
}

fn half(point: &str) -> Half {
    let cluster = TestCluster::builder().build();
    let tablespace = with_a_tablespace(&cluster);
    let home = home(encrypted());
    backed_up(&cluster, &home);
    let work = cluster.make_dir("work");
    let (copy, fast) = (work.join("copy"), work.join("fast"));
    let mut job = job(&home, &cluster, &copy, false, "k1");
    job.tablespaces.insert(tablespace.clone(), fast.clone());
    assert!(killed_at(point, &job, &work), "{point} was never reached");
    Half { cluster, home, work, tablespace, fast, copy }
}

impl Half {
    fn request(&self) -> RestoreRequest {
        let mut request = to(&self.cluster, &newest(&self.home), &self.copy);
        request.tablespaces.insert(self.tablespace.clone(), self.fast.clone());
        request
    }

    /// Refused, and every file below the directory of the test is as it was.
    #[track_caller]
    fn is_refused(&self, what: &str) {
        let before = tree(&self.work);
        let error = run(&self.home, self.request()).expect_err(what);
        assert_eq!(error.advice().code, "RST-006", "{what}: {error}");
        assert!(error.to_string().contains(&self.fast.display().to_string()), "{what}: {error}");
        assert!(tree(&self.work) == before, "{what}: something was changed");
    }

    /// Goes on, and gives a whole cluster without marks.
    fn finishes(&self) {
        run(&self.home, self.request()).expect("a restore");
        assert!(!self.copy.join(MARKER).exists() && !self.fast.join(MARKER).exists());
        self.cluster.verifybackup(&self.copy).expect("pg_verifybackup is content");
        let copy = TestCluster::builder().start_existing(&self.copy);
        copy.wait_for("postgres", "select pg_is_in_recovery()", "f");
        assert_eq!(copy.psql("postgres", "select count(*) from t"), "1");
    }

    fn marker(&self) -> serde_json::Value {
        let bytes = fs::read(self.copy.join(MARKER)).expect("half a restore");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    fn write_marker(&self, marker: &serde_json::Value) {
        fs::write(self.copy.join(MARKER), marker.to_string()).expect("written");
    }
}

#[test]
fn another_directory_at_the_same_path_is_left_alone() {
    let half = half("restore.before_label");
    let away = half.work.join("away");
    fs::rename(&half.fast, &away).expect("moved");

    // A tablespace that a running cluster has there now.
    let other = TestCluster::builder().fresh_identity().build();
    other.owner().make_dir(&half.fast);
    other.psql("postgres", &format!("create tablespace now location '{}';", half.fast.display()));
    other.psql("postgres", "create table theirs tablespace now as select 7 a;\ncheckpoint;");
    half.is_refused("a running cluster's tablespace");
    assert_eq!(other.psql("postgres", "select a from theirs"), "7");
    drop(other);
    fs::remove_dir_all(&half.fast).expect("removed");

    // A copy of what this restore made, mark and all.
    let copied = std::process::Command::new("cp").arg("-a").args([&away, &half.fast]).status();
    assert!(copied.expect("cp runs").success());
    assert!(half.fast.join(MARKER).exists());
    half.is_refused("a copy");
    fs::remove_dir_all(&half.fast).expect("removed");

    // A file, and a link to a directory that is in use.
    fs::write(&half.fast, b"mine").expect("written");
    half.is_refused("a file");
    fs::remove_file(&half.fast).expect("removed");
    let mine = half.work.join("mine");
    fs::create_dir(&mine).expect("made");
    fs::write(mine.join("file"), b"mine").expect("written");
    symlink(&mine, &half.fast).expect("linked");
    let before = tree(&half.work);
    let error = run(&half.home, half.request()).expect_err("a link");
    assert_eq!(error.advice().code, "RST-006", "{error}");
    assert!(tree(&half.work) == before, "something was changed behind the link");
    fs::remove_file(&half.fast).expect("removed");

    fs::rename(&away, &half.fast).expect("moved back");
    half.finishes();
}

#[test]
fn what_came_before_the_directory_was_taken_is_left_alone() {
    let half = half("restore.after_marker");
    assert!(!half.fast.exists());
    half.cluster.owner().make_dir(&half.fast);
    fs::write(half.fast.join("file"), b"mine").expect("written");
    half.is_refused("a directory that was never ours");
    fs::remove_file(half.fast.join("file")).expect("removed");
    half.finishes();
}

#[test]
fn a_place_that_is_no_longer_wanted_is_given_back_empty() {
    let mut half = half("restore.before_label");
    let first = std::mem::replace(&mut half.fast, half.work.join("faster"));
    half.finishes();
    assert_eq!(fs::read_dir(&first).expect("still there").count(), 0);
}

#[test]
fn paths_in_a_marker_are_not_believed() {
    let half = half("restore.before_label");
    let mine = half.work.join("mine");
    fs::create_dir(&mine).expect("made");
    fs::write(mine.join("file"), b"mine").expect("written");
    let marker = half.marker();
    let link = half.work.join("link");
    symlink(&mine, &link).expect("linked");
    for forged in [
        mine.clone(),
        link.join("new"),
        link,
        half.work.join("copy/../mine"),
        half.copy.join("base"),
        half.work.clone(),
    ] {
        let mut changed = marker.clone();
        changed["wal_directory"] = json!(forged);
        half.write_marker(&changed);
        let before = tree(&half.work);
        run(&half.home, half.request()).expect_err("refused");
        assert!(tree(&half.work) == before, "{}", forged.display());
    }
    // One that is only said to have been taken before is looked at, and left alone.
    let mut changed = marker;
    changed["outside"] = json!([mine, half.work.join("copy/../mine"), "/"]);
    half.write_marker(&changed);
    half.finishes();
    assert_eq!(fs::read(mine.join("file")).expect("still there"), b"mine");
}

#[test]
fn the_first_file_half_written_is_no_obstacle() {
    for (name, count) in [("data directory", 1), ("tablespace", 2)] {
        let cluster = TestCluster::builder().build();
        let tablespace = with_a_tablespace(&cluster);
        let home = home(encrypted());
        backed_up(&cluster, &home);
        let work = cluster.make_dir("work");
        let (copy, fast) = (work.join("copy"), work.join("fast"));
        let mut job = job(&home, &cluster, &copy, false, "k1");
        job.tablespaces = BTreeMap::from([(tablespace, fast.clone())]);
        let at = if count == 1 { &copy } else { &fast };
        assert!(killed_at_pass("restore.before_rename", count, &job, &work), "{name}");
        let left: Vec<_> = fs::read_dir(at).expect("made").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["refloat.restoring.refloat-tmp"], "{name}");
        assert!(!killed_at(NOWHERE, &job, &work), "{name}");
        cluster.verifybackup(&copy).expect("pg_verifybackup is content");
    }
}

/// Killed when it is finished but for its marks: nobody minds them.
#[test]
fn marks_that_stay_disturb_nobody() {
    for (point, marker_stays) in [("restore.after_control", true), ("restore.before_release", false)] {
        let half = half(point);
        assert!(half.copy.join(MARKER).exists() == marker_stays && half.fast.join(MARKER).exists());
        let copy = TestCluster::builder().start_existing(&half.copy);
        copy.wait_for("postgres", "select pg_is_in_recovery()", "f");
        copy.psql("postgres", "insert into t values (2);\ncheckpoint;");
        assert_eq!(copy.psql("postgres", "select count(*) from t"), "2");
        postgres_leaves_the_mark_behind(&copy, &half.fast);

        fs::remove_file(half.copy.join("refloat.locked")).expect("as takeover does");
        let home = home(encrypted());
        let commit = backed_up(&copy, &home);
        let (directory, fast) = (half.work.join("second"), half.work.join("second fast"));
        let mut request = to(&copy, &commit, &directory);
        request.tablespaces.insert(half.fast.clone(), fast.clone());
        run(&home, request).expect("a restore");
        assert!(!directory.join(MARKER).exists() && !fast.join(MARKER).exists());
        copy.verifybackup(&directory).expect("pg_verifybackup is content");
        copy.psql("postgres", "drop table t;\ndrop tablespace fast;");
        drop(copy);
        let error = run(&half.home, half.request()).expect_err("a server ran there");
        assert!(matches!(error, RestoreError::NotEmpty { .. }), "{error:?}");
    }
}

/// `pg_basebackup` copies of a tablespace what is PostgreSQL's.
fn postgres_leaves_the_mark_behind(cluster: &TestCluster, tablespace: &Path) {
    let (base, moved) = (cluster.make_dir("base"), cluster.make_dir("base fast"));
    let mut command = cluster.as_owner(cluster.bin("pg_basebackup"));
    command.arg("-h").arg(cluster.socket_directory());
    command.args(["-p", &cluster.port().to_string(), "-U", "postgres"]);
    command.args(["-c", "fast", "-X", "none", "--no-sync", "-D"]).arg(&base);
    command.arg("-T").arg(format!("{}={}", tablespace.display(), moved.display()));
    let output = command.output().expect("pg_basebackup runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names: Vec<_> = fs::read_dir(&moved).expect("there").flatten().map(|e| e.file_name()).collect();
    assert!(matches!(&names[..], [name] if name.to_string_lossy().starts_with("PG_15_")), "{names:?}");
}

#[test]
fn in_place_what_came_to_the_old_places_is_left_alone() {
    let mut cluster = TestCluster::builder().build();
    let tablespace = with_a_tablespace(&cluster);
    let home = home(encrypted());
    backed_up(&cluster, &home);
    cluster.stop(StopMode::Fast);
    let data = cluster.data_directory().to_owned();
    let work = cluster.make_dir("work");
    assert!(killed_at("restore.after_aside", &job(&home, &cluster, &data, true, "k1"), &work));
    assert!(!tablespace.exists(), "it was renamed");
    cluster.owner().make_dir(&tablespace);
    fs::write(tablespace.join("file"), b"mine").expect("written");
    let mut request = to(&cluster, &newest(&home), &data);
    request.to = Destination::InPlace(data.clone());
    let beside = data.parent().expect("a parent").to_owned();
    let before = tree(&beside);
    let error = run(&home, request.clone()).expect_err("refused");
    assert_eq!(error.advice().code, "RST-006", "{error}");
    assert!(tree(&beside) == before, "nothing is changed");
    fs::remove_file(tablespace.join("file")).expect("removed");
    run(&home, request).expect("a restore");
    cluster.start();
    cluster.wait_for("postgres", "select pg_is_in_recovery()", "f");
    assert_eq!(cluster.psql("postgres", "select count(*) from t"), "1");
}

#[test]
fn steps_of_setting_aside_that_we_never_make_are_not_believed() {
    let mut cluster = TestCluster::builder().build();
    let tablespace = with_a_tablespace(&cluster);
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    cluster.stop(StopMode::Fast);
    let data = cluster.data_directory().to_owned();
    let mine = cluster.make_dir("mine");
    fs::write(mine.join("file"), b"mine").expect("written");
    let link = fs::read_dir(data.join("pg_tblspc")).expect("there").flatten().next().expect("a link");
    let link = format!("pg_tblspc/{}", link.file_name().to_string_lossy());
    let moves = |from: &Path, to: &str| json!({ "from": from, "to": to });
    let beside = |path: &Path| format!("{}.before-k1", path.display());
    let own = moves(&data, &beside(&data));
    for (what, forged) in [
        ("another name", json!({ "directory": moves(&data, "/tmp/elsewhere"), "linked": [] })),
        (
            "another directory",
            json!({ "directory": own, "linked": [{ "link": link, "path": moves(&mine, &beside(&mine)) }] }),
        ),
        (
            "no link of ours",
            json!({ "directory": own, "linked": [{ "link": "../mine", "path": moves(&mine, &beside(&mine)) }] }),
        ),
        (
            "the way up",
            json!({ "directory": own, "linked": [{ "link": link, "path": moves(&mine.join("../mine"), &beside(&mine.join("../mine"))) }] }),
        ),
    ] {
        fs::write(data.join("refloat.aside"), forged.to_string()).expect("written");
        let mut request = to(&cluster, &commit, &data);
        request.to = Destination::InPlace(data.clone());
        let plan = plan(&home.repository, request).expect("a plan");
        let from: Vec<&PathBuf> = plan.set_aside.iter().map(|step| &step.from).collect();
        assert_eq!(from, [&data, &tablespace], "{what}");
        assert!(
            plan.set_aside
                .iter()
                .all(|step| step.to.display().to_string() == format!("{}.before-k7r2", step.from.display())),
            "{what}"
        );
    }
}
