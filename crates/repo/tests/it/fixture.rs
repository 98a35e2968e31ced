//! Repositories that a release has written stay readable.
//!
//! `fixtures/format-1` was written by `write_fixture` below, once. It is never written again: a later release that cannot
//! read it has broken the promise that old backups can be restored.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use refloat_repo::repository::{Credentials, InitOptions, Protection, Shown};
use refloat_repo::{Repository, StateDirectory};
use refloat_store::{Key, Store as _};
use refloat_testkit::memory_store::Memory;
use refloat_types::{BackupId, SourceId};

use super::sample::{
    SYSTEM, expected_files, fill, now, objects, put_backup, read_files, read_wal, wal_bytes,
};

const PASSPHRASE: &str = "old wine in new bottles";

fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1").join(name)
}

/// Writes the fixture anew. Only for a new format, into a directory of its own.
#[test]
#[ignore = "writes into the source tree; for a new format only"]
fn write_fixture() {
    for (name, protection) in
        [("encrypted", Protection::Passphrase(PASSPHRASE.to_owned())), ("plain", Protection::None)]
    {
        assert!(!place(name).exists(), "a fixture is never overwritten");
        let store = Memory::new();
        let state = tempfile::tempdir().unwrap();
        let options = InitOptions { protection, now: now() };
        let repository =
            Repository::init(Arc::new(store.clone()), StateDirectory::new(state.path()), options).unwrap();
        let made = fill(&repository);
        for (key, bytes) in objects(&store) {
            let path = place(name).join(key.as_str());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let text = format!("{}\n{}\n{}\n", made.source, made.backup, repository.fingerprint());
        std::fs::write(place(&format!("{name}.txt")), text).unwrap();
    }
}

fn add(directory: &Path, prefix: &str, store: &Memory) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        if entry.path().is_dir() {
            count += add(&entry.path(), &format!("{name}/"), store);
        } else {
            let key: Key = name.parse().unwrap();
            store.put_new(&key, &std::fs::read(entry.path()).unwrap()).unwrap();
            count += 1;
        }
    }
    count
}

