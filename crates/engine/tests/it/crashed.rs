//! What a backup that did not finish has stored serves the next one: compared page by page, on real servers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use refloat_engine::backup::{self, BackupError, BackupReport, Wanted};
use refloat_engine::guard::GuardError;
use refloat_engine::progress::Progress;
use refloat_repo::layout;
use refloat_repo::repository::{Marked, Protection};
use refloat_store::Key;
use refloat_testkit::cluster::TestCluster;
use refloat_types::{Clock as _, SystemClock};

use crate::backup::{Home, encrypted, home, record, request};
use crate::incremental::{compare, packs, quiet};

/// Does something once, when a phase begins.
struct At<F> {
    phase: &'static str,
    act: Mutex<Option<F>>,
}

impl<F: FnOnce()> At<F> {
    fn new(phase: &'static str, act: F) -> Self {
        Self { phase, act: Mutex::new(Some(act)) }
    }
}

impl<F: FnOnce() + Send> Progress for At<F> {
    fn phase(&self, name: &str, _total: u64) {
        let mut act = self.act.lock().unwrap_or_else(PoisonError::into_inner);
        if name == self.phase
            && let Some(act) = act.take()
        {
            act();
        }
    }
    fn advance(&self, _by: u64) {}
    fn note(&self, _text: &str) {}
}

/// The server crashes when copying begins, and is started again behind the backup. What was read until then is stored.
fn crash(cluster: &mut TestCluster, home: &Home, wanted: Wanted) {
    {
        let mut asked = request(cluster, home);
        asked.wanted = wanted;
        let crash = At::new("copy", || cluster.crash());
        asked.progress = &crash;
        let error = backup::run(&asked).expect_err("the server is gone");
        assert!(matches!(error, BackupError::Server(_)), "{error:?}");
    }
    cluster.start();
    quiet(cluster);
}

fn make(cluster: &TestCluster, home: &Home, wanted: Wanted) -> BackupReport {
    let mut asked = request(cluster, home);
    asked.wanted = wanted;
    backup::run(&asked).expect("a backup")
}

fn bytes(home: &Home) -> u64 {
    packs(home).values().sum()
}

/// Where the notes and journals of backups are.
fn notes(home: &Home) -> PathBuf {
    let repository = &home.repository;
    let source = repository.find_source(&"prod".parse().expect("a name")).expect("lists").expect("there").id;
    let relative = format!("repositories/{}/running/{source}", repository.marker().id);
    repository.state().directory(&relative).expect("a directory")
}

fn journals(home: &Home) -> Vec<PathBuf> {
    let found = std::fs::read_dir(notes(home)).expect("lists");
    let paths = found.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|it| it == "journal")).collect()
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).expect("lists").next().is_none()
}

/// The packs in the repository are those that these backups name.
fn only_named_stay(home: &Home, made: &[&BackupReport]) {
    let named = made.iter().flat_map(|report| record(home, report).packs.to_vec());
    let named: BTreeSet<Key> = named.map(|pack| layout::pack(pack.id)).collect();
    assert!(packs(home).into_keys().eq(named));
    assert!(is_empty(&notes(home)));
}

fn cluster() -> TestCluster {
    let cluster = TestCluster::builder().checksums(true).setting("autovacuum", "off").build();
    cluster.pgbench_init(5);
    quiet(&cluster);
    cluster
}

