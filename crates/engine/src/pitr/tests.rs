//! Plans against a model: clusters with forks, gaps, quiet stretches and disputed files, each segment asked one by one.

mod model;

use proptest::prelude::*;
use refloat_types::{Lsn, Timestamp};

use super::*;
use model::{Backup, Fork, SEGMENT, World, at, tli};

fn straight(segments: std::ops::RangeInclusive<u64>) -> World {
    World { segments: vec![(1, segments.collect())], ..World::default() }
}

fn ask(world: &World, target: Target) -> Result<Plan, TargetError> {
    world.ask(&Request { target, exclusive: false, timeline: TimelineChoice::Owner, backup: None })
}

fn backup(timeline: u32, segment: u64) -> Backup {
    Backup { timeline, segment, own_wal: false }
}

#[test]
fn a_time_takes_the_newest_backup_before_it() {
    let mut world = straight(1..=9);
    world.backups = vec![backup(1, 2), backup(1, 5)];
    // The transaction of segment n ends 10 n seconds after the beginning, a backup in it 5 seconds before.
    let plan = ask(&world, Target::Time(at(72))).unwrap();
    assert_eq!((plan.backup.commit.number, plan.target.clone()), (2, Target::Time(at(72))));
    let wal = plan.wal.unwrap();
    let (first, last) = (wal.first.number(SEGMENT), wal.last.number(SEGMENT));
    assert_eq!((first, last, wal.segments, wal.bytes), (5, 8, 4, 4 << 20));
    assert_eq!(ask(&world, Target::Time(at(40))).unwrap().backup.commit.number, 1);
    let early = ask(&world, Target::Time(at(14))).unwrap_err();
    assert!(matches!(&early, TargetError::TooEarly { windows, .. } if windows.len() == 2), "{early}");
    assert!(refloat_types::Explain::advice(&early).hints.iter().any(|hint| hint.contains("can be reached")));
    let late = ask(&world, Target::Time(at(96)));
    assert!(matches!(late, Err(TargetError::TooLate { .. })));
}

#[test]
fn a_time_behind_the_last_commit_becomes_latest_and_says_so() {
    let mut world = straight(1..=9);
    world.backups = vec![backup(1, 2)];
    // Stored 5 seconds after its last commit.
    for seconds in [90, 95] {
        let plan = ask(&world, Target::Time(at(seconds))).unwrap();
        assert_eq!(plan.target, Target::Latest);
        assert!(plan.notes[0].contains("everything archived is replayed"), "{:?}", plan.notes);
    }
    assert_eq!(ask(&world, Target::Time(at(89))).unwrap().target, Target::Time(at(89)));
    // Exclusive: recovery stops at the transaction that ended at that very moment.
    let request = Request {
        target: Target::Time(at(90)),
        exclusive: true,
        timeline: TimelineChoice::Owner,
        backup: None,
    };
    assert_eq!(world.ask(&request).unwrap().target, Target::Time(at(90)));
}

#[test]
fn gaps_end_windows_and_refuse_what_lies_behind_them() {
    let mut world = straight(1..=9);
    world.segments[0].1.retain(|n| *n != 6);
    world.backups = vec![backup(1, 2), backup(1, 3)];
    for target in [Target::Latest, Target::Time(at(85)), Target::Lsn(Lsn(0x70_0000)), Target::Xid(8)] {
        let refused = ask(&world, target.clone()).unwrap_err();
        assert!(
            matches!(&refused, TargetError::Gap { gap, .. } if gap.range.count == 1),
            "{target}: {refused}"
        );
        assert!(refused.to_string().contains("000000010000000000000006"), "{refused}");
    }
    assert!(ask(&world, Target::Time(at(45))).is_ok());
    let windows = windows(&world.situation(&world.archive(), &world.commits())).unwrap();
    assert_eq!(windows[0].latest.unwrap().last_commit, Some(at(50)));
    assert!(windows.iter().all(|window| window.gap.is_some()));
    // A newer backup makes the gap harmless.
    world.backups.push(backup(1, 8));
    assert_eq!(ask(&world, Target::Latest).unwrap().backup.commit.number, 3);
}

