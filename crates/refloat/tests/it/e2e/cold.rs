//! Packs in a class that has to be thawed: what says so, what asks for them, what waits.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use refloat_testkit::cluster::{Owner, TestCluster, skip_without};
use refloat_testkit::servers::Moto;

use super::site::{Site, prove, start_restored};

/// Asks the store for each object, as `thaw_command` may: names come on its input.
fn program(server: &Moto, directory: &Path) -> String {
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

/// A file that only the tests' user reads.
fn secret(directory: &Path, text: &str) -> String {
    let path = directory.join("key");
    fs::write(&path, text).expect("writes");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
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
    let key = secret(secrets.path(), server.secret_key());
    let (thaw, asked) = (program(&server, secrets.path()), secrets.path().join("asked"));
    let lines = format!(
        "url = \"s3://{bucket}/db1\"\nendpoint = \"{}\"\nstorage_class = \"DEEP_ARCHIVE\"\n\
         credentials = {{ access_key_id = \"{}\", secret_access_key = {{ file = \"{}\" }} }}\n\
         thaw_command = [\"{thaw}\", \"{}\"]",
        server.endpoint(),
        server.access_key(),
        key,
        asked.display(),
    );
    let site = Site::stored(TestCluster::builder().version(15).checksums(true), &lines, "");
    let cluster = &site.cluster;
    cluster
        .psql("postgres", "create table t as select g, repeat('x', 100) x from generate_series(1, 20000) g");
    site.backup();
    cluster.psql("postgres", "insert into t select 0, 'after the backup' from generate_series(1, 500)");
    site.archive_all();

    // Everything but the data can be read: it is listed, verified and expired as ever.
    site.run(&["list", "prod"]).ends(0);
    site.run(&["verify", "prod"]).ends(0);
    site.run(&["expire", "--dry-run"]);
    let verified = site.run(&["verify", "prod", "--read-data"]).ends(0);
    assert!(verified.stdout.contains("in DEEP_ARCHIVE must be thawed before"), "{}", verified.stdout);
    assert!(!verified.stdout.contains("every byte"), "{}", verified.stdout);
    assert!(verified.stdout.contains(" in a cold class ("), "{}", verified.stdout);
    assert!(!asked.exists(), "nobody agreed");

    let to = site.path("restored");
    let path = to.display().to_string();
    let restore = ["restore", "prod", "--to", &path, "--as", "copy", "--yes"];
    let plan = site.run(&[&restore[..], &["--dry-run", "--json"]].concat()).ends(0).json();
    let (bytes, target) = (&plan["plan"]["bytes"], &plan["plan"]["target"]);
    assert!(bytes.as_u64().is_some_and(|bytes| bytes > 0) && target == "latest", "{plan}");
    let text = site.run(&[&restore[..], &["--dry-run"]].concat()).ends(0).stdout;
    assert!(text.contains("plan: restore prod to everything archived"), "{text}");
    assert!(text.contains("\n  thaw        ") && text.contains("\n  WAL         0000"), "{text}");
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
    assert!(verified.stdout.contains("every byte read ("), "{}", verified.stdout);
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
    let key = secret(secrets.path(), server.secret_key());
    let lines = format!(
        "url = \"s3://{bucket}\"\nendpoint = \"{}\"\nstorage_class = \"GLACIER\"\n\
         credentials = {{ access_key_id = \"{}\", secret_access_key = {{ file = \"{}\" }} }}\n\
         thaw_command = [\"/bin/false\"]",
        server.endpoint(),
        server.access_key(),
        key,
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
    // One that says that all is well, and has asked for nothing.
    let text = fs::read_to_string(&site.config).expect("reads").replace("/bin/false", "/bin/true");
    fs::write(&site.config, text).expect("writes");
    let run = site.run(&["restore", "prod", "--to", &path, "--as", "copy", "--yes", "--thaw"]).ends(1);
    assert!(run.stderr.contains("THA-002") && run.stderr.contains("was not asked for"), "{}", run.stderr);
    assert!(!to.exists());
}

/// The last of several repositories is cold: it is filled without being read, and gives back what it has alone.
#[test]
fn a_cold_tier_is_filled_and_gives_back() {
    if skip_without(15) {
        return;
    }
    let Some(server) = Moto::start() else { return };
    let bucket = server.bucket("cold");
    let secrets = Owner::current().temp_dir();
    let key = secret(secrets.path(), server.secret_key());
    let thaw = program(&server, secrets.path());
    let site = Site::new(TestCluster::builder().version(15).checksums(true));
    let text = fs::read_to_string(&site.config).expect("reads");
    let cold = format!(
        "\n[repository.cold]\nurl = \"s3://{bucket}/db1\"\nendpoint = \"{}\"\nmode = \"async\"\n\
         credentials = {{ access_key_id = \"{}\", secret_access_key = {{ file = \"{key}\" }} }}\n\
         encryption = {{ passphrase = {{ file = \"{}/passphrase\" }} }}\n\
         storage_class = \"GLACIER\"\nthaw_command = [\"{thaw}\", \"{}\"]\n",
        server.endpoint(),
        server.access_key(),
        site.home.display(),
        secrets.path().join("asked").display(),
    );
    let text = text.replace("repositories = [\"local\"]", "repositories = [\"local\", \"cold\"]");
    fs::write(&site.config, text + &cold).expect("writes");
    site.run(&["init", "--key-kept"]).ends(0);
    site.cluster.psql("postgres", "create table t as select generate_series(1, 1000) n");
    let first =
        site.run(&["backup", "prod", "-r", "local", "--json"]).ends(0).json()["backups"][0]["backup"].clone();
    site.cluster.psql("postgres", "insert into t values (7)");
    site.run(&["backup", "prod", "-r", "local", "--type", "incr"]).ends(0);
    site.archive_all();
    site.run(&["copy", "prod", "--from", "local", "--to", "cold"]).ends(0);
    site.cluster.psql("postgres", "insert into t values (8)");
    site.run(&["backup", "prod", "-r", "local", "--type", "incr"]).ends(0);
    site.archive_all();
    // Nothing that is there is read: the second one is built on packs that are cold by now.
    let run = site.run(&["copy", "prod", "--from", "local", "--to", "cold"]).ends(0);
    assert!(run.stdout.contains("copied 1 backup"), "{}", run.stdout);
    site.run(&["verify", "-r", "cold"]).ends(0);

    // What is cold in the first and at hand in another is taken there, and nothing is asked for.
    let text = fs::read_to_string(&site.config).expect("reads");
    let turned = text.replace("[\"local\", \"cold\"]", "[\"cold\", \"local\"]");
    assert_ne!(turned, text);
    fs::write(&site.config, turned).expect("writes");
    let warm = site.path("warm");
    let path = warm.display().to_string();
    let line = ["restore", "prod", "--to", &path, "--as", "copy", "--yes", "--thaw"];
    let plan = site.run(&[&line[..], &["--dry-run", "--json"]].concat()).ends(0).json();
    assert!(plan["must_be_thawed"].is_null(), "{plan}");
    let run = site.run(&line).ends(0);
    assert!(
        run.stderr.contains("repository cold:") && run.stderr.contains("must be thawed"),
        "{}",
        run.stderr
    );
    assert!(!secrets.path().join("asked").exists(), "nothing had to be paid for");
    prove(start_restored(15, &warm));
    fs::write(&site.config, text).expect("writes");

    let away = site.home.join("local-away");
    fs::rename(site.home.join("repo"), &away).expect("renames");
    let to = site.path("restored");
    let path = to.display().to_string();
    let first = first.as_str().expect("an id");
    let line = ["-r", "cold", "restore", "prod", "--to", &path, "--as", "copy", "--yes"];
    site.run(&[&line[..], &["--thaw"]].concat()).ends(0);
    let clone = start_restored(15, &to);
    assert_eq!(
        clone.psql("postgres", "select sum(n) from t"),
        (1..=1000_u64).sum::<u64>().saturating_add(15).to_string()
    );
    prove(clone);
    assert!(site.run(&["list", "prod", "-r", "cold"]).ends(0).stdout.contains(first));
}
