//! The full text of every fault of a configuration.

use insta::assert_snapshot;
use refloat_config::ConfigError;

use crate::{BASE, parse, printed, wrong, wrong_in_repository, wrong_in_source};

#[test]
fn text_that_is_not_toml() {
    assert_snapshot!(wrong("[source.prod\nkind = postgres\n\nok = 1\nlast ="), @r"
    error[CFG-003]: /etc/refloat/refloat.toml:1:13: this is not TOML: unclosed table, expected `]`
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    ");
}

#[test]
fn a_key_set_twice_in_one_file_names_both_lines() {
    let text = "[source.prod]\nkind = \"postgres\"\n[repository.prod]\nurl = \"file:///a\"\n[source.x]\nkind = \"postgres\"\nkind = \"dump\"\n";
    assert_snapshot!(wrong(text), @r#"
    error[CFG-004]: /etc/refloat/refloat.toml:7:1: "kind" is set twice: here and at line 6
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Keep one of the two lines; none of them wins over the other.
      exit:   2
    "#);
}

/// A file that is no configuration at all is answered soon, and not with thousands of lines.
#[test]
fn of_very_many_faults_the_first_are_told() {
    let text: String = (0..2000).map(|number| format!("jobs = {number}\n")).collect();
    let error = parse(&text).expect_err("set again and again");
    assert_eq!(error.problems().len(), 20);
    assert_eq!(error.problems()[0].place.line(), 2);
}

#[test]
fn a_table_set_twice_in_one_file_names_both_lines() {
    assert_snapshot!(wrong("[source.prod]\njobs = 1\n[repository.prod]\nurl = \"\"\n[source.\"prod\"]\njobs = 2\n"), @r#"
    error[CFG-004]: /etc/refloat/refloat.toml:5:9: "prod" is set twice: here and at line 1 (and 1 more error, listed below)
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Keep one of the two lines; none of them wins over the other.
      hint:   also CFG-004: /etc/refloat/refloat.toml:6:1: "jobs" is set twice: here and at line 2 (Keep one of the two lines; none of them wins over the other.)
      exit:   2
    "#);
}

#[test]
fn unknown_settings_are_answered_with_the_one_that_is_meant() {
    assert_snapshot!(wrong_in_source("repositores = [\"offsite\"]"), @r#"
    error[CFG-005]: /etc/refloat/refloat.toml:9:1: unknown setting "repositores" in [source.prod]
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Did you mean "repositories"?
      exit:   2
    "#);
    assert_snapshot!(wrong_in_source("max-read-rate = \"1GB\""), @r#"
    error[CFG-005]: /etc/refloat/refloat.toml:9:1: unknown setting "max-read-rate" in [source.prod]
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Did you mean "max_read_rate"?
      exit:   2
    "#);
    assert_snapshot!(wrong_in_source("compression = \"lz4\""), @r#"
    error[CFG-005]: /etc/refloat/refloat.toml:9:1: unknown setting "compression" in [source.prod]
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   "compression" belongs in [repository.NAME].
      exit:   2
    "#);
    assert_snapshot!(wrong_in_source("stanza = \"main\""), @r#"
    error[CFG-005]: /etc/refloat/refloat.toml:9:1: unknown setting "stanza" in [source.prod]
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   `refloat config schema` lists every setting.
      exit:   2
    "#);
    assert_snapshot!(wrong("[sources.prod]\nkind = \"postgres\""), @r#"
    error[CFG-005]: /etc/refloat/refloat.toml:1:2: unknown setting "sources" in the configuration
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Did you mean "source"?
      exit:   2
    "#);
}

#[test]
fn several_faults_are_reported_at_once_in_the_order_of_the_file() {
    let text = r#"
[repository.offsite]
url = "file://backup"
compression = "zstd:20"

[source.prod]
kind = "postgres"
data_directory = "main"
jobs = "four"
checkpont = "fast"
"#;
    assert_snapshot!(wrong(text), @r#"
    error[CFG-008]: /etc/refloat/refloat.toml:2:13: [repository.offsite] lacks "encryption" (and 5 more errors, listed below)
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Write encryption = { passphrase = { file = "/etc/refloat/passphrase" } }; an unencrypted repository is asked for with "none".
      hint:   also CFG-007: /etc/refloat/refloat.toml:3:7: repository.offsite.url: "file://" is followed by an absolute path, so by a third slash (Write the absolute path of a directory: url = "file:///backup/db1".)
      hint:   also CFG-007: /etc/refloat/refloat.toml:4:15: repository.offsite.compression: "zstd:20" is not "zstd:N" with N from -7 to 19, "lz4" or "none"
      hint:   also CFG-007: /etc/refloat/refloat.toml:8:18: source.prod.data_directory: "main" is not an absolute path
      hint:   also CFG-006: /etc/refloat/refloat.toml:9:8: source.prod.jobs takes a whole number, not a string
      hint:   also CFG-005: /etc/refloat/refloat.toml:10:1: unknown setting "checkpont" in [source.prod] (Did you mean "checkpoint"?)
      exit:   2
    "#);
}

#[test]
fn wrong_types() {
    assert_snapshot!(wrong_in_source("jobs = \"4\""), @r"
    error[CFG-006]: /etc/refloat/refloat.toml:9:8: source.prod.jobs takes a whole number, not a string
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    ");
    assert_snapshot!(wrong_in_source("repositories = \"offsite\""), @r#"
    error[CFG-006]: /etc/refloat/refloat.toml:9:16: source.prod.repositories takes a list of repository names such as ["offsite"], not a string
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    "#);
    assert_snapshot!(wrong_in_source("wal_push_timeout = 60"), @r#"
    error[CFG-006]: /etc/refloat/refloat.toml:9:20: source.prod.wal_push_timeout takes a length of time such as "60s", not an integer
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    "#);
    assert_snapshot!(wrong_in_source("jobs = 1.5"), @r"
    error[CFG-006]: /etc/refloat/refloat.toml:9:8: source.prod.jobs takes a whole number, not a fraction
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    ");
    assert_snapshot!(wrong("source = \"prod\""), @r"
    error[CFG-006]: /etc/refloat/refloat.toml:1:10: source takes a table, not a string
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    ");
    assert_snapshot!(wrong("[source]\nprod = 1"), @r"
    error[CFG-007]: /etc/refloat/refloat.toml:2:1: source.prod: a source has a name: [source.NAME]
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Write [source.NAME] above prod = ….
      exit:   2
    ");
}

#[test]
fn bad_values_of_a_source() {
    for (line, message) in [
        ("jobs = 0", "source.prod.jobs: 0 is not between 1 and 64"),
        ("jobs = 9223372036854775807", "source.prod.jobs: 9223372036854775807 is not between 1 and 64"),
        ("repositories = []", "source.prod.repositories: the list is empty: nothing would be kept anywhere"),
        (
            "repositories = [\"offsite\", \"offsite\"]",
            "source.prod.repositories: \"offsite\" is listed twice",
        ),
        (
            "repositories = [\"Off Site\"]",
            "source.prod.repositories: \"Off Site\" is not a name: a lower-case letter, then letters, digits, \"_\" or \"-\", 63 at most",
        ),
        (
            "max_read_rate = \"fast\"",
            "source.prod.max_read_rate: \"fast\" is not a rate (expected a number with kB, MB or GB, such as \"100MB/s\")",
        ),
        (
            "max_read_rate = \"10kB/s\"",
            "source.prod.max_read_rate: \"10kB/s\" is less than 1 MB a second; a backup would never end",
        ),
        (
            "wal_push_timeout = \"1 fortnight\"",
            "source.prod.wal_push_timeout: \"1 fortnight\" is not a length of time (expected a number with ms, s, min, h, d or w)",
        ),
        ("wal_push_timeout = \"10ms\"", "source.prod.wal_push_timeout: \"10ms\" is not between 1s and 1d"),
        ("checkpoint = \"quick\"", "source.prod.checkpoint: \"quick\" is not one of \"fast\", \"spread\""),
        (
            "backup_wal = \"inclde\"",
            "source.prod.backup_wal: \"inclde\" is not one of \"auto\", \"include\", \"archive\"",
        ),
        (
            "user = \"root\"",
            "source.prod.user: Refloat does not work as root; name the owner of the data directory, usually postgres",
        ),
        ("user = \"a b\"", "source.prod.user: \"a b\" is not the name of a user"),
        (
            "schedule = { full = \"0 2 * *\" }",
            "source.prod.schedule.full: \"0 2 * *\" has 4 fields, cron has five (minute hour day month weekday)",
        ),
        (
            "schedule = { full = \"0 24 * * *\" }",
            "source.prod.schedule.full: \"24\" is no hour (expected 0 to 23, *, a-b, */n or a list of these)",
        ),
        (
            "schedule = { zone = \"Europe/Berln\" }",
            "source.prod.schedule.zone: \"Europe/Berln\" is not a time zone this host knows",
        ),
        (
            "schedule = { zone = \"../passwd\" }",
            "source.prod.schedule.zone: \"../passwd\" is not a time zone this host knows",
        ),
        (
            "retention = { full = 0 }",
            "source.prod.retention.full: 0 is not a number of backups to keep (1 or more)",
        ),
        (
            "retention = { full = \"4\" }",
            "source.prod.retention.full: \"4\" has no unit; 4 without quotes counts, \"4d\" is an age",
        ),
        ("retention = { wal = \"0d\" }", "source.prod.retention.wal: \"0d\" keeps nothing"),
        ("retention = {}", "source.prod.retention: the policy keeps nothing"),
        ("retention = { offsite = {} }", "source.prod.retention.offsite: the policy keeps nothing"),
        ("connection = \"host=db1 port=0\"", "source.prod.connection: \"0\" is not a port"),
        (
            "connection = \"host=db1 pasword\"",
            "source.prod.connection: \"pasword\" is not followed by \"=\" (expected host=… port=… user=… dbname=…)",
        ),
        ("connection = \"host='db1\"", "source.prod.connection: the quote after \"host=\" is not closed"),
        ("connection = \"host=a host=b\"", "source.prod.connection: \"host\" is given twice"),
        (
            "connection = \"usr=postgres\"",
            "source.prod.connection: \"usr\" is not one of host, port, user, dbname",
        ),
        (
            "connection = \"postgres://u:hunter2@db1\"",
            "source.prod.connection: an address with \"://\" is not understood here",
        ),
    ] {
        let error = parse(&format!("{BASE}{line}\n")).expect_err(line);
        let [problem] = error.problems() else { panic!("{line}: {error}") };
        let text = problem.to_string();
        let at = text.split_once(' ').map(|(_, text)| text);
        assert_eq!(at, Some(message), "{line}");
        assert_eq!(problem.place.line(), 9, "{line}");
        assert_eq!(refloat_types::Explain::advice(&error).exit_code(), 2, "{line}");
    }
}

#[test]
fn bad_data_directories() {
    let with =
        |directory: &str| wrong(&BASE.replace("\"/var/lib/postgresql/15/main\"", &format!("{directory:?}")));
    assert_snapshot!(with("15/main"), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:8:18: source.prod.data_directory: "15/main" is not an absolute path
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    "#);
    assert_snapshot!(with("/var/lib/../lib/postgresql"), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:8:18: source.prod.data_directory: "/var/lib/../lib/postgresql" has "." or ".." in it; write the path it stands for
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    "#);
    assert_snapshot!(with(""), @r"
    error[CFG-007]: /etc/refloat/refloat.toml:8:18: source.prod.data_directory: the path is empty
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    ");
    assert_snapshot!(wrong(&BASE.replace("data_directory", "#")), @r#"
    error[CFG-008]: /etc/refloat/refloat.toml:6:9: [source.prod] lacks "data_directory"
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Write data_directory = "/var/lib/postgresql/15/main" (as `SHOW data_directory` prints it).
      exit:   2
    "#);
}

#[test]
fn a_password_in_the_connection_is_refused_and_not_repeated() {
    assert_snapshot!(wrong_in_source("connection = \"host=db1 password=hunter2\""), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:9:14: source.prod.connection: "password" cannot be given here: a password has no place in this file
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Let the server trust this user by its socket: `local all postgres peer` in pg_hba.conf.
      exit:   2
    "#);
}

#[test]
fn what_is_not_built_is_said_with_what_is() {
    assert_snapshot!(wrong_in_source("wal = \"receive\""), @r#"
    error[CFG-011]: /etc/refloat/refloat.toml:9:7: source.prod.wal = "receive" is not built yet
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   This version can do wal = "push".
      exit:   2
    "#);
    assert_snapshot!(wrong(&BASE.replace("\"postgres\"", "\"files\"\npath = \"/srv/uploads\"")), @r#"
    error[CFG-011]: /etc/refloat/refloat.toml:7:8: source.prod.kind = "files" is not built yet
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   This version can do kind = "postgres".
      exit:   2
    "#);
    assert_snapshot!(wrong(&format!("{BASE}[defaults.redis]\nretention = {{ full = 3 }}\n")), @r"
    error[CFG-011]: /etc/refloat/refloat.toml:9:11: [defaults.redis] is not built yet
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   This version backs up PostgreSQL clusters: [defaults.postgres].
      exit:   2
    ");
}

#[test]
fn bad_stores() {
    let wrong = |lines: &str| {
        let text = wrong_in_repository(&format!("{lines}\nencryption = \"none\""));
        assert!(!text.contains("hunter2"), "{text}");
        let lines = text.lines().filter(|line| line.contains("error[") || line.contains("hint:"));
        lines.map(|line| line.trim().replace("/etc/refloat/refloat.toml:", "")).collect::<Vec<_>>().join("\n")
    };
    assert_snapshot!(wrong("url = \"s3://key:hunter2@acme/db1\"\nregion = \"eu-central-1\""), @r#"
    error[CFG-007]: 2:7: repository.offsite.url: credentials cannot stand in a URL; they belong in credentials = { … }
    hint:   Write it like this: url = "s3://bucket/db1".
    "#);
    assert_snapshot!(wrong("url = \"s3://acme/db1\""), @r#"
    error[CFG-007]: 2:7: repository.offsite.region: the region of the bucket has to be said where no endpoint is
    hint:   Write region = "eu-central-1".
    "#);
    assert_snapshot!(wrong("url = \"azblob://acme/db1\""), @r#"
    error[CFG-007]: 2:7: repository.offsite.credentials: the storage account has to be said: by credentials or by an endpoint
    hint:   Write { account_name = "…", account_key = { file = … } } or { account_name = "…", sas_token = { file = … } }.
    "#);
    assert_snapshot!(wrong("url = \"s3://acme\"\nendpoint = \"minio:9000\""), @r#"
    error[CFG-007]: 3:12: repository.offsite.endpoint: an address begins with https:// (or http://, without encryption on the way)
    "#);
    assert_snapshot!(wrong("url = \"s3://acme\"\nendpoint = \"https://a:hunter2@minio\""), @r#"
    error[CFG-007]: 3:12: repository.offsite.endpoint: credentials cannot stand in an address; they belong in credentials = { … }
    "#);
    assert_snapshot!(wrong("url = \"gs://acme\"\nregion = \"eu\"\nsse = \"AES256\""), @r#"
    error[CFG-007]: 3:10: repository.offsite.region: Google Cloud Storage (gs://) has no such thing (and 1 more error, listed below)
    hint:   Remove this line.
    hint:   also CFG-007: 4:7: repository.offsite.sse: Google Cloud Storage (gs://) has no such thing (Remove this line.)
    "#);
    let s3 = "url = \"s3://acme\"\nregion = \"eu\"\n";
    assert_snapshot!(wrong(&format!("{s3}credentials = {{ access_key_id = \"AKIA\", secret_access_key = \"hunter2\" }}")), @r#"
    error[CFG-013]: 4:61: repository.offsite.credentials.secret_access_key is a secret; it cannot stand in the configuration itself
    hint:   Move it into a file that only Refloat reads (0600) and write secret_access_key = { file = "/etc/refloat/secret_access_key" }.
    hint:   { env = "NAME" }, { command = ["/path", "argument"] } and { credential = "NAME" } (systemd) work too.
    "#);
    for half in [
        "access_key_id = \"AKIA\"",
        "secret_access_key = { file = \"/s\" }",
        "access_key_id = \"AKIA\", secret_access_key = { file = \"/s\" }, from = { file = \"/k\" }",
        "from = { file = \"/k\" }, role = \"arn:x\", token_file = \"/t\"",
    ] {
        let text = wrong(&format!("{s3}credentials = {{ {half} }}"));
        assert!(
            text.contains(
                "4:15: repository.offsite.credentials: these are not whole, or are several at once"
            ),
            "{text}"
        );
    }
    assert_snapshot!(wrong(&format!("{s3}credentials = {{ role = \"arn:x\" }}")), @r#"
    error[CFG-007]: 4:15: repository.offsite.credentials: "role" and "token_file" belong together
    hint:   Write { access_key_id = "…", secret_access_key = { file = … } }, { from = { file = … } } or { role = "…", token_file = "…" }; leave it out for the machine's role.
    "#);
    assert_snapshot!(wrong(&format!("{s3}credentials = {{ account_name = \"acme\" }}")), @r#"
    error[CFG-007]: 4:15: repository.offsite.credentials: S3 has no "account_name"
    hint:   Write { access_key_id = "…", secret_access_key = { file = … } }, { from = { file = … } } or { role = "…", token_file = "…" }; leave it out for the machine's role.
    "#);
    assert_snapshot!(wrong(&format!("{s3}metadata = {{ Owner = \"dba\" }}\nmax_connections = 0")), @r#"
    error[CFG-007]: 4:14: repository.offsite.metadata.Owner: a name is of lower-case letters, digits and "_"; "refloatupload" is taken (and 1 more error, listed below)
    hint:   also CFG-007: 5:19: repository.offsite.max_connections: 0 is not between 1 and 256
    "#);
    assert_snapshot!(wrong(&format!("{s3}sse = \"rot13\"\nstyle = \"host\"")), @r#"
    error[CFG-007]: 4:7: repository.offsite.sse: it takes "AES256" or { kms = "KEY" } (and 1 more error, listed below)
    hint:   also CFG-007: 5:9: repository.offsite.style: "host" is not one of "path", "virtual"
    "#);
}

#[test]
fn bad_repositories() {
    assert_snapshot!(wrong_in_repository("encryption = \"none\""), @r#"
    error[CFG-008]: /etc/refloat/refloat.toml:1:13: [repository.offsite] lacks "url"
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Write url = "file:///backup/db1".
      exit:   2
    "#);
    assert_snapshot!(wrong_in_repository("url = \"file:///backup/db1\""), @r#"
    error[CFG-008]: /etc/refloat/refloat.toml:1:13: [repository.offsite] lacks "encryption"
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Write encryption = { passphrase = { file = "/etc/refloat/passphrase" } }; an unencrypted repository is asked for with "none".
      exit:   2
    "#);
    assert_snapshot!(wrong_in_repository("url = \"/backup/db1\"\nencryption = \"none\""), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:2:7: repository.offsite.url: "/backup/db1" is a path, not a URL; its URL is "file:///backup/db1"
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Write the absolute path of a directory: url = "file:///backup/db1".
      exit:   2
    "#);
    assert_snapshot!(wrong_in_repository("url = \"file:///\"\nencryption = \"none\""), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:2:7: repository.offsite.url: the root directory cannot be a repository
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Write the absolute path of a directory: url = "file:///backup/db1".
      exit:   2
    "#);
    assert_snapshot!(wrong_in_repository("url = \"floppy://a\"\nencryption = \"none\""), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:2:7: repository.offsite.url: "floppy://" is no kind of store
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Write the absolute path of a directory: url = "file:///backup/db1".
      exit:   2
    "#);
    assert_snapshot!(wrong_in_repository("url = \"file:///b\"\nencryption = \"none\"\nregion = \"eu\"\ncredentials = { account_name = \"acme\" }"), @r"
    error[CFG-007]: /etc/refloat/refloat.toml:4:10: repository.offsite.region: a directory (file://) has no such thing (and 1 more error, listed below)
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Remove this line.
      hint:   also CFG-007: /etc/refloat/refloat.toml:5:15: repository.offsite.credentials: a directory (file://) has no such thing (Remove this line.)
      exit:   2
    ");
    assert_snapshot!(wrong("[repository.Offsite]\nurl = \"file:///b\"\nencryption = \"none\""), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:1:13: repository.Offsite: "Offsite" is not a name: a lower-case letter, then letters, digits, "_" or "-", 63 at most
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    "#);
    assert_snapshot!(wrong("[repository.full]\nurl = \"file:///b\"\nencryption = \"none\""), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:1:13: repository.full: "full" is a word of retention, so no repository can have that name
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    "#);
}

#[test]
fn bad_encryption() {
    let with = |value: &str| wrong_in_repository(&format!("url = \"file:///b\"\nencryption = {value}"));
    assert_snapshot!(with("true"), @r#"
    error[CFG-006]: /etc/refloat/refloat.toml:3:14: repository.offsite.encryption takes { passphrase = … }, { recipients = […] } or "none", not true or false
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    "#);
    assert_snapshot!(with("\"turbine lava kettle\""), @r#"
    error[CFG-013]: /etc/refloat/refloat.toml:3:14: repository.offsite.encryption.passphrase is a secret; it cannot stand in the configuration itself
      safe:   nothing was changed; the value is not repeated here
      hint:   Move it into a file that only Refloat reads (0600) and write passphrase = { file = "/etc/refloat/passphrase" }.
      hint:   { env = "NAME" }, { command = ["/path", "argument"] } and { credential = "NAME" } (systemd) work too.
      exit:   2
    "#);
    assert_snapshot!(with("{ passphrase = \"turbine lava kettle\" }"), @r#"
    error[CFG-013]: /etc/refloat/refloat.toml:3:29: repository.offsite.encryption.passphrase is a secret; it cannot stand in the configuration itself
      safe:   nothing was changed; the value is not repeated here
      hint:   Move it into a file that only Refloat reads (0600) and write passphrase = { file = "/etc/refloat/passphrase" }.
      hint:   { env = "NAME" }, { command = ["/path", "argument"] } and { credential = "NAME" } (systemd) work too.
      exit:   2
    "#);
    assert_snapshot!(with("{ passphrase = { file = \"p\" } }"), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:3:38: repository.offsite.encryption.passphrase.file: "p" is not an absolute path
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    "#);
    assert_snapshot!(with("{ passphrase = { file = \"/p\", env = \"P\" } }"), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:3:29: repository.offsite.encryption.passphrase: a secret is exactly one of { file = "/path" }, { env = "NAME" }, { command = ["/path"] } or { credential = "NAME" }
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    "#);
    assert_snapshot!(with("{ passphrase = {} }"), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:3:29: repository.offsite.encryption.passphrase: a secret is exactly one of { file = "/path" }, { env = "NAME" }, { command = ["/path"] } or { credential = "NAME" }
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    "#);
    assert_snapshot!(with("{ passphrase = { env = \"turbine lava\" } }"), @r"
    error[CFG-007]: /etc/refloat/refloat.toml:3:37: repository.offsite.encryption.passphrase.env: this is not the name of a variable
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    ");
    assert_snapshot!(with("{ passphrase = { command = [\"vault\", \"read\"] } }"), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:3:41: repository.offsite.encryption.passphrase.command: "vault" is not an absolute path; a program is named by its absolute path, because nothing depends on PATH
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    "#);
    assert_snapshot!(with("{ passphrase = { credential = \"../x\" } }"), @r"
    error[CFG-007]: /etc/refloat/refloat.toml:3:44: repository.offsite.encryption.passphrase.credential: this is not the name of a credential
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    ");
    assert_snapshot!(with("{ passphrase = { fil = \"/p\" } }"), @r#"
    error[CFG-005]: /etc/refloat/refloat.toml:3:31: unknown setting "fil" in [repository.offsite.encryption.passphrase]
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Did you mean "file"?
      exit:   2
    "#);
    assert_snapshot!(with("{}"), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:3:14: repository.offsite.encryption: neither passphrase nor recipients; an unencrypted repository is asked for with "none"
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Write { passphrase = { file = "/etc/refloat/passphrase" } }, { recipients = ["age1…"], identity = { file = … } } or "none".
      exit:   2
    "#);
    assert_snapshot!(with("{ recipients = [] }"), @r"
    error[CFG-007]: /etc/refloat/refloat.toml:3:29: repository.offsite.encryption.recipients: the list is empty: nobody could open a backup
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    ");
    assert_snapshot!(with("{ recipients = [\"age1short\"] }"), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:3:30: repository.offsite.encryption.recipients: "age1short" is not a public key ("age1" and 58 letters or digits)
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    "#);
    assert_snapshot!(with("{ recipients = [\"AGE-SECRET-KEY-1QQQQ\"] }"), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:3:30: repository.offsite.encryption.recipients: this is a private key; the public key that belongs to it begins with "age1"
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    "#);
    assert_snapshot!(with("{ identity = { file = \"/i\" } }"), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:3:14: repository.offsite.encryption: an identity without recipients; nothing would be sealed to it
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Write { passphrase = { file = "/etc/refloat/passphrase" } }, { recipients = ["age1…"], identity = { file = … } } or "none".
      exit:   2
    "#);
}

#[test]
fn names_that_are_defined_nowhere() {
    assert_snapshot!(wrong_in_source("repositories = [\"ofsite\"]"), @r#"
    error[CFG-009]: /etc/refloat/refloat.toml:9:17: repository "ofsite" is not defined
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Did you mean "offsite"?
      exit:   2
    "#);
    assert_snapshot!(wrong_in_source("repositories = [\"cold\"]"), @r#"
    error[CFG-009]: /etc/refloat/refloat.toml:9:17: repository "cold" is not defined
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   There is "offsite"; define it with [repository.cold].
      exit:   2
    "#);
    assert_snapshot!(wrong_in_source("like = \"tier1\""), @r#"
    error[CFG-009]: /etc/refloat/refloat.toml:9:8: template "tier1" is not defined
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   There is no [template.NAME] at all.
      exit:   2
    "#);
    assert_snapshot!(wrong_in_source("like = \"tier1\"\n[template.tier2]\njobs = 2"), @r#"
    error[CFG-009]: /etc/refloat/refloat.toml:9:8: template "tier1" is not defined
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Did you mean "tier2"?
      exit:   2
    "#);
    assert_snapshot!(wrong_in_source("[source.prod.retention.cold]\nfull = 3"), @r#"
    error[CFG-009]: /etc/refloat/refloat.toml:9:1: repository "cold" is not defined
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   There is "offsite"; define it with [repository.cold].
      exit:   2
    "#);
    let second = "[repository.cold]\nurl = \"file:///cold\"\nencryption = \"none\"\n";
    assert_snapshot!(wrong_in_source(second), @r#"
    error[CFG-008]: /etc/refloat/refloat.toml:6:9: [source.prod] lacks "repositories"
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Several are defined; name one or more: repositories = ["cold", "offsite"].
      exit:   2
    "#);
    assert_snapshot!(
        wrong_in_source(&format!("repositories = [\"offsite\"]\n[source.prod.retention.cold]\nfull = 3\n{second}")), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:10:1: source.prod.retention.cold: [source.prod] keeps nothing in repository "cold"
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Add "cold" to its repositories, or remove this table.
      exit:   2
    "#);
}

#[test]
fn templates_and_defaults_take_no_template_themselves() {
    assert_snapshot!(wrong_in_source("like = \"a\"\n[template.a]\nlike = \"b\"\n[template.b]\njobs = 2"), @r#"
    error[CFG-005]: /etc/refloat/refloat.toml:11:1: unknown setting "like" in [template.a]
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   "like" belongs in [source.NAME].
      exit:   2
    "#);
    assert_snapshot!(wrong_in_source("[defaults.postgres]\nlike = \"a\"\n[template.a]\njobs = 2"), @r#"
    error[CFG-005]: /etc/refloat/refloat.toml:10:1: unknown setting "like" in [defaults.postgres]
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   "like" belongs in [source.NAME].
      exit:   2
    "#);
    assert_snapshot!(wrong_in_source("[template]\njobs = 2"), @r"
    error[CFG-007]: /etc/refloat/refloat.toml:10:1: template.jobs: a template has a name: [template.NAME]
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Write [template.NAME] above jobs = ….
      exit:   2
    ");
    assert_snapshot!(wrong_in_source("like = [\"a\", \"b\"]"), @r"
    error[CFG-006]: /etc/refloat/refloat.toml:9:8: source.prod.like takes a string, not a list
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    ");
}

#[test]
fn sources_that_lack_something_or_collide() {
    assert_snapshot!(wrong(&BASE.replace("kind", "#")), @r#"
    error[CFG-008]: /etc/refloat/refloat.toml:6:9: [source.prod] lacks "kind"
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Write kind = "postgres".
      exit:   2
    "#);
    assert_snapshot!(wrong("[source.prod]\nkind = \"postgres\"\ndata_directory = \"/d\""), @r#"
    error[CFG-008]: /etc/refloat/refloat.toml:1:9: [source.prod] lacks "repositories"
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   There is none yet; write [repository.NAME] with url and encryption.
      exit:   2
    "#);
    assert_snapshot!(wrong(&format!("{BASE}[source.other]\nkind = \"postgres\"\ndata_directory = \"/var/lib/postgresql/15/main/\"\n")), @r#"
    error[CFG-014]: /etc/refloat/refloat.toml:11:18: source "prod" already has this data directory (/etc/refloat/refloat.toml:8)
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   One data directory is one source; remove one of the two.
      exit:   2
    "#);
    assert_snapshot!(wrong(&BASE.replace("source.prod", "source.9prod")), @r#"
    error[CFG-007]: /etc/refloat/refloat.toml:6:9: source.9prod: "9prod" is not a name: a lower-case letter, then letters, digits, "_" or "-", 63 at most
      safe:   nothing was changed; the configuration is checked before anything else is done
      exit:   2
    "#);
}

#[test]
fn a_fault_in_a_template_is_reported_once_whoever_uses_it() {
    let text = format!(
        "{BASE}like = \"t\"\n[source.b]\nkind = \"postgres\"\nlike = \"t\"\ndata_directory = \"/b\"\n[template.t]\njobs = 0\n"
    );
    let error = parse(&text).expect_err("the template is wrong");
    assert_eq!(error.problems().len(), 1, "{error}");
}

#[test]
fn no_source_for_a_data_directory() {
    let config = parse(BASE).expect("it is right");
    let error: ConfigError = config.source_for_data_directory("/srv/pg".as_ref()).expect_err("there is none");
    assert_snapshot!(printed(&error), @r#"
    error[CFG-012]: no source in /etc/refloat/refloat.toml has the data directory /srv/pg
      safe:   nothing was changed; the configuration is checked before anything else is done
      hint:   Add [source.NAME] with kind = "postgres" and data_directory = "/srv/pg".
      hint:   Source "prod" has /var/lib/postgresql/15/main; name it with --source prod.
      exit:   2
    "#);
}
