//! Files: which is loaded, `conf.d`, rights.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use insta::assert_snapshot;
use refloat_config::{Config, ConfigError, file_to_load};
use tempfile::TempDir;

use crate::{BASE, printed};

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { directory: TempDir::new().expect("a temporary directory") };
        place.write("refloat.toml", BASE);
        place
    }
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("it can be made");
        fs::write(&path, text).expect("it can be written");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("it is ours");
        path
    }
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.path("refloat.toml"))
    }
    /// The printed error, with the directory's name replaced.
    fn printed(&self, error: &ConfigError) -> String {
        printed(error).replace(&self.directory.path().display().to_string(), "/DIR")
    }
}

#[test]
fn the_flag_wins_over_the_environment_over_etc() {
    let (flag, environment) = (Path::new("/a"), Path::new("/b"));
    assert_eq!(file_to_load(Some(flag), Some(environment)), flag);
    assert_eq!(file_to_load(None, Some(environment)), environment);
    assert_eq!(file_to_load(None, Some(Path::new(""))), Path::new("/etc/refloat/refloat.toml"));
    assert_eq!(file_to_load(None, None), Path::new("/etc/refloat/refloat.toml"));
}

#[test]
fn conf_d_adds_sources_by_name_and_leaves_other_files_out() {
    let place = Place::new();
    place.write("conf.d/20-b.toml", "[source.b]\nkind = \"postgres\"\ndata_directory = \"/b\"\n");
    place
        .write("conf.d/10-a.toml", "[source.prod]\njobs = 3\n[defaults.postgres]\ncheckpoint = \"spread\"\n");
    place.write("conf.d/.#10-a.toml", "an editor's lock");
    place.write("conf.d/README", "not read");
    let config = place.load().expect("it is right");
    let names: Vec<_> =
        config.files.iter().map(|file| file.strip_prefix(place.directory.path()).expect("in it")).collect();
    assert_eq!(names, ["refloat.toml", "conf.d/10-a.toml", "conf.d/20-b.toml"].map(Path::new));
    assert_eq!(config.sources.len(), 2);
    let origin = config.origin("source.prod.jobs").expect("it is set").to_string();
    assert!(origin.ends_with("conf.d/10-a.toml:2"), "{origin}");
}

