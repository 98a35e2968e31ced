//! Clauses about creating and deleting.

use refloat_store::{Store, StoreErrorKind};
use refloat_types::{Clock as _, SystemClock};

use super::{Clause, assert_absent, assert_holds, bytes, head, key, listed, put};

pub(super) const CLAUSES: &[Clause] = &[
    ("what was put is there, whole, under its name", put_is_there),
    ("an existing object is not touched", existing_is_untouched),
    ("a writer's pieces are one object", pieces_are_joined),
    ("nothing is visible before a writer finishes", unfinished_is_invisible),
    ("a dropped writer leaves nothing", dropped_leaves_nothing),
    ("of two writers of one key one wins", one_writer_wins),
    ("a deleted object is gone and its name is free", deleted_is_gone),
    ("settling tells what is there", settle_knows),
    ("objects have the age of their creation", age_is_plausible),
    ("a store can be named", has_a_name),
];

fn put_is_there(store: &dyn Store) {
    let all: Vec<u8> = (0..=255).collect();
    for (name, body) in [("all", all.as_slice()), ("empty", b""), ("deep/er/and-er/x.y_z", b"deep")] {
        put(store, name, body);
        assert_holds(store, name, body);
        let info = head(store, name).expect("it was put");
        assert_eq!((info.key.as_str(), info.size), (name, body.len() as u64));
    }
    let large = bytes(1, (20 << 20) + 17);
    put(store, "large", &large);
    assert_holds(store, "large", &large);
    assert_eq!(listed(store, ""), ["all", "deep/er/and-er/x.y_z", "empty", "large"]);
}

fn existing_is_untouched(store: &dyn Store) {
    put(store, "d/a", b"first");
    let before = head(store, "d/a");
    if !store.features().create_new {
        put(store, "d/a", b"second");
        return assert_holds(store, "d/a", b"second");
    }
    for body in [b"second".as_slice(), b"", b"first", b"a much longer body than before"] {
        let again = store.put_new(&key("d/a"), body).map_err(|e| e.kind);
        assert_eq!(again, Err(StoreErrorKind::AlreadyExists));
        assert_holds(store, "d/a", b"first");
    }
    let streamed = store.create(&key("d/a")).and_then(|mut writer| {
        writer.write(b"third")?;
        writer.finish()
    });
    assert_eq!(streamed.map_err(|e| e.kind), Err(StoreErrorKind::AlreadyExists));
    assert_holds(store, "d/a", b"first");
    assert_eq!(head(store, "d/a"), before);
    assert_eq!(listed(store, ""), ["d/a"]);
}

fn pieces_are_joined(store: &dyn Store) {
    let body = bytes(2, 18 << 20);
    let mut writer = store.create(&key("p/joined")).expect("a new object can be begun");
    let mut rest = body.as_slice();
    for length in [0, 1, 4095, 4097, 1 << 20, 9 << 20, usize::MAX] {
        let (piece, after) = rest.split_at(length.min(rest.len()));
        writer.write(piece).expect("a piece can be written");
        rest = after;
    }
    writer.finish().expect("it can be finished");
    assert_holds(store, "p/joined", &body);
    store.create(&key("p/none")).and_then(|w| w.finish()).expect("an object may be empty");
    assert_holds(store, "p/none", b"");
}

fn unfinished_is_invisible(store: &dyn Store) {
    let mut writer = store.create(&key("u/x")).expect("a new object can be begun");
    assert_absent(store, "u/x");
    writer.write(&bytes(3, 10 << 20)).expect("a piece can be written");
    assert_absent(store, "u/x");
    assert!(listed(store, "").is_empty());
    writer.finish().expect("it can be finished");
    assert_eq!(listed(store, ""), ["u/x"]);
}

fn dropped_leaves_nothing(store: &dyn Store) {
    let mut writer = store.create(&key("d/x")).expect("a new object can be begun");
    writer.write(b"half").expect("a piece can be written");
    drop(writer);
    assert_absent(store, "d/x");
    put(store, "d/x", b"whole");
    assert_holds(store, "d/x", b"whole");
}

fn one_writer_wins(store: &dyn Store) {
    let begin = |body: &[u8]| {
        let mut writer = store.create(&key("w/x")).expect("a new object can be begun");
        writer.write(body).expect("a piece can be written");
        writer
    };
    let (first, second) = (begin(b"first"), begin(b"second"));
    second.finish().expect("the first to finish wins");
    let late = first.finish().map_err(|e| e.kind);
    if store.features().create_new {
        assert_eq!(late, Err(StoreErrorKind::AlreadyExists));
        assert_holds(store, "w/x", b"second");
    } else {
        assert_eq!(late, Ok(()));
        assert_holds(store, "w/x", b"first");
    }
}

fn deleted_is_gone(store: &dyn Store) {
    let delete = |name: &str| store.delete(&key(name)).unwrap_or_else(|e| panic!("deleting {name}: {e}"));
    for name in ["a/b", "a/c", "a"] {
        // A store of files cannot hold "a" beside "a/b"; nobody asks for that.
        if name != "a" {
            put(store, name, name.as_bytes());
        }
    }
    delete("a/b");
    assert_absent(store, "a/b");
    assert_holds(store, "a/c", b"a/c");
    delete("a/b");
    delete("no/such/directory");
    delete("a/c/below-an-object");
    put(store, "a/b", b"new");
    assert_holds(store, "a/b", b"new");
    assert_eq!(listed(store, ""), ["a/b", "a/c"]);
}

fn settle_knows(store: &dyn Store) {
    put(store, "s/x", b"x");
    store.settle(&key("s/x")).expect("what is there can be settled");
    for name in ["s/y", "no/such"] {
        assert_eq!(store.settle(&key(name)).map_err(|e| e.kind), Err(StoreErrorKind::NotFound));
    }
    assert_eq!(listed(store, ""), ["s/x"]);
}

fn age_is_plausible(store: &dyn Store) {
    let now = SystemClock.now();
    put(store, "t/1", b"");
    put(store, "t/2", b"");
    let (first, second) = (head(store, "t/1").expect("put"), head(store, "t/2").expect("put"));
    assert!(first.created <= second.created, "{} then {}", first.created, second.created);
    let apart = now.duration_since(first.created).as_secs().abs();
    assert!(apart < 3600, "created {} at {now}", first.created);
    let mut listed_times = Vec::new();
    let collect = &mut |object: refloat_store::ObjectInfo| {
        listed_times.push((object.key.to_string(), object.created));
        std::ops::ControlFlow::Continue(())
    };
    store.list("t/1", collect).expect("it can be listed");
    assert_eq!(listed_times, [("t/1".to_owned(), first.created)]);
}

fn has_a_name(store: &dyn Store) {
    assert!(!store.describe().is_empty());
    let error = store.read(&key("absent"), 0..1, &mut Vec::new()).expect_err("it is absent");
    assert_eq!(error.to_string(), format!("could not read \"absent\" in {}", store.describe()));
    if let Some(space) = store.space().expect("a store that tells its space can tell it") {
        assert!(space.free <= space.total && space.total > 0, "{space:?}");
    }
}
