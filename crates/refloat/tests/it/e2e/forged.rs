//! Whoever can write to a store adds what is well-formed and signed, by hosts of another repository: a backup, WAL, a rescue
//! kit. It is named, and nobody uses it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use refloat_testkit::cluster::{StopMode, TestCluster};

use super::site::{Site, prove, start_restored};

/// Files below a directory, from there.
fn files(root: &Path, directory: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(root, &path, into);
        } else if let Ok(name) = path.strip_prefix(root) {
            into.insert(name.to_owned());
        }
    }
}

fn all(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    files(root, root, &mut found);
    found
}

/// Copies what one has and the other has not; answers what.
fn add(from: &Site, to: &Site) -> Vec<PathBuf> {
    let there = all(&to.repo());
    let mut added = Vec::new();
    for name in all(&from.repo()).difference(&there) {
        let target = to.repo().join(name);
        fs::create_dir_all(target.parent().expect("it is below the root")).expect("makes");
        fs::copy(from.repo().join(name), &target).expect("copies");
        added.push(name.clone());
    }
    for name in &added {
        for path in name.ancestors().filter(|path| !path.as_os_str().is_empty()) {
            to.cluster.owner().give(&to.repo().join(path));
        }
    }
    added
}

/// A site with a backup, a row, and WAL up to behind it.
fn filled(row: &str) -> (Site, String) {
    let site = Site::new(TestCluster::builder().version(15).checksums(true));
    site.cluster.psql("postgres", &format!("create table t as select '{row}' as v"));
    let backup = site.backup();
    site.archive_all();
    (site, backup)
}

#[test]
fn what_another_repositorys_hosts_have_signed_is_named_and_never_used() {
    let (mut ours, backup) = filled("ours");
    let (mut theirs, foreign) = filled("theirs");
    // One more segment than we have.
    theirs.archive_all();
    let last = theirs.cluster.psql("postgres", "select last_archived_wal from pg_stat_archiver");
    theirs.cluster.stop(StopMode::Fast);
    let added = add(&theirs, &ours);
    let has = |part: &str| added.iter().any(|name| name.to_string_lossy().contains(part));
    assert!(has("commits") && has("packs") && has("wal/") && has("agents"), "{added:?}");

    // It is in no list, and cannot be chosen by its id.
    let listed = ours.run(&["list", "--json"]);
    assert!(!listed.stdout.contains(&foreign) && listed.stdout.contains(&backup), "{listed:?}");
    assert!(listed.stderr.contains("is not used"), "{listed:?}");
    let to = ours.path("foreign");
    let target = to.display().to_string();
    let refused = ours.run(&["restore", "prod", &foreign, "--to", &target, "--as", "copy", "--yes"]);
    assert!(!matches!(refused.code, Some(0 | 3)) && !to.exists(), "{}{}", refused.stdout, refused.stderr);

    // Everything of it is named.
    let verified = ours.run(&["verify", "--json"]).ends(3);
    for name in added.iter().filter(|name| !name.starts_with("packs") && !name.starts_with("pins")) {
        let name = name.display().to_string();
        assert!(verified.stdout.contains(&name), "{name} is not named:\n{}", verified.stdout);
    }
    assert!(verified.stdout.contains(&foreign), "{}", verified.stdout);

    // A segment that only they have is not handed to PostgreSQL, nor taken for the end of the archive.
    let fetched = ours.path("fetched");
    let path = fetched.display().to_string();
    let only_theirs = ours.run(&["wal", "fetch", "--source", "prod", &last, &path]).ends(255);
    assert!(only_theirs.stderr.contains(&last), "{}", only_theirs.stderr);
    assert!(!fetched.exists());
    // Nor is one whose name we have too.
    let first = "000000010000000000000002";
    let common = added.iter().any(|name| name.to_string_lossy().contains(first));
    if common {
        let both = ours.run(&["wal", "fetch", "--source", "prod", first, &path]);
        let is_ours = fetched.exists();
        assert!(both.code == Some(255) && !is_ours || both.code == Some(0), "{}", both.stderr);
        assert!(both.code == Some(0) || both.stderr.contains(first), "{}", both.stderr);
    }

    // Our own goes on and comes back, whatever lies beside it.
    for name in &added {
        if name.starts_with("wal") {
            fs::remove_file(ours.repo().join(name)).expect("removes");
        }
    }
    ours.archive_all();
    ours.backup();
    let directory = ours.restore("copy", &[&backup, "--target", "immediate", "--as", "copy"]);
    let clone = start_restored(15, &directory);
    assert_eq!(clone.psql("postgres", "select v from t"), "ours");
    prove(clone);
    ours.cluster.stop(StopMode::Fast);
}

/// Bytes that mean nothing, above what one source is called: that one is refused and named, every other goes on.
#[test]
fn what_covers_one_source_touches_no_other() {
    let (site, backup) = filled("ours");
    // A source of its own in the same repository, by another configuration of the same server.
    let described: Vec<PathBuf> =
        all(&site.repo()).into_iter().filter(|name| name.to_string_lossy().contains("/source/")).collect();
    let [first] = described.as_slice() else { panic!("{described:?}") };
    let other = site.path("other.toml");
    let text = fs::read_to_string(&site.config).expect("reads").replace("[source.prod]", "[source.second]");
    fs::write(&other, text).expect("writes");
    site.cluster.owner().give(&other);
    let second = |arguments: &[&str]| {
        let mut command = site.cluster.owner().bare_command(env!("CARGO_BIN_EXE_refloat"));
        super::site::run(command.arg("--config").arg(&other).args(arguments))
    };
    let run = second(&["backup", "second", "--type", "full", "--json"]).ends(0);
    let kept = super::site::backup_id(&run.json()).expect("a backup");

    let above = site.repo().join(first).with_file_name("0000000009");
    fs::write(&above, b"nothing that anybody has signed").expect("writes");
    site.cluster.owner().give(&above);
    let listed = second(&["list"]).ends(0);
    assert!(listed.stdout.contains(&kept) && !listed.stdout.contains(&backup), "{}", listed.stdout);
    assert!(listed.stderr.contains("source prod cannot be used"), "{}", listed.stderr);
    second(&["show", &kept]).ends(0);
    second(&["backup", "second"]).ends(0);
    let to = site.path("restored").display().to_string();
    second(&["restore", "second", "--to", &to, "--target", "immediate", "--as", "copy", "--yes"]).ends(0);

    let status = site.run(&["status", "--exit-code"]).ends(3);
    assert!(status.stdout.contains("source prod cannot be used"), "{}", status.stdout);
    assert!(!status.stdout.contains("no backup yet"), "{}", status.stdout);
    let to = site.path("refused").display().to_string();
    for arguments in [
        &["list", "prod"][..],
        &["backup", "prod"],
        &["restore", "prod", "--to", &to, "--as", "copy", "--yes"],
    ] {
        let refused = site.run(arguments);
        assert!(!matches!(refused.code, Some(0 | 3)), "{arguments:?} {}", refused.stdout);
        assert!(refused.stderr.contains("REP-001"), "{arguments:?} {}", refused.stderr);
    }
    // Whoever takes it away again has all of it back.
    fs::remove_file(&above).expect("removes");
    site.run(&["show", &backup]).ends(0);
    site.run(&["backup", "prod"]).ends(0);
}
