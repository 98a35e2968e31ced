//! What is said to be kept, and what stands on a sheet, opens the repository; and a sheet has a place before there is a
//! repository.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use refloat_repo::crypt::identity::Identity;
use refloat_testkit::failpoints::arm;

use super::errors::{Run, Scene, can_give_away, made, run};

const RIGHT: &str = "correct horse battery staple";
const KEPT: &str = "kept, as somebody has shown";

impl Run {
    #[track_caller]
    fn ends(self, code: i32, with: &str) -> Self {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        assert!(self.stdout.contains(with) || self.stderr.contains(with), "{}{}", self.stdout, self.stderr);
        self
    }
}

#[test]
fn a_passphrase_that_opens_nothing_is_on_no_sheet_and_is_not_kept() {
    let scene = made();
    scene.run(&["check"]).ends(3, KEPT);
    scene.write("passphrase", "another one altogether\n", 0o600);

    let sheet = scene.path("sheet").display().to_string();
    let refused = scene.run(&["key", "sheet", "--sheet", &sheet]).ends(1, "error[CLI-015]");
    assert!(!scene.path("sheet").exists());
    assert!(refused.stderr.contains("key rotate"), "{}", refused.stderr);
    for line in [&["init"][..], &["init", "--key-kept"], &["init", "--sheet", &sheet]] {
        let run = scene.run(line).ends(1, "error[CLI-015]");
        assert!(!run.stderr.contains("another one"), "{}", run.stderr);
        assert!(!scene.path("sheet").exists());
    }
    let check = scene.run(&["check"]).ends(3, "(CLI-015)");
    assert!(!check.stdout.contains(KEPT), "{}", check.stdout);
    assert!(check.stdout.contains("make sure that this is still kept"), "{}", check.stdout);

    scene.write("passphrase", &format!("{RIGHT}\n"), 0o600);
    scene.run(&["check"]).ends(3, KEPT);
    scene.run(&["init"]).ends(0, "fingerprint");
    scene.run(&["key", "sheet", "--sheet", &sheet]).ends(0, &sheet);
    assert!(fs::read_to_string(&sheet).expect("written").contains(RIGHT));
}

#[test]
fn nothing_is_declared_of_a_passphrase_that_opens_nothing() {
    let scene = Scene::new();
    let sheet = scene.path("sheet").display().to_string();
    scene.run(&["init", "--sheet", &sheet]).ends(0, "nobody has shown");
    scene.write("passphrase", "another one altogether\n", 0o600);
    scene.run(&["init", "--key-kept"]).ends(1, "error[CLI-015]");
    scene.run(&["check"]).ends(3, "no one has shown");
    assert_eq!(scene.count("repo/keys/confirmation"), 0);
}

#[test]
fn an_identity_that_opens_nothing_is_not_kept() {
    let scene = Scene::new();
    let (ours, other) = (Identity::draw(), Identity::draw());
    let encryption = |recipient: &Identity| {
        let identity = scene.path("identity").display().to_string();
        format!("{{ recipients = [\"{}\"], identity = {{ file = \"{identity}\" }} }}", recipient.recipient())
    };
    let text = fs::read_to_string(scene.path("refloat.toml")).expect("reads");
    let passphrase = format!("{{ passphrase = {{ file = \"{}\" }} }}", scene.path("passphrase").display());
    assert!(text.contains(&passphrase));
    scene.write("refloat.toml", &text.replace(&passphrase, &encryption(&ours)), 0o644);
    scene.write("identity", &format!("{}\n", ours.expose()), 0o600);
    scene.run(&["init", "--key-kept"]).ends(0, "is made");
    scene.run(&["check"]).ends(3, KEPT);

    scene.write("identity", &format!("{}\n", other.expose()), 0o600);
    let sheet = scene.path("sheet").display().to_string();
    for line in [&["init"][..], &["key", "sheet", "--sheet", &sheet]] {
        let run = scene.run(line).ends(1, "error[CLI-015]: the identity in");
        assert!(!run.stderr.contains("AGE-SECRET-KEY"), "{}", run.stderr);
    }
    let check = scene.run(&["check"]).ends(3, "(CLI-015)");
    assert!(!check.stdout.contains(KEPT), "{}", check.stdout);
    // One that is on no host at all is nobody's fault.
    fs::remove_file(scene.path("identity")).expect("own file");
    let run = scene.run(&["init"]).ends(0, "fingerprint");
    assert!(run.stderr.contains("was not tried"), "{}", run.stderr);
}

#[test]
fn a_sheet_that_cannot_be_proved_is_not_printed() {
    let scene = made();
    fs::rename(scene.path("repo"), scene.path("away")).expect("renames");
    let sheet = scene.path("sheet").display().to_string();
    scene.run(&["key", "sheet", "--sheet", &sheet]).ends(1, "error[REP-006]");
    assert!(!scene.path("sheet").exists());
}

