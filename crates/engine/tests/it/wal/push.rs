//! What is stored, what is refused, what is told.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use refloat_engine::locked::{Locked, Purpose};
use refloat_engine::wal::push::PushWarning;
use refloat_engine::wal::{ArchivedFacts, PushError, PushOptions, Pushed, one_line, push};
use refloat_repo::repository::{OwnerRecord, SourceDescription};
use refloat_store::{Deadline, Limits, PosixStore, StoreErrorKind};
use refloat_testkit::cluster::{TestCluster, skip_without};
use refloat_testkit::fault_plan::{Effect, FaultPlan, Faulty, On, Rule};
use refloat_testkit::memory_store::Memory;
use refloat_testkit::wal::change_one_record;
use refloat_types::{Explain as _, Lsn, SystemIdentifier, TimelineId};

use super::fixture::{Place, Source, TABLE, fetch_now, init, name, options};

fn stored(pushed: Pushed) -> push::Stored {
    match pushed {
        Pushed::Stored(stored) => stored,
        Pushed::Discarded { .. } => panic!("it was discarded"),
    }
}

#[test]
fn a_segment_goes_there_and_back_and_its_header_tells_what_is_in_it() {
    if skip_without(15) {
        return;
    }
    let (source, place) = (Source::new(), Place::new());
    let segment = source.segment(TABLE);
    let xid = source
        .cluster
        .psql("postgres", "begin; insert into t (v) values ('a'); select pg_current_xact_id(); commit;");
    let point = source.cluster.psql("postgres", "select pg_create_restore_point('before the release');");
    let second = source.segment("select 1;");
    let first = stored(source.push(&place.repository, &segment).unwrap());
    assert!(
        !first.repositories[0].already_there && first.warnings.is_empty() && first.file_bytes == 16 << 20
    );
    assert!(first.to_string().starts_with(&format!("archived {segment}: 16.0 MB as ")), "{first}");
    // Fault 13: the archiver died before PostgreSQL heard of it.
    let again = stored(source.push(&place.repository, &segment).unwrap());
    assert!(again.repositories[0].already_there);
    assert_eq!(place.objects(&segment).len(), 1);
    source.push(&place.repository, &second).unwrap();

    let found = place.repository.find_wal(source.system, name(&second)).unwrap();
    let head = place.repository.read_wal_head(&found[0]).unwrap();
    assert!(!head.clear.facts.to_string().contains("release"), "names are sealed");
    let facts = ArchivedFacts::read(&head.clear.facts).segment.unwrap();
    assert_eq!((facts.version, facts.segment_size, facts.restore_points), (Some(15), 16 << 20, 1));
    assert!(facts.wal.ends_with_switch && facts.wal.last_commit.is_some());
    let (low, high) = (facts.wal.xid_min.unwrap(), facts.wal.xid_max.unwrap());
    assert!((low..=high).contains(&xid.parse().unwrap()), "{low} {xid} {high}");
    let sealed = place.repository.read_wal_facts(&head).unwrap();
    assert_eq!(sealed["restore_points"][0]["name"], "before the release");
    assert_eq!(sealed["restore_points"][0]["lsn"], point.as_str());
    // Bytes in the store are not the segment's.
    let object = fs::read(&place.objects(&second)[0]).unwrap();
    assert!(!object.windows(18).any(|bytes| bytes == b"before the release"));

    let dest = place.directory.path().join("RECOVERYXLOG");
    for file in [&segment, &second] {
        fetch_now(&[&place.repository], source.system, file, &dest).unwrap();
        assert_eq!(fs::read(&dest).unwrap(), fs::read(source.path(file)).unwrap(), "{file}");
    }
}

