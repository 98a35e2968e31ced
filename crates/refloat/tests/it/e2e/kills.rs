//! `kill -9` at every point where something outside the process changes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use refloat_testkit::cluster::{StopMode, TestCluster};
use refloat_testkit::failpoints::arm;

use super::site::{Site, run, start_restored};

/// The failpoints that a command passes.
fn points(site: &Site, arguments: &[&str]) -> BTreeSet<String> {
    let seen = site.path("seen");
    let _ = fs::remove_file(&seen);
    let mut command = site.command(arguments);
    run(command.env("REFLOAT_FAILPOINTS_SEEN", &seen)).ends(0);
    fs::read_to_string(&seen).expect("failpoints are compiled in").lines().map(str::to_owned).collect()
}

fn packs(site: &Site) -> usize {
    let listed = fs::read_dir(site.repo().join("packs")).into_iter().flatten().flatten();
    listed.flat_map(|d| fs::read_dir(d.path()).into_iter().flatten().flatten()).count()
}

/// How many packs the backups of the site need: those that `verify` has nothing to say of.
fn named_packs(site: &Site) -> usize {
    let json = site.run(&["verify", "--json"]).ends(0).json();
    let unneeded = json["repositories"][0]["report"]["findings"].as_array().expect("findings").iter();
    let unneeded =
        unneeded.filter(|finding| finding["object"].as_str().is_some_and(|it| it.starts_with("packs/")));
    packs(site) - unneeded.count()
}

#[test]
fn a_full_backup_killed_anywhere_leaves_nothing_visible() {
    backup_killed_anywhere("full");
}

#[test]
fn an_incremental_backup_killed_anywhere_leaves_nothing_visible() {
    backup_killed_anywhere("incr");
}

fn backup_killed_anywhere(kind: &str) {
    let site = Site::new(TestCluster::builder().checksums(true));
    site.cluster.pgbench_init(1);
    let backup = ["backup", "prod", "--type", kind];
    if kind != "full" {
        site.backup();
        site.cluster.psql("postgres", "update pgbench_accounts set abalance = 1 where aid % 50 = 0");
    }
    let points = points(&site, &backup);
    assert!(points.len() >= 12, "{points:?}");
    for point in &points {
        let before = site.run(&["list", "prod", "--json"]).ends(0).stdout.matches("\"backup\"").count();
        site.cluster
            .psql("postgres", "update pgbench_accounts set abalance = abalance + 1 where aid % 50 = 0");
        let mut command = site.command(&backup);
        let killed = run(arm(&mut command, &format!("{point}=kill")));
        assert_eq!(killed.code, None, "{point}: killed by a signal: {}", killed.stderr);
        // A non-exclusive backup leaves no trace in the server's directory, and no session stays.
        assert!(!site.cluster.data_directory().join("backup_label").exists());
        let sessions = "select count(*) = 0 from pg_stat_activity where application_name = 'refloat'";
        site.cluster.wait_for("postgres", sessions, "t");
        let after = site.run(&["list", "prod", "--json"]).ends(0).stdout.matches("\"backup\"").count();
        let committed = matches!(point.as_str(), "backup.after_commit") || after > before;
        assert!(after == before || committed, "{point}");
        site.run(&["verify", "prod"]).ends(0);
    }
    site.run(&backup).ends(0);
    let named = named_packs(&site);
    assert_eq!(packs(&site), named, "what the killed ones left is cleared, and nothing else");
    let temporary = walk(&site.repo()).into_iter().filter(|p| p.contains("/.")).count();
    assert_eq!(temporary, 0, "no temporary file stays");
    site.run(&["verify", "prod", "--read-data"]).ends(0);
}

fn walk(directory: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { out.extend(walk(&path)) } else { out.push(path.display().to_string()) }
    }
    out
}

