//! A backup that is really stopped (SIGSTOP) around its commit, for longer than the grace time, while another host deletes what
//! it builds on: on a store that overwrites, and that lists late to the stopped one.
//!
//! The store's clock is that of its files, which are made older. How long the process stood still it learns from the machine's
//! clock since boot, which is put ahead for it alone.
//!
//! Stopped before its last look it is refused in the same way, and mostly earlier: its WAL has expired meanwhile.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use refloat_testkit::between::{Act, Between, Seen};
use refloat_testkit::cluster::{Owner, StopMode, TestCluster, skip_without, wait_until};
use refloat_testkit::failpoints::arm;
use refloat_testkit::servers::S3sFs;
use refloat_types::{Clock as _, SystemClock};

use super::site::{Run, Site, prove, start_restored};
use super::stores::{age, s3, secret};

/// Names that are listed late: those that were not there at a moment.
type Known = Arc<Mutex<Option<BTreeSet<String>>>>;

/// Stands before a store and leaves out of its lists what is newer than the moment.
fn late_lists(port: u16, known: &Known) -> Between {
    let known = Arc::clone(known);
    Between::before(port, move |seen: &Seen<'_>| {
        let names = known.lock().expect("nobody panics here").clone();
        match names {
            Some(names) if seen.target.contains("list-type=2") => Act::Change(Box::new(move |body| {
                let text = String::from_utf8(body).expect("XML");
                let mut pieces = text.split("<Contents>");
                let mut out = pieces.next().unwrap_or_default().to_owned();
                for piece in pieces {
                    let (object, rest) = piece.split_once("</Contents>").expect("a pair of tags");
                    let name = object.split("<Key>").nth(1).and_then(|key| key.split("</Key>").next());
                    if names.contains(name.expect("a key")) {
                        out += &format!("<Contents>{object}</Contents>");
                    }
                    out += rest;
                }
                out.into()
            })),
            _ => Act::Pass,
        }
    })
}

/// The names of all objects below a directory of the server.
fn names(root: &Path, directory: &Path, into: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            names(root, &path, into);
        } else if let Ok(name) = path.strip_prefix(root) {
            into.insert(name.display().to_string());
        }
    }
}

struct Stopped {
    site: Site,
    bucket: PathBuf,
    /// The configuration of the host that is stopped.
    other: PathBuf,
    known: Known,
    _between: Between,
    _secrets: tempfile::TempDir,
    _server: S3sFs,
}

fn stopped() -> Option<Stopped> {
    if skip_without(15) {
        return None;
    }
    let server = S3sFs::start()?;
    let bucket = server.bucket("backups");
    let known = Known::default();
    let between = late_lists(server.port(), &known);
    let secrets = Owner::current().temp_dir();
    let key = secret(secrets.path(), "key", server.secret_key());
    let lines = s3(&server.endpoint(), &bucket, server.access_key(), &key);
    let source = "retention = { full = 1, wal = \"1s\" }\n";
    let site = Site::stored(TestCluster::builder().version(15).checksums(true), &lines, source);
    // A second host, as far as the repository can tell, behind the lists that are late.
    let other = site.path("other.toml");
    let text = std::fs::read_to_string(&site.config).expect("reads");
    let text = text.replace(&server.endpoint(), &between.endpoint());
    std::fs::write(&other, format!("state = \"{}\"\n{text}", site.path("other-state").display()))
        .expect("writes");
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    site.cluster.owner().give(&other);
    let at = Stopped {
        bucket: server.root().join(bucket),
        other,
        known,
        _between: between,
        _secrets: secrets,
        _server: server,
        site,
    };
    super::site::run(&mut at.on_other(&["init", "--key-kept"])).ends(0);
    // This store sometimes lets two writers win at the same moment, and sometimes it is not seen to. Both hosts take it for
    // one that overwrites, and ask no conditions of it.
    for state in ["refloat-state", "other-state"] {
        let file = at.site.path(state).join("stores.json");
        let seen = std::fs::read_to_string(&file).expect("what was seen of the store");
        std::fs::write(&file, seen.replace("true", "false")).expect("writes");
    }
    Some(at)
}

impl Stopped {
    fn on_other(&self, arguments: &[&str]) -> Command {
        let mut command = self.site.cluster.owner().bare_command(crate::program());
        command.arg("--config").arg(&self.other).args(arguments);
        command
    }

    fn age(&self, parts: &[&str]) {
        for part in parts {
            let directory = self.bucket.join("db1").join(part);
            if directory.exists() {
                age(&directory);
            }
        }
    }

    fn listed(&self) -> Vec<String> {
        let listed = self.site.run(&["list", "prod", "--json"]).ends(0).json();
        let all = listed["backups"].as_array().expect("a list").clone();
        all.iter().map(|one| one["backup"].as_str().expect("an id").to_owned()).collect()
    }

