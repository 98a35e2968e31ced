//! Each effect does what it says, and nothing else.

use std::ops::ControlFlow;

use refloat_store::{Key, Store, StoreErrorKind, read_whole};

use super::*;
use crate::memory_store::Memory;

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

fn store_with(rule: Rule) -> Faulty<Memory> {
    let plan = FaultPlan::new();
    let store = Faulty::new(Memory::new(), &plan);
    plan.add(rule);
    store
}

fn names(store: &dyn Store) -> Vec<String> {
    let mut names = Vec::new();
    let collect = &mut |object: refloat_store::ObjectInfo| {
        names.push(object.key.to_string());
        ControlFlow::Continue(())
    };
    store.list("", collect).unwrap();
    names
}

#[test]
fn puts_go_wrong_as_planned() {
    let refused = store_with(Rule::new(On::Put, Effect::Refuse(StoreErrorKind::NoSpace)).nth(2));
    assert!(refused.put_new(&key("a"), b"1").is_ok());
    assert_eq!(refused.put_new(&key("b"), b"1").unwrap_err().kind, StoreErrorKind::NoSpace);
    assert!(refused.put_new(&key("c"), b"1").is_ok());
    assert_eq!(names(refused.inner()), ["a", "c"]);

    let short = store_with(Rule::new(On::Put, Effect::Truncate(2)));
    assert!(short.put_new(&key("a"), b"12345").is_ok());
    assert_eq!(read_whole(&short, &key("a"), 9).unwrap(), b"12");

    let lost = store_with(Rule::new(On::Put, Effect::LoseAnswer).first(1));
    assert_eq!(lost.put_new(&key("a"), b"1").unwrap_err().kind, StoreErrorKind::Unreachable);
    assert_eq!(lost.put_new(&key("a"), b"1").unwrap_err().kind, StoreErrorKind::AlreadyExists);

    let flipped = store_with(Rule::new(On::Put, Effect::Flip(5)).key("x"));
    flipped.put_new(&key("x"), b"abc").unwrap();
    flipped.put_new(&key("y"), b"abc").unwrap();
    assert_eq!(read_whole(&flipped, &key("x"), 9).unwrap(), b"abb");
    assert_eq!(read_whole(&flipped, &key("y"), 9).unwrap(), b"abc");
}

#[test]
fn lists_and_reads_go_wrong_as_planned() {
    let fill = |rule| {
        let store = store_with(rule);
        for name in ["c", "a", "b"] {
            store.put_new(&key(name), name.as_bytes()).unwrap();
        }
        store
    };
    assert_eq!(names(&fill(Rule::new(On::List, Effect::Reverse))), ["c", "b", "a"]);
    assert_eq!(names(&fill(Rule::new(On::List, Effect::Lag))), ["a", "c"]);
    assert!(names(&fill(Rule::new(On::List, Effect::Lie))).is_empty());
    let mut read = Vec::new();
    fill(Rule::new(On::Read, Effect::Flip(0))).read(&key("a"), 0..1, &mut read).unwrap();
    assert_eq!(read, b"`");
    let cut = fill(Rule::new(On::Read, Effect::Truncate(0)));
    assert_eq!(cut.read(&key("a"), 0..1, &mut read).unwrap_err().kind, StoreErrorKind::Truncated);
}

#[test]
fn a_full_store_has_space_again_after_deleting() {
    let plan = FaultPlan::new();
    let store = Faulty::new(Memory::new(), &plan);
    plan.limit_space(10);
    store.put_new(&key("a"), &[1; 6]).unwrap();
    assert_eq!(store.put_new(&key("b"), &[1; 6]).unwrap_err().kind, StoreErrorKind::NoSpace);
    store.delete(&key("a")).unwrap();
    store.put_new(&key("b"), &[1; 6]).unwrap();
    assert_eq!(plan.calls(), 4);
}
