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
