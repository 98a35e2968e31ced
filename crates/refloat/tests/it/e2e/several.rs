//! One source in several repositories: each whole, one of them down without the others noticing, and backups copied between
//! them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use refloat_testkit::cluster::{TestCluster, wait_until};
use refloat_testkit::servers::S3sFs;
use serde_json::Value;

use super::site::{Run, Site, prove, start_restored};

/// A site with one more repository for each of these: its name and its further settings.
fn site(more: &[(&str, &str)], source: &str) -> Site {
    with_tables(more, source, "")
}

/// The same with more tables at the end of the configuration.
fn with_tables(more: &[(&str, &str)], source: &str, tables: &str) -> Site {
    let site = Site::new(TestCluster::builder().checksums(true));
    let mut text = fs::read_to_string(&site.config).expect("reads");
    let mut names = String::new();
    for (name, settings) in more {
        let home = site.home.display();
        let _ = write!(
            text,
            "\n[repository.{name}]\nurl = \"file://{home}/{name}\"\n\
             encryption = {{ passphrase = {{ file = \"{home}/passphrase\" }} }}\n{settings}\n"
        );
        let _ = write!(names, ", \"{name}\"");
    }
    let text =
        text.replace("repositories = [\"local\"]", &format!("repositories = [\"local\"{names}]\n{source}"));
    fs::write(&site.config, text + tables).expect("writes");
    site.run(&["init", "--key-kept"]).ends(0);
    site
}

/// Takes a repository away, and gives it back.
struct Away {
    is: PathBuf,
    was: PathBuf,
}

impl Away {
    /// Its directory cannot be entered any more: what a network would be without an answer.
    fn take(site: &Site, name: &str) -> Self {
        let (was, is) = (site.home.join(name), site.home.join(format!("{name}-away")));
        fs::rename(&was, &is).expect("renames");
        Self { is, was }
    }
    fn back(self) {
        fs::rename(&self.is, &self.was).expect("renames");
    }
}

fn rows(run: &Run) -> Vec<(String, String)> {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let json = run.json();
    let rows = json["backups"].as_array().expect("backups").clone();
    rows.iter().map(|row| (text(row, "repository"), text(row, "backup"))).collect()
}

fn listed(site: &Site, repository: &str) -> Vec<String> {
    let rows = rows(&site.run(&["list", "prod", "--json"]).ends(0));
    rows.into_iter().filter(|(name, _)| name == repository).map(|(_, backup)| backup).collect()
}

fn restored(site: &Site, repository: &str, name: &str) -> String {
    let to = site.path(name);
    let path = to.display().to_string();
    site.run(&["restore", "prod", "-r", repository, "--to", &path, "--as", "copy", "--yes"]).ends(0);
    let clone = start_restored(15, &to);
    let sum = clone.psql("postgres", "select coalesce(sum(n), 0) from t");
    prove(clone);
    sum
}

#[test]
fn what_is_read_once_is_restored_from_each() {
    let site = site(&[("second", "")], "acknowledge = 2");
    site.cluster.psql("postgres", "create table t as select generate_series(1, 1000) n");
    let run = site.run(&["backup", "prod"]).ends(0);
    assert!(run.stdout.contains("also in second\n"), "{}", run.stdout);
    site.cluster.psql("postgres", "insert into t select generate_series(1, 500)");
    site.run(&["backup", "prod"]).ends(0);
    site.cluster.psql("postgres", "insert into t values (7)");
    site.archive_all();
    let overview = site.run(&[]).ends(0).stdout;
    for name in ["\n  prod in local   PostgreSQL", "\n  prod in second  PostgreSQL"] {
        assert_eq!(overview.matches(name).count(), 1, "{overview}");
    }
    let first = listed(&site, "local");
    assert_eq!((first.len(), &first), (2, &listed(&site, "second")), "the same backups");
    let text = site.run(&["list", "prod"]).ends(0).stdout;
    assert_eq!(text.matches("in local, second").count(), 2, "one line each:\n{text}");
    let sum = (1..=1000).sum::<u64>() + (1..=500).sum::<u64>() + 7;
    for repository in ["local", "second"] {
        assert_eq!(restored(&site, repository, &format!("from-{repository}")), sum.to_string());
        site.run(&["verify", "prod", "-r", repository, "--read-data"]).ends(0);
    }
}

