//! Clauses about reading and listing.

use std::ops::ControlFlow;

use refloat_store::{Store, StoreErrorKind, read_whole};

use super::{Clause, assert_absent, bytes, head, key, listed, put};

pub(super) const CLAUSES: &[Clause] = &[
    ("a range is exactly these bytes, appended", ranges_are_exact),
    ("an object that ends early is never a short read", no_short_reads),
    ("what is streamed is what is read, until it is enough", streams),
    ("a small object is read as a whole, up to its limit", small_objects),
    ("what is absent is known to be absent", absent_is_known),
    ("a prefix may end anywhere", prefixes),
    ("a list is complete and can be stopped", lists_are_complete),
];

fn ranges_are_exact(store: &dyn Store) {
    let body = bytes(4, 3 << 20);
    put(store, "r/x", &body);
    let end = body.len() as u64;
    for range in
        [0..1, 0..0, 8191..8193, 5..1 << 20, (1 << 20)..(2 << 20) + 1, end - 1..end, end..end, 0..end]
    {
        let mut got = b"before".to_vec();
        store.read(&key("r/x"), range.clone(), &mut got).unwrap_or_else(|e| panic!("{range:?}: {e}"));
        assert_eq!(&got[..6], b"before");
        assert!(got[6..] == body[range.start as usize..range.end as usize], "{range:?}: other bytes");
    }
    // A buffer with room for more than was asked for.
    let mut roomy = Vec::with_capacity(1 << 20);
    store.read(&key("r/x"), 100..200, &mut roomy).expect("it can be read");
    assert_eq!(roomy, &body[100..200]);
}

fn no_short_reads(store: &dyn Store) {
    put(store, "r/short", &bytes(5, 1000));
    put(store, "r/empty", b"");
    for (name, range) in [
        ("r/short", 0..1001),
        ("r/short", 999..1001),
        ("r/short", 1000..1001),
        ("r/short", 5000..5001),
        ("r/short", 0..1 << 40),
        ("r/short", u64::MAX - 1..u64::MAX),
        ("r/empty", 0..1),
    ] {
        let kind = store.read(&key(name), range.clone(), &mut Vec::new()).map_err(|e| e.kind);
        assert_eq!(kind, Err(StoreErrorKind::Truncated), "{name} {range:?}");
    }
}

fn streams(store: &dyn Store) {
    let body = bytes(7, 5 << 20);
    put(store, "r/stream", &body);
    let end = body.len() as u64;
    for range in [0..end, 0..1, 0..0, 100_000..1 << 20, end - 1..end, (1 << 20) + 1..end] {
        let mut got = Vec::new();
        let streamed = store.stream(&key("r/stream"), range.clone(), &mut |piece| {
            assert!(!piece.is_empty(), "{range:?}: an empty piece");
            got.extend_from_slice(&piece);
            ControlFlow::Continue(())
        });
        streamed.unwrap_or_else(|e| panic!("{range:?}: {e}"));
        assert!(got == body[range.start as usize..range.end as usize], "{range:?}: other bytes");
    }
    let mut pieces = 0;
    let stopped = store.stream(&key("r/stream"), 0..end, &mut |_| {
        pieces += 1;
        ControlFlow::Break(())
    });
    assert!(stopped.is_ok() && pieces == 1, "{stopped:?} after {pieces} pieces");
    let too_far =
        [("r/stream", 0..end + 1), ("r/stream", end..end + 1), ("r/stream", u64::MAX - 1..u64::MAX)];
    for (name, range) in too_far {
        let kind =
            store.stream(&key(name), range.clone(), &mut |_| ControlFlow::Continue(())).map_err(|e| e.kind);
        assert_eq!(kind, Err(StoreErrorKind::Truncated), "{name} {range:?}");
    }
    let kind = store.stream(&key("r/none"), 0..1, &mut |_| ControlFlow::Continue(())).map_err(|e| e.kind);
    assert_eq!(kind, Err(StoreErrorKind::NotFound));
}

fn small_objects(store: &dyn Store) {
    for (name, length) in [("s/none", 0), ("s/one", 1), ("s/more", 70_000)] {
        let body = bytes(6, length);
        put(store, name, &body);
        let length = length as u64;
        for limit in [length, 1 << 20] {
            let got = store.read_small(&key(name), limit).unwrap_or_else(|e| panic!("{name} {limit}: {e}"));
            assert!(got == body, "{name} {limit}: other bytes");
        }
        if let Some(less) = length.checked_sub(1) {
            let kind = read_whole(store, &key(name), less).map_err(|e| e.kind);
            assert_eq!(kind, Err(StoreErrorKind::Other), "{name} {less}");
        }
    }
    let kind = store.read_small(&key("s/absent"), 1 << 20).map_err(|e| e.kind);
    assert_eq!(kind, Err(StoreErrorKind::NotFound));
}

fn absent_is_known(store: &dyn Store) {
    for name in ["absent", "no/such/directory"] {
        assert_absent(store, name);
    }
    put(store, "d/object", b"x");
    for name in ["d", "d/object/below", "d/objec", "d/object2"] {
        assert_eq!(head(store, name), None, "{name}");
    }
    assert_absent(store, "d/absent");
}

fn prefixes(store: &dyn Store) {
    let all = ["a", "ab/1", "ab/12", "ab/2", "abc", "b/ab/1", "b/x/y/z", "b/x/z", "c-1", "c.1", "c1"];
    for name in all {
        put(store, name, name.as_bytes());
    }
    let with = |prefix: &str| all.iter().copied().filter(|k| k.starts_with(prefix)).collect::<Vec<_>>();
    for prefix in [
        "", "a", "ab", "ab/", "ab/1", "ab/12", "ab/123", "abc", "abc/", "b", "b/", "b/x", "b/x/", "b/x/y",
        "b/x/y/z", "c", "c-", "c.", "no/such/", "d", "/", "//", ".", "..", "../", "./", "a/../", "ab/.",
        "b//", "b/x/..", "\0",
    ] {
        assert_eq!(listed(store, prefix), with(prefix), "prefix {prefix:?}");
    }
}

fn lists_are_complete(store: &dyn Store) {
    let names: Vec<String> = (0..600).map(|i| format!("m/{:02x}/{i:05}", i % 7)).collect();
    for name in &names {
        put(store, name, name.as_bytes());
    }
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(listed(store, "m/"), sorted);
    let mut sizes_wrong = 0;
    store
        .list("", &mut |object| {
            sizes_wrong += u32::from(object.size != object.key.as_str().len() as u64);
            ControlFlow::Continue(())
        })
        .expect("it can be listed");
    assert_eq!(sizes_wrong, 0);
    for stop in [1, 2, 300, 599] {
        let mut seen = 0;
        let until = &mut |_| {
            seen += 1;
            if seen == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        store.list("m/", until).expect("stopping is no error");
        assert_eq!(seen, stop);
    }
    // `each` may use the store.
    let mut read = 0;
    store
        .list("m/00/", &mut |object| {
            store.read(&object.key, 0..object.size, &mut Vec::new()).expect("a listed object can be read");
            store.delete(&object.key).expect("a listed object can be deleted");
            read += 1;
            ControlFlow::Continue(())
        })
        .expect("deleting while listing is normal");
    assert_eq!(read, 86);
    assert!(listed(store, "m/00/").is_empty());
}
