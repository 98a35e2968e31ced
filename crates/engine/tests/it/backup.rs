//! Full backups of real servers, looked at by other means than our own report.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use refloat_engine::backup::{self, BackupError, BackupReport, BackupRequest, OwnWal, RunOn, Wanted};
use refloat_engine::progress::Silent;
use refloat_pg::sql::{ConnectOptions, Place};
use refloat_repo::commit::CommitRecord;
use refloat_repo::crypt::identity::Identity;
use refloat_repo::manifest::root::{LeafReader, read_part};
use refloat_repo::manifest::{Root, What};
use refloat_repo::pack::FrameOpener;
use refloat_repo::repository::{InitOptions, Protection};
use refloat_repo::{Compression, Repository, StateDirectory};
use refloat_store::posix::{Options, PosixStore};
use refloat_testkit::cluster::TestCluster;
use refloat_types::{Clock as _, ManualClock, SystemClock};

pub(crate) struct Home {
    _directory: tempfile::TempDir,
    pub(crate) repository: Repository,
}

impl Home {
    /// Where its packs are.
    pub(crate) fn packs(&self) -> std::path::PathBuf {
        self._directory.path().join("repo/packs")
    }
}

/// A fresh repository with its state directory.
pub(crate) fn home(protection: Protection) -> Home {
    let directory = tempfile::tempdir().expect("a directory");
    let store =
        PosixStore::open(directory.path().join("repo"), Options { create: true, ..Options::default() });
    let state = StateDirectory::new(directory.path().join("state"));
    let options = InitOptions { protection, now: SystemClock.now() };
    let repository =
        Repository::init(Arc::new(store.expect("a store")), state, options).expect("a repository");
    Home { _directory: directory, repository }
}

/// The same repository, as the same host sees it in another store.
pub(crate) fn reopened(home: &Home, store: Arc<dyn refloat_store::Store>) -> Repository {
    let state = home.repository.state().clone();
    let mut never = || panic!("this host has opened it before");
    Repository::open(store, state, None, SystemClock.now(), &mut never).expect("opens")
}

pub(crate) fn encrypted() -> Protection {
    let identity = Identity::draw();
    Protection::Recipients { recipients: vec![identity.recipient()], identity: Some(identity) }
}

pub(crate) fn request<'a>(cluster: &TestCluster, home: &'a Home) -> BackupRequest<'a> {
    BackupRequest {
        repository: &home.repository,
        repository_name: "local".to_owned(),
        others: Vec::new(),
        source: "prod".parse().expect("a name"),
        data_directory: cluster.data_directory().to_owned(),
        connection: ConnectOptions {
            place: Some(Place::Socket(cluster.socket_directory())),
            port: Some(cluster.port()),
            user: Some("postgres".to_owned()),
            ..ConnectOptions::default()
        },
        run_on: RunOn::Any,
        wanted: Wanted::Full,
        scan: false,
        machine: "this".to_owned(),
        label: None,
        jobs: 2,
        compression: Compression::default(),
        fast_checkpoint: true,
        own_wal: OwnWal::Auto,
        archive_timeout: Duration::from_secs(10),
        max_read_rate: None,
        configuration: "# test".to_owned(),
        host: "test".to_owned(),
        clock: &SystemClock,
        progress: &Silent,
    }
}

pub(crate) fn record(home: &Home, report: &BackupReport) -> CommitRecord {
    let source =
        home.repository.find_source(&"prod".parse().expect("a name")).expect("lists").expect("described");
    home.repository.find_commit(source.id, report.backup).expect("reads").expect("committed")
}

/// Every file of a backup with its bytes, put together from the repository alone.
pub(crate) fn contents(home: &Home, record: &CommitRecord) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let store = home.repository.store().as_ref();
    let keys = Arc::new(home.repository.pack_keys(record).expect("opens"));
    let mut opener = FrameOpener::new(keys).expect("an opener");
    let root = Root::read(store, &mut opener, &record.commit.root).expect("a root");
    let mut files = BTreeMap::new();
    let mut leaves = LeafReader::default();
    for part in &root.parts {
        for entry in read_part(store, &mut opener, part).expect("a part") {
            let What::File { size, leaves: refs, .. } = &entry.what else { continue };
            let mut bytes = Vec::new();
            for leaf in refs.iter() {
                let leaf = leaves.read(store, &mut opener, leaf).expect("a leaf");
                let mut plain = Vec::new();
                let begin = bytes.len();
                for run in &leaf.runs {
                    match run.source {
                        None => bytes.resize(bytes.len() + run.length as usize, 0),
                        Some((place, offset)) => {
                            opener
                                .fetch(store, leaf.frames.get(place).expect("a frame"), &mut plain)
                                .expect("opens");
                            let start = offset as usize;
                            bytes.extend_from_slice(&plain[start..start + run.length as usize]);
                        }
                    }
                }
                assert_eq!(crc32c::crc32c(&bytes[begin..]), leaf.crc32c);
            }
            assert_eq!(bytes.len() as u64, *size);
            files.insert(entry.path, bytes);
        }
    }
    files
}

