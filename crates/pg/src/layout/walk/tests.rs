use std::fs;
use std::os::unix::fs::symlink;

use super::*;

const VERSION: &str = "PG_15_202209061";

/// A directory with these files; a name that ends in a slash is a directory.
fn tree(names: &[&str]) -> tempfile::TempDir {
    let top = tempfile::tempdir().expect("temporary directory");
    for name in names {
        let path = top.path().join(name);
        if name.ends_with('/') {
            fs::create_dir_all(path).expect("made");
        } else {
            fs::create_dir_all(path.parent().expect("not the root")).expect("made");
            fs::write(path, name).expect("written");
        }
    }
    top
}

fn paths(top: &Path, scope: Scope) -> Vec<String> {
    Walk::new(top, VERSION, scope)
        .expect("readable")
        .map(|entry| String::from_utf8_lossy(&entry.expect("readable").path).into_owned())
        .collect()
}

#[test]
fn entries_come_in_the_order_of_their_paths() {
    let names = ["base/1/2", "base/1.x", "base/1-x", "base-x", "base/1/", "base/10/3", "a/b/c/d/e/f/g/h"];
    let top = tree(&names);
    let found = paths(top.path(), Scope::Backup);
    let mut sorted = found.clone();
    sorted.sort();
    assert_eq!(found, sorted);
    assert_eq!(found[0], "");
    for name in names {
        assert!(found.contains(&name.trim_end_matches('/').to_owned()), "{name}");
    }
    assert_eq!(found.len(), 17, "{found:?}");
}

#[test]
fn attributes_are_those_of_the_file() {
    let top = tree(&["base/1/16384"]);
    let file = fs::metadata(top.path().join("base/1/16384")).expect("there");
    let walk = Walk::new(top.path(), VERSION, Scope::Backup).expect("readable");
    let last = walk.last().expect("entries").expect("readable");
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((last.size, last.inode, last.device), (12, file.ino(), file.dev()));
    assert_eq!((last.uid, last.gid, last.mode), (file.uid(), file.gid(), file.mode() & 0o7777));
    assert_eq!(last.mtime_ns, file.mtime() * 1_000_000_000 + file.mtime_nsec());
    assert_eq!(last.ctime_ns, file.ctime() * 1_000_000_000 + file.ctime_nsec());
    assert_eq!(last.kind, Kind::File);
}

#[test]
fn unlogged_relations_lose_all_but_their_init_fork() {
    let top = tree(&[
        "base/1/16384",
        "base/1/16384.1",
        "base/1/16384_fsm",
        "base/1/16384_init",
        "base/1/16385",
        "base/2/16384",
    ]);
    let found = paths(top.path(), Scope::Backup);
    let expected = ["", "base", "base/1", "base/1/16384_init", "base/1/16385", "base/2", "base/2/16384"];
    assert_eq!(found, expected);
    let walk = Walk::new(top.path(), VERSION, Scope::All).expect("readable");
    let unlogged = FileClass::Excluded(Excluded::UnloggedRelation);
    assert_eq!(walk.filter(|entry| entry.as_ref().is_ok_and(|e| e.class == unlogged)).count(), 3);
}

#[test]
fn directories_without_contents_are_kept_and_links_to_them_followed() {
    let elsewhere = tree(&["wal/000000010000000000000001", "wal/archive_status/x.ready", "tmp/global.stat"]);
    let top = tree(&["pg_notify/0000", "pg_replslot/slot/state", "postmaster.pid", "log/a"]);
    symlink(elsewhere.path().join("wal"), top.path().join("pg_wal")).expect("made");
    symlink(elsewhere.path().join("tmp"), top.path().join("pg_stat_tmp")).expect("made");
    symlink(elsewhere.path(), top.path().join("other")).expect("made");
    let found: Vec<Entry> = Walk::new(top.path(), VERSION, Scope::Backup)
        .expect("readable")
        .map(|entry| entry.expect("readable"))
        .collect();
    let names: Vec<_> = found.iter().map(|e| String::from_utf8_lossy(&e.path).into_owned()).collect();
    let expected = [
        "",
        "log",
        "log/a",
        "other",
        "pg_notify",
        "pg_replslot",
        "pg_stat_tmp",
        "pg_wal",
        "pg_wal/archive_status",
    ];
    assert_eq!(names, expected);
    assert!(
        matches!(&found[3].kind, Kind::Symlink { target } if target == elsewhere.path().as_os_str().as_bytes())
    );
    assert!(matches!(&found[6].kind, Kind::DirectoryLink { .. }));
    assert!(matches!(&found[7].kind, Kind::DirectoryLink { .. }));
    let all = paths(top.path(), Scope::All);
    for name in [
        "pg_wal/archive_status/x.ready",
        "pg_stat_tmp/global.stat",
        "pg_replslot/slot/state",
        "postmaster.pid",
    ] {
        assert!(all.contains(&name.to_owned()), "{name}");
    }
}

