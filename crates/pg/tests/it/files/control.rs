use std::collections::BTreeMap;
use std::path::Path;

use refloat_pg::control::{ClusterState, ControlFile, poison, read_settled};
use refloat_pg::label::{BackupLabel, parse_tablespace_map};

use super::cluster::{Cluster, run, tool};

/// What `pg_controldata` prints, by its words.
fn controldata(data: &Path) -> BTreeMap<String, String> {
    run(tool("pg_controldata").arg("-D").arg(data))
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

fn compare(data: &Path) -> ControlFile {
    let (control, bytes) = read_settled(data).expect("readable");
    assert_eq!(ControlFile::parse(&bytes), Ok(control.clone()));
    let said = controldata(data);
    let time = |t: refloat_types::Timestamp| t.strftime("%a %b %e %H:%M:%S %Y").to_string();
    let lsn = |lsn: Option<refloat_types::Lsn>| lsn.unwrap_or_default().to_string();
    let yes = |b: bool, yes: &str, no: &str| if b { yes } else { no }.to_owned();
    let checkpoint = &control.checkpoint;
    let xid = checkpoint.next_xid;
    for (key, value) in [
        ("pg_control version number", control.control_version.to_string()),
        ("Catalog version number", control.catalog_version.to_string()),
        ("Database system identifier", control.system_identifier.to_string()),
        ("Database cluster state", control.state.to_string()),
        ("pg_control last modified", time(control.time)),
        ("Latest checkpoint location", checkpoint.location.to_string()),
        ("Latest checkpoint's REDO location", checkpoint.redo.to_string()),
        ("Latest checkpoint's TimeLineID", checkpoint.timeline.get().to_string()),
        ("Latest checkpoint's PrevTimeLineID", checkpoint.previous_timeline.get().to_string()),
        ("Latest checkpoint's full_page_writes", yes(checkpoint.full_page_writes, "on", "off")),
        ("Latest checkpoint's NextXID", format!("{}:{}", xid >> 32, xid & 0xffff_ffff)),
        ("Latest checkpoint's NextOID", checkpoint.next_oid.to_string()),
        ("Latest checkpoint's NextMultiXactId", checkpoint.next_multixact.to_string()),
        ("Latest checkpoint's oldestXID", checkpoint.oldest_xid.to_string()),
        ("Time of latest checkpoint", time(checkpoint.time)),
        ("Minimum recovery ending location", lsn(control.min_recovery_point)),
        (
            "Min recovery ending loc's timeline",
            control.min_recovery_timeline.map_or(0, |t| t.get()).to_string(),
        ),
        ("Backup start location", lsn(control.backup_start)),
        ("Backup end location", lsn(control.backup_end)),
        ("End-of-backup record required", yes(control.backup_end_required, "yes", "no")),
        ("wal_level setting", control.wal_level.to_string()),
        ("wal_log_hints setting", yes(control.wal_log_hints, "on", "off")),
        ("max_connections setting", control.limits.max_connections.to_string()),
        ("max_worker_processes setting", control.limits.max_worker_processes.to_string()),
        ("max_wal_senders setting", control.limits.max_wal_senders.to_string()),
        ("max_prepared_xacts setting", control.limits.max_prepared_transactions.to_string()),
        ("max_locks_per_xact setting", control.limits.max_locks_per_transaction.to_string()),
        ("track_commit_timestamp setting", yes(control.track_commit_timestamp, "on", "off")),
        ("Database block size", control.block_size.to_string()),
        ("Blocks per segment of large relation", control.relation_segment_blocks.to_string()),
        ("WAL block size", control.wal_block_size.to_string()),
        ("Bytes per WAL segment", control.wal_segment_size.bytes().to_string()),
        ("Data page checksum version", control.checksum_version.to_string()),
    ] {
        assert_eq!(said.get(key), Some(&value), "{key}");
    }
    control
}

#[test]
fn the_control_file_says_what_pg_controldata_says() {
    let cluster = Cluster::start(
        "wal_level = logical\nmax_connections = 23\nmax_worker_processes = 11\nmax_wal_senders = 7\n\
         max_prepared_transactions = 5\nmax_locks_per_transaction = 70\ntrack_commit_timestamp = on\n\
         wal_log_hints = on",
    );
    cluster.sql("create table t as select generate_series(1, 1000) n; checkpoint");
    let control = compare(&cluster.data);
    assert_eq!(control.state, ClusterState::InProduction);
    assert_eq!(control.limits.max_wal_senders, 7);
    assert_eq!(control.major_version(), Some(15));
    cluster.pg_ctl("stop");
    assert_eq!(compare(&cluster.data).state, ClusterState::ShutDown);

    // A standby that was stopped knows a minimum recovery point.
    let signal = cluster.data.join("standby.signal");
    std::fs::write(signal, "").expect("written");
    cluster.pg_ctl("start");
    cluster.pg_ctl("stop");
    let control = compare(&cluster.data);
    assert_eq!(control.state, ClusterState::ShutDownInRecovery);
    assert!(control.min_recovery_point.is_some());
}

#[test]
fn a_poisoned_control_file_starts_with_its_label_and_only_with_it() {
    let source = Cluster::start("");
    source.sql("create table t as select generate_series(1, 1000) n");
    let copy = Cluster::create("");
    std::fs::remove_dir_all(&copy.data).expect("removed");
    source.base_backup(&copy.data, &["-X", "fetch"]);
    let conf = copy.data.join("postgresql.conf");
    let text = std::fs::read_to_string(&conf).expect("readable");
    let socket = format!("unix_socket_directories = '{}'\n", copy.top.path().display());
    std::fs::write(&conf, text + &socket).expect("written");

    let label = std::fs::read(copy.data.join("backup_label")).expect("readable");
    let parsed = BackupLabel::parse(&label).expect("valid");
    let original = std::fs::read(copy.data.join("global/pg_control")).expect("readable");
    let control = ControlFile::parse(&original).expect("valid");
    assert_eq!(parsed.checkpoint, control.checkpoint.location);
    assert_eq!(parsed.start, control.checkpoint.redo);
    assert_eq!(parsed.label, "pg_basebackup base backup");
    let poisoned = poison(&original).expect("valid");
    std::fs::write(copy.data.join("global/pg_control"), &poisoned).expect("written");
    assert_eq!(controldata(&copy.data)["Latest checkpoint location"], "0/BAD0", "its CRC holds");

    std::fs::remove_file(copy.data.join("backup_label")).expect("removed");
    assert!(!copy.try_pg_ctl("start"), "a server without its label must not start");
    let log = copy.log();
    assert!(log.contains("could not locate a valid checkpoint record"), "{log}");
    let after = std::fs::read(copy.data.join("global/pg_control")).expect("readable");
    assert_eq!(after, poisoned, "the refused start changed nothing");

    std::fs::write(copy.data.join("backup_label"), &label).expect("written");
    if rustix::process::geteuid().is_root() {
        run(std::process::Command::new("chown").arg("-R").arg("postgres:").arg(&copy.data));
    }
    copy.pg_ctl("start");
    assert_eq!(copy.sql("select count(*) from t"), "1000");
    copy.sql("checkpoint");
    let (control, _) = read_settled(&copy.data).expect("readable");
    assert!(control.checkpoint.location > parsed.checkpoint, "the pointer is a real one again");
}

#[test]
fn labels_and_maps_of_a_server_are_read() {
    let cluster = Cluster::start("archive_mode = on\narchive_command = false");
    let odd = cluster.top.path().join("sp ace\\back");
    run(tool("/bin/mkdir").arg(&odd));
    cluster.sql(&format!("create tablespace odd location '{}'", odd.display()));
    let oid = cluster.sql("select oid from pg_tablespace where spcname = 'odd'");
    let both = cluster.sql(
        "select 1 from pg_backup_start(E'two\\nlines', true); \
         select labelfile || chr(1) || spcmapfile from pg_backup_stop(false)",
    );
    let (label, map) = both.trim_start_matches("1\n").split_once('\u{1}').expect("two columns");
    let label = BackupLabel::parse(label.as_bytes()).expect("valid");
    assert_eq!(label.label, "two\nlines");
    assert_eq!(label.start_timeline.get(), 1);
    let map = parse_tablespace_map(format!("{}\n", map.trim_end()).as_bytes()).expect("valid");
    assert_eq!(map.len(), 1);
    assert_eq!(map[0].oid.to_string(), oid);
    assert_eq!(map[0].path, odd.as_os_str().as_encoded_bytes());

    // The archive's own record of the same backup.
    let history = std::fs::read_dir(cluster.data.join("pg_wal"))
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .find(|path| path.extension().is_some_and(|e| e == "backup"))
        .expect("a backup history file");
    let history = BackupLabel::parse(&std::fs::read(history).expect("readable")).expect("valid");
    assert_eq!((history.start, history.checkpoint), (label.start, label.checkpoint));
    assert!(history.stop.expect("its end").end > label.start);
}
