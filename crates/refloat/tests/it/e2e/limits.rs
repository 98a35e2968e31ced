//! Full disks, too few descriptors, two users on one repository, a server that was a standby once.

use std::fs;
use std::path::Path;
use std::process::Command;

use refloat_testkit::cluster::{TestCluster, wait_until};
use refloat_testkit::failpoints::arm;

use super::site::{Site, program, prove, run, start_restored};

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A file system of its own for the repository; `None` where this user may not mount.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path, megabytes: u32, owner: &refloat_testkit::cluster::Owner) -> Option<Self> {
        fs::create_dir_all(at).expect("a directory");
        let options = format!("size={megabytes}m,mode=0750,uid={},gid={}", owner.uid, owner.gid);
        let mounted = is_root()
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
                .arg(at)
                .status()
                .is_ok_and(|s| s.success());
        if !mounted {
            refloat_testkit::skipped("only root can mount a small file system");
        }
        mounted.then_some(Self(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_repository_fails_cleanly_and_works_again() {
    let home = TestCluster::builder().build_stopped();
    let owner = home.owner().clone();
    drop(home);
    let site = Site::with(TestCluster::builder().checksums(true), false, "");
    // The site's repository moves to a small disk of its own.
    let repo = site.repo();
    let moved = site.path("moved");
    fs::rename(&repo, &moved).expect("moves");
    let Some(disk) = SmallDisk::mount(&repo, 40, &owner) else { return };
    let copied = Command::new("cp").arg("-a").arg(format!("{}/.", moved.display())).arg(&repo).status();
    assert!(copied.expect("cp runs").success());
    site.backup();
    let random = "create extension if not exists pgcrypto; create table noise as select gen_random_bytes(1000) b from generate_series(1, 45000)";
    site.cluster.psql("postgres", random);
    // Early: before anything is copied.
    let early = site.run(&["backup", "prod"]).ends(1);
    assert!(early.stderr.contains("BAK-005"), "{}", early.stderr);
    // Late: the disk fills while the backup runs, at any of the objects that it writes.
    let listed =
        |site: &Site| site.run(&["list", "prod", "--json"]).ends(0).stdout.matches("\"backup\"").count();
    assert_eq!(listed(&site), 1);
    site.cluster.psql("postgres", "truncate noise; vacuum full noise; checkpoint");
    let packs = packs(&site);
    let mut failed = 0;
    for point in (1..30).map(|nth| format!("store.posix.put.before_write=nospace@{nth}")) {
        let mut command = site.command(&["backup", "prod"]);
        let late = run(arm(&mut command, &point));
        if late.code == Some(0) {
            // It has written less than that, or nothing that a backup needs.
            assert_eq!(listed(&site), 2, "{point}");
            break;
        }
        assert_eq!(late.code, Some(1), "{point}: {}", late.stderr);
        assert!(late.stderr.contains("No space left"), "{point}: {}", late.stderr);
        assert_eq!(listed(&site), 1, "{point}: nothing half-visible");
        assert_eq!(self::packs(&site), packs, "{point}: WAL gets the space back at once");
        failed += 1;
    }
    // The pin, the envelope, the packs of two threads and of the map, the commit.
    assert!(failed >= 6, "{failed}");
    let mut command = site.command(&["backup", "prod"]);
    let late = run(arm(&mut command, "pack.before_finish=nospace"));
    assert_eq!(late.code, Some(1), "{}", late.stderr);
    assert_eq!(listed(&site), 2, "nothing half-visible");
    site.run(&["verify", "prod", "--read-data"]).ends(0);
    // Space is back: no restart, no cleaning by hand.
    site.backup();
    assert_eq!(listed(&site), 3);
    drop(disk);
}

/// How many packs there are.
fn packs(site: &Site) -> usize {
    let listed = fs::read_dir(site.repo().join("packs")).into_iter().flatten().flatten();
    listed.flat_map(|found| fs::read_dir(found.path()).into_iter().flatten().flatten()).count()
}

#[test]
fn too_few_descriptors_are_an_error_or_suffice() {
    let site = Site::new(TestCluster::builder().checksums(true));
    site.backup();
    site.archive_all();
    let before = site.run(&["list", "prod", "--json"]).ends(0).stdout.matches("\"backup\"").count();
    let limited = |limit: &str, arguments: &[&str]| {
        let mut command = site.cluster.owner().bare_command("/usr/bin/prlimit");
        command
            .arg(format!("--nofile={limit}"))
            .arg(program())
            .arg("--config")
            .arg(&site.config)
            .args(arguments);
        run(&mut command)
    };
    let mut refused = 0;
    for limit in ["8", "12", "16", "24", "64"] {
        let backup = limited(limit, &["backup", "prod"]);
        assert!(matches!(backup.code, Some(0 | 1 | 2 | 5)), "{limit}: {:?}", backup);
        refused += u32::from(backup.code != Some(0));
        let to = site.path(&format!("limited-{limit}"));
        let path = to.display().to_string();
        let restored = limited(limit, &["restore", "prod", "latest", "--to", &path, "--as", "copy", "--yes"]);
        if restored.code == Some(0) {
            site.cluster.verifybackup(&to).expect("what claims to be whole is whole");
        } else {
            assert!(restored.stderr.contains("error["), "{limit}: {}", restored.stderr);
            if to.join("PG_VERSION").exists() {
                assert!(
                    TestCluster::builder().try_start_existing(&to).is_err(),
                    "{limit}: half a result started"
                );
            }
        }
    }
    assert!(refused > 0, "8 descriptors cannot be enough");
    let after = site.run(&["list", "prod", "--json"]).ends(0).stdout.matches("\"backup\"").count();
    assert_eq!(after - before, 5 - refused as usize);
    site.run(&["verify", "prod", "--read-data"]).ends(0);
}

#[test]
fn root_and_the_owner_take_turns() {
    if !is_root() {
        refloat_testkit::skipped("only root can be two users");
        return;
    }
    let site = Site::new(TestCluster::builder().checksums(true));
    // A configuration that root accepts: only root can write it, in a directory of root's.
    let etc = tempfile::Builder::new().prefix("rf-etc-").tempdir_in("/var/tmp").expect("a directory");
    let config = etc.path().join("refloat.toml");
    let text = fs::read_to_string(&site.config).expect("reads");
    fs::write(&config, format!("state = \"{}\"\n\n{text}", site.home.join("refloat-state").display()))
        .expect("writes");
    for (path, mode) in [(etc.path(), 0o755), (config.as_path(), 0o644)] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("chmod");
    }
    let as_root = |arguments: &[&str]| {
        run(Command::new(program()).env_clear().arg("--config").arg(&config).args(arguments))
    };
    as_root(&["backup", "prod"]).ends(0);
    site.backup();
    as_root(&["backup", "prod"]).ends(0);
    site.archive_all();
    as_root(&["verify", "prod", "--read-data"]).ends(0);
    site.run(&["verify", "prod", "--read-data"]).ends(0);
    let owner = site.cluster.owner().uid;
    let mut pending = vec![site.repo(), site.home.join("refloat-state")];
    while let Some(path) = pending.pop() {
        use std::os::unix::fs::MetadataExt as _;
        let meta = fs::symlink_metadata(&path).expect("stat");
        assert_eq!(meta.uid(), owner, "{} belongs to one user", path.display());
        if meta.is_dir() {
            pending.extend(fs::read_dir(&path).expect("lists").flatten().map(|e| e.path()));
        }
    }
}

/// A backup of a server that was a standby once carries `primary_conninfo`, and may carry old recovery settings.
#[test]
fn a_restored_server_follows_nobody() {
    let site = Site::new(TestCluster::builder().checksums(true));
    site.cluster
        .psql("postgres", "alter system set primary_conninfo = 'host=192.0.2.1 port=5432 user=nobody'");
    site.cluster.psql("postgres", "alter system set recovery_target_time = '2001-01-01 00:00:00+00'");
    site.cluster.psql("postgres", "alter system set restore_command = '/bin/false'");
    site.cluster.psql("postgres", "create table t as select generate_series(1, 10) n");
    site.backup();
    site.cluster.psql("postgres", "insert into t values (11)");
    let time = site.cluster.psql("postgres", "select clock_timestamp()");
    std::thread::sleep(std::time::Duration::from_millis(20));
    site.cluster.psql("postgres", "insert into t values (12)");
    site.archive_all();
    let directory =
        site.restore("alone", &["--target-time", &time, "--target-action", "promote", "--as", "copy"]);
    assert!(!directory.join("standby.signal").exists());
    let clone = start_restored(15, &directory);
    clone.wait_for_end_of_recovery();
    assert_eq!(clone.psql("postgres", "select count(*) from t"), "11");
    assert_eq!(clone.psql("postgres", "select count(*) from pg_stat_wal_receiver"), "0");
    assert_eq!(clone.psql("postgres", "show primary_conninfo"), "");
    prove(clone);
}

/// While the repository is away recovery must not end: PostgreSQL would promote and lose what follows.
#[test]
fn recovery_stops_while_the_repository_is_away() {
    let site = Site::with(TestCluster::builder(), true, "wal_fetch_timeout = \"2s\"\n");
    site.cluster.psql("postgres", "create table t as select 1 n");
    site.backup();
    for n in 2..6 {
        site.cluster.psql("postgres", &format!("insert into t values ({n})"));
        site.archive_all();
    }
    let directory = site.restore("away", &["latest", "--target-action", "promote", "--as", "copy"]);
    let (repo, away) = (site.repo(), site.path("away-repo"));
    fs::rename(&repo, &away).expect("moves");
    if let Ok(mut started) = TestCluster::builder().try_start_existing(&directory) {
        let stopped = wait_until(std::time::Duration::from_secs(60), || !started.is_running());
        assert!(stopped, "the server must stop, not promote:\n{}", started.log());
    }
    assert!(directory.join("recovery.signal").exists(), "recovery has not ended");
    fs::rename(&away, &repo).expect("moves back");
    let clone = start_restored(15, &directory);
    clone.wait_for_end_of_recovery();
    assert_eq!(
        clone.psql("postgres", "select count(*) from t"),
        "5",
        "after the repair it goes on to the end"
    );
}
