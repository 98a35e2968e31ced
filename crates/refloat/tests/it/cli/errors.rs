//! Bad input, each with one clear error, its exit code, and nothing changed.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use refloat_testkit::cluster::Owner;

/// A directory with a configuration, and nothing else yet. There is no server.
pub(super) struct Scene {
    home: tempfile::TempDir,
    owner: Owner,
}

/// How a run ended.
pub(super) struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Scene {
    pub(super) fn new() -> Self {
        let owner = Owner::current();
        let home = owner.temp_dir();
        let scene = Self { home, owner };
        scene.write("passphrase", "correct horse battery staple\n", 0o600);
        let data = scene.path("data");
        scene.owner.make_dir(&data);
        scene.write("data/PG_VERSION", "15\n", 0o600);
        scene.configure("");
        scene
    }

    /// Writes the configuration, with more lines in the table of the source.
    pub(super) fn configure(&self, more: &str) {
        let root = self.home.path().display();
        let text = format!(
            "state = \"{root}/state\"\n[repository.backup]\nurl = \"file://{root}/repo\"\n\
             encryption = {{ passphrase = {{ file = \"{root}/passphrase\" }} }}\n\
             [source.prod]\nkind = \"postgres\"\ndata_directory = \"{root}/data\"\n{more}\n"
        );
        self.write("refloat.toml", &text, 0o644);
    }

    /// Who runs it.
    pub(super) const fn owner(&self) -> &Owner {
        &self.owner
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        std::fs::write(&path, text).expect("own directory");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("own file");
        self.owner.give(&path);
    }

    /// Runs as the owner, with nothing in its environment but a zone.
    pub(super) fn bare(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(&crate::program());
        command.args(arguments);
        command
    }

    /// Another program as the owner, as bare.
    pub(super) fn program(&self, program: &str) -> Command {
        let mut command = self.owner.bare_command(program);
        // Not the host's zone: what is printed must be the same everywhere.
        command.current_dir(self.home.path()).env("TZ", "Europe/Berlin");
        command
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.bare(&[]);
        command.arg("--config").arg(self.path("refloat.toml")).args(arguments);
        command
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Run {
        run(&mut self.command(arguments))
    }

    pub(super) fn count(&self, directory: &str) -> usize {
        fn below(path: &Path) -> usize {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| if entry.path().is_dir() { below(&entry.path()) } else { 1 }).sum()
        }
        below(&self.path(directory))
    }

    /// Every file with its size, mode and time, without the log of operations.
    pub(super) fn state(&self) -> BTreeMap<PathBuf, (u64, u32, i64, i64)> {
        fn walk(path: &Path, into: &mut BTreeMap<PathBuf, (u64, u32, i64, i64)>) {
            let Ok(meta) = std::fs::symlink_metadata(path) else { return };
            if path.ends_with("state/log") || path.ends_with("state") {
                // Times of these change when an operation is noted.
            } else if !path.components().any(|part| part.as_os_str() == "log") {
                into.insert(path.to_owned(), (meta.size(), meta.mode(), meta.mtime(), meta.mtime_nsec()));
            }
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                walk(&entry.path(), into);
            }
        }
        let mut all = BTreeMap::new();
        walk(self.home.path(), &mut all);
        all.remove(self.home.path());
        all
    }

    /// The error of a run that must fail and change nothing.
    pub(super) fn refused(&self, arguments: &[&str]) -> String {
        let before = self.state();
        let run = self.run(arguments);
        assert_eq!(run.stdout, "", "an error is no data");
        let after = self.state();
        let changed: Vec<_> =
            before.keys().chain(after.keys()).filter(|path| before.get(*path) != after.get(*path)).collect();
        assert!(changed.is_empty(), "a refusal changed {changed:?}\n{}", run.stderr);
        let root = self.home.path().display().to_string();
        let program = &crate::program();
        let owner = &self.owner.name;
        let text = run.stderr.replace(&root, "ROOT").replace(program, "REFLOAT").replace(owner, "OWNER");
        format!("exit {}\n{text}", run.code)
    }
}