/// Writes the fixture of rotations anew. Only for a new format, into a directory of its own.
#[test]
#[ignore = "writes into the source tree; for a new format only"]
fn write_rotated_fixture() {
    assert!(!place("rotated").exists(), "a fixture is never overwritten");
    let store = Memory::new();
    let state = tempfile::tempdir().unwrap();
    let here = |host: &str| StateDirectory::new(state.path().join(host));
    let shared = || Arc::new(store.clone());
    let options = InitOptions { protection: Protection::None, now: now() };
    let repository = Repository::init(shared(), here("first"), options).unwrap();
    let made = fill(&repository);
    let again =
        || Repository::open(shared(), here("first"), None, now(), &mut || panic!("it is known")).unwrap();
    repository.rotate(&Protection::Passphrase("an earlier one".to_owned()), now()).unwrap();
    let second = put_backup(&again(), made.source);
    again().rotate(&Protection::Passphrase(PASSPHRASE.to_owned()), now()).unwrap();
    let stored = again().list_data_keys().unwrap();
    for key in &stored {
        again().rewrap_key(key).unwrap();
    }
    // One of them has lost its first envelope.
    let (stored, again_stored) = (again().list_data_keys().unwrap(), again());
    again_stored.delete_old_envelopes(&stored[0]).unwrap();
    let (token, _) = again().invite(std::time::Duration::from_secs(24 * 3600), now()).unwrap();
    let writer = Repository::accept(shared(), here("writer"), &token, now()).unwrap();
    let third = put_backup(&writer, made.source);
    for (key, bytes) in objects(&store) {
        let path = place("rotated").join(key.as_str());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let text = format!(
        "{}\n{}\n{}\n{second}\n{third}\n{}\n",
        made.source,
        made.backup,
        repository.fingerprint(),
        token.expose()
    );
    std::fs::write(place("rotated.txt"), text).unwrap();
}

/// Encryption that was turned on, a rotation, keys that were sealed again, a host that was invited.
#[test]
fn the_first_rotations_stay_readable() {
    let store = Memory::new();
    assert!(add(&place("rotated"), "", &store) > 20);
    let told = std::fs::read_to_string(place("rotated.txt")).unwrap();
    let told: Vec<&str> = told.lines().collect();
    let source: SourceId = told[0].parse().unwrap();
    let state = tempfile::tempdir().unwrap();
    let here = |host: &str| StateDirectory::new(state.path().join(host));
    let mut credentials = || Ok(Credentials::Passphrase(PASSPHRASE.to_owned()));
    let shared = Arc::new(store.clone());
    let repository =
        Repository::open(shared, here("reader"), Some(told[2]), now(), &mut credentials).unwrap();
    assert_eq!(repository.generation().number, 2);
    for backup in [told[1], told[3], told[4]] {
        let backup: BackupId = backup.parse().unwrap();
        assert_eq!(read_files(&repository, source, backup).unwrap(), expected_files());
    }
    assert_eq!(read_wal(&repository).unwrap(), wal_bytes());
    let mut kinds = std::collections::BTreeMap::new();
    for (key, _) in objects(&store) {
        let named = refloat_repo::layout::Named::parse(&key).unwrap();
        use refloat_repo::layout::Named as N;
        let kind = match named {
            N::Pack(_) | N::Wal(..) => continue,
            N::Generation(_) => "generation",
            N::Rewrapped(..) => "sealed again",
            N::Invitation(_) => "invitation",
            N::InvitationUsed(_) => "used",
            _ => "other",
        };
        *kinds.entry(kind).or_insert(0) += 1;
        assert_eq!(repository.inspect(&named).unwrap().opened, Ok(()), "{key}");
    }
    assert_eq!((kinds["generation"], kinds["invitation"], kinds["used"]), (2, 1, 1));
    assert!(kinds["sealed again"] >= 1);
    // The token is used: it enrols nobody else.
    let token = refloat_repo::repository::Token::parse(told[5]).unwrap();
    let other = Repository::accept(Arc::new(store.clone()), here("other"), &token, now());
    assert!(matches!(other, Err(refloat_repo::RepoError::InvitationOver { .. })));
}

#[test]
fn the_first_format_stays_readable() {
    let encrypted = || Credentials::Passphrase(PASSPHRASE.to_owned());
    let plain = || Credentials::Unencrypted;
    for (name, credentials) in [("encrypted", &encrypted as &dyn Fn() -> Credentials), ("plain", &plain)] {
        let store = Memory::new();
        assert!(add(&place(name), "", &store) > 10);
        let told = std::fs::read_to_string(place(&format!("{name}.txt"))).unwrap();
        let told: Vec<&str> = told.lines().collect();
        let (source, backup): (SourceId, BackupId) = (told[0].parse().unwrap(), told[1].parse().unwrap());

        let state = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(state.path());
        let shared = Arc::new(store.clone());
        let repository =
            Repository::open(shared, state, Some(told[2]), now(), &mut || Ok(credentials())).unwrap();
        let found = repository.find_source(&"prod".parse().unwrap()).unwrap().unwrap();
        assert_eq!((found.id, found.system), (source, Some(SYSTEM)));
        assert_eq!(found.description.unwrap().host, "db1");
        assert_eq!(read_files(&repository, source, backup).unwrap(), expected_files());
        assert_eq!(read_wal(&repository).unwrap(), wal_bytes());
        assert_eq!(repository.owner(source).unwrap().unwrap().number, 1);
        let record = repository.find_commit(source, backup).unwrap().unwrap();
        assert_eq!(repository.read_commit_names(&record).unwrap().label.as_deref(), Some("sample"));
        let confirmation = repository.confirmation().unwrap();
        assert_eq!(confirmation.map(|c| c.shown), (name == "encrypted").then_some(Shown::Entered));
        for (key, _) in objects(&store) {
            let named = refloat_repo::layout::Named::parse(&key).unwrap();
            use refloat_repo::layout::Named as N;
            if !matches!(named, N::Pack(_) | N::Wal(..)) {
                repository.inspect(&named).unwrap();
            }
        }
        // And it can be written on, where this host can enrol itself.
        if name == "encrypted" {
            let next = put_backup(&repository, source);
            assert_eq!(read_files(&repository, source, next).unwrap(), expected_files());
        }
    }
}
