//! What goes wrong half-way.

use std::fs;
use std::ops::ControlFlow;

use super::*;

#[test]
fn without_its_label_it_does_not_start_as_if_clean() {
    let cluster = TestCluster::builder().build();
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    let directory = cluster.make_dir("copy");
    run(&home, to(&cluster, &commit, &directory)).expect("a restore");
    fs::rename(directory.join("backup_label"), directory.join("label")).expect("renamed");
    let log = failed_to_start(&directory);
    assert!(log.contains("checkpoint"), "{log}");
    fs::remove_file(directory.join("recovery.signal")).expect("removed");
    failed_to_start(&directory);
    fs::rename(directory.join("label"), directory.join("backup_label")).expect("renamed");
    fs::write(directory.join("recovery.signal"), b"").expect("written");
    let copy = TestCluster::builder().start_existing(&directory);
    copy.wait_for("postgres", "select pg_is_in_recovery()", "f");
}

/// Every data pack with one byte flipped, one after the other.
#[test]
fn a_damaged_backup_is_named_and_never_started() {
    let cluster = TestCluster::builder().build();
    cluster.pgbench_init(2);
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    let root = home.repository.store().describe().trim_start_matches("file://").to_owned();
    let mut packs = Vec::new();
    home.repository
        .store()
        .list("packs/", &mut |info| {
            packs.push(Path::new(&root).join(info.key.as_str()));
            ControlFlow::Continue(())
        })
        .expect("lists");
    assert!(!packs.is_empty());
    let directory = cluster.make_dir("copy");
    for pack in &packs {
        let good = fs::read(pack).expect("read");
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        for damage in [&bad[..], &good[..middle]] {
            fs::remove_file(pack).expect("removed");
            fs::write(pack, damage).expect("written");
            let error = run(&home, to(&cluster, &commit, &directory)).expect_err("damaged");
            let text = format!("{error:?}");
            let name = pack.file_name().expect("a name").to_string_lossy().into_owned();
            assert!(text.contains(&name), "{text}");
            if directory.join("PG_VERSION").exists() {
                failed_to_start(&directory);
            }
        }
        fs::remove_file(pack).expect("removed");
        fs::write(pack, &good).expect("written");
    }
    run(&home, to(&cluster, &commit, &directory)).expect("whole again");
    cluster.verifybackup(&directory).expect("pg_verifybackup is content");
}

#[test]
fn few_file_descriptors_are_enough() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let cluster = TestCluster::builder().build();
    cluster.pgbench_init(3);
    let home = home(encrypted());
    let commit = backed_up(&cluster, &home);
    let directory = cluster.make_dir("copy");
    let open = fs::read_dir("/proc/self/fd").expect("procfs").count() as u64;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(open + 12), ..limit }).expect("lowered");
    let result = run(&home, to(&cluster, &commit, &directory));
    setrlimit(Resource::Nofile, limit).expect("raised");
    result.expect("a restore");
    cluster.verifybackup(&directory).expect("pg_verifybackup is content");
}

#[cfg(feature = "failpoints")]
pub(super) mod killed {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;
    use std::sync::Arc;

    use refloat_repo::{Repository, StateDirectory};
    use refloat_store::posix::{Options, PosixStore};
    use serde::{Deserialize, Serialize};

    use super::*;

    /// What the child process is told, in `job.json` of its working directory.
    #[derive(Serialize, Deserialize)]
    pub(in crate::restore) struct Job {
        store: PathBuf,
        state: PathBuf,
        directory: PathBuf,
        in_place: bool,
        owner: Option<(u32, u32)>,
        pub(in crate::restore) restore_id: String,
        pub(in crate::restore) tablespaces: BTreeMap<PathBuf, PathBuf>,
        pub(in crate::restore) delta: bool,
    }