#[test]
fn a_restore_killed_anywhere_cannot_be_started_and_can_be_finished() {
    let site = Site::new(TestCluster::builder().checksums(true));
    site.cluster.pgbench_init(1);
    let fast = site.cluster.make_dir("fast");
    site.cluster.psql("postgres", &format!("create tablespace fast location '{}'", fast.display()));
    site.cluster.psql("postgres", "alter table pgbench_accounts set tablespace fast");
    site.backup();
    site.archive_all();
    let truth = site.cluster.psql("postgres", "select sum(abalance), count(*) from pgbench_accounts");
    let arguments = |to: &Path| {
        let map = format!("{}={}", fast.display(), with_fast(to).display());
        let to = to.display().to_string();
        ["restore", "prod", "latest", "--to", &to, "--tablespace-map", &map, "--as", "copy", "--yes"]
            .map(str::to_owned)
    };
    let sample = arguments(&site.path("sample"));
    let points = points(&site, &sample.each_ref().map(String::as_str));
    assert!(points.len() >= 9, "{points:?}");
    for (number, point) in points.iter().enumerate() {
        let to = site.path(&format!("killed-{number}"));
        let arguments = arguments(&to);
        let arguments = arguments.each_ref().map(String::as_str);
        let mut command = site.command(&arguments);
        let killed = run(arm(&mut command, &format!("{point}=kill")));
        assert_eq!(killed.code, None, "{point}: killed by a signal: {}", killed.stderr);
        // Points of other names are passed when the directory is whole: the record of the operation is written last.
        let finished = matches!(point.as_str(), "restore.after_control" | "restore.before_release")
            || !point.starts_with("restore.");
        if to.join("PG_VERSION").exists() && !finished {
            let started = TestCluster::builder().try_start_existing(&to);
            assert!(started.is_err(), "{point}: a half-restored directory started");
        }
        let again = site.run(&arguments);
        if finished && again.code == Some(1) {
            assert!(again.stderr.contains("RST-001"), "{point}: {}", again.stderr);
        } else {
            again.ends(0);
            assert!(!with_fast(&to).join("refloat.restoring").exists(), "{point}: no mark stays");
        }
        let mut clone = start_restored(15, &to);
        assert_eq!(
            clone.psql("postgres", "select sum(abalance), count(*) from pgbench_accounts"),
            truth,
            "{point}"
        );
        clone.stop(StopMode::Immediate);
        drop(clone);
        fs::remove_dir_all(&to).expect("removes");
        fs::remove_dir_all(with_fast(&to)).expect("removes");
    }
}

/// Where the tablespace of a restored cluster goes.
fn with_fast(to: &Path) -> PathBuf {
    to.with_extension("fast")
}

#[test]
fn without_its_label_a_restored_directory_does_not_start() {
    let site = Site::new(TestCluster::builder());
    site.backup();
    site.archive_all();
    let directory = site.restore("labelless", &["latest", "--as", "copy"]);
    fs::remove_file(directory.join("backup_label")).expect("removes");
    let log = TestCluster::builder().try_start_existing(&directory).expect_err("it must not start");
    assert!(log.contains("could not locate") || log.contains("PANIC") || log.contains("FATAL"), "{log}");
}

#[test]
fn a_push_killed_anywhere_is_repeated_with_success() {
    let site = Site::with(TestCluster::builder(), false, "");
    site.cluster.pgbench_init(1);
    for _ in 0..4 {
        site.cluster
            .psql("postgres", "select pg_switch_wal() from pg_logical_emit_message(false, 'test', 'x')");
    }
    let names = site.cluster.psql(
        "postgres",
        "select name from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$' and name < pg_walfile_name(pg_current_wal_lsn()) order by 1",
    );
    let wal: Vec<String> = names.lines().map(|n| format!("pg_wal/{n}")).collect();
    let push = |path: &str, points: &str| {
        let mut command = site.command(&["wal", "push", path]);
        run(arm(command.current_dir(site.cluster.data_directory()), points))
    };
    let seen = site.path("seen");
    let mut command = site.command(&["wal", "push", &wal[0]]);
    let command = command.current_dir(site.cluster.data_directory()).env("REFLOAT_FAILPOINTS_SEEN", &seen);
    run(command).ends(0);
    let points: BTreeSet<String> =
        fs::read_to_string(&seen).expect("failpoints").lines().map(str::to_owned).collect();
    assert!(points.len() >= 5, "{points:?}");
    assert!(wal.len() > 1, "{wal:?}");
    let mut next = wal.iter().skip(1).cycle();
    for point in &points {
        let path = next.next().expect("cycles");
        let _ = push(path, &format!("{point}=kill"));
        push(path, "").ends(0);
        push(path, "").ends(0);
        let name = path.trim_start_matches("pg_wal/");
        let to = site.path("fetched");
        let fetched = site.run(&["wal", "fetch", "--source", "prod", name, to.to_str().expect("a path")]);
        fetched.ends(0);
        let original = fs::read(site.cluster.data_directory().join(path)).expect("reads");
        assert!(fs::read(&to).expect("reads") == original, "{point}: {name}");
        fs::remove_file(&to).expect("removes");
    }
}
