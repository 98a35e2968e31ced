//! What the world may do to a directory, and the one clear answer to each.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use refloat_store::{
    Backoff, Deadline, Key, Limits, Options, PosixStore, Retry, Store, StoreErrorKind, open_url, read_whole,
};
use refloat_types::Explain as _;

use crate::child::{answers, run};

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(String::from).collect()
}

#[test]
fn rights_do_not_depend_on_the_umask() {
    for umask in ["000", "022", "077", "777"] {
        let root = tempfile::tempdir().unwrap();
        let mut shell = words("sh -c");
        shell.extend([format!("umask {umask}; exec \"$@\""), "sh".to_owned()]);
        let said = answers(&run(&shell, root.path(), "put a/b/x 10\nstream a/c/y 10\n"));
        assert_eq!(said, ["put a/b/x ok", "stream a/c/y ok"], "umask {umask}");
        let below = |name: &str| mode(&root.path().join(name));
        assert_eq!(["a", "a/b", "a/c"].map(below), [0o750; 3], "umask {umask}");
        assert_eq!(["a/b/x", "a/c/y"].map(below), [0o640; 2], "umask {umask}");
    }
}

#[test]
fn what_root_makes_can_be_given_away() {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let owner = if uid == 0 { (65534, 65534) } else { (uid, gid) };
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("new/repository");
    let options = Options { create: true, owner: Some(owner), ..Options::default() };
    PosixStore::open(&root, options).unwrap().put_new(&key("a/x"), b"x").unwrap();
    for path in ["new", "new/repository", "new/repository/a", "new/repository/a/x"] {
        let found = std::fs::metadata(place.path().join(path)).unwrap();
        assert_eq!((found.uid(), found.gid()), owner, "{path}");
    }
    assert_eq!(mode(&root), 0o750);
}

#[test]
fn a_directory_that_may_not_be_written_is_denied() {
    let root = tempfile::tempdir().unwrap();
    PosixStore::open(root.path(), Options::default()).unwrap().put_new(&key("d/x"), b"x").unwrap();
    std::fs::set_permissions(root.path().join("d"), std::fs::Permissions::from_mode(0o550)).unwrap();
    // Root may write everywhere, unless it gives that right up.
    let wrapper = if rustix::process::geteuid().is_root() {
        words(
            "setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-dac_override,-dac_read_search",
        )
    } else {
        Vec::new()
    };
    // It was not made by a store, so its mode says nothing, and is mended where that is possible.
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
    let said = answers(&run(&wrapper, root.path(), "put e/x 1\ndelete d/x\n"));
    assert_eq!(said[0], "put e/x Denied: Permission denied (os error 13)");
    assert_eq!(said[1], "delete d/x Denied: Permission denied (os error 13)");
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn without_free_descriptors_there_is_an_error_and_then_work_again() {
    let root = tempfile::tempdir().unwrap();
    for left in 0..4 {
        let script = format!("leave-files {left}\nput a/b/{left} 10\nrelease-files\nput a/b/{left} 10\n");
        let said = answers(&run(&words("prlimit --nofile=64:64"), root.path(), &script));
        let refused = format!("put a/b/{left} Exhausted: Too many open files (os error 24)");
        let enough = said[0].ends_with(" ok");
        assert!(said[0] == refused || enough, "{said:?}");
        assert_eq!(said[1].ends_with(" ok"), !enough, "{said:?}");
        assert!(left > 0 || !enough);
    }
    let store = PosixStore::open(root.path(), Options::default()).unwrap();
    assert_eq!(store.clean_temporary(Duration::ZERO).unwrap(), refloat_store::posix::Cleaned::default());
}

#[test]
fn a_directory_removed_below_us_is_no_empty_store() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("repository");
    let store = PosixStore::open(&root, Options { create: true, ..Options::default() }).unwrap();
    store.put_new(&key("x"), b"x").unwrap();
    std::fs::remove_dir_all(&root).unwrap();
    let kinds = [
        store.head(&key("x")).map(drop).map_err(|e| e.kind),
        store.list("", &mut |_| std::ops::ControlFlow::Continue(())).map_err(|e| e.kind),
        store.read(&key("x"), 0..1, &mut Vec::new()).map_err(|e| e.kind),
        store.delete(&key("x")).map_err(|e| e.kind),
    ];
    assert_eq!(kinds, [Err(StoreErrorKind::Unreachable); 4]);
    assert!(store.put_new(&key("y"), b"y").is_err());
}

#[test]
fn strange_things_in_the_directory_neither_hang_nor_count() {
    let root = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let store = PosixStore::open(root.path(), Options::default()).unwrap();
    let fifo = root.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    std::fs::create_dir(root.path().join("lost+found")).unwrap();
    std::fs::write(root.path().join("name with space"), b"").unwrap();
    std::os::unix::fs::symlink("nowhere", root.path().join("dangling")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), root.path().join("packs")).unwrap();
    store.put_new(&key("packs/3f/x"), b"on another disk").unwrap();
    let mut names = Vec::new();
    let collect = &mut |object: refloat_store::ObjectInfo| {
        names.push(object.key.to_string());
        std::ops::ControlFlow::Continue(())
    };
    store.list("", collect).unwrap();
    assert_eq!(names, ["packs/3f/x"]);
    assert_eq!(read_whole(&store, &key("packs/3f/x"), 99).unwrap(), b"on another disk");
    assert_eq!(store.head(&key("fifo")).unwrap(), None);
    let error = store.read(&key("fifo"), 0..1, &mut Vec::new()).unwrap_err();
    assert_eq!(error.source.to_string(), "it is not a regular file");
    assert_eq!(store.put_new(&key("fifo"), b"").unwrap_err().kind, StoreErrorKind::AlreadyExists);
    assert_eq!(store.put_new(&key("dangling"), b"").unwrap_err().kind, StoreErrorKind::AlreadyExists);
}

#[test]
fn opening_tells_what_is_wrong() {
    let place = tempfile::tempdir().unwrap();
    let url = |name: &str| format!("file://{}/{name}", place.path().display());
    let open = |name: &str, options| open_url(&url(name), options).err().unwrap();
    std::fs::write(place.path().join("file"), b"").unwrap();
    let missing = open("missing", Options::default());
    assert_eq!(missing.to_string(), format!("could not open \"\" in {}", url("missing")));
    assert_eq!(missing.advice().code, "STO-001");
    assert_eq!(open("file", Options::default()).advice().code, "STO-009");
    assert_eq!(
        open("missing", Options { create: true, read_only: true, owner: None }).advice().code,
        "STO-001"
    );
    assert!(!place.path().join("missing").exists());
    assert!(PosixStore::open("relative", Options::default()).is_err());

    let store = open_url(&url("a/new/one"), Options { create: true, ..Options::default() }).unwrap();
    assert_eq!(store.describe(), url("a/new/one"));
    store.put_new(&key("x"), b"x").unwrap();
    let reader = open_url(&url("a/new/one"), Options { read_only: true, ..Options::default() }).unwrap();
    assert_eq!(read_whole(&reader, &key("x"), 1).unwrap(), b"x");
    reader.settle(&key("x")).unwrap();
    assert_eq!(reader.put_new(&key("y"), b"").unwrap_err().kind, StoreErrorKind::ReadOnly);
    assert_eq!(reader.delete(&key("x")).unwrap_err().kind, StoreErrorKind::ReadOnly);
    let boxed = Retry::new(Deadline::new(reader, Limits::default()), Backoff::default());
    assert_eq!(boxed.create(&key("y")).err().unwrap().kind, StoreErrorKind::ReadOnly);
}