#[test]
fn one_that_is_down_delays_nothing_and_catches_up() {
    let site = site(&[("second", "")], "");
    site.cluster.psql("postgres", "create table t as select generate_series(1, 1000) n");
    site.run(&["backup", "prod"]).ends(0);
    let away = Away::take(&site, "second");
    site.cluster.psql("postgres", "insert into t select generate_series(1, 500)");
    site.archive_all();
    let run = site.run(&["backup", "prod"]).ends(3);
    assert!(run.stderr.contains("repository second does not have it"), "{}", run.stderr);
    site.cluster.psql("postgres", "insert into t values (7)");
    site.archive_all();
    let run = site.run(&["wal", "status", "prod"]).ends(0);
    assert!(run.stderr.contains("repository second:"), "{}", run.stderr);

    away.back();
    let status = site.run(&["wal", "status", "prod", "--json"]).ends(0).json();
    let behind = |status: &Value| -> Vec<u64> {
        let repositories = status["sources"][0]["repositories"].as_array().expect("repositories").clone();
        let of = |one: &Value| one["timelines"][0]["behind_segments"].as_u64().expect("a number");
        repositories.iter().map(of).collect()
    };
    let lag = behind(&status);
    assert!(lag[0] == 0 && lag[1] >= 2, "{status}");
    let text = site.run(&["list", "prod"]).ends(0).stdout;
    assert_eq!(text.matches("not in second").count(), 1, "{text}");
    // The next WAL segment goes to both, and what lacks follows by itself.
    site.cluster.psql("postgres", "insert into t values (8)");
    site.archive_all();
    let caught_up = || {
        let status = site.run(&["wal", "status", "prod", "--json"]).ends(0).json();
        behind(&status) == [0, 0] && listed(&site, "second").len() == 2
    };
    let another = || {
        site.cluster.psql("postgres", "insert into t values (0)");
        site.archive_all();
        caught_up()
    };
    // What did not answer is asked again after a pause, by the next segment; who has mended it need not wait.
    site.run(&["check"]);
    assert!(wait_until(Duration::from_secs(120), another), "it never caught up");
    let line = "refloat: second has caught up: it lacks nothing any more\n";
    let told = || {
        site.cluster.psql("postgres", "insert into t values (0)");
        site.archive_all();
        site.cluster.log().matches(line).count() == 1
    };
    assert!(wait_until(Duration::from_secs(60), told), "{}", site.cluster.log());
    let sum = (1..=1000).sum::<u64>() + (1..=500).sum::<u64>() + 15;
    assert_eq!(restored(&site, "second", "from-second"), sum.to_string());
    let run = site.run(&["backup", "prod"]).ends(0);
    assert!(run.stdout.contains("also in second\n"), "{}", run.stdout);
}

/// What lacks is remembered in the state directory, which may be lost.
#[test]
fn what_is_not_remembered_is_found_by_the_next_backup() {
    let site = site(&[("second", "")], "");
    site.cluster.psql("postgres", "create table t(n int)");
    site.run(&["backup", "prod"]).ends(0);
    let away = Away::take(&site, "second");
    site.cluster.psql("postgres", "insert into t values (1)");
    site.archive_all();
    let notes = site.path("refloat-state").join("behind");
    let noted = || notes.join("prod/second").exists() || notes.join("prod/second.taken.json").exists();
    assert!(noted());
    // What looks at one repository alone has brought nothing.
    site.run(&["copy", "prod", "-r", "local"]).ends(0);
    assert!(noted());
    fs::remove_dir_all(&notes).expect("removes");
    away.back();
    site.run(&["check"]);
    site.run(&["backup", "prod"]).ends(0);
    let nothing_lacks = || {
        let status = site.run(&["wal", "status", "prod", "--json"]).ends(0).json();
        let repositories = status["sources"][0]["repositories"].as_array().expect("repositories").clone();
        repositories.iter().all(|one| one["timelines"][0]["behind_segments"] == 0)
    };
    assert!(wait_until(Duration::from_secs(60), nothing_lacks), "it never came");
}

