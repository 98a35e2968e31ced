//! Timelines: the last, partial file of the old one, the first of the new one, and its history file.

use std::time::Duration;

use refloat_pg::history::TimelineHistory;
use refloat_pg::wal::{BackupHistory, InspectOptions, SegmentFault};
use refloat_testkit::cluster::{TestCluster, skip_without, wait_until};
use refloat_types::{Lsn, TimelineId, WalFileName};

use super::oracle::{Archiving, Dump, SIZE, archive_command, inspect, segments_in};

fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).expect("not 0")
}

/// A standby of the server that archives, once promoted, into a directory of its own.
fn standby(server: &Archiving) -> (TestCluster, std::path::PathBuf) {
    let data = server.cluster.make_dir("standby");
    let copied = server.cluster.client("pg_basebackup").args(["-c", "fast", "-D"]).arg(&data).status();
    assert!(copied.expect("pg_basebackup starts").success());
    std::fs::write(data.join("standby.signal"), "").expect("own directory");
    let archive = server.cluster.make_dir("archive-of-standby");
    let from = format!(
        "host={} port={} user=postgres",
        server.cluster.socket_directory().display(),
        server.cluster.port()
    );
    let standby = TestCluster::builder()
        .version(server.cluster.version())
        .setting("primary_conninfo", &from)
        .setting("archive_command", &archive_command(&archive))
        .start_existing(data);
    (standby, archive)
}

#[test]
fn a_promotion_leaves_a_partial_file_and_begins_with_a_copy() {
    if skip_without(15) {
        return;
    }
    let server = Archiving::start(15, |builder| builder);
    server.cluster.pgbench_init(1);
    let (mut standby, archive) = standby(&server);
    // Backup history files of the base backup are what PostgreSQL wrote.
    server.switch();
    let backups = backup_histories(&server.archive);
    assert_eq!(backups.len(), 1);

    // Used files are recycled on the standby as well, so that the partial one goes on with old WAL.
    for _ in 0..2 {
        server.cluster.pgbench_init(1);
        server.cluster.psql("postgres", "checkpoint;");
        let lsn = server.cluster.psql("postgres", "select pg_current_wal_lsn();");
        standby.wait_for("postgres", &format!("select pg_last_wal_replay_lsn() >= '{lsn}';"), "t");
        standby.psql("postgres", "checkpoint;");
    }
    server.cluster.pgbench_transactions(40);
    let lsn = server.cluster.psql("postgres", "select pg_current_wal_lsn();");
    standby.wait_for("postgres", &format!("select pg_last_wal_replay_lsn() >= '{lsn}';"), "t");
    standby.promote();
    standby.psql("postgres", "create table after_promotion (a int);");
    let last = standby.psql("postgres", "select pg_walfile_name(pg_switch_wal());");
    assert!(wait_until(Duration::from_secs(60), || archive.join(&last).exists()));

    let history = std::fs::read(archive.join("00000002.history")).expect("archived");
    let parsed = TimelineHistory::parse(tli(2), &history).expect("PostgreSQL wrote it");
    assert_eq!(parsed.to_string().as_bytes(), history, "byte for byte");
    let fork = parsed.fork_of(tli(1)).expect("it descends from 1");

    let partial = std::fs::read_dir(&archive).expect("exists").flatten().find_map(|entry| {
        match entry.file_name().to_str()?.parse() {
            Ok(WalFileName::Partial(name)) => Some((name, std::fs::read(entry.path()).ok()?)),
            _ => None,
        }
    });
    let (name, bytes) = partial.expect("the old timeline's last file");
    let options = || InspectOptions { partial: true, ..InspectOptions::default() };
    let (inspection, records) = inspect(name, options(), &bytes).expect("good to its last record");
    assert_eq!(inspection.facts.last_record_end, Some(fork), "the WAL ends where the new timeline begins");
    assert_eq!(inspection.valid_bytes, fork.0 % SIZE);
    let tail = &bytes[inspection.valid_bytes as usize..];
    assert!(tail.iter().any(|byte| *byte != 0), "the file was recycled: old WAL follows");
    let fault =
        inspect(name, InspectOptions::default(), &bytes).expect_err("as a complete one it is refused");
    assert!(
        matches!(fault, SegmentFault::EndsEarly { at } | SegmentFault::Record { at, .. } if at == fork),
        "{fault:?}"
    );

    // The first WAL segment of timeline 2 begins with the same pages.
    let new = segments_in(&archive);
    let (first, new_bytes) = new.first().expect("archived");
    assert_eq!(*first, name.on(tli(2)));
    let ancestors = InspectOptions { ancestors: parsed.ancestors().collect(), ..InspectOptions::default() };
    let (inspection, new_records) = inspect(*first, ancestors, new_bytes).expect("a good one");
    assert_eq!(inspection.facts.begins_on, Some(tli(1)));
    let switch = inspection.facts.timeline_switches.first().expect("end of recovery");
    assert_eq!((switch.from, switch.to, switch.lsn), (tli(1), tli(2), fork));
    for (lsn, seen) in &records {
        assert_eq!(new_records.get(lsn), Some(seen));
    }
    let dump = Dump::of(&standby, &archive, *first, *first);
    let mut expected = dump.of_segment(*first);
    if let Some(tail) = inspection.facts.unfinished_tail {
        expected.remove(&tail);
    }
    assert_eq!(new_records, expected);
    let strangers = InspectOptions { ancestors: vec![tli(7)], ..InspectOptions::default() };
    assert!(matches!(inspect(*first, strangers, new_bytes), Err(SegmentFault::WrongTimeline { .. })));
    standby.stop(refloat_testkit::cluster::StopMode::Immediate);
}