#[test]
fn positions_stop_where_a_record_begins() {
    let mut world = straight(1..=9);
    world.backups = vec![backup(1, 2)];
    let end = Lsn(0xA0_0000);
    let plan = ask(&world, Target::Lsn(Lsn(0x53_0000))).unwrap();
    assert_eq!(plan.wal.unwrap().last.number(SEGMENT), 5);
    assert_eq!(ask(&world, Target::Lsn(end)).unwrap().target, Target::Latest, "nothing begins there yet");
    assert!(matches!(ask(&world, Target::Lsn(Lsn(end.0 + 8))), Err(TargetError::TooLate { .. })));
    assert!(matches!(ask(&world, Target::Lsn(Lsn(0x10_0000))), Err(TargetError::TooEarly { .. })));
}

#[test]
fn transactions_and_names_are_found_behind_the_newest_backup_that_can_stop_there() {
    let mut world = straight(1..=9);
    world.backups = vec![backup(1, 2), backup(1, 5)];
    world.names = vec![("before".to_owned(), 4), ("twice".to_owned(), 3), ("twice".to_owned(), 7)];
    for (target, number, last) in [
        (Target::Xid(7), 2, 7),
        (Target::Xid(5), 2, 5),
        (Target::Xid(3), 1, 3),
        (Target::Xid((9 << 32) + 3), 1, 3),
        (Target::Name("before".to_owned()), 1, 4),
        (Target::Name("twice".to_owned()), 2, 7),
    ] {
        let plan = ask(&world, target.clone()).unwrap();
        let found = (plan.backup.commit.number, plan.wal.unwrap().last.number(SEGMENT));
        assert_eq!(found, (number, last), "{target}");
        assert_eq!(plan.target, target);
    }
    for target in [Target::Xid(77), Target::Name("never".to_owned())] {
        assert!(matches!(ask(&world, target), Err(TargetError::NotFound { .. })));
    }
    // Ended before every backup began.
    assert!(matches!(ask(&world, Target::Xid(1)), Err(TargetError::NotFound { .. })));
}

#[test]
fn a_record_on_the_boundary_of_two_files_is_seen() {
    let mut world = straight(1..=9);
    world.backups = vec![backup(1, 2)];
    world.quiet = vec![(1, 8), (1, 9)];
    world.across = vec![(1, 8)];
    // Transaction 1008 ends across the end of segment 8, 9 seconds after segment 8 begins: no facts count it.
    let plan = ask(&world, Target::Xid(1008)).unwrap();
    assert_eq!(plan.wal.unwrap().last.number(SEGMENT), 9);
    let plan = ask(&world, Target::Time(at(75))).unwrap();
    assert_eq!(plan.target, Target::Time(at(75)), "replaying everything would go past it");
    assert_eq!(plan.wal.unwrap().last.number(SEGMENT), 9);
    assert_eq!(ask(&world, Target::Time(at(80))).unwrap().target, Target::Latest);
}

