//! What an expiry keeps and deletes, rule by rule, in simulated time.

use std::time::Duration;

use refloat_engine::expire::{ExpireError, Keep, Period, Policy, Reason};
use refloat_engine::guard::{Guard, GuardRequest};
use refloat_repo::commit::BackupType::{Full, Incr};
use refloat_repo::layout;
use refloat_repo::repository::{HoldWords, Uses};
use refloat_store::Store as _;
use refloat_types::Clock as _;

use super::world::World;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn days(count: u32) -> Keep {
    Keep::Age(DAY * count, format!("{count}d"))
}

fn fulls(keep: Keep) -> Option<Policy> {
    Some(Policy { full: Some(keep), ..Policy::default() })
}

/// Days with a full backup each.
fn daily(world: &mut World, count: usize) -> Vec<refloat_types::BackupId> {
    let made = |world: &mut World| {
        world.pass(DAY);
        world.backup(0, Full).unwrap()
    };
    (0..count).map(|_| made(world)).collect()
}

#[test]
fn without_a_policy_nothing_is_ever_deleted() {
    let mut world = World::new(Duration::ZERO);
    let made = daily(&mut world, 5);
    for _ in 0..3 {
        let report = world.expire(0).unwrap();
        assert!(report.marked.is_nothing() && report.deleted.is_nothing());
        assert!(report.backups.iter().all(|verdict| verdict.reasons == [Reason::NoPolicy]));
        world.pass(DAY);
    }
    assert!(made.iter().all(|id| world.is_there(*id)));
    assert!(world.objects(layout::TOMBSTONES).is_empty());
}

#[test]
fn marked_first_deleted_after_the_grace_time() {
    let mut world = World::new(Duration::ZERO);
    world.policy = fulls(Keep::Count(2));
    let made = daily(&mut world, 4);
    let report = world.expire(0).unwrap();
    assert_eq!((report.marked.backups, report.marked.packs, report.deleted.backups), (2, 6, 0));
    assert_eq!(report.next, Some(world.now() + DAY));
    world.pass(DAY - HOUR);
    let report = world.expire(1).unwrap();
    assert!(report.deleted.is_nothing() && report.marked.backups == 0, "{report:#?}");
    world.pass(HOUR);
    let report = world.expire(1).unwrap();
    assert_eq!((report.deleted.backups, report.deleted.packs), (2, 6));
    assert_eq!(made.iter().filter(|id| world.is_there(**id)).count(), 2);
    assert_eq!(world.objects(layout::PACKS).len(), 6);
    // The newest tombstone stays as the record of what expired on purpose.
    world.pass(DAY);
    world.backup(0, Full).unwrap();
    world.expire(0).unwrap();
    assert_eq!(world.objects(layout::TOMBSTONES).len(), 1);
    assert!(world.objects(layout::PINS).is_empty());
    assert!(world.hosts[0].repository.marked().unwrap().has_commit(world.source, 1));
}

#[test]
fn a_kept_incremental_keeps_its_packs_when_its_parent_goes() {
    let mut world = World::new(Duration::ZERO);
    world.policy =
        Some(Policy { full: Some(Keep::Count(1)), incr: Some(Keep::Count(9)), ..Policy::default() });
    world.pass(DAY);
    let first = world.backup(0, Full).unwrap();
    world.pass(DAY);
    let second = world.backup(0, Incr).unwrap();
    let shared = world.made[1].packs.len();
    assert!(shared > 3, "it refers to packs of its parent");
    daily(&mut world, 1);
    world.expire(0).unwrap();
    world.pass(DAY);
    world.expire(0).unwrap();
    assert!(!world.is_there(first) && world.is_there(second));
    assert_eq!(world.lacks(&world.made[1]), 0);
    assert_eq!(world.lacks(&world.made[0]), 1, "only what nobody else needs went");
}

#[test]
fn one_full_stays_whatever_the_policy_says() {
    let mut world = World::new(Duration::ZERO);
    world.policy = fulls(Keep::Age(HOUR, "1h".to_owned()));
    let made = daily(&mut world, 3);
    // The newest is broken: it does not count, and the one before it stays too.
    let lost = world.made[2].packs[0].id;
    world.store.delete(&layout::pack(lost)).unwrap();
    for _ in 0..4 {
        world.expire(0).unwrap();
        world.pass(DAY);
    }
    assert!(!world.is_there(made[0]) && world.is_there(made[1]) && world.is_there(made[2]));
    assert_eq!(world.lacks(&world.made[1]), 0);
}

