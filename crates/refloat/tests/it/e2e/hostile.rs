//! Stores that are not what they say, and whoever stands before them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use refloat_testkit::between::{Act, Between, Seen};
use refloat_testkit::cluster::{Owner, StopMode, TestCluster, skip_without, wait_until};
use refloat_testkit::servers::Garage;
use refloat_testkit::wal::change_one_record;

use super::site::{Run, Site, run, start_restored};
use super::stores::{s3, secret};

/// What is done to the requests for objects of WAL and lists of them: nothing, unless somebody says so.
type Plan = Arc<Mutex<Box<dyn FnMut(&Seen<'_>) -> Act + Send>>>;

/// A site in a store that takes conditions and ignores them, behind something that may answer for it.
struct Hostile {
    site: Site,
    plan: Plan,
    _between: Between,
    _secrets: tempfile::TempDir,
    _server: Garage,
}

fn hostile(source: &str) -> Option<Hostile> {
    if skip_without(15) {
        return None;
    }
    let server = Garage::start()?;
    let plan: Plan = Arc::new(Mutex::new(Box::new(|_| Act::Pass)));
    let asked = Arc::clone(&plan);
    let between = Between::before(server.port(), move |seen| {
        if !seen.target.contains("db1/wal/") {
            return Act::Pass;
        }
        let mut decide = asked.lock().expect("no test panics in a plan");
        (*decide)(seen)
    });
    let secrets = Owner::current().temp_dir();
    let key = secret(secrets.path(), "key", server.secret_key());
    let lines = s3(&between.endpoint(), &server.bucket("backups"), server.access_key(), &key);
    let lines = format!("{lines}\nregion = \"{}\"", server.region());
    let site = Site::stored(TestCluster::builder().version(15), &lines, source);
    Some(Hostile { site, plan, _between: between, _secrets: secrets, _server: server })
}

impl Hostile {
    fn plan(&self, decide: impl FnMut(&Seen<'_>) -> Act + Send + 'static) {
        *self.plan.lock().expect("no test panics in a plan") = Box::new(decide);
    }

    /// Archives what there is; answers the name of the last segment.
    fn archived(&self) -> String {
        self.site.archive_all();
        self.site.cluster.psql("postgres", "select last_archived_wal from pg_stat_archiver")
    }

    /// A copy of a segment that is still there, changed by `change`, in a directory of its own.
    fn copy(&self, name: &str, directory: &str, change: fn(&mut [u8])) -> PathBuf {
        let mut bytes =
            std::fs::read(self.site.cluster.data_directory().join("pg_wal").join(name)).expect("reads");
        change(&mut bytes);
        let path = self.site.cluster.make_dir(directory).join(name);
        std::fs::write(&path, bytes).expect("writes");
        self.site.cluster.owner().give(&path);
        path
    }

    fn push(&self, path: &Path) -> Run {
        let mut command = self.site.command(&["wal", "push", &path.display().to_string()]);
        run(command.current_dir(self.site.cluster.data_directory()))
    }

    fn fetch(&self, name: &str, to: &Path) -> Run {
        self.site.run(&["wal", "fetch", "--source", "prod", name, &to.display().to_string()])
    }
}

/// Whether an object of WAL is being written.
fn is_put(seen: &Seen<'_>) -> bool {
    seen.method == "PUT"
}

#[test]
fn a_store_that_overwrites_keeps_two_segments_of_one_name_and_is_said_to() {
    let Some(mut at) = hostile("") else { return };
    let checked = at.site.run(&["check"]).stdout;
    assert!(checked.contains("the store overwrites where it is told to create"), "{checked}");
    assert!(checked.contains("can destroy what is stored"), "{checked}");

    at.site.cluster.psql("postgres", "create table t as select generate_series(1, 100) g");
    let name = at.archived();
    let ours = at.copy(&name, "ours", |_| {});
    let theirs = at.copy(&name, "theirs", change_one_record);
    at.push(&ours).ends(0);
    let refused = at.push(&theirs).ends(1);
    assert!(refused.stderr.contains("WAL-003"), "{}", refused.stderr);

    let to = at.site.path("fetched");
    let fetched = at.fetch(&name, &to).ends(255);
    assert!(fetched.stderr.contains("WAL-032"), "{}", fetched.stderr);
    // Both are named, in the one line that PostgreSQL's log has for it.
    let (_, told) = fetched.stderr.split_once("with different bytes (").expect("which");
    let (digests, _) = told.split_once(')').expect("which");
    let digests: Vec<&str> = digests.split(", ").collect();
    assert!(digests.len() == 2 && digests[0] != digests[1], "{}", fetched.stderr);
    let status = at.site.run(&["wal", "status"]).stdout;
    for digest in digests {
        assert!(status.contains(&format!("{name}-{digest}")), "{digest} in {status}");
    }
    assert!(!to.exists());
    // Other WAL goes on, and so does the segment's own archiver.
    at.push(&ours).ends(1);
    let later = at.archived();
    at.fetch(&later, &to).ends(0);
    at.site.cluster.stop(StopMode::Fast);
}

#[test]
fn what_a_store_says_it_holds_is_looked_for_before_it_is_acknowledged() {
    let Some(mut at) = hostile("") else { return };
    at.site.cluster.psql("postgres", "create table t as select generate_series(1, 100) g");
    let name = at.archived();
    at.site.cluster.psql("postgres", "insert into t select generate_series(1, 100)");
    // The archiver is held off: what is pushed here is new to the store.
    at.plan(|seen| if is_put(seen) { Act::Answer(403, String::new()) } else { Act::Pass });
    let next = at.site.cluster.psql(
        "postgres",
        "select pg_walfile_name(pg_switch_wal()) from pg_logical_emit_message(false, 'test', 'switch')",
    );
    assert!(next > name, "{next} is behind {name}");
    let path = at.copy(&next, "next", |_| {});
    let denied = at.push(&path).ends(1);
    assert!(denied.stderr.contains("STO-006"), "{}", denied.stderr);

    // Done, it says, and holds nothing.
    at.plan(|seen| if is_put(seen) { Act::Answer(200, String::new()) } else { Act::Pass });
    let lied = at.push(&path).ends(1);
    assert!(lied.stderr.contains("STO-010"), "{}", lied.stderr);
    let to = at.site.path("fetched");
    assert_ne!(at.fetch(&next, &to).code, Some(0), "it is not there");

    // Busy three times, the answer lost once: one call to the program goes through.
    let puts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&puts);
    at.plan(move |seen| match seen.method == "PUT" {
        true => match count.fetch_add(1, Ordering::SeqCst) {
            0..3 => Act::Answer(503, "<Error><Code>SlowDown</Code></Error>".to_owned()),
            3 => Act::Lose,
            _ => Act::Pass,
        },
        false => Act::Pass,
    });
    at.push(&path).ends(0);
    assert!(puts.load(Ordering::SeqCst) >= 4, "{puts:?}");
    at.fetch(&next, &to).ends(0);
    let stored = std::fs::read(&to).expect("reads");
    assert!(stored == std::fs::read(&path).expect("reads"));
    at.site.cluster.stop(StopMode::Fast);
}

/// While the store does not answer for a file that may be there, recovery must not end: PostgreSQL would promote and lose
/// what follows. The same for the history of another timeline, for a segment, and for a segment that the store denies.
#[test]
fn recovery_goes_no_further_than_what_the_store_answers_for() {
    let Some(mut at) = hostile("wal_fetch_timeout = \"2s\"\n") else { return };
    at.site.cluster.psql("postgres", "create table t as select 1 n");
    at.site.backup();
    let mut last = String::new();
    for n in 2..6 {
        at.site.cluster.psql("postgres", &format!("insert into t values ({n})"));
        last = at.archived();
    }
    at.site.cluster.stop(StopMode::Fast);
    let directory = at.site.restore("away", &["latest", "--target-action", "promote", "--as", "copy"]);
    let stops = |why: &str| {
        if let Ok(mut started) = TestCluster::builder().try_start_existing(&directory) {
            let stopped = wait_until(std::time::Duration::from_secs(120), || !started.is_running());
            assert!(stopped, "{why}: the server must stop, not promote:\n{}", started.log());
        }
        assert!(directory.join("recovery.signal").exists(), "{why}: recovery has not ended");
    };
    at.plan(|seen| if seen.target.contains(".history") { Act::Drop } else { Act::Pass });
    stops("history");
    let name = last.clone();
    at.plan(move |seen| if seen.target.contains(&name) { Act::Drop } else { Act::Pass });
    stops("segment");
    let name = last;
    at.plan(move |seen| match seen.target.contains(&name) {
        true => Act::Answer(403, "<Error><Code>AccessDenied</Code></Error>".to_owned()),
        false => Act::Pass,
    });
    stops("denied");
    at.plan(|_| Act::Pass);
    let clone = start_restored(15, &directory);
    clone.wait_for_end_of_recovery();
    assert_eq!(
        clone.psql("postgres", "select count(*) from t"),
        "5",
        "after the repair it goes on to the end"
    );
}
