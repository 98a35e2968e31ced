//! What was not signed by an agent of this repository, or lies under another's name, is never used.

use std::sync::Arc;

use refloat_repo::crypt::random;
use refloat_repo::layout::{self, Named};
use refloat_repo::repository::{Protection, SourceDescription, StoredWal};
use refloat_repo::{RepoError, Repository, StateDirectory};
use refloat_store::{Key, Store as _, StoreErrorKind};
use refloat_testkit::fault_plan::{Effect, FaultPlan, Faulty, On, Rule};
use refloat_types::SourceName;

use super::opening::{Home, never};
use super::sample::{SYSTEM, fill, now, objects, put_backup, read_files, read_wal, wal_bytes, wal_name};

fn protections() -> [Protection; 2] {
    [Protection::Passphrase("x".to_owned()), Protection::None]
}

#[test]
fn nothing_of_another_repository_is_accepted() {
    for (ours, theirs) in protections().into_iter().zip(protections()) {
        let (home, other) = (Home::new(), Home::new());
        let repository = home.init(ours).unwrap();
        fill(&repository);
        let stranger = other.init(theirs).unwrap();
        let foreign = fill(&stranger);
        for (key, bytes) in objects(&other.store) {
            let _ = home.store.put_new(&key, &bytes);
        }
        let error = read_files(&repository, foreign.source, foreign.backup).unwrap_err();
        assert!(matches!(error, RepoError::UnknownOrigin { .. } | RepoError::Damaged { .. }), "{error:?}");
        for (key, _) in objects(&other.store) {
            let Some(named) = Named::parse(&key) else { continue };
            match named {
                Named::Repository | Named::Pack(_) => continue,
                // The same number was there, and was not overwritten.
                Named::Confirmation(_) => continue,
                Named::Wal(system, name, digest) => {
                    let size = home.store.head(&key).unwrap().unwrap().size;
                    let stored = StoredWal { key: layout::wal(system, name, &digest), name, digest, size };
                    let error = repository.read_wal_head(&stored).unwrap_err();
                    assert!(is_refusal(&error), "{key}: {error:?}");
                }
                named => {
                    let error = repository.inspect(&named).unwrap_err();
                    assert!(is_refusal(&error), "{key}: {error:?}");
                }
            }
        }
        // Two files of one name, one of them forged: neither is chosen silently.
        assert_eq!(repository.find_wal(SYSTEM, wal_name()).unwrap().len(), 2);
    }
}

fn is_refusal(error: &RepoError) -> bool {
    let ends_early = |error: &refloat_store::StoreError| error.kind == StoreErrorKind::Truncated;
    matches!(error, RepoError::UnknownOrigin { .. } | RepoError::Damaged { .. })
        || matches!(error, RepoError::Store(error) if ends_early(error))
}

#[test]
fn an_enrolment_that_the_root_did_not_sign_enrols_nobody() {
    let (home, other) = (Home::new(), Home::new());
    let repository = home.init(Protection::None).unwrap();
    let stranger = other.init(Protection::None).unwrap();
    let key = layout::agent(stranger.agent());
    let (_, bytes) = objects(&other.store).into_iter().find(|(found, _)| *found == key).unwrap();
    home.store.put_new(&key, &bytes).unwrap();
    assert!(matches!(repository.agent_key(stranger.agent(), "x"), Err(RepoError::UnknownOrigin { .. })));
    assert!(repository.agent_key(repository.agent(), "x").is_ok());
}

/// Whoever may add objects must not make a repository unusable by a source of his own, and must not hide one of ours.
#[test]
fn a_source_that_only_a_stranger_has_described_is_passed_over() {
    for (ours, theirs) in protections().into_iter().zip(protections()) {
        let (home, other) = (Home::new(), Home::new());
        let repository = home.init(ours).unwrap();
        let made = fill(&repository);
        let stranger = other.init(theirs).unwrap();
        let foreign = fill(&stranger);
        let key = layout::generation(&layout::source_generations(foreign.source), 1);
        let (_, bytes) = objects(&other.store).into_iter().find(|(found, _)| *found == key).unwrap();
        home.store.put_new(&key, &bytes).unwrap();

        let mut told = Vec::new();
        let usable = repository.usable_sources(&mut |key, error| told.push((key.clone(), error))).unwrap();
        assert_eq!(usable.iter().map(|source| source.id).collect::<Vec<_>>(), [made.source]);
        assert!(matches!(&told[..], [(k, RepoError::UnknownOrigin { .. })] if *k == key), "{told:?}");
        let found = repository.find_source(&"prod".parse().unwrap()).unwrap();
        assert_eq!(found.map(|source| source.id), Some(made.source));
        // What is not found may be hidden, and is not described again.
        let error = repository.find_source(&"other".parse().unwrap()).unwrap_err();
        assert!(matches!(error, RepoError::UnknownOrigin { .. }), "{error:?}");
        // Deleting needs to know all of it.
        assert!(repository.list_sources().is_err());

        // Above a description of ours it is in its way.
        let above = layout::generation(&layout::source_generations(made.source), 2);
        home.store.put_new(&above, &bytes).unwrap();
        let error = repository.find_source(&"prod".parse().unwrap()).unwrap_err();
        assert!(is_refusal(&error), "{error:?}");
    }
}

