//! What crashes leave in WAL that is archived all the same.

use std::time::Duration;

use refloat_pg::wal::{InspectOptions, Inspection};
use refloat_testkit::cluster::{TestCluster, skip_without, wait_until};
use refloat_types::WalSegmentName;

use super::oracle::{Archiving, inspect};

/// Runs `sql` again and again in a session, and kills its server process after a while. The postmaster then ends all
/// others and recovers, as after a crash of the machine.
fn kill_during(cluster: &TestCluster, sql: &str, after: Duration) {
    let mut command = cluster.client("psql");
    let name = "victim";
    command.env("PGAPPNAME", name).args(["-X", "-q", "-c", sql]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut client = command.spawn().expect("psql starts");
    let ask =
        format!("select pid from pg_stat_activity where application_name = '{name}' and state = 'active';");
    let mut pid = String::new();
    assert!(wait_until(Duration::from_secs(30), || {
        pid = cluster.try_psql("postgres", &ask).unwrap_or_default();
        !pid.is_empty()
    }));
    std::thread::sleep(after);
    let killed = std::process::Command::new("/bin/kill").args(["-KILL", &pid]).status();
    assert!(killed.expect("kill starts").success());
    let _ = client.wait();
    // The postmaster notices, ends everything, recovers.
    let ready = wait_until(Duration::from_secs(120), || {
        cluster.try_psql("postgres", "select not pg_is_in_recovery();").is_ok_and(|answer| answer == "t")
    });
    assert!(ready, "the server did not come back:\n{}", cluster.log());
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
    if skip_without(15) {
        return;
    }
    let server = Archiving::start(15, |builder| builder.setting("wal_buffers", "32kB"));
    let long = "do $$ begin loop perform pg_logical_emit_message(false, 'x', repeat('0123456789', 300000)); end loop; end $$";
    let mut overwritten = Vec::new();
    for round in 0..30 {
        kill_during(&server.cluster, long, Duration::from_millis(40 + 7 * round));
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
    if skip_without(15) {
        return;
    }
    let server = Archiving::start(15, |builder| {
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
    let switch = "do $$ begin loop perform pg_logical_emit_message(false, 'x', 'y'); perform pg_switch_wal(); end loop; end $$";
    let mut stale = 0;
    for round in 0..12 {
        kill_during(&server.cluster, switch, Duration::from_millis(3 + 5 * round));
        server.cluster.psql("postgres", "checkpoint;");
        server.switch();
        stale = inspect_all(&server).iter().filter(|(_, found)| found.stale_tail).count();
        if stale > 0 {
            break;
        }
    }
    assert!(stale > 0, "no crash fell into a switch");
}
