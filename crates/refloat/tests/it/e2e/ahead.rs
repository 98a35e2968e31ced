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

/// A server that archives into a bucket, and a directory that WAL segments are fetched to as a recovery fetches them.
struct Scene {
    store: S3sFs,
    site: Site,
    fetched: Fetched,
}

/// WAL segments, what is in them, and where they are fetched to.
struct Fetched {
    names: Vec<String>,
    /// As fetched one by one.
    bytes: Vec<Vec<u8>>,
    directory: PathBuf,
}

fn stored() -> Option<(S3sFs, Site)> {
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
    Some((store, site))
}

impl Scene {
    fn new(segments: usize) -> Option<Self> {
        let (store, site) = stored()?;
        let fetched = Fetched::new(&site, segments);
        Some(Self { store, site, fetched })
    }

    #[track_caller]
    fn fetch(&self, number: usize) {
        self.fetched.fetch(&self.site, number);
    }
}

impl Fetched {
    fn new(site: &Site, segments: usize) -> Self {
        site.cluster.psql("postgres", "create table t (n int)");
        let mut names = Vec::new();
        for number in 0..segments {
            names.push(site.cluster.psql("postgres", "select pg_walfile_name(pg_current_wal_insert_lsn())"));
            let insert = format!("insert into t select {number} from generate_series(1, 1000)");
            site.cluster.psql("postgres", &insert);
            site.archive_all();
        }
        let directory = site.cluster.make_dir("fetched");
        let by_hand = directory.join("by-hand");
        let read = |name: &String| {
            fetch_to(site, name, &by_hand).ends(0);
            fs::read(&by_hand).expect("it was fetched")
        };
        let bytes = names.iter().map(read).collect();
        Self { names, bytes, directory }
    }

    /// Fetches one as a recovery does.
    #[track_caller]
    fn fetch(&self, site: &Site, number: usize) {
        let dest = self.directory.join(IN_RECOVERY);
        let _ = fs::remove_file(&dest);
        fetch_to(site, &self.names[number], &dest).ends(0);
        assert!(fs::read(&dest).expect("it was fetched") == self.bytes[number], "WAL segment {number}");
    }

    fn ahead(&self) -> PathBuf {
        self.directory.join(".refloat-ahead")
    }

    #[track_caller]
    fn wait_for(&self, segments: usize) {
        let all = || complete(&self.ahead()).len() >= segments;
        assert!(wait_until(Duration::from_secs(60), all), "only {:?}", complete(&self.ahead()));
    }

