//! The whole way on each kind of store: back up, change, back up what has changed, archive, restore to a moment, start and
//! compare, read everything again, expire.

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

use refloat_testkit::cluster::{Owner, StopMode, TestCluster, skip_without};
use refloat_testkit::servers::{
    Azurite, DropboxDouble, Garage, GcsEmulator, GdriveDouble, Moto, S3sFs, Sshd, WebDav,
};
use refloat_types::{Clock as _, SystemClock};

use super::pitr::assert_same;
use super::site::{Site, prove, start_restored};

/// A store to keep a repository in.
struct Place {
    /// What stands in `[repository.local]`.
    lines: String,
    /// Makes its tombstones some days older, where its server can be brought to that.
    age: Option<Box<dyn Fn()>>,
    /// The server, and what belongs to it.
    _server: Box<dyn Any>,
}

/// A file that only the tests' user reads.
pub(super) fn secret(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("writes");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    Owner::current().give(&path);
    format!("{{ file = \"{}\" }}", path.display())
}

pub(super) fn s3(endpoint: &str, bucket: &str, access: &str, secret: &str) -> String {
    format!(
        "url = \"s3://{bucket}/db1\"\nendpoint = \"{endpoint}\"\n\
         credentials = {{ access_key_id = \"{access}\", secret_access_key = {secret} }}"
    )
}

/// How much older things are made.
const DAYS: i64 = 3 * 86_400;

/// Makes everything older below a directory of a server that keeps objects as files.
pub(super) fn age(directory: &Path) {
    let old = std::time::SystemTime::UNIX_EPOCH
        + std::time::Duration::from_secs((SystemClock.now().as_second() - DAYS) as u64);
    for entry in std::fs::read_dir(directory).expect("a directory of the server") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            age(&path);
        } else {
            let file = std::fs::OpenOptions::new().append(true).open(&path).expect("opens");
            file.set_modified(old).expect("sets its time");
        }
    }
}

fn main_job(place: &Place) {
    let source = "retention = { full = 1, wal = \"1s\" }\n";
    let mut site = Site::stored(TestCluster::builder().version(15).checksums(true), &place.lines, source);
    let cluster = &site.cluster;
    cluster.pgbench_init(1);
    cluster.psql("postgres", "create table marks(n int); insert into marks values (1)");
    let first = site.backup();
    cluster.psql(
        "postgres",
        "insert into marks values (2); update pgbench_accounts set abalance = 7 where aid < 500",
    );
    let incremental = site.run(&["backup", "prod", "--type", "incr", "--json"]).ends(0).json();
    assert_eq!(incremental["backups"][0]["type"], "incr", "{incremental}");
    cluster.pgbench_transactions(100);
    cluster.psql("postgres", "insert into marks values (3)");
    let truth = cluster.dump_all_databases();
    let lsn = cluster.psql("postgres", "select pg_current_wal_insert_lsn()");
    cluster.psql("postgres", "insert into marks values (4); drop table pgbench_history");
    site.archive_all();

    let directory = site.restore("moment", &["--target-lsn", &lsn, "--as", "copy"]);
    cluster.verifybackup(&directory).expect("pg_verifybackup");
    let clone = start_restored(15, &directory);
    assert_same("moment", &clone.dump_all_databases(), &truth);
    prove(clone);

    let verified = site.run(&["verify", "--read-data"]).ends(0).stdout;
    assert!(!verified.contains("DAMAGE") && !verified.contains("LOOK"), "{verified}");

    let last = site.backup();
    site.archive_all();
    let marked = site.run(&["expire", "--json"]).ends(0).json();
    // The incremental one may still be in the window.
    assert!(marked["repositories"][0]["marked"]["backups"].as_u64() >= Some(1), "{marked}");
    if let Some(age) = &place.age {
        age();
        let expired = site.run(&["expire", "--json"]).ends(0).json();
        assert!(expired["repositories"][0]["deleted"]["backups"].as_u64() >= Some(1), "{expired}");
    }
    let listed = site.run(&["list", "prod", "--json"]).ends(0).json();
    let listed: Vec<_> =
        listed["backups"].as_array().expect("a list").iter().map(|one| &one["backup"]).collect();
    assert_eq!(listed.iter().any(|id| **id == first.as_str()), place.age.is_none(), "{listed:?}");
    assert!(listed.iter().any(|id| **id == last.as_str()), "{listed:?}");
    site.run(&["verify"]).ends(0);
    site.cluster.stop(StopMode::Fast);
}

/// Runs the main job on what `place` makes, unless something lacks.
fn on(place: impl FnOnce(&Path) -> Option<Place>) {
    if skip_without(15) {
        return;
    }
    let secrets = Owner::current().temp_dir();
    if let Some(place) = place(secrets.path()) {
        main_job(&place);
    }
}

#[test]
fn s3_on_a_directory() {
    on(|secrets| {
        let server = S3sFs::start()?;
        let key = secret(secrets, "key", server.secret_key());
        let bucket = server.bucket("backups");
        let tombstones = server.root().join(&bucket).join("db1/tombstones");
        Some(Place {
            lines: s3(&server.endpoint(), &bucket, server.access_key(), &key),
            age: Some(Box::new(move || age(&tombstones))),
            _server: Box::new(server),
        })
    });
}

