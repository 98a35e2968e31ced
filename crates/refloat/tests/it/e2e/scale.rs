//! Very many files in little memory, and very many backups.
//!
//! What grows with the number of files must not lie in memory: `RLIMIT_DATA` counts what a process may write to, and a
//! program that needs more is ended. `bench/scale` measures the same at half a million files.

use std::fs;
use std::path::Path;
use std::time::Instant;

use refloat_repo::commit::{BackupType, CommitNames, PackUse};
use refloat_repo::crypt::random;
use refloat_repo::{Repository, StateDirectory};
use refloat_store::posix::{Options, PosixStore};
use refloat_testkit::cluster::TestCluster;
use refloat_types::{Clock as _, SystemClock};

use super::site::{Run, Site, program, run};

const FILES: usize = 40_000;
/// What each takes here is 8 MiB less; 600 bytes for each file would be 24 MiB more.
const BACKUP: u64 = 44 << 20;
const RESTORE: u64 = 36 << 20;
const DELTA: u64 = 44 << 20;
const VERIFY: u64 = 28 << 20;

fn limited(site: &Site, bytes: u64, arguments: &[&str]) -> Run {
    let mut command = site.cluster.owner().bare_command("/usr/bin/prlimit");
    command.arg(format!("--data={bytes}")).arg(program()).arg("--config").arg(&site.config).args(arguments);
    run(&mut command)
}

/// Relations of no page and of one page, and files of somebody else's.
fn fill(site: &Site) {
    let cluster = &site.cluster;
    cluster.psql("postgres", "create table page as select i, md5(i::text) from generate_series(1, 100) i");
    cluster.psql("postgres", "checkpoint");
    let data = cluster.data_directory();
    let relation = data.join(cluster.psql("postgres", "select pg_relation_filepath('page')"));
    // A page's checksum depends on its number alone.
    let page = fs::read(&relation).expect("reads")[..8192].to_vec();
    let base = relation.parent().expect("a directory");
    let others = data.join("others");
    fs::create_dir(&others).expect("a directory");
    for number in 0..FILES {
        let (path, bytes) = match number % 8 {
            7 => (others.join(format!("a file of somebody else's, number {number}")), &page[..300]),
            0..3 => (base.join((1_000_000 + number).to_string()), &page[..0]),
            _ => (base.join((1_000_000 + number).to_string()), &page[..]),
        };
        fs::write(&path, bytes).expect("writes");
        cluster.owner().give(&path);
    }
    cluster.owner().give(&others);
}

/// A relation of 64 MiB that has no bytes.
fn add_sparse(site: &Site) {
    let cluster = &site.cluster;
    let beside =
        cluster.data_directory().join(cluster.psql("postgres", "select pg_relation_filepath('page')"));
    let path = beside.with_file_name("900000");
    fs::File::create(&path).and_then(|file| file.set_len(64 << 20)).expect("created");
    cluster.owner().give(&path);
}

fn count(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).expect("lists").map(|entry| entry.expect("an entry"));
    entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

#[test]
fn very_many_files_are_backed_up_restored_and_verified_in_little_memory() {
    let site =
        Site::with(TestCluster::builder().checksums(true).setting("autovacuum", "off"), false, "jobs = 2\n");
    fill(&site);
    limited(&site, BACKUP, &["backup", "prod", "--type", "full"]).ends(0);
    add_sparse(&site);
    let incr = limited(&site, BACKUP, &["backup", "prod", "--type", "incr", "--json"]).ends(0).json();
    let incr = &incr["backups"][0];
    assert_eq!(incr["type"], "incr", "{incr}");
    assert!(incr["stored_bytes"].as_u64().is_some_and(|stored| stored < 8 << 20), "{incr}");
    let to = site.path("restored");
    let path = to.display().to_string();
    let restore = ["restore", "prod", "latest", "--to", &path, "--as", "copy", "--yes"];
    limited(&site, RESTORE, &restore).ends(0);
    site.cluster.verifybackup(&to).expect("it is whole");
    assert!(count(&to) > FILES);
    // Some differ, one in a hundred is gone, and there are others.
    let base = to.join("base");
    let oid = site.cluster.psql("postgres", "select oid from pg_database where datname = 'postgres'");
    for number in (4..FILES).step_by(104) {
        let file = base.join(&oid).join((1_000_000 + number).to_string());
        if number % 3 == 0 { fs::remove_file(&file) } else { fs::write(&file, b"dirty") }.expect("changed");
    }
    fs::write(base.join(&oid).join("2000000"), b"not of the backup").expect("writes");
    let delta: Vec<&str> = restore.iter().copied().chain(["--delta"]).collect();
    limited(&site, DELTA, &delta).ends(0);
    site.cluster.verifybackup(&to).expect("it is whole again");
    limited(&site, VERIFY, &["verify", "prod", "--read-data"]).ends(0);
}