    /// The processes that read ahead.
    fn readers(&self) -> Vec<String> {
        let dest = self.directory.join(IN_RECOVERY).display().to_string();
        let is_one = |line: &[u8]| {
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            words.contains(&&b"--ahead"[..]) && words.contains(&dest.as_bytes())
        };
        let processes = fs::read_dir("/proc").expect("lists").flatten();
        processes
            .filter(|process| fs::read(process.path().join("cmdline")).is_ok_and(|line| is_one(&line)))
            .map(|process| process.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

fn fetch_to(site: &Site, name: &str, dest: &Path) -> Run {
    site.run(&["wal", "fetch", "--source", "prod", name, dest.to_str().expect("a path")])
}

/// The complete WAL segments that lie in a directory.
fn complete(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    let is_segment =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("0000"));
    paths.retain(is_segment);
    paths.sort();
    paths
}

#[test]
fn what_follows_is_there_when_it_is_asked_for() {
    let Some(scene) = Scene::new(9) else { return };
    let fetched = &scene.fetched;
    // Neither who fetches by hand starts anything, nor a server that asks for one from time to time.
    scene.fetch(0);
    assert_eq!(fetched.readers(), Vec::<String>::new());
    scene.fetch(1);
    // Few at first, and more where they are taken.
    fetched.wait_for(2);
    scene.fetch(2);
    fetched.wait_for(4);
    let lying = fs::metadata(&complete(&fetched.ahead())[0]).expect("it lies there");
    assert_eq!(lying.mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(fetched.ahead()).expect("a directory").mode() & 0o777, 0o700);

    // Nothing but what lies there can answer now.
    fs::rename(scene.store.root().join("backups"), scene.store.root().join("aside")).expect("moves");
    for number in 3..7 {
        scene.fetch(number);
    }
    // All was taken and no more comes: the process ends, and takes its directory with it.
    let is_gone = || !fetched.ahead().exists() && fetched.readers().is_empty();
    assert!(wait_until(Duration::from_secs(30), is_gone));
}

#[test]
fn what_a_killed_process_left_is_not_used() {
    let Some(scene) = Scene::new(5) else { return };
    let fetched = &scene.fetched;
    scene.fetch(0);
    scene.fetch(1);
    fetched.wait_for(2);
    let readers = fetched.readers();
    assert_eq!(readers.len(), 1, "one process serves one recovery: {readers:?}");
    let killed = Command::new("kill").args(["-KILL", &readers[0]]).status().expect("kill starts");
    assert!(killed.success());
    let is_gone = || fs::read(format!("/proc/{}/cmdline", readers[0])).map_or(true, |line| line.is_empty());
    assert!(wait_until(Duration::from_secs(10), is_gone));
    // As after a crash of the host: what was not synced is something else now.
    for left in complete(&fetched.ahead()) {
        fs::write(left, vec![0; 16 << 20]).expect("writes");
    }
    for number in 2..5 {
        scene.fetch(number);
    }
}

#[test]
fn a_server_that_archives_has_nothing_of_it_beside_its_wal() {
    let Some(scene) = Scene::new(1) else { return };
    let (fetched, owner) = (&scene.fetched, scene.site.cluster.owner());
    owner.make_dir(&fetched.ahead());
    for left in ["lock", "asked", "coming.000000010000000000000009.7", "000000010000000000000008.7.local"] {
        fs::write(fetched.ahead().join(left), "left").expect("writes");
        owner.give(&fetched.ahead().join(left));
    }
    let archived = fetched.directory.join(&fetched.names[0]);
    fs::write(&archived, &fetched.bytes[0]).expect("writes");
    owner.give(&archived);
    scene.site.run(&["wal", "push", "--source", "prod", archived.to_str().expect("a path")]).ends(0);
    assert!(!fetched.ahead().exists());
}

#[test]
fn nothing_is_read_ahead_where_it_is_not_wanted_or_near() {
    if let Some(scene) = Scene::new(4) {
        let config = fs::read_to_string(&scene.site.config).expect("reads");
        let off = config.replace("[source.prod]\n", "[source.prod]\nwal_fetch_ahead = \"0\"\n");
        assert_ne!(config, off);
        fs::write(&scene.site.config, off).expect("writes");
        scene.fetch(0);
        scene.fetch(1);
        assert_eq!(scene.fetched.readers(), Vec::<String>::new());
        fs::write(&scene.site.config, config).expect("writes");
        scene.fetch(2);
        scene.fetch(3);
        assert_eq!(scene.fetched.readers().len(), 1, "it is the setting that makes the difference");
    }
    let site = Site::new(TestCluster::builder().checksums(true));
    let fetched = Fetched::new(&site, 4);
    for number in 0..3 {
        fetched.fetch(&site, number);
    }
    assert_eq!(fetched.readers(), Vec::<String>::new());
}

#[test]
fn what_a_command_leaves_behind_never_looks_like_a_crash() {
    let site = Site::new(TestCluster::builder().checksums(true));
    let dest = site.path("RECOVERYXLOG").display().to_string();
    let segment = "000000010000000000000001";
    for arguments in [
        ["wal", "fetch", "--ahead", "--source", "unknown", segment, &dest].as_slice(),
        ["wal", "fetch", "--ahead", "--source", "prod", "no-name", &dest].as_slice(),
        ["copy", "--background", "unknown"].as_slice(),
    ] {
        site.run(arguments).ends(0);
    }
    fs::write(&site.config, "nonsense = true\n").expect("writes");
    site.run(&["wal", "fetch", "--ahead", "--source", "prod", segment, &dest]).ends(0);
    site.run(&["copy", "--background", "prod"]).ends(0);
}

#[test]
fn a_server_is_promoted_while_wal_is_read_ahead() {
    let Some((_store, site)) = stored() else { return };
    site.cluster.psql("postgres", "create table t (n int)");
    site.backup();
    let mut moment = String::new();
    for number in 0..16 {
        let insert = format!("insert into t select {number} from generate_series(1, 1000)");
        site.cluster.psql("postgres", &insert);
        if number == 7 {
            moment = site.cluster.psql("postgres", "select clock_timestamp()");
        }
        site.archive_all();
    }
    let to = site.restore("restored", &[&moment]);
    let clone = TestCluster::builder().version(VERSION).start_existing(&to);
    clone.wait_for("postgres", "select pg_get_wal_replay_pause_state()", "paused");
    // It waits at its target while what lies behind that comes.
    let ahead = to.join("pg_wal/.refloat-ahead");
    assert!(wait_until(Duration::from_secs(60), || !complete(&ahead).is_empty()), "{}", clone.log());
    // The last one that it was given out of the repository lies before the last one that it has replayed.
    let given = fs::read_to_string(site.path("refloat-state").join("fetched/prod")).expect("it is noted");
    let number = "select lpad(to_hex(((pg_last_wal_replay_lsn() - '0/0') / 16777216)::bigint), 8, '0')";
    let replayed = format!("0000000100000000{}", clone.psql("postgres", number).to_uppercase());
    assert!(given < replayed, "{given} {replayed}");
    promote(&clone);
    assert!(wait_until(Duration::from_secs(30), || !ahead.exists()));
    assert_eq!(clone.psql("postgres", "select count(*) || ' ' || max(n) from t"), "8000 7");
    let goes_on = "select pg_walfile_name(pg_current_wal_lsn()) like '00000002%'";
    assert_eq!(clone.psql("postgres", goes_on), "t");
    prove(clone);
}