#[test]
fn what_a_lost_server_left_is_not_stored_again() {
    for protection in [encrypted(), Protection::None] {
        let mut cluster = cluster();
        let home = home(protection);
        crash(&mut cluster, &home, Wanted::Full);
        let left = bytes(&home);
        assert!(left > 4 << 20, "{left}");
        assert_eq!(journals(&home).len(), 1);
        // Something changes meanwhile, in the middle and at the end.
        cluster.psql("postgres", "update pgbench_accounts set abalance = 7 where aid between 900 and 1000");
        cluster.psql(
            "postgres",
            "insert into pgbench_history (tid, bid, aid) select 1, 1, n from generate_series(1, 9999) n",
        );
        quiet(&cluster);
        let full = make(&cluster, &home, Wanted::Full);
        assert_eq!((full.kind, full.parent), ("full", None));
        assert!(full.stored_bytes < left / 2, "{} of {left}: {full:?}", full.stored_bytes);
        assert!(full.reused_bytes > left / 2, "{full:?}");
        assert!(full.read_bytes + (32 << 20) > full.source_bytes, "everything is read: {full:?}");
        assert!(full.notes.join(" ").contains("were not stored again"), "{:?}", full.notes);
        compare(&cluster, &home, &full);
        only_named_stay(&home, &[&full]);
        // It is a backup like any other: the next full one shares nothing with it, an incremental one all.
        let incr = make(&cluster, &home, Wanted::Incr);
        assert_eq!((incr.parent, incr.reused_bytes), (Some(full.backup), 0));
        assert!(incr.stored_bytes < 1 << 20, "{incr:?}");
        compare(&cluster, &home, &incr);
        let next = make(&cluster, &home, Wanted::Full);
        assert_eq!(next.reused_bytes, 0);
        let (mine, theirs) = (record(&home, &next).packs, record(&home, &full).packs);
        assert!(mine.iter().all(|mine| theirs.iter().all(|theirs| mine.id != theirs.id)));
        only_named_stay(&home, &[&full, &incr, &next]);
    }
}

/// The second one dies too: the third uses what both have stored.
#[test]
fn two_that_died_serve_together() {
    let mut cluster = cluster();
    let home = home(encrypted());
    crash(&mut cluster, &home, Wanted::Full);
    let first = bytes(&home);
    cluster.psql("postgres", "create table noise as select md5(n::text) from generate_series(1, 60000) n");
    crash(&mut cluster, &home, Wanted::Full);
    let both = bytes(&home);
    assert!(both > first + (1 << 20) && both < first + first / 2, "{first} {both}");
    assert_eq!(journals(&home).len(), 2);
    let full = make(&cluster, &home, Wanted::Full);
    assert!(full.stored_bytes < both / 4, "{full:?} {both}");
    compare(&cluster, &home, &full);
    only_named_stay(&home, &[&full]);
}

#[test]
fn an_incremental_that_died_serves_beside_its_parent() {
    let mut cluster = cluster();
    let home = home(encrypted());
    let full = make(&cluster, &home, Wanted::Full);
    cluster.psql("postgres", "update pgbench_accounts set abalance = aid where aid % 3 = 0");
    cluster.psql("postgres", "create table noise as select md5(n::text) from generate_series(1, 60000) n");
    quiet(&cluster);
    let before = bytes(&home);
    crash(&mut cluster, &home, Wanted::Incr);
    let left = bytes(&home) - before;
    let incr = make(&cluster, &home, Wanted::Incr);
    assert_eq!(incr.parent, Some(full.backup));
    assert!(incr.stored_bytes < left / 2 && incr.reused_bytes > left / 2, "{left} {incr:?}");
    compare(&cluster, &home, &incr);
    only_named_stay(&home, &[&full, &incr]);
    // A full one refers to nothing older, also where one that died did.
    cluster.psql("postgres", "update pgbench_accounts set abalance = 0 where aid % 3 = 1");
    crash(&mut cluster, &home, Wanted::Incr);
    let next = make(&cluster, &home, Wanted::Full);
    let older: BTreeSet<_> = [&full, &incr]
        .into_iter()
        .flat_map(|it| record(&home, it).packs.to_vec())
        .map(|pack| pack.id)
        .collect();
    assert!(record(&home, &next).packs.iter().all(|pack| !older.contains(&pack.id)));
    assert!(next.reused_bytes > 0, "{next:?}");
    compare(&cluster, &home, &next);
}