pub(crate) fn on_disk(directory: &Path, path: &[u8]) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt as _;
    std::fs::read(directory.join(std::ffi::OsStr::from_bytes(path))).expect("a file of the cluster")
}

#[test]
fn a_quiet_cluster_is_stored_byte_for_byte() {
    let mut cluster = TestCluster::builder().checksums(true).build();
    cluster.pgbench_init(5);
    cluster.psql("postgres", "vacuum freeze; checkpoint");
    for protection in [encrypted(), Protection::None] {
        let home = home(protection);
        let report = backup::run(&request(&cluster, &home)).expect("a backup");
        assert!(report.own_wal, "nothing archives here");
        assert!(report.bad_pages.is_empty());
        let record = record(&home, &report);
        let files = contents(&home, &record);
        let relations = files.keys().filter(|p| p.starts_with(b"base/") || p.starts_with(b"global/"));
        let mut compared = 0;
        for path in relations.filter(|p| !p.ends_with(b"pg_control")) {
            assert!(
                files[path] == on_disk(cluster.data_directory(), path),
                "{}",
                String::from_utf8_lossy(path)
            );
            compared += 1;
        }
        assert!(compared > 800, "{compared} files compared");
        let wal = files.keys().filter(|p| p.starts_with(b"pg_wal/0")).count();
        assert!(wal >= 1, "its own WAL is in it");
        let again = backup::run(&request(&cluster, &home)).expect("a second backup");
        assert_eq!(again.number, 2);
    }
    cluster.stop(refloat_testkit::cluster::StopMode::Fast);
}

#[test]
fn a_flipped_bit_is_reported_with_its_table() {
    let mut cluster = TestCluster::builder().checksums(true).build();
    cluster.psql("postgres", "create table victim as select generate_series(1, 20000) n; checkpoint");
    let path = cluster.psql("postgres", "select pg_relation_filepath('victim')");
    cluster.stop(refloat_testkit::cluster::StopMode::Fast);
    let file = cluster.data_directory().join(path.trim());
    let mut bytes = std::fs::read(&file).expect("the table");
    // A garbage LSN must not hide it: overwrite the page's LSN too.
    bytes[8192 * 3..8192 * 3 + 8].copy_from_slice(&[0xff; 8]);
    bytes[8192 * 7 + 4000] ^= 0x40;
    bytes.truncate(bytes.len() - 100);
    std::fs::write(&file, &bytes).expect("writes");
    cluster.start();
    let home = home(encrypted());
    let report = backup::run(&request(&cluster, &home)).expect("a backup");
    let blocks: Vec<u32> = report.bad_pages.iter().map(|p| p.block).collect();
    let last = (bytes.len() / 8192) as u32;
    assert_eq!(blocks, [3, 7, last], "{:?}", report.bad_pages);
    assert!(report.bad_pages.iter().all(|p| p.relation.as_deref() == Some("postgres: public.victim")));
    assert_eq!(record(&home, &report).commit.bad_pages, 3);
}

#[test]
fn load_while_copying_gives_no_false_alarm() {
    let cluster = TestCluster::builder().checksums(true).setting("shared_buffers", "1MB").build();
    cluster.pgbench_init(10);
    let home = home(encrypted());
    let load = cluster.pgbench_run_for(8);
    let mut slow = request(&cluster, &home);
    slow.max_read_rate = Some(40 << 20);
    let report = backup::run(&slow).expect("a backup");
    assert!(report.bad_pages.is_empty(), "{:?}", report.bad_pages);
    drop(load);
}

#[test]
fn a_lost_server_leaves_nothing_behind() {
    let mut cluster = TestCluster::builder().checksums(true).build();
    cluster.pgbench_init(10);
    let home = home(encrypted());
    let mut slow = request(&cluster, &home);
    slow.max_read_rate = Some(20 << 20);
    let error = std::thread::scope(|scope| {
        let backup = scope.spawn(|| backup::run(&slow));
        std::thread::sleep(Duration::from_secs(2));
        cluster.crash();
        backup.join().expect("no panic").expect_err("the server is gone")
    });
    assert!(matches!(error, BackupError::Server(_)), "{error:?}");
    let mut packs = 0;
    home.repository
        .store()
        .list("packs/", &mut |_| {
            packs += 1;
            std::ops::ControlFlow::Continue(())
        })
        .expect("lists");
    assert_eq!(packs, 0, "a backup that fails cleanly takes its packs away");
    cluster.start();
    assert_eq!(backup::run(&request(&cluster, &home)).expect("a backup").number, 1);
}

