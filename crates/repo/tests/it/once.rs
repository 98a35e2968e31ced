//! No pair of key and nonce ever seals two plaintexts.
//!
//! The key of a frame comes from its object's id and its nonce from its place in the object, so it is enough that no two
//! different runs of bytes are ever sealed under one id: looked for here in everything that was ever handed to a store,
//! whole objects and those that a crash cut short.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use refloat_repo::crypt::seal::DataKey;
use refloat_repo::object::HEADER_BYTES;
use refloat_repo::pack::Packer;
use refloat_repo::pack::frame::Content;
use refloat_repo::repository::{InitOptions, Protection};
use refloat_repo::{Compression, RepoError, Repository, StateDirectory, layout};
use refloat_store::{
    Features, Key, ObjectInfo, ObjectWriter, Options, PosixStore, Space, Store, StoreError, StoreErrorKind,
};
use refloat_testkit::fault_plan::{Effect, FaultPlan, Faulty, On, Rule};
use refloat_testkit::memory_store::Memory;

use super::sample::{fill, now, put_wal, wal_bytes};

type Log = Arc<Mutex<Vec<Vec<u8>>>>;

/// A store that remembers all bytes it was given, whatever became of them.
struct Recorded<S> {
    inner: S,
    log: Log,
}

struct RecordedWriter {
    inner: Box<dyn ObjectWriter>,
    log: Log,
    place: usize,
}

impl ObjectWriter for RecordedWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.log.lock().unwrap()[self.place].extend_from_slice(bytes);
        self.inner.write(bytes)
    }
    fn finish(self: Box<Self>) -> Result<(), StoreError> {
        self.inner.finish()
    }
}

impl<S: Store> Store for Recorded<S> {
    fn describe(&self) -> &str {
        self.inner.describe()
    }
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.log.lock().unwrap().push(body.to_vec());
        self.inner.put_new(key, body)
    }
    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let inner = self.inner.create(key)?;
        let mut log = self.log.lock().unwrap();
        log.push(Vec::new());
        Ok(Box::new(RecordedWriter { inner, log: Arc::clone(&self.log), place: log.len() - 1 }))
    }
    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        self.inner.read(key, range, into)
    }
    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.settle(key)
    }
    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        self.inner.head(key)
    }
    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.inner.list(prefix, each)
    }
    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete(key)
    }
    fn features(&self) -> Features {
        self.inner.features()
    }
    fn space(&self) -> Result<Option<Space>, StoreError> {
        self.inner.space()
    }
}

/// Of everything that was ever written: the objects of one id are all the same bytes, or a beginning of them. Answers how
/// many different ids there are.
fn assert_sealed_once(written: &[Vec<u8>]) -> usize {
    let mut by_id: BTreeMap<[u8; 16], &[u8]> = BTreeMap::new();
    for bytes in written.iter().filter(|bytes| bytes.len() >= HEADER_BYTES) {
        let id: [u8; 16] = bytes[16..32].try_into().unwrap();
        let known = by_id.entry(id).or_insert(bytes);
        let shared = known.len().min(bytes.len());
        assert!(
            known[..shared] == bytes[..shared],
            "id {} seals two plaintexts",
            refloat_types::hex::encode(&id)
        );
        if bytes.len() > known.len() {
            *known = bytes;
        }
    }
    by_id.len()
}

fn add_frames(packer: &mut Packer, seed: u8, frames: usize) -> Result<(), RepoError> {
    for n in 0..frames {
        packer.add(Content::Data, &vec![seed.wrapping_add(n as u8); 70_000])?;
    }
    Ok(())
}