    /// Not a test: what the tests below start as a process of its own, to be killed.
    #[test]
    #[ignore = "run by other tests"]
    fn child() {
        let Ok(bytes) = fs::read("job.json") else { return };
        let job: Job = serde_json::from_slice(&bytes).expect("a job");
        let store = PosixStore::open(&job.store, Options::default()).expect("a store");
        let state = StateDirectory::new(&job.state);
        let repository =
            Repository::open(Arc::new(store), state, None, SystemClock.now(), &mut || unreachable!("known"))
                .expect("a repository");
        let source = repository.find_source(&"prod".parse().expect("a name")).expect("lists").expect("there");
        let commit = repository.list_commits(source.id, &mut |_, e| panic!("{e}")).expect("lists").remove(0);
        let to = job.directory.clone();
        let request = RestoreRequest {
            commit,
            source_name: "prod".to_owned(),
            to: if job.in_place { Destination::InPlace(to) } else { Destination::Directory(to) },
            recovery: Recovery {
                target: Target::Latest,
                inclusive: true,
                action: TargetAction::Pause,
                timeline: FollowTimeline::Latest,
                restore_command: None,
                primary_conninfo: None,
            },
            delta: job.delta,
            becomes: Become::Undecided,
            tablespaces: job.tablespaces,
            tablespaces_inside: false,
            made_tablespaces: Vec::new(),
            with_wal: false,
            jobs: 2,
            owner: job.owner.map(|(uid, gid)| Owner { uid, gid }),
            host: "test".to_owned(),
            now: SystemClock.now(),
            restore_id: job.restore_id,
        };
        let plan = plan(&repository, request).expect("a plan");
        restore(plan, &Silent, None).expect("a restore");
    }

    /// Runs the child with a point armed; whether it was killed there.
    pub(in crate::restore) fn killed_at(point: &str, job: &Job, work: &Path) -> bool {
        killed_at_pass(point, 1, job, work)
    }