#[test]
fn a_clock_five_years_ahead_deletes_nothing() {
    let mut world = World::new(Duration::ZERO);
    world.policy = fulls(days(3));
    let made = daily(&mut world, 5);
    world.expire(0).unwrap();
    let right = world.now();
    // This host and its store agree with each other, and are both wrong.
    world.clock.set(right + DAY * 5 * 365);
    let error = world.expire(0).unwrap_err();
    assert!(matches!(error, ExpireError::Clocks { .. }), "{error}");
    assert!(made.iter().all(|id| world.is_there(*id)));
    // Only this host is.
    world.clock.set(right);
    let ahead = std::sync::Arc::new(refloat_types::ManualClock::new(right + DAY * 5 * 365));
    let policy = world.policy.clone();
    let error = super::world::run_expire(&world.hosts[0].repository, world.source, policy.as_ref(), &ahead);
    assert!(matches!(error, Err(ExpireError::Clocks { .. })));
    assert!(made.iter().all(|id| world.is_there(*id)));
}

#[test]
fn nothing_grows_old_while_no_backups_are_made() {
    let mut world = World::new(Duration::ZERO);
    world.policy = fulls(days(3));
    let made = daily(&mut world, 3);
    for _ in 0..20 {
        world.pass(DAY);
        world.expire(0).unwrap();
    }
    assert!(made.iter().all(|id| world.is_there(*id)));
}

#[test]
fn a_hold_keeps_and_its_end_lets_go() {
    let mut world = World::new(Duration::ZERO);
    world.policy = fulls(Keep::Count(1));
    let made = daily(&mut world, 3);
    let words = HoldWords { reason: "audit".to_owned(), who: "ann@db1".to_owned() };
    world.expire(0).unwrap();
    // Marked already, and held within the grace time.
    let hold = world.hosts[1].repository.add_hold(world.source, made[0], &words, None, world.now()).unwrap();
    world.pass(DAY);
    let report = world.expire(0).unwrap();
    assert!(world.is_there(made[0]) && !world.is_there(made[1]));
    let verdict = report.backups.iter().find(|verdict| verdict.backup == made[0]).unwrap();
    assert_eq!(verdict.reasons[0].to_string(), "held: audit");
    assert!(verdict.marked.is_some());
    world.hosts[0].repository.release_hold(hold.id, &words, world.now()).unwrap();
    world.expire(0).unwrap();
    assert!(!world.is_there(made[0]), "it was marked long ago");
}

#[test]
fn what_a_restore_uses_stays_until_it_is_done() {
    let mut world = World::new(Duration::ZERO);
    world.policy = fulls(Keep::Count(1));
    let made = daily(&mut world, 2);
    world.expire(0).unwrap();
    world.pass(DAY);
    let repository = std::sync::Arc::clone(&world.hosts[1].repository);
    let request = |world: &World| GuardRequest {
        operation: "restore",
        backup: None,
        uses: Uses::Backups(vec![made[0]]),
        host: "db2",
        now: world.now(),
        uptime: world.uptime(),
        renew: false,
    };
    let guard = Guard::begin(&repository, &request(&world)).unwrap();
    let report = world.expire(0).unwrap();
    assert_eq!((report.deleted.backups, report.deleted.packs), (0, 0), "{report:#?}");
    drop(guard);
    // Killed, its pin dies with its lease.
    let guard = Guard::begin(&repository, &request(&world)).unwrap();
    std::mem::forget(guard);
    world.expire(0).unwrap();
    assert!(world.is_there(made[0]));
    world.pass(HOUR);
    world.expire(0).unwrap();
    assert!(!world.is_there(made[0]));
    assert_eq!(world.objects(layout::PINS).len(), 1, "a dead pin stays for a week");
    world.pass(DAY * 8);
    world.expire(0).unwrap();
    assert!(world.objects(layout::PINS).is_empty());
}

