//! Every record, fact and block reference of varied WAL, as `pg_waldump` and SQL have them.

use refloat_pg::control::WalLevel;
use refloat_pg::wal::{InspectOptions, inspect_slice};
use refloat_testkit::cluster::skip_without;
use refloat_types::{Lsn, SystemIdentifier};

use super::oracle::{Archiving, SIZE, inspect};

/// Makes WAL of every kind this looks at. Returns restore points as SQL has them.
fn load(server: &Archiving) -> Vec<(String, Lsn)> {
    let psql = |sql: &str| server.cluster.psql("postgres", sql);
    server.cluster.pgbench_init(1);
    server.cluster.pgbench_transactions(300);
    let mut points = Vec::new();
    let mut point = |name: &str| {
        let lsn = psql(&format!("select pg_create_restore_point('{name}');"));
        points.push((name.to_owned(), lsn.parse().expect("an LSN")));
    };
    point("before");
    psql("create table t (id int primary key, body text, more text); create index on t (more);");
    psql("alter table t alter body set storage external;");
    // Values of a megabyte, and records longer than a WAL segment.
    psql("insert into t select n, repeat(md5(n::text), 32768), md5(n::text) from generate_series(1, 5) n;");
    psql("select length(pg_logical_emit_message(true, 'x', repeat('0123456789', 350000))::text);");
    point("größer ☃");
    // A commit record that spans pages: thousands of subtransactions.
    psql(
        "do $$ begin for i in 100..9000 loop begin insert into t values (i); exception when others then end; \
         end loop; end $$;",
    );
    // Prepared transactions: one that drops tables and has subtransactions, one that is rolled back.
    psql("create table d1 (a int); create table d2 (a text unique);");
    psql(
        "begin; drop table d1, d2; savepoint s; insert into t values (20001); prepare transaction 'one'; \
         begin; insert into t values (20002); prepare transaction 'two';",
    );
    psql("begin; create table d3 (a int); savepoint s; insert into t values (20003); rollback;");
    psql("commit prepared 'one';");
    psql("rollback prepared 'two';");
    psql("checkpoint; update t set more = more where id < 500; vacuum t; truncate t; checkpoint;");
    psql("create database other;");
    psql("drop database other;");
    point(&"n".repeat(63));
    points
}

fn compare(version: u32, more: &[(&str, &str)]) {
    if skip_without(version) {
        return;
    }
    let server = Archiving::start(version, |builder| {
        more.iter().fold(builder, |builder, (name, value)| builder.setting(name, value))
    });
    let points = load(&server);
    server.switch();
    let system = server.cluster.psql("postgres", "select system_identifier from pg_control_system();");
    let system: SystemIdentifier = system.parse().expect("a number");
    let dump = server.dump();
    let mut found_points = Vec::new();
    let mut checkpoints = 0;
    let mut previous: Option<(Option<Lsn>, u64)> = None;
    for (name, bytes) in server.segments() {
        let options = InspectOptions { expected_system: Some(system), ..InspectOptions::default() };
        let (inspection, records) =
            inspect(name, options, &bytes).unwrap_or_else(|fault| panic!("{name}: {fault} {fault:?}"));
        assert_eq!(inspection.version.map(u32::from), Some(version));
        assert_eq!(inspection.system, system);
        assert!(inspection.records_parsed && !inspection.stale_tail);
        let facts = inspection.facts;

        let mut expected = dump.of_segment(name);
        if let Some(tail) = facts.unfinished_tail {
            let record = expected.remove(&tail).expect("pg_waldump sees it too");
            assert!(tail.plus(u64::from(record.total)) > name.end(inspection.segment_size));
        }
        assert_eq!(records, expected, "{name}");

        assert_eq!(facts.records, expected.len() as u64);
        assert_eq!(facts.first_record, expected.keys().next().copied());
        assert_eq!(facts.last_record, facts.unfinished_tail.or(expected.keys().last().copied()));
        let endings = dump.endings(&expected);
        assert_eq!(facts.commits, endings.iter().filter(|(commit, ..)| *commit).count() as u64, "{name}");
        assert_eq!(facts.aborts, endings.iter().filter(|(commit, ..)| !commit).count() as u64, "{name}");
        assert_eq!(facts.first_commit, endings.iter().map(|(.., time)| *time).min());
        assert_eq!(facts.last_commit, endings.iter().map(|(.., time)| *time).max());
        assert_eq!(facts.xid_min, endings.iter().map(|(_, xid, _)| *xid).min());
        assert_eq!(facts.xid_max, endings.iter().map(|(_, xid, _)| *xid).max());
        assert_eq!((facts.not_understood, facts.truncated), (0, false));
        found_points.extend(facts.restore_points.into_iter().map(|point| {
            assert!(point.time.is_some());
            (point.name, point.lsn)
        }));
        checkpoints += facts.checkpoints;

        // Each WAL segment joins the one before.
        if let Some((last_record, unfinished_bytes)) = previous {
            assert_eq!(facts.continued_bytes, unfinished_bytes, "{name}");
            if facts.records > 0 {
                assert_eq!(facts.before_first, last_record, "{name}");
            }
        }
        let last_record = facts.last_record.or(previous.and_then(|(last_record, _)| last_record));
        previous = Some((last_record, facts.unfinished_bytes));

        let is_zero = bytes[inspection.valid_bytes as usize..].iter().all(|byte| *byte == 0);
        assert!(is_zero, "{name}");
        assert_eq!(facts.ends_with_switch, inspection.valid_bytes < SIZE, "{name}");
    }
    assert_eq!(found_points, points);
    let dumped = dump
        .texts
        .values()
        .filter(|text| text.starts_with("CHECKPOINT_ONLINE") || text.starts_with("CHECKPOINT_SHUTDOWN"));
    assert_eq!(checkpoints, dumped.count() as u64);
    assert!(dump.texts.values().any(|text| text.starts_with("COMMIT_PREPARED")));
    assert!(dump.texts.values().any(|text| text.starts_with("ABORT_PREPARED")));
}

