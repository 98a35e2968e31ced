//! Deadlines and retries around a store that misbehaves.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use refloat_store::{Backoff, Deadline, Key, Limits, Retry, Store, StoreError, StoreErrorKind, read_whole};
use refloat_testkit::fault_plan::{Effect, FaultPlan, Faulty, On, Rule};
use refloat_testkit::memory_store::Memory;

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

const QUICK: Backoff = Backoff {
    first: Duration::from_millis(1),
    longest: Duration::from_millis(4),
    attempts: 4,
    budget: Duration::from_secs(20),
};

fn retrying() -> (Retry<Faulty<Memory>>, Memory, FaultPlan) {
    let (plan, memory) = (FaultPlan::new(), Memory::new());
    (Retry::new(Faulty::new(memory.clone(), &plan), QUICK), memory, plan)
}

fn late(time: Duration) -> (Deadline<Faulty<Memory>>, Memory, FaultPlan) {
    let (plan, memory) = (FaultPlan::new(), Memory::new());
    let limits =
        Limits { call: Duration::from_millis(100), first: Duration::MAX, bytes_per_second: 0, calls: 12 };
    plan.add(Rule::new(On::Any, Effect::Delay(time)));
    (Deadline::new(Faulty::new(memory.clone(), &plan), limits), memory, plan)
}

