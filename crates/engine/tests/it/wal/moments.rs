//! Windows and plans over the WAL of a real server, in a real repository.

use refloat_engine::pitr::{
    ArchivedWal as _, Plan, RepositoryWal, Request, Situation, Target, TargetError, TimelineChoice, resolve,
    windows,
};
use refloat_engine::wal::{Archive, archive};
use refloat_repo::commit::{BackupType, ClusterPoint, Commit, CommitRecord, Sizes};
use refloat_testkit::cluster::{TestCluster, skip_without};
use refloat_types::{
    BackupId, Lsn, ObjectId, SourceId, TimelineId, Timestamp, WalSegmentName, WalSegmentSize,
};

use super::fixture::{Place, Source, TABLE};

/// A backup's commit as a server's own functions tell its place.
fn backup(source: &Source, number: u64, size: u32) -> CommitRecord {
    let psql = |sql: &str| source.cluster.psql("postgres", sql);
    let told = psql("select pg_backup_start('test', true); select lsn from pg_backup_stop(true);");
    let lsns: Vec<Lsn> = told.lines().map(|line| line.parse().unwrap()).collect();
    let now: Timestamp =
        psql("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.USZ');")
            .parse()
            .unwrap();
    let cluster = ClusterPoint {
        system: source.system,
        timeline: TimelineId::FIRST,
        start_lsn: lsns[0],
        stop_lsn: lsns[1],
        start_time: now,
        stop_time: now,
        wal_segment_size: size,
        server_version: 150_000,
        checksums: true,
        standby: false,
        stop_record: None,
    };
    let commit = Commit {
        source: SourceId([1; 16]),
        backup: BackupId::from_random([number as u8; 8]),
        number,
        kind: BackupType::Full,
        parent: None,
        started: now,
        finished: now,
        cluster,
        sizes: Sizes::default(),
        keys: Vec::new(),
        root: serde_json::from_value(serde_json::json!({ "frames": [], "digest": "00".repeat(32) })).unwrap(),
        own_wal: false,
        bad_pages: 0,
    };
    CommitRecord { commit, packs: [].into(), agent: ObjectId::NONE }
}

struct Told {
    time: Timestamp,
    xid: u64,
    lsn: Lsn,
}

/// A transaction, and what the server says of it.
fn transaction(source: &Source) -> Told {
    let psql = |sql: &str| source.cluster.psql("postgres", sql);
    let told = psql("begin; insert into t (v) values ('x'); select pg_current_xact_id(); commit;");
    let lsn = psql("select pg_current_wal_insert_lsn();").parse().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let time = psql("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.USZ');")
        .parse()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    Told { time, xid: told.parse().unwrap(), lsn }
}

