//! A server that takes over with more than one repository.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use refloat_testkit::cluster::{StopMode, TestCluster};
use refloat_testkit::failpoints::arm;

use super::site::{Site, run};

/// A second repository of the source, as its user would add it.
fn second_repository(site: &Site) -> PathBuf {
    let second = site.path("second");
    let text = fs::read_to_string(&site.config).expect("reads");
    let secret = site.path("passphrase");
    let text = text.replace("repositories = [\"local\"]", "repositories = [\"local\", \"second\"]")
        + &format!(
            "\n[repository.second]\nurl = \"file://{}\"\nencryption = {{ passphrase = {{ file = \"{}\" }} }}\n",
            second.display(),
            secret.display()
        );
    fs::write(&site.config, text).expect("writes");
    site.run(&["init", "--key-kept"]).ends(0);
    second
}

/// How many owners a repository has recorded.
fn owners(repository: &Path) -> usize {
    let sources = fs::read_dir(repository.join("sources")).expect("a source is described");
    sources.flatten().flat_map(|source| fs::read_dir(source.path().join("owner")).expect("has one")).count()
}

#[test]
fn archiving_stays_locked_until_all_repositories_know() {
    let mut site = Site::new(TestCluster::builder());
    let second = second_repository(&site);
    for repository in ["local", "second"] {
        site.run(&["backup", "prod", "-r", repository]).ends(0);
    }
    let moment = site.cluster.psql("postgres", "select clock_timestamp()");
    site.cluster.psql("postgres", "create table later as select 1 a");
    site.archive_all();
    site.cluster.stop(StopMode::Fast);
    site.run(&["restore", "prod", &moment, "--in-place", "--yes"]).ends(0);
    site.cluster.start();
    site.cluster.wait_for("postgres", "select pg_get_wal_replay_pause_state()", "paused");

    // The disk of the second repository is full.
    let known = owners(&site.repo());
    let mut command = site.command(&["takeover", "prod"]);
    let failed = run(arm(&mut command, "store.posix.put.before_write=nospace@2")).ends(1);
    assert!(failed.stderr.contains("TKO-009"), "{}", failed.stderr);
    assert!(failed.stderr.contains(&second.display().to_string()), "{}", failed.stderr);
    assert!(
        failed.stderr.contains(&format!("Recorded in file://{}.", site.repo().display())),
        "{}",
        failed.stderr
    );
    assert!(site.cluster.data_directory().join("refloat.locked").exists(), "it is still locked");
    assert_eq!((owners(&site.repo()), owners(&second)), (known + 1, known));

    let done = site.run(&["takeover", "prod"]).ends(0);
    assert!(done.stdout.contains("archiving is unlocked"), "{}", done.stdout);
    assert!(!site.cluster.data_directory().join("refloat.locked").exists());
    assert_eq!((owners(&site.repo()), owners(&second)), (known + 1, known + 1), "recorded once in each");
    site.cluster.psql("postgres", "create table after as select 1 a");
    site.archive_all();
}

/// A repository that is away stops nobody who knows what that means.
#[test]
fn one_that_is_away_can_be_told_later() {
    let mut site = Site::new(TestCluster::builder());
    let second = second_repository(&site);
    let quiet = site.run(&["backup", "prod", "-q"]).ends(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let moment = site.cluster.psql("postgres", "select clock_timestamp()");
    site.cluster.psql("postgres", "create table later as select 1 a");
    site.archive_all();
    site.cluster.stop(StopMode::Fast);
    let quiet = site.run(&["restore", "prod", &moment, "--in-place", "--yes", "-q"]).ends(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    site.cluster.start();
    site.cluster.wait_for("postgres", "select pg_get_wal_replay_pause_state()", "paused");

    let away = site.path("second-away");
    fs::rename(&second, &away).expect("renames");
    let known = owners(&site.repo());
    let refused = site.run(&["takeover", "prod"]).ends(1).stderr;
    for part in [
        "error[TKO-009]: could not record the new owner in second\n",
        "safe:   nothing was changed; archiving stays locked and WAL stays in pg_wal\n",
        "When second answers, run it again: ",
        "To take over without it: ",
        " -r local takeover prod\n",
        "and as soon as second answers: ",
        " -r second takeover prod\n",
    ] {
        assert!(refused.contains(part), "{part} is not in:\n{refused}");
    }
    assert_eq!(site.cluster.psql("postgres", "select pg_is_in_recovery()"), "t", "nothing was begun");
    assert_eq!(owners(&site.repo()), known);
    // As it is printed.
    let done = site.run(&["-r", "local", "takeover", "prod"]).ends(0);
    assert!(done.stdout.contains("archiving is unlocked"), "{}", done.stdout);
    site.cluster.psql("postgres", "create table after as select 1 a");
    site.archive_all();
    // That one alone is asked counted as long as it ran: now nobody knows again whether the other has more.
    let fetch = ["wal", "fetch", "--source", "prod", "0000000200000000000000FF"];
    site.run(&[&fetch[..], &[&site.path("fetched").display().to_string()]].concat()).ends(255);
    fs::rename(&away, &second).expect("renames");
    // Who wants to hear of nothing but errors hears nothing.
    let quiet = site.run(&["-r", "second", "takeover", "prod", "-q"]).ends(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    assert_eq!((owners(&site.repo()), owners(&second)), (known + 1, known + 1));
}

/// As long as a takeover with `-r` promotes a server, and for no other data directory.
#[test]
fn one_repository_alone_is_asked_for_the_server_that_is_promoted() {
    let site = Site::new(TestCluster::builder());
    let second = second_repository(&site);
    site.archive_all();
    let owner = site.cluster.owner();
    let (server, clone) = (site.path("server"), site.path("clone"));
    for directory in [&server, &clone] {
        owner.make_dir(directory);
        owner.make_dir(&directory.join("global"));
        for file in ["PG_VERSION", "global/pg_control"] {
            fs::copy(site.cluster.data_directory().join(file), directory.join(file)).expect("copies");
            owner.give(&directory.join(file));
        }
    }
    fs::rename(&second, site.path("second-away")).expect("renames");
    let dest = site.path("fetched").display().to_string();
    let arguments = ["wal", "fetch", "--source", "prod", "0000000100000000000000FF", &dest];
    let fetch = |directory: &Path| run(site.command(&arguments).current_dir(directory)).code;
    assert_eq!(fetch(&server), Some(255));

    let noted = site.path("refloat-state").join("taking-over");
    owner.make_dir(&noted);
    let meta = fs::metadata(&server).expect("there");
    let text = format!("{{\"repository\":\"local\",\"directory\":[{},{}]}}", meta.dev(), meta.ino());
    fs::write(noted.join("prod"), text).expect("writes");
    assert_eq!(fetch(&server), Some(255), "nobody holds it");
    let held = fs::File::open(noted.join("prod")).expect("opens");
    held.lock().expect("locks");
    assert_eq!((fetch(&server), fetch(&clone)), (Some(1), Some(255)));
    drop(held);
    assert_eq!(fetch(&server), Some(255));
}