    /// Runs the child to its end; the points that it passed.
    pub(in crate::restore) fn points(job: &Job, work: &Path) -> std::collections::BTreeSet<String> {
        fs::write(work.join("job.json"), serde_json::to_vec(job).expect("writes")).expect("written");
        let seen = work.join("seen");
        let status = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "restore::faults::killed::child", "--ignored", "--test-threads=1"])
            .env("REFLOAT_FAILPOINTS_SEEN", &seen)
            .current_dir(work)
            .stdout(std::process::Stdio::null())
            .status()
            .expect("runs");
        assert!(status.success(), "{status}");
        let seen = fs::read_to_string(&seen).expect("failpoints are compiled in");
        seen.lines().filter(|name| name.starts_with("restore.")).map(str::to_owned).collect()
    }

    /// No point: the child is not killed.
    pub(in crate::restore) const NOWHERE: &str = "nowhere";

    /// The same at a later pass.
    pub(in crate::restore) fn killed_at_pass(point: &str, pass: u32, job: &Job, work: &Path) -> bool {
        fs::write(work.join("job.json"), serde_json::to_vec(job).expect("writes")).expect("written");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let points = if point == NOWHERE { String::new() } else { format!("{point}=kill@{pass}") };
        let status = refloat_testkit::failpoints::arm(&mut command, &points)
            .args(["--exact", "restore::faults::killed::child", "--ignored", "--test-threads=1"])
            .current_dir(work)
            .stdout(std::process::Stdio::null())
            .status()
            .expect("runs");
        assert!(status.success() || status.signal() == Some(9), "{point}: {status}");
        status.signal() == Some(9)
    }

    pub(in crate::restore) fn job(
        home: &Home,
        cluster: &TestCluster,
        directory: &Path,
        in_place: bool,
        id: &str,
    ) -> Job {
        Job {
            store: PathBuf::from(home.repository.store().describe().trim_start_matches("file://")),
            state: home.repository.state().path().to_owned(),
            directory: directory.to_owned(),
            in_place,
            owner: owner(cluster).map(|owner| (owner.uid, owner.gid)),
            restore_id: id.to_owned(),
            tablespaces: BTreeMap::new(),
            delta: false,
        }
    }

    const AFTER_THE_LAST: &str = "restore.after_control";

    #[test]
    fn at_any_point_it_cannot_be_started_and_the_next_run_finishes() {
        let cluster = TestCluster::builder().build();
        let tablespace = with_a_tablespace(&cluster);
        let home = home(encrypted());
        backed_up(&cluster, &home);
        let work = cluster.make_dir("work");
        for point in [
            "restore.after_marker",
            "restore.after_take",
            "restore.after_lock",
            "restore.file",
            "restore.before_label",
            "restore.before_sync",
            "restore.before_control",
            AFTER_THE_LAST,
        ] {
            let directory = work.join(point);
            let mut job = job(&home, &cluster, &directory, false, "k1");
            let fast = work.join(format!("{point} fast"));
            job.tablespaces.insert(tablespace.clone(), fast.clone());
            assert!(killed_at(point, &job, &work), "{point} was never reached");
            if point != AFTER_THE_LAST {
                failed_to_start(&directory);
            }
            // Killed once more, in the middle of clearing, then left alone.
            assert!(
                killed_at("restore.after_unstartable", &job, &work),
                "{point}: half-finished is recognised"
            );
            failed_to_start(&directory);
            // What it goes on with is what it took: another id makes no difference.
            job.restore_id = "k2".to_owned();
            assert!(!killed_at(NOWHERE, &job, &work));
            assert!(!fast.join("refloat.restoring").exists(), "{point}: the mark is gone");
            cluster.verifybackup(&directory).expect("pg_verifybackup is content");
            let copy = TestCluster::builder().start_existing(&directory);
            copy.wait_for("postgres", "select pg_is_in_recovery()", "f");
            assert_eq!(copy.psql("postgres", "select count(*) from t"), "1");
            drop(copy);
            let error = run(&home, {
                let commit = newest(&home);
                to(&cluster, &commit, &directory)
            });
            assert!(matches!(error, Err(RestoreError::NotEmpty { .. })), "a server that ran is left alone");
        }
    }

    pub(in crate::restore) fn newest(home: &Home) -> CommitRecord {
        let source =
            home.repository.find_source(&"prod".parse().expect("a name")).expect("lists").expect("there");
        home.repository.list_commits(source.id, &mut |_, e| panic!("{e}")).expect("lists").remove(0)
    }

    /// Its directory; the table `t` in it has one row.
    pub(in crate::restore) fn with_a_tablespace(cluster: &TestCluster) -> PathBuf {
        let tablespace = cluster.make_dir("fast");
        let make = format!("create tablespace fast location '{}';", tablespace.display());
        cluster.psql("postgres", &make);
        cluster.psql("postgres", "create table t tablespace fast as select 1 a;");
        tablespace
    }

    #[test]
    fn in_place_the_old_cluster_is_set_aside_whole() {
        for point in [
            "restore.before_unstartable",
            "restore.after_unstartable",
            "restore.after_linked_aside",
            "restore.after_aside",
            "restore.after_marker",
            "restore.file",
            "restore.before_control",
            AFTER_THE_LAST,
        ] {
            let mut cluster = TestCluster::builder().build();
            let tablespace = with_a_tablespace(&cluster);
            let home = home(encrypted());
            backed_up(&cluster, &home);
            cluster.psql("postgres", "insert into t values (2);");
            cluster.stop(StopMode::Fast);
            let data = cluster.data_directory().to_owned();
            let work = cluster.make_dir("work");
            assert!(
                killed_at(point, &job(&home, &cluster, &data, true, "k1"), &work),
                "{point} was never reached"
            );
            if !matches!(point, AFTER_THE_LAST | "restore.before_unstartable") && data.exists() {
                failed_to_start(&data);
            }
            // Another run, which would choose another name for what it sets aside.
            assert!(!killed_at(NOWHERE, &job(&home, &cluster, &data, true, "k2"), &work));
            cluster.start();
            cluster.wait_for("postgres", "select pg_is_in_recovery()", "f");
            assert_eq!(cluster.psql("postgres", "select count(*) from t"), "1", "{point}");
            cluster.stop(StopMode::Fast);
            let aside = PathBuf::from(format!("{}.before-k1", data.display()));
            let old = TestCluster::builder().start_existing(&aside);
            assert_eq!(old.psql("postgres", "select count(*) from t"), "2", "{point}");
            assert!(PathBuf::from(format!("{}.before-k1", tablespace.display())).is_dir());
            let others = fs::read_dir(data.parent().expect("a parent")).expect("lists");
            let others =
                others.flatten().filter(|e| e.file_name().to_string_lossy().ends_with("-k2")).count();
            assert_eq!(others, 0, "{point}: one name for all of it");
        }
    }
}