#[test]
fn what_is_torn_recycled_short_or_foreign_is_refused_before_anything_is_stored() {
    if skip_without(15) {
        return;
    }
    let (source, place) = (Source::new(), Place::new());
    let old = source.segment(TABLE);
    let segment = source.segment(TABLE);
    let good = fs::read(source.path(&segment)).unwrap();
    let older = fs::read(source.path(&old)).unwrap();
    let used = good.chunks(8192).rposition(|page| page.iter().any(|b| *b != 0)).unwrap() * 8192;
    let bad = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("short", good[..good.len() - 8192].to_vec()),
        ("short in the middle of a page", good[..good.len() / 2 + 100].to_vec()),
        ("long", bad(&|b| b.push(0))),
        ("zero-filled", vec![0; good.len()]),
        ("torn: zeros from the middle", bad(&|b| b[used / 2 / 8192 * 8192..used].fill(0))),
        (
            "recycled: pages of an older one",
            bad(&|b| b[used / 2 / 8192 * 8192..used].copy_from_slice(&older[used / 2 / 8192 * 8192..used])),
        ),
        ("wholly another segment", older.clone()),
        ("one bit in a record", bad(&|b| b[8192 + 200] ^= 4)),
        ("bytes behind the switch", bad(&|b| b[used + 3 * 8192] = 1)),
        ("another cluster's", bad(&|b| b[24] ^= 1)),
    ];
    let directory = place.directory.path().join("pg_wal");
    fs::create_dir(&directory).unwrap();
    for (what, bytes) in cases {
        let path = directory.join(&segment);
        fs::write(&path, bytes).unwrap();
        let refused = push(&[&place.repository], &options(source.system), &path);
        let error = refused.expect_err(what);
        assert!(matches!(error, PushError::Segment { .. }), "{what}: {error}");
        assert_eq!(error.advice().exit_code(), 1, "{what}");
        assert!(one_line(&error).chars().count() < 200 && one_line(&error).starts_with("refloat[WAL-10"));
    }
    for (file, text) in [
        ("00000002.history", "nonsense\n"),
        ("00000002.history", ""),
        (&format!("{segment}.00000028.backup"), "x"),
    ] {
        let path = directory.join(file);
        fs::write(&path, text).unwrap();
        assert!(push(&[&place.repository], &options(source.system), &path).is_err(), "{file}");
    }
    assert!(matches!(
        push(&[&place.repository], &options(source.system), &directory.join("postgresql.conf")),
        Err(PushError::Name { .. })
    ));
    assert!(place.objects("").is_empty(), "{:?}", place.objects(""));
    // One bad file does not keep the good ones away.
    source.push(&place.repository, &old).unwrap();
    source.push(&place.repository, &segment).unwrap();
}

#[test]
fn partial_history_and_the_first_segment_of_a_timeline_are_stored() {
    if skip_without(15) {
        return;
    }
    let (mut source, place) = (Source::new(), Place::new());
    let first = source.segment(TABLE);
    let second = source.segment(TABLE);
    source.cluster.psql("postgres", TABLE);
    // Recovery to the end of what is there, then timeline 2: the last file of timeline 1 becomes .partial.
    source.cluster.configure("restore_command", &format!("cp {}/%f %p", source.wal.display()));
    source.cluster.stop(refloat_testkit::cluster::StopMode::Immediate);
    let signal = source.cluster.data_directory().join("recovery.signal");
    fs::write(&signal, "").unwrap();
    source.cluster.owner().give(&signal);
    source.cluster.start();
    source.cluster.wait_for_end_of_recovery();
    let third = source.segment("insert into t (v) values ('on timeline 2');");
    assert!(third.starts_with("00000002"), "{third}");
    let partial = source.files(".partial");
    assert_eq!(partial.len(), 1);
    for file in [&first, &second, &partial[0], &"00000002.history".to_owned(), &third] {
        let done = stored(source.push(&place.repository, file).unwrap());
        assert!(done.warnings.is_empty(), "{file}: {:?}", done.warnings);
    }
    let dest = place.directory.path().join("RECOVERYXLOG");
    fetch_now(&[&place.repository], source.system, "00000002.history", &dest).unwrap();
    assert_eq!(fs::read(&dest).unwrap(), fs::read(source.path("00000002.history")).unwrap());
    // A partial file is good to its last record; what follows it comes back as zeros.
    fetch_now(&[&place.repository], source.system, &partial[0], &dest).unwrap();
    let (back, original) = (fs::read(&dest).unwrap(), fs::read(source.path(&partial[0])).unwrap());
    let found = place.repository.find_wal(source.system, name(&partial[0])).unwrap();
    let head = place.repository.read_wal_head(&found[0]).unwrap();
    let valid = ArchivedFacts::read(&head.clear.facts).segment.unwrap().valid_bytes as usize;
    assert!(valid > 8192 && valid < original.len());
    assert_eq!(back[..valid], original[..valid]);
    assert!(back[valid..].iter().all(|byte| *byte == 0));
    // A tail of another segment's bytes changes nothing: it is the same file.
    let stale = place.directory.path().join(&partial[0]);
    let mut bytes = original;
    let tail = fs::read(source.path(&first)).unwrap();
    let page = valid.next_multiple_of(8192);
    bytes[page..].copy_from_slice(&tail[page..]);
    bytes[page..page + 8192].fill(0x5A);
    fs::write(&stale, bytes).unwrap();
    let again = stored(push(&[&place.repository], &options(source.system), &stale).unwrap());
    assert!(again.repositories[0].already_there);

    let archive = refloat_engine::wal::Archive::read(&place.repository, source.system, None).unwrap();
    let history = archive.history(TimelineId::new(2).unwrap()).unwrap();
    assert_eq!(history.parent(), Some(TimelineId::FIRST));
    assert!(archive.timelines[&TimelineId::FIRST].partials.len() == 1 && archive.gaps().is_empty());

    // Somebody else promoted to timeline 2 as well: neither its history nor its WAL mixes with ours.
    let other = place.directory.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::copy(source.path(&third), other.join(&third)).unwrap();
    fs::write(other.join("00000002.history"), "1\t0/1000098\tno recovery target specified\n").unwrap();
    let error = push(&[&place.repository], &options(source.system), &other.join(&third)).unwrap_err();
    assert!(matches!(error, PushError::OtherHistory { .. }) && error.advice().code == "WAL-004", "{error}");
    let error =
        push(&[&place.repository], &options(source.system), &other.join("00000002.history")).unwrap_err();
    assert!(matches!(error, PushError::Conflict { .. }), "{error}");
    assert_eq!(place.objects("00000002.history").len(), 2, "both are kept");
}

