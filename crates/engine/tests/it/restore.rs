//! Restores of real backups: what comes back is started, read, and compared with what was there.

mod delta;
mod faults;
mod in_place;
mod places;
mod recovery;
#[cfg(feature = "failpoints")]
mod swapped;
mod windows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use refloat_engine::backup::{self, OwnWal};
use refloat_engine::progress::Silent;
use refloat_engine::restore::{
    Become, Destination, FollowTimeline, Owner, Recovery, RestoreError, RestoreReport, RestoreRequest,
    Target, TargetAction, plan, restore,
};
use refloat_repo::commit::CommitRecord;
use refloat_testkit::cluster::{ClusterBuilder, StopMode, TestCluster};
use refloat_types::{Clock as _, SystemClock};

use crate::backup::{Home, encrypted, home, request};

/// A cluster whose WAL is archived by `cp`, and the archive.
pub(crate) struct Archived {
    pub(crate) cluster: TestCluster,
    archive: PathBuf,
}

pub(crate) fn archived(builder: ClusterBuilder) -> Archived {
    let mut cluster = builder.setting("archive_mode", "on").setting("wal_level", "replica").build_stopped();
    let archive = cluster.make_dir("archive");
    cluster.configure("archive_command", &format!("cp %p {}/%f", archive.display()));
    cluster.start();
    Archived { cluster, archive }
}

impl Archived {
    /// Everything written so far is in the archive.
    pub(crate) fn settle(&self) {
        let name = self.cluster.psql("postgres", "select pg_walfile_name(pg_switch_wal());");
        let there = || self.archive.join(name.trim()).exists();
        assert!(refloat_testkit::cluster::wait_until(std::time::Duration::from_secs(60), there));
        self.cluster.wait_for(
            "postgres",
            &format!("select last_archived_wal >= '{}' from pg_stat_archiver", name.trim()),
            "t",
        );
    }

    pub(crate) fn fetch(&self) -> String {
        format!("cp {}/%f %p", self.archive.display())
    }
}

pub(crate) fn backed_up(cluster: &TestCluster, home: &Home) -> CommitRecord {
    let mut request = request(cluster, home);
    request.own_wal = OwnWal::Include;
    let report = backup::run(&request).expect("a backup");
    let source =
        home.repository.find_source(&"prod".parse().expect("a name")).expect("lists").expect("described");
    home.repository.find_commit(source.id, report.backup).expect("reads").expect("committed")
}

fn owner(cluster: &TestCluster) -> Option<Owner> {
    let owner = cluster.owner();
    rustix::process::geteuid().is_root().then_some(Owner { uid: owner.uid, gid: owner.gid })
}

/// A copy beside the source, to the end of its WAL.
pub(crate) fn to(cluster: &TestCluster, commit: &CommitRecord, directory: &Path) -> RestoreRequest {
    RestoreRequest {
        commit: commit.clone(),
        source_name: "prod".to_owned(),
        to: Destination::Directory(directory.to_owned()),
        recovery: Recovery {
            target: Target::Latest,
            inclusive: true,
            action: TargetAction::Pause,
            timeline: FollowTimeline::Latest,
            restore_command: None,
            primary_conninfo: None,
        },
        delta: false,
        becomes: Become::Undecided,
        tablespaces: BTreeMap::new(),
        tablespaces_inside: false,
        made_tablespaces: Vec::new(),
        with_wal: false,
        jobs: 2,
        owner: owner(cluster),
        host: "test".to_owned(),
        now: SystemClock.now(),
        restore_id: "k7r2".to_owned(),
    }
}

pub(crate) fn run(home: &Home, request: RestoreRequest) -> Result<RestoreReport, RestoreError> {
    restore(plan(&home.repository, request)?, &Silent, None)
}

/// Every file below a directory, links followed, by relative path.
pub(crate) fn tree(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn add(top: &Path, path: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in std::fs::read_dir(path).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                add(top, &path, into);
            } else if path.is_file() {
                let bytes = std::fs::read(&path).expect("a file");
                into.insert(path.strip_prefix(top).expect("below").to_owned(), bytes);
            }
        }
    }
    let mut into = BTreeMap::new();
    add(directory, directory, &mut into);
    into
}

fn failed_to_start(directory: &Path) -> String {
    match TestCluster::builder().try_start_existing(directory) {
        Ok(_) => panic!("the server started"),
        Err(log) => log,
    }
}