/// What is no description of ours: nothing, noise, too much, one of ours that is cut, and what says that a later release wrote it.
fn junk(ours: &[u8]) -> [Vec<u8>; 5] {
    let mut later = ours.to_vec();
    later[8] = 2;
    let cut = ours[..ours.len() - 3].to_vec();
    [Vec::new(), vec![0x5a; 700], vec![0; (1 << 20) + 1], cut, later]
}

/// Whatever a stranger puts below `sources/` is in the way of the source that it lies in, and of no other.
#[test]
fn bytes_below_a_source_touch_no_other_source() {
    let named = |name: &str| -> SourceName { name.parse().unwrap() };
    for protection in protections() {
        let home = Home::new();
        let repository = home.init(protection).unwrap();
        let made = fill(&repository);
        let describe = |name: &str| {
            let description = SourceDescription {
                name: named(name),
                kind: "postgres".to_owned(),
                host: "db2".to_owned(),
                data_directory: "/data".to_owned(),
            };
            repository.describe_source(None, &description, SYSTEM, now()).unwrap().id
        };
        let other = describe("other");
        let at = |id, number| layout::generation(&layout::source_generations(id), number);
        let ours = objects(&home.store).into_iter().find(|(key, _)| *key == at(other, 1)).unwrap().1;
        for bytes in junk(&ours) {
            // A source of its own, and what is no generation at all.
            let strange = at(random::source_id(), 1);
            let nothing: Key = format!("sources/{}/source/zzz", made.source).parse().unwrap();
            home.store.put_new(&strange, &bytes).unwrap();
            home.store.put_new(&nothing, &bytes).unwrap();
            let mut told = Vec::new();
            let usable = repository.usable_sources(&mut |key, _| told.push(key.clone())).unwrap();
            assert!(usable.len() == 2 && told.iter().eq([&strange]), "{told:?}");
            for (name, id) in [("prod", made.source), ("other", other)] {
                assert_eq!(repository.find_source(&named(name)).unwrap().unwrap().id, id);
            }
            assert!(repository.find_source(&named("third")).is_err(), "that may be what cannot be read");
            home.store.delete(&strange).unwrap();
            home.store.delete(&nothing).unwrap();

            // Above one of ours: that one is refused, whoever wants another gets it, and a new one can be described.
            let above = at(other, 2);
            home.store.put_new(&above, &bytes).unwrap();
            let mut told = Vec::new();
            let usable = repository.usable_sources(&mut |key, _| told.push(key.clone())).unwrap();
            assert_eq!(usable.iter().map(|source| source.id).collect::<Vec<_>>(), [made.source]);
            assert!(told.iter().eq([&above]), "{told:?}");
            assert!(repository.find_source(&named("prod")).unwrap().is_some());
            assert!(repository.find_source(&named("other")).is_err(), "never an older one instead");
            assert!(repository.find_source(&named("third")).unwrap().is_none());
            home.store.delete(&above).unwrap();
        }
    }
}

/// What a store does not answer says nothing of whose a source is.
#[test]
fn a_store_that_does_not_answer_makes_no_source_a_strangers() {
    let home = Home::new();
    let repository = home.init(Protection::None).unwrap();
    let made = fill(&repository);
    let prefix = layout::source_generations(made.source);
    home.store.put_new(&layout::generation(&prefix, 2), b"not ours").unwrap();
    for kind in [StoreErrorKind::Unreachable, StoreErrorKind::Denied, StoreErrorKind::Exhausted] {
        for number in [1, 2] {
            let plan = FaultPlan::new();
            let store = Arc::new(Faulty::new(home.store.clone(), &plan));
            let state = StateDirectory::new(home.state.path().join("first"));
            let repository = Repository::open(store, state, None, now(), &mut || Ok(never())).unwrap();
            plan.add(
                Rule::new(On::Read, Effect::Refuse(kind)).key(layout::generation(&prefix, number).as_str()),
            );
            let error = repository.usable_sources(&mut |key, error| panic!("{key}: {error}")).unwrap_err();
            assert!(matches!(&error, RepoError::Store(error) if error.kind == kind), "{error:?}");
        }
    }
}

