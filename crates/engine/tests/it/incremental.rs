//! Backups that store what has changed, compared with the cluster itself byte by byte.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use refloat_engine::backup::{self, BackupError, BackupReport, Wanted};
use refloat_engine::progress::Progress;
use refloat_repo::commit::BackupType;
use refloat_repo::layout;
use refloat_repo::repository::Protection;
use refloat_testkit::cluster::{StopMode, TestCluster};
use refloat_types::{Clock, ManualClock, SystemClock};

use crate::backup::{Home, contents, encrypted, home, on_disk, record, request};

/// A clock that is ahead, so that files which were written a moment ago count as settled. Moves on with each backup.
fn clock() -> ManualClock {
    let clock = ManualClock::new(SystemClock.now());
    clock.advance(Duration::from_secs(3600));
    clock
}

fn make(cluster: &TestCluster, home: &Home, clock: &ManualClock, wanted: Wanted, scan: bool) -> BackupReport {
    clock.advance(Duration::from_secs(60));
    let mut request = request(cluster, home);
    request.wanted = wanted;
    request.scan = scan;
    request.clock = clock;
    backup::run(&request).expect("a backup")
}

/// Everything that replay does not change again is in the repository as it is on the disk.
pub(crate) fn compare(cluster: &TestCluster, home: &Home, report: &BackupReport) {
    let record = record(home, report);
    let files = contents(home, &record);
    let mut compared = 0;
    for (path, bytes) in &files {
        let is_data =
            path.starts_with(b"base/") || path.starts_with(b"global/") || path.starts_with(b"pg_xact/");
        if is_data && !path.ends_with(b"pg_control") {
            assert!(*bytes == on_disk(cluster.data_directory(), path), "{}", String::from_utf8_lossy(path));
            compared += 1;
        }
    }
    assert!(compared > 800, "{compared} files compared");
}

/// Nothing is written any more behind our back.
pub(crate) fn quiet(cluster: &TestCluster) {
    cluster.psql("postgres", "vacuum; checkpoint");
}

#[test]
fn what_has_changed_is_stored_and_the_rest_referred_to() {
    for (protection, checksums) in [(encrypted(), true), (Protection::None, false)] {
        let cluster = TestCluster::builder().checksums(checksums).setting("autovacuum", "off").build();
        cluster.pgbench_init(5);
        quiet(&cluster);
        let (home, clock) = (home(protection), clock());
        let full = make(&cluster, &home, &clock, Wanted::Suitable, false);
        assert_eq!((full.kind, full.parent), ("full", None), "there was none");

        cluster.psql("postgres", "update pgbench_accounts set abalance = abalance + 1 where aid % 1000 = 7");
        cluster.psql("postgres", "create table grown as select generate_series(1, 3000) n");
        cluster.psql("postgres", "truncate pgbench_history; drop table pgbench_tellers");
        quiet(&cluster);
        let first = make(&cluster, &home, &clock, Wanted::Suitable, false);
        assert_eq!((first.kind, first.parent), ("incr", Some(full.backup)));
        assert!(first.stored_bytes * 4 < full.stored_bytes, "{first:?} {full:?}");
        compare(&cluster, &home, &first);

        cluster.psql("postgres", "insert into grown select generate_series(1, 90000)");
        cluster.psql("postgres", "vacuum full pgbench_branches");
        quiet(&cluster);
        let second = make(&cluster, &home, &clock, Wanted::Incr, false);
        assert_eq!(second.parent, Some(first.backup));
        compare(&cluster, &home, &second);
        let diff = make(&cluster, &home, &clock, Wanted::Diff, true);
        assert_eq!((diff.kind, diff.parent), ("diff", Some(full.backup)), "to the last full one");
        compare(&cluster, &home, &diff);
        // Each is as it was, whatever came after it.
        let commit = record(&home, &first).commit;
        assert_eq!(commit.kind, BackupType::Incr);
        assert!(commit.keys.len() <= 2);
        assert!(!contents(&home, &record(&home, &first)).is_empty());
    }
}

#[test]
fn nothing_changed_costs_next_to_nothing() {
    let cluster = TestCluster::builder().setting("autovacuum", "off").build();
    cluster.pgbench_init(10);
    quiet(&cluster);
    let (home, clock) = (home(encrypted()), clock());
    let full = make(&cluster, &home, &clock, Wanted::Full, false);
    assert_eq!(full.read_bytes, full.source_bytes - LATE, "all of it was read");
    let incr = make(&cluster, &home, &clock, Wanted::Suitable, false);
    assert!(incr.read_bytes < 4 << 20, "read {}", incr.read_bytes);
    // Its own WAL is in it, which compresses well.
    assert!(incr.stored_bytes < 1 << 20, "stored {}", incr.stored_bytes);
    compare(&cluster, &home, &incr);
    let scanned = make(&cluster, &home, &clock, Wanted::Suitable, true);
    assert_eq!(scanned.read_bytes, scanned.source_bytes - LATE, "--scan reads all");
    assert!(scanned.stored_bytes < 1 << 20, "and stores nothing again: {}", scanned.stored_bytes);
    compare(&cluster, &home, &scanned);
}