#[test]
fn every_kind_of_target_is_found_in_real_wal() {
    if skip_without(15) {
        return;
    }
    const SIZE: WalSegmentSize = WalSegmentSize::new(1 << 20).unwrap();
    let source = Source::with(TestCluster::builder().version(15).wal_segment_size_mb(1));
    let place = Place::new();
    source.segment(TABLE);
    let mut commits = vec![backup(&source, 1, 1 << 20)];
    let early = transaction(&source);
    source.segment(TABLE);
    let point = source.cluster.psql("postgres", "select pg_create_restore_point('release');");
    source.segment("select 1;");
    commits.push(backup(&source, 2, 1 << 20));
    let middle = transaction(&source);
    source.segment(TABLE);
    let last = transaction(&source);
    let end = source.segment("select 1;");
    let files: Vec<String> = source.files("").into_iter().collect();
    for file in &files {
        source.push(&place.repository, file).unwrap();
    }
    let archive = Archive::read(&place.repository, source.system, None).unwrap();
    assert_eq!(archive.segment_size, SIZE);
    let wal = RepositoryWal::new(&place.repository, source.system);
    let situation = Situation { archive: &archive, commits: &commits, owner: None, wal: &wal };
    let ask = |target: Target| {
        let request = Request { target, exclusive: false, timeline: TimelineChoice::Owner, backup: None };
        resolve(&situation, &request)
    };
    let number = |plan: &Plan| plan.backup.commit.number;
    let segment = |lsn: Lsn| WalSegmentName::ending(TimelineId::FIRST, lsn, SIZE);
    for (told, from) in [(&early, 1), (&middle, 2), (&last, 2)] {
        let plan = ask(Target::Xid(told.xid)).unwrap();
        assert_eq!(number(&plan), from);
        assert_eq!(plan.wal.unwrap().last, segment(plan.reaches.lsn));
        assert!(
            plan.reaches.lsn <= told.lsn && told.lsn.0 - plan.reaches.lsn.0 < 200,
            "{:?} {}",
            plan.reaches,
            told.lsn
        );
        assert!(plan.reaches.last_commit.unwrap() <= told.time);
    }
    for told in [&early, &middle] {
        let plan = ask(Target::Time(told.time)).unwrap();
        assert_eq!(plan.target, Target::Time(told.time));
        assert!(plan.wal.unwrap().last >= segment(told.lsn));
    }
    assert_eq!(number(&ask(Target::Time(early.time)).unwrap()), 1);
    assert_eq!(ask(Target::Time(last.time)).unwrap().target, Target::Latest, "nothing ended after it");
    assert_eq!(number(&ask(Target::Lsn(middle.lsn)).unwrap()), 2);
    let plan = ask(Target::Name("release".to_owned())).unwrap();
    assert_eq!((number(&plan), plan.reaches.lsn), (1, point.parse().unwrap()));
    let plan = ask(Target::Latest).unwrap();
    assert_eq!((number(&plan), plan.wal.unwrap().last.to_string()), (2, end));
    assert!(matches!(ask(Target::Xid(999_999)), Err(TargetError::NotFound { .. })));
    assert!(matches!(
        ask(Target::Time("2000-01-01T00:00:00Z".parse().unwrap())),
        Err(TargetError::TooEarly { .. })
    ));
    assert!(matches!(
        ask(Target::Time("2100-01-01T00:00:00Z".parse().unwrap())),
        Err(TargetError::TooLate { .. })
    ));

    let shown = windows(&situation).unwrap();
    assert!(shown.len() == 2 && shown.iter().all(|window| window.usable && window.gap.is_none()));
    let latest = shown[0].latest.unwrap();
    assert!(latest.last_commit.unwrap() < last.time && latest.lsn > last.lsn);

    // A file less: both know where it is missing.
    let gone = WalSegmentName::containing(TimelineId::FIRST, middle.lsn, SIZE);
    let object =
        place.objects(&gone.to_string()).into_iter().find(|path| !path.to_string_lossy().contains(".backup"));
    std::fs::remove_file(object.unwrap()).unwrap();
    let archive = Archive::read(&place.repository, source.system, Some(SIZE)).unwrap();
    assert_eq!(archive.gaps().iter().map(|gap| gap.first).collect::<Vec<_>>(), [gone]);
    let point = &commits[1].commit.cluster;
    let lacks = archive::missing(
        &place.repository,
        source.system,
        TimelineId::FIRST,
        point.start_lsn,
        last.lsn,
        SIZE,
    );
    let lacks = lacks.unwrap().unwrap();
    assert_eq!(lacks, archive.contains(point.start_lsn, last.lsn, TimelineId::FIRST).unwrap_err());
    assert!(lacks.segments.iter().any(|range| range.first == gone));
    let first = &commits[0].commit.cluster;
    let whole = archive::missing(
        &place.repository,
        source.system,
        TimelineId::FIRST,
        first.start_lsn,
        first.stop_lsn,
        SIZE,
    );
    assert_eq!(whole.unwrap(), None);
    let situation = Situation { archive: &archive, ..situation };
    let request =
        Request { target: Target::Latest, exclusive: false, timeline: TimelineChoice::Owner, backup: None };
    let refused = resolve(&situation, &request).unwrap_err();
    assert!(refused.to_string().contains(&gone.to_string()), "{refused}");
}

