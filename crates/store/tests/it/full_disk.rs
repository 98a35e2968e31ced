//! A real small file system: full, out of files, read-only.

use std::path::{Path, PathBuf};
use std::process::Command;

use refloat_store::{Key, Options, PosixStore, Store, StoreErrorKind, read_whole};
use refloat_types::Explain as _;

use crate::child::body;

const MIB: usize = 1 << 20;

/// A file system in memory, gone when this is dropped.
struct SmallFileSystem(tempfile::TempDir);

impl SmallFileSystem {
    /// `None`, said loudly, when this user may not mount.
    fn mount(options: &str) -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "refloat-test"]).arg(place.path());
        if rustix::process::geteuid().is_root()
            && command.output().is_ok_and(|output| output.status.success())
        {
            return Some(Self(place));
        }
        eprintln!("SKIPPED: a small file system cannot be mounted by this user");
        None
    }
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn remount(&self, options: &str) {
        let mut command = Command::new("mount");
        let output = command.args(["-o", &format!("remount,{options}")]).arg(self.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// Every file below, the store's own included.
fn files_below(place: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(place).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

#[test]
fn a_full_disk_refuses_cleanly_and_works_again_when_there_is_space() {
    let Some(disk) = SmallFileSystem::mount("size=8m,mode=755") else { return };
    let store =
        PosixStore::open(disk.path().join("repository"), Options { create: true, ..Options::default() })
            .unwrap();
    let names: Vec<String> = (0..20).map(|i| format!("packs/{i}")).collect();
    let stored = names.iter().take_while(|name| store.put_new(&key(name), &body(name, MIB)).is_ok()).count();
    assert!((6..9).contains(&stored), "{stored} objects of 1 MiB in 8 MiB");
    let whole = files_below(disk.path());
    assert_eq!(whole.len(), stored, "{whole:?}");

    let error = store.put_new(&key("packs/next"), &body("packs/next", MIB)).unwrap_err();
    assert_eq!((error.kind, error.advice().code), (StoreErrorKind::NoSpace, "STO-004"));
    // A stream notices in the middle; writing on, and finishing, stay refused.
    let mut writer = store.create(&key("packs/streamed")).unwrap();
    let refused = (0..20).map(|_| writer.write(&body("packs/streamed", MIB))).find_map(Result::err).unwrap();
    assert_eq!(refused.kind, StoreErrorKind::NoSpace);
    assert!(writer.write(b"").is_err());
    assert!(writer.finish().is_err());
    assert_eq!(files_below(disk.path()), whole, "what failed left something");
    assert!(store.space().unwrap().unwrap().free < MIB as u64 * 2);

    store.delete(&key("packs/0")).unwrap();
    store.put_new(&key("packs/next"), &body("packs/next", MIB)).unwrap();
    for name in names[1..stored].iter().map(String::as_str).chain(["packs/next"]) {
        assert_eq!(read_whole(&store, &key(name), 2 << 20).unwrap(), body(name, MIB));
    }
}

#[test]
fn a_disk_without_room_for_one_more_file_is_full_too() {
    let Some(disk) = SmallFileSystem::mount("nr_inodes=14,mode=755") else { return };
    let store = PosixStore::open(disk.path(), Options::default()).unwrap();
    let put = |i: usize| store.put_new(&key(&format!("d/{i}/x")), b"x").map_err(|e| e.kind);
    let stored = (0..14).take_while(|&i| put(i).is_ok()).count();
    assert!((2..14).contains(&stored));
    assert_eq!(put(stored), Err(StoreErrorKind::NoSpace));
    assert_eq!(files_below(disk.path()).len(), stored);
    // Here a second name of a file needs as much room as a file.
    store.delete(&key("d/0/x")).unwrap();
    store.delete(&key("d/1/x")).unwrap();
    store.put_new(&key("d/0/y"), b"y").unwrap();
}

#[test]
fn a_read_only_disk_can_be_read() {
    let Some(disk) = SmallFileSystem::mount("size=8m,mode=755") else { return };
    let store = PosixStore::open(disk.path(), Options::default()).unwrap();
    store.put_new(&key("d/x"), b"x").unwrap();
    disk.remount("ro");
    for error in [
        store.put_new(&key("d/y"), b"y").unwrap_err(),
        store.put_new(&key("e/y"), b"y").unwrap_err(),
        store.delete(&key("d/x")).unwrap_err(),
        store.create(&key("d/y")).err().unwrap(),
    ] {
        assert_eq!((error.kind, error.advice().code), (StoreErrorKind::ReadOnly, "STO-005"), "{error}");
    }
    assert_eq!(store.put_new(&key("d/x"), b"x").unwrap_err().kind, StoreErrorKind::AlreadyExists);
    assert_eq!(read_whole(&store, &key("d/x"), 9).unwrap(), b"x");
    disk.remount("rw");
    store.put_new(&key("d/y"), b"y").unwrap();
}