/// The control file and one WAL segment, which are no files of the copy.
const LATE: u64 = 8192 + (16 << 20);

/// Files are believed unread only when a write would have shown.
#[test]
fn a_write_that_hides_its_mtime_is_seen() {
    let mut cluster = TestCluster::builder().checksums(false).setting("autovacuum", "off").build();
    cluster.psql("postgres", "create table t as select generate_series(1, 50000) n");
    quiet(&cluster);
    let (home, clock) = (home(encrypted()), clock());
    make(&cluster, &home, &clock, Wanted::Full, false);
    let path = cluster.data_directory().join(cluster.psql("postgres", "select pg_relation_filepath('t')"));
    let file = std::fs::File::options().write(true).open(&path).expect("the table");
    let before = file.metadata().expect("stat").modified().expect("a time");
    file.write_all_at(b"changed", 8192 * 5 + 8000).expect("writes");
    file.set_modified(before).expect("sets the time back");
    let incr = make(&cluster, &home, &clock, Wanted::Incr, false);
    compare(&cluster, &home, &incr);
    cluster.stop(StopMode::Fast);
}

/// A file that was written to while its backup began is read again: the write may have been on its way.
#[test]
fn a_file_that_was_not_settled_is_read_again() {
    // However long the cluster takes to be made.
    let clock = ManualClock::new(SystemClock.now());
    let cluster = TestCluster::builder().setting("autovacuum", "off").build();
    cluster.pgbench_init(3);
    quiet(&cluster);
    let home = home(encrypted());
    let first = make_at(&cluster, &home, &clock);
    let second = make_at(&cluster, &home, &clock);
    assert_eq!(second.read_bytes, first.read_bytes, "by that clock everything was written just now");
    assert!(second.stored_bytes < 1 << 20, "but nothing is stored again");
}

fn make_at(cluster: &TestCluster, home: &Home, clock: &ManualClock) -> BackupReport {
    let mut request = request(cluster, home);
    request.wanted = Wanted::Suitable;
    request.clock = clock;
    backup::run(&request).expect("a backup")
}

#[test]
fn everything_is_read_after_a_week_on_another_machine_and_when_the_clock_went_back() {
    let cluster = TestCluster::builder().setting("autovacuum", "off").build();
    quiet(&cluster);
    let (home, clock) = (home(encrypted()), clock());
    make(&cluster, &home, &clock, Wanted::Full, false);
    for _ in 0..2 {
        clock.advance(Duration::from_secs(4 * 24 * 3600));
        make(&cluster, &home, &clock, Wanted::Incr, false);
    }
    let mut noted = Vec::new();
    let record = |report: BackupReport| {
        let all = report.read_bytes == report.source_bytes - LATE;
        (all, report.notes.join(" "))
    };
    // The last one read everything, because the full one was eight days old by then.
    noted.push(record(make(&cluster, &home, &clock, Wanted::Incr, false)));
    let mut elsewhere = request(&cluster, &home);
    elsewhere.machine = "another".to_owned();
    elsewhere.wanted = Wanted::Incr;
    clock.advance(Duration::from_secs(60));
    elsewhere.clock = &clock;
    noted.push(record(backup::run(&elsewhere).expect("a backup")));
    noted.push(record(make(&cluster, &home, &clock, Wanted::Incr, false)));
    let back = ManualClock::new(SystemClock.now());
    noted.push(record(make(&cluster, &home, &back, Wanted::Incr, false)));
    let said: Vec<(bool, bool)> =
        noted.iter().map(|(all, notes)| (*all, notes.contains("every file is read"))).collect();
    assert_eq!(said, [(false, false), (true, true), (true, true), (true, true)], "{noted:?}");
}

#[test]
fn a_damaged_page_is_reported_until_it_is_mended() {
    let mut cluster = TestCluster::builder().checksums(true).setting("autovacuum", "off").build();
    cluster.psql("postgres", "create table victim as select generate_series(1, 20000) n; checkpoint");
    let path =
        cluster.data_directory().join(cluster.psql("postgres", "select pg_relation_filepath('victim')"));
    cluster.stop(StopMode::Fast);
    let file = std::fs::File::options().write(true).open(&path).expect("the table");
    file.write_all_at(b"damage", 8192 * 3 + 4000).expect("writes");
    cluster.start();
    let (home, clock) = (home(encrypted()), clock());
    for wanted in [Wanted::Full, Wanted::Incr, Wanted::Incr] {
        let report = make(&cluster, &home, &clock, wanted, false);
        assert_eq!(report.bad_pages.len(), 1, "{wanted:?}: {report:?}");
    }
}