/// Of two standbys one is behind when the primary dies. The first that is promoted archives all that it has of the old
/// timeline, the other one, promoted later, what it had. Neither may stand in the way of what comes behind.
#[test]
fn two_ends_of_one_timeline_are_both_kept_in_either_order() {
    if skip_without(15) {
        return;
    }
    let source = Source::new();
    let segment = source.segment(TABLE);
    let long = fs::read(source.path(&segment)).unwrap();
    let mut short = long.clone();
    short[2 * 8192..].fill(0);
    for order in [[&long, &short], [&short, &long]] {
        let place = Place::new();
        let offered = place.directory.path().join(format!("{segment}.partial"));
        let pushed = order.map(|bytes| {
            fs::write(&offered, bytes).unwrap();
            stored(push(&[&place.repository], &options(source.system), &offered).unwrap())
        });
        assert_eq!(pushed[0].warnings, []);
        let [warning] = pushed[1].warnings.as_slice() else { panic!("{:?}", pushed[1].warnings) };
        assert_eq!(warning.code(), "WAL-015", "{warning}");
        assert_eq!(place.objects(".partial").len(), 2, "both are kept");
        let archive = refloat_engine::wal::Archive::read(&place.repository, source.system, None).unwrap();
        let first = &archive.timelines[&TimelineId::FIRST];
        assert!(first.conflicts.is_empty() && first.partials.len() == 1);
        source.push(&place.repository, &segment).unwrap();
    }
}

