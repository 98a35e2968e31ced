//! The contract of [`refloat_store::Store`], clause by clause.
//!
//! [`run`] is called by the tests of every store and every wrapper. Each clause gets a new, empty store.

mod creating;
mod reading;
mod together;

use std::ops::ControlFlow;

use refloat_store::{Key, ObjectInfo, Store, StoreErrorKind, read_whole};

/// Makes a new, empty store.
pub type Make<'a> = &'a dyn Fn() -> Box<dyn Store>;

/// A clause: its name and its test.
type Clause = (&'static str, fn(&dyn Store));

const CLAUSES: &[&[Clause]] = &[creating::CLAUSES, reading::CLAUSES, together::CLAUSES];

/// Runs every clause on a store of its own.
///
/// # Panics
/// At the first clause that does not hold; its name is printed before.
pub fn run(make: Make<'_>) {
    run_without(&[], make);
}

/// Runs every clause but `without`, which a test server is known to break where the store that it stands for does not.
///
/// # Panics
/// As [`run`], and when there is no such clause.
pub fn run_without(without: &[&str], make: Make<'_>) {
    let all = || CLAUSES.iter().copied().flatten();
    for name in without {
        assert!(all().any(|(known, _)| known == name), "there is no clause {name:?}");
    }
    for (name, clause) in all().filter(|(name, _)| !without.contains(name)) {
        let store = make();
        let told = Told(name);
        clause(&*store);
        std::mem::forget(told);
    }
}

/// Names the clause when it panics.
struct Told(&'static str);

impl Drop for Told {
    #[expect(clippy::print_stderr, reason = "tests talk to whoever runs them")]
    fn drop(&mut self) {
        eprintln!("the store breaks its contract: {}", self.0);
    }
}

fn key(text: &str) -> Key {
    text.parse().expect("the suite uses good keys")
}

/// `length` bytes that no two seeds share.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        out.extend_from_slice(&next().to_le_bytes());
    }
    out.truncate(length);
    out
}

#[track_caller]
fn put(store: &dyn Store, name: &str, body: &[u8]) {
    store.put_new(&key(name), body).unwrap_or_else(|e| panic!("putting {name}: {e}: {}", e.source));
}

#[track_caller]
fn assert_holds(store: &dyn Store, name: &str, body: &[u8]) {
    let got = read_whole(store, &key(name), u64::MAX).unwrap_or_else(|e| panic!("reading {name}: {e}"));
    assert!(got == body, "{name} holds {} other bytes than the {} expected", got.len(), body.len());
}

#[track_caller]
fn assert_absent(store: &dyn Store, name: &str) {
    assert_eq!(head(store, name), None);
    let kind = store.read(&key(name), 0..1, &mut Vec::new()).map_err(|e| e.kind);
    assert_eq!(kind, Err(StoreErrorKind::NotFound), "{name}");
    assert!(!listed(store, "").contains(&name.to_owned()), "{name} is listed");
}

#[track_caller]
fn head(store: &dyn Store, name: &str) -> Option<ObjectInfo> {
    store.head(&key(name)).unwrap_or_else(|e| panic!("looking up {name}: {e}"))
}

/// The keys below `prefix`, sorted.
#[track_caller]
fn listed(store: &dyn Store, prefix: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let collect = &mut |object: ObjectInfo| {
        keys.push(object.key.to_string());
        ControlFlow::Continue(())
    };
    store.list(prefix, collect).unwrap_or_else(|e| panic!("listing {prefix:?}: {e}"));
    keys.sort();
    keys
}
