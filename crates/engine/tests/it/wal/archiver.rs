//! Our push and fetch as a real server's commands: this test binary stands in for the program.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use refloat_engine::wal::{Archive, FetchOptions, PushOptions, fetch, one_line, push};
use refloat_pg::control;
use refloat_repo::crypt::identity::Identity;
use refloat_repo::{Compression, Repository, StateDirectory};
use refloat_store::{Options, PosixStore};
use refloat_testkit::cluster::{StopMode, TestCluster, skip_without, wait_until};
use refloat_testkit::fault_plan::{FaultPlan, Faulty};
use refloat_types::{Clock as _, SystemClock, SystemIdentifier, TimelineId, WalFileName};

use super::fixture::{fetch_now, init};

/// What a command is told, in its environment: `push` or `fetch`, the place of store and state, the file, where to.
const VARIABLES: [&str; 4] = ["RF_TEST_DO", "RF_TEST_PLACE", "RF_TEST_FILE", "RF_TEST_DEST"];

#[test]
#[ignore = "not a test: the command that servers of other tests call"]
#[expect(clippy::exit, clippy::disallowed_methods, reason = "it stands in for a program")]
fn command() {
    let told: Option<Vec<String>> = VARIABLES.iter().map(|name| std::env::var(name).ok()).collect();
    let Some([what, place, file, dest]) = told.as_deref() else { return };
    let place = Path::new(place);
    let store = PosixStore::open(place.join("store"), Options::default());
    let opened = store.map_err(Into::into).and_then(|store| {
        let state = StateDirectory::new(place.join("state"));
        let mut none = || panic!("the state directory knows this repository");
        Repository::open(Arc::new(store), state, None, SystemClock.now(), &mut none)
    });
    let here = std::env::current_dir().unwrap();
    let code = match (what.as_str(), opened) {
        ("push", Err(_)) => 5,
        ("push", Ok(repository)) => {
            let options = PushOptions {
                compression: Compression::default(),
                now: SystemClock.now(),
                expected_system: None,
                data_directory: Some(&here),
                source: None,
                acknowledge: usize::MAX,
                deadline: Duration::from_secs(30),
            };
            match push(&[&repository], &options, Path::new(file)) {
                Ok(_) => 0,
                Err(error) => {
                    eprintln!("{}", one_line(&error));
                    1
                }
            }
        }
        // A store that cannot be opened was not asked.
        (_, Err(error)) => {
            eprintln!("could not open the repository: {error}");
            255
        }
        (_, Ok(repository)) => {
            let (control, _) = control::read_settled(&here).unwrap();
            let options = FetchOptions {
                system: control.system_identifier,
                deadline: Duration::from_millis(500),
                is_standby: false,
            };
            match fetch(&[&repository], &options, file.parse().unwrap(), Path::new(dest)) {
                Ok(_) => 0,
                Err(error) => {
                    eprintln!("{}", one_line(&error));
                    i32::from(error.exit_code(false))
                }
            }
        }
    };
    std::process::exit(code);
}

/// A server that archives through us, and where to.
struct Archived {
    cluster: TestCluster,
    place: PathBuf,
    script: PathBuf,
    system: SystemIdentifier,
}

impl Archived {
    fn new() -> Self {
        let mut cluster = TestCluster::builder()
            .version(15)
            .fresh_identity()
            .setting("archive_mode", "on")
            .setting("restore_command", "false")
            .build_stopped();
        let place = cluster.make_dir("repository");
        let identity = Identity::draw();
        let options = Options { create: true, ..Options::default() };
        let store = PosixStore::open(place.join("store"), options).unwrap();
        init(Arc::new(store), &place.join("state"), &identity);
        let script = place.join("refloat");
        let binary = place.join("binary");
        // A copy that the server's user can run, wherever this one lies.
        fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
        fs::write(
            &script,
            format!(
                "#!/bin/sh\nRF_TEST_DO=$1 RF_TEST_PLACE={place} RF_TEST_FILE=$2 RF_TEST_DEST=${{3:-none}} exec {binary} --exact wal::archiver::command --ignored --nocapture >&2\n",
                place = place.display(),
                binary = binary.display()
            ),
        )
        .unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        give_all(&cluster, &place);
        cluster.configure("archive_command", &format!("{} push %p", script.display()));
        cluster.start();
        let (control, _) = control::read_settled(cluster.data_directory()).unwrap();
        Self { cluster, place, script, system: control.system_identifier }
    }

