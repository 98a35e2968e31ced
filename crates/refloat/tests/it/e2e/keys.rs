//! Keys on real servers: what was stored is read by whom it shall be, whatever changed since, and the data is the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use refloat_repo::crypt::identity::Identity;
use refloat_testkit::cluster::{StopMode, TestCluster};

use super::site::{Run, Site, program, promote, run, start_restored};

/// Another host of a site: a configuration and a state directory of its own.
pub(crate) struct Host<'s> {
    site: &'s Site,
    config: PathBuf,
    home: PathBuf,
}

impl<'s> Host<'s> {
    pub(crate) fn new(site: &'s Site, name: &str, encryption: &str) -> Self {
        let home = site.cluster.make_dir(name);
        let host = Self { site, config: home.join("refloat.toml"), home };
        host.configure(encryption);
        host
    }
    /// Writes its configuration anew.
    pub(crate) fn configure(&self, encryption: &str) {
        let text = format!(
            "state = \"{home}/state\"\n\n[repository.local]\nurl = \"file://{repo}\"\nencryption = {encryption}\n\n\
             [source.prod]\nkind = \"postgres\"\ndata_directory = \"{data}\"\nrepositories = [\"local\"]\nwal = \"push\"\n\
             connection = \"user=postgres\"\n",
            home = self.home.display(),
            repo = self.site.repo().display(),
            data = self.site.cluster.data_directory().display(),
        );
        secret_file(self.site, &self.config, &text);
    }
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.site.cluster.owner().bare_command(program());
        command.arg("--config").arg(&self.config).args(arguments);
        command
    }
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        run(&mut self.command(arguments))
    }
    /// Restores a backup and answers what its server says to `query`.
    #[track_caller]
    pub(crate) fn restored(&self, name: &str, backup: &str, query: &str) -> String {
        let to = self.home.join(name);
        let path = to.display().to_string();
        let arguments = ["restore", "prod", backup, "--target", "immediate", "--to", &path, "--yes"];
        self.run(&arguments).ends(0);
        let mut clone = start_restored(self.site.cluster.version(), &to);
        promote(&clone);
        let answer = clone.psql("postgres", query);
        clone.stop(StopMode::Fast);
        answer
    }
}

/// A file of the cluster's owner that nobody else reads.
pub(crate) fn secret_file(site: &Site, path: &Path, text: &str) {
    fs::write(path, text).expect("writes");
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("chmod");
    site.cluster.owner().give(path);
}

fn passphrase(path: &Path) -> String {
    format!("{{ passphrase = {{ file = \"{}\" }} }}", path.display())
}

const TRUTH: &str = "select md5(string_agg(abalance::text, ',' order by aid)) from pgbench_accounts";

fn change(site: &Site, round: u32) -> String {
    let update = format!("update pgbench_accounts set abalance = {round} + aid where aid % 7 = {round} % 7");
    site.cluster.psql("postgres", &update);
    site.cluster.psql("postgres", TRUTH)
}

fn incremental(site: &Site) -> String {
    let json = site.run(&["backup", "prod", "--type", "incr", "--json"]).ends(0).json();
    let backup = &json["backups"][0];
    assert!(!backup["parent"].is_null(), "{json:#}");
    super::site::backup_id(&json).expect("an id")
}

/// Asks for an incremental backup where a full one has to be made; answers its id and what is said of it.
fn full_instead(run: &Run) -> (String, String) {
    let json = run.json();
    assert!(json["backups"][0]["parent"].is_null(), "{json:#}");
    (super::site::backup_id(&json).expect("an id"), json["backups"][0]["notes"].to_string())
}

fn recipients(all: &[&Identity]) -> String {
    let all: Vec<String> = all.iter().map(|one| format!("\"{}\"", one.recipient())).collect();
    format!("recipients = [{}]", all.join(", "))
}

