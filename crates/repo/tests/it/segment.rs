//! What a recovery waits for: how often a store is asked for a segment.

use std::path::Path;
use std::sync::{Arc, Mutex};

use refloat_repo::crypt::identity::Identity;
use refloat_repo::repository::{InitOptions, Protection};
use refloat_repo::wal_object::Wanted;
use refloat_repo::{RepoError, Repository, StateDirectory};
use refloat_store::{Store as _, StoreErrorKind};
use refloat_testkit::fault_plan::{Effect, FaultPlan, Faulty, On, Rule};
use refloat_testkit::memory_store::Memory;

use super::sample::{SYSTEM, now, put_wal, wal_name};

/// Bytes that no codec makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(|_| next()).collect()
}

fn repository(memory: &Memory, state: &Path, plan: &FaultPlan) -> Repository {
    let identity = Identity::draw();
    let protection =
        Protection::Recipients { recipients: vec![identity.recipient()], identity: Some(identity) };
    let store = Arc::new(Faulty::new(memory.clone(), plan));
    let options = InitOptions { protection, now: now() };
    Repository::init(store, StateDirectory::new(state), options).unwrap()
}

fn as_seen(
    memory: &Memory,
    state: &Path,
    plan: &FaultPlan,
    pin: Option<&str>,
) -> Result<Option<Repository>, RepoError> {
    let store = Arc::new(Faulty::new(memory.clone(), plan));
    Repository::open_as_seen(store, StateDirectory::new(state), pin)
}

/// The one WAL file that is there, by `repository`, for whoever waits for it.
fn fetched(repository: &Repository) -> Result<Vec<u8>, RepoError> {
    fetched_when(repository, Wanted::Now)
}

fn fetched_when(repository: &Repository, wanted: Wanted) -> Result<Vec<u8>, RepoError> {
    let found = repository.find_wal(SYSTEM, wal_name())?;
    let [stored] = found.as_slice() else { panic!("{} objects", found.len()) };
    let placed = Mutex::new(vec![0; 32 << 20]);
    let head = repository.place_wal(stored, wanted, &|offset, piece| {
        placed.lock().unwrap()[offset as usize..][..piece.len()].copy_from_slice(piece);
        Ok(())
    })?;
    let mut bytes = placed.into_inner().unwrap();
    bytes.truncate(head.clear.size as usize);
    Ok(bytes)
}

#[test]
fn a_segment_that_was_archived_here_is_had_by_two_calls() {
    let (memory, plan, state) = (Memory::new(), FaultPlan::new(), tempfile::tempdir().unwrap());
    let repository = repository(&memory, state.path(), &plan);
    let segment = noise(16 << 20);
    let stored = put_wal(&repository, &segment).unwrap();
    assert!(stored.size > 16 << 20, "it is as large as they come");

    let before = plan.calls();
    assert!(fetched(&repository).unwrap() == segment);
    assert_eq!(plan.calls() - before, 2, "one list, one read");

    assert!(as_seen(&memory, state.path(), &plan, None).unwrap().is_none(), "nothing was kept");
    repository.keep_as_seen().unwrap();
    let before = plan.calls();
    repository.keep_as_seen().unwrap();
    let pin = repository.fingerprint();
    let seen = as_seen(&memory, state.path(), &plan, Some(&pin)).unwrap().expect("it was kept");
    assert_eq!(plan.calls() - before, 0, "nothing is asked for");
    assert!(fetched(&seen).unwrap() == segment);
    assert_eq!(plan.calls() - before, 2);

    assert!(as_seen(&memory, state.path(), &plan, Some("another")).unwrap().is_none());
    std::fs::remove_file(state.path().join(format!("repositories/{}/local.json", seen.marker().id))).unwrap();
    assert!(as_seen(&memory, state.path(), &plan, None).unwrap().is_none(), "this host knows it no more");
}

#[test]
fn what_another_repository_holds_in_the_place_of_a_known_one_is_not_believed() {
    let (memory, plan, state) = (Memory::new(), FaultPlan::new(), tempfile::tempdir().unwrap());
    repository(&memory, state.path(), &plan).keep_as_seen().unwrap();
    // The same URL, the same cluster, the same file; somebody else's keys.
    let (other, elsewhere) = (Memory::new(), tempfile::tempdir().unwrap());
    put_wal(&repository(&other, elsewhere.path(), &plan), &noise(1 << 20)).unwrap();
    let seen = as_seen(&other, state.path(), &plan, None).unwrap().expect("it was kept");
    let error = fetched(&seen).unwrap_err();
    assert!(matches!(error, RepoError::UnknownOrigin { .. }), "{error:?}");
}