#[test]
fn two_segments_of_one_name_are_both_kept_and_named() {
    if skip_without(15) {
        return;
    }
    let (mut source, place) = (Source::new(), Place::new());
    let before = source.segment(TABLE);
    // Split brain: the same cluster goes on twice from the same moment.
    source.cluster.stop(refloat_testkit::cluster::StopMode::Fast);
    let copy = source.cluster.make_dir("copy");
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(format!("{}/.", source.cluster.data_directory().display()))
        .arg(&copy)
        .status();
    assert!(status.unwrap().success());
    source.cluster.start();
    let ours = source.segment("insert into t (v) values ('ours');");
    let theirs = source.cluster.make_dir("theirs");
    let other = TestCluster::builder()
        .version(15)
        .setting("archive_command", &format!("cp %p {}/%f", theirs.display()))
        .start_existing(&copy);
    other.psql("postgres", "insert into t (v) values ('theirs');");
    let name_there = other.psql("postgres", "select pg_walfile_name(pg_switch_wal());");
    assert_eq!(name_there, ours);
    other.psql("postgres", "insert into t (v) values ('later'); select pg_switch_wal();");
    other.wait_for("postgres", "select archived_count >= 2 from pg_stat_archiver;", "t");

    source.push(&place.repository, &before).unwrap();
    source.push(&place.repository, &ours).unwrap();
    let (second_host, elsewhere) = (place.other_host("second"), Place::new());
    let both = [&second_host, &elsewhere.repository];
    let error = push(&both, &options(source.system), &theirs.join(&ours)).unwrap_err();
    let PushError::Conflict { writers, .. } = &error else { panic!("{error}") };
    assert_eq!(error.advice().code, "WAL-003");
    let mut agents: Vec<_> = writers.iter().map(|writer| (writer.ours, writer.agent)).collect();
    agents.sort();
    assert_eq!(agents, [(false, Some(place.repository.agent())), (true, Some(second_host.agent()))]);
    assert!(writers.iter().all(|writer| writer.stored.is_some()));
    assert!(one_line(&error).chars().count() < 200, "{}", one_line(&error));
    assert_eq!(place.objects(&ours).len(), 2, "both are kept");
    assert_eq!(elsewhere.objects(&ours).len(), 1, "the other repository took it");
    // It stays a conflict, for both of them; other WAL goes on.
    assert!(matches!(
        push(&both, &options(source.system), &theirs.join(&ours)),
        Err(PushError::Conflict { .. })
    ));
    let later = fs::read_dir(&theirs).unwrap().map(|e| e.unwrap().path()).max().unwrap();
    assert!(push(&[&second_host], &options(source.system), &later).is_ok());
    let dest = place.directory.path().join("RECOVERYXLOG");
    let error = fetch_now(&[&place.repository], source.system, &ours, &dest).unwrap_err();
    assert_eq!((error.exit_code(false), error.advice().code), (255, "WAL-032"));
    for object in place.objects(&ours) {
        assert!(error.to_string().contains(object.file_name().unwrap().to_str().unwrap()), "{error}");
    }
    assert!(!dest.exists());
    let status = refloat_engine::wal::status(&[&place.repository], source.system, None, None).unwrap();
    let timelines = status.repositories[0].timelines.as_ref().unwrap();
    assert_eq!(timelines[0].conflicts.len(), 1);
    assert_eq!(timelines[0].conflicts[0].1.len(), 2);
}

#[test]
fn a_store_that_overwrites_keeps_both_too() {
    if skip_without(15) {
        return;
    }
    let source = Source::new();
    let segment = source.segment(TABLE);
    let directory = tempfile::tempdir().unwrap();
    let identity = refloat_repo::crypt::identity::Identity::draw();
    let memory = Memory::new().overwriting().not_durable();
    let repository = init(Arc::new(memory), &directory.path().join("state"), &identity);
    source.push(&repository, &segment).unwrap();
    // The same records but one, its CRC made right again: another, valid segment.
    let mut bytes = fs::read(source.path(&segment)).unwrap();
    change_one_record(&mut bytes);
    let path = directory.path().join(&segment);
    fs::write(&path, bytes).unwrap();
    let error = push(&[&repository], &options(source.system), &path).unwrap_err();
    assert!(matches!(error, PushError::Conflict { .. }), "{error}");
    assert_eq!(repository.find_wal(source.system, name(&segment)).unwrap().len(), 2);
}