#[test]
fn a_busy_cluster_comes_back_as_it_was() {
    let mut source = archived(TestCluster::builder().setting("shared_buffers", "4MB"));
    source.cluster.pgbench_init(8);
    let home = home(encrypted());
    let load = source.cluster.pgbench_run_for(6);
    let commit = backed_up(&source.cluster, &home);
    load.finish().expect("pgbench");
    source.settle();
    let before = source.cluster.dump_all_databases();

    let directory = source.cluster.make_dir("to").join("new/copy");
    let mut request = to(&source.cluster, &commit, &directory);
    request.recovery.restore_command = Some(source.fetch());
    let report = run(&home, request).expect("a restore");
    assert_eq!(report.bytes, commit.commit.sizes.source);
    assert!(report.locked && directory.join("refloat.locked").exists());
    assert!(!directory.join("tablespace_map").exists() && !directory.join("refloat.restoring").exists());
    source.cluster.verifybackup(&directory).expect("pg_verifybackup is content");

    let mut copy = TestCluster::builder().setting("archive_mode", "off").start_existing(&directory);
    copy.wait_for("postgres", "select pg_is_in_recovery()", "f");
    assert!(copy.dump_all_databases() == before, "the dumps differ");
    copy.amcheck().expect("sound");
    copy.stop(StopMode::Fast);
    copy.checksums_check().expect("sound");
    source.cluster.stop(StopMode::Fast);
}

#[test]
fn files_are_placed_byte_for_byte_with_their_attributes() {
    use std::os::unix::fs::MetadataExt as _;
    let cluster = TestCluster::builder().checksums(true).build();
    cluster.pgbench_init(3);
    // A relation with a hole, and one that is all zeros.
    cluster.psql("postgres", "create table t (a int); vacuum freeze; checkpoint;");
    for protection in [encrypted(), refloat_repo::repository::Protection::None] {
        let home = home(protection);
        let stray = cluster.data_directory().join("base/5/4000000000");
        let mut bytes = vec![0_u8; 3 << 20];
        bytes[1 << 20] = 7;
        std::fs::write(&stray, &bytes).expect("written");
        std::fs::write(cluster.data_directory().join("base/5/4000000001"), vec![0; 100_000])
            .expect("written");
        std::fs::write(cluster.data_directory().join("empty"), b"").expect("written");
        let commit = backed_up(&cluster, &home);
        let directory = cluster.make_dir(if home.repository.is_encrypted() { "a" } else { "b" });
        run(&home, to(&cluster, &commit, &directory)).expect("a restore");
        let (old, new) = (tree(cluster.data_directory()), tree(&directory));
        let mut compared = 0;
        for (path, bytes) in &new {
            let text = path.to_string_lossy();
            let same = text.starts_with("base/") || text.starts_with("pg_xact/") || text == "empty";
            if !same || text.ends_with("pg_internal.init") {
                continue;
            }
            assert!(old.get(path) == Some(bytes), "{text}");
            let meta = |top: &Path| std::fs::metadata(top.join(path)).expect("exists");
            let (was, is) = (meta(cluster.data_directory()), meta(&directory));
            assert_eq!((was.mode(), was.mtime(), was.mtime_nsec()), (is.mode(), is.mtime(), is.mtime_nsec()));
            compared += 1;
        }
        assert!(compared > 800, "{compared} files compared");
        let hole = std::fs::metadata(directory.join("base/5/4000000000")).expect("exists");
        assert!(hole.len() == 3 << 20 && hole.blocks() * 512 < 2 << 20, "zeros take no space");
        cluster.verifybackup(&directory).expect("pg_verifybackup is content");
    }
}

#[test]
fn wal_is_placed_where_it_is_wanted() {
    let source = archived(TestCluster::builder());
    let home = home(encrypted());
    let mut asked = request(&source.cluster, &home);
    asked.own_wal = OwnWal::Include;
    let report = backup::run(&asked).expect("a backup");
    source.settle();
    let id =
        home.repository.find_source(&"prod".parse().expect("a name")).expect("lists").expect("described").id;
    let mut commit = home.repository.find_commit(id, report.backup).expect("reads").expect("committed");
    // As if the backup held none: every segment must come through the closure.
    commit.commit.own_wal = false;
    let directory = source.cluster.make_dir("copy");
    let mut request = to(&source.cluster, &commit, &directory);
    request.with_wal = true;
    let plan = plan(&home.repository, request.clone()).expect("a plan");
    let error = restore(plan, &Silent, None).expect_err("nothing to fetch with");
    assert!(matches!(error, RestoreError::Wal { .. }), "{error:?}");
    failed_to_start(&directory);

    let fetched = std::sync::Mutex::new(0);
    let fetch = |name: refloat_types::WalFileName, to: &Path| {
        *fetched.lock().expect("not poisoned") += 1;
        std::fs::copy(source.archive.join(name.to_string()), to)?;
        Ok(())
    };
    let plan = refloat_engine::restore::plan(&home.repository, request).expect("a plan");
    assert!(plan.again, "the half-finished one is recognised");
    let wanted = plan.wal.segments().count();
    restore(plan, &Silent, Some(&fetch)).expect("a restore");
    assert_eq!(*fetched.lock().expect("not poisoned"), wanted);
    let mut verify = source.cluster.as_owner(source.cluster.bin("pg_verifybackup"));
    let output = verify.arg(&directory).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let copy = TestCluster::builder().setting("archive_mode", "off").start_existing(&directory);
    copy.wait_for("postgres", "select pg_is_in_recovery()", "f");
}