#[test]
fn every_record_of_15_agrees() {
    compare(15, &[("wal_compression", "pglz")]);
}

#[test]
fn every_record_of_15_with_logical_wal_agrees() {
    compare(15, &[("wal_level", "logical"), ("full_page_writes", "off"), ("wal_compression", "lz4")]);
}

#[test]
fn every_record_of_17_agrees() {
    compare(17, &[("wal_compression", "zstd"), ("track_commit_timestamp", "on")]);
}

#[test]
fn every_record_of_18_agrees() {
    compare(18, &[("wal_level", "logical"), ("wal_compression", "lz4")]);
}

/// What is behind a switch in its own page and in the pages after: nothing but zeros, page headers too.
#[test]
fn behind_a_switch_there_are_only_zeros() {
    if skip_without(15) {
        return;
    }
    let server = Archiving::start(15, |builder| builder.wal_segment_size_mb(16));
    server.cluster.pgbench_init(1);
    // Use every file twice, so that a switch falls into one that held other WAL.
    for _ in 0..3 {
        server.cluster.pgbench_init(4);
        server.cluster.psql("postgres", "checkpoint;");
    }
    for _ in 0..5 {
        let name = server.switch();
        let bytes = std::fs::read(server.archive.join(name.to_string())).expect("archived");
        let (inspection, _) = inspect(name, InspectOptions::default(), &bytes).expect("a good one");
        assert!(inspection.facts.ends_with_switch && !inspection.stale_tail);
        assert!(bytes[inspection.valid_bytes as usize..].iter().all(|byte| *byte == 0));
        server.cluster.pgbench_transactions(50);
    }
}

#[test]
fn changes_of_wal_level_are_facts() {
    if skip_without(15) {
        return;
    }
    let mut server = Archiving::start(15, |builder| builder);
    for (level, senders, mode) in [("minimal", "0", "off"), ("replica", "5", "on")] {
        server.cluster.psql("postgres", "create table if not exists t (a int);");
        server.switch_without_archive();
        server.cluster.configure("max_wal_senders", senders);
        server.cluster.configure("archive_mode", mode);
        server.cluster.configure("wal_level", level);
        server.cluster.restart();
    }
    server.cluster.psql("postgres", "alter system set full_page_writes = off;");
    server.cluster.reload();
    server.cluster.psql("postgres", "checkpoint;");
    server.switch();
    let mut levels = Vec::new();
    let mut turned_off = 0;
    for (name, bytes) in server.segments() {
        let (inspection, _) = inspect(name, InspectOptions::default(), &bytes).expect("a good one");
        levels.extend(inspection.facts.wal_levels.iter().map(|change| change.level));
        turned_off += usize::from(inspection.facts.full_page_writes_off.is_some());
    }
    // WAL written under minimal is archived later, when archiving is on again.
    assert_eq!(levels.last(), Some(&WalLevel::Replica), "{levels:?}");
    assert_eq!(turned_off, 1);
}

impl Archiving {
    fn switch_without_archive(&self) {
        self.cluster.psql("postgres", "select pg_switch_wal();");
    }
}

/// How long 16 MiB take. Not a test: run it alone on a quiet machine.
#[test]
#[ignore = "measures"]
fn speed() {
    if skip_without(15) {
        return;
    }
    let server =
        Archiving::start(15, |builder| builder.wal_segment_size_mb(16).setting("full_page_writes", "off"));
    server.cluster.pgbench_init(1);
    server.switch();
    server.cluster.pgbench_transactions(30_000);
    server.cluster.psql("postgres", "checkpoint; alter system set full_page_writes = on;");
    server.cluster.reload();
    server
        .cluster
        .psql("postgres", "vacuum full pgbench_accounts; create index on pgbench_accounts (abalance);");
    server.switch();
    for (name, bytes) in server.segments() {
        let mut best = f64::MAX;
        let mut records = 0;
        for _ in 0..20 {
            let start = std::time::Instant::now();
            let found = inspect_slice(name, InspectOptions::default(), &bytes).expect("a good one");
            best = best.min(start.elapsed().as_secs_f64());
            records = found.facts.records;
        }
        println!("{name}: {:.2} ms, {records} records", best * 1000.0);
    }
}
