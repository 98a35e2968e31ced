//! Clauses about several callers at once.

use std::ops::ControlFlow;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use refloat_store::{Store, StoreErrorKind, read_whole};

use super::{Clause, assert_holds, bytes, key, listed, put};

pub(super) const CLAUSES: &[Clause] = &[
    ("of many who create one object exactly one succeeds", one_creator),
    ("many can create beside each other in a new place", new_place_for_many),
    ("nobody ever sees a part of an object", never_a_part),
];

fn one_creator(store: &dyn Store) {
    const CALLERS: u64 = 6;
    for round in 0..15 {
        let name = format!("race/{round}/x");
        let start = Barrier::new(CALLERS as usize);
        let results: Vec<_> = std::thread::scope(|scope| {
            let call = |caller| {
                let (name, start) = (&name, &start);
                move || {
                    let body = bytes(caller, 100_000 + caller as usize);
                    start.wait();
                    store.put_new(&key(name), &body).map_err(|e| e.kind)
                }
            };
            let threads: Vec<_> = (0..CALLERS).map(|caller| scope.spawn(call(caller))).collect();
            threads.into_iter().map(|t| t.join().expect("no caller panics")).collect()
        });
        let winners: Vec<u64> = (0..CALLERS).filter(|&c| results[c as usize].is_ok()).collect();
        let got = read_whole(store, &key(&name), u64::MAX).expect("somebody succeeded");
        let whose = (0..CALLERS).find(|&c| got == bytes(c, 100_000 + c as usize));
        let whose = whose.expect("the object is what one of them put");
        if store.features().create_new {
            assert_eq!(winners, [whose], "round {round}");
            for error in results.iter().filter_map(|r| r.as_ref().err()) {
                assert_eq!(*error, StoreErrorKind::AlreadyExists);
            }
        } else {
            assert_eq!(winners.len() as u64, CALLERS);
        }
    }
}

fn new_place_for_many(store: &dyn Store) {
    for round in 0..10 {
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for caller in 0..8 {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    put(store, &format!("new/{round}/a/b/c/{caller}"), &bytes(caller, 5000));
                });
            }
        });
        for caller in 0..8 {
            assert_holds(store, &format!("new/{round}/a/b/c/{caller}"), &bytes(caller, 5000));
        }
    }
    assert_eq!(listed(store, "new/").len(), 80);
}

fn never_a_part(store: &dyn Store) {
    let body = bytes(9, 3 << 20);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..12 {
                if i % 2 == 0 {
                    put(store, &format!("part/{i}"), &body);
                } else {
                    let mut writer = store.create(&key(&format!("part/{i}"))).expect("it can be begun");
                    for piece in body.chunks(100_000) {
                        writer.write(piece).expect("a piece can be written");
                    }
                    writer.finish().expect("it can be finished");
                }
            }
            done.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let whole = &mut |object: refloat_store::ObjectInfo| {
                    assert_eq!(object.size, body.len() as u64, "{} is listed unfinished", object.key);
                    ControlFlow::Continue(())
                };
                store.list("part/", whole).expect("it can be listed");
                for i in 0..12 {
                    if let Some(info) = store.head(&key(&format!("part/{i}"))).expect("it can be asked for") {
                        assert_eq!(info.size, body.len() as u64, "part/{i} is visible unfinished");
                        let mut tail = Vec::new();
                        let end = body.len() as u64;
                        store.read(&info.key, end - 100..end, &mut tail).expect("it can be read");
                        assert_eq!(tail, &body[body.len() - 100..]);
                    }
                }
            }
        });
    });
    assert_eq!(listed(store, "part/").len(), 12);
}