#[test]
fn a_rotated_key_opens_old_and_new_backups_elsewhere() {
    let site = Site::new(TestCluster::builder());
    site.cluster.pgbench_init(1);
    let before = (change(&site, 1), site.backup());

    let (old, new) = (site.path("passphrase"), site.path("passphrase-2"));
    let new_text = new.display().to_string();
    let rotate = ["key", "rotate", "--new-passphrase-file", &new_text];
    let refused = site.run(&rotate);
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    assert!(refused.stderr.contains("--sheet FILE"), "{}", refused.stderr);
    let planned = site.run(&[&rotate[..], &["--dry-run"]].concat()).ends(0);
    assert!(planned.stdout.contains("a new passphrase, drawn into"), "{}", planned.stdout);
    assert!(!new.exists() && !site.repo().join("keys/recipients").exists(), "a plan does nothing");

    let sheet = site.path("sheet");
    let done = site.run(&[&rotate[..], &["--sheet", &sheet.display().to_string()]].concat()).ends(0);
    let drawn = fs::read_to_string(&new).expect("drawn");
    assert!(!done.stdout.contains(drawn.trim()) && !done.stderr.contains(drawn.trim()));
    let text = fs::read_to_string(&sheet).expect("the sheet");
    assert!(text.contains(drawn.trim()), "the new sheet has the new passphrase");
    assert_eq!(fs::read_to_string(&old).expect("kept").trim(), "correct horse battery staple 42");
    let check = site.run(&["check"]);
    assert!(check.stdout.contains("no one has shown that the recovery sheet is kept"), "{}", check.stdout);
    site.run(&["key", "confirm", "--passphrase-file", &old.display().to_string()]).ends(1);
    site.run(&["key", "confirm", "--passphrase-file", &new_text]).ends(0);

    let after = (change(&site, 2), incremental(&site));
    site.archive_all();
    let other = Host::new(&site, "other", &passphrase(&new));
    for (name, (truth, backup)) in [("a", &before), ("b", &after)] {
        assert_eq!(&other.restored(name, backup, TRUTH), truth, "{name}");
    }
    other.run(&["verify", "--read-data"]).ends(0);

    let late = Host::new(&site, "late", &passphrase(&old));
    let refused = late.run(&["list", "prod"]).ends(1);
    assert!(
        refused.stderr.contains("KEY-001") && refused.stderr.contains("it was changed at"),
        "{}",
        refused.stderr
    );

    // The list tells which backup needs which key, and to whom that is sealed.
    let listed = site.run(&["key", "list", "--json"]).ends(0).json();
    let listed = &listed["repositories"][0];
    assert_eq!((&listed["generation"], &listed["encrypted"]), (&1.into(), &true.into()));
    let keys = listed["data_keys"].as_array().expect("keys");
    let of = |backup: &str, generation: u64| {
        keys.iter().any(|key| {
            key["generation"] == generation
                && key["opens"] == true
                && key["backups"].as_array().is_some_and(|all| all.contains(&format!("prod {backup}").into()))
        })
    };
    assert!(of(&before.1, 0) && of(&after.1, 1) && of(&after.1, 0), "{listed:#}");
    assert_eq!(listed["agents"].as_array().map(Vec::len), Some(2));
    assert!(listed["agents"].to_string().contains("\"this\":true"), "{listed:#}");

    // Keys are sealed again, the old envelopes go, and both backups are what they were.
    let packs = || {
        let mut listed = Command::new("find");
        listed.arg(site.repo().join("packs")).args(["-type", "f", "-printf", "%p %s %T@\n"]);
        String::from_utf8(listed.output().expect("find").stdout).expect("text")
    };
    let data = packs();
    let planned = site.run(&["key", "rewrap", "--delete-old", "--dry-run", "--json"]).ends(0).json();
    let sealed = planned["repositories"][0]["sealed"].as_u64().expect("a number");
    assert!(sealed >= 2, "{planned}");
    assert_eq!(planned["repositories"][0]["deleted"], sealed);
    let done = site.run(&["key", "rewrap", "--json"]).ends(0).json();
    assert_eq!(
        (&done["repositories"][0]["sealed"], &done["repositories"][0]["deleted"]),
        (&sealed.into(), &0.into())
    );
    let done = site.run(&["key", "rewrap", "--delete-old", "--json"]).ends(0).json();
    assert_eq!(
        (&done["repositories"][0]["sealed"], &done["repositories"][0]["deleted"]),
        (&0.into(), &sealed.into())
    );
    assert_eq!(packs(), data, "no data was written");
    let third = Host::new(&site, "third", &passphrase(&new));
    for (name, (truth, backup)) in [("a", &before), ("b", &after)] {
        assert_eq!(&third.restored(name, backup, TRUTH), truth, "{name}");
    }
    third.run(&["verify", "--read-data"]).ends(0);
}

