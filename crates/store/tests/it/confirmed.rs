//! A store that says "done" and is not: nothing is acknowledged.

use refloat_store::{Assurance, Confirmed, Key, Store, StoreErrorKind, put_confirmed, read_whole};
use refloat_testkit::fault_plan::{Effect, FaultPlan, Faulty, On, Rule};
use refloat_testkit::memory_store::Memory;
use refloat_types::Explain as _;

const BODY: &[u8] = b"a segment of the write-ahead log";

fn key() -> Key {
    "wal/7/1/a".parse().unwrap()
}

fn lying(effect: Effect) -> (Faulty<Memory>, FaultPlan) {
    let plan = FaultPlan::new();
    let store = Faulty::new(Memory::new(), &plan);
    plan.add(Rule::new(On::Put, effect).first(1));
    (store, plan)
}

#[test]
fn an_honest_store_is_believed_cheaply() {
    let plan = FaultPlan::new();
    let store = Faulty::new(Memory::new(), &plan);
    plan.add(Rule::new(On::Read, Effect::Refuse(StoreErrorKind::Other)));
    assert_eq!(Assurance::for_store(&store), Assurance::Size);
    assert_eq!(put_confirmed(&store, &key(), BODY, Assurance::Size).unwrap(), Confirmed::Created);
    assert_eq!(plan.calls(), 2, "one put, one head");
    assert_eq!(Assurance::for_store(&Memory::new().not_durable()), Assurance::Content);
}

#[test]
fn what_is_absent_or_short_is_not_acknowledged_and_can_be_put_again() {
    for (effect, why) in [
        (Effect::Lie, "the store said it was stored, and has no such object"),
        (Effect::Truncate(0), "32 bytes were put, the store holds 0"),
        (Effect::Truncate(31), "32 bytes were put, the store holds 31"),
    ] {
        for assurance in [Assurance::Size, Assurance::Content] {
            let (store, _) = lying(effect);
            let error = put_confirmed(&store, &key(), BODY, assurance).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Unconfirmed);
            assert_eq!(error.to_string(), "could not confirm \"wal/7/1/a\" in memory:");
            assert_eq!(error.source.to_string(), why);
            assert_eq!(error.advice().code, "STO-010");
            assert_eq!(put_confirmed(&store, &key(), BODY, assurance).unwrap(), Confirmed::Created);
            assert_eq!(read_whole(&store, &key(), 100).unwrap(), BODY);
        }
    }
}

#[test]
fn a_part_left_by_somebody_who_did_not_look_is_replaced_at_the_second_attempt() {
    let (store, _) = lying(Effect::Truncate(7));
    store.put_new(&key(), BODY).unwrap();
    let error = put_confirmed(&store, &key(), BODY, Assurance::Size).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
    assert_eq!(put_confirmed(&store, &key(), BODY, Assurance::Size).unwrap(), Confirmed::Created);
}

#[test]
fn wrong_bytes_are_found_by_reading_back_and_stay_for_inspection() {
    let (store, _) = lying(Effect::Flip(3));
    let error = put_confirmed(&store, &key(), BODY, Assurance::Content).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unconfirmed);
    assert_eq!(error.source.to_string(), "the store holds other bytes than were put");
    assert!(store.head(&key()).unwrap().is_some());
}

#[test]
fn what_exists_is_compared_and_never_touched() {
    let store = Memory::new();
    store.put_new(&key(), BODY).unwrap();
    assert_eq!(put_confirmed(&store, &key(), BODY, Assurance::Size).unwrap(), Confirmed::Existed);
    // Another object, a longer one that begins with the same bytes, one of the same length.
    let longer = [BODY, b"."].concat();
    for (existing, offered) in
        [(b"x".as_slice(), BODY), (longer.as_slice(), BODY), (b"A segment of the write-ahead log", BODY)]
    {
        let store = Memory::new();
        store.put_new(&key(), existing).unwrap();
        let error = put_confirmed(&store, &key(), offered, Assurance::Content).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
        assert_eq!(read_whole(&store, &key(), 100).unwrap(), existing);
    }
}

#[test]
fn a_store_that_cannot_answer_confirms_nothing() {
    let plan = FaultPlan::new();
    let store = Faulty::new(Memory::new(), &plan);
    plan.add(Rule::new(On::Head, Effect::LoseAnswer).first(1));
    let error = put_confirmed(&store, &key(), BODY, Assurance::Size).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unreachable);
    assert_eq!(put_confirmed(&store, &key(), BODY, Assurance::Size).unwrap(), Confirmed::Existed);
    plan.add(Rule::new(On::Settle, Effect::Refuse(StoreErrorKind::Unreachable)));
    assert!(put_confirmed(&store, &key(), BODY, Assurance::Size).is_err(), "seen, but perhaps not durable");
}