    fn switch(&self) -> String {
        let name = self.cluster.psql("postgres", "select pg_walfile_name(pg_switch_wal());");
        self.archived(&name);
        name
    }

    fn archived(&self, name: &str) {
        let done = self.cluster.data_directory().join(format!("pg_wal/archive_status/{name}.done"));
        let archived = wait_until(Duration::from_secs(60), || done.exists());
        assert!(archived, "{name} was not archived: {}", self.cluster.log());
    }

    fn objects(&self, timeline: u32, part: &str) -> Vec<PathBuf> {
        let top = self.place.join(format!("store/wal/{}/{timeline:08X}", self.system));
        let mut found = Vec::new();
        for directory in fs::read_dir(top).unwrap() {
            for entry in fs::read_dir(directory.unwrap().path()).unwrap() {
                let path = entry.unwrap().path();
                if path.to_string_lossy().contains(part) {
                    found.push(path);
                }
            }
        }
        found
    }

    /// A copy of the data directory as it is now, to be recovered from the archive alone.
    fn copy_for_recovery(&self, name: &str) -> PathBuf {
        let copy = self.cluster.make_dir(name);
        let from = format!("{}/.", self.cluster.data_directory().display());
        assert!(std::process::Command::new("cp").arg("-a").arg(from).arg(&copy).status().unwrap().success());
        for leftover in ["postmaster.pid", "postmaster.opts"] {
            let _ = fs::remove_file(copy.join(leftover));
        }
        copy
    }

    fn recover(&self, directory: &Path, settings: &[(&str, &str)]) -> Result<TestCluster, String> {
        for entry in fs::read_dir(directory.join("pg_wal")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::remove_file(path).unwrap();
            }
        }
        fs::write(directory.join("recovery.signal"), "").unwrap();
        give_all(&self.cluster, directory);
        let command = format!("{} fetch %f %p", self.script.display());
        let mut builder = TestCluster::builder()
            .version(15)
            .setting("restore_command", &command)
            .setting("archive_mode", "off");
        for (name, value) in settings {
            builder = builder.setting(name, value);
        }
        builder.try_start_existing(directory)
    }
}

/// The log of a recovery that must end with an error. It may have let readers in before.
fn stopped(recovery: Result<TestCluster, String>) -> String {
    match recovery {
        Err(log) => log,
        Ok(mut server) => {
            assert!(wait_until(Duration::from_secs(60), || !server.is_running()), "recovery went on");
            server.log()
        }
    }
}