#[test]
fn a_key_set_in_two_files_names_both_lines() {
    let place = Place::new();
    place.write("conf.d/10-a.toml", "# more\n[source.prod]\ndata_directory = \"/elsewhere\"\n");
    place.write("conf.d/20-b.toml", "[repository]\noffsite = { url = \"file:///x\" }\n");
    assert_snapshot!(place.printed(&place.load().expect_err("set twice")), @r#"
    error[CFG-004]: /DIR/conf.d/10-a.toml:3:1: "data_directory" is set twice: here and at /DIR/refloat.toml:8 (and 1 more error, listed below)
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Keep one of the two lines; none of them wins over the other.
      hint:   also CFG-004: /DIR/conf.d/20-b.toml:2:1: "offsite" is set twice: here and at /DIR/refloat.toml:2 (Keep one of the two lines; none of them wins over the other.)
      exit:   2
    "#);
}

#[test]
fn layers_may_stand_in_different_files() {
    let place = Place::new();
    place.write(
        "conf.d/10-defaults.toml",
        "[defaults.postgres]\njobs = 2\ncheckpoint = \"spread\"\nretention = { full = \"4w\", wal = \"7d\" }\n",
    );
    place.write("conf.d/20-tiers.toml", "[template.tier1]\njobs = 8\nwal_push_timeout = \"2 min\"\n");
    place.write(
        "conf.d/30-prod.toml",
        "[source.prod]\nlike = \"tier1\"\njobs = 16\n[source.prod.retention.offsite]\nyearly = 10\n",
    );
    let config = place.load().expect("it is right");
    let shown = config.show(true).replace(&place.directory.path().display().to_string(), "/DIR");
    let (_, prod) = shown.split_once("[source.prod]\n").expect("it is shown");
    let tidy: Vec<String> =
        prod.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_snapshot!(tidy.join("\n"), @r#"
    acknowledge = 1 # built in
    backup_wal = "auto" # built in
    checkpoint = "spread" # /DIR/conf.d/10-defaults.toml:3 [defaults.postgres]
    data_directory = "/var/lib/postgresql/15/main" # /DIR/refloat.toml:8
    jobs = 16 # /DIR/conf.d/30-prod.toml:3
    kind = "postgres" # /DIR/refloat.toml:7
    like = "tier1" # /DIR/conf.d/30-prod.toml:2
    repositories = ["offsite"] # built in
    run_on = "primary" # built in
    wal = "push" # built in
    wal_fetch_ahead = "128 MB" # built in
    wal_fetch_timeout = "60s" # built in
    wal_push_timeout = "2 min" # /DIR/conf.d/20-tiers.toml:3 [template.tier1]

    [source.prod.retention]
    full = "4w" # /DIR/conf.d/10-defaults.toml:4 [defaults.postgres]
    wal = "7d" # /DIR/conf.d/10-defaults.toml:4 [defaults.postgres]

    [source.prod.retention.offsite]
    yearly = 10 # /DIR/conf.d/30-prod.toml:4
    "#);
}

#[test]
fn a_table_closed_in_one_file_cannot_be_continued_in_another() {
    let place = Place::new();
    place.write("refloat.toml", format!("{BASE}retention = {{ full = 3 }}\n"));
    place.write("conf.d/30-prod.toml", "[source.prod.retention.offsite]\nyearly = 10\n");
    assert_snapshot!(place.printed(&place.load().expect_err("set twice")), @r#"
    error[CFG-004]: /DIR/conf.d/30-prod.toml:1:14: "retention" is set twice: here and at /DIR/refloat.toml:9
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Keep one of the two lines; none of them wins over the other.
      exit:   2
    "#);
    place.write("refloat.toml", format!("{BASE}[source.prod.retention]\nfull = 3\n"));
    let config = place.load().expect("a table with a header can be");
    let prod = config.sources.values().next().expect("there is one");
    let offsite = "offsite".parse().expect("a name");
    assert_eq!(
        prod.retention_in(&offsite).and_then(|policy| policy.yearly.clone()),
        Some(refloat_config::Keep::Count(10))
    );
    assert_eq!(
        prod.retention.as_ref().and_then(|policy| policy.full.clone()),
        Some(refloat_config::Keep::Count(3))
    );
}

#[test]
fn an_absent_file() {
    let place = Place::new();
    let error = Config::load(&place.path("other.toml")).expect_err("it is not there");
    assert_snapshot!(place.printed(&error), @r"
    error[CFG-001]: there is no configuration at /DIR/other.toml
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Name another file with --config FILE, or write one: `refloat config schema` lists every setting.
      hint:   A repository alone is enough to restore: `refloat -r URL restore …` needs no configuration.
      exit:   2
    ");
}

#[test]
fn files_that_cannot_be_read() {
    let place = Place::new();
    let error = Config::load(place.directory.path()).expect_err("a directory");
    assert_snapshot!(place.printed(&error), @r"
    error[CFG-002]: could not read the configuration /DIR
      cause:  it is not a regular file
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Run the command as root or as the owner of the data directory; both have to be able to read it.
      exit:   2
    ");
    place.write("refloat.toml", b"[source.prod]\nkind = \"\xff\"\n");
    assert_snapshot!(place.printed(&place.load().expect_err("no UTF-8")), @r"
    error[CFG-002]: could not read the configuration /DIR/refloat.toml
      cause:  line 2 is not UTF-8
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Run the command as root or as the owner of the data directory; both have to be able to read it.
      exit:   2
    ");
    place.write("refloat.toml", vec![b'\n'; (4 << 20) + 1]);
    assert_snapshot!(place.printed(&place.load().expect_err("too large")), @r"
    error[CFG-002]: could not read the configuration /DIR/refloat.toml
      cause:  it is larger than 4 MiB
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Run the command as root or as the owner of the data directory; both have to be able to read it.
      exit:   2
    ");
    place.write("refloat.toml", BASE);
    fs::write(place.path("conf.d"), "").expect("it can be written");
    assert_snapshot!(place.printed(&place.load().expect_err("conf.d is no directory")), @r"
    error[CFG-002]: could not read the configuration /DIR/conf.d
      cause:  Not a directory (os error 20)
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Run the command as root or as the owner of the data directory; both have to be able to read it.
      exit:   2
    ");
}

/// What is listed in `conf.d` and cannot be read is never taken for something that is not there.
#[test]
fn parts_that_cannot_be_read_are_named() {
    let place = Place::new();
    let part = place.write("conf.d/10-a.toml", "");
    fs::remove_file(&part).expect("it is there");
    std::os::unix::fs::symlink("nowhere", &part).expect("it can be made");
    assert_snapshot!(place.printed(&place.load().expect_err("a link to nowhere")), @r"
    error[CFG-002]: could not read the configuration /DIR/conf.d/10-a.toml
      cause:  No such file or directory (os error 2)
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Run the command as root or as the owner of the data directory; both have to be able to read it.
      exit:   2
    ");
    fs::remove_file(&part).expect("it is there");
    fs::create_dir(&part).expect("it can be made");
    assert_snapshot!(place.printed(&place.load().expect_err("a directory")), @r"
    error[CFG-002]: could not read the configuration /DIR/conf.d/10-a.toml
      cause:  it is not a regular file
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Run the command as root or as the owner of the data directory; both have to be able to read it.
      exit:   2
    ");
    fs::remove_dir(&part).expect("it is there");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &part, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
    assert_snapshot!(place.printed(&place.load().expect_err("a pipe that nobody writes")), @r"
    error[CFG-002]: could not read the configuration /DIR/conf.d/10-a.toml
      cause:  it is not a regular file
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Run the command as root or as the owner of the data directory; both have to be able to read it.
      exit:   2
    ");
}

#[test]
fn a_relative_name_is_taken_from_the_working_directory() {
    let config = Config::load(Path::new("no/such/refloat.toml")).expect_err("it is not there");
    let ConfigError::Absent { file } = config else { panic!("{config}") };
    assert!(file.is_absolute());
}

#[test]
fn a_data_directory_is_known_by_where_its_name_leads_too() {
    let place = Place::new();
    let data = place.path("data");
    fs::create_dir(&data).expect("it can be made");
    std::os::unix::fs::symlink(&data, place.path("main")).expect("it can be made");
    place.write(
        "refloat.toml",
        BASE.replace("/var/lib/postgresql/15/main", &place.path("main").display().to_string()),
    );
    let config = place.load().expect("it is right");
    let source = config.source_for_data_directory(&data).expect("the link leads there");
    assert_eq!(source.name.as_str(), "prod");
    assert!(config.source_for_data_directory(place.directory.path()).is_err());
}

/// As root, who alone can make files of other users. A plain user's run checks that nothing is refused to him.
#[test]
fn root_refuses_a_configuration_that_others_could_change() {
    let place = Place::new();
    let file = place.path("refloat.toml");
    let set =
        |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode)).expect("it is ours");
    set(place.directory.path(), 0o755);
    if !rustix::process::geteuid().is_root() {
        set(&file, 0o666);
        place.load().expect("a plain user obeys his own file");
        return;
    }
    place.load().expect("root's own");
    Config::load_as(&file, false).expect("nobody else asks");

    set(&file, 0o646);
    assert_snapshot!(place.printed(&place.load().expect_err("everybody")), @r"
    error[CFG-010]: /DIR/refloat.toml can be changed by everybody (-rw-r--rw- root root), and root would obey it
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   sudo chown root:root /DIR/refloat.toml && sudo chmod 644 /DIR/refloat.toml
      exit:   2
    ");
    set(&file, 0o664);
    place.load().expect("group root is root");
    chown(&file, None, Some(65_534)).expect("root may");
    assert_snapshot!(place.printed(&place.load().expect_err("a group")), @r#"
    error[CFG-010]: /DIR/refloat.toml can be changed by group "nogroup" (-rw-rw-r-- root nogroup), and root would obey it
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   sudo chown root:root /DIR/refloat.toml && sudo chmod 644 /DIR/refloat.toml
      exit:   2
    "#);
    set(&file, 0o644);
    place.load().expect("the group may only read");
    chown(&file, Some(65_534), None).expect("root may");
    assert_snapshot!(place.printed(&place.load().expect_err("a user")), @r#"
    error[CFG-010]: /DIR/refloat.toml can be changed by user "nobody" (-rw-r--r-- nobody nogroup), and root would obey it
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   sudo chown root:root /DIR/refloat.toml && sudo chmod 644 /DIR/refloat.toml
      exit:   2
    "#);
    chown(&file, Some(0), Some(0)).expect("root may");

    set(place.directory.path(), 0o777);
    assert_snapshot!(place.printed(&place.load().expect_err("the directory")), @r"
    error[CFG-010]: /DIR can be changed by everybody (drwxrwxrwx root root), and root would obey it
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   sudo chown root:root /DIR && sudo chmod 755 /DIR
      exit:   2
    ");
    set(place.directory.path(), 0o1777);
    place.load().expect("sticky: nobody can replace root's file");
    set(place.directory.path(), 0o755);
    let part = place.write("conf.d/a.toml", "");
    place.load().expect("right so far");
    set(&part, 0o666);
    assert_snapshot!(place.printed(&place.load().expect_err("a part")), @r"
    error[CFG-010]: /DIR/conf.d/a.toml can be changed by everybody (-rw-rw-rw- root root), and root would obey it
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   sudo chown root:root /DIR/conf.d/a.toml && sudo chmod 644 /DIR/conf.d/a.toml
      exit:   2
    ");
    set(&part, 0o644);
    chown(&part, Some(65_534), None).expect("root may");
    assert_snapshot!(place.printed(&place.load().expect_err("a part of another user")), @r#"
    error[CFG-010]: /DIR/conf.d/a.toml can be changed by user "nobody" (-rw-r--r-- nobody root), and root would obey it
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   sudo chown root:root /DIR/conf.d/a.toml && sudo chmod 644 /DIR/conf.d/a.toml
      exit:   2
    "#);
    fs::remove_file(&part).expect("it is there");
    set(&place.path("conf.d"), 0o757);
    assert_snapshot!(place.printed(&place.load().expect_err("conf.d, before anything is in it")), @r"
    error[CFG-010]: /DIR/conf.d can be changed by everybody (drwxr-xrwx root root), and root would obey it
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   sudo chown root:root /DIR/conf.d && sudo chmod 755 /DIR/conf.d
      exit:   2
    ");
}

#[test]
fn root_refuses_a_link_into_a_directory_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    let home = place.path("home");
    fs::create_dir(&home).expect("it can be made");
    let real = place.write("home/real.toml", BASE);
    chown(&home, Some(65_534), None).expect("root may");
    fs::remove_file(place.path("refloat.toml")).expect("it is there");
    std::os::unix::fs::symlink(&real, place.path("refloat.toml")).expect("it can be made");
    assert_snapshot!(place.printed(&place.load().expect_err("its directory")), @r#"
    error[CFG-010]: /DIR/home can be changed by user "nobody" (drwxr-xr-x nobody root), and root would obey it
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   sudo chown root:root /DIR/home && sudo chmod 755 /DIR/home
      exit:   2
    "#);
}