#[test]
fn over_a_network_a_segment_is_used_while_it_comes() {
    let (memory, plan, state) = (Memory::new().remote(), FaultPlan::new(), tempfile::tempdir().unwrap());
    let repository = repository(&memory, state.path(), &plan);
    // All at once, in two halves, and, because it is larger than they come, in one request after the other.
    for length in [0, 1 << 10, 300 << 10, 16 << 20, 20 << 20] {
        let bytes = noise(length);
        let stored = put_wal(&repository, &bytes).unwrap();
        let before = plan.calls();
        assert!(fetched(&repository).unwrap() == bytes, "{length} bytes");
        let requests = 1 + if stored.size > 1 << 20 { 2 } else { 1 };
        assert_eq!(plan.calls() - before, requests, "{length} bytes");
        // Where it is one of several, one request is enough.
        let before = plan.calls();
        assert!(fetched_when(&repository, Wanted::Soon).unwrap() == bytes, "{length} bytes");
        assert_eq!(plan.calls() - before, if stored.size > 17 << 20 { 3 } else { 2 }, "{length} bytes");

        // Not to be had is not damaged, whichever request it is.
        for nth in 1..requests {
            plan.add(Rule::new(On::Read, Effect::LoseAnswer).nth(nth));
            let error = fetched(&repository).unwrap_err();
            let is_away =
                matches!(&error, RepoError::Store(error) if error.kind == StoreErrorKind::Unreachable);
            assert!(is_away, "{length} bytes, request {nth}: {error:?}");
            plan.clear();
        }
        // A bit anywhere is found.
        for at in [0, stored.size / 3, stored.size / 2, stored.size - 1] {
            memory.damage(&stored.key, |bytes| bytes[at as usize] ^= 1);
            assert!(fetched(&repository).is_err(), "{length} bytes, damaged at {at}");
            memory.damage(&stored.key, |bytes| bytes[at as usize] ^= 1);
        }
        // An end that came early, too.
        memory.damage(&stored.key, |bytes| bytes.truncate(bytes.len() - 1));
        assert!(fetched(&repository).is_err(), "{length} bytes, cut short");
        memory.delete(&stored.key).unwrap();
    }
}

/// What lies in the state directory of a repository, its marker as it was kept, and where it says that it is from.
fn kept(state: &Path, repository: &Repository) -> [std::path::PathBuf; 2] {
    let directory = state.join(format!("repositories/{}/kept", repository.marker().id));
    [directory.join("repository"), directory.join("from.json")]
}

#[test]
fn what_was_kept_and_is_damaged_is_kept_anew() {
    let (memory, plan, state) = (Memory::new(), FaultPlan::new(), tempfile::tempdir().unwrap());
    let repository = repository(&memory, state.path(), &plan);
    let segment = noise(1 << 16);
    put_wal(&repository, &segment).unwrap();
    for which in [0, 1] {
        for damage in [&b""[..], b"{", &[0; 300]] {
            repository.keep_as_seen().unwrap();
            std::fs::write(&kept(state.path(), &repository)[which], damage).unwrap();
            assert!(as_seen(&memory, state.path(), &plan, None).unwrap().is_none(), "it is opened in full");
            // What whoever was opened in full does then.
            repository.keep_as_seen().unwrap();
            let seen = as_seen(&memory, state.path(), &plan, None).unwrap().expect("it was kept anew");
            assert!(fetched(&seen).unwrap() == segment);
        }
    }
}

#[test]
fn a_repository_that_was_made_anew_is_kept_in_the_place_of_the_old_one() {
    // Which of the two directories is read first is chance: often enough each is.
    for _ in 0..8 {
        let (memory, plan, state) = (Memory::new(), FaultPlan::new(), tempfile::tempdir().unwrap());
        repository(&memory, state.path(), &plan).keep_as_seen().unwrap();
        // The same URL: what was there is deleted.
        let anew = Memory::new();
        let repository = repository(&anew, state.path(), &plan);
        let segment = noise(1 << 16);
        put_wal(&repository, &segment).unwrap();
        repository.keep_as_seen().unwrap();
        let seen = as_seen(&anew, state.path(), &plan, None).unwrap().expect("it was kept");
        assert_eq!(seen.fingerprint(), repository.fingerprint());
        assert!(fetched(&seen).unwrap() == segment);
    }
}