pub(crate) fn packs(home: &Home) -> BTreeMap<refloat_store::Key, u64> {
    let mut packs = BTreeMap::new();
    let listed = home.repository.store().list("packs/", &mut |info| {
        packs.insert(info.key, info.size);
        ControlFlow::Continue(())
    });
    listed.expect("lists");
    packs
}

/// The largest pack of a backup, which holds data.
fn largest_pack(home: &Home, report: &BackupReport) -> refloat_store::Key {
    let record = record(home, report);
    layout::pack(record.packs.iter().max_by_key(|pack| pack.size).expect("packs").id)
}

#[test]
fn a_parent_that_lacks_a_pack_is_passed_over() {
    let cluster = TestCluster::builder().setting("autovacuum", "off").build();
    cluster.psql("postgres", "create table t as select generate_series(1, 50000) n");
    quiet(&cluster);
    let (home, clock) = (home(encrypted()), clock());
    let first = make(&cluster, &home, &clock, Wanted::Full, false);
    let second = make(&cluster, &home, &clock, Wanted::Full, false);
    home.repository.store().delete(&largest_pack(&home, &second)).expect("deletes");
    let incr = make(&cluster, &home, &clock, Wanted::Suitable, false);
    assert_eq!((incr.kind, incr.parent), ("incr", Some(first.backup)));
    let said = incr.notes.join(" ");
    assert!(said.contains(&format!("{} is no parent", second.backup)), "{said}");
    compare(&cluster, &home, &incr);
    home.repository.store().delete(&largest_pack(&home, &first)).expect("deletes");
    let full = make(&cluster, &home, &clock, Wanted::Suitable, false);
    assert_eq!((full.kind, full.parent), ("full", None), "{full:?}");
    assert!(full.notes.join(" ").contains("a full backup is made"), "{:?}", full.notes);
    compare(&cluster, &home, &full);
}

/// Deletes an object when a phase begins.
struct Deletes<'a> {
    home: &'a Home,
    key: refloat_store::Key,
}

impl Progress for Deletes<'_> {
    fn phase(&self, name: &str, _total: u64) {
        if name == "commit" {
            self.home.repository.store().delete(&self.key).expect("deletes");
        }
    }
    fn advance(&self, _by: u64) {}
    fn note(&self, _text: &str) {}
}

#[test]
fn a_pack_that_goes_while_the_backup_is_made_ends_it() {
    let cluster = TestCluster::builder().setting("autovacuum", "off").build();
    cluster.psql("postgres", "create table t as select generate_series(1, 50000) n");
    quiet(&cluster);
    let (home, clock) = (home(encrypted()), clock());
    let full = make(&cluster, &home, &clock, Wanted::Full, false);
    let deletes = Deletes { home: &home, key: largest_pack(&home, &full) };
    let before = packs(&home);
    clock.advance(Duration::from_secs(60));
    let mut again = request(&cluster, &home);
    again.wanted = Wanted::Incr;
    again.clock = &clock;
    again.progress = &deletes;
    let error = backup::run(&again).expect_err("it is gone");
    assert!(matches!(error, BackupError::ParentPack { .. }), "{error:?}");
    let mut left = before;
    left.remove(&deletes.key);
    assert_eq!(packs(&home), left, "and it leaves nothing behind");
}

/// What a damaged part of the parent's manifest names is stored anew, and the backup is made.
#[test]
fn a_damaged_manifest_of_the_parent_costs_space_and_no_backup() {
    let cluster = TestCluster::builder().setting("autovacuum", "off").build();
    cluster.psql("postgres", "create table t as select generate_series(1, 50000) n");
    quiet(&cluster);
    let (home, clock) = (home(encrypted()), clock());
    let full = make(&cluster, &home, &clock, Wanted::Full, false);
    let commit = record(&home, &full);
    let keys = std::sync::Arc::new(home.repository.pack_keys(&commit).expect("opens"));
    let mut opener = refloat_repo::pack::FrameOpener::new(keys).expect("an opener");
    let store = home.repository.store().as_ref();
    let root = refloat_repo::manifest::Root::read(store, &mut opener, &commit.commit.root).expect("a root");
    let part = root.parts.first().expect("a part").frame;
    let path = home.packs().join(layout::pack(part.pack).as_str().trim_start_matches("packs/"));
    let file = std::fs::File::options().write(true).open(path).expect("the pack");
    file.write_all_at(b"damage", part.offset + 10).expect("writes");
    let incr = make(&cluster, &home, &clock, Wanted::Suitable, false);
    assert_eq!(incr.parent, Some(full.backup));
    assert!(incr.notes.join(" ").contains("manifest cannot be read"), "{:?}", incr.notes);
    compare(&cluster, &home, &incr);
}