#[test]
fn a_store_that_fails_at_any_call_never_sees_an_id_twice() {
    let log = Log::default();
    let plan = FaultPlan::new();
    let recorded = Recorded { inner: Faulty::new(Memory::new(), &plan), log: Arc::clone(&log) };
    let state = tempfile::tempdir().unwrap();
    let options = InitOptions { protection: Protection::Passphrase("x".to_owned()), now: now() };
    let repository =
        Repository::init(Arc::new(recorded), StateDirectory::new(state.path()), options).unwrap();
    fill(&repository);
    let (mut failed, mut done) = (0, 0);
    for effect in [
        Effect::LoseAnswer,
        Effect::Refuse(StoreErrorKind::NoSpace),
        Effect::Refuse(StoreErrorKind::Unreachable),
        Effect::Lie,
    ] {
        for nth in 1..4 {
            plan.add(Rule::new(On::Put, effect).nth(nth));
            // The same bytes again and again, as one who repeats what failed.
            for attempt in 0..3 {
                let bytes: Vec<u8> = wal_bytes().iter().map(|byte| byte ^ nth as u8).collect();
                let wal = put_wal(&repository, &bytes);
                let key = repository.draw_key("backup", now());
                let packed = key.and_then(|key| {
                    let store = Arc::clone(repository.store());
                    let mut packer = Packer::new(store, key, Compression::None, Arc::new(|_| Ok(())))?;
                    add_frames(&mut packer, attempt, 5)?;
                    packer.finish()
                });
                for ended in [wal.is_ok(), packed.is_ok()] {
                    *(if ended { &mut done } else { &mut failed }) += 1;
                }
            }
            plan.clear();
        }
    }
    assert!(failed > 20 && done > 5, "{failed} failed, {done} done");
    let ids = assert_sealed_once(&log.lock().unwrap());
    assert!(ids > 50, "{ids}");
}

/// Files below a directory, unfinished ones too.
fn all_files(directory: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all_files(&path, into) } else { into.push(path) }
    }
}

const KEY: [u8; 32] = [9; 32];

/// Not a test: a writer that goes on until it is killed.
#[test]
#[ignore = "is started by other tests"]
fn write_until_killed() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let Some(root) = line.trim().strip_prefix("root ") else { return };
    let store = PosixStore::open(root, Options::default()).unwrap();
    let key = Arc::new(DataKey::from_parts(refloat_types::ObjectId([7; 16]), KEY));
    let announce = Arc::new(|id| {
        println!("begun {id}");
        Ok(())
    });
    let mut packer = Packer::new(Arc::new(store), Some(key), Compression::None, announce).unwrap();
    // The same plaintexts in every life, as a resumed backup would have them.
    for n in 0_u32.. {
        let bytes: Vec<u8> = (0..200_000_u32).map(|at| (at ^ n) as u8).collect();
        packer.add(Content::Data, &bytes).unwrap();
        println!("frame {n}");
    }
}

#[test]
fn killed_in_the_middle_of_a_pack_the_next_one_has_another_id() {
    use std::io::{BufRead as _, Write as _};
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("repo");
    drop(PosixStore::open(&root, Options { create: true, ..Options::default() }).unwrap());
    let mut begun = Vec::new();
    let mut written = Vec::new();
    for life in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "once::write_until_killed", "--ignored", "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(format!("root {}\n", root.display()).as_bytes()).unwrap();
        let mut frames = 0;
        for line in std::io::BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some((_, id)) = line.split_once("begun ") {
                begun.push(id.to_owned());
            }
            frames += usize::from(line.contains("frame "));
            if frames == 5 + life * 100 {
                child.kill().unwrap();
                break;
            }
        }
        child.wait().unwrap();
        let mut files = Vec::new();
        all_files(&root, &mut files);
        written.extend(files.iter().map(|file| std::fs::read(file).unwrap()));
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut unique = begun.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), begun.len(), "{begun:?}");
    assert!(begun.len() >= 4);
    let sealed = written.iter().filter(|bytes| bytes.len() > HEADER_BYTES).count();
    assert!(sealed > 0, "no life left anything behind");
    assert!(assert_sealed_once(&written) > 0);
    // A pack that was not finished has no name.
    let store = PosixStore::open(&root, Options::default()).unwrap();
    let opener_keys = refloat_repo::pack::reader::PackKeys::default();
    let mut opener = refloat_repo::pack::FrameOpener::new(Arc::new(opener_keys)).unwrap();
    store
        .list(layout::PACKS, &mut |info| {
            let id = info.key.file_name().parse().unwrap();
            // Under the wrong key nothing opens, and it is told so.
            assert!(opener.read_pack(&store, id, &mut |_, _, _| Ok(())).is_err());
            ControlFlow::Continue(())
        })
        .unwrap();
}