#[test]
fn tablespaces_on_the_way_are_told() {
    let mut world = straight(1..=9);
    world.backups = vec![backup(1, 2)];
    world.tablespaces = vec![(1, false), (2, false), (4, true), (6, false), (9, true)];
    let made = |target| {
        let paths = ask(&world, target).unwrap().tablespaces;
        paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(made(Target::Latest), ["/2", "/4", "/6"], "one that is cut off is not made");
    assert_eq!(made(Target::Xid(5)), ["/2", "/4"]);
    assert_eq!(made(Target::Xid(4)), ["/2"], "the next one begins behind it");
    assert_eq!(made(Target::Time(at(62))), ["/2", "/4", "/6"]);
    assert_eq!(made(Target::Time(at(59))), ["/2", "/4"], "replay stops before the transaction that made it");
    assert_eq!(made(Target::Immediate), [""; 0], "it is consistent before the first one");
}

#[test]
fn a_time_stops_behind_the_last_transaction_before_it() {
    let mut world = straight(1..=9);
    world.backups = vec![backup(1, 2)];
    let stop = |world: &World, target, exclusive| {
        let request = Request { target, exclusive, timeline: TimelineChoice::Owner, backup: None };
        world.ask(&request).unwrap().stop_lsn
    };
    let end_of = |number: u64| Some(Lsn((number << 20) + 0x8_0000));
    assert_eq!(stop(&world, Target::Time(at(62)), false), end_of(6));
    assert_eq!(stop(&world, Target::Time(at(60)), false), end_of(6));
    assert_eq!(stop(&world, Target::Time(at(60)), true), end_of(5));
    assert_eq!(stop(&world, Target::Xid(6), true), end_of(5));
    assert_eq!(stop(&world, Target::Xid(6), false), None, "the target says it");
    let last = Some(Lsn(0x9F_FF00));
    assert_eq!(stop(&world, Target::Time(at(95)), false), last, "everything that is archived now");
    // What ended before the backup's end is no place to stop.
    let plan = ask(&world, Target::Time(at(16))).unwrap();
    assert_eq!((plan.stop_lsn, &plan.target), (None, &Target::Time(at(16))));
    assert!(plan.notes.iter().any(|note| note.contains("takeover releases them")), "{:?}", plan.notes);
    // Nothing ends for a while; then something is prepared, and across the end of a file something ends.
    world.quiet = vec![(1, 4), (1, 5), (1, 6)];
    assert_eq!(stop(&world, Target::Time(at(62)), false), end_of(3));
    world.prepared = vec![(1, 5)];
    assert_eq!(stop(&world, Target::Time(at(42)), false), end_of(3), "prepared later");
    assert_eq!(stop(&world, Target::Time(at(43)), false), Some(Lsn(0x57_0000)));
    world.across = vec![(1, 6)];
    let crossing = stop(&world, Target::Time(at(62)), false);
    assert_eq!(crossing, Some(Lsn(0x6F_FFF0)));
    let plan = ask(&world, Target::Time(at(62))).unwrap();
    assert_eq!((plan.reaches.lsn, plan.reaches.last_commit), (Lsn(0x70_0050), Some(at(59))));
}

#[test]
fn what_would_take_too_long_to_find_is_not_looked_for() {
    let mut world = straight(1..=700);
    world.backups = vec![backup(1, 2)];
    world.quiet = (4..=699).map(|n| (1, n)).collect();
    let plan = ask(&world, Target::Time(at(6000))).unwrap();
    assert_eq!((plan.stop_lsn, plan.notes.len()), (None, 1));
    world.quiet.retain(|(_, number)| *number != 404);
    assert!(ask(&world, Target::Time(at(6000))).unwrap().stop_lsn.is_some());
}

#[test]
fn a_failover_is_followed_and_a_forked_off_clone_is_not() {
    let fork = |timeline, parent, at| Fork { timeline, parent, at: Lsn(at) };
    let mut world = World {
        segments: vec![(1, (1..=7).collect()), (2, (5..=9).collect())],
        forks: vec![fork(2, 1, 0x58_0000)],
        backups: vec![backup(1, 2), backup(1, 6), backup(2, 6)],
        ..World::default()
    };
    let plan = ask(&world, Target::Latest).unwrap();
    assert_eq!((plan.timeline, plan.backup.commit.number), (tli(2), 3));
    let plan = ask(&world, Target::Time(at(40))).unwrap();
    assert_eq!((plan.timeline, plan.backup.commit.number), (tli(2), 1), "backup 2 lies behind the fork");
    let number = |timeline, backup: Option<usize>| Request {
        target: Target::Latest,
        exclusive: false,
        timeline: TimelineChoice::Number(tli(timeline)),
        backup: backup.map(|n| world.commits()[n - 1].commit.backup),
    };
    let stray = world.ask(&number(2, Some(2))).unwrap_err();
    assert!(matches!(&stray, TargetError::NotOnTimeline { windows, .. } if windows.len() == 3), "{stray}");
    assert!(matches!(world.ask(&number(1, Some(3))), Err(TargetError::NotOnTimeline { .. })));
    assert!(matches!(world.ask(&number(7, None)), Err(TargetError::UnknownTimeline { .. })));
    let plan = world.ask(&number(1, None)).unwrap();
    assert_eq!((plan.timeline, plan.backup.commit.number), (tli(1), 2));
    assert_eq!(plan.wal.unwrap().last.number(SEGMENT), 7);
    // Timeline 3 was forked from 1 by somebody who was never the owner.
    world.segments.push((3, vec![4, 5]));
    world.forks.push(fork(3, 1, 0x48_0000));
    world.owner = Some(2);
    assert_eq!(ask(&world, Target::Latest).unwrap().timeline, tli(2));
    world.owner = Some(1);
    assert_eq!(
        ask(&world, Target::Latest).unwrap().timeline,
        tli(3),
        "the newest that descends from the owner's"
    );
}

#[test]
fn a_backup_with_its_own_wal_needs_no_archive() {
    let mut world = World { backups: vec![Backup { own_wal: true, ..backup(1, 3) }], ..World::default() };
    let plan = ask(&world, Target::Immediate).unwrap();
    assert!(plan.wal.is_none() && plan.target == Target::Immediate);
    let plan = ask(&world, Target::Latest).unwrap();
    assert!(plan.wal.is_none() && plan.target == Target::Immediate && !plan.notes.is_empty());
    assert!(matches!(ask(&world, Target::Time(at(99))), Err(TargetError::TooLate { .. })));
    world.segments = vec![(1, (3..=6).collect())];
    assert!(ask(&world, Target::Immediate).unwrap().wal.is_none());
    assert_eq!(ask(&world, Target::Latest).unwrap().wal.unwrap().segments, 4);
    world.backups[0].own_wal = false;
    world.segments = vec![(1, (4..=6).collect())];
    let refused = ask(&world, Target::Immediate).unwrap_err();
    assert!(matches!(&refused, TargetError::Inconsistent { missing, .. } if missing.segments.len() == 1));
}

#[test]
fn what_is_not_there_is_named() {
    let world = straight(1..=3);
    assert!(matches!(ask(&world, Target::Latest), Err(TargetError::NoBackup { .. })));
    let mut world = straight(1..=3);
    world.backups = vec![backup(1, 2)];
    let request = Request {
        target: Target::Latest,
        exclusive: false,
        timeline: TimelineChoice::Owner,
        backup: Some("zzzzzzzz".parse().unwrap()),
    };
    assert!(matches!(world.ask(&request), Err(TargetError::UnknownBackup { .. })));
}

fn any_world() -> impl Strategy<Value = World> {
    let bits = || proptest::collection::vec(0_u8..12, 24);
    let backups = proptest::collection::vec((1_u32..=3, 1_u64..14, proptest::bool::weighted(0.2)), 1..6);
    // At the beginning of a segment, within a backup, behind it.
    let place = || prop_oneof![Just(0_u64), Just(0x8000), Just(0x8_0000)];
    let forks = (2_u64..14, place(), 2_u64..14, place(), 1_u32..=2);
    (bits(), bits(), bits(), forks, backups, 0_u32..=3).prop_map(
        |(one, two, three, (fork_two, at_two, fork_three, at_three, parent_three), backups, owner)| {
            let present =
                |bits: &[u8], from: u64| (from..18).filter(|n| bits[*n as usize] != 0).collect::<Vec<u64>>();
            let disputed = [&one, &two, &three].into_iter().zip(1..).flat_map(|(bits, timeline)| {
                let of = bits.iter().zip(0_u64..).filter(|(bit, _)| **bit == 1);
                of.map(move |(_, n)| (timeline, n)).take(1).collect::<Vec<_>>()
            });
            let quiet = [&one, &two, &three].into_iter().zip(1..).flat_map(|(bits, timeline)| {
                let of = bits.iter().zip(0_u64..).filter(|(bit, _)| (2..5).contains(*bit));
                of.map(move |(_, n)| (timeline, n)).collect::<Vec<_>>()
            });
            let across = [&one, &two, &three].into_iter().zip(1..).flat_map(|(bits, timeline)| {
                let of = bits.iter().zip(0_u64..).filter(|(bit, _)| **bit == 3);
                of.map(move |(_, n)| (timeline, n)).collect::<Vec<_>>()
            });
            let prepared = [&one, &two, &three].into_iter().zip(1..).flat_map(|(bits, timeline)| {
                let of = bits.iter().zip(0_u64..).filter(|(bit, _)| matches!(bit, 4 | 5));
                of.map(move |(_, n)| (timeline, n)).collect::<Vec<_>>()
            });
            World {
                disputed: disputed.collect(),
                quiet: quiet.collect(),
                tablespaces: Vec::new(),
                across: across.collect(),
                segments: vec![
                    (1, present(&one, 1)),
                    (2, present(&two, fork_two)),
                    (3, present(&three, fork_three)),
                ],
                forks: vec![
                    Fork { timeline: 2, parent: 1, at: Lsn((fork_two << 20) + at_two) },
                    Fork { timeline: 3, parent: parent_three, at: Lsn((fork_three << 20) + at_three) },
                ],
                backups: backups
                    .into_iter()
                    .map(|(timeline, segment, own_wal)| Backup { timeline, segment, own_wal })
                    .collect(),
                names: Vec::new(),
                owner: (owner > 0).then_some(owner),
                prepared: prepared.collect(),
            }
        },
    )
}

fn any_target() -> impl Strategy<Value = Target> {
    prop_oneof![
        Just(Target::Latest),
        Just(Target::Immediate),
        (0_i64..200).prop_map(|seconds| Target::Time(at(seconds))),
        (0_u64..0x120).prop_map(|n| Target::Lsn(Lsn(n << 16))),
        (0_u64..20).prop_map(Target::Xid),
        (1000_u64..1020).prop_map(Target::Xid),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Every plan is walked WAL segment by WAL segment; every refusal is held against every backup.
    #[test]
    fn plans_have_no_gap_and_refusals_have_a_reason(
        world in any_world(), target in any_target(), exclusive: bool, choice in 0_u32..=4,
    ) {
        let timeline = match choice {
            0 => TimelineChoice::Owner,
            4 => TimelineChoice::Latest,
            number => TimelineChoice::Number(tli(number)),
        };
        let request = Request { target, exclusive, timeline, backup: None };
        match world.ask(&request) {
            Ok(plan) => world.check_plan(&request, &plan)?,
            Err(error) => {
                if let TimelineChoice::Number(timeline) = timeline {
                    for backup in 0..world.backups.len() {
                        let can = world.can_reach(backup, timeline, &request);
                        prop_assert!(!can, "backup {} can, but: {error}", backup + 1);
                    }
                }
            }
        }
        let (archive, commits) = (world.archive(), world.commits());
        for window in windows(&world.situation(&archive, &commits)).unwrap() {
            if let Some(latest) = window.latest {
                let index = commits.iter().position(|record| record.commit.backup == window.backup).unwrap();
                let last = world.naive_end(index, window.timeline).unwrap();
                prop_assert!(latest.lsn <= Lsn((last + 1) << 20) && latest.lsn > Lsn(last << 20));
            }
        }
    }
}

#[test]
fn times_print_in_windows() {
    let mut world = straight(1..=4);
    world.backups = vec![backup(1, 2)];
    let windows = windows(&world.situation(&world.archive(), &world.commits())).unwrap();
    assert_eq!(
        windows[0].to_string().split_once(": ").unwrap().1,
        "from 2024-01-01 00:00:15Z (LSN 0/210000) to 2024-01-01 00:00:45Z (LSN 0/500000), timeline 1"
    );
    let _: Timestamp = windows[0].earliest;
}