#[test]
fn a_commit_across_two_files_is_joined() {
    if skip_without(15) {
        return;
    }
    const SIZE: WalSegmentSize = WalSegmentSize::new(1 << 20).unwrap();
    let source = Source::with(TestCluster::builder().version(15).wal_segment_size_mb(1));
    let place = Place::new();
    source.cluster.psql("postgres", TABLE);
    // Drops of many tables make long commit records; many of them hit the end of a file.
    source.cluster.psql(
        "postgres",
        "select pg_logical_emit_message(false, 'x', repeat('x', 1000)) from generate_series(1, 1000);",
    );
    let make: String = (0..60).map(|n| format!("create table d{n} ();")).collect();
    let mut told = Vec::new();
    for _ in 0..12 {
        source.cluster.psql("postgres", &make);
        let drop: String = (0..60).map(|n| format!("drop table d{n};")).collect();
        let filler = "select pg_logical_emit_message(false, 'x', repeat('x', (pg_wal_lsn_diff((pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint / 1048576 + 1) * 1048576 + '0/0'::pg_lsn, pg_current_wal_insert_lsn()) - 900)::int));";
        let xid = source
            .cluster
            .psql("postgres", &format!("begin; {drop} select pg_current_xact_id(); {filler} commit;"));
        let xid = xid.lines().next().unwrap().parse::<u32>().unwrap();
        told.push(xid);
    }
    source.segment("select 1;");
    let mut joined = Vec::new();
    let segments: Vec<WalSegmentName> =
        source.files("").iter().filter_map(|file| file.parse().ok()).collect();
    for segment in &segments {
        source.push(&place.repository, &segment.to_string()).unwrap();
    }
    let wal = RepositoryWal::new(&place.repository, source.system);
    let mut seen = Vec::new();
    for segment in &segments {
        seen.extend(wal.events(*segment).unwrap().into_iter().filter(|event| event.is_transaction_end()));
    }
    for pair in segments.windows(2) {
        let head = wal.head(pair[0]).unwrap();
        if head.facts.wal.unfinished_tail.is_some() {
            assert_eq!(head.facts.tail.map(|tail| Some(tail.lsn)), Some(head.facts.wal.unfinished_tail));
            assert_eq!(pair[1], pair[0].next(SIZE));
            joined.extend(wal.boundary(&head, pair[1]).unwrap());
        }
    }
    let found: Vec<u32> =
        told.iter().copied().filter(|xid| joined.iter().any(|event| event.ends(*xid))).collect();
    assert!(!found.is_empty(), "no commit came to lie across two files");
    for xid in told {
        let count = seen.iter().chain(&joined).filter(|event| event.ends(xid)).count();
        assert_eq!(count, 1, "transaction {xid}");
    }
    // Where pg_waldump sees them, and when.
    let dump = source
        .cluster
        .as_owner(source.cluster.bin("pg_waldump"))
        .arg("-p")
        .arg(&source.wal)
        .arg("-r")
        .arg("Transaction")
        .arg(segments[0].to_string())
        .arg(segments[segments.len() - 1].to_string())
        .output()
        .unwrap();
    let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
    for event in &joined {
        let line = dump.lines().find(|line| {
            line.contains(&format!("lsn: {:X}/{:08X}", event.at.0 >> 32, event.at.0 & 0xFFFF_FFFF))
        });
        let line = line.unwrap_or_else(|| panic!("{} is not in pg_waldump's list", event.at));
        let time = event.time.unwrap().strftime("%Y-%m-%d %H:%M:%S%.6f").to_string();
        assert!(line.contains("COMMIT") && line.contains(&time), "{line} {time}");
    }
}

#[test]
fn status_tells_how_far_the_archive_reaches() {
    if skip_without(15) {
        return;
    }
    use refloat_engine::wal::status::{ServerPosition, status};
    let (source, place, away) = (Source::new(), Place::new(), Place::new());
    let files: Vec<String> = (0..3).map(|_| source.segment(TABLE)).collect();
    for file in &files {
        source.push(&place.repository, file).unwrap();
    }
    source.cluster.psql("postgres", TABLE);
    let lsn: Lsn = source.cluster.psql("postgres", "select pg_current_wal_flush_lsn();").parse().unwrap();
    let position = ServerPosition { lsn, timeline: TimelineId::FIRST };
    std::fs::remove_dir_all(&away.store).unwrap();
    let both = [&place.repository, &away.repository];
    let told = status(&both, source.system, Some(source.cluster.data_directory()), Some(position)).unwrap();
    assert!(told.repositories[1].timelines.is_err(), "a repository that is away does not hide the other");
    let timeline = &told.repositories[0].timelines.as_ref().unwrap()[0];
    let (first, last) = timeline.span.unwrap();
    assert_eq!((first.to_string(), last.to_string()), (files[0].clone(), files[2].clone()));
    let end = last.end(WalSegmentSize::DEFAULT);
    assert_eq!((timeline.archived_to, timeline.lag_bytes), (Some(end), Some(lsn.0 - end.0)));
    assert!(timeline.last_commit.unwrap() <= timeline.last_stored.unwrap());
    assert!(timeline.gaps.is_empty() && timeline.conflicts.is_empty() && timeline.stored_bytes > 0);
    let server = told.server.unwrap();
    assert!(server.ready == 0 && server.pg_wal_bytes >= 16 << 20 && server.locked.is_none());
}
