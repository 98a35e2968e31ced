//! When "not found" may be said, and when it must not.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use refloat_engine::wal::{FetchError, FetchOptions, fetch};
use refloat_store::{PosixStore, StoreErrorKind};
use refloat_testkit::cluster::skip_without;
use refloat_testkit::fault_plan::{Effect, FaultPlan, Faulty, On, Rule};
use refloat_types::Explain as _;

use super::fixture::{Place, Source, TABLE, fetch_now, name};

/// Four segments, and a repository with all of them.
fn four() -> (Source, Place, Vec<String>) {
    let (source, place) = (Source::new(), Place::new());
    let files: Vec<String> = (0..4).map(|_| source.segment(TABLE)).collect();
    for file in &files {
        source.push(&place.repository, file).unwrap();
    }
    (source, place, files)
}

fn code(result: Result<fetch::Fetched, FetchError>) -> (u8, &'static str) {
    let error = result.expect_err("it is not there");
    (error.exit_code(false), error.advice().code)
}

#[test]
fn not_found_is_said_at_the_end_only() {
    if skip_without(15) {
        return;
    }
    let (source, place, files) = four();
    let dest = place.directory.path().join("RECOVERYXLOG");
    let ask = |file: &str| code(fetch_now(&[&place.repository], source.system, file, &dest));
    let next: refloat_types::WalSegmentName = files[3].parse().unwrap();
    let next = next.next(refloat_types::WalSegmentSize::DEFAULT);
    assert_eq!(ask(&next.to_string()), (1, "WAL-030"));
    assert_eq!(ask("000000010000000100000000"), (1, "WAL-030"), "in another directory");
    assert_eq!(ask("00000002.history"), (1, "WAL-030"), "nobody was promoted");
    assert_eq!(ask(&format!("{}.partial", files[3])), (1, "WAL-030"));
    // A hole: the file itself, and all before the first.
    for object in place.objects(&files[1]) {
        fs::remove_file(object).unwrap();
    }
    assert_eq!(ask(&files[1]), (255, "WAL-031"));
    assert_eq!(ask("000000010000000000000000"), (255, "WAL-031"));
    // All greater numbers are seen, in whatever digit and directory they differ.
    let only = place.objects(&files[3]);
    let moved = place.store.join("wal").join(source.system.to_string()).join("00000001/00000F00");
    fs::create_dir_all(&moved).unwrap();
    let digest = only[0].file_name().unwrap().to_string_lossy().rsplit_once('-').unwrap().1.to_owned();
    for object in place.objects("0000") {
        fs::remove_file(object).unwrap();
    }
    fs::write(moved.join(format!("0000000100000F00000000A0-{digest}")), "x").unwrap();
    for file in [
        "000000010000000000000001",
        "0000000100000EFF000000FF",
        "0000000100000F000000009F",
        "0000000100000F0000000001",
    ] {
        assert_eq!(ask(file), (255, "WAL-031"), "{file}");
    }
    for file in [
        "0000000100000F00000000A1",
        "0000000100000F00000000B0",
        "0000000100000F0100000000",
        "000000020000000000000001",
    ] {
        assert_eq!(ask(file), (1, "WAL-030"), "{file}");
    }
    // WAL of a timeline whose history is missing.
    let second = place.store.join("wal").join(source.system.to_string()).join("00000002/00000000");
    fs::create_dir_all(&second).unwrap();
    fs::write(second.join(format!("000000020000000000000005-{digest}")), "x").unwrap();
    assert_eq!(ask("00000002.history"), (255, "WAL-031"));
    assert_eq!(ask("00000003.history"), (1, "WAL-030"));
    assert!(!dest.exists());
}