    /// An incremental backup on the other host, stopped at `point`. What happens then is `meanwhile`, and goes on.
    fn stopped_at(&self, point: &str, is_late: bool, meanwhile: impl FnOnce()) -> Run {
        let ahead = self.site.path("ahead");
        let _ = std::fs::remove_file(&ahead);
        let mut command = self.on_other(&["backup", "prod", "--type", "incr", "--json"]);
        arm(&mut command, &format!("{point}=stop@1,guard.uptime=ahead:{}", ahead.display()));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.expect("the program starts");
        let state = format!("/proc/{}/stat", child.id());
        let stands = || {
            let text = std::fs::read_to_string(&state).unwrap_or_default();
            text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        };
        assert!(wait_until(Duration::from_secs(120), stands), "it does not stop at {point}");
        let mut before = BTreeSet::new();
        let root = self.bucket.as_path();
        names(root, root, &mut before);
        *self.known.lock().expect("nobody panics here") = is_late.then_some(before);
        meanwhile();
        std::fs::write(&ahead, "259200").expect("writes");
        self.site.cluster.owner().give(&ahead);
        let woken = Command::new("/bin/kill").args(["-CONT", &child.id().to_string()]).status();
        assert!(woken.is_ok_and(|status| status.success()));
        let output = child.wait_with_output().expect("it ends");
        *self.known.lock().expect("nobody panics here") = None;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// So many more full backups, and everything that is not kept any more goes.
    fn others(&self, count: u32) {
        self.age(&["pins", "wal"]);
        for number in 0..count {
            self.site.cluster.psql("postgres", &format!("insert into marks values ({number})"));
            self.site.backup();
            self.site.archive_all();
        }
        self.site.run(&["expire"]).ends(0);
        self.age(&["tombstones", "pins"]);
        self.site.run(&["expire"]).ends(0);
    }
}

#[test]
fn a_backup_that_was_stopped_for_long_is_withdrawn_or_whole() {
    let Some(mut at) = stopped() else { return };
    at.site.cluster.psql("postgres", "create table marks(n int)");
    // Behind three newer full backups everything that was stored before goes, behind one nothing.
    let rounds = [
        ("backup.before_commit", false, 3),
        ("backup.before_commit", true, 3),
        ("backup.after_commit", true, 1),
    ];
    for (round, (point, is_late, count)) in rounds.into_iter().enumerate() {
        let parent = at.site.backup();
        at.site.archive_all();
        let before = at.listed();
        let ended = at.stopped_at(point, is_late, || at.others(count));
        let listed = at.listed();
        let said = format!("{point}, late: {is_late}: {}{}", ended.stdout, ended.stderr);
        if point == "backup.after_commit" {
            // Everybody else saw the commit, and kept what it needs.
            assert_eq!(ended.code, Some(0), "{said}");
            let is_new = |id: &&String| !before.contains(id) && ended.stdout.contains(id.as_str());
            let incremental = listed.iter().find(is_new).unwrap_or_else(|| panic!("it is gone: {said}"));
            let name = format!("whole-{round}");
            let directory = at.site.restore(&name, &[incremental, "--target", "immediate", "--as", "copy"]);
            prove(start_restored(15, &directory));
        } else {
            assert_eq!(ended.code, Some(1), "{said}");
            // A tombstone that it is shown, or what is not there any more.
            assert!(said.contains(if is_late { "EXP-002" } else { "EXP-001" }), "{said}");
            assert!(!listed.contains(&parent), "what it was built on is gone: {said}");
            assert_eq!(listed.iter().filter(|id| said.contains(id.as_str())).count(), 0, "{said}");
        }
        // What is listed is whole, whoever looks.
        let verified = at.site.run(&["verify"]).ends(0).stdout;
        assert!(!verified.contains("DAMAGE"), "{said}\n{verified}");
    }
    let verified = at.site.run(&["verify", "--read-data"]).ends(0).stdout;
    assert!(!verified.contains("DAMAGE"), "{verified}");
    at.site.cluster.stop(StopMode::Fast);
}

/// Of two hosts at once one makes the backup. What a host keeps for itself can be lost at any time.
#[test]
fn two_hosts_do_not_make_one_backup_at_once_and_a_lost_state_costs_nothing() {
    let Some(mut at) = stopped() else { return };
    at.site.cluster.psql("postgres", "create table marks(n int)");
    let full = at.site.backup();
    at.site.archive_all();
    let mut said = None;
    let ahead = at.site.path("ahead");
    let ended = at.stopped_at("backup.before_commit", false, || {
        // The store tells seconds: of two that began in the same one either may be the first.
        let second = SystemClock.now().as_second();
        assert!(wait_until(Duration::from_secs(5), || SystemClock.now().as_second() > second));
        said = Some(at.site.run(&["backup", "prod", "--type", "full"]));
    });
    let said = said.expect("it ran");
    assert!(said.stderr.contains("BAK-013"), "{said:?}");
    // It stood still for long, as far as it can tell, and looks whether all of it is there.
    assert!(ahead.exists());
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert_eq!(at.listed().len(), 2);

    std::fs::remove_dir_all(at.site.path("refloat-state")).expect("removes");
    assert_eq!(at.listed().first(), Some(&full), "the repository alone tells");
    let directory = at.site.restore("lost", &[&full, "--target", "immediate", "--as", "copy"]);
    prove(start_restored(15, &directory));
    at.site.run(&["init", "--key-kept"]).ends(0);
    at.site.cluster.psql("postgres", "insert into marks values (1)");
    let made = at.site.run(&["backup", "prod", "--type", "incr", "--json"]).ends(0).json();
    assert_eq!(made["backups"][0]["type"], "incr", "{made}");
    at.site.archive_all();
    let verified = at.site.run(&["verify", "--read-data"]).ends(0).stdout;
    assert!(!verified.contains("DAMAGE"), "{verified}");
    at.site.cluster.stop(StopMode::Fast);
}
