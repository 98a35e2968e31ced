//! A power cut at any moment: what was acknowledged is whole, everything else is whole or absent.
//!
//! A process that puts objects runs under strace; its system calls are the record. A model of a file system then tells,
//! for the moment after each call, everything that may be on the disk when the power goes: what was not synced may be
//! there, or not, or in part, in any combination. Each of these states is made real in a directory and opened as a store.

mod model;
mod record;

use std::collections::BTreeSet;
use std::path::Path;

use refloat_store::{Key, Options, PosixStore, Store, StoreErrorKind, read_whole};

use crate::child::{answers, body, run};
use model::{Disk, State};
use record::{Event, strace, traced};

const LENGTH: usize = 5000;

/// Replays a record and cuts the power after every event. What is wrong, in words; empty when nothing is.
fn violations(events: &[Event], lengths: &[(&str, usize)]) -> BTreeSet<String> {
    let mut disk = Disk::default();
    let mut acknowledged = BTreeSet::new();
    let mut wrong = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for (number, event) in events.iter().enumerate() {
        if let Event::Answer { key } = event {
            acknowledged.insert(key.clone());
        } else {
            disk.apply(event);
        }
        for state in disk.states_after_a_cut() {
            // The same state with the same promises was looked at before.
            if seen.insert((state.clone(), acknowledged.len())) {
                for problem in problems(&state, &acknowledged, lengths) {
                    wrong.insert(format!("cut after call {number} ({event:?}): {problem}"));
                }
            }
        }
    }
    assert!(seen.len() > 5, "only {} states were looked at", seen.len());
    wrong
}

/// Makes `state` real and looks at it as a store.
fn problems(state: &State, acknowledged: &BTreeSet<String>, lengths: &[(&str, usize)]) -> Vec<String> {
    let place = tempfile::tempdir().unwrap();
    state.make_real(place.path(), body);
    let store = PosixStore::open(place.path(), Options::default()).unwrap();
    let mut problems = Vec::new();
    for (name, length) in lengths {
        let key: Key = name.parse().unwrap();
        let whole = body(name, *length);
        match read_whole(&store, &key, 1 << 20) {
            Ok(bytes) if bytes == whole => {}
            Ok(bytes) => problems.push(format!("{name} holds {} bytes, not the {length} put", bytes.len())),
            Err(e) if e.kind == StoreErrorKind::NotFound && !acknowledged.contains(*name) => {}
            Err(e) => problems.push(format!("{name} was acknowledged: {e}: {}", e.source)),
        }
        // After the power is back the same object can be put, and temporary files do not stay.
        match store.put_new(&key, &whole) {
            Ok(()) => {}
            Err(e) if e.kind == StoreErrorKind::AlreadyExists => {}
            Err(e) => problems.push(format!("{name} cannot be put again: {e}: {}", e.source)),
        }
    }
    let cleaned = store.clean_temporary(std::time::Duration::ZERO).unwrap();
    if cleaned.kept > 0 {
        problems.push(format!("{} temporary files stay", cleaned.kept));
    }
    problems
}

/// Runs scripts one after the other on one store, and returns the record of all of them.
fn record_of(scripts: &[&str], extra: &[&str]) -> (Vec<Event>, Vec<String>) {
    let root = tempfile::tempdir().unwrap();
    let mut events = Vec::new();
    let mut said = Vec::new();
    for script in scripts {
        let trace = tempfile::NamedTempFile::new().unwrap();
        let output = run(&strace(trace.path(), extra), root.path(), script);
        said.extend(answers(&output));
        events.extend(traced(&std::fs::read_to_string(trace.path()).unwrap(), root.path()));
    }
    (events, said)
}

fn assert_survives(events: &[Event], lengths: &[(&str, usize)]) {
    let wrong = violations(events, lengths);
    assert!(wrong.is_empty(), "{wrong:#?}\nin the record {events:#?}");
}

const FIRST: &str = "wal/7/1/first";
const SECOND: &str = "wal/7/1/second";

#[test]
fn acknowledged_objects_survive_every_cut() {
    if refloat_testkit::skip_without_strace() {
        return;
    }
    let script = format!("put {FIRST} {LENGTH}\nput {SECOND} {LENGTH}\nstream packs/3f/third {LENGTH}\n");
    let (events, said) = record_of(&[&script], &[]);
    assert_eq!(
        said,
        [format!("put {FIRST} ok"), format!("put {SECOND} ok"), "stream packs/3f/third ok".to_owned()]
    );
    assert_survives(&events, &[(FIRST, LENGTH), (SECOND, LENGTH), ("packs/3f/third", LENGTH)]);

    // In a directory that is there already: one sync of the file, one of the directory, for its two changes.
    let of_second = events.split(|e| matches!(e, Event::Answer { .. })).nth(1).unwrap();
    let syncs = of_second.iter().filter(|e| matches!(e, Event::Sync { .. })).count();
    assert_eq!(syncs, 2, "{of_second:#?}");
}