/// A journal that is lost, damaged or another one's costs space, and no backup.
#[test]
fn without_its_journal_nothing_is_used() {
    let mut cluster = cluster();
    for how in ["lost", "damaged", "cut", "foreign"] {
        let home = home(encrypted());
        crash(&mut cluster, &home, Wanted::Full);
        let left = packs(&home);
        let journal = journals(&home).remove(0);
        let whole = std::fs::read(&journal).expect("reads");
        match how {
            "lost" => std::fs::remove_file(&journal).expect("removes"),
            // The header holds, and no range.
            "damaged" => {
                let mut bytes = whole;
                bytes.iter_mut().skip(20).step_by(64).for_each(|byte| *byte ^= 1);
                std::fs::write(&journal, bytes).expect("writes");
            }
            "cut" => std::fs::write(&journal, &whole[..10]).expect("writes"),
            _ => {
                // That of another directory's backup.
                let mut other = request(&cluster, &home);
                other.host = "elsewhere".to_owned();
                let full = backup::run(&other).expect("a backup");
                assert_eq!(full.reused_bytes, 0, "{full:?}");
            }
        }
        let full = make(&cluster, &home, Wanted::Full);
        assert_eq!(full.reused_bytes, 0, "{how}: {full:?}");
        assert!(packs(&home).keys().all(|key| !left.contains_key(key)), "{how}: all that it left is cleared");
        compare(&cluster, &home, &full);
        assert!(is_empty(&notes(&home)), "{how}");
    }
}

/// Half a journal serves for half.
#[test]
fn of_a_torn_journal_the_beginning_serves() {
    let mut cluster = cluster();
    let home = home(encrypted());
    crash(&mut cluster, &home, Wanted::Full);
    let left = bytes(&home);
    let journal = journals(&home).remove(0);
    let file = std::fs::File::options().write(true).open(&journal).expect("opens");
    file.set_len(file.metadata().expect("stat").len() * 2 / 3).expect("cuts");
    let full = make(&cluster, &home, Wanted::Full);
    assert!(full.reused_bytes > 0 && full.reused_bytes < left * 9 / 10, "{left} {full:?}");
    compare(&cluster, &home, &full);
    only_named_stay(&home, &[&full]);
}

/// What a tombstone names is not used, and what somebody deletes meanwhile ends the backup.
#[test]
fn what_is_being_deleted_is_not_used() {
    let mut cluster = cluster();
    let home = home(encrypted());
    crash(&mut cluster, &home, Wanted::Full);
    let left = packs(&home);
    let mark = |names: Vec<Key>| {
        let marked = Marked::default();
        home.repository
            .put_tombstone(names, Default::default(), marked, SystemClock.now())
            .expect("a tombstone");
    };
    let largest = left.iter().max_by_key(|(_, size)| **size).map(|(key, _)| key.clone()).expect("packs");
    mark(vec![largest.clone()]);
    let full = make(&cluster, &home, Wanted::Full);
    let named = record(&home, &full).packs;
    assert!(named.iter().all(|pack| layout::pack(pack.id) != largest));
    compare(&cluster, &home, &full);

    // Marked after it was chosen: the backup is withdrawn, and the next one does without.
    crash(&mut cluster, &home, Wanted::Full);
    let left: Vec<Key> = packs(&home).into_keys().filter(|key| !is_of(&home, &full, key)).collect();
    let mut asked = request(&cluster, &home);
    let late = At::new("commit", || mark(left.clone()));
    asked.progress = &late;
    let error = backup::run(&asked).expect_err("it is marked");
    assert!(matches!(error, BackupError::Guard(GuardError::Marked { .. })), "{error:?}");
    let next = make(&cluster, &home, Wanted::Full);
    assert!(record(&home, &next).packs.iter().all(|pack| !left.contains(&layout::pack(pack.id))));
    compare(&cluster, &home, &next);

    // Gone after it was chosen.
    crash(&mut cluster, &home, Wanted::Full);
    let made = [&full, &next];
    let orphans: Vec<Key> =
        packs(&home).into_keys().filter(|key| made.iter().all(|it| !is_of(&home, it, key))).collect();
    let store = home.repository.store();
    let mut asked = request(&cluster, &home);
    let late = At::new("commit", || orphans.iter().for_each(|key| store.delete(key).expect("deletes")));
    asked.progress = &late;
    let error = backup::run(&asked).expect_err("it is gone");
    assert!(matches!(error, BackupError::Guard(GuardError::Gone { .. })), "{error:?}");
    let last = make(&cluster, &home, Wanted::Full);
    compare(&cluster, &home, &last);
    assert!(is_empty(&notes(&home)));
}

fn is_of(home: &Home, report: &BackupReport, key: &Key) -> bool {
    record(home, report).packs.iter().any(|pack| layout::pack(pack.id) == *key)
}
