//! Inventories of archives that are large, out of order, or have gaps.

use std::sync::Arc;

use refloat_repo::repository::{InitOptions, Protection};
use refloat_repo::{Repository, StateDirectory};
use refloat_store::Store;
use refloat_testkit::fault_plan::{Effect, FaultPlan, Faulty, On, Rule};
use refloat_testkit::memory_store::Memory;
use refloat_types::{Clock as _, SystemClock};

use super::*;

const SYSTEM: SystemIdentifier = SystemIdentifier(7_000_000_000_000_000_001);

fn repository(store: Arc<dyn Store>) -> (Repository, tempfile::TempDir) {
    let state = tempfile::tempdir().unwrap();
    let options = InitOptions { protection: Protection::None, now: SystemClock.now() };
    (Repository::init(store, StateDirectory::new(state.path()), options).unwrap(), state)
}

/// Objects with the right names; what is in them is not looked at.
fn put(store: &dyn Store, name: WalFileName, digest: u8) {
    store.put_new(&layout::wal(SYSTEM, name, &[digest; 16]), b"x").unwrap();
}

fn segment(timeline: u32, number: u64) -> WalSegmentName {
    WalSegmentName::numbered(TimelineId::new(timeline).unwrap(), number, WalSegmentSize::DEFAULT)
}

#[test]
fn a_large_archive_is_a_few_runs() {
    let memory = Memory::new();
    // Backwards, across the boundaries of directories, with a gap at one of them.
    for number in (200..20_000_u64).rev().filter(|n| !(5119..=5121).contains(n) && *n != 9000) {
        put(&memory, WalFileName::Segment(segment(1, number)), 1);
    }
    put(&memory, WalFileName::Segment(segment(1, 700)), 2);
    put(&memory, WalFileName::Segment(segment(1, 700)), 3);
    put(&memory, WalFileName::Partial(segment(1, 20_000)), 1);
    put(&memory, WalFileName::BackupHistory(segment(1, 300), 40), 1);
    put(&memory, WalFileName::Segment(segment(3, 20_000)), 1);
    let (repository, _state) = repository_over(&memory);
    let archive = Archive::read(&repository, SYSTEM, Some(WalSegmentSize::DEFAULT)).unwrap();
    let one = &archive.timelines[&TimelineId::FIRST];
    assert_eq!(one.segments.iter().collect::<Vec<_>>(), [(200, 5118), (5122, 8999), (9001, 19_999)]);
    let gaps: Vec<String> = archive.gaps().iter().map(ToString::to_string).collect();
    assert_eq!(
        gaps,
        ["0000000100000013000000FF to 000000010000001400000001 (3 files)", "000000010000002300000028"]
    );
    assert_eq!(one.disputed.iter().collect::<Vec<_>>(), [(700, 700)]);
    assert_eq!(one.conflicts.iter().collect::<Vec<_>>(), ["0000000100000002000000BC"]);
    assert_eq!(one.partials.len(), 1);
    assert!(matches!(archive.timelines[&TimelineId::new(3).unwrap()].history, History::Unknown));
    assert!(
        archive.history(TimelineId::FIRST).is_some()
            && archive.history(TimelineId::new(3).unwrap()).is_none()
    );

    let at = |number: u64, offset: u64| Lsn(number * (16 << 20) + offset);
    assert_eq!(archive.contains(at(201, 40), at(600, 0), TimelineId::FIRST), Ok(()));
    // The last byte needed is the one before the end.
    assert_eq!(archive.contains(at(5000, 0), at(5119, 0), TimelineId::FIRST), Ok(()));
    let missing = archive.contains(at(5000, 0), at(5119, 1), TimelineId::FIRST).unwrap_err();
    assert_eq!(missing.to_string(), "missing: 0000000100000013000000FF");
    let missing = archive.contains(at(150, 0), at(800, 5), TimelineId::FIRST).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "missing: 000000010000000000000096 to 0000000100000000000000C7 (50 files); stored with different bytes: 0000000100000002000000BC"
    );
    assert!(archive.contains(at(1, 0), at(1, 0), TimelineId::new(2).unwrap()).is_err());
    // The short way to the same answer, for a backup.
    for (start, stop) in [
        (at(201, 40), at(600, 0)),
        (at(5000, 0), at(5119, 1)),
        (at(150, 0), at(800, 5)),
        (at(5118, 9), at(9001, 9)),
    ] {
        let short = missing_of(&repository, start, stop);
        assert_eq!(short, archive.contains(start, stop, TimelineId::FIRST).err());
    }
}

fn repository_over(memory: &Memory) -> (Repository, tempfile::TempDir) {
    // `init` wants an empty store: the repository is made elsewhere and its objects are put beside the WAL.
    let fresh = Memory::new();
    let (made, state) = repository(Arc::new(fresh.clone()));
    fresh
        .list("", &mut |info| {
            let body = refloat_store::read_whole(&fresh, &info.key, 1 << 20).unwrap();
            memory.put_new(&info.key, &body).unwrap();
            ControlFlow::Continue(())
        })
        .unwrap();
    drop(made);
    let mut unencrypted = || Ok(refloat_repo::repository::Credentials::Unencrypted);
    let store = Arc::new(memory.clone());
    let opened =
        Repository::open(store, StateDirectory::new(state.path()), None, SystemClock.now(), &mut unencrypted);
    (opened.unwrap(), state)
}

fn missing_of(repository: &Repository, start: Lsn, stop: Lsn) -> Option<Missing> {
    missing(repository, SYSTEM, TimelineId::FIRST, start, stop, WalSegmentSize::DEFAULT).unwrap()
}

#[test]
fn a_list_that_fails_is_no_answer() {
    let plan = FaultPlan::new();
    let (repository, _state) = repository(Arc::new(Faulty::new(Memory::new(), &plan)));
    assert!(Archive::read(&repository, SYSTEM, None).unwrap().timelines.is_empty());
    plan.add(Rule::new(On::List, Effect::LoseAnswer));
    assert!(Archive::read(&repository, SYSTEM, None).is_err());
    assert!(
        missing(&repository, SYSTEM, TimelineId::FIRST, Lsn(0), Lsn(9), WalSegmentSize::DEFAULT).is_err()
    );
}
