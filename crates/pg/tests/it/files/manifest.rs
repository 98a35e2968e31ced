use std::path::Path;

use refloat_pg::control::read_settled;
use refloat_pg::label::BackupLabel;
use refloat_pg::layout::{Kind, Scope, Walk};
use refloat_pg::manifest::{ManifestFile, ManifestWriter, WalRange, combine};
use refloat_types::{Lsn, Timestamp};

use super::cluster::{Cluster, VERSION, output, run, tool};

fn verifies(backup: &Path) -> (bool, String) {
    let output = output(tool("pg_verifybackup").arg("--no-parse-wal").arg(backup));
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// CRC of a file whose second half came first.
fn crc(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.split_at(bytes.len() / 2);
    let behind = crc32c::crc32c(b);
    combine(crc32c::crc32c(a), behind, b.len() as u64)
}

/// Replaces the manifest of a backup by ours, and returns PostgreSQL's.
fn replace(backup: &Path, end: Lsn) -> String {
    let (control, _) = read_settled(backup).expect("readable");
    let old = std::fs::read_to_string(backup.join("backup_manifest")).expect("readable");
    let mut writer = ManifestWriter::new(Vec::new(), 15, control.system_identifier).expect("memory");
    // All of it: the label belongs to the backup here.
    for entry in Walk::new(backup, VERSION, Scope::All).expect("readable") {
        let entry = entry.expect("readable");
        let left_out = entry.path == b"backup_manifest" || entry.path.starts_with(b"pg_wal/");
        if entry.kind != Kind::File || left_out {
            continue;
        }
        use std::os::unix::ffi::OsStrExt as _;
        let name = backup.join(std::ffi::OsStr::from_bytes(&entry.path));
        let bytes = std::fs::read(name).expect("readable");
        let modified = Timestamp::from_second(entry.mtime_ns / 1_000_000_000).expect("a time");
        let file = ManifestFile { path: &entry.path, size: entry.size, modified, crc32c: crc(&bytes) };
        writer.file(&file).expect("memory");
    }
    let label = std::fs::read(backup.join("backup_label")).expect("readable");
    let label = BackupLabel::parse(&label).expect("valid");
    let range = WalRange { timeline: label.start_timeline, start: label.start, end };
    let bytes = writer.finish(&[range]).expect("memory");
    std::fs::write(backup.join("backup_manifest"), bytes).expect("written");
    old
}

#[test]
fn pg_verifybackup_accepts_our_manifest_and_finds_damage_by_it() {
    let cluster = Cluster::start("");
    let place = cluster.top.path().join("ts");
    run(tool("/bin/mkdir").arg(&place));
    cluster.sql(&format!("create tablespace ts location '{}'", place.display()));
    cluster.sql("create table t tablespace ts as select generate_series(1, 10000) n");
    use std::os::unix::ffi::OsStrExt as _;
    let odd = std::ffi::OsStr::from_bytes(b"odd\xff \"name\"");
    std::fs::write(cluster.data.join(odd), "x").expect("written");
    std::fs::set_permissions(cluster.data.join(odd), std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .expect("changed");
    let backup = cluster.top.path().join("backup");
    let mapping =
        format!("--tablespace-mapping={}={}", place.display(), cluster.top.path().join("ts2").display());
    cluster.base_backup(&backup, &["--manifest-checksums=CRC32C", &mapping]);
    assert_eq!(verifies(&backup), (true, String::new()));

    let old = std::fs::read_to_string(backup.join("backup_manifest")).expect("readable");
    let theirs: serde_json::Value = serde_json::from_str(&old).expect("JSON");
    let end: Lsn = theirs["WAL-Ranges"][0]["End-LSN"].as_str().expect("text").parse().expect("an LSN");
    replace(&backup, end);
    assert_eq!(verifies(&backup), (true, String::new()));

    // Line by line the same as PostgreSQL's, apart from the order, the clock and the last line.
    let new = std::fs::read_to_string(backup.join("backup_manifest")).expect("readable");
    let lines = |text: &str| -> Vec<String> {
        let without_time = |line: &str| match line.split_once("\"Last-Modified\": \"") {
            Some((a, b)) => format!("{a}{}", &b[b.find('"').expect("a closing quote")..]),
            None => line.to_owned(),
        };
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| !line.contains("Manifest-Checksum"))
            .map(|line| without_time(line).trim_end_matches(',').to_owned())
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&new), lines(&old));
    let conf = |text: &str| -> String {
        text.lines()
            .find(|line| line.contains("\"postgresql.conf\""))
            .expect("listed")
            .trim_end_matches(',')
            .to_owned()
    };
    assert!(
        conf(&old).contains(" GMT\", \"Checksum-Algorithm\"")
            && conf(&new).contains(" GMT\", \"Checksum-Algorithm\"")
    );

    // The lists of pg_verifybackup: a new postgresql.auto.conf and a signal are no news, a stray file is.
    std::fs::write(backup.join("postgresql.auto.conf"), "port = 1\n").expect("written");
    std::fs::write(backup.join("recovery.signal"), "").expect("written");
    std::fs::write(backup.join("standby.signal"), "").expect("written");
    std::fs::write(backup.join("pg_wal/stray"), "").expect("written");
    let readable = ["chown", "-R", "--reference"];
    run(std::process::Command::new(readable[0]).args(&readable[1..]).arg(&cluster.data).arg(&backup));
    assert_eq!(verifies(&backup), (true, String::new()));
    std::fs::write(backup.join("refloat.locked"), "").expect("written");
    let (good, why) = verifies(&backup);
    assert!(!good && why.contains("\"refloat.locked\" is present on disk but not in the manifest"), "{why}");
    std::fs::remove_file(backup.join("refloat.locked")).expect("removed");

    // Damage of a file, and of the manifest itself.
    let victim = backup.join("global/pg_filenode.map");
    let good_bytes = std::fs::read(&victim).expect("readable");
    let mut bytes = good_bytes.clone();
    bytes[17] ^= 1;
    std::fs::write(&victim, &bytes).expect("written");
    let (good, why) = verifies(&backup);
    assert!(!good && why.contains("checksum mismatch for file \"global/pg_filenode.map\""), "{why}");
    std::fs::write(&victim, &good_bytes).expect("written");
    assert!(verifies(&backup).0);
    std::fs::write(backup.join("backup_manifest"), new.replacen("\"Size\": 1,", "\"Size\": 2,", 1))
        .expect("written");
    let (good, why) = verifies(&backup);
    assert!(!good && why.contains("manifest checksum mismatch"), "{why}");
}
