//! Repositories behind a network that breaks: servers that die in the middle, connections that are cut, reset or lead nowhere,
//! and two repositories of two kinds of which one goes away.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use refloat_testkit::cluster::{Owner, TestCluster, skip_without, wait_until};
use refloat_testkit::proxy::{Mode, Proxy};
use refloat_testkit::servers::{Moto, S3sFs};

use super::site::{Site, prove, start_restored};

/// A site with a repository in a bucket behind a proxy, and where asked one in a directory before it.
struct Scene {
    site: Site,
    server: S3sFs,
    proxy: Proxy,
    secrets: tempfile::TempDir,
}

impl Scene {
    fn new(with_directory: bool) -> Option<Self> {
        if skip_without(15) {
            return None;
        }
        let server = S3sFs::start()?;
        let proxy = Proxy::before(server.port());
        let bucket = server.bucket("backups");
        let secrets = Owner::current().temp_dir();
        let key = secrets.path().join("key");
        fs::write(&key, server.secret_key()).expect("writes");
        fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
        Owner::current().give(&key);
        let lines = format!(
            "url = \"s3://{bucket}/db1\"\nendpoint = \"{}\"\ncall_timeout = \"2s\"\n\
             credentials = {{ access_key_id = \"{}\", secret_access_key = {{ file = \"{}\" }} }}",
            proxy.endpoint(),
            server.access_key(),
            key.display()
        );
        let builder = TestCluster::builder().version(15).checksums(true);
        let site = if with_directory {
            let site = Site::new(builder);
            let mut text = fs::read_to_string(&site.config).expect("reads");
            text = text.replace("repositories = [\"local\"]", "repositories = [\"local\", \"bucket\"]");
            text.push_str(&format!(
                "\n[repository.bucket]\n{lines}\nencryption = {{ passphrase = {{ file = \"{}\" }} }}\n",
                site.path("passphrase").display()
            ));
            fs::write(&site.config, text).expect("writes");
            site.run(&["init", "--key-kept"]).ends(0);
            site
        } else {
            Site::stored(builder, &lines, "wal_push_timeout = \"20s\"")
        };
        Some(Self { site, server, proxy, secrets })
    }

    /// Restores the latest moment out of one repository and answers what is in its table.
    fn restored(&self, repository: &str, name: &str) -> String {
        let to = self.site.path(name).display().to_string();
        self.site.run(&["restore", "prod", "-r", repository, "--to", &to, "--as", "copy", "--yes"]).ends(0);
        let clone = start_restored(15, &PathBuf::from(to));
        let sum = clone.psql("postgres", "select count(*) from t");
        prove(clone);
        sum
    }
}

/// A host that has nothing but the URL, the passphrase and the store's variables restores, and its server goes on fetching WAL.
#[test]
fn a_bucket_and_its_keys_are_enough() {
    let Some(scene) = Scene::new(false) else { return };
    let site = &scene.site;
    site.cluster.psql("postgres", "create table t as select generate_series(1, 1000) n");
    site.run(&["backup", "prod"]).ends(0);
    site.cluster.psql("postgres", "insert into t values (1)");
    site.archive_all();
    let to = site.path("elsewhere");
    let mut command = site.cluster.owner().bare_command(crate::program());
    command.env("AWS_ACCESS_KEY_ID", scene.server.access_key());
    command.env("AWS_SECRET_ACCESS_KEY", scene.server.secret_key());
    command.env("AWS_ENDPOINT_URL_S3", scene.proxy.endpoint()).env("AWS_REGION", "us-east-1");
    command.arg("--passphrase-file").arg(site.path("passphrase")).args([
        "-r",
        "s3://backups/db1",
        "restore",
        "prod",
    ]);
    command.arg("--to").arg(&to).args(["--as", "copy", "--yes"]);
    let run = super::site::run(&mut command).ends(0);
    assert!(
        !run.stdout.contains(scene.server.secret_key()) && !run.stderr.contains(scene.server.secret_key())
    );
    assert!(run.stderr.contains("Where only a URL is named nothing is written"), "{}", run.stderr);
    let clone = start_restored(15, &to);
    assert_eq!(
        clone.psql("postgres", "select count(*) from t"),
        "1001",
        "the last row is in WAL that was fetched"
    );
    prove(clone);
}

