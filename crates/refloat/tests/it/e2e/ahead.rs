//! A recovery over a network: the segments that follow are fetched before they are asked for.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use refloat_testkit::cluster::{TestCluster, skip_without, wait_until};
use refloat_testkit::servers::S3sFs;

use super::site::{Run, Site, promote, prove};

/// A version that is always installed.
const VERSION: u32 = 15;
/// The name that PostgreSQL gives to what it replays.
const IN_RECOVERY: &str = "RECOVERYXLOG";

/// A server that archives into a bucket, and a directory that segments are fetched to as a recovery fetches them.
struct Scene {
    store: S3sFs,
    site: Site,
    segments: Vec<String>,
    /// What is in them, as fetched one by one.
    bytes: Vec<Vec<u8>>,
    directory: PathBuf,
}

impl Scene {
    fn new(segments: usize) -> Option<Self> {
        if skip_without(VERSION) {
            return None;
        }
        let store = S3sFs::start()?;
        let lines = format!(
            "url = \"s3://{}/db1\"\nendpoint = \"{}\"\n\
             credentials = {{ access_key_id = \"{}\", secret_access_key = {{ file = \"{{secret}}\" }} }}",
            store.bucket("backups"),
            store.endpoint(),
            store.access_key()
        );
        let builder = TestCluster::builder().version(VERSION).checksums(true);
        let site = Site::in_store(builder, (&lines, store.secret_key()));
        site.cluster.psql("postgres", "create table t (n int)");
        let mut names = Vec::new();
        for number in 0..segments {
            names.push(site.cluster.psql("postgres", "select pg_walfile_name(pg_current_wal_insert_lsn())"));
            site.cluster
                .psql("postgres", &format!("insert into t select {number} from generate_series(1, 1000)"));
            site.archive_all();
        }
        let directory = site.cluster.make_dir("fetched");
        let mut scene = Self { store, site, segments: names, bytes: Vec::new(), directory };
        let by_hand = scene.directory.join("by-hand");
        for segment in &scene.segments {
            scene.fetch_to(segment, &by_hand).ends(0);
            scene.bytes.push(fs::read(&by_hand).expect("it was fetched"));
        }
        Some(scene)
    }

    fn fetch_to(&self, segment: &str, dest: &Path) -> Run {
        self.site.run(&["wal", "fetch", "--source", "prod", segment, dest.to_str().expect("a path")])
    }

    /// Fetches one as a recovery does, and answers what came.
    #[track_caller]
    fn fetch(&self, number: usize) {
        let dest = self.directory.join(IN_RECOVERY);
        let _ = fs::remove_file(&dest);
        self.fetch_to(&self.segments[number], &dest).ends(0);
        assert!(fs::read(&dest).expect("it was fetched") == self.bytes[number], "segment {number}");
    }

    fn ahead(&self) -> PathBuf {
        self.directory.join(".refloat-ahead")
    }

    /// The complete segments that lie there, by name.
    fn lie_there(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.ahead()).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        let is_segment =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("0000"));
        paths.retain(is_segment);
        paths.sort();
        paths
    }

    #[track_caller]
    fn wait_for(&self, segments: usize) {
        let all = || self.lie_there().len() >= segments;
        assert!(wait_until(Duration::from_secs(60), all), "only {:?}", self.lie_there());
    }

    /// Kills the process that reads ahead.
    fn kill(&self) {
        let dest = self.directory.join(IN_RECOVERY).display().to_string();
        let is_it = |line: &[u8]| {
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            words.contains(&&b"--ahead"[..]) && words.contains(&dest.as_bytes())
        };
        let processes = fs::read_dir("/proc").expect("lists").flatten();
        let pids: Vec<String> = processes
            .filter(|process| fs::read(process.path().join("cmdline")).is_ok_and(|line| is_it(&line)))
            .map(|process| process.file_name().to_string_lossy().into_owned())
            .collect();
        assert_eq!(pids.len(), 1, "one process serves one recovery: {pids:?}");
        let process = Path::new("/proc").join(&pids[0]);
        let killed = Command::new("kill").args(["-KILL", &pids[0]]).status().expect("kill starts");
        assert!(killed.success());
        let is_gone = || fs::read(process.join("cmdline")).map_or(true, |line| line.is_empty());
        assert!(wait_until(Duration::from_secs(10), is_gone));
    }
}

