//! Expiry of real backups: what stays restores, by itself and along its WAL; what goes is gone; killed anywhere it goes on.
//!
//! Nothing waits for a grace time: objects are made older in the store, whose clock is that of the file system.

use std::path::{Path, PathBuf};
use std::process::Command;

use refloat_testkit::cluster::{StopMode, TestCluster};
use refloat_testkit::failpoints::arm;
use refloat_types::{Clock as _, SystemClock};
use serde_json::Value;

use super::site::{Site, prove, run, start_restored};

/// Files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory) else { return all };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

/// Makes everything below a part of the repository three days older.
fn age(site: &Site, part: &str) {
    let old = std::time::SystemTime::UNIX_EPOCH
        + std::time::Duration::from_secs(SystemClock.now().as_second() as u64 - 3 * 86_400);
    for path in files(&site.repo().join(part)) {
        let file = std::fs::OpenOptions::new().append(true).open(&path).expect("opens");
        file.set_modified(old).expect("sets its time");
    }
}

fn ids(site: &Site) -> Vec<String> {
    let listed = site.run(&["list", "prod", "--json"]).ends(0).json();
    let backups = listed["backups"].as_array().expect("a list").clone();
    backups.iter().map(|one| one["backup"].as_str().expect("an id").to_owned()).collect()
}

fn verdict<'a>(expired: &'a Value, id: &str) -> &'a Value {
    let all = expired["repositories"][0]["backups"].as_array().expect("a list");
    all.iter().find(|one| one["backup"] == id).unwrap_or_else(|| panic!("no {id} in {expired}"))
}

/// Four backups with a row before each, and many almost empty WAL segments behind each.
fn four(site: &Site) -> Vec<String> {
    site.cluster.psql("postgres", "create table marks(n int)");
    let mut made = Vec::new();
    for number in 1..=4 {
        site.cluster.psql("postgres", &format!("insert into marks values ({number})"));
        made.push(site.backup());
        for _ in 0..6 {
            site.archive_all();
        }
    }
    made
}

/// The backup comes back as it was, and the copy works.
fn comes_back(site: &Site, name: &str, backup: &str, rows: &str) {
    let directory = site.restore(name, &[backup, "--target", "immediate", "--as", "copy"]);
    let clone = start_restored(15, &directory);
    assert_eq!(clone.psql("postgres", "select count(*) from marks"), rows, "{backup}");
    prove(clone);
}

#[test]
fn what_stays_can_be_restored_and_what_goes_is_gone() {
    let builder = TestCluster::builder().version(15).checksums(true);
    let mut site = Site::with(builder, true, "retention = { full = 2, wal = \"1s\" }\n");
    let made = four(&site);
    site.run(&["hold", "add", &made[0], "--reason", "audit"]).ends(0);
    age(&site, "wal");

    let plan = site.run(&["expire", "prod", "--dry-run", "--json"]).ends(0).json();
    assert_eq!(verdict(&plan, &made[0])["reasons"][0], "held: audit");
    assert_eq!(verdict(&plan, &made[1])["goes_because"], "more than 2 newer full backups");
    assert_eq!(verdict(&plan, &made[2])["reasons"][0], "full 2 of 2");
    assert!(files(&site.repo().join("tombstones")).is_empty(), "it is only a plan");

    let marked = site.run(&["expire", "--json"]).ends(0).json();
    let marked = &marked["repositories"][0]["marked"];
    assert_eq!(marked["backups"], 1);
    assert!(marked["wal_files"].as_u64().expect("a number") >= 8, "{marked}");
    let again = site.run(&["expire", "prod", "--json"]).ends(0).json();
    assert_eq!(again["repositories"][0]["deleted"]["backups"], 0, "{again}");
    assert_eq!(ids(&site), made);
    age(&site, "tombstones");
    let text = site.run(&["expire", "prod"]).ends(0).stdout;
    assert!(text.contains("deleted 1 backup"), "{text}");
    assert_eq!(ids(&site), [made[0].clone(), made[2].clone(), made[3].clone()]);

    // Nothing looks lost, and nothing that is there is damaged.
    let verified = site.run(&["verify", "--read-data"]).ends(0).stdout;
    assert!(!verified.contains("DAMAGE") && !verified.contains("LOOK"), "{verified}");
    let status = site.run(&["status", "prod", "--exit-code"]);
    assert!(!status.stdout.contains("missing"), "{}", status.stdout);
    let list = site.run(&["list", "prod"]).ends(0).stdout;
    assert!(list.contains("held: audit") && list.contains("full 1 of 2"), "{list}");

    // The old one has nothing but its own span, and one WAL segment more.
    comes_back(&site, "first", &made[0], "1");
    comes_back(&site, "third", &made[2], "3");
    let latest =
        start_restored(15, &site.restore("latest", &[&made[2], "--target", "latest", "--as", "copy"]));
    assert_eq!(latest.psql("postgres", "select count(*) from marks"), "4");
    prove(latest);

    site.run(&["hold", "remove", &made[0], "--reason", "done"]).ends(0);
    site.backup();
    site.run(&["expire"]).ends(0);
    site.cluster.stop(StopMode::Fast);
}

#[test]
fn killed_anywhere_it_goes_on() {
    let builder = TestCluster::builder().version(15).checksums(true);
    let mut site = Site::with(builder, true, "retention = { full = 1, wal = \"1s\" }\n");
    let made = four(&site);
    age(&site, "wal");
    let points = [
        "pin.before_write",
        "pin.after_write",
        "expire.before_tombstone",
        "expire.after_tombstone",
        "expire.before_delete",
        "expire.after_delete",
        "expire.before_delete",
        "expire.after_delete",
    ];
    for (round, point) in points.iter().enumerate() {
        let mut command: Command = site.command(&["expire", "prod"]);
        let nth = if round < 6 { 1 } else { 4 };
        arm(&mut command, &format!("{point}=kill@{nth}"));
        let killed = run(&mut command);
        assert_eq!(killed.code, None, "{point}: {}{}", killed.stdout, killed.stderr);
        age(&site, "tombstones");
        // Whatever is listed is whole.
        let left = ids(&site);
        assert!(left.contains(&made[3]) && left.contains(&made[2]), "{point}: {left:?}");
    }
    age(&site, "tombstones");
    site.run(&["expire"]).ends(0);
    assert_eq!(ids(&site), [made[2].clone(), made[3].clone()], "the window begins with the third");
    let verified = site.run(&["verify", "--read-data"]).ends(0).stdout;
    assert!(!verified.contains("DAMAGE") && !verified.contains("LOOK"), "{verified}");
    comes_back(&site, "third", &made[2], "3");
    site.cluster.stop(StopMode::Fast);
}

#[test]
fn without_retention_nothing_is_deleted() {
    let site = Site::new(TestCluster::builder().version(15));
    let only = site.backup();
    let text = site.run(&["expire"]).ends(0).stdout;
    assert!(text.contains("no retention is configured, so nothing is ever deleted"), "{text}");
    assert_eq!(ids(&site), [only]);
    let bad = site.run(&["hold", "add", "zzzzzzzz", "--reason", "x"]).ends(2);
    assert!(bad.stderr.contains("CLI-007"), "{}", bad.stderr);
    let zone = site.run(&["hold", "add", &ids(&site)[0], "--reason", "x", "--until", "2999-01-01"]).ends(2);
    assert!(zone.stderr.contains("has no time zone"), "{}", zone.stderr);
}