#[test]
fn a_pin_that_no_list_shows_yet_holds() {
    let mut world = World::new(Duration::from_secs(600));
    world.policy = fulls(Keep::Count(1));
    let made = daily(&mut world, 2);
    let repository = std::sync::Arc::clone(&world.hosts[1].repository);
    let request = GuardRequest {
        operation: "restore",
        backup: None,
        uses: Uses::Backups(vec![made[0]]),
        host: "db2",
        now: world.now(),
        uptime: world.uptime(),
        renew: false,
    };
    world.expire(0).unwrap();
    let guard = Guard::begin(&repository, &request).unwrap();
    for _ in 0..DAY.as_secs() / 300 {
        world.pass(Duration::from_secs(300));
        guard.renew().unwrap();
    }
    // Everything but its first generation is too young for the list.
    world.backup(0, Full).unwrap();
    world.pass(Duration::from_secs(599));
    (0..9).for_each(|_| guard.renew().unwrap());
    let report = world.expire(0).unwrap();
    assert_eq!(report.deleted.backups, 0, "{report:#?}");
    assert!(world.is_there(made[0]) && world.lacks(&world.made[0]) == 0);
}

#[test]
fn what_cannot_be_read_stops_it() {
    let mut world = World::new(Duration::ZERO);
    world.policy = fulls(Keep::Count(1));
    let made = daily(&mut world, 3);
    world.expire(0).unwrap();
    world.pass(DAY);
    let commits = world.objects(&layout::commits(world.source));
    let newest = commits.last().unwrap();
    world.memory.damage(newest, |bytes| bytes[90] ^= 1);
    let error = world.expire(0).unwrap_err();
    assert!(matches!(error, ExpireError::Unsure { .. }), "{error}");
    assert!(made.iter().all(|id| world.is_there(*id)));
}

#[test]
fn a_window_keeps_its_base_and_older_backups_their_span() {
    let mut world = World::new(Duration::ZERO);
    world.policy = Some(Policy {
        full: Some(Keep::Count(1)),
        wal: Some((DAY * 3, "3d".to_owned())),
        calendar: [(Period::Month, Keep::Count(3))].into(),
        ..Policy::default()
    });
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.extend(daily(&mut world, 1));
        world.expire(0).unwrap();
    }
    world.pass(HOUR);
    world.expire(0).unwrap();
    let left: Vec<_> = world.made.iter().filter(|r| world.is_there(r.commit.backup)).cloned().collect();
    // The newest, the one the window begins with, those between on their way out, and the last of January.
    let cutoff = left.last().unwrap().commit.cluster.stop_time - DAY * 3;
    let base = left.iter().rev().find(|r| r.commit.cluster.stop_time <= cutoff).expect("a base");
    let start = base.commit.cluster.start_lsn.0 / super::world::SIZE.bytes();
    for number in start..world.wal {
        assert!(world.store.head(&world.wal_key(number)).unwrap().is_some(), "in the window: {number}");
    }
    let january = &left[0].commit;
    assert!(january.finished < "2026-02-01T00:00:00Z".parse().unwrap(), "{january:?}");
    let own = january.cluster.start_lsn.0 / super::world::SIZE.bytes();
    for number in own..=own + 1 {
        assert!(world.store.head(&world.wal_key(number)).unwrap().is_some(), "its own span, and one more");
    }
    for number in [own - 1, own + 2] {
        let left = world.store.head(&world.wal_key(number)).unwrap();
        assert!(left.is_none(), "not needed: {number}, {own}, {start}, {}", world.wal);
    }
    let marked = world.hosts[0].repository.marked().unwrap();
    let tli = refloat_types::TimelineId::FIRST;
    assert!(
        marked.has_wal(super::world::SYSTEM, tli, own + 2) && !marked.has_wal(super::world::SYSTEM, tli, own)
    );
}

/// What the source was before an upgrade stays as long as the policy says, and no longer.
#[test]
fn the_cluster_before_an_upgrade_grows_old() {
    let mut world = World::new(Duration::ZERO);
    world.policy = Some(Policy {
        full: Some(Keep::Count(2)),
        wal: Some((DAY * 3, "3d".to_owned())),
        ..Policy::default()
    });
    let old = daily(&mut world, 5);
    let (old_wal, old_keys) = (world.wal, (10..world.wal).map(|n| world.wal_key(n)).collect::<Vec<_>>());
    world.upgrade();
    daily(&mut world, 1);
    world.expire(0).unwrap();
    world.pass(DAY * 2);
    let new = daily(&mut world, 1);
    world.expire(0).unwrap();
    assert!(world.is_there(old[4]), "its window is not over");
    assert!(world.store.head(&old_keys[old_keys.len() - 1]).unwrap().is_some(), "{old_wal}");
    for _ in 0..8 {
        daily(&mut world, 1);
        world.expire(0).unwrap();
    }
    assert!(old.iter().all(|id| !world.is_there(*id)), "nothing of it is needed");
    assert!(!world.is_there(new[0]));
    assert!(old_keys.iter().all(|key| world.store.head(key).unwrap().is_none()));
}

