//! Killed writers leave temporary files; living ones keep theirs.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use refloat_store::{Key, Options, PosixStore, Store, StoreErrorKind, read_whole};
use refloat_types::fault;

use crate::child::{answers, body, run};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

fn open(root: &Path) -> PosixStore {
    PosixStore::open(root, Options::default()).unwrap()
}

fn temporary_files(directory: &Path) -> usize {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with('.')).count()
}

#[test]
fn the_file_of_a_killed_writer_goes_at_once_that_of_a_living_one_never() {
    let root = tempfile::tempdir().unwrap();
    let output = run(&[], root.path(), "arm store.posix.put.after_write=kill@2\nstream a/b/killed 5000\n");
    assert!(answers(&output).is_empty());
    let store = open(root.path());
    let mut living = store.create(&key("a/b/living")).unwrap();
    living.write(b"1").unwrap();
    assert_eq!(temporary_files(&root.path().join("a/b")), 2);

    let cleaned = store.clean_temporary(YEAR).unwrap();
    assert_eq!((cleaned.removed, cleaned.bytes, cleaned.kept), (1, 4000, 1));
    let cleaned = store.clean_temporary(Duration::ZERO).unwrap();
    assert_eq!((cleaned.removed, cleaned.kept), (0, 1), "a lock outlasts any age");

    living.write(b"2").unwrap();
    living.finish().unwrap();
    assert_eq!(read_whole(&store, &key("a/b/living"), 9).unwrap(), b"12");
    assert_eq!(store.clean_temporary(Duration::ZERO).unwrap(), refloat_store::posix::Cleaned::default());
    assert_eq!(temporary_files(root.path()) + temporary_files(&root.path().join("a/b")), 0);
}

#[test]
fn files_of_other_hosts_must_also_be_old() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    store.put_new(&key("d/x"), b"x").unwrap();
    let foreign = root.path().join("d/.refloat-0123456789ab-1-0123456789abcdef");
    let file = File::create(&foreign).unwrap();
    assert_eq!(store.clean_temporary(YEAR).unwrap().kept, 1);
    file.set_modified(file.metadata().unwrap().modified().unwrap() - 2 * YEAR).unwrap();
    file.lock().unwrap();
    assert_eq!(store.clean_temporary(YEAR).unwrap().kept, 1);
    drop(file);
    // Whatever else begins with a dot belongs to somebody else.
    File::create(root.path().join("d/.other")).unwrap();
    assert_eq!(store.clean_temporary(YEAR).unwrap().removed, 1);
    assert!(!foreign.exists() && root.path().join("d/.other").exists());
    let read_only = PosixStore::open(root.path(), Options { read_only: true, ..Options::default() }).unwrap();
    assert_eq!(read_only.clean_temporary(YEAR).unwrap_err().kind, StoreErrorKind::ReadOnly);
}

#[test]
fn cleaning_beside_writers_harms_none() {
    let root = tempfile::tempdir().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let cleaner = scope.spawn(|| {
            let store = open(root.path());
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                store.clean_temporary(Duration::ZERO).unwrap();
            }
        });
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let root = root.path();
                scope.spawn(move || {
                    let store = open(root);
                    for i in 0..60 {
                        let name = format!("d/{writer}-{i}");
                        store.put_new(&key(&name), &body(&name, 3000)).unwrap();
                    }
                })
            })
            .collect();
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, std::sync::atomic::Ordering::Release);
        cleaner.join().unwrap();
        assert!(results.iter().all(Result::is_ok));
    });
    let store = open(root.path());
    for (writer, i) in (0..3).flat_map(|w| (0..60).map(move |i| (w, i))) {
        let name = format!("d/{writer}-{i}");
        assert_eq!(read_whole(&store, &key(&name), 9999).unwrap(), body(&name, 3000));
    }
    assert_eq!(temporary_files(&root.path().join("d")), 0);
}

#[test]
fn killed_at_every_point_nothing_half_done_is_visible() {
    let script = "put a/b/x 5000\nstream a/c/y 5000\ndelete a/b/x\n";
    // Which points there are, from a run in this process.
    {
        let root = tempfile::tempdir().unwrap();
        let store = PosixStore::open(root.path(), Options::default()).unwrap();
        store.put_new(&key("a/x"), b"x").unwrap();
        store.delete(&key("a/x")).unwrap();
    }
    let points: Vec<_> =
        fault::names_passed().into_iter().filter(|n| n.starts_with("store.posix.")).collect();
    assert_eq!(points.len(), 12, "{points:?}");
    for point in points {
        for action in ["kill@1", "kill@2", "error@1", "error@2"] {
            let root = tempfile::tempdir().unwrap();
            let output = run(&[], root.path(), &format!("arm {point}={action}\n{script}"));
            let said = answers(&output);
            let store = open(root.path());
            for (name, command) in [("a/b/x", "put"), ("a/c/y", "stream")] {
                let there = store.head(&key(name)).unwrap().is_some();
                if there {
                    assert_eq!(
                        read_whole(&store, &key(name), 9999).unwrap(),
                        body(name, 5000),
                        "{point}={action}"
                    );
                }
                let acknowledged = said.contains(&format!("{command} {name} ok"));
                let deleting = name == "a/b/x";
                assert!(
                    there || deleting || !acknowledged,
                    "{point}={action}: {name} was acknowledged, and is gone"
                );
            }
            let deleted = said.contains(&"delete a/b/x ok".to_owned());
            assert!(!deleted || store.head(&key("a/b/x")).unwrap().is_none());
            // The whole script works afterwards, and leaves no litter.
            let again = answers(&run(&[], root.path(), script));
            let passable = |line: &String| line.ends_with(" ok") || line.contains("AlreadyExists");
            assert!(again.len() == 3 && again.iter().all(passable), "{point}={action}: {again:?}");
            store.clean_temporary(YEAR).unwrap();
            for directory in ["a/b", "a/c"] {
                assert_eq!(temporary_files(&root.path().join(directory)), 0, "{point}={action}");
            }
        }
    }
}
