//! Two repositories, one of them damaged: what is restored is right, the damage is put right, and somebody is told.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use refloat_testkit::cluster::{StopMode, TestCluster};

use super::site::{Site, prove, start_restored};

const SUM: &str = "select count(*) || ' ' || md5(string_agg(t::text, ',' order by a)) from t";

/// Every object of a repository.
fn objects(repo: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut pending = vec![repo.to_owned()];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).expect("lists").map(|entry| entry.expect("one").path()));
        } else {
            let name = path.strip_prefix(repo).expect("below").to_owned();
            all.insert(name, fs::read(&path).expect("reads"));
        }
    }
    all
}

/// Flips a byte in the middle of an object.
fn flip(repo: &Path, name: &Path) {
    let path = repo.join(name);
    let mut bytes = fs::read(&path).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let mode = fs::metadata(&path).expect("it is there").permissions();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::write(&path, bytes).expect("writes");
    fs::set_permissions(&path, mode).expect("chmod");
}

/// A second repository beside the first, which holds the same from here on.
fn mirror(site: &Site) -> PathBuf {
    let mirror = site.path("mirror");
    let copied = Command::new("cp").arg("-a").arg(site.repo()).arg(&mirror).status().expect("cp starts");
    assert!(copied.success());
    let text = fs::read_to_string(&site.config).expect("reads");
    let mut text = text.replace("repositories = [\"local\"]", "repositories = [\"local\", \"mirror\"]");
    let _ = write!(
        text,
        "\n[repository.mirror]\nurl = \"file://{}\"\nencryption = {{ passphrase = {{ file = \"{}\" }} }}\n",
        mirror.display(),
        site.path("passphrase").display()
    );
    fs::write(&site.config, text).expect("writes");
    mirror
}

fn is(name: &Path, directory: &str) -> bool {
    name.starts_with(directory)
}

#[test]
fn a_restore_heals_what_it_meets_and_tells() {
    let mut site = Site::new(TestCluster::builder());
    site.cluster
        .psql("postgres", "create table t as select g a, md5(g::text) b from generate_series(1, 20000) g");
    site.backup();
    site.cluster.psql("postgres", "insert into t select g, 'later' from generate_series(20001, 20100) g");
    site.archive_all();
    let truth = site.cluster.psql("postgres", SUM);
    site.cluster.stop(StopMode::Fast);
    let mirror = mirror(&site);
    let whole = objects(&site.repo());
    let told = || site.run(&["status", "--json"]).stdout;
    assert!(!told().contains("healing"));

    // Every object of the first repository at once, but records of what was done, which only it has and nobody needs.
    let damaged: Vec<&PathBuf> =
        whole.keys().filter(|name| !is(name, "operations") && !is(name, "pins")).collect();
    assert!(damaged.len() > 12, "{damaged:?}");
    for name in &damaged {
        flip(&site.repo(), name);
    }
    let to = site.path("restored").display().to_string();
    let run = site.run(&["restore", "prod", "--to", &to, "--as", "copy", "--yes"]).ends(0);
    assert!(run.stderr.contains("healed: packs/"), "{}", run.stderr);
    assert!(run.stderr.contains("healed: sources/"), "{}", run.stderr);
    let clone = start_restored(15, Path::new(&to));
    clone.wait_for_end_of_recovery();
    assert_eq!(clone.psql("postgres", SUM), truth);
    prove(clone);
    assert!(told().contains("healing"), "{}", told());
    // What the restore had no need of is put right when it is asked for.
    site.run(&["verify", "--read-data", "--heal", "--json", "-q"]);
    let now = objects(&site.repo());
    for (name, bytes) in whole.iter().filter(|(name, _)| is(name, "packs")) {
        assert!(now[name] == *bytes, "{}", name.display());
    }
    site.run(&["verify", "--read-data"]).ends(0);
    assert!(objects(&mirror).iter().all(|(name, bytes)| is(name, "operations")
        || is(name, "pins")
        || whole.get(name).is_none_or(|was| was == bytes)));
}

#[test]
fn each_object_is_healed_when_it_is_asked_for() {
    let site = Site::new(TestCluster::builder());
    site.backup();
    site.archive_all();
    // Looked at once, this host has kept what only this repository has.
    site.run(&["check", "--json"]);
    mirror(&site);
    let verified = || site.run(&["verify", "--read-data", "-r", "local"]);
    verified().ends(0);
    let whole = objects(&site.repo());
    let ours = |name: &&PathBuf| !is(name, "operations") && !is(name, "pins") && !is(name, "rescue");
    let names: Vec<&PathBuf> = whole.keys().filter(ours).collect();

    // Looking first changes nothing.
    let pack = names.iter().find(|name| is(name, "packs")).expect("a pack");
    flip(&site.repo(), pack);
    let damaged = fs::read(site.repo().join(pack)).expect("reads");
    let looked = site.run(&["verify", "--read-data", "--heal", "--dry-run"]).ends(3);
    assert!(looked.stderr.contains(&format!("would be healed: {}", pack.display())), "{}", looked.stderr);
    assert!(fs::read(site.repo().join(pack)).expect("reads") == damaged);

    // All of them but one at a time would take an hour; what depends on each other is healed in the right order.
    for name in names.iter().filter(|name| *name != pack) {
        flip(&site.repo(), name);
    }
    let healed = site.run(&["verify", "--read-data", "--heal"]).ends(3);
    let again = site.run(&["verify", "--read-data", "--heal"]);
    // Verdicts of before are not left as they are.
    assert!(
        healed.stdout.contains("what is said above was so before; prove how it is now:  "),
        "{}",
        healed.stdout
    );
    assert!(healed.stdout.contains(" -r local verify --read-data\n"), "{}", healed.stdout);
    verified().ends(0);
    for name in &names {
        let said = |run: &super::site::Run| run.stderr.contains(&format!("healed: {}", name.display()));
        assert!(said(&healed) || said(&again), "{}:\n{}\n{}", name.display(), healed.stderr, again.stderr);
    }
    let checked = site.run(&["check"]).ends(3);
    assert!(checked.stdout.contains("healing"), "{}", checked.stdout);
}

/// Where nobody has the data whole, what is said is true and can be typed.
#[test]
fn damage_that_nobody_can_mend_is_told_with_ways_on() {
    let site = Site::new(TestCluster::builder());
    site.cluster
        .psql("postgres", "create table t as select g, md5(g::text) from generate_series(1, 20000) g");
    site.backup();
    site.archive_all();
    let whole = objects(&site.repo());
    let packs = whole.iter().filter(|(name, _)| is(name, "packs"));
    let (largest, _) = packs.max_by_key(|(_, bytes)| bytes.len()).expect("a pack");
    flip(&site.repo(), largest);
    let to = site.path("restored").display().to_string();
    let said = site.run(&["restore", "prod", "--to", &to, "--as", "copy", "--yes"]).ends(1).stderr;
    assert!(said.contains("error[RST-010]"), "{said}");
    assert!(!said.contains("unharmed"), "{said}");
    let config = site.config.display();
    for line in [
        format!("What else is damaged:  refloat --config {config} verify prod --read-data\n"),
        format!("refloat --config {config} restore prod BACKUP --target latest --to {to} --as copy\n"),
    ] {
        assert!(said.contains(&line), "{line} is not in:\n{said}");
    }
}