#[test]
fn a_store_that_lies_is_not_believed() {
    if skip_without(15) {
        return;
    }
    let source = Source::new();
    let segment = source.segment(TABLE);
    for (effect, durable) in [
        (Effect::Lie, true),
        (Effect::Lie, false),
        (Effect::Truncate(0), true),
        (Effect::Truncate(4000), true),
        (Effect::Truncate(4000), false),
        (Effect::Flip(100_000), false),
        (Effect::LoseAnswer, true),
        (Effect::Refuse(StoreErrorKind::Unreachable), true),
        (Effect::Refuse(StoreErrorKind::NoSpace), true),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let plan = FaultPlan::new();
        let memory = if durable { Memory::new() } else { Memory::new().not_durable() };
        let store = Arc::new(Faulty::new(memory, &plan));
        let identity = refloat_repo::crypt::identity::Identity::draw();
        let repository = init(store, &directory.path().join("state"), &identity);
        plan.add(Rule::new(On::Put, effect).key("wal/").first(1));
        let error = source.push(&repository, &segment).unwrap_err();
        assert!(matches!(error, PushError::Repository { .. }), "{effect:?}: {error}");
        assert!(one_line(&error).starts_with("refloat[STO-"), "{}", one_line(&error));
        // PostgreSQL offers it again; the store has come to its senses.
        source.push(&repository, &segment).unwrap_or_else(|error| panic!("{effect:?}: {}", one_line(&error)));
        let dest = directory.path().join("RECOVERYXLOG");
        fetch_now(&[&repository], source.system, &segment, &dest).unwrap();
        assert_eq!(fs::read(&dest).unwrap(), fs::read(source.path(&segment)).unwrap(), "{effect:?}");
    }
}

#[test]
fn an_object_that_went_bad_is_not_acknowledged_a_second_time() {
    if skip_without(15) {
        return;
    }
    let (source, place) = (Source::new(), Place::new());
    let segment = source.segment(TABLE);
    for cut in [false, true] {
        source.push(&place.repository, &segment).unwrap();
        let object = place.objects(&segment).remove(0);
        let mut bytes = fs::read(&object).unwrap();
        let middle = bytes.len() / 2;
        if cut {
            bytes.truncate(middle);
        } else {
            bytes[middle] ^= 1;
        }
        fs::write(&object, bytes).unwrap();
        let done = stored(source.push(&place.repository, &segment).unwrap());
        assert!(matches!(done.warnings[0], PushWarning::ReplacedDamaged { .. }));
        let dest = place.directory.path().join("RECOVERYXLOG");
        fetch_now(&[&place.repository], source.system, &segment, &dest).unwrap();
    }
}