/// `list` with what this host knows of backups, without it, and with a damaged one says the same.
/// `REFLOAT_TEST_BACKUPS=10000` makes so many and tells how long it takes.
#[expect(clippy::disallowed_methods, reason = "a switch of this test, not of the product")]
#[test]
fn a_list_says_the_same_with_and_without_what_is_known() {
    let retention = "retention = { full = 2 }\n";
    let site = Site::with(TestCluster::builder(), false, retention);
    site.backup();
    let wanted = std::env::var("REFLOAT_TEST_BACKUPS").ok().and_then(|count| count.parse().ok());
    add_backups(&site, wanted.unwrap_or(60));
    let cache = site.home.join("refloat-state/repositories");
    let known: Vec<_> = fs::read_dir(&cache).expect("lists").map(|e| e.expect("an entry").path()).collect();
    let [known] = known.as_slice() else { panic!("one repository, not {known:?}") };
    let known = known.join("commits");
    let list = |how: &str| {
        let began = Instant::now();
        let (json, text) = (site.run(&["list", "--json"]).ends(0).stdout, site.run(&["list"]).ends(0).stdout);
        if wanted.is_some() {
            println!("{how}: two lists in {:?}", began.elapsed());
        }
        (json, text)
    };
    drop(fs::remove_dir_all(&known));
    let first = list("without");
    assert_eq!(first.0.matches("\"backup\"").count() as u64, wanted.unwrap_or(60) + 1);
    assert!(
        first.1.contains("\"number 7\"") && first.1.contains("kept: "),
        "labels and reasons: {}",
        first.1
    );
    assert_eq!(list("with"), first);
    for file in fs::read_dir(&known).expect("lists") {
        let path = file.expect("an entry").path();
        let mut bytes = fs::read(&path).expect("reads");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("writes");
    }
    assert_eq!(list("damaged"), first);
    assert_eq!(list("with"), first);
}

/// Adds incremental backups, as far as listing goes: commits, signed and sealed, that name packs of the first one.
fn add_backups(site: &Site, count: u64) {
    let options = Options { create: false, ..Options::default() };
    let store = PosixStore::open(site.repo(), options).expect("a store");
    let state = StateDirectory::new(site.home.join("refloat-state"));
    let mut never = || panic!("this host has opened it before");
    let repository = Repository::open(std::sync::Arc::new(store), state, None, SystemClock.now(), &mut never)
        .expect("opens");
    let source = repository.list_sources().expect("lists")[0].id;
    let key = repository.commit_keys(source).expect("lists").remove(0);
    let first = repository.read_commit(&key).expect("reads");
    let names = repository.read_commit_names(&first).expect("reads");
    let mut parent = first.commit.backup;
    for number in 2..count + 2 {
        let mut commit = first.commit.clone();
        (commit.number, commit.backup, commit.kind) = (number, random::backup_id(), BackupType::Incr);
        commit.parent = Some(parent);
        parent = commit.backup;
        let key = repository.draw_key("backup", SystemClock.now()).expect("a key");
        let packs: Vec<PackUse> = first.packs.to_vec();
        let names = CommitNames { label: Some(format!("number {number}")), ..names.clone() };
        repository.put_commit(&commit, &packs, &names, key.as_deref()).expect("committed");
    }
    let mut pending = vec![site.home.clone()];
    while let Some(path) = pending.pop() {
        site.cluster.owner().give(&path);
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).expect("lists").flatten().map(|entry| entry.path()));
        }
    }
}