#[test]
fn what_follows_is_there_when_it_is_asked_for() {
    let Some(scene) = Scene::new(6) else { return };
    // Who fetches one by hand starts nothing.
    assert!(!scene.ahead().exists());
    scene.fetch(0);
    scene.wait_for(5);
    let lying = fs::metadata(&scene.lie_there()[0]).expect("it lies there");
    assert_eq!(lying.mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(scene.ahead()).expect("a directory").mode() & 0o777, 0o700);

    // Nothing but what lies there can answer now.
    let Scene { store, .. } = &scene;
    fs::rename(store.root().join("backups"), store.root().join("aside")).expect("moves");
    for number in 1..6 {
        scene.fetch(number);
    }
    // All was taken and no more is there: the process ends, and takes its directory with it.
    let is_gone = || !scene.ahead().exists();
    assert!(wait_until(Duration::from_secs(30), is_gone));
}

#[test]
fn what_a_killed_process_left_is_not_used() {
    let Some(scene) = Scene::new(4) else { return };
    scene.fetch(0);
    scene.wait_for(3);
    scene.kill();
    // As after a crash of the host: what was not synced is something else now.
    for left in scene.lie_there() {
        fs::write(left, vec![0; 16 << 20]).expect("writes");
    }
    for number in 1..3 {
        scene.fetch(number);
    }
    // A server that archives has ended its recovery: nothing of that is left beside its WAL.
    if scene.ahead().exists() {
        scene.wait_for(1);
        scene.kill();
    } else {
        fs::create_dir(scene.ahead()).expect("a directory");
        scene.site.cluster.owner().give(&scene.ahead());
    }
    let archived = scene.directory.join(&scene.segments[0]);
    fs::write(&archived, &scene.bytes[0]).expect("writes");
    scene.site.cluster.owner().give(&archived);
    scene.site.run(&["wal", "push", "--source", "prod", archived.to_str().expect("a path")]).ends(0);
    assert!(!scene.ahead().exists());
}

#[test]
fn none_is_read_ahead_where_that_is_said() {
    let Some(scene) = Scene::new(2) else { return };
    let config = fs::read_to_string(&scene.site.config).expect("reads");
    let off = config.replace("[source.prod]\n", "[source.prod]\nwal_fetch_ahead = \"0\"\n");
    assert_ne!(config, off);
    fs::write(&scene.site.config, off).expect("writes");
    scene.fetch(0);
    scene.fetch(1);
    assert!(!scene.ahead().exists());
}

#[test]
fn a_server_is_promoted_while_segments_are_read_ahead() {
    if skip_without(VERSION) {
        return;
    }
    let Some(store) = S3sFs::start() else { return };
    let lines = format!(
        "url = \"s3://{}/db1\"\nendpoint = \"{}\"\n\
         credentials = {{ access_key_id = \"{}\", secret_access_key = {{ file = \"{{secret}}\" }} }}",
        store.bucket("backups"),
        store.endpoint(),
        store.access_key()
    );
    let site =
        Site::in_store(TestCluster::builder().version(VERSION).checksums(true), (&lines, store.secret_key()));
    site.cluster.psql("postgres", "create table t (n int)");
    site.backup();
    let mut moment = String::new();
    for number in 0..12 {
        site.cluster
            .psql("postgres", &format!("insert into t select {number} from generate_series(1, 1000)"));
        if number == 5 {
            moment = site.cluster.psql("postgres", "select clock_timestamp()");
        }
        site.archive_all();
    }
    let to = site.restore("restored", &[&moment]);
    let clone = TestCluster::builder().version(VERSION).start_existing(&to);
    clone.wait_for("postgres", "select pg_get_wal_replay_pause_state()", "paused");
    // It waits at its target while what lies behind that comes.
    let ahead = to.join("pg_wal/.refloat-ahead");
    let behind = || fs::read_dir(&ahead).is_ok_and(|entries| entries.flatten().count() > 2);
    assert!(wait_until(Duration::from_secs(60), behind), "{}", clone.log());
    promote(&clone);
    let is_gone = || !ahead.exists();
    assert!(wait_until(Duration::from_secs(30), is_gone));
    assert_eq!(clone.psql("postgres", "select count(*) || ' ' || max(n) from t"), "6000 5");
    let goes_on = "select pg_walfile_name(pg_current_wal_lsn()) like '00000002%'";
    assert_eq!(clone.psql("postgres", goes_on), "t");
    prove(clone);
}
