//! The main job on each kind of object store: full, incremental, WAL, a moment in between, verify, expire.

use refloat_testkit::cluster::{TestCluster, skip_without};
use refloat_testkit::servers::{Azurite, Moto, S3sFs};

use super::site::{Site, prove, start_restored};

/// A version that is always installed; that the others work is shown elsewhere.
const VERSION: u32 = 15;

fn main_job(store: (&str, &str)) {
    if skip_without(VERSION) {
        return;
    }
    let site = Site::in_store(TestCluster::builder().version(VERSION).checksums(true), store);
    let cluster = &site.cluster;
    cluster.psql(
        "postgres",
        "create table t as select g, repeat('x', 100) as x from generate_series(1, 20000) g",
    );
    site.backup();
    cluster.psql("postgres", "update t set x = 'second' where g <= 1000");
    let run = site.run(&["backup", "prod", "--type", "incr", "--json"]).ends(0);
    assert!(run.stdout.contains("\"incr\""), "{}", run.stdout);
    cluster.psql("postgres", "insert into t select 0, 'after the backup' from generate_series(1, 500)");
    let moment = cluster.psql("postgres", "select now()");
    site.archive_all();
    cluster.psql("postgres", "drop table t");
    site.archive_all();

    let to = site.restore("restored", &["--target-time", &moment]);
    let clone = start_restored(VERSION, &to);
    let counted = "select count(*) filter (where x = 'second') || ' ' || count(*) from t";
    assert_eq!(clone.psql("postgres", counted), "1000 20500");
    prove(clone);

    site.run(&["verify", "prod", "--read-data"]).ends(0);
    site.run(&["list", "prod"]).ends(0);
    let check = site.run(&["check", "--json"]);
    assert!(!check.stdout.contains("\"failure\""), "{}\n{}", check.stdout, check.stderr);
}

#[test]
fn everything_in_a_bucket_of_s3() {
    let Some(server) = S3sFs::start() else { return };
    let lines = format!(
        "url = \"s3://{}/db1\"\nendpoint = \"{}\"\n\
         credentials = {{ access_key_id = \"{}\", secret_access_key = {{ file = \"{{secret}}\" }} }}",
        server.bucket("backups"),
        server.endpoint(),
        server.access_key()
    );
    main_job((&lines, server.secret_key()));
}

#[test]
fn everything_in_a_bucket_of_s3_in_another_dialect() {
    let Some(server) = Moto::start() else { return };
    // The keys come as a document, and each object says whose it is.
    let keys = format!(
        "{{\"Version\": 1, \"AccessKeyId\": \"{}\", \"SecretAccessKey\": \"{}\"}}",
        server.access_key(),
        server.secret_key()
    );
    let lines = format!(
        "url = \"s3://{}\"\nendpoint = \"{}\"\ncredentials = {{ from = {{ file = \"{{secret}}\" }} }}\n\
         storage_class = \"STANDARD_IA\"\nsse = \"AES256\"\nmetadata = {{ owner = \"dba\" }}",
        server.bucket("backups"),
        server.endpoint()
    );
    main_job((&lines, &keys));
}

#[test]
fn everything_in_a_container_of_azure() {
    let Some(server) = Azurite::start() else { return };
    let lines = format!(
        "url = \"azblob://{}/db1\"\nendpoint = \"{}\"\n\
         credentials = {{ account_name = \"{}\", account_key = {{ file = \"{{secret}}\" }} }}",
        server.container("backups"),
        server.endpoint(),
        server.account()
    );
    main_job((&lines, server.account_key()));
}

#[test]
fn a_fetch_goes_by_what_was_seen_and_never_says_that_nothing_is_there() {
    if skip_without(VERSION) {
        return;
    }
    let Some(server) = S3sFs::start() else { return };
    let bucket = server.bucket("backups");
    let lines = format!(
        "url = \"s3://{bucket}/db1\"\nendpoint = \"{}\"\n\
         credentials = {{ access_key_id = \"{}\", secret_access_key = {{ file = \"{{secret}}\" }} }}",
        server.endpoint(),
        server.access_key()
    );
    let builder = TestCluster::builder().version(VERSION).checksums(true);
    let site = Site::in_store(builder, (&lines, server.secret_key()));
    let config = std::fs::read_to_string(&site.config).expect("reads");
    let hurried = config.replace("[source.prod]\n", "[source.prod]\nwal_fetch_timeout = \"2s\"\n");
    assert_ne!(config, hurried);
    std::fs::write(&site.config, hurried).expect("writes");
    let segment = site.cluster.psql("postgres", "select pg_walfile_name(pg_current_wal_insert_lsn())");
    site.archive_all();
    let dest = site.path("fetched");
    let fetch =
        |name: &str| site.run(&["wal", "fetch", "--source", "prod", name, dest.to_str().expect("a path")]);
    fetch(&segment).ends(0);
    let first = std::fs::read(&dest).expect("it was fetched");
    fetch("0000000100000000000000FF").ends(1);

    // What was seen is enough for a file that is there, and for no other answer.
    let marker = server.root().join(&bucket).join("db1/repository");
    let aside = marker.with_file_name("aside");
    std::fs::rename(&marker, &aside).expect("moves");
    std::fs::remove_file(&dest).expect("removes");
    fetch(&segment).ends(0);
    assert!(std::fs::read(&dest).expect("it was fetched") == first);
    fetch("0000000100000000000000FF").ends(255);

    // A damaged one is not handed out because it is had in a hurry.
    std::fs::rename(&aside, &marker).expect("moves back");
    let wal = server.root().join(&bucket).join("db1/wal");
    let stored = find(&wal, &segment).expect("the segment's object");
    let mut bytes = std::fs::read(&stored).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&stored, bytes).expect("writes");
    std::fs::remove_file(&dest).expect("removes");
    fetch(&segment).ends(255);
    assert!(!dest.exists());
}

/// The file below `directory` whose name begins so.
fn find(directory: &std::path::Path, begin: &str) -> Option<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let is_it = |path: &&std::path::PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin)) && path.is_file()
    };
    let here = paths.iter().find(is_it).cloned();
    here.or_else(|| paths.iter().find_map(|path| find(path, begin)))
}
