//! The server's side, from a directory made by hand; repositories are looked at in the tests on real servers.

use super::*;
use crate::locked::{LOCK_FILE, Purpose};

#[test]
fn what_waits_is_counted() {
    let data = tempfile::tempdir().unwrap();
    let waiting = data.path().join("pg_wal/archive_status");
    fs::create_dir_all(&waiting).unwrap();
    assert!(server(Path::new("/nonexistent")).is_err());
    let none = server(data.path()).unwrap();
    assert_eq!((none.ready, none.oldest_ready, none.waiting_since, none.locked), (0, None, None, None));
    for name in ["000000010000000000000004", "000000010000000000000003", "00000002.history"] {
        fs::write(waiting.join(format!("{name}.ready")), "").unwrap();
    }
    fs::write(waiting.join("000000010000000000000002.done"), "").unwrap();
    fs::write(data.path().join("pg_wal/000000010000000000000003"), vec![1; 5000]).unwrap();
    fs::write(data.path().join("pg_wal/000000010000000000000004"), vec![1; 500]).unwrap();
    let some = server(data.path()).unwrap();
    assert_eq!((some.ready, some.pg_wal_bytes), (3, 5500));
    assert_eq!(some.oldest_ready, "000000010000000000000003".parse().ok());
    assert!(some.waiting_since.is_some() && some.free_bytes > 0);

    let lock = Locked {
        restore: "r".to_owned(),
        source: "prod".to_owned(),
        backup: "k7m2qxw4".to_owned(),
        at: "2026-11-20T03:31:00Z".parse().unwrap(),
        purpose: Purpose::Undecided,
        system: SystemIdentifier(1),
    };
    lock.write(data.path()).unwrap();
    assert_eq!(server(data.path()).unwrap().locked, Some(lock));
    fs::write(data.path().join(LOCK_FILE), "{").unwrap();
    assert!(server(data.path()).unwrap().lock_unreadable.is_some());
}
