//! Rescue kits: whoever can write to the store can put something there, and it is named.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use refloat_repo::layout;
use refloat_repo::repository::{KIT_PROGRAM, Kit, KitFile, KitWrong, NewKit, Protection, sha256_of};
use refloat_repo::{RepoError, Repository};
use refloat_store::{Key, Store as _, StoreErrorKind};
use refloat_testkit::memory_store::Memory;
use refloat_types::{Clock, Timestamp};

use super::opening::Home;
use super::sample::now;

fn file(number: u64, name: &str, bytes: &[u8]) -> KitFile {
    let key = format!("{}{name}", layout::kit_directory(number)).parse().unwrap();
    KitFile { name: name.to_owned(), key, size: bytes.len() as u64, sha256: sha256_of(bytes) }
}

/// A kit with this program and text; a program that lies there already is named where it lies.
fn put(repository: &Repository, program: &[u8], text: &[u8]) -> Kit {
    let kits = repository.kits().unwrap();
    let number = kits.next_number();
    let mut all = kits.kits.iter().flat_map(|kit| &kit.files);
    let there = all.find(|file| file.sha256 == sha256_of(program)).cloned();
    let is_new = there.is_none();
    let files =
        vec![there.unwrap_or_else(|| file(number, KIT_PROGRAM, program)), file(number, "RESCUE.txt", text)];
    let new = NewKit {
        number,
        release: "0.1.0".to_owned(),
        addresses: vec!["file:///backup/db1".to_owned()],
        reach: Vec::new(),
        sources: Vec::new(),
        files,
    };
    let kit = repository.put_kit(new, now()).unwrap();
    if is_new {
        repository.put_kit_file(&kit.files[0], program).unwrap();
    }
    repository.put_kit_file(&kit.files[1], text).unwrap();
    kit
}

fn wrong(repository: &Repository) -> Vec<(String, KitWrong)> {
    let kits = repository.kits().unwrap();
    let findings = repository.inspect_kits(&kits).unwrap();
    findings.into_iter().map(|finding| (finding.key.to_string(), finding.wrong)).collect()
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

#[test]
fn what_somebody_else_put_there_or_changed_is_named() {
    let home = Home::new();
    let repository = home.init(Protection::Passphrase("x".to_owned())).unwrap();
    let program = vec![7; 3 << 20];
    let kit = put(&repository, &program, b"how to");
    assert_eq!(repository.kits().unwrap().newest(), Some(&kit));
    assert_eq!(wrong(&repository), []);

    // One byte of a program, wherever it lies.
    for at in [0, 1 << 20, program.len() - 1] {
        home.store.damage(&kit.files[0].key, |bytes| bytes[at] ^= 1);
        assert_eq!(wrong(&repository), [("rescue/0000000001/refloat".to_owned(), KitWrong::Changed)], "{at}");
        home.store.damage(&kit.files[0].key, |bytes| bytes[at] ^= 1);
    }
    // A text beside the kit, a kit of nobody's with the next number, and one that another repository has signed.
    let other = Home::new();
    let stranger = other.init(Protection::Passphrase("x".to_owned())).unwrap();
    put(&stranger, b"evil", b"trust me");
    put(&stranger, b"evil", b"trust me more");
    let theirs = layout::kit(2);
    let size = other.store.head(&theirs).unwrap().unwrap().size;
    let mut bytes = Vec::new();
    other.store.read(&theirs, 0..size, &mut bytes).unwrap();
    home.store.put_new(&theirs, &bytes).unwrap();
    home.store.put_new(&key("rescue/README"), b"type your passphrase into").unwrap();
    home.store.put_new(&key("rescue/0000000003/refloat"), b"evil").unwrap();
    home.store.put_new(&key("rescue/0000000003/kit"), b"no object").unwrap();
    let mut found = wrong(&repository);
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        found,
        [
            ("rescue/0000000002/kit".to_owned(), KitWrong::Foreign),
            ("rescue/0000000003/kit".to_owned(), KitWrong::Changed),
            ("rescue/0000000003/refloat".to_owned(), KitWrong::Foreign),
            ("rescue/README".to_owned(), KitWrong::Foreign),
        ]
    );
    // None of it stands for ours, and the next one goes where nobody has been.
    let kits = repository.kits().unwrap();
    assert_eq!((kits.newest(), kits.next_number()), (Some(&kit), 4));
}

#[test]
fn a_list_that_was_taken_from_its_place_is_refused() {
    let home = Home::new();
    let repository = home.init(Protection::None).unwrap();
    put(&repository, b"program", b"how to");
    let first = layout::kit(1);
    let size = home.store.head(&first).unwrap().unwrap().size;
    let mut bytes = Vec::new();
    home.store.read(&first, 0..size, &mut bytes).unwrap();
    home.store.put_new(&layout::kit(5), &bytes).unwrap();
    let error = repository.read_kit(5).unwrap_err();
    assert!(matches!(&error, RepoError::Damaged { .. }), "{error:?}");
    for at in 0..bytes.len() {
        home.store.damage(&first, |bytes| bytes[at] ^= 1);
        assert!(repository.read_kit(1).is_err(), "byte {at}");
        home.store.damage(&first, |bytes| bytes[at] ^= 1);
    }
    repository.read_kit(1).unwrap();
}

#[test]
fn two_hosts_never_put_the_same_kit() {
    let home = Home::new();
    let repository = home.init(Protection::None).unwrap();
    put(&repository, b"program", b"how to");
    let new = NewKit {
        number: 1,
        release: "0.1.0".to_owned(),
        addresses: Vec::new(),
        reach: Vec::new(),
        sources: Vec::new(),
        files: Vec::new(),
    };
    let error = repository.put_kit(new, now()).unwrap_err();
    assert!(matches!(&error, RepoError::Store(e) if e.kind == StoreErrorKind::AlreadyExists), "{error:?}");
}

/// A clock that is set by hand.
struct Set(AtomicI64);

impl Clock for Set {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

#[test]
fn kits_that_were_replaced_go_and_what_others_name_stays() {
    let clock = Arc::new(Set(AtomicI64::new(1_000_000)));
    let home = Home { store: Memory::new().with_clock(clock.clone()), state: tempfile::tempdir().unwrap() };
    let repository = home.init(Protection::None).unwrap();
    let step = |program: &[u8], text: &[u8]| {
        clock.0.fetch_add(1000, Ordering::SeqCst);
        put(&repository, program, text)
    };
    step(b"first", b"a");
    step(b"first", b"b");
    step(b"second", b"c");
    let at = |second| Timestamp::from_second(second).unwrap();
    let replaced = |until| {
        let keys = repository.kits().unwrap().replaced(at(until));
        keys.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    // Each program stays with its newest kit. The first kit was replaced at 1,002,000; its program is named by the second.
    assert_eq!(replaced(1_002_000), <[&str; 0]>::default());
    assert_eq!(replaced(1_002_001), ["rescue/0000000001/RESCUE.txt", "rescue/0000000001/kit"]);
    step(b"third", b"d");
    step(b"fourth", b"e");
    // Three programs stay: of the first one nothing is left.
    let all = ["rescue/0000000001/RESCUE.txt", "rescue/0000000001/refloat", "rescue/0000000002/RESCUE.txt"];
    let lists = ["rescue/0000000002/kit", "rescue/0000000001/kit"];
    assert_eq!(replaced(2_000_000), [all.as_slice(), lists.as_slice()].concat());
    for name in replaced(2_000_000) {
        home.store.delete(&key(&name)).unwrap();
    }
    assert_eq!(wrong(&repository), []);
}