/// A note that cannot be written is no reason to believe that nothing lacks.
#[test]
fn what_could_not_be_noted_is_looked_for_by_the_next_backup() {
    let site = site(&[("second", "")], "");
    site.cluster.psql("postgres", "create table t(n int)");
    let notes = site.path("refloat-state").join("behind/prod");
    let known = notes.join("known.json");
    site.run(&["backup", "prod"]).ends(0);
    assert!(known.exists());
    let taken = notes.join("second.taken.json");
    assert!(wait_until(Duration::from_secs(60), || !taken.exists() && !notes.join("second").exists()));

    // What is known is not, once a note is lost.
    let away = Away::take(&site, "second");
    let nowhere = |name: &str| {
        let wish = notes.join(name);
        let _ = fs::remove_file(&wish);
        std::os::unix::fs::symlink("/nowhere/at/all", &wish).expect("links");
        wish
    };
    let wish = nowhere("second");
    site.cluster.psql("postgres", "insert into t values (1)");
    site.archive_all();
    assert!(!known.exists(), "a lack is not noted");
    away.back();
    site.run(&["check"]);

    // And it is not known as long as anything cannot be noted.
    site.run(&["backup", "prod"]).ends(0);
    assert!(!known.exists());
    fs::remove_file(wish).expect("removes");
    site.run(&["backup", "prod"]).ends(0);
    assert!(known.exists());
    let nothing_lacks = || {
        let status = site.run(&["wal", "status", "prod", "--json"]).ends(0).json();
        let repositories = status["sources"][0]["repositories"].as_array().expect("repositories").clone();
        repositories.iter().all(|one| one["timelines"][0]["behind_segments"] == 0)
    };
    assert!(wait_until(Duration::from_secs(60), nothing_lacks), "it never came");
}

/// What a repository is opened with may be in the environment alone: then the process that catches up has it too, and nothing
/// else.
#[test]
fn secrets_of_the_environment_reach_what_catches_up() {
    let Some(server) = S3sFs::start() else { return };
    let mut site = Site::new(TestCluster::builder().checksums(true));
    let text = fs::read_to_string(&site.config).expect("reads");
    let text = text.replace("repositories = [\"local\"]", "repositories = [\"local\", \"bucket\"]");
    let bucket = format!(
        "\n[repository.bucket]\nmode = \"async\"\nurl = \"s3://{}/db1\"\nendpoint = \"{}\"\n\
         credentials = {{ access_key_id = \"{}\", secret_access_key = {{ env = \"BUCKET_KEY\" }} }}\n\
         encryption = {{ passphrase = {{ env = \"BUCKET_PASSPHRASE\" }} }}\n",
        server.bucket("backups"),
        server.endpoint(),
        server.access_key()
    );
    fs::write(&site.config, text + &bucket).expect("writes");
    let run = |arguments: &[&str]| {
        let mut command = site.command(arguments);
        command.env("BUCKET_KEY", server.secret_key()).env("BUCKET_PASSPHRASE", "correct horse battery 42");
        super::site::run(&mut command)
    };
    run(&["init", "--key-kept"]).ends(0);
    // The archiver has them too, as in a container.
    let psql = |sql: &str| site.cluster.psql("postgres", sql);
    let command = psql("show archive_command");
    psql(&format!(
        "alter system set archive_command = 'BUCKET_KEY=\"{}\" BUCKET_PASSPHRASE=\"correct horse battery 42\" {command}'",
        server.secret_key()
    ));
    psql("select pg_reload_conf()");
    psql("create table t(n int)");
    run(&["backup", "prod"]).ends(0);
    let there = || {
        let rows = rows(&run(&["list", "prod", "--json"]).ends(0));
        rows.iter().filter(|(name, _)| name == "bucket").count() == 1
    };
    assert!(wait_until(Duration::from_secs(60), there), "it never came");
    // So does WAL that nobody but the archiver's process has sent on its way.
    psql("insert into t values (1)");
    site.archive_all();
    let nothing_lacks = || {
        let status = run(&["wal", "status", "prod", "--json"]).ends(0).json();
        status["sources"][0]["repositories"][1]["timelines"][0]["behind_segments"] == 0
    };
    assert!(wait_until(Duration::from_secs(60), nothing_lacks), "WAL never came");
    site.cluster.stop(refloat_testkit::cluster::StopMode::Fast);
}

