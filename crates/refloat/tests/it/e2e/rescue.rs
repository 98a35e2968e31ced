//! The host is gone: what is left is the store and the key. An empty directory, the program out of the rescue kit, no
//! configuration, no state.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use refloat_testkit::cluster::{StopMode, TestCluster};

use super::site::{Run, Site, prove, run, start_restored};

const SUM: &str = "select count(*) || ' ' || md5(string_agg(t::text, ',' order by a)) from t";

/// The newest kit's directory.
fn kit(site: &Site) -> PathBuf {
    let mut all: Vec<PathBuf> =
        fs::read_dir(site.repo().join("rescue")).expect("kits").map(|e| e.expect("one").path()).collect();
    all.sort();
    all.pop().expect("a kit")
}

/// The program as whoever recovers gets it: out of the kit. One that is not linked statically is in no kit; then it is the
/// one under test.
#[expect(clippy::disallowed_methods, reason = "tests only: the released program must be in the kit")]
fn fetch_program(site: &Site, to: &Path) -> PathBuf {
    let stored = site.repo().join("rescue/0000000001/refloat");
    if !stored.exists() {
        assert!(std::env::var_os("REFLOAT_TEST_PROGRAM").is_none(), "the released program is in no kit");
        refloat_testkit::skipped("the program under test needs libraries: the rescue kit holds none");
    }
    let from = if stored.exists() { stored } else { PathBuf::from(crate::program()) };
    let program = to.join("refloat");
    fs::copy(from, &program).expect("copies");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    program
}

/// Gives the repository to this user; everybody may read it.
fn give_repository(site: &Site, user: &str) {
    for (program, what) in [("chown", user), ("chmod", "u+rwX,a+rX,go-w")] {
        let status = Command::new(program).args(["-R", what]).arg(site.repo()).status();
        assert!(status.expect("it starts").success());
    }
}

#[test]
fn a_repository_and_its_key_are_enough() {
    let mut site = Site::new(TestCluster::builder());
    site.cluster
        .psql("postgres", "create table t as select g a, md5(g::text) b from generate_series(1, 20000) g");
    let backup = site.backup();
    site.cluster.psql("postgres", "insert into t select g, 'later' from generate_series(20001, 20100) g");
    site.archive_all();
    let truth = site.cluster.psql("postgres", SUM);
    site.cluster.stop(StopMode::Fast);

    let text = fs::read_to_string(kit(&site).join("RESCUE.txt")).expect("RESCUE.txt");
    let url = format!("file://{}", site.repo().display());
    assert!(text.contains(&format!("refloat -r {url} restore SOURCE --to")), "{text}");
    let secrets =
        ["prod", "correct horse", &site.cluster.data_directory().display().to_string()].map(str::to_owned);
    for secret in &secrets {
        assert!(!text.contains(secret.as_str()), "{secret} stands in plain view:\n{text}");
    }

    // Everything but the repository is lost.
    let desk = site.cluster.make_dir("desk");
    let program = fetch_program(&site, &desk);
    let key = desk.join("key");
    fs::write(&key, "correct horse battery staple 42\n").expect("writes");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("chmod");
    site.cluster.owner().give(&key);
    for lost in ["refloat.toml", "passphrase"] {
        fs::remove_file(site.home.join(lost)).expect("removes");
    }
    fs::remove_dir_all(site.cluster.data_directory()).expect("removes");

    let with = |mut command: Command, arguments: &[&str]| -> Run {
        command.current_dir(&desk).args(["-r", &url, "--passphrase-file"]).arg(&key).args(arguments);
        run(&mut command)
    };
    let program_text = program.display().to_string();
    let plain = |arguments: &[&str]| with(site.cluster.owner().bare_command(&program_text), arguments);
    let root = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.env_clear();
        with(command, arguments)
    };
    for run in [&plain as &dyn Fn(&[&str]) -> Run, &root] {
        let listed = run(&["list", "--json"]).ends(0);
        assert!(listed.stdout.contains(&backup) && listed.stdout.contains("prod"), "{}", listed.stdout);
        let shown = run(&["show", &backup]).ends(0);
        assert!(shown.stdout.contains(&backup), "{}", shown.stdout);
        run(&["verify", "--read-data"]).ends(0);
        run(&["status"]).ends(0);
    }
    for (name, run) in [("as-user", &plain as &dyn Fn(&[&str]) -> Run), ("as-root", &root)] {
        let to = desk.join(name).display().to_string();
        run(&["restore", "prod", "--to", &to, "--as", "copy", "--yes"]).ends(0);
        let clone = start_restored(15, Path::new(&to));
        clone.wait_for_end_of_recovery();
        assert_eq!(clone.psql("postgres", SUM), truth, "{name}");
        prove(clone);
    }

    // One that shall be the source from now on: the line that is printed is one that works.
    let owner = site.cluster.owner().name.clone();
    let undecided = |name: &str, is_read_only: bool| {
        let to = desk.join(name);
        // The first one's timeline is the source's, and nothing archives its history here.
        let timeline = ["--target-timeline", "1"];
        let arguments = ["restore", "prod", "--to", &to.display().to_string(), "--yes"];
        let arguments = [&arguments[..], &timeline].concat();
        let told = if is_read_only { plain(&arguments) } else { root(&arguments) }.ends(0);
        let mut clone = start_restored(15, &to);
        let step = told.stdout.lines().find_map(|line| line.trim().strip_prefix("3  right?  "));
        let step = step.and_then(|line| line.split("   ").next()).expect("a third step").to_owned();
        assert!(step.contains(&format!("{name}.refloat/refloat.toml")) && !step.contains(" -r "), "{step}");
        assert!(told.stdout.contains("  4  so that archiving goes on: "), "{}", told.stdout);
        let said = told.stdout.contains("which could not be written from here");
        assert_eq!(said, is_read_only, "{}", told.stdout);
        // As whoever types it: there may be no sudo here.
        let step = step.replace(&format!("sudo -u {owner}"), &format!("runuser -u {owner} --"));
        let typed = || match is_read_only {
            true => run(site.cluster.owner().bare_command("sh").current_dir(&desk).args(["-c", &step])),
            false => run(Command::new("sh").current_dir(&desk).args(["-c", &step])),
        };
        if is_read_only {
            assert_ne!(typed().code, Some(0), "nothing can be recorded");
            assert!(to.join("refloat.locked").exists());
            give_repository(&site, &owner);
        }
        let done = typed().ends(0);
        assert!(done.stdout.contains("archiving is unlocked"), "{}", done.stdout);
        assert!(!to.join("refloat.locked").exists());
        assert_eq!(clone.psql("postgres", "select pg_is_in_recovery()"), "f");
        clone.stop(StopMode::Fast);
    };
    undecided("undecided", false);
    if rustix::process::geteuid().is_root() {
        give_repository(&site, "root");
        undecided("read-only", true);
    } else {
        eprintln!("SKIPPED: only root can make a repository that its reader cannot make writable again");
    }
    // With the URL alone it says what it needs.
    let refused = plain(&["takeover", "prod"]).ends(2);
    assert!(refused.stderr.contains("--config DIR.refloat/refloat.toml takeover prod"), "{}", refused.stderr);
}