#[test]
fn an_object_under_another_name_is_refused() {
    for protection in protections() {
        let home = Home::new();
        let repository = home.init(protection).unwrap();
        let made = fill(&repository);
        let second = put_backup(&repository, made.source);
        let all = objects(&home.store);
        let keys = |part: &str| -> Vec<Key> {
            all.iter().map(|(key, _)| key.clone()).filter(|key| key.as_str().contains(part)).collect()
        };
        let swap = |a: &Key, b: &Key| {
            let bytes = |key: &Key| all.iter().find(|(found, _)| found == key).unwrap().1.clone();
            let (for_a, for_b) = (bytes(b), bytes(a));
            home.store.damage(a, |now| *now = for_a);
            home.store.damage(b, |now| *now = for_b);
        };
        let restore = |a: &Key, b: &Key| {
            for key in [a, b] {
                let bytes = all.iter().find(|(found, _)| found == key).unwrap().1.clone();
                home.store.damage(key, |now| *now = bytes);
            }
        };
        for part in ["/commits/", "packs/", "keys/data/"] {
            let keys = keys(part);
            for (a, b) in keys.iter().zip(keys.iter().skip(1)) {
                swap(a, b);
                let first = read_files(&repository, made.source, made.backup);
                let other = read_files(&repository, made.source, second);
                assert!(first.is_err() || other.is_err(), "{a} and {b}");
                for error in [first.err(), other.err()].into_iter().flatten() {
                    assert!(is_refusal(&error), "{a} and {b}: {error:?}");
                }
                restore(a, b);
            }
        }
        assert!(read_files(&repository, made.source, second).is_ok());
    }
}

#[test]
fn an_older_object_under_a_newer_number_is_refused() {
    let home = Home::new();
    let repository = home.init(Protection::None).unwrap();
    let made = fill(&repository);
    let prefix = layout::owners(made.source);
    let first = layout::generation(&prefix, 1);
    let (_, bytes) = objects(&home.store).into_iter().find(|(key, _)| *key == first).unwrap();
    home.store.put_new(&layout::generation(&prefix, 2), &bytes).unwrap();
    assert!(matches!(repository.owner(made.source), Err(RepoError::Damaged { .. })));
}

#[test]
fn wal_is_what_was_stored_or_an_error() {
    for protection in protections() {
        let home = Home::new();
        let repository = home.init(protection).unwrap();
        fill(&repository);
        assert_eq!(read_wal(&repository).unwrap(), wal_bytes());
        let key = repository.find_wal(SYSTEM, wal_name()).unwrap().remove(0).key;
        let bytes = objects(&home.store).into_iter().find(|(found, _)| *found == key).unwrap().1;
        for at in 0..bytes.len() {
            home.store.damage(&key, |now| now[at] ^= 0x20);
            assert!(read_wal(&repository).is_err(), "byte {at}");
            home.store.damage(&key, |now| now.clone_from(&bytes));
        }
    }
}

/// Where nothing is encrypted anybody can make a frame with a tag that holds.
#[test]
fn sealed_facts_that_nobody_signed_are_refused() {
    use refloat_repo::compress::Codec;
    use refloat_repo::crypt::seal::{FrameInfo, ObjectSeal};
    use refloat_repo::kind::Kind;
    let home = Home::new();
    let repository = home.init(Protection::None).unwrap();
    fill(&repository);
    let stored = repository.find_wal(SYSTEM, wal_name()).unwrap().remove(0);
    let head = repository.read_wal_head(&stored).unwrap();
    let honest = repository.read_wal_facts(&head).unwrap().to_string();
    home.store.damage(&stored.key, |bytes| {
        let at = bytes.windows(honest.len()).position(|part| part == honest.as_bytes()).unwrap();
        let mut facts = honest.replace("restore", "RESTORE").into_bytes();
        let info = FrameInfo { index: 0, last: false, codec: Codec::None, plain: facts.len() as u32 };
        let tag = ObjectSeal::new(Kind::Wal, head.header.id, None).seal(info, &mut facts);
        facts.extend_from_slice(&tag);
        bytes[at..at + facts.len()].copy_from_slice(&facts);
    });
    let head = repository.read_wal_head(&stored).unwrap();
    let error = repository.read_wal_facts(&head).unwrap_err();
    assert!(matches!(error, RepoError::Damaged { .. }), "{error:?}");
    assert!(read_wal(&repository).is_err());
}