#[test]
fn every_call_comes_back_in_time() {
    let (store, memory, _) = late(Duration::from_secs(5));
    memory.put_new(&key("there"), b"x").unwrap();
    let there = key("there");
    let start = Instant::now();
    let finish = || {
        let mut writer = store.create(&key("streamed"))?;
        writer.write(b"piece")?;
        writer.finish()
    };
    let answers: [(&str, Result<(), StoreError>); 8] = [
        ("put_new", store.put_new(&key("new"), b"body")),
        ("finish", finish()),
        ("read", store.read(&there, 0..1, &mut Vec::new())),
        ("head", store.head(&there).map(drop)),
        ("list", store.list("", &mut |_| ControlFlow::Continue(()))),
        ("delete", store.delete(&there)),
        ("settle", store.settle(&there)),
        ("space", store.space().map(drop)),
    ];
    for (call, answer) in answers {
        let error = answer.err().unwrap_or_else(|| panic!("{call} was answered"));
        assert_eq!(error.kind, StoreErrorKind::Unreachable, "{call}");
        assert_eq!(error.source.to_string(), "no answer within 0.1 s", "{call}");
    }
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

/// Whether a store answers at all is known sooner than how long it takes for much.
#[test]
fn only_the_first_answer_has_a_shorter_time() {
    let (plan, memory) = (FaultPlan::new(), Memory::new());
    memory.put_new(&key("there"), b"x").unwrap();
    let limits =
        Limits { call: Duration::from_secs(30), first: Duration::from_millis(50), ..Limits::default() };
    let store = Deadline::new(Faulty::new(memory, &plan), limits);
    plan.add(Rule::new(On::Any, Effect::Delay(Duration::from_millis(400))));
    let late = |answer: Result<(), StoreError>| answer.unwrap_err().source.to_string();
    let listed = || store.list("", &mut |_| ControlFlow::Continue(()));
    assert_eq!(late(store.head(&key("there")).map(drop)), "no answer within 0.1 s");
    assert_eq!(late(listed()), "no answer within 0.1 s");
    plan.clear();
    assert_eq!(store.head(&key("absent")).unwrap(), None, "an answer all the same");
    plan.add(Rule::new(On::Any, Effect::Delay(Duration::from_millis(400))));
    listed().unwrap();
    store.head(&key("there")).unwrap();
}

#[test]
fn a_store_that_never_answered_is_asked_again_for_less_long() {
    let (plan, memory) = (FaultPlan::new(), Memory::new());
    let store = Retry::new(Faulty::new(memory, &plan), QUICK).with_first(Duration::ZERO);
    plan.add(Rule::new(On::Any, Effect::Refuse(StoreErrorKind::Unreachable)));
    assert!(store.head(&key("x")).is_err());
    assert_eq!(plan.calls(), 1, "asked once");
    plan.clear();
    store.head(&key("x")).unwrap();
    plan.add(Rule::new(On::Any, Effect::Refuse(StoreErrorKind::Unreachable)));
    assert!(store.head(&key("x")).is_err());
    assert_eq!(plan.calls(), 2 + u64::from(QUICK.attempts));
}

#[test]
fn hanging_calls_do_not_pile_up_without_limit() {
    let (store, _, plan) = late(Duration::from_secs(2));
    let kinds: Vec<_> = (0..12).map(|_| store.head(&key("x")).unwrap_err()).collect();
    assert!(kinds.iter().all(|e| e.source.to_string().starts_with("no answer")));
    let refused = store.head(&key("x")).unwrap_err();
    assert_eq!(refused.source.to_string(), "12 calls hang already");
    assert_eq!(refused.kind, StoreErrorKind::Unreachable);
    // When they come back, there is room again.
    plan.clear();
    let start = Instant::now();
    while store.head(&key("x")).is_err() {
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_abandoned_put_may_still_happen_and_holds_its_own_bytes() {
    let (store, memory, _) = late(Duration::from_millis(400));
    let mut body = b"these bytes".to_vec();
    assert_eq!(store.put_new(&key("x"), &body).unwrap_err().kind, StoreErrorKind::Unreachable);
    body.fill(0);
    let start = Instant::now();
    while memory.head(&key("x")).unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(read_whole(&memory, &key("x"), 99).unwrap(), b"these bytes");
}

#[test]
fn a_put_whose_answer_was_lost_is_recognised() {
    let (store, memory, plan) = retrying();
    plan.add(Rule::new(On::Put, Effect::LoseAnswer).first(1));
    store.put_new(&key("x"), b"body").unwrap();
    assert_eq!(read_whole(&memory, &key("x"), 99).unwrap(), b"body");

    // Somebody else's object is not taken for ours: neither at first nor after a lost answer.
    let error = store.put_new(&key("x"), b"body").unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
    plan.add(Rule::new(On::Put, Effect::Refuse(StoreErrorKind::Unreachable)).first(1));
    let error = store.put_new(&key("x"), b"other").unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::AlreadyExists);
    assert_eq!(read_whole(&memory, &key("x"), 99).unwrap(), b"body");
}

#[test]
fn only_what_may_pass_is_asked_again_and_not_for_ever() {
    let (store, memory, plan) = retrying();
    memory.put_new(&key("x"), b"body").unwrap();
    plan.add(Rule::new(On::Read, Effect::LoseAnswer).first(2));
    let mut got = b"before ".to_vec();
    store.read(&key("x"), 0..4, &mut got).unwrap();
    assert_eq!((got.as_slice(), plan.calls()), (b"before body".as_slice(), 3));

    for (kind, calls) in
        [(StoreErrorKind::Denied, 1), (StoreErrorKind::NoSpace, 1), (StoreErrorKind::Unreachable, 4)]
    {
        let (store, _, plan) = retrying();
        plan.add(Rule::new(On::Any, Effect::Refuse(kind)));
        assert_eq!(store.head(&key("x")).unwrap_err().kind, kind);
        assert_eq!(plan.calls(), calls, "{kind:?}");
        assert_eq!(store.put_new(&key("x"), b"").unwrap_err().kind, kind);
        assert_eq!(plan.calls(), 2 * calls, "{kind:?}");
    }

    let plan = FaultPlan::new();
    plan.add(Rule::new(On::Any, Effect::Refuse(StoreErrorKind::Unreachable)));
    let patient = Backoff { attempts: u32::MAX, budget: Duration::from_millis(60), ..QUICK };
    let store = Retry::new(Faulty::new(Memory::new(), &plan), patient);
    let start = Instant::now();
    assert!(store.delete(&key("x")).is_err());
    assert!(start.elapsed() < Duration::from_secs(5) && plan.calls() > 3, "{} calls", plan.calls());
}

#[test]
fn a_list_is_never_delivered_twice() {
    let (store, memory, plan) = retrying();
    for name in ["a", "b", "c", "d"] {
        memory.put_new(&key(name), b"").unwrap();
    }
    let list = |store: &dyn Store| {
        let mut seen = Vec::new();
        let collect = &mut |object: refloat_store::ObjectInfo| {
            seen.push(object.key.to_string());
            ControlFlow::Continue(())
        };
        let kind = store.list("", collect).map_err(|e| e.kind);
        (kind, seen)
    };
    plan.add(Rule::new(On::List, Effect::Refuse(StoreErrorKind::Unreachable)).first(2));
    let (answer, seen) = list(&store);
    assert_eq!((answer, seen.len()), (Ok(()), 4));
    plan.clear();
    plan.add(Rule::new(On::List, Effect::LoseAnswer).first(1));
    let (answer, seen) = list(&store);
    assert_eq!((answer, seen), (Err(StoreErrorKind::Unreachable), vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn a_stream_that_breaks_goes_on_where_it_was() {
    let (store, memory, plan) = retrying();
    let body: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    memory.put_new(&key("long"), &body).unwrap();
    plan.add(Rule::new(On::Read, Effect::LoseAnswer).first(3));
    let mut got = Vec::new();
    let mut take = |piece: Vec<u8>| {
        got.extend_from_slice(&piece);
        ControlFlow::Continue(())
    };
    store.stream(&key("long"), 10..100_000, &mut take).unwrap();
    assert!(got == body[10..], "{} bytes", got.len());
    // Whoever has enough is not given more, whatever happens then.
    let (mut pieces, before) = (0, plan.calls());
    let stopped = store.stream(&key("long"), 0..100_000, &mut |_| {
        pieces += 1;
        ControlFlow::Break(())
    });
    assert!(stopped.is_ok());
    assert_eq!((pieces, plan.calls() - before), (1, 1));
    plan.add(Rule::new(On::Read, Effect::LoseAnswer));
    let error = store.stream(&key("long"), 0..100_000, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Unreachable);
}