/// Data that takes some seconds to be stored through a throttled connection.
fn fill(site: &Site) {
    site.cluster.psql(
        "postgres",
        "create table t as select n, md5(random()::text) || md5(random()::text) as text from generate_series(1, 150000) n",
    );
}

#[test]
fn a_server_that_dies_in_the_middle_of_a_backup_and_comes_back() {
    let Some(scene) = Scene::new(false) else { return };
    fill(&scene.site);
    scene.proxy.set(Mode::Throttle(3 << 20));
    let child = scene
        .site
        .command(&["backup", "prod", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.expect("it starts");
    let (before, _) = scene.proxy.bytes();
    assert!(wait_until(Duration::from_secs(60), || scene.proxy.bytes().0 > before + (4 << 20)), "it sends");
    scene.server.restart();
    scene.proxy.set(Mode::Pass);
    let ended = child.wait_with_output().expect("it ends");
    if !ended.status.success() {
        // Cleanly, and run again it finishes.
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(5), "{said}");
        let listed = scene.site.run(&["list", "prod", "--json"]).ends(0).json();
        assert_eq!(listed["backups"].as_array().map(Vec::len), Some(0), "nothing half is visible");
        scene.site.run(&["backup", "prod"]).ends(0);
    }
    scene.site.archive_all();
    scene.site.run(&["verify", "--read-data"]).ends(0);
    assert_eq!(scene.restored("local", "restored"), "150000");
}

#[test]
fn a_server_that_dies_while_wal_is_pushed_loses_none_of_it() {
    let Some(scene) = Scene::new(false) else { return };
    fill(&scene.site);
    scene.site.run(&["backup", "prod"]).ends(0);
    for round in 0..3 {
        scene
            .site
            .cluster
            .psql("postgres", "insert into t select n, repeat('x', 500) from generate_series(1, 20000) n");
        scene.proxy.set(match round {
            0 => Mode::CutRequests(1 << 20),
            1 => Mode::Reset,
            _ => Mode::CutAnswers(20),
        });
        scene.site.cluster.psql("postgres", "select pg_switch_wal()");
        scene.server.kill();
        std::thread::sleep(Duration::from_millis(300));
        scene.server.restart();
        scene.proxy.set(Mode::Pass);
        scene.site.archive_all();
    }
    scene.site.run(&["verify", "--read-data"]).ends(0);
    assert_eq!(scene.restored("local", "restored"), "210000");
}

/// Each way to break is survived by asking again, or ends within its time with what is safe.
#[test]
fn connections_that_break_end_in_time() {
    let Some(scene) = Scene::new(false) else { return };
    scene.site.cluster.psql("postgres", "create table t(n int)");
    scene.site.run(&["backup", "prod"]).ends(0);
    for mode in [Mode::BlackHole, Mode::Reset, Mode::HalfClose] {
        scene.proxy.set(mode);
        let began = Instant::now();
        let run = scene.site.run(&["list", "prod"]);
        assert_eq!(run.code, Some(5), "{mode:?}: {}{}", run.stdout, run.stderr);
        assert!(began.elapsed() < Duration::from_secs(120), "{mode:?} took {:?}", began.elapsed());
        scene.proxy.set(Mode::Pass);
    }
    scene.proxy.set(Mode::Delay(Duration::from_millis(50)));
    scene.site.run(&["list", "prod"]).ends(0);
}

#[test]
fn of_two_kinds_one_goes_away_and_comes_back() {
    let Some(scene) = Scene::new(true) else { return };
    let site = &scene.site;
    site.cluster.psql("postgres", "create table t as select generate_series(1, 1000) n");
    let run = site.run(&["backup", "prod"]).ends(0);
    assert!(run.stdout.contains("also in bucket"), "{}", run.stdout);
    scene.proxy.set(Mode::BlackHole);
    site.cluster.psql("postgres", "insert into t select generate_series(1, 1000)");
    let began = Instant::now();
    site.archive_all();
    let first = began.elapsed();
    // Found out once; the next ones do not ask again.
    let began = Instant::now();
    for _ in 0..3 {
        site.cluster.psql("postgres", "insert into t values (1)");
        site.archive_all();
    }
    assert!(began.elapsed() < Duration::from_secs(15), "first {first:?}, then {:?}", began.elapsed());
    site.run(&["backup", "prod"]).ends(3);
    scene.proxy.set(Mode::Pass);
    site.run(&["copy", "prod"]).ends(0);
    let status = site.run(&["wal", "status", "prod", "--json"]).ends(0).json();
    let repositories = status["sources"][0]["repositories"].as_array().expect("repositories").clone();
    assert_eq!(repositories.len(), 2, "{status}");
    for one in &repositories {
        assert_eq!(one["timelines"][0]["behind_segments"], 0, "{status}");
    }
    let listed = site.run(&["list", "prod"]).ends(0).stdout;
    assert_eq!(listed.matches("in bucket, local").count(), 2, "{listed}");
    for repository in ["local", "bucket"] {
        assert_eq!(scene.restored(repository, repository), "2003");
    }
}

/// Whoever looks is told soon what answers, what does not, and why; and while that takes long, what is waited for.
#[test]
fn one_that_hangs_holds_up_nobody_who_looks() {
    let Some(scene) = Scene::new(true) else { return };
    let site = &scene.site;
    // As patient as a user who has set nothing.
    let text = fs::read_to_string(&site.config).expect("reads");
    fs::write(&site.config, text.replace("call_timeout = \"2s\"\n", "")).expect("writes");
    site.cluster.psql("postgres", "create table t(n int)");
    let run = site.run(&["backup", "prod"]).ends(0);
    assert!(run.stdout.contains("also in bucket"), "{}", run.stdout);
    site.archive_all();
    scene.proxy.set(Mode::BlackHole);
    // Nobody who archives waits long for it either.
    let began = Instant::now();
    site.cluster.psql("postgres", "insert into t values (1)");
    site.archive_all();
    assert!(began.elapsed() < Duration::from_secs(10), "archived after {:?}", began.elapsed());
    let look = |arguments: &[&str], code: i32| {
        let began = Instant::now();
        let run = site.run(arguments).ends(code);
        assert!(began.elapsed() < Duration::from_secs(40), "{arguments:?} took {:?}", began.elapsed());
        let said = format!("{}{}", run.stdout, run.stderr);
        assert!(said.contains("repository bucket"), "{arguments:?}: {said}");
        assert!(said.contains("no answer within "), "{arguments:?}: {said}");
        let digits = |word: &str| word.split_once('.').is_some_and(|(_, fraction)| fraction.len() > 2);
        let number = |word: &&str| word.parse::<f64>().is_ok() && digits(word);
        assert_eq!(said.split_whitespace().find(number), None, "{arguments:?}: {said}");
        assert!(said.contains("waiting for repository bucket…"), "{arguments:?}: {said}");
        run
    };
    let run = look(&["wal", "status", "prod"], 0);
    assert!(
        run.stdout.contains("timeline 1  ") && run.stdout.contains("! repository bucket: what it"),
        "{run:?}"
    );
    let run = look(&["list", "prod"], 0);
    assert_eq!(run.stdout.matches("full").count(), 1, "{}", run.stdout);
    assert!(run.stdout.contains("! repository bucket: what it holds is not listed: "), "{}", run.stdout);
    let run = look(&["status"], 0);
    assert!(run.stdout.contains("prod    local"), "{}", run.stdout);
    look(&[], 0);
    look(&["check", "prod"], 3);

    let run = site.run(&["list", "prod", "--json"]).ends(0).json();
    assert_eq!(run["backups"].as_array().map(Vec::len), Some(1), "{run}");
    let away = &run["away"][0];
    assert_eq!((&away["repository"], &away["code"]), (&"bucket".into(), &"STO-007".into()), "{run}");
    let status = site.run(&["wal", "status", "prod", "--json"]).ends(0).json();
    let away = &status["sources"][0]["repositories"][1];
    assert!(away["problem"].as_str().is_some_and(|why| why.contains("no answer within")), "{status}");
    // Also where only a URL is named.
    let mut command = site.cluster.owner().bare_command(crate::program());
    command.env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s").env("AWS_REGION", "us-east-1");
    command.env("AWS_ENDPOINT_URL_S3", scene.proxy.endpoint()).args(["-r", "s3://backups/db1", "list"]);
    let run = super::site::run(&mut command).ends(5);
    assert!(run.stderr.contains("waiting for repository s3://backups/db1…"), "{}", run.stderr);
    // Nobody answers: that is no list.
    assert_eq!(site.run(&["list", "prod", "-r", "bucket"]).code, Some(5));
    scene.proxy.set(Mode::Pass);
    let run = site.run(&["list", "prod", "--json"]).ends(0).json();
    assert_eq!(run["away"].as_array().map(Vec::len), Some(0), "{run}");
    assert_eq!(run["backups"].as_array().map(Vec::len), Some(2), "{run}");
}

/// A secret that is not there is a mistake in the settings, whatever meets it.
#[test]
fn a_secret_that_is_missing_is_no_fault_of_the_store() {
    let Some(scene) = Scene::new(true) else { return };
    let site = &scene.site;
    let key = scene.secrets.path().join("key");
    fs::rename(&key, scene.secrets.path().join("elsewhere")).expect("renames");
    for line in [&["list", "-r", "bucket"][..], &["backup", "prod", "-r", "bucket"]] {
        let run = site.run(line).ends(2);
        assert!(run.stderr.contains("error[STO-024]"), "{line:?}: {}", run.stderr);
        assert!(run.stderr.contains(&key.display().to_string()), "{line:?}: {}", run.stderr);
        assert!(run.stderr.contains("Correct `credentials`"), "{line:?}: {}", run.stderr);
    }
    let checked = site.run(&["check", "prod"]).ends(3);
    assert!(!checked.stdout.contains("STO-006"), "{}", checked.stdout);
}

/// Asking again does not mend what is written wrong: it is said what to correct.
#[test]
fn what_is_written_wrong_is_said_to_be() {
    let Some(server) = Moto::start() else { return };
    server.bucket("backups");
    let secret = Owner::current().temp_dir();
    let passphrase = secret.path().join("passphrase");
    fs::write(&passphrase, "correct horse battery staple 42\n").expect("writes");
    Owner::current().give(&passphrase);
    let list = |endpoint: &str, url: &str| {
        let mut command = Owner::current().bare_command(crate::program());
        command.env("AWS_ACCESS_KEY_ID", server.access_key());
        command.env("AWS_SECRET_ACCESS_KEY", server.secret_key());
        command.env("AWS_ENDPOINT_URL_S3", endpoint).env("AWS_REGION", "us-east-1");
        command.arg("--passphrase-file").arg(&passphrase).args(["-r", url, "list"]);
        super::site::run(&mut command).stderr
    };
    let tls = server.endpoint().replace("http://", "https://");
    for (endpoint, url, correct) in [
        (tls.as_str(), "s3://backups/db1", "does not speak TLS on this port"),
        ("http://nowhere.invalid", "s3://backups/db1", "No such host is known here"),
        (server.endpoint().as_str(), "s3://absent/db1", "Make the bucket at the store first"),
    ] {
        let said = list(endpoint, url);
        assert!(said.contains(correct), "{endpoint} {url}: {said}");
        assert!(!said.contains("Try again") && !said.contains("See the cause"), "{endpoint} {url}: {said}");
    }
}
