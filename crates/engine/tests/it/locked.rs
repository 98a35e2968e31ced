//! Backups into a store that locks what is new: what older packs hold is locked for longer, or stored again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use refloat_engine::backup::{self, BackupReport, Wanted};
use refloat_repo::layout;
use refloat_store::Store;
use refloat_testkit::cluster::TestCluster;
use refloat_testkit::memory_store::Memory;
use refloat_types::{Clock, ManualClock, ObjectId, SystemClock, Timestamp};

use crate::backup::{Home, home_in, record, request};
use crate::incremental::{compare, quiet};
use crate::several::copied;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn make(cluster: &TestCluster, home: &Home, clock: &ManualClock, wanted: Wanted) -> BackupReport {
    let mut request = request(cluster, home);
    request.wanted = wanted;
    request.clock = clock;
    request.keep = Some(5 * DAY);
    backup::run(&request).expect("a backup")
}

fn packs(home: &Home, report: &BackupReport) -> BTreeSet<ObjectId> {
    record(home, report).packs.iter().map(|pack| pack.id).collect()
}

/// Packs are nothing without the envelopes of their keys.
fn keys_are_locked(store: &Memory, home: &Home, report: &BackupReport, until: Timestamp) {
    let keys: BTreeSet<ObjectId> = record(home, report).packs.iter().map(|pack| pack.key).collect();
    assert!(!keys.contains(&ObjectId::NONE), "it is encrypted");
    for key in keys {
        let end =
            store.lock_end(&layout::envelope(key), None).expect("it can be asked").expect("it is locked");
        assert!(end >= until, "key {key} is locked until {end}, not until {until}");
    }
}

#[test]
fn an_incremental_refers_only_to_what_is_locked_for_as_long_as_it_stays() {
    for may_extend in [true, false] {
        let cluster = TestCluster::builder().setting("autovacuum", "off").build();
        cluster.pgbench_init(2);
        quiet(&cluster);
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let store = Memory::new().with_clock(Arc::clone(&clock) as Arc<dyn Clock>).with_locks(8 * DAY);
        let seen: Arc<dyn Store> = Arc::new(if may_extend { store.clone() } else { store.add_only() });
        let home = home_in(seen);
        let full = make(&cluster, &home, &clock, Wanted::Full);
        let older = packs(&home, &full);

        // Two days on, the locks of the full backup last for six more: long enough.
        clock.advance(2 * DAY);
        let soon = make(&cluster, &home, &clock, Wanted::Incr);
        assert_eq!(soon.parent, Some(full.backup));
        let used: BTreeSet<ObjectId> = packs(&home, &soon).intersection(&older).copied().collect();
        assert!(!used.is_empty());
        assert!(soon.stored_bytes * 4 < full.stored_bytes, "{soon:?}");
        let end = |pack: &ObjectId| store.lock_end(&layout::pack(*pack), None).unwrap().unwrap();
        assert!(used.iter().all(|pack| end(pack) < clock.now() + 7 * DAY), "nothing was locked for longer");

        // Four days later they do not last as long as this one shall stay.
        clock.advance(4 * DAY);
        let late = make(&cluster, &home, &clock, Wanted::Incr);
        assert_eq!(late.parent, Some(soon.backup));
        let needed = packs(&home, &late);
        assert!(
            needed.iter().all(|pack| end(pack) >= clock.now() + 5 * DAY),
            "all of it is locked for long enough"
        );
        keys_are_locked(&store, &home, &late, clock.now() + 5 * DAY);
        let told = late.notes.iter().any(|note| note.contains("stored again"));
        if may_extend {
            assert!(needed.intersection(&older).count() > 0 && !told, "{:?}", late.notes);
            assert!(late.stored_bytes * 4 < full.stored_bytes);
        } else {
            assert_eq!(needed.intersection(&older).count(), 0, "nothing of the full backup is used");
            assert!(told, "{:?}", late.notes);
        }
        compare(&cluster, &home, &late);
    }
}

/// What is copied is held as long in the other repository, which locks by itself.
#[test]
fn a_copied_incremental_refers_only_to_what_is_locked_for_as_long_as_it_stays() {
    for may_extend in [true, false] {
        let cluster = TestCluster::builder().setting("autovacuum", "off").build();
        cluster.pgbench_init(2);
        quiet(&cluster);
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let locked = Memory::new().with_clock(Arc::clone(&clock) as Arc<dyn Clock>).with_locks(8 * DAY);
        let seen: Arc<dyn Store> = Arc::new(if may_extend { locked.clone() } else { locked.add_only() });
        let (first, second) = (crate::backup::home(crate::backup::encrypted()), home_in(seen));
        let full = make(&cluster, &first, &clock, Wanted::Full);
        let older = packs(&first, &full);
        let copy = || copied(&first, &second.repository, clock.as_ref(), |asked| asked.keep = Some(5 * DAY));
        assert_eq!(copy().backups.len(), 1);

        clock.advance(6 * DAY);
        cluster.psql("postgres", "update pgbench_accounts set abalance = 1 where aid % 1000 = 7");
        quiet(&cluster);
        let incr = make(&cluster, &first, &clock, Wanted::Incr);
        assert_eq!(incr.parent, Some(full.backup));
        assert!(packs(&first, &incr).intersection(&older).count() > 0);
        let report = copy();
        assert_eq!(report.backups[0].short_locks, Some(0));
        let needed = packs(&second, &incr);
        let end = |pack: &ObjectId| locked.lock_end(&layout::pack(*pack), None).unwrap().unwrap();
        assert!(
            needed.iter().all(|pack| end(pack) >= clock.now() + 5 * DAY),
            "all of it is locked for long enough"
        );
        keys_are_locked(&locked, &second, &incr, clock.now() + 5 * DAY);
        let again = report.backups[0].stored_again;
        if may_extend {
            assert!(needed.intersection(&older).count() > 0 && again == 0, "{report:?}");
        } else {
            assert!(needed.intersection(&older).count() == 0 && again > 0, "{report:?}");
        }
        compare(&cluster, &second, &incr);
    }
}