#[test]
fn a_dry_run_writes_nothing() {
    use refloat_engine::expire::{ExpireRequest, GRACE, explain};
    let mut world = World::new(Duration::ZERO);
    world.policy = fulls(Keep::Count(1));
    daily(&mut world, 3);
    let before = world.objects("");
    let report = explain(&ExpireRequest {
        repository: &world.hosts[0].repository,
        policies: [(world.source, world.policy.clone().unwrap())].into(),
        grace: GRACE,
        host: "db1",
        clock: world.clock.as_ref(),
        uptime: world.uptime(),
        progress: &refloat_engine::progress::Silent,
    })
    .unwrap();
    assert_eq!((report.marked.backups, report.deleted.backups), (2, 0));
    assert_eq!(report.backups[0].why.as_deref(), Some("more than 1 newer full backups"));
    assert_eq!(before, world.objects(""));
    assert!(world.clock.now() == world.now());
}

/// A copy may take longer than packs are waited for that no backup names: they were stored since it began.
#[test]
fn packs_stay_while_they_are_copied() {
    let mut world = World::new(Duration::ZERO);
    world.policy = fulls(Keep::Count(2));
    daily(&mut world, 1);
    let repository = std::sync::Arc::clone(&world.hosts[1].repository);
    let request = |now| GuardRequest {
        operation: refloat_engine::guard::COPY,
        backup: None,
        uses: Uses::Source(world.source),
        host: "other",
        now,
        uptime: std::sync::Arc::new(refloat_engine::guard::SinceBoot),
        renew: false,
    };
    let request = request(world.now());
    let held = Guard::begin(&repository, &request).unwrap();
    world.pass(Duration::from_secs(60));
    let copied = layout::pack(refloat_types::ObjectId([9; 16]));
    world.store.put_new(&copied, b"frames").unwrap();
    for _ in 0..8 {
        for _ in 0..72 {
            world.pass(DAY / 72);
            held.renew().unwrap();
        }
        world.backup(0, Full).unwrap();
    }
    let marks = |world: &World| {
        world.expire(0).unwrap();
        let all = world.hosts[0].repository.list_tombstones().unwrap();
        all.iter().any(|stored| stored.names.contains(&copied))
    };
    assert!(!marks(&world));
    drop(held);
    assert!(marks(&world), "it never came to a commit");
}

/// Packs that no backup names go when they are old, but not while a backup may be using those of one that died.
#[test]
fn packs_of_a_backup_that_died_stay_while_another_one_uses_them() {
    let mut world = World::new(Duration::ZERO);
    world.policy = fulls(Keep::Count(2));
    daily(&mut world, 1);
    let orphan = layout::pack(refloat_types::ObjectId([9; 16]));
    world.store.put_new(&orphan, b"frames").unwrap();
    for _ in 0..8 {
        world.pass(DAY);
        world.backup(0, Full).unwrap();
    }
    let repository = std::sync::Arc::clone(&world.hosts[1].repository);
    let (own, died) =
        (refloat_types::BackupId::from_random([1; 8]), refloat_types::BackupId::from_random([2; 8]));
    let guard = |uses| {
        let request = GuardRequest {
            operation: "backup",
            backup: Some(own),
            uses,
            host: "other",
            now: world.now(),
            uptime: std::sync::Arc::new(refloat_engine::guard::SinceBoot),
            renew: false,
        };
        Guard::begin(&repository, &request).unwrap()
    };
    let known = world.made.last().map(|record| record.commit.backup).unwrap();
    let source = world.source;
    let marks = |world: &World| {
        world.expire(0).unwrap();
        let all = world.hosts[0].repository.list_tombstones().unwrap();
        all.iter().any(|stored| stored.names.contains(&orphan))
    };
    for uses in [Uses::Backups(vec![known, died]), Uses::Source(source)] {
        let held = guard(uses);
        assert!(!marks(&world));
        drop(held);
    }
    // One that began long after it and uses what is committed has nothing to do with it.
    let held = guard(Uses::Backups(vec![known]));
    assert!(marks(&world));
    drop(held);
}