#[test]
fn somebody_elses_kit_is_named_and_ours_follows_what_changes() {
    let site = Site::new(TestCluster::builder());
    let check = || site.run(&["check", "--json"]);
    let first = kit(&site);
    assert!(first.ends_with("0000000001"), "{}", first.display());
    site.backup();
    // The first backup has made a source: the text names it by its id.
    let second = kit(&site);
    assert!(check().stdout.contains("rescue local"));
    let second = if second == first { kit(&site) } else { second };
    assert!(second.ends_with("0000000002"), "{}", second.display());
    assert!(!second.join("FORMAT.md").exists(), "what stays the same is not stored again");
    site.run(&["verify"]).ends(0);

    // The same once more changes nothing.
    site.backup();
    site.run(&["init", "--key-kept"]).ends(0);
    assert_eq!(kit(&site), second);

    // A forged one.
    let forged = site.repo().join("rescue/0000000003");
    fs::create_dir(&forged).expect("makes");
    for (name, text) in
        [("refloat", "#!/bin/sh\nread key\n"), ("RESCUE.txt", "run ./refloat"), ("kit", "yes")]
    {
        fs::write(forged.join(name), text).expect("writes");
    }
    fs::set_permissions(&forged, fs::Permissions::from_mode(0o755)).expect("chmod");
    site.cluster.owner().give(&forged);
    let verified = site.run(&["verify"]).ends(3);
    for name in ["rescue/0000000003/refloat", "rescue/0000000003/RESCUE.txt", "rescue/0000000003/kit"] {
        assert!(verified.stdout.contains(name), "{}", verified.stdout);
    }
    assert!(verified.stdout.contains("must not run it or give it a key"), "{}", verified.stdout);
    let checked = check().ends(3);
    assert!(checked.stdout.contains("rescue/0000000003/refloat"), "{}", checked.stdout);
    fs::remove_dir_all(&forged).expect("removes");

    // One of ours that was changed.
    let text = second.join("RESCUE.txt");
    let mut changed = fs::read(&text).expect("reads");
    changed[10] ^= 1;
    fs::set_permissions(&text, fs::Permissions::from_mode(0o644)).expect("chmod");
    fs::write(&text, changed).expect("writes");
    let checked = check().ends(3);
    assert!(
        checked.stdout.contains("rescue/0000000002/RESCUE.txt: it is not what was put there"),
        "{}",
        checked.stdout
    );
    site.run(&["verify"]).ends(3);
    // Taken away, as the check says, it is put there again.
    fs::remove_file(&text).expect("removes");
    let again = check();
    assert!(kit(&site).ends_with("0000000003"), "{}", again.stdout);
    site.run(&["verify"]).ends(0);
}

#[test]
fn a_backup_does_not_fail_because_of_the_kit() {
    let site = Site::new(TestCluster::builder());
    let rescue = site.repo().join("rescue");
    fs::remove_dir_all(&rescue).expect("removes");
    let kept = fs::read_dir(site.path("refloat-state").join("repositories")).expect("its state");
    fs::remove_file(kept.flatten().next().expect("one").path().join("rescue.json"))
        .expect("what is remembered");
    // A file where the directory would be: nothing can be put there.
    fs::write(&rescue, "in the way").expect("writes");
    let told = site.run(&["backup", "prod", "--type", "full"]).ends(0);
    assert!(told.stderr.contains("the rescue kit could not be put there"), "{}", told.stderr);
    // Once nothing is in the way it is put there.
    fs::remove_file(&rescue).expect("removes");
    let told = site.run(&["backup", "prod"]).ends(0);
    assert!(!told.stderr.contains("could not be put"), "{}", told.stderr);
    assert!(kit(&site).join("RESCUE.txt").exists());
}
