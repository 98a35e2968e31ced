//! What a host knows of commits: the same as it would read, whatever became of the file that it keeps.

use std::path::PathBuf;
use std::sync::Arc;

use refloat_repo::commit::{CommitNames, PackUse};
use refloat_repo::crypt::identity::Identity;
use refloat_repo::crypt::random;
use refloat_repo::repository::{InitOptions, KnownCommit, Protection};
use refloat_repo::{Repository, StateDirectory, layout};
use refloat_store::{Key, Store as _};
use refloat_testkit::fault_plan::{FaultPlan, Faulty};
use refloat_testkit::memory_store::Memory;
use refloat_types::SourceId;

use super::sample::{fill, now};

const BACKUPS: u64 = 30;

struct Home {
    memory: Memory,
    plan: FaultPlan,
    state: tempfile::TempDir,
    repository: Repository,
    source: SourceId,
}

/// A repository with some backups, each with other names and packs.
fn home() -> Home {
    let (memory, plan) = (Memory::new(), FaultPlan::new());
    let state = tempfile::tempdir().unwrap();
    let store = Arc::new(Faulty::new(memory.clone(), &plan));
    let identity = Identity::draw();
    let protection =
        Protection::Recipients { recipients: vec![identity.recipient()], identity: Some(identity) };
    let options = InitOptions { protection, now: now() };
    let repository = Repository::init(store, StateDirectory::new(state.path()), options).unwrap();
    let source = fill(&repository).source;
    let home = Home { memory, plan, state, repository, source };
    (0..BACKUPS).for_each(|number| home.add(number));
    home
}

impl Home {
    /// A backup with as many packs as its number says.
    fn add(&self, packs: u64) {
        let repository = &self.repository;
        let last = repository.commit_keys(self.source).unwrap().pop().unwrap();
        let mut commit = repository.read_commit(&last).unwrap().commit;
        commit.number += 1;
        commit.backup = random::backup_id();
        let key = repository.draw_key("backup", now()).unwrap();
        let pack =
            |live| PackUse { id: random::object_id(), key: key.as_ref().unwrap().id(), size: 1000, live };
        let mut packs: Vec<PackUse> = (0..packs).map(pack).collect();
        packs.sort_by_key(|pack| pack.id);
        let label = Some(format!("number {}", commit.number));
        let names = CommitNames { source_name: "prod".to_owned(), label, ..CommitNames::default() };
        repository.put_commit(&commit, &packs, &names, key.as_deref()).unwrap();
    }

    fn cache(&self) -> PathBuf {
        let id = self.repository.marker().id;
        self.state.path().join(format!("repositories/{id}/commits/{}", self.source))
    }

    /// What is known, each as text; what cannot be believed, by its name.
    fn known(&self) -> (Vec<String>, Vec<String>) {
        let mut wrong = Vec::new();
        let known = self.repository.known_commits(self.source, &mut |key, _| wrong.push(key.to_string()));
        (known.unwrap().iter().map(text).collect(), wrong)
    }

    /// What reading each for itself gives.
    fn read(&self) -> Vec<String> {
        let read = |key: &Key| {
            let record = self.repository.read_commit(key).ok()?;
            let names = self.repository.read_commit_names(&record).ok();
            Some(text(&KnownCommit { record, names }))
        };
        self.repository.commit_keys(self.source).unwrap().iter().filter_map(read).collect()
    }

    /// How many calls of the store looking at what is known takes.
    fn calls(&self) -> u64 {
        let before = self.plan.calls();
        self.known();
        self.plan.calls() - before
    }
}

fn text(known: &KnownCommit) -> String {
    format!("{known:?}")
}

#[test]
fn what_was_read_once_is_not_read_again() {
    let home = home();
    let all = home.read();
    assert_eq!(all.len() as u64, BACKUPS + 1);
    assert_eq!(home.known().0, all);
    assert_eq!(home.calls(), 1, "one list");
    assert_eq!(home.known().0, all);
    let mode = std::os::unix::fs::PermissionsExt::mode(&home.cache().metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "names of databases are nobody else's");
    let left = std::fs::read_dir(home.cache().parent().unwrap()).unwrap().count();
    assert_eq!(left, 1, "and nothing lies beside it");
}

#[test]
fn a_file_that_is_gone_cut_or_damaged_is_made_anew() {
    let home = home();
    let all = home.read();
    assert_eq!(home.known().0, all);
    let whole = std::fs::read(home.cache()).unwrap();
    let mut changes: Vec<Option<Vec<u8>>> =
        vec![None, Some(Vec::new()), Some(whole[..whole.len() / 2].to_vec())];
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x20;
        changes.push(Some(bytes));
    }
    for change in changes {
        match change {
            None => std::fs::remove_file(home.cache()).unwrap(),
            Some(bytes) => std::fs::write(home.cache(), bytes).unwrap(),
        }
        assert_eq!(home.known().0, all);
        assert_eq!(std::fs::read(home.cache()).unwrap(), whole, "it is as it was");
    }
    // Where nothing can be kept, everything is still told.
    std::fs::remove_file(home.cache()).unwrap();
    std::fs::create_dir(home.cache()).unwrap();
    assert_eq!(home.known().0, all);
}

#[test]
fn what_has_changed_in_the_store_is_seen() {
    let home = home();
    home.known();
    let keys = home.repository.commit_keys(home.source).unwrap();
    home.memory.delete(&keys[3]).unwrap();
    home.add(5);
    let all = home.read();
    assert_eq!(all.len() as u64, BACKUPS + 1);
    assert_eq!(home.known().0, all);
    assert_eq!(home.calls(), 1, "the new one is known by now");
    // Another object under the name of a known one: nobody of us writes that, so it is looked at.
    let mut bytes = Vec::new();
    let size = home.memory.head(&keys[5]).unwrap().unwrap().size;
    home.memory.read(&keys[5], 0..size, &mut bytes).unwrap();
    bytes[200] ^= 1;
    home.memory.delete(&keys[5]).unwrap();
    home.memory.put_new(&keys[5], &bytes).unwrap();
    let (known, wrong) = home.known();
    assert_eq!(wrong, [keys[5].to_string()], "it cannot be believed");
    assert_eq!(known.len() as u64, BACKUPS);
    assert_eq!(home.known().1, wrong, "however often one looks");
}

#[test]
fn a_commit_of_very_many_packs_is_read_each_time() {
    let home = home();
    home.known();
    home.add(3000);
    home.known();
    let reads = home.calls();
    assert!(reads > 1, "it is not kept");
    assert_eq!(home.known().0, home.read());
    let commits = layout::commits(home.source);
    assert!(home.cache().metadata().unwrap().len() < 300_000, "{commits}: the file stays small");
}