#[test]
fn what_cannot_be_asked_or_opened_stops_recovery_and_heals() {
    if skip_without(15) {
        return;
    }
    let (source, place, files) = four();
    let dest = place.directory.path().join("RECOVERYXLOG");
    let plan = FaultPlan::new();
    let posix = PosixStore::open(&place.store, refloat_store::Options::default()).unwrap();
    let repository = place.opened(Arc::new(Faulty::new(posix, &plan)), "faulty");
    let next = "0000000100000000000000FF";
    for (on, effect) in [
        (On::List, Effect::Refuse(StoreErrorKind::Unreachable)),
        (On::List, Effect::LoseAnswer),
        (On::List, Effect::Refuse(StoreErrorKind::Denied)),
        (On::Read, Effect::Refuse(StoreErrorKind::Unreachable)),
        (On::Read, Effect::Flip(70_000)),
        (On::Read, Effect::Flip(3)),
        (On::Read, Effect::Truncate(5000)),
        (On::Read, Effect::Lie),
    ] {
        plan.clear();
        plan.add(Rule::new(on, effect).key("wal/"));
        let error = fetch_now(&[&repository], source.system, &files[0], &dest).unwrap_err();
        assert_eq!((error.exit_code(false), error.exit_code(true)), (255, 1), "{on:?} {effect:?}: {error}");
        if on == On::List {
            for file in [next, "00000002.history"] {
                let error = fetch_now(&[&repository], source.system, file, &dest).unwrap_err();
                assert_eq!(error.exit_code(false), 255, "{on:?} {effect:?} {file}: {error}");
            }
        }
        assert!(!dest.exists());
        // Another repository has it.
        let done = fetch_now(&[&repository, &place.repository], source.system, &files[0], &dest).unwrap();
        assert_eq!(done.passed_over.len(), 1);
        fs::remove_file(&dest).unwrap();
    }
    // It is asked again until the deadline, and heals meanwhile.
    plan.clear();
    plan.add(Rule::new(On::List, Effect::Refuse(StoreErrorKind::Unreachable)).key("wal/").first(2));
    let options =
        FetchOptions { system: source.system, deadline: Duration::from_secs(20), is_standby: false };
    fetch(&[&repository], &options, name(&files[0]), &dest).unwrap();
    assert_eq!(fs::read(&dest).unwrap(), fs::read(source.path(&files[0])).unwrap());
    // A standby asks again by itself.
    plan.add(Rule::new(On::List, Effect::Refuse(StoreErrorKind::Unreachable)).key("wal/"));
    let options = FetchOptions { is_standby: true, ..options };
    let begun = Instant::now();
    let error = fetch(&[&repository], &options, name(&files[0]), &dest).unwrap_err();
    assert!(error.exit_code(true) == 1 && begun.elapsed() < Duration::from_secs(5));
    // So does the deadline end: not at once, and not much later.
    let options = FetchOptions { deadline: Duration::from_millis(900), is_standby: false, ..options };
    let begun = Instant::now();
    assert!(fetch(&[&repository], &options, name(&files[0]), &dest).is_err());
    assert!((Duration::from_millis(300)..Duration::from_secs(5)).contains(&begun.elapsed()));
}

#[test]
fn without_a_key_or_a_place_nothing_is_pretended() {
    if skip_without(15) {
        return;
    }
    let (source, place, files) = four();
    let dest = place.directory.path().join("RECOVERYXLOG");
    // The envelopes are gone, and so is what this host remembers of its own key.
    let remembered = place.other_host("another");
    fs::remove_dir_all(place.store.join("keys/data")).unwrap();
    let error = fetch_now(&[&remembered], source.system, &files[0], &dest).unwrap_err();
    assert_eq!((error.exit_code(false), error.advice().code), (255, "WAL-033"), "{error}");
    // The host that wrote it still can.
    fetch_now(&[&place.repository], source.system, &files[0], &dest).unwrap();
    // Nowhere to write to.
    let nowhere = place.directory.path().join("missing/RECOVERYXLOG");
    let error = fetch_now(&[&place.repository], source.system, &files[0], &nowhere).unwrap_err();
    assert!(matches!(error, FetchError::Write { .. }) && error.exit_code(false) == 255);
    assert!(fetch_now(&[], source.system, &files[0], &dest).is_err_and(|e| e.exit_code(false) == 255));
    let leftovers: Vec<_> =
        fs::read_dir(place.directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(leftovers.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{leftovers:?}");
    // An unrelated repository with the same cluster's name knows nothing of it, and says so.
    let empty = Place::new();
    assert_eq!(code(fetch_now(&[&empty.repository], source.system, &files[0], &dest)), (1, "WAL-030"));
}

#[test]
fn a_forged_segment_is_refused() {
    if skip_without(15) {
        return;
    }
    let (source, place, files) = four();
    let dest = place.directory.path().join("RECOVERYXLOG");
    // Somebody with write access puts another repository's object, and then another segment's, in its place.
    let other = Place::new();
    source.push(&other.repository, &files[0]).unwrap();
    let object = place.objects(&files[0]).remove(0);
    for forged in [other.objects(&files[0]).remove(0), place.objects(&files[1]).remove(0)] {
        fs::copy(forged, &object).unwrap();
        let error = fetch_now(&[&place.repository], source.system, &files[0], &dest).unwrap_err();
        assert_eq!(error.exit_code(false), 255, "{error}");
        assert!(error.to_string().contains(files[0].as_str()) && !dest.exists());
    }
}