#[test]
fn a_host_without_an_identity_backs_up_and_another_restores() {
    let (a, b) = (Identity::draw(), Identity::draw());
    let all = recipients(&[&a, &b]);
    let site = Site::encrypted(TestCluster::builder(), &format!("{{ {all} }}"));
    site.cluster.pgbench_init(1);
    let first = (change(&site, 1), site.backup());
    let second = (change(&site, 2), incremental(&site));
    let third = (change(&site, 3), incremental(&site));
    site.archive_all();
    let listed = site.run(&["list", "prod", "--json"]).ends(0).stdout;
    assert_eq!(listed.matches("\"incr\"").count(), 2, "{listed}");
    // One source, though this host cannot read what it has called it.
    let sources = fs::read_dir(site.repo().join("sources")).expect("sources").count();
    assert_eq!(sources, 1);

    // What it has kept opens page maps, and no data.
    let to = site.path("here");
    let refused = site.run(&["restore", "prod", "--to", &to.display().to_string(), "--yes"]).ends(1);
    assert!(
        refused.stderr.contains("KEY-002") && refused.stderr.contains("cannot read"),
        "{}",
        refused.stderr
    );
    assert!(!to.join("PG_VERSION").exists());
    let wanted = fs::read_dir(site.cluster.data_directory().join("pg_wal")).expect("pg_wal");
    let segment = wanted.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let segment = segment.filter(|name| name.len() == 24).min().expect("a segment");
    let fetched = site.path("fetched");
    let fetch = ["wal", "fetch", "--source", "prod", &segment, &fetched.display().to_string()];
    // The key of the day is kept until the next one is drawn: as if that were so.
    let state = fs::read_dir(site.path("refloat-state").join("repositories")).expect("its state");
    let state = state.flatten().next().expect("one repository").path();
    fs::remove_file(state.join("writer-key.json")).expect("the key of the day");
    let refused = site.run(&fetch).ends(255);
    assert!(refused.stderr.contains("this host can write, not read"), "{}", refused.stderr);
    let verified = site.run(&["verify", "--read-data"]).ends(0);
    assert!(verified.stdout.contains("this host holds no identity"), "{}", verified.stdout);
    let keys = site.run(&["key", "list", "--json"]).ends(0).json();
    let keys = keys["repositories"][0]["data_keys"].as_array().expect("keys").clone();
    assert!(keys.iter().any(|key| key["purpose"] == "map"), "{keys:#?}");
    assert!(keys.iter().all(|key| key["opens"] == false), "{keys:#?}");
    assert!(!site.path("refloat-state").join("root.json").exists());

    for (name, identity) in [("a", &a), ("b", &b)] {
        let file = site.path(&format!("identity-{name}"));
        secret_file(&site, &file, &format!("{}\n", identity.expose()));
        let encryption = format!("{{ {all}, identity = {{ file = \"{}\" }} }}", file.display());
        let reader = Host::new(&site, name, &encryption);
        for (number, (truth, backup)) in [&first, &second, &third].into_iter().enumerate() {
            if name == "a" || number == 2 {
                assert_eq!(
                    &reader.restored(&format!("clone{number}"), backup, TRUTH),
                    truth,
                    "{name} {number}"
                );
            }
        }
        reader.run(&["verify", "--read-data"]).ends(0);
    }
}

