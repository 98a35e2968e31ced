//! A store that keeps versions and locks them, and hosts that may only add.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use refloat_engine::expire::{Keep, Policy};
use refloat_engine::guard::GuardError;
use refloat_engine::locks;
use refloat_repo::commit::BackupType::{Full, Incr};
use refloat_repo::layout;
use refloat_store::{Key, Store as _, Version};

use super::world::World;

const DAY: Duration = Duration::from_secs(24 * 3600);
const HOUR: Duration = Duration::from_secs(3600);

fn versions(world: &World, prefix: &str) -> BTreeMap<Key, Vec<Version>> {
    let mut all: BTreeMap<Key, Vec<Version>> = BTreeMap::new();
    let listed = world.store.versions(prefix, &mut |version| {
        all.entry(version.key.clone()).or_default().push(version);
        ControlFlow::Continue(())
    });
    listed.unwrap();
    all
}

fn keep_one() -> Option<Policy> {
    Some(Policy { full: Some(Keep::Count(1)), ..Policy::default() })
}

/// Marked and ripe after a day, it stays whole until the lock of all it consists of is over, and then nothing is left of
/// it: no older version that is paid for, and no marker.
#[test]
fn nothing_goes_before_its_lock_is_over_and_then_all_of_it() {
    let period = 10 * DAY;
    let mut world = World::locked(period);
    world.policy = keep_one();
    let first = world.backup(0, Full).unwrap();
    let record = world.made[0].clone();
    let end = record.commit.finished + period;
    world.pass(DAY);
    world.backup(0, Full).unwrap();
    let mut waited = false;
    while world.now() < end {
        world.pass(6 * HOUR);
        // What is made is new every time, so that there is always something to keep.
        let report = world.expire(0).unwrap();
        if world.now() < end {
            assert!(world.is_there(first) && world.lacks(&record) == 0, "whole until its lock is over");
            if report.locked.backups > 0 {
                waited = true;
                assert!(report.locked_until.is_some_and(|until| until > world.now()));
            }
        }
        if world.now().as_second() % 86_400 < 21_600 {
            world.backup(0, Full).unwrap();
        }
    }
    assert!(waited, "that it waits for the lock is said");
    world.pass(HOUR);
    let report = world.expire(0).unwrap();
    assert!(report.deleted.backups > 0 || !world.is_there(first));
    assert!(!world.is_there(first));
    let packs = versions(&world, layout::PACKS);
    for pack in record.packs.iter() {
        assert!(!packs.contains_key(&layout::pack(pack.id)), "its versions are destroyed");
    }
    // Pins and tombstones that are over are not paid for for ever either.
    world.pass(20 * DAY);
    world.backup(0, Full).unwrap();
    world.expire(0).unwrap();
    world.pass(2 * DAY);
    world.backup(0, Full).unwrap();
    world.expire(0).unwrap();
    for (key, all) in versions(&world, layout::PINS) {
        assert!(all.iter().all(|version| version.created + period + 3 * DAY > world.now()), "{key}");
    }
}

/// A backup that refers to older packs is locked for no longer than they are.
#[test]
fn a_backup_is_as_immutable_as_its_oldest_pack() {
    let mut world = World::locked(10 * DAY);
    let full = world.backup(0, Full).unwrap();
    world.pass(4 * DAY);
    let incr = world.backup(0, Incr).unwrap();
    let repository = Arc::clone(&world.hosts[0].repository);
    let ends = locks::of_backups(&repository, world.made.iter(), world.now()).unwrap();
    let oldest = |record: &refloat_repo::commit::CommitRecord| {
        let ends = record
            .packs
            .iter()
            .map(|pack| world.store.lock_end(&layout::pack(pack.id), None).unwrap().expect("a lock"));
        ends.min().unwrap()
    };
    assert_eq!(ends[&full], oldest(&world.made[0]));
    assert_eq!(ends[&incr], oldest(&world.made[1]));
    assert!(ends[&incr] < world.made[1].commit.finished + 7 * DAY, "not as if all of it were new");
    // What is remembered of locks is forgotten when they are over.
    world.clock.advance(7 * DAY);
    let later = locks::of_backups(&repository, world.made.iter(), world.now()).unwrap();
    assert!(later.is_empty(), "{later:?}");
}

/// What hides an object that nobody has marked is not made final: it may be all that is left after an attack.
#[test]
fn what_somebody_else_has_hidden_is_not_destroyed() {
    let mut world = World::locked(2 * DAY);
    world.policy = keep_one();
    world.backup(0, Full).unwrap();
    let pack = layout::pack(world.made[0].packs[0].id);
    world.pass(5 * DAY);
    world.store.delete(&pack).unwrap();
    world.backup(0, Full).unwrap();
    let report = world.expire(0).unwrap();
    assert!(report.hidden_bytes >= 6, "{}", report.hidden_bytes);
    let all = versions(&world, layout::PACKS);
    assert!(all[&pack].iter().any(|version| !version.is_marker), "its bytes are there");
}

/// A host that may only add makes backups, and its pins are over when its jobs are.
#[test]
fn a_host_that_may_only_add_makes_backups_and_holds_nothing_afterwards() {
    let mut world = World::locked(10 * DAY);
    world.policy = keep_one();
    world.backup(1, Full).unwrap();
    world.pass(HOUR);
    world.backup(1, Incr).unwrap();
    assert!(!world.objects(layout::PINS).is_empty(), "it may not delete its pins");
    world.clock.advance(Duration::from_secs(2));
    let repository = Arc::clone(&world.hosts[0].repository);
    let pins = repository.list_pins().unwrap();
    assert!(pins.iter().all(|seen| !seen.is_alive(world.now())), "{pins:?}");
    // It cannot expire; somebody else does.
    world.pass(DAY);
    world.backup(1, Full).unwrap();
    world.pass(HOUR);
    world.expire(0).unwrap();
    world.pass(30 * DAY);
    world.backup(1, Full).unwrap();
    world.pass(HOUR);
    let report = world.expire(0).unwrap();
    assert!(report.deleted.backups >= 1, "{:?}", report.deleted);
    let pins = repository.list_pins().unwrap();
    assert!(pins.iter().all(|seen| seen.renewed + 8 * DAY > world.now()), "old ones are cleared elsewhere");
}

/// A writer that was stopped and may not delete disowns its commit: it is not acknowledged, and nobody builds on it.
#[test]
fn a_commit_that_cannot_be_withdrawn_is_disowned() {
    let mut world = World::locked(HOUR);
    world.policy = keep_one();
    let repository = Arc::clone(&world.hosts[1].repository);
    world.backup(0, Full).unwrap();
    world.pass(DAY);
    let mut making = world.begin(&repository, Incr).unwrap();
    making.guard.before_commit(&making.commit, &making.packs).unwrap();
    for _ in 0..4 {
        world.pass(DAY);
        world.backup(0, Full).unwrap();
        world.pass(HOUR);
        world.expire(0).unwrap();
    }
    world.put(&repository, &mut making).unwrap();
    let id = making.commit.backup;
    let refused = making.guard.after_commit(&making.commit, &making.packs).unwrap_err();
    assert!(matches!(refused, GuardError::NotWithdrawn { .. }), "{refused}");
    assert!(world.is_there(id), "it may not delete it");
    drop(making);
    let other = Arc::clone(&world.hosts[0].repository);
    let next = world.begin(&other, Incr).unwrap();
    assert!(next.commit.parent.is_some_and(|parent| parent != id), "nobody builds on it");
}