fn backup_histories(directory: &std::path::Path) -> Vec<BackupHistory> {
    let parse = |entry: std::fs::DirEntry| match entry.file_name().to_str()?.parse() {
        Ok(WalFileName::BackupHistory(name, offset)) => {
            let bytes = std::fs::read(entry.path()).ok()?;
            Some(BackupHistory::parse(name, offset, &bytes).expect("PostgreSQL wrote it"))
        }
        _ => None,
    };
    std::fs::read_dir(directory).expect("exists").flatten().filter_map(parse).collect()
}

/// PostgreSQL itself writes a history whose middle timeline was left before it began: recovery along timeline 2 that
/// stops on timeline 1, short of where 2 begins.
#[test]
fn recovery_that_stops_short_of_its_timeline_has_an_empty_one_in_its_history() {
    if skip_without(15) {
        return;
    }
    let mut server = Archiving::start(15, |builder| builder);
    let copy = server.cluster.make_dir("copy");
    let copied = server.cluster.client("pg_basebackup").args(["-c", "fast", "-D"]).arg(&copy).status();
    assert!(copied.expect("pg_basebackup starts").success());
    let early =
        server.cluster.psql("postgres", "create table t (a int); select pg_create_restore_point('early');");
    let early: Lsn = early.parse().expect("an LSN");
    server.cluster.psql("postgres", "insert into t values (1); select pg_create_restore_point('late');");
    server.switch();
    server.cluster.stop(refloat_testkit::cluster::StopMode::Fast);
    let second = server.cluster.make_dir("second");
    let third = server.cluster.make_dir("third");
    for target in [&second, &third] {
        let all = format!("{}/.", copy.display());
        let copied = server.cluster.as_owner("/bin/cp").args(["-a", &all]).arg(target).status();
        assert!(copied.expect("cp starts").success());
        std::fs::write(target.join("recovery.signal"), "").expect("own directory");
    }
    let restore = format!("cp {}/%f %p", server.archive.display());
    let recover = |data: &std::path::Path, target: &str, timeline: &str| {
        TestCluster::builder()
            .version(15)
            .setting("restore_command", &restore)
            .setting("recovery_target_name", target)
            .setting("recovery_target_action", "promote")
            .setting("recovery_target_timeline", timeline)
            .setting("archive_command", &archive_command(&server.archive))
            .start_existing(data)
    };
    let cluster = recover(&second, "late", "latest");
    cluster.wait_for_end_of_recovery();
    let history = server.archive.join("00000002.history");
    assert!(wait_until(Duration::from_secs(60), || history.exists()));
    drop(cluster);
    let cluster = recover(&third, "early", "2");
    cluster.wait_for_end_of_recovery();
    let history = server.archive.join("00000003.history");
    assert!(wait_until(Duration::from_secs(60), || history.exists()));
    drop(cluster);

    let bytes = std::fs::read(&history).expect("archived");
    let parsed = TimelineHistory::parse(tli(3), &bytes).expect("PostgreSQL wrote it");
    assert_eq!(parsed.to_string().as_bytes(), bytes);
    let forks: Vec<_> = parsed.forks().iter().map(|fork| fork.timeline).collect();
    assert_eq!(forks, [tli(1), tli(2)]);
    assert!(parsed.forks()[1].at < parsed.forks()[0].at, "{parsed}");
    assert_eq!(parsed.fork_of(tli(1)), Some(early));
    assert_eq!(parsed.timeline_at(early), tli(3));
    assert_eq!(parsed.timeline_at(parsed.forks()[0].at), tli(3));
}