#[test]
fn what_must_be_acknowledged_by_both_waits_for_both() {
    let site = site(&[("second", "")], "acknowledge = 2");
    site.cluster.psql("postgres", "create table t(n int)");
    site.run(&["backup", "prod"]).ends(0);
    let away = Away::take(&site, "second");
    site.cluster.psql("postgres", "insert into t values (1)");
    let segment = site.cluster.psql("postgres", "select pg_walfile_name(pg_switch_wal())");
    let failed =
        || site.cluster.psql("postgres", "select coalesce(last_failed_wal, '') from pg_stat_archiver");
    assert!(wait_until(Duration::from_secs(30), || failed() == segment), "{}", site.cluster.log());
    // PostgreSQL's log says what is needed, what is there, and that nothing is lost.
    let log = site.cluster.log();
    let said = format!("{segment} is not archived: acknowledge = 2, and only local answers");
    assert!(log.contains(&said) && log.contains("; WAL is kept and offered again"), "{log}");
    let run = site.run(&["backup", "prod"]).ends(1).stderr;
    for part in [
        "error[CLI-021]: the backup of prod is not begun: acknowledge = 2, and only local answers\n",
        "second: there is no repository at ",
        "nothing was stored",
        "Run it again when second can be used.",
        "lower `acknowledge` in [source.prod]",
        " -r local backup prod\n",
    ] {
        assert!(run.contains(part), "{part} is not in:\n{run}");
    }
    assert!(!log.contains("caught up"), "{log}");
    away.back();
    site.archive_all();
    // And that it is over.
    let log = site.cluster.log();
    assert_eq!(log.matches("archiving has caught up: all that waited is stored; ").count(), 1, "{log}");
    site.run(&["backup", "prod"]).ends(0);
}

#[test]
fn an_asynchronous_one_gets_everything_in_the_background() {
    let site = site(&[("later", "mode = \"async\"")], "");
    site.cluster.psql("postgres", "create table t as select generate_series(1, 1000) n");
    let run = site.run(&["backup", "prod"]).ends(0);
    assert!(run.stdout.contains("later in later"), "{}", run.stdout);
    site.cluster.psql("postgres", "insert into t values (5)");
    site.archive_all();
    let there = || {
        let status = site.run(&["wal", "status", "prod", "--json"]).ends(0).json();
        let timelines = &status["sources"][0]["repositories"][1]["timelines"];
        listed(&site, "later").len() == 1 && timelines[0]["behind_segments"] == 0
    };
    assert!(wait_until(Duration::from_secs(60), there), "it never came");
    let sum = (1..=1000).sum::<u64>() + 5;
    assert_eq!(restored(&site, "later", "from-later"), sum.to_string());
    site.run(&["verify", "prod", "-r", "later", "--read-data"]).ends(0);
}

