//! What crashes leave in WAL that is archived all the same.

use std::io::Write;
use std::process::Stdio;

use refloat_pg::wal::{InspectOptions, Inspection};
use refloat_testkit::cluster::{StopMode, TestCluster, skip_without};
use refloat_testkit::skip_without_strace;
use refloat_types::WalSegmentName;

use super::oracle::{Archiving, inspect};

/// Runs `sql` in single-user mode and kills the server at its `nth` write of a page, as a crash of the machine would.
/// Then starts it again, which recovers.
fn kill_at_write(cluster: &mut TestCluster, sql: &str, nth: u32) {
    cluster.stop(StopMode::Fast);
    let mut command = cluster.as_owner("strace");
    command
        .args(["-qq", "-e", "trace=pwrite64", "-e"])
        .arg(format!("inject=pwrite64:signal=KILL:when={nth}"));
    command
        .arg(cluster.bin("postgres"))
        .arg("--single")
        .arg("-D")
        .arg(cluster.data_directory())
        .arg("postgres");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = command.spawn().expect("strace starts");
    // A server that is killed reads no more; that shows below.
    let _ = writeln!(server.stdin.take().expect("piped"), "{sql}");
    let ended = server.wait().expect("it was started");
    assert!(!ended.success(), "the server wrote fewer than {nth} pages");
    cluster.start();
}

fn inspect_all(server: &Archiving) -> Vec<(WalSegmentName, Inspection)> {
    let inspected = server.segments().into_iter().map(|(name, bytes)| {
        let found = inspect(name, InspectOptions::default(), &bytes);
        (name, found.unwrap_or_else(|fault| panic!("{name}: {fault} {fault:?}")).0)
    });
    inspected.collect()
}

#[test]
fn a_record_cut_off_by_a_crash_is_overwritten() {
    if skip_without(15) || skip_without_strace() {
        return;
    }
    let mut server = Archiving::start(15, |builder| builder.setting("wal_buffers", "32kB"));
    let long = "do $$ begin loop perform pg_logical_emit_message(false, 'x', repeat('0123456789', 300000)); end loop; end $$";
    let mut overwritten = Vec::new();
    for round in 0..30 {
        kill_at_write(&mut server.cluster, long, 300 + 7 * round);
        server.switch();
        overwritten =
            inspect_all(&server).into_iter().flat_map(|(_, found)| found.facts.overwritten).collect();
        if overwritten.len() >= 2 {
            break;
        }
    }
    assert!(!overwritten.is_empty(), "no crash cut a record off");
    let dump = server.dump();
    let marks: Vec<_> = dump
        .texts
        .values()
        .filter_map(|text| {
            text.strip_prefix("OVERWRITE_CONTRECORD lsn ")?.split([' ', ';']).next()?.parse().ok()
        })
        .collect();
    assert_eq!(overwritten, marks);
    for (name, bytes) in server.segments() {
        let (inspection, records) = inspect(name, InspectOptions::default(), &bytes).expect("seen before");
        let mut expected = dump.of_segment(name);
        expected.retain(|lsn, _| inspection.facts.unfinished_tail != Some(*lsn));
        assert_eq!(records, expected, "{name}");
    }
}

/// A crash while the zeros behind a switch are written leaves old pages there. PostgreSQL goes on in the next file and
/// archives this one as it is: nothing is lost, and refusing it would stop archiving for ever.
#[test]
fn a_crash_within_a_switch_leaves_old_pages_behind_it() {
    if skip_without(15) || skip_without_strace() {
        return;
    }
    let mut server = Archiving::start(15, |builder| {
        builder
            .wal_segment_size_mb(16)
            .setting("wal_buffers", "32kB")
            .setting("min_wal_size", "256MB")
            .setting("max_wal_size", "256MB")
    });
    // Files with WAL to recycle.
    for _ in 0..3 {
        server.cluster.pgbench_init(5);
        server.cluster.psql("postgres", "checkpoint;");
    }
    // The rest of the file is zeroed page by page through few buffers, so that this write falls among the zeros.
    kill_at_write(&mut server.cluster, "select pg_switch_wal();", 200);
    server.cluster.psql("postgres", "checkpoint;");
    server.switch();
    let stale = inspect_all(&server).iter().filter(|(_, found)| found.stale_tail).count();
    assert_eq!(stale, 1, "the crash fell into a switch");
}