fn give_all(cluster: &TestCluster, directory: &Path) {
    let mut pending = vec![directory.to_owned()];
    while let Some(path) = pending.pop() {
        cluster.owner().give(&path);
        if path.is_dir() && !path.is_symlink() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

#[test]
fn recovery_stops_at_a_hole_and_goes_on_when_it_is_mended() {
    if skip_without(15) {
        return;
    }
    let mut source = Archived::new();
    source.cluster.psql("postgres", "create table t (v int);");
    // An offline copy: what lies behind it comes from the archive alone.
    source.cluster.stop(StopMode::Fast);
    let copies: Vec<PathBuf> = ["a", "b", "c"].iter().map(|name| source.copy_for_recovery(name)).collect();
    source.cluster.start();
    let mut files = Vec::new();
    for value in 1..=3 {
        source.cluster.psql("postgres", &format!("insert into t values ({value});"));
        files.push(source.switch());
    }
    // To the end of the archive: everything, and then it is promoted.
    let recovered = source.recover(&copies[0], &[]).unwrap();
    recovered.wait_for_end_of_recovery();
    assert_eq!(recovered.psql("postgres", "select sum(v) from t;"), "6");
    drop(recovered);

    // A hole: the recovery ends with an error, nothing is promoted.
    let hidden = source.place.join("hidden");
    let middle = source.objects(1, &files[1]).remove(0);
    fs::rename(&middle, &hidden).unwrap();
    let log = stopped(source.recover(&copies[1], &[]));
    assert!(log.contains("WAL-031") && log.contains("could not restore file"), "{log}");
    assert!(!copies[1].join("pg_wal/00000002.history").exists(), "it was promoted");
    // Mended: it goes on where it was, to the end.
    fs::rename(&hidden, &middle).unwrap();
    let recovered = source.recover(&copies[1], &[]).unwrap();
    recovered.wait_for_end_of_recovery();
    assert_eq!(recovered.psql("postgres", "select sum(v) from t;"), "6");
    drop(recovered);

    // The repository is away, then the key: the same.
    let (store, away) = (source.place.join("store"), source.place.join("away"));
    for what in ["store", "store/keys/data"] {
        let place = source.place.join(what);
        fs::rename(&place, &away).unwrap();
        if what == "store/keys/data" {
            // This host remembers its own key of today; another does not.
            let state = fs::read_dir(source.place.join("state/repositories"))
                .unwrap()
                .next()
                .unwrap()
                .unwrap()
                .path();
            fs::rename(state.join("writer-key.json"), source.place.join("writer-key.json")).unwrap();
        }
        let log = stopped(source.recover(&copies[2], &[]));
        assert!(log.contains("WAL-033") || log.contains("could not open the repository"), "{what}: {log}");
        assert!(!copies[2].join("pg_wal/00000002.history").exists(), "{what}: it was promoted");
        fs::rename(&away, &place).unwrap();
    }
    assert!(store.exists());
    let recovered = source.recover(&copies[2], &[]).unwrap();
    recovered.wait_for_end_of_recovery();
    assert_eq!(recovered.psql("postgres", "select sum(v) from t;"), "6");
}

#[test]
fn a_promotion_is_archived_whole_and_recovered_along() {
    if skip_without(15) {
        return;
    }
    let mut source = Archived::new();
    source.cluster.psql("postgres", "create table t (v int); insert into t values (1);");
    source.switch();
    source.cluster.stop(StopMode::Fast);
    let (copy, other) = (source.copy_for_recovery("copy"), source.copy_for_recovery("other"));
    // The cluster itself recovers to the end of its WAL and goes on, on timeline 2.
    fs::write(source.cluster.data_directory().join("recovery.signal"), "").unwrap();
    source.cluster.owner().give(&source.cluster.data_directory().join("recovery.signal"));
    source.cluster.start();
    source.cluster.wait_for_end_of_recovery();
    source.cluster.psql("postgres", "insert into t values (10);");
    let last = source.switch();
    assert!(last.starts_with("00000002"), "{last}");
    source.archived("00000002.history");

    let store = PosixStore::open(source.place.join("store"), Options::default()).unwrap();
    let state = StateDirectory::new(source.place.join("state"));
    let mut none = || panic!("known");
    let repository = Repository::open(Arc::new(store), state, None, SystemClock.now(), &mut none).unwrap();
    let archive = Archive::read(&repository, source.system, None).unwrap();
    let two = TimelineId::new(2).unwrap();
    assert_eq!(archive.history(two).unwrap().parent(), Some(TimelineId::FIRST));
    assert!(archive.gaps().is_empty());
    let name: WalFileName = last.parse().unwrap();
    assert_eq!(repository.find_wal(source.system, name).unwrap().len(), 1);
    drop(repository);

    let recovered = source.recover(&copy, &[("recovery_target_timeline", "2")]).unwrap();
    recovered.wait_for_end_of_recovery();
    assert_eq!(recovered.psql("postgres", "select sum(v) from t;"), "11");
    assert_eq!(recovered.psql("postgres", "select timeline_id from pg_control_checkpoint();"), "3");
    drop(recovered);

    // Without its history file timeline 2 cannot be told from one that nobody began.
    for history in source.objects(2, ".history") {
        fs::remove_file(history).unwrap();
    }
    let log = stopped(source.recover(&other, &[("recovery_target_timeline", "latest")]));
    assert!(log.contains("refloat[WAL-031]: 00000002.history is missing"), "{log}");
}

#[test]
fn recovery_stops_at_a_hole_at_the_end_of_a_timeline_that_was_left_later() {
    if skip_without(15) {
        return;
    }
    let mut source = Archived::new();
    source.cluster.psql("postgres", "create table t (v int); insert into t values (1);");
    source.switch();
    source.cluster.stop(StopMode::Fast);
    let copy = source.copy_for_recovery("copy");
    source.cluster.start();
    source.cluster.psql("postgres", "insert into t values (10);");
    let last = source.switch();
    source.cluster.psql("postgres", "insert into t values (1000);");
    source.cluster.stop(StopMode::Immediate);
    fs::write(source.cluster.data_directory().join("recovery.signal"), "").unwrap();
    source.cluster.owner().give(&source.cluster.data_directory().join("recovery.signal"));
    source.cluster.start();
    source.cluster.wait_for_end_of_recovery();
    source.cluster.psql("postgres", "insert into t values (100);");
    let newest: refloat_types::WalSegmentName = source.switch().parse().unwrap();
    assert_eq!(newest.timeline.get(), 2);
    let last: refloat_types::WalSegmentName = last.parse().unwrap();
    let unfinished = last.next(refloat_types::WalSegmentSize::DEFAULT).to_string();
    source.archived(&format!("{unfinished}.partial"));

    let store = PosixStore::open(source.place.join("store"), Options::default()).unwrap();
    let plan = FaultPlan::new();
    let state = StateDirectory::new(source.place.join("state"));
    let mut none = || panic!("known");
    let store = Arc::new(Faulty::new(store, &plan));
    let repository = Repository::open(store, state, None, SystemClock.now(), &mut none).unwrap();
    let dest = source.place.join("RECOVERYXLOG");
    let code = |file: &str| {
        let asked = plan.calls();
        let error = fetch_now(&[&repository], source.system, file, &dest).expect_err("it is not there");
        (error.exit_code(false), plan.calls() - asked)
    };
    // Timeline 1 was left inside of this one, so there is no whole one, and recovery of timeline 1 ends before it.
    assert_eq!(code(&unfinished).0, 1);
    // A standby asks for the next one every few seconds.
    let (answer, calls) = code(&newest.next(refloat_types::WalSegmentSize::DEFAULT).to_string());
    assert_eq!(answer, 1);
    assert!(calls < 300, "{calls} calls");
    drop(repository);

    // Nothing behind it is stored on its own timeline, as after a promotion without archiving.
    fs::remove_file(source.objects(1, ".partial").remove(0)).unwrap();
    let hidden = source.place.join("hidden");
    let object = source.objects(1, &format!("{last}-")).remove(0);
    fs::rename(&object, &hidden).unwrap();
    let log = stopped(source.recover(&copy, &[("recovery_target_timeline", "latest")]));
    let why = format!("refloat[WAL-031]: {last} is missing");
    assert!(
        log.contains(&why) && log.contains("timeline 2, which is stored, left this one behind it"),
        "{log}"
    );
    assert!(!copy.join("pg_wal/00000003.history").exists(), "it was promoted");
    fs::rename(&hidden, &object).unwrap();
    let recovered = source.recover(&copy, &[("recovery_target_timeline", "latest")]).unwrap();
    recovered.wait_for_end_of_recovery();
    assert_eq!(recovered.psql("postgres", "select sum(v) from t;"), "1111");
}

#[test]
fn links_in_pg_wal_and_plain_users_work() {
    if skip_without(15) {
        return;
    }
    let source = Archived::new();
    source.cluster.psql("postgres", "create table t (v int);");
    let name = source.switch();
    // Somebody moved pg_wal to another disk: the path goes through a link.
    let link = source.place.join("pg_wal");
    symlink(source.cluster.data_directory().join("pg_wal"), &link).unwrap();
    let status = source
        .cluster
        .as_owner(&source.script)
        .arg("push")
        .arg(link.join(&name))
        .current_dir(source.cluster.data_directory())
        .status();
    assert!(status.unwrap().success());
}