#[test]
fn nobody_has_kept_what_is_only_drawn_now() {
    let scene = Scene::new();
    fs::remove_file(scene.path("passphrase")).expect("own file");
    insta::assert_snapshot!(scene.refused(&["init", "--key-kept"]));
    scene.refused(&["init", "--key-kept", "--dry-run"]);
    // With a sheet it is drawn.
    let sheet = scene.path("sheet").display().to_string();
    scene.run(&["init", "--sheet", &sheet]).ends(0, "A passphrase was drawn");
    let drawn = fs::read_to_string(scene.path("passphrase")).expect("drawn");
    assert!(fs::read_to_string(&sheet).expect("written").contains(drawn.trim()));

    let new = scene.path("new").display().to_string();
    let text = scene.refused(&["key", "rotate", "--new-passphrase-file", &new, "--key-kept"]);
    assert!(text.starts_with("exit 2\nerror[CLI-001]"), "{text}");
    scene.write("new", "one that a secret store keeps\n", 0o600);
    scene.run(&["key", "rotate", "--new-passphrase-file", &new, "--key-kept"]).ends(0, "generation 1");
}

#[test]
fn a_sheet_has_a_place_before_anything_is_made() {
    let scene = Scene::new();
    let nowhere = scene.path("nowhere/sheet").display().to_string();
    insta::assert_snapshot!(scene.refused(&["init", "--sheet", &nowhere]));
    let taken = scene.path("refloat.toml").display().to_string();
    let text = scene.refused(&["init", "--sheet", &taken]);
    assert!(text.contains("error[CLI-013]") && text.contains("exists"), "{text}");

    let scene = made();
    let new = scene.path("new").display().to_string();
    scene.refused(&["key", "rotate", "--new-passphrase-file", &new, "--sheet", &nowhere]);
    scene.refused(&["key", "sheet", "--sheet", &taken]);
}

#[test]
fn a_sheet_that_could_not_be_written_is_told_of_truly() {
    let scene = Scene::new();
    let sheet = scene.path("sheet").display().to_string();
    let mut command = scene.command(&["init", "--sheet", &sheet]);
    let failed = run(arm(&mut command, "sheet.before_write=nospace")).ends(1, "error[CLI-017]");
    assert!(failed.stderr.contains("this host is enrolled"), "{}", failed.stderr);
    assert!(!scene.path("sheet").exists(), "an empty sheet is none");
    assert!(scene.count("repo") > 0, "the repository is made");
    assert!(failed.stderr.contains("key sheet --sheet FILE"), "{}", failed.stderr);
    scene.run(&["key", "sheet", "--sheet", &sheet]).ends(0, &sheet);
    assert!(fs::read_to_string(&sheet).expect("written").contains(RIGHT));
    // So does init itself.
    fs::remove_file(&sheet).expect("own file");
    scene.run(&["init", "--sheet", &sheet]).ends(0, "key sheet");
    assert!(fs::read_to_string(&sheet).expect("written").contains(RIGHT));
}

#[test]
fn root_keeps_a_sheet_where_the_user_who_works_cannot() {
    let scene = Scene::new();
    if !can_give_away(&scene) {
        eprintln!("SKIPPED: only root becomes another user");
        return;
    }
    let desk = tempfile::tempdir().expect("a directory");
    fs::set_permissions(desk.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
    let (sheet, config) = (desk.path().join("sheet"), desk.path().join("refloat.toml"));
    fs::copy(scene.path("refloat.toml"), &config).expect("copies");
    let as_root = |arguments: &[&str]| {
        let mut command = Command::new(crate::program());
        command.env_clear().arg("--config").arg(&config).args(arguments);
        command
    };
    let path = sheet.display().to_string();
    let init = ["init", "--sheet", &path];
    // Behind the place where it fails it is the other user, who cannot remove it. An empty one is in nobody's way.
    run(arm(&mut as_root(&init), "sheet.before_write=nospace")).ends(1, "error[CLI-017]");
    assert_eq!(fs::metadata(&sheet).expect("made").len(), 0);
    run(&mut as_root(&init)).ends(0, "The recovery sheet is in");
    let written = fs::metadata(&sheet).expect("written");
    assert_eq!((written.uid(), written.mode() & 0o777), (0, 0o600));
    assert!(fs::read_to_string(&sheet).expect("written").contains(RIGHT));
    assert_ne!(fs::metadata(scene.path("repo")).expect("made").uid(), 0);
    let refused = run(&mut as_root(&["key", "sheet", "--sheet", &path])).ends(1, "error[CLI-013]");
    assert!(refused.stderr.contains("exists"), "{}", refused.stderr);
}

#[test]
fn a_dry_run_asks_nothing_and_needs_no_terminal() {
    let scene = Scene::new();
    let before = scene.state();
    scene.run(&["init", "--dry-run"]).ends(0, "would make repository backup");
    assert_eq!(scene.state(), before);
}
