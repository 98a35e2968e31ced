//! Tablespaces that are made after the backup: recovery puts them where they were made, whatever is there now.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use refloat_testkit::cluster::{StopMode, TestCluster};
use refloat_testkit::failpoints::arm;

use super::site::{Run, Site, promote, run, start_restored};

/// A server with a tablespace that its backup does not know, and a moment before that was made.
struct Later {
    site: Site,
    before: String,
    place: PathBuf,
}

impl Later {
    fn new() -> Self {
        let site = Site::new(TestCluster::builder());
        site.backup();
        site.cluster.psql("postgres", "create table early as select 1 a");
        let before = site.cluster.psql("postgres", "select clock_timestamp()");
        site.cluster.wait_for(
            "postgres",
            &format!("select clock_timestamp() > '{before}'::timestamptz + '5 ms'"),
            "t",
        );
        let place = site.cluster.make_dir("later");
        site.cluster.psql("postgres", &format!("create tablespace later location '{}'", place.display()));
        site.cluster.psql("postgres", "create table x tablespace later as select generate_series(1, 1000) n");
        site.archive_all();
        Self { site, before, place }
    }

    fn restore(&self, to: &Path, more: &[&str]) -> Run {
        let to = to.display().to_string();
        let mut all = vec!["restore", "prod"];
        all.extend_from_slice(more);
        all.extend(["--to", &to, "--as", "copy", "--yes"]);
        self.site.run(&all)
    }
}

fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("reads").flatten() {
        match fs::read(entry.path()) {
            Ok(bytes) => drop(found.insert(entry.path(), bytes)),
            Err(_) => found.extend(files(&entry.path())),
        }
    }
    found
}

#[test]
fn a_copy_never_gets_into_the_tablespace_of_its_source() {
    let later = Later::new();
    let cluster = &later.site.cluster;
    // Newer than what is archived: replay would put old pages over these.
    cluster.psql("postgres", "update x set n = n + 100000");
    cluster.psql("postgres", "checkpoint");
    let before = files(&later.place);
    let to = later.site.path("copy");
    for more in [&["latest"][..], &["latest", "--tablespaces-inside"], &["--target", "latest"]] {
        let refused = later.restore(&to, more).ends(1);
        assert!(refused.stderr.contains("RST-023"), "{}", refused.stderr);
        assert!(refused.stderr.contains(&later.place.display().to_string()), "{}", refused.stderr);
        assert!(!to.exists(), "nothing was written");
    }
    // Before it was made nothing is in the way; the server goes on all the time.
    later.restore(&to, &[&later.before]).ends(0);
    let clone = start_restored(15, &to);
    promote(&clone);
    assert_eq!(clone.psql("postgres", "select count(*) from pg_tablespace where spcname = 'later'"), "0");
    drop(clone);
    assert!(files(&later.place) == before, "the source's tablespace was touched");
    // A backup that knows it is restored as any other.
    later.site.backup();
    later.site.archive_all();
    let to = later.site.path("new copy");
    later.restore(&to, &["latest", "--tablespaces-inside"]).ends(0);
    let clone = start_restored(15, &to);
    clone.wait_for_end_of_recovery();
    assert_eq!(clone.psql("postgres", "select count(*), sum(n) from x"), "1000|100500500");
    clone.psql("postgres", "drop table x");
    clone.psql("postgres", "checkpoint");
    drop(clone);
    assert_eq!(cluster.psql("postgres", "select count(*), sum(n) from x"), "1000|100500500");
}

#[test]
fn in_place_it_comes_back_where_it_was() {
    let mut later = Later::new();
    later.site.cluster.stop(StopMode::Fast);
    let arguments = ["restore", "prod", "latest", "--in-place", "--as", "primary", "--yes"];
    let mut command = later.site.command(&arguments);
    let killed = run(arm(&mut command, "restore.before_label=kill"));
    assert_eq!(killed.code, None, "{}", killed.stderr);
    later.site.run(&arguments).ends(0);
    later.site.cluster.start();
    later.site.cluster.wait_for_end_of_recovery();
    assert_eq!(later.site.cluster.psql("postgres", "select count(*), sum(n) from x"), "1000|500500");
    let beside = later.place.parent().expect("a parent");
    let aside = fs::read_dir(beside).expect("reads").flatten();
    let aside = aside.filter(|e| e.file_name().to_string_lossy().starts_with("later.before-"));
    assert_eq!(aside.count(), 1, "what was there is kept");
}

#[test]
fn in_place_a_lost_one_is_made_again() {
    let mut site = Site::new(TestCluster::builder());
    let place = site.cluster.make_dir("lost");
    site.cluster.psql("postgres", &format!("create tablespace lost location '{}'", place.display()));
    site.cluster.psql("postgres", "create table x tablespace lost as select generate_series(1, 1000) n");
    site.backup();
    for more in [&["--yes"][..], &["--yes", "--delta"]] {
        site.archive_all();
        site.cluster.stop(StopMode::Fast);
        fs::remove_dir_all(&place).expect("a lost disk");
        let all = [&["restore", "prod", "latest", "--in-place", "--as", "primary"], more].concat();
        site.run(&all).ends(0);
        site.cluster.start();
        site.cluster.wait_for_end_of_recovery();
        assert_eq!(site.cluster.psql("postgres", "select sum(n) from x"), "500500", "{more:?}");
    }
}

#[test]
fn where_the_directory_is_gone_it_is_made_again() {
    let later = Later::new();
    let cluster = &later.site.cluster;
    cluster.psql("postgres", "drop table x");
    cluster.psql("postgres", "drop tablespace later");
    later.site.archive_all();
    fs::remove_dir(&later.place).expect("empty");
    let to = later.site.path("copy");
    let restored = later.restore(&to, &["latest"]).ends(0);
    let said = format!("{}{}", restored.stdout, restored.stderr);
    assert!(said.contains(&format!("recovery makes a tablespace in {}", later.place.display())), "{said}");
    let clone = start_restored(15, &to);
    clone.wait_for_end_of_recovery();
    assert_eq!(clone.psql("postgres", "select count(*) from pg_tablespace where spcname = 'later'"), "0");
}