pub(super) fn run(command: &mut Command) -> Run {
    let output = command.output().expect("the program starts");
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A scene whose repository is made.
pub(super) fn made() -> Scene {
    let scene = Scene::new();
    let run = scene.run(&["init", "--key-kept"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    scene
}

#[test]
fn wrong_key() {
    let scene = made();
    scene.write("other", "another passphrase\n", 0o600);
    let url = format!("file://{}", scene.path("repo").display());
    let other = scene.path("other").display().to_string();
    insta::assert_snapshot!(
        scene.refused(&["-r", &url, "--passphrase-file", &other, "list"]).replace(&url, "URL")
    );
    // The configured one is wrong as well, on a host that has not opened the repository before.
    std::fs::remove_dir_all(scene.path("state")).expect("own directory");
    scene.write("passphrase", "another passphrase\n", 0o600);
    let text = scene.run(&["list"]);
    assert_eq!(text.code, 1);
    assert!(text.stderr.contains("error[KEY-001]"), "{}", text.stderr);
}

#[test]
fn unknown_setting() {
    let scene = Scene::new();
    scene.configure("wal_push_timout = \"30s\"");
    insta::assert_snapshot!(scene.refused(&["status"]));
}

#[test]
fn several_faults_are_told_at_once() {
    let scene = Scene::new();
    scene.configure("jobs = 0\ncheckpoint = \"slow\"");
    insta::assert_snapshot!(scene.refused(&["config", "check"]));
}

#[test]
fn an_unreadable_file_of_conf_d_is_named() {
    let scene = Scene::new();
    scene.owner.make_dir(&scene.path("conf.d"));
    scene.write("conf.d/10-more.toml", "", 0o000);
    insta::assert_snapshot!(scene.refused(&["list"]), @r"
    exit 2
    error[CFG-002]: could not read the configuration ROOT/conf.d/10-more.toml
      detail: Permission denied (os error 13)
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Run the command as root or as the owner of the data directory; both have to be able to read it.
    ");
}

#[test]
fn missing_repository_directory() {
    let scene = Scene::new();
    insta::assert_snapshot!(scene.refused(&["list"]));
}

#[test]
fn check_before_init() {
    let scene = Scene::new();
    let run = scene.run(&["check"]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    let line = run.stdout.lines().find(|line| line.starts_with("FAULT repository backup"));
    assert!(line.is_some_and(|line| line.ends_with("(REP-006)")), "{}", run.stdout);
    assert!(run.stdout.contains("To make a repository there: refloat init"), "{}", run.stdout);
}

#[test]
fn no_configuration() {
    let scene = Scene::new();
    std::fs::remove_file(scene.path("refloat.toml")).expect("own file");
    insta::assert_snapshot!(scene.refused(&["backup"]));
}

#[test]
fn world_readable_secret() {
    let scene = Scene::new();
    scene.write("passphrase", "correct horse battery staple\n", 0o644);
    let text = scene.refused(&["config", "check"]);
    insta::with_settings!({filters => vec![(r"-rw-r--r-- \S+ \S+", "-rw-r--r-- USER GROUP"), (r"root:\S+ ", "root:GROUP ")]}, {
        insta::assert_snapshot!(text);
    });
}

#[test]
fn unreachable_server() {
    let scene = made();
    insta::assert_snapshot!(scene.refused_by_backup());
}

impl Scene {
    /// A failed backup is recorded in the repository, and nothing else of it is there.
    fn refused_by_backup(&self) -> String {
        let packs = self.count("repo/packs") + self.count("repo/sources");
        let run = self.run(&["backup"]);
        assert_eq!(self.count("repo/packs") + self.count("repo/sources"), packs);
        format!("exit {}\n{}", run.code, run.stderr.replace(&self.home.path().display().to_string(), "ROOT"))
    }
}

#[test]
fn read_only_repository() {
    let scene = made();
    if !can_give_away(&scene) {
        eprintln!("SKIPPED: only root can make a directory that its reader cannot make writable again");
        return;
    }
    // The repository belongs to somebody else, and this user may read it.
    let repo = scene.path("repo");
    let all = |program: &str, what: &str| {
        let status = Command::new(program).args(["-R", what]).arg(&repo).status();
        assert!(status.expect("the program starts").success());
    };
    all("chown", "0:0");
    all("chmod", "a+rX,go-w");
    let passphrase = scene.path("passphrase").display().to_string();
    let text = scene.refused(&["key", "confirm", "--passphrase-file", &passphrase]);
    insta::with_settings!({filters => vec![(r"[0-9a-f]{32}", "ID"), (r"\d{10}", "NUMBER")]}, {
        insta::assert_snapshot!(text);
    });
    let listed = scene.run(&["list"]);
    assert_eq!(
        (listed.code, listed.stdout.as_str()),
        (0, "no backups yet\n"),
        "reading goes on: {}",
        listed.stderr
    );
}

/// Whether files can be given away.
pub(super) fn can_give_away(scene: &Scene) -> bool {
    std::os::unix::fs::chown(scene.path("refloat.toml"), Some(0), Some(0)).is_ok()
}

#[test]
fn not_a_repository() {
    let scene = Scene::new();
    scene.owner.make_dir(&scene.path("repo"));
    scene.write("repo/something", "else", 0o600);
    let text = scene.refused(&["init", "--key-kept"]);
    insta::assert_snapshot!(text);
}

#[test]
fn a_sheet_needs_a_terminal() {
    insta::assert_snapshot!(Scene::new().refused(&["init"]));
}

#[test]
fn times_without_a_zone_and_targets_that_cannot_be_meant() {
    let scene = made();
    let mut all = String::new();
    for line in [
        &["restore", "prod", "2026-11-20 02:50", "--to", "/srv/copy"][..],
        &["restore", "prod", "--to", "2026-11-20 02:50"],
        &["restore", "prod", "--to", "16/B374D848"],
        &["restore", "prod", "--to", "file:///backup/db1"],
        &["restore", "prod", "--to", "copy"],
        &["restore", "prod", "k7m2qxw4", "--to", "/srv/copy"],
        &["restore", "prod"],
        &["restore", "prod", "2026-11-20 02:50+01", "--target-lsn", "0/3000000", "--to", "/srv/copy"],
        &["restore", "prod", "--target", "2026-11-20 02:50+01", "--to", "/srv/copy"],
        &["restore", "prod", "2026-11-20 02:50+01", "--to", "/srv/standby", "--as", "standby"],
        &[
            "restore",
            "prod",
            "--to",
            "/srv/standby",
            "--as",
            "standby",
            "--primary",
            "host=db1 password=secret",
        ],
        &["restore", "prod", "--to", "/srv/standby", "--as", "standby", "--primary", "db1"],
        &["restore", "prod", "--to", "/srv/copy", "--as", "copy", "--primary", "host=db1"],
        &["restore", "prod", "k7m2qxw4", "--in-place", "--delta"],
        &["restore", "prod", "nonsense", "--to", "/srv/copy"],
        &["restore", "prod", "--to", "/srv/copy", "--target-exclusive"],
        &["restore", "prod", "--to", "/srv/copy", "--target-timeline", "zero"],
        &["restore", "nosuch", "--to", "/srv/copy"],
    ] {
        let text = scene.refused(line);
        assert!(text.starts_with("exit 2\n"), "{line:?}: {text}");
        all.push_str(&format!("$ refloat {}\n{text}\n", line.join(" ")));
    }
    insta::assert_snapshot!(all);
}

#[test]
fn words_of_others_and_of_later_releases() {
    let scene = made();
    let mut all = String::new();
    for line in [
        &["setup"][..],
        &["recover", "table", "orders"],
        &["stanza-create"],
        &["snapshots"],
        &["archive-push", "x"],
        &["forget"],
        &["doctor"],
        &["logs"],
        &["backup", "--stanza=main"],
        &["restore", "prod", "--type=time", "--to", "/srv/copy"],
        &["backup", "--process-max=4"],
        &["backup", "--type", "weekly"],
        &["bakup"],
        &["explain", "XYZ-001"],
        &["check", "security"],
        &["verify", "--restore"],
    ] {
        let text = scene.refused(line);
        assert!(text.starts_with("exit 2\n"), "{line:?}: {text}");
        all.push_str(&format!("$ refloat {}\n{text}\n", line.join(" ")));
    }
    insta::assert_snapshot!(all);
}