/// Tiers are repositories: each keeps what its own retention says, and gets nothing that it would delete at once.
#[test]
fn a_tier_gets_what_it_keeps_and_needs_no_server() {
    let retention = "[source.prod.retention]\nfull = 5\n[source.prod.retention.cold]\nfull = 1\n";
    let mut site = with_tables(&[("cold", "mode = \"async\"")], "", retention);
    // While the server runs, nothing is brought there by itself: here it is carried by hand.
    let text = fs::read_to_string(&site.config).expect("reads");
    let alone = text.replace("[\"local\", \"cold\"]", "[\"local\"]");
    let alone = alone.replace("[source.prod.retention.cold]\nfull = 1\n", "");
    assert!(alone.len() + 40 < text.len(), "{text}");
    fs::write(&site.config, alone).expect("writes");
    site.cluster.psql("postgres", "create table t as select generate_series(1, 1000) n");
    for _ in 0..2 {
        site.run(&["backup", "prod", "-r", "local", "--type", "full"]).ends(0);
    }
    site.run(&["backup", "prod", "-r", "local", "--type", "incr"]).ends(0);
    site.archive_all();
    site.cluster.stop(refloat_testkit::cluster::StopMode::Fast);
    fs::write(&site.config, text).expect("writes");
    let all = listed(&site, "local");
    let run = site.run(&["copy", "prod", "--from", "local", "--to", "cold", "--dry-run"]).ends(0);
    assert!(
        run.stdout.contains("would copy 2 backups") && listed(&site, "cold").is_empty(),
        "{}",
        run.stdout
    );
    let run = site.run(&["copy", "prod", "--from", "local", "--to", "cold"]).ends(0);
    assert!(run.stdout.contains("is not copied: the retention there would not keep it"), "{}", run.stdout);
    assert_eq!(listed(&site, "cold"), all[1..]);
    let run = site.run(&["copy", "prod", "--from", "local", "--to", "cold", "--backup", &all[0]]).ends(3);
    assert!(run.stdout.contains("which is newer, is there already"), "{}", run.stdout);
    site.run(&["copy", "prod", "--from", "local", "--to", "nowhere"]).ends(2);
    assert_eq!(restored(&site, "cold", "from-cold"), (1..=1000).sum::<u64>().to_string());
}

/// The stored WAL segments of a repository, oldest first.
fn wal_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("lists") {
        let path = entry.expect("lists").path();
        if path.is_dir() { found.extend(wal_files(&path)) } else { found.push(path) }
    }
    found.sort_by_key(|path| path.file_name().map(std::ffi::OsStr::to_owned));
    found
}

/// Where WAL is missing in one repository, another one is restored from; but not one that does not know of the gap because it
/// ends before it.
#[test]
fn a_gap_in_one_is_passed_by_another_that_goes_as_far() {
    let site = site(&[("second", "")], "");
    site.cluster.psql("postgres", "create table t as select generate_series(1, 1000) n");
    site.run(&["backup", "prod"]).ends(0);
    for n in [2000, 3000, 4000] {
        site.cluster.psql("postgres", &format!("insert into t values ({n})"));
        site.archive_all();
    }
    let gone = wal_files(&site.home.join("repo/wal"));
    fs::remove_file(&gone[gone.len() - 2]).expect("removes");
    let to = site.path("passed");
    let path = to.display().to_string();
    let run = site.run(&["restore", "prod", "--to", &path, "--as", "copy", "--yes"]).ends(0);
    assert!(run.stderr.contains("the next one is asked, if it is not behind"), "{}", run.stderr);
    let clone = start_restored(15, &to);
    assert_eq!(clone.psql("postgres", "select max(n) from t"), "4000");
    prove(clone);

    let there = wal_files(&site.home.join("second/wal"));
    for path in &there[there.len() - 2..] {
        fs::remove_file(path).expect("removes");
    }
    let to = site.path("behind");
    let path = to.display().to_string();
    let line = ["restore", "prod", "--to", &path, "--as", "copy", "--yes"];
    let run = site.run(&line).ends(1);
    assert!(
        run.stderr.contains("PIT-008") && run.stderr.contains("repository second: it is behind"),
        "{}",
        run.stderr
    );
    assert!(!to.exists(), "nothing was written");
    // Whoever names it gets what it has.
    assert_eq!(restored(&site, "second", "all-the-same"), (500_500 + 2000).to_string());
}

/// What is restored is whole, whichever repository can be told of it.
#[test]
fn a_new_owner_that_cannot_be_recorded_is_said() {
    let site = site(&[("second", "")], "");
    site.cluster.psql("postgres", "create table t as select generate_series(1, 1000) n");
    site.run(&["backup", "prod"]).ends(0);
    site.archive_all();
    let _away = Away::take(&site, "second");
    let to = site.path("primary");
    let path = to.display().to_string();
    let run = site.run(&["restore", "prod", "--to", &path, "--as", "primary", "--yes"]).ends(3);
    assert!(run.stderr.contains("repository second: the new owner is not recorded"), "{}", run.stderr);
    assert!(run.stderr.contains("takeover prod"), "{}", run.stderr);
    assert!(to.join("PG_VERSION").exists());
}