#[test]
fn s3_with_versions() {
    on(|secrets| {
        let server = Moto::start()?;
        let key = secret(secrets, "key", server.secret_key());
        let bucket = server.versioned_bucket("backups");
        let lines = s3(&server.endpoint(), &bucket, server.access_key(), &key);
        Some(Place { lines, age: None, _server: Box::new(server) })
    });
}

#[test]
fn s3_that_ignores_conditions() {
    on(|secrets| {
        let server = Garage::start()?;
        let key = secret(secrets, "key", server.secret_key());
        let bucket = server.bucket("backups");
        let lines = s3(&server.endpoint(), &bucket, server.access_key(), &key);
        let lines = format!("{lines}\nregion = \"{}\"", server.region());
        Some(Place { lines, age: None, _server: Box::new(server) })
    });
}

#[test]
fn google() {
    on(|secrets| {
        let server = GcsEmulator::start()?;
        // It looks at no token; where they come from and that they are sent is ours.
        let token = secret(secrets, "token", "a token of tests alone\n");
        let lines = format!(
            "url = \"gs://{}/db1\"\nendpoint = \"{}\"\ncredentials = {{ access_token = {token} }}",
            server.bucket("backups"),
            server.endpoint()
        );
        Some(Place { lines, age: None, _server: Box::new(server) })
    });
}

#[test]
fn azure() {
    on(|secrets| {
        let server = Azurite::start()?;
        let key = secret(secrets, "key", server.account_key());
        let lines = format!(
            "url = \"azblob://{}/db1\"\nendpoint = \"{}\"\ncredentials = {{ account_name = \"{}\", account_key = {key} }}",
            server.container("backups"),
            server.endpoint(),
            server.account()
        );
        Some(Place { lines, age: None, _server: Box::new(server) })
    });
}

#[test]
fn sftp() {
    on(|_| {
        let server = Sshd::start()?;
        let directory = server.directory("backups");
        let lines = format!(
            "url = \"sftp://{}@127.0.0.1:{}{}\"\nknown_hosts = \"{}\"\ncredentials = {{ private_key = {{ file = \"{}\" }} }}",
            server.user(),
            server.port(),
            directory.display(),
            server.known_hosts().display(),
            server.private_key().display()
        );
        let tombstones = directory.join("tombstones");
        Some(Place { lines, age: Some(Box::new(move || age(&tombstones))), _server: Box::new(server) })
    });
}

#[test]
fn webdav() {
    on(|secrets| {
        let server = WebDav::start()?;
        let password = secret(secrets, "password", server.password());
        let lines = format!(
            "url = \"webdav://127.0.0.1:{}/{}\"\ncredentials = {{ user = \"{}\", password = {password} }}",
            server.port(),
            server.directory("backups"),
            server.user()
        );
        let tombstones = server.root().join("backups/tombstones");
        Some(Place { lines, age: Some(Box::new(move || age(&tombstones))), _server: Box::new(server) })
    });
}

/// An app's credentials, each secret in a file of its own.
fn app(secrets: &Path, client_id: &str, client_secret: &str, refresh_token: &str) -> String {
    format!(
        "credentials = {{ client_id = \"{client_id}\", client_secret = {}, refresh_token = {} }}",
        secret(secrets, "client", client_secret),
        secret(secrets, "refresh", refresh_token)
    )
}

#[test]
fn dropbox() {
    on(|secrets| {
        let double = Arc::new(DropboxDouble::start());
        let app = app(secrets, double.client_id(), double.client_secret(), double.refresh_token());
        let lines = format!("url = \"dropbox://backups/db1\"\nendpoint = \"{}\"\n{app}", double.endpoint());
        let aged = Arc::clone(&double);
        let age = move || aged.age("/tombstones/", DAYS);
        Some(Place { lines, age: Some(Box::new(age)), _server: Box::new(double) })
    });
}

#[test]
fn check_says_what_an_account_cannot_promise() {
    if skip_without(15) {
        return;
    }
    let secrets = Owner::current().temp_dir();
    let double = GdriveDouble::start();
    double.limit_space(7 << 30);
    let app = app(secrets.path(), double.client_id(), double.client_secret(), double.refresh_token());
    let lines = format!("url = \"gdrive://backups\"\nendpoint = \"{}\"\n{app}", double.endpoint());
    let mut site = Site::stored(TestCluster::builder().version(15).checksums(true), &lines, "");
    site.backup();
    let said = site.run(&["check"]);
    for expected in [
        "what was just stored is not listed at once",
        "locks and policies of Google Drive are not looked at: as far as can be told, these credentials can destroy",
    ] {
        assert!(said.stdout.contains(expected), "{expected}\nis not in\n{}{}", said.stdout, said.stderr);
    }
    double.revoke();
    let refused = site.run(&["list", "prod"]);
    let told = format!("{}{}", refused.stdout, refused.stderr);
    assert!(told.contains("no token is given: invalid_grant"), "{told}");
    assert!(!told.contains(double.refresh_token()) && !told.contains(double.client_secret()), "{told}");
    site.cluster.stop(StopMode::Fast);
}

#[test]
fn google_drive() {
    on(|secrets| {
        let double = Arc::new(GdriveDouble::start());
        let app = app(secrets, double.client_id(), double.client_secret(), double.refresh_token());
        let lines = format!("url = \"gdrive://backups/db1\"\nendpoint = \"{}\"\n{app}", double.endpoint());
        let aged = Arc::clone(&double);
        let age = move || aged.age("tombstones/", DAYS);
        Some(Place { lines, age: Some(Box::new(age)), _server: Box::new(double) })
    });
}