#[test]
fn an_invited_host_goes_on_where_another_began() {
    let site = Site::new(TestCluster::builder());
    site.cluster.pgbench_init(1);
    let first = (change(&site, 1), site.backup());
    let invited = site.run(&["key", "invite", "--json"]).ends(0).json();
    let token = invited["token"].as_str().expect("a token").to_owned();
    let recipient = invited["recipients"][0].as_str().expect("a recipient");
    let writes = format!("{{ recipients = [\"{recipient}\"] }}");
    let file = site.path("token");
    secret_file(&site, &file, &format!("{token}\n"));
    let at = format!("@{}", file.display());

    let writer = Host::new(&site, "writer", &writes);
    let refused = writer.run(&["init"]).ends(2);
    assert!(refused.stderr.contains("refloat key invite"), "{}", refused.stderr);
    let enrolled = writer.run(&["init", "--invite", &at]).ends(0);
    assert!(!enrolled.stdout.contains(&token) && !enrolled.stderr.contains(&token));
    writer.run(&["init", "--invite", &at]).ends(0);
    writer.run(&["init"]).ends(0);
    let other = Host::new(&site, "other", &writes);
    let refused = other.run(&["init", "--invite", &at]).ends(1);
    assert!(refused.stderr.contains("KEY-007"), "{}", refused.stderr);
    let refused = other.run(&["init", "--invite", "refloat-invite-1-nonsense"]).ends(2);
    assert!(!refused.stderr.contains("nonsense"), "{}", refused.stderr);

    let asked = ["backup", "prod", "--type", "incr", "--json"];
    let truth = change(&site, 2);
    let (backup, notes) = full_instead(&writer.run(&asked).ends(0));
    assert!(notes.contains("cannot be read"), "it says why: {notes}");
    let second = (truth, backup);
    let truth = change(&site, 3);
    let json = writer.run(&asked).ends(0).json();
    assert_eq!(json["backups"][0]["parent"], *second.1, "{json:#}");
    let third = (truth, super::site::backup_id(&json).expect("an id"));
    site.archive_all();
    assert_eq!(fs::read_dir(site.repo().join("sources")).expect("sources").count(), 1, "one source");

    let passphrase = passphrase(&site.path("passphrase"));
    let reader = Host::new(&site, "reader", &passphrase);
    for (number, (truth, backup)) in [&first, &second, &third].into_iter().enumerate() {
        assert_eq!(&reader.restored(&format!("clone{number}"), backup, TRUTH), truth, "{number}");
    }
    reader.run(&["verify", "--read-data"]).ends(0);
    let listed = reader.run(&["key", "list"]).ends(0).stdout;
    assert!(listed.contains("by invitation ") && !listed.contains("nobody has used"), "{listed}");
    let told = site.path("refloat-state").join("log/operations.jsonl");
    let told = fs::read_to_string(told).expect("the log");
    assert!(told.contains("key invite") && !told.contains(&token), "{told}");
}

#[test]
fn encryption_is_turned_on_later() {
    let site = Site::encrypted(TestCluster::builder(), "\"none\"");
    site.cluster.pgbench_init(1);
    let first = (change(&site, 1), site.backup());
    let text = fs::read_to_string(&site.config).expect("the configuration");
    let file = site.path("passphrase");
    secret_file(
        &site,
        &site.config,
        &text.replace("encryption = \"none\"", &format!("encryption = {}", passphrase(&file))),
    );
    let check = site.run(&["check"]).ends(3);
    assert!(
        check.stdout.contains("says that the repository is encrypted, and it is not"),
        "{}",
        check.stdout
    );
    let turned = site.run(&["key", "rotate", "--key-kept"]).ends(0);
    assert!(turned.stdout.contains("Encryption is on from now"), "{}", turned.stdout);

    let truth = change(&site, 2);
    let (backup, notes) = full_instead(&site.run(&["backup", "prod", "--type", "incr", "--json"]).ends(0));
    assert!(notes.contains("it was stored before encryption was turned on"), "{notes}");
    let second = (truth, backup);
    let third = (change(&site, 3), incremental(&site));
    site.archive_all();
    let check = site.run(&["check"]).ends(0);
    assert!(
        check.stdout.contains("1 older backup in local, and the WAL before, is not encrypted until"),
        "{}",
        check.stdout
    );
    let status = site.run(&["status", "--exit-code"]).ends(0);
    assert!(status.stdout.contains("1 older backup in local"), "{}", status.stdout);

    let reader = Host::new(&site, "reader", &passphrase(&file));
    for (number, (truth, backup)) in [&first, &second, &third].into_iter().enumerate() {
        assert_eq!(&reader.restored(&format!("clone{number}"), backup, TRUTH), truth, "{number}");
    }
    reader.run(&["verify", "--read-data"]).ends(0);
    let plain = Host::new(&site, "plain", "\"none\"");
    let refused = plain.run(&["list", "prod"]);
    assert!(refused.stderr.contains("KEY-003"), "{}", refused.stderr);
}