#[test]
fn every_sync_is_needed_and_the_model_knows() {
    if refloat_testkit::skip_without_strace() {
        return;
    }
    let (events, said) = record_of(&[&format!("put {FIRST} {LENGTH}\n")], &[]);
    assert_eq!(said, [format!("put {FIRST} ok")]);
    let is_sync = |i: &usize| matches!(events[*i], Event::Sync { .. });
    let syncs: Vec<usize> = (0..events.len()).filter(is_sync).collect();
    assert_eq!(syncs.len(), 5, "three new directories, the file, its directory: {events:#?}");
    for sync in syncs {
        let mut without = events.clone();
        let dropped = without.remove(sync);
        assert!(!violations(&without, &[(FIRST, LENGTH)]).is_empty(), "nobody misses {dropped:?}");
    }
    // Linked before it is synced: visible and not whole.
    let link = events.iter().position(|e| matches!(e, Event::Link { .. })).unwrap();
    let mut swapped = events.clone();
    swapped.swap(link, link - 1);
    assert!(matches!(swapped[link], Event::Sync { .. }));
    let wrong = violations(&swapped, &[(FIRST, LENGTH)]);
    assert!(wrong.iter().any(|w| w.contains("bytes, not the")), "{wrong:#?}");
    // Acknowledged a moment too early.
    let mut early = events.clone();
    let answer = early.len() - 1;
    assert!(matches!(early[answer], Event::Answer { .. }));
    early.swap(answer, answer - 1);
    assert!(!violations(&early, &[(FIRST, LENGTH)]).is_empty());
}

#[test]
fn a_writer_killed_before_its_answer_leaves_no_trap_for_the_next() {
    if refloat_testkit::skip_without_strace() {
        return;
    }
    for point in ["put.after_fsync", "put.after_link", "put.after_unlink", "put.after_sync"] {
        let killed = format!("arm store.posix.{point}=kill\nput {FIRST} {LENGTH}\n");
        for again in ["put", "settle"] {
            let (mut events, said) = record_of(&[&killed, &format!("{again} {FIRST} {LENGTH}\n")], &[]);
            let answer = said.last().unwrap();
            let linked = point != "put.after_fsync";
            let expected = match (again, linked) {
                ("put", true) => "AlreadyExists",
                ("settle", false) => "NotFound",
                _ => "ok",
            };
            let said_as_expected = answer.starts_with(&format!("{again} {FIRST} {expected}"));
            assert!(said.len() == 1 && said_as_expected, "{point}, then {again}: {said:?}");
            if expected == "AlreadyExists" {
                // The pusher compares the contents, finds its own, and acknowledges.
                events.push(Event::Answer { key: FIRST.to_owned() });
            }
            assert_survives(&events, &[(FIRST, LENGTH)]);
        }
    }
}

#[test]
fn a_directory_that_a_dead_process_made_holds_what_the_next_puts() {
    if refloat_testkit::skip_without_strace() {
        return;
    }
    for point in ["after_mkdir", "after_sync", "after_chmod"] {
        for level in 1..=3 {
            let killed = format!("arm store.posix.mkdir.{point}=kill@{level}\nput {FIRST} {LENGTH}\n");
            let (events, said) = record_of(&[&killed, &format!("put {SECOND} {LENGTH}\n")], &[]);
            assert_eq!(said, [format!("put {SECOND} ok")], "{point} {level}");
            assert_survives(&events, &[(FIRST, LENGTH), (SECOND, LENGTH)]);
        }
    }
}

#[test]
fn without_hard_links_objects_are_renamed_into_place() {
    if refloat_testkit::skip_without_strace() {
        return;
    }
    let script = format!("put {FIRST} {LENGTH}\nput {FIRST} 10\nstream {SECOND} {LENGTH}\n");
    let (events, said) = record_of(&[&script], &["-e", "inject=linkat:error=EPERM"]);
    let exists = format!("put {FIRST} AlreadyExists: entity already exists");
    assert_eq!(said, [format!("put {FIRST} ok"), exists, format!("stream {SECOND} ok")]);
    assert!(events.iter().any(|e| matches!(e, Event::Rename { .. })));
    assert_survives(&events, &[(FIRST, LENGTH), (SECOND, LENGTH)]);

    let neither = ["-e", "inject=linkat:error=EOPNOTSUPP", "-e", "inject=renameat2:error=EINVAL"];
    let (events, said) = record_of(&[&format!("put {FIRST} {LENGTH}\n")], &neither);
    let refused = "this file system knows neither hard links nor renaming without replacing, so it cannot create a \
                   file safely";
    assert_eq!(said, [format!("put {FIRST} Other: {refused}")]);
    assert_survives(&events, &[]);
}

#[test]
fn a_failed_sync_is_the_end_of_that_file() {
    if refloat_testkit::skip_without_strace() {
        return;
    }
    // Number 4 is the sync of the file, after those for three new directories; number 5 that of its directory.
    for (number, events_after) in [(4, "nothing"), (5, "the object")] {
        let inject = format!("inject=fsync:error=EIO:when={number}");
        let root = tempfile::tempdir().unwrap();
        let trace = tempfile::NamedTempFile::new().unwrap();
        let script = format!("put {FIRST} {LENGTH}\n");
        let output = run(&strace(trace.path(), &["-e", &inject]), root.path(), &script);
        let said = answers(&output);
        assert_eq!(said, [format!("put {FIRST} Other: Input/output error (os error 5)")]);
        let text = std::fs::read_to_string(trace.path()).unwrap();
        let of_the_file = text.lines().filter(|l| l.contains("fsync(") && l.contains("/.refloat-")).count();
        assert_eq!(of_the_file, 1, "an fsync that failed was repeated:\n{text}");
        let left = files_in(&root.path().join("wal/7/1"));
        assert_eq!(left, if events_after == "nothing" { vec![] } else { vec!["first".to_owned()] });
    }
}

fn files_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