#[test]
fn another_cluster_is_refused() {
    let cluster = TestCluster::builder().build();
    let other = TestCluster::builder().fresh_identity().build();
    let home = home(encrypted());
    backup::run(&request(&cluster, &home)).expect("a backup");
    let error = backup::run(&request(&other, &home)).expect_err("another cluster");
    assert!(matches!(error, BackupError::OtherCluster { .. }), "{error:?}");
}

#[test]
fn two_at_once_take_turns() {
    let cluster = TestCluster::builder().build();
    let home = home(encrypted());
    let mut slow = request(&cluster, &home);
    slow.max_read_rate = Some(10 << 20);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| backup::run(&slow));
        std::thread::sleep(Duration::from_millis(700));
        let error = backup::run(&request(&cluster, &home)).expect_err("the other one runs");
        assert!(matches!(error, BackupError::Running { pid, .. } if pid == std::process::id()), "{error:?}");
        first.join().expect("no panic").expect("the first goes on");
    });
}

/// A page that is being written when it is read is half old, half new. Read again it has changed: no corruption.
#[test]
fn a_page_that_keeps_changing_is_no_corruption() {
    let cluster = TestCluster::builder().checksums(true).build();
    cluster.psql("postgres", "create table busy as select generate_series(1, 2000) n; create table torn as select generate_series(1, 2000) n; checkpoint");
    let file = |table: &str| {
        let path = cluster.psql("postgres", &format!("select pg_relation_filepath('{table}')"));
        std::fs::OpenOptions::new()
            .write(true)
            .open(cluster.data_directory().join(path))
            .expect("the table's file")
    };
    let (busy, torn) = (file("busy"), file("torn"));
    // The control of this test: the same damage that stands still is found.
    std::os::unix::fs::FileExt::write_all_at(&torn, b"damage", 8192 + 5000).expect("writes");
    let home = home(encrypted());
    let stop = std::sync::atomic::AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                round += 1;
                std::os::unix::fs::FileExt::write_all_at(&busy, &round.to_le_bytes(), 8192 + 5000)
                    .expect("writes");
            }
        });
        let report = backup::run(&request(&cluster, &home)).expect("a backup");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        report
    });
    let found: Vec<_> = report.bad_pages.iter().map(|p| (p.relation.as_deref(), p.block)).collect();
    assert_eq!(found, [(Some("postgres: public.torn"), 1)]);
}

#[test]
fn order_does_not_come_from_clocks() {
    let cluster = TestCluster::builder().build();
    let home = home(encrypted());
    backup::run(&request(&cluster, &home)).expect("a backup");
    let wrong = ManualClock::new("2020-02-02T02:02:02Z".parse().expect("a time"));
    let mut past = request(&cluster, &home);
    past.clock = &wrong;
    let report = backup::run(&past).expect("a backup");
    assert_eq!(report.number, 2);
    assert!(report.notes.iter().any(|n| n.contains("is the clock right?")), "{:?}", report.notes);
    let source =
        home.repository.find_source(&"prod".parse().expect("a name")).expect("lists").expect("described");
    let keys = home.repository.commit_keys(source.id).expect("lists");
    assert!(keys.last().expect("two").as_str().ends_with(report.backup.as_str()), "the newest is the last");
}

/// Configuration is not in the WAL: it is taken whole, as it is when its turn comes.
#[test]
fn configuration_that_grows_meanwhile_is_whole() {
    let cluster = TestCluster::builder().build();
    cluster.pgbench_init(3);
    let home = home(encrypted());
    let mut slow = request(&cluster, &home);
    slow.max_read_rate = Some(20 << 20);
    let report = std::thread::scope(|scope| {
        let backup = scope.spawn(|| backup::run(&slow));
        std::thread::sleep(Duration::from_secs(1));
        cluster.psql("postgres", "alter system set work_mem = '400000kB'");
        backup.join().expect("no panic").expect("a backup")
    });
    let files = contents(&home, &record(&home, &report));
    let path = b"postgresql.auto.conf";
    assert_eq!(files[&path[..]], on_disk(cluster.data_directory(), path));
}