#[test]
fn tablespaces_are_followed_to_the_files_of_this_version() {
    let outside = tree(&["PG_15_202209061/5/16400", "PG_14_202107181/5/16400", "stray"]);
    let top = tree(&[
        "pg_tblspc/16386/PG_15_202209061/5/16401",
        "inside/PG_15_202209061/5/16402",
        "inside/PG_15_202209061/5/t3_9",
    ]);
    let link =
        |oid: &str, target: &Path| symlink(target, top.path().join("pg_tblspc").join(oid)).expect("made");
    link("16385", outside.path());
    link("16387", &top.path().join("inside"));
    let expected = [
        "",
        "inside",
        "pg_tblspc",
        "pg_tblspc/16385",
        "pg_tblspc/16385/PG_15_202209061",
        "pg_tblspc/16385/PG_15_202209061/5",
        "pg_tblspc/16385/PG_15_202209061/5/16400",
        "pg_tblspc/16386",
        "pg_tblspc/16386/PG_15_202209061",
        "pg_tblspc/16386/PG_15_202209061/5",
        "pg_tblspc/16386/PG_15_202209061/5/16401",
        "pg_tblspc/16387",
        "pg_tblspc/16387/PG_15_202209061",
        "pg_tblspc/16387/PG_15_202209061/5",
        "pg_tblspc/16387/PG_15_202209061/5/16402",
    ];
    assert_eq!(paths(top.path(), Scope::Backup), expected);
    let all = paths(top.path(), Scope::All);
    assert!(all.contains(&"pg_tblspc/16385/PG_14_202107181".to_owned()), "seen and named");
    assert!(!all.iter().any(|path| path.starts_with("pg_tblspc/16385/PG_14_202107181/")), "never entered");
}

#[test]
fn a_lost_tablespace_is_an_error() {
    let unmounted = tempfile::tempdir().expect("temporary directory");
    for target in [unmounted.path().to_owned(), unmounted.path().join("gone")] {
        let top = tree(&["pg_tblspc/"]);
        symlink(&target, top.path().join("pg_tblspc/16385")).expect("made");
        let error = Walk::new(top.path(), VERSION, Scope::Backup).expect("readable").find_map(Result::err);
        let error = error.expect("the tablespace has no files");
        assert_eq!(
            error.to_string(),
            format!("tablespace 16385 has no directory PG_15_202209061 in {}", target.display())
        );
        assert_eq!(error.advice().code, "FILE-007");
    }
}

#[test]
fn what_vanishes_during_the_walk_is_left_out() {
    let top = tree(&["a", "b", "c/d", "c/e", "f"]);
    let mut walk = Walk::new(top.path(), VERSION, Scope::Backup).expect("readable");
    assert_eq!(walk.next().expect("the top").expect("readable").path, b"");
    fs::remove_file(top.path().join("b")).expect("removed");
    fs::remove_dir_all(top.path().join("c")).expect("removed");
    let rest: Vec<Vec<u8>> = walk.map(|entry| entry.expect("no error").path).collect();
    assert_eq!(rest, [b"a", b"f"]);
}

#[test]
fn odd_names_and_special_files_are_told() {
    let top = tree(&["plain"]);
    let odd = OsStr::from_bytes(b"odd\xff\n name");
    fs::write(top.path().join(odd), "x").expect("written");
    let _socket = std::os::unix::net::UnixListener::bind(top.path().join("socket")).expect("bound");
    symlink("nowhere", top.path().join("dangling")).expect("made");
    let found: Vec<Entry> = Walk::new(top.path(), VERSION, Scope::Backup)
        .expect("readable")
        .map(|entry| entry.expect("readable"))
        .collect();
    let kinds: Vec<(&[u8], &Kind)> = found[1..].iter().map(|e| (e.path.as_slice(), &e.kind)).collect();
    let dangling = Kind::Symlink { target: b"nowhere".to_vec() };
    let expected: [(&[u8], &Kind); 4] = [
        (b"dangling", &dangling),
        (b"odd\xff\n name", &Kind::File),
        (b"plain", &Kind::File),
        (b"socket", &Kind::Special),
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn a_missing_directory_is_an_error() {
    let top = tree(&[]);
    let error = Walk::new(&top.path().join("no"), VERSION, Scope::Backup).err().expect("not there");
    assert_eq!(error.to_string(), format!("could not read {}", top.path().join("no").display()));
    assert_eq!(error.advice().code, "FILE-006");
}