#[test]
fn killed_anywhere_the_key_is_the_old_one_or_the_new() {
    let site = Site::new(TestCluster::builder());
    site.cluster.pgbench_init(1);
    let first = (change(&site, 1), site.backup());
    let kill = |arguments: &[&str], point: &str| {
        let mut command = site.command(arguments);
        let killed = run(command.env("REFLOAT_FAILPOINTS", format!("{point}=kill")));
        assert_eq!(killed.code, None, "{point}: killed by a signal: {}", killed.stderr);
    };
    let opens = |name: &str, file: &Path| {
        let host = Host::new(&site, name, &passphrase(file));
        host.run(&["list", "prod"]).code == Some(0)
    };
    let (old, new, newest) = (site.path("passphrase"), site.path("passphrase-2"), site.path("passphrase-3"));
    let (new_text, newest_text) = (new.display().to_string(), newest.display().to_string());
    let (sheet, newest_sheet) = (site.path("sheet"), site.path("sheet-3"));
    let (sheet_text, newest_sheet) = (sheet.display().to_string(), newest_sheet.display().to_string());
    let rotate = ["key", "rotate", "--new-passphrase-file", &new_text, "--sheet", &sheet_text];
    kill(&rotate, "rotate.before_generation");
    assert!(opens("a", &old) && !opens("b", &new), "nothing has changed but a file");
    assert_eq!(fs::read_to_string(&sheet).expect("made first"), "");
    site.run(&rotate).ends(0);
    assert!(!opens("c", &old) && opens("d", &new));
    let drawn = fs::read_to_string(&new).expect("drawn");
    assert!(fs::read_to_string(&sheet).expect("the sheet").contains(drawn.trim()));
    site.run(&["key", "rotate", "--key-kept", "--new-passphrase-file", &new_text]).ends(2);

    let rotate = ["key", "rotate", "--new-passphrase-file", &newest_text, "--sheet", &newest_sheet];
    kill(&rotate, "rotate.after_generation");
    assert!(!opens("e", &new) && opens("f", &newest));
    // The host itself writes on, and follows by init.
    let second = (change(&site, 2), incremental(&site));
    let behind = site.run(&["check"]).ends(3);
    assert!(behind.stdout.contains("this host writes on, and cannot read"), "{}", behind.stdout);
    let text = fs::read_to_string(&site.config).expect("the configuration");
    let text = text.replace(&passphrase(&old), &passphrase(&newest));
    secret_file(&site, &site.config, &text);
    site.run(&["init", "--key-kept"]).ends(0);
    let check = site.run(&["check"]).ends(0);
    assert!(!check.stdout.contains("cannot read"), "{}", check.stdout);

    for point in ["rewrap.before_envelope", "rewrap.after_envelope", "rewrap.before_delete"] {
        kill(&["key", "rewrap", "--delete-old"], point);
        site.run(&["verify"]).ends(0);
    }
    site.run(&["key", "rewrap", "--delete-old"]).ends(0);
    let third = (change(&site, 3), incremental(&site));
    let reader = Host::new(&site, "reader", &passphrase(&newest));
    for (number, (truth, backup)) in [&first, &second, &third].into_iter().enumerate() {
        assert_eq!(&reader.restored(&format!("clone{number}"), backup, TRUTH), truth, "{number}");
    }
}