#[test]
fn a_push_that_hangs_ends_in_time() {
    if skip_without(15) {
        return;
    }
    let (source, place) = (Source::new(), Place::new());
    let segment = source.segment(TABLE);
    let plan = FaultPlan::new();
    let posix = PosixStore::open(&place.store, refloat_store::Options::default()).unwrap();
    let limits =
        Limits { call: Duration::from_millis(300), first: Duration::MAX, bytes_per_second: 0, calls: 16 };
    let store = Deadline::new(Faulty::new(posix, &plan), limits);
    let repository = place.opened(Arc::new(store), "hanging");
    plan.add(Rule::new(On::Any, Effect::Delay(Duration::from_secs(20))).key("wal/"));
    let begun = Instant::now();
    let error = source.push(&repository, &segment).unwrap_err();
    assert_eq!(error.advice().exit_code(), 5, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    // No step begins after the deadline of the whole.
    plan.clear();
    let late = PushOptions { deadline: Duration::ZERO, ..options(source.system) };
    let error = push(&[&place.repository], &late, &source.path(&segment)).unwrap_err();
    assert!(matches!(error, PushError::Late { .. }), "{error}");
    assert!(place.objects("").is_empty());
    plan.add(Rule::new(On::Any, Effect::Delay(Duration::from_secs(20))).key("wal/"));
    let begun = Instant::now();
    let dest = place.directory.path().join("RECOVERYXLOG");
    let error = fetch_now(&[&repository], source.system, &segment, &dest).unwrap_err();
    assert_eq!(error.exit_code(false), 255, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_restored_directory_pushes_nothing_before_it_is_taken_over() {
    if skip_without(15) {
        return;
    }
    let (source, place) = (Source::new(), Place::new());
    let segment = source.segment(TABLE);
    let data = place.directory.path().join("data");
    fs::create_dir_all(data.join("global")).unwrap();
    fs::copy(source.cluster.data_directory().join("global/pg_control"), data.join("global/pg_control"))
        .unwrap();
    let options =
        PushOptions { expected_system: None, data_directory: Some(&data), ..options(source.system) };
    let lock = |purpose| Locked {
        restore: "r1".to_owned(),
        source: "prod".to_owned(),
        backup: "k7m2qxw4".to_owned(),
        at: "2026-11-20T03:31:00Z".parse().unwrap(),
        purpose,
        system: source.system,
    };
    lock(Purpose::Undecided).write(&data).unwrap();
    let error = push(&[&place.repository], &options, &source.path(&segment)).unwrap_err();
    assert_eq!(
        one_line(&error),
        "refloat[WAL-021]: archiving is locked: restored from prod at 2026-11-20 03:31 UTC, not yet taken over"
    );
    assert_eq!(error.advice().exit_code(), 4);
    lock(Purpose::Copy).write(&data).unwrap();
    let pushed = push(&[&place.repository], &options, &source.path(&segment)).unwrap();
    let Pushed::Discarded { name: discarded, copy_of } = pushed else { panic!("it was stored") };
    assert_eq!((discarded, copy_of.as_str()), (name(&segment), "prod"));
    fs::write(data.join("refloat.locked"), "{").unwrap();
    let error = push(&[&place.repository], &options, &source.path(&segment)).unwrap_err();
    assert_eq!((error.advice().code, error.advice().exit_code()), ("WAL-022", 4));
    assert!(place.objects("").is_empty());
    // Lifted: the cluster is known by its control file.
    Locked::remove(&data).unwrap();
    push(&[&place.repository], &options, &source.path(&segment)).unwrap();
    let foreign = PushOptions { expected_system: Some(SystemIdentifier(1)), ..options };
    assert!(matches!(
        push(&[&place.repository], &foreign, &source.path(&segment)),
        Err(PushError::Segment { .. })
    ));
}

#[test]
fn a_server_that_goes_on_after_the_owner_left_its_timeline_is_told_of() {
    if skip_without(15) {
        return;
    }
    let (source, place) = (Source::new(), Place::new());
    let segment = source.segment(TABLE);
    let end: refloat_types::WalSegmentName = segment.parse().unwrap();
    let end = end.end(refloat_types::WalSegmentSize::DEFAULT);
    let described = SourceDescription {
        name: "prod".parse().unwrap(),
        kind: "postgres".to_owned(),
        host: "db1".to_owned(),
        data_directory: "/data".to_owned(),
    };
    let prod = &described.name;
    let plan = FaultPlan::new();
    let posix = PosixStore::open(&place.store, refloat_store::Options::default()).unwrap();
    let repository = place.opened(Arc::new(Faulty::new(posix, &plan)), "counted");
    // What is kept of the source is a minute old each time.
    let mut now = options(source.system).now;
    let mut ask = |minutes: u64| {
        now = now.checked_add(Duration::from_secs(60 * minutes)).unwrap();
        let options = PushOptions { source: Some(prod), now, ..options(source.system) };
        let before = plan.calls();
        let warnings = stored(push(&[&repository], &options, &source.path(&segment)).unwrap()).warnings;
        (warnings, plan.calls() - before)
    };
    assert!(ask(0).0.is_empty(), "nobody knows the source yet");
    let now = options(source.system).now;
    let id = place.repository.describe_source(None, &described, source.system, now).unwrap().id;
    let owner = |timeline, fork_lsn| OwnerRecord {
        source: id,
        number: 0,
        at: "2026-11-20T03:31:00Z".parse().unwrap(),
        system: source.system,
        timeline: TimelineId::new(timeline).unwrap(),
        fork_lsn,
        restored_from: None,
    };
    place.repository.put_owner(owner(1, None)).unwrap();
    assert!(ask(2).0.is_empty());
    place.repository.put_owner(owner(2, Some(end))).unwrap();
    assert!(ask(2).0.is_empty(), "all of it is the owner's past");
    place.repository.put_owner(owner(2, Some(Lsn(end.0 - 8)))).unwrap();
    let (none, cached) = ask(0);
    assert!(none.is_empty(), "the minute is not over");
    let (warnings, asked) = ask(2);
    assert!(cached < asked, "what is kept costs no call: {cached} against {asked}");
    let without = PushOptions { now, ..options(source.system) };
    let before = plan.calls();
    push(&[&repository], &without, &source.path(&segment)).unwrap();
    assert_eq!(plan.calls() - before, cached);
    assert!(matches!(warnings[..], [PushWarning::LeftTimeline { .. }]), "{warnings:?}");
    assert!(warnings[0].to_string().chars().count() < 200);
}
