//! Packs in a class that has to be thawed: what says so, what asks for them, what waits.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use refloat_testkit::cluster::{Owner, TestCluster, skip_without};
use refloat_testkit::servers::Moto;

use super::site::{Site, prove, start_restored};

/// Asks the store for each object, as `thaw_command` may: names come on its input.
fn program(server: &Moto, directory: &std::path::Path) -> String {
    let text = format!(
        "#!/usr/bin/python3\n\
         import os, sys, urllib.request\n\
         for name in sys.stdin.read().split():\n\
         \x20   url = '{}/' + os.environ['REFLOAT_BUCKET'] + '/' + name + '?restore'\n\
         \x20   body = b'<RestoreRequest><Days>7</Days></RestoreRequest>'\n\
         \x20   asked = urllib.request.Request(url, data=body, headers={{'Authorization': '{}', 'Content-Type': 'application/xml'}}, method='POST')\n\
         \x20   urllib.request.urlopen(asked).read()\n\
         open(sys.argv[1], 'a').write('asked\\n')\n",
        server.endpoint(),
        Moto::SIGNED,
    );
    let path = directory.join("thaw");
    fs::write(&path, text).expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    Owner::current().give(&path);
    path.display().to_string()
}

#[test]
fn what_lies_in_a_cold_class_is_thawed_and_restored() {
    if skip_without(15) {
        return;
    }
    let Some(server) = Moto::start() else { return };
    let bucket = server.bucket("cold");
    let secrets = Owner::current().temp_dir();
    let key = secrets.path().join("key");
    fs::write(&key, server.secret_key()).expect("writes");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("chmod");
    Owner::current().give(&key);
    let (thaw, asked) = (program(&server, secrets.path()), secrets.path().join("asked"));
    let lines = format!(
        "url = \"s3://{bucket}/db1\"\nendpoint = \"{}\"\nstorage_class = \"DEEP_ARCHIVE\"\n\
         credentials = {{ access_key_id = \"{}\", secret_access_key = {{ file = \"{}\" }} }}\n\
         thaw_command = [\"{thaw}\", \"{}\"]",
        server.endpoint(),
        server.access_key(),
        key.display(),
        asked.display(),
    );
    let site = Site::stored(TestCluster::builder().version(15).checksums(true), &lines, "");
    let cluster = &site.cluster;
    cluster.psql("postgres", "create table t as select g, repeat('x', 100) x from generate_series(1, 20000) g");
    site.backup();
    cluster.psql("postgres", "insert into t select 0, 'after the backup' from generate_series(1, 500)");
    site.archive_all();

    // Everything but the data can be read: it is listed, verified and expired as ever.
    site.run(&["list", "prod"]).ends(0);
    site.run(&["verify", "prod"]).ends(0);
    site.run(&["expire", "--dry-run"]);
    let verified = site.run(&["verify", "prod", "--read-data"]).ends(0);
    assert!(verified.stdout.contains("in DEEP_ARCHIVE must be thawed before"), "{}", verified.stdout);
    assert!(!asked.exists(), "nobody agreed");

    let to = site.path("restored");
    let path = to.display().to_string();
    let restore = ["restore", "prod", "--to", &path, "--as", "copy", "--yes"];
    let plan = site.run(&[&restore[..], &["--dry-run", "--json"]].concat()).ends(0).json();
    let objects = plan["must_be_thawed"]["objects"].as_array().expect("objects").clone();
    assert!(!objects.is_empty() && objects[0]["class"] == "DEEP_ARCHIVE", "{plan}");
    assert!(objects[0]["object"].as_str().expect("a name").starts_with("db1/packs/"), "{plan}");
    let refused = site.run(&restore).ends(1);
    assert!(refused.stderr.contains("THA-001") && refused.stderr.contains("--thaw"), "{}", refused.stderr);
    assert!(!to.exists() && !asked.exists(), "nothing was written or asked for");

    site.run(&[&restore[..], &["--thaw"]].concat()).ends(0);
    assert_eq!(fs::read_to_string(&asked).expect("it was started"), "asked\n");
    let clone = start_restored(15, &to);
    assert_eq!(clone.psql("postgres", "select count(*) from t"), "20500");
    prove(clone);
    // What was thawed for one is there for the other.
    let verified = site.run(&["verify", "prod", "--read-data"]).ends(0);
    assert!(!verified.stdout.contains("must be thawed"), "{}", verified.stdout);
    assert_eq!(fs::read_to_string(&asked).expect("it was started"), "asked\n", "once");

    // Page hashes lie in packs: nothing is built on cold ones.
    let second = site.backup();
    let run = site.run(&["backup", "prod", "--type", "incr", "--json"]).ends(0).json();
    let note = run["backups"][0]["notes"][0].as_str().expect("a note");
    assert!(note.contains(&format!("{second} is no parent")) && note.contains("in DEEP_ARCHIVE"), "{run}");
}

#[test]
fn a_program_that_fails_changes_nothing() {
    if skip_without(15) {
        return;
    }
    let Some(server) = Moto::start() else { return };
    let bucket = server.bucket("cold");
    let secrets = Owner::current().temp_dir();
    let key = secrets.path().join("key");
    fs::write(&key, server.secret_key()).expect("writes");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("chmod");
    Owner::current().give(&key);
    let lines = format!(
        "url = \"s3://{bucket}\"\nendpoint = \"{}\"\nstorage_class = \"GLACIER\"\n\
         credentials = {{ access_key_id = \"{}\", secret_access_key = {{ file = \"{}\" }} }}\n\
         thaw_command = [\"/bin/false\"]",
        server.endpoint(),
        server.access_key(),
        key.display(),
    );
    let site = Site::stored(TestCluster::builder().version(15).checksums(true), &lines, "");
    site.backup();
    let run = site.run(&["backup", "prod", "--type", "incr", "--json"]).ends(0).json();
    assert_eq!(run["backups"][0]["type"], "full", "{run}");
    let to = site.path("restored");
    let path = to.display().to_string();
    let run = site.run(&["restore", "prod", "--to", &path, "--as", "copy", "--yes", "--thaw"]).ends(1);
    assert!(run.stderr.contains("THA-002") && run.stderr.contains("exit status: 1"), "{}", run.stderr);
    assert!(!to.exists());
}
