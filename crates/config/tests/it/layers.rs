//! What applies when it is right: layers, defaults, origins, the views.

use std::time::Duration;

use insta::assert_snapshot;
use refloat_config::{Compression, Config, Encryption, Keep, Origin, SecretSource};
use refloat_types::{ByteSize, RepositoryName, SourceName};

use crate::{BASE, parse};

const WHOLE: &str = r#"state = "/srv/state/"

[repository.offsite]
url = "file:///backup/db%201"
encryption = { passphrase = { file = "/etc/refloat/passphrase" } }

[repository.cold]
url = "file:///cold"
encryption = { recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"], identity = { command = ["/usr/bin/vault", "read"] } }
compression = "zstd:-7"
fingerprint = "SUNSET-GUITAR-4401-ELBOW"

[defaults.postgres]
repositories = ["offsite", "cold"]
retention = { full = "4w", diff = "7d", wal = "7d" }
jobs = 2
checkpoint = "spread"
wal_fetch_timeout = "5 min"

[template.tier1]
jobs = 8
max_read_rate = "200MB/s"
retention = { full = 2, offsite = { daily = 7, wal = "2w" } }

[source.prod]
kind = "postgres"
like = "tier1"
data_directory = "/var/lib/postgresql/15/main"
connection = "host='/run/postgresql' port=5433 user=backup"
jobs = 16
schedule = { full = "0 2 * * 0", incr = "0 2 * * MON-FRI,6", zone = "Europe/Berlin" }
[source.prod.retention.cold]
yearly = 10

[source.other]
kind = "postgres"
data_directory = "/var/lib/postgresql/17/main"
user = "postgres"
backup_wal = "include"
"#;

fn whole() -> Config {
    parse(WHOLE).expect("it is right")
}

fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect("a good name")
}

#[test]
fn the_nearest_layer_wins() {
    let config = whole();
    let prod = &config.sources[&name::<SourceName>("prod")];
    assert_eq!(prod.jobs, Some(16), "its own");
    assert_eq!(prod.max_read_rate, Some(ByteSize(200 << 20)), "its template's");
    assert_eq!(prod.checkpoint.as_str(), "spread", "the defaults'");
    assert_eq!(prod.wal_fetch_timeout, Duration::from_secs(300));
    assert_eq!(prod.wal_push_timeout, Duration::from_secs(60), "built in");
    assert_eq!(prod.repositories, [name::<RepositoryName>("offsite"), name("cold")]);
    let other = &config.sources[&name::<SourceName>("other")];
    assert_eq!((other.jobs, other.max_read_rate), (Some(2), None), "no template");
    let connection = prod.connection.as_ref().expect("it is set");
    assert_eq!((connection.host(), connection.port()), (Some("/run/postgresql"), Some(5433)));
    assert_eq!((connection.user(), connection.dbname()), (Some("backup"), None));
}

#[test]
fn policies_are_taken_whole() {
    let config = whole();
    let prod = &config.sources[&name::<SourceName>("prod")];
    let general = prod.retention.as_ref().expect("the template has one");
    assert_eq!(
        (general.full.clone(), general.wal.clone()),
        (Some(Keep::Count(2)), None),
        "nothing of the defaults' is mixed in"
    );
    let cold = prod.retention_in(&name("cold")).expect("its own");
    assert_eq!((cold.yearly.clone(), cold.full.clone()), (Some(Keep::Count(10)), None));
    let offsite = prod.retention_in(&name("offsite")).expect("the template's for this repository");
    assert_eq!(offsite.wal.as_ref().map(ToString::to_string).as_deref(), Some("2w"));
    let other = &config.sources[&name::<SourceName>("other")];
    assert_eq!(other.retention_in(&name("cold")), other.retention.as_ref(), "the general one");
}

#[test]
fn repositories_are_typed() {
    let config = whole();
    let offsite = &config.repositories[&name::<RepositoryName>("offsite")];
    assert_eq!(offsite.url.directory(), Some(std::path::Path::new("/backup/db 1")));
    assert_eq!(offsite.compression, Compression::Zstd(1));
    let Encryption::Passphrase(secret) = &offsite.encryption else { panic!("{:?}", offsite.encryption) };
    assert_eq!(secret.source(), &SecretSource::File("/etc/refloat/passphrase".into()));
    assert_eq!(secret.setting(), "repository.offsite.encryption.passphrase");
    let cold = &config.repositories[&name::<RepositoryName>("cold")];
    assert_eq!(cold.compression, Compression::Zstd(-7));
    assert!(
        matches!(&cold.encryption, Encryption::Recipients { recipients, identity: Some(_) } if recipients.len() == 1)
    );
}

#[test]
fn what_applies_is_shown_with_its_origin() {
    assert_snapshot!(whole().show(true), @r#"
    state = "/srv/state"                                         # /etc/refloat/refloat.toml:1

    [repository.cold]
    compression = "zstd:-7"                                      # /etc/refloat/refloat.toml:10
    encryption = { identity = { command = ["/usr/bin/vault", "read"] }, recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"] }  # /etc/refloat/refloat.toml:9
    fingerprint = "SUNSET-GUITAR-4401-ELBOW"                     # /etc/refloat/refloat.toml:11
    mode = "sync"                                                # built in
    url = "file:///cold"                                         # /etc/refloat/refloat.toml:8

    [repository.offsite]
    compression = "zstd:1"                                       # built in
    encryption = { passphrase = { file = "/etc/refloat/passphrase" } }  # /etc/refloat/refloat.toml:5
    mode = "sync"                                                # built in
    url = "file:///backup/db%201"                                # /etc/refloat/refloat.toml:4

    [source.other]
    acknowledge = 1                                              # built in
    backup_wal = "include"                                       # /etc/refloat/refloat.toml:39
    checkpoint = "spread"                                        # /etc/refloat/refloat.toml:17 [defaults.postgres]
    data_directory = "/var/lib/postgresql/17/main"               # /etc/refloat/refloat.toml:37
    jobs = 2                                                     # /etc/refloat/refloat.toml:16 [defaults.postgres]
    kind = "postgres"                                            # /etc/refloat/refloat.toml:36
    repositories = ["offsite", "cold"]                           # /etc/refloat/refloat.toml:14 [defaults.postgres]
    run_on = "primary"                                           # built in
    user = "postgres"                                            # /etc/refloat/refloat.toml:38
    wal = "push"                                                 # built in
    wal_fetch_ahead = "128 MB"                                   # built in
    wal_fetch_timeout = "5 min"                                  # /etc/refloat/refloat.toml:18 [defaults.postgres]
    wal_push_timeout = "60s"                                     # built in

    [source.other.retention]
    diff = "7d"                                                  # /etc/refloat/refloat.toml:15 [defaults.postgres]
    full = "4w"                                                  # /etc/refloat/refloat.toml:15 [defaults.postgres]
    wal = "7d"                                                   # /etc/refloat/refloat.toml:15 [defaults.postgres]

    [source.prod]
    acknowledge = 1                                              # built in
    backup_wal = "auto"                                          # built in
    checkpoint = "spread"                                        # /etc/refloat/refloat.toml:17 [defaults.postgres]
    connection = "host='/run/postgresql' port=5433 user=backup"  # /etc/refloat/refloat.toml:29
    data_directory = "/var/lib/postgresql/15/main"               # /etc/refloat/refloat.toml:28
    jobs = 16                                                    # /etc/refloat/refloat.toml:30
    kind = "postgres"                                            # /etc/refloat/refloat.toml:26
    like = "tier1"                                               # /etc/refloat/refloat.toml:27
    max_read_rate = "200MB/s"                                    # /etc/refloat/refloat.toml:22 [template.tier1]
    repositories = ["offsite", "cold"]                           # /etc/refloat/refloat.toml:14 [defaults.postgres]
    run_on = "primary"                                           # built in
    schedule = { full = "0 2 * * 0", incr = "0 2 * * MON-FRI,6", zone = "Europe/Berlin" }  # /etc/refloat/refloat.toml:31
    wal = "push"                                                 # built in
    wal_fetch_ahead = "128 MB"                                   # built in
    wal_fetch_timeout = "5 min"                                  # /etc/refloat/refloat.toml:18 [defaults.postgres]
    wal_push_timeout = "60s"                                     # built in

    [source.prod.retention]
    full = 2                                                     # /etc/refloat/refloat.toml:23 [template.tier1]

    [source.prod.retention.cold]
    yearly = 10                                                  # /etc/refloat/refloat.toml:32

    [source.prod.retention.offsite]
    daily = 7                                                    # /etc/refloat/refloat.toml:23 [template.tier1]
    wal = "2w"                                                   # /etc/refloat/refloat.toml:23 [template.tier1]
    "#);
    let config = whole();
    assert_eq!(config.origin("repository.offsite.compression"), Some(&Origin::Default));
    assert_eq!(config.origin("source.prod.jobs").and_then(Origin::place).map(|place| place.line()), Some(30));
    assert_eq!(config.origin("source.other.connection"), None);
}

#[test]
fn the_json_view_has_a_format_and_no_secret() {
    let view = serde_json::to_string_pretty(&whole().view(true)).expect("it is JSON");
    assert_snapshot!(view, @r#"
    {
      "files": [
        "/etc/refloat/refloat.toml"
      ],
      "format": 1,
      "origins": {
        "repository.cold.compression": "/etc/refloat/refloat.toml:10",
        "repository.cold.encryption": "/etc/refloat/refloat.toml:9",
        "repository.cold.fingerprint": "/etc/refloat/refloat.toml:11",
        "repository.cold.mode": "built in",
        "repository.cold.url": "/etc/refloat/refloat.toml:8",
        "repository.offsite.compression": "built in",
        "repository.offsite.encryption": "/etc/refloat/refloat.toml:5",
        "repository.offsite.mode": "built in",
        "repository.offsite.url": "/etc/refloat/refloat.toml:4",
        "source.other.acknowledge": "built in",
        "source.other.backup_wal": "/etc/refloat/refloat.toml:39",
        "source.other.checkpoint": "/etc/refloat/refloat.toml:17 [defaults.postgres]",
        "source.other.data_directory": "/etc/refloat/refloat.toml:37",
        "source.other.jobs": "/etc/refloat/refloat.toml:16 [defaults.postgres]",
        "source.other.kind": "/etc/refloat/refloat.toml:36",
        "source.other.repositories": "/etc/refloat/refloat.toml:14 [defaults.postgres]",
        "source.other.retention.diff": "/etc/refloat/refloat.toml:15 [defaults.postgres]",
        "source.other.retention.full": "/etc/refloat/refloat.toml:15 [defaults.postgres]",
        "source.other.retention.wal": "/etc/refloat/refloat.toml:15 [defaults.postgres]",
        "source.other.run_on": "built in",
        "source.other.user": "/etc/refloat/refloat.toml:38",
        "source.other.wal": "built in",
        "source.other.wal_fetch_ahead": "built in",
        "source.other.wal_fetch_timeout": "/etc/refloat/refloat.toml:18 [defaults.postgres]",
        "source.other.wal_push_timeout": "built in",
        "source.prod.acknowledge": "built in",
        "source.prod.backup_wal": "built in",
        "source.prod.checkpoint": "/etc/refloat/refloat.toml:17 [defaults.postgres]",
        "source.prod.connection": "/etc/refloat/refloat.toml:29",
        "source.prod.data_directory": "/etc/refloat/refloat.toml:28",
        "source.prod.jobs": "/etc/refloat/refloat.toml:30",
        "source.prod.kind": "/etc/refloat/refloat.toml:26",
        "source.prod.like": "/etc/refloat/refloat.toml:27",
        "source.prod.max_read_rate": "/etc/refloat/refloat.toml:22 [template.tier1]",
        "source.prod.repositories": "/etc/refloat/refloat.toml:14 [defaults.postgres]",
        "source.prod.retention.cold.yearly": "/etc/refloat/refloat.toml:32",
        "source.prod.retention.full": "/etc/refloat/refloat.toml:23 [template.tier1]",
        "source.prod.retention.offsite.daily": "/etc/refloat/refloat.toml:23 [template.tier1]",
        "source.prod.retention.offsite.wal": "/etc/refloat/refloat.toml:23 [template.tier1]",
        "source.prod.run_on": "built in",
        "source.prod.schedule": "/etc/refloat/refloat.toml:31",
        "source.prod.wal": "built in",
        "source.prod.wal_fetch_ahead": "built in",
        "source.prod.wal_fetch_timeout": "/etc/refloat/refloat.toml:18 [defaults.postgres]",
        "source.prod.wal_push_timeout": "built in",
        "state": "/etc/refloat/refloat.toml:1"
      },
      "settings": {
        "repository": {
          "cold": {
            "compression": "zstd:-7",
            "encryption": {
              "identity": {
                "command": [
                  "/usr/bin/vault",
                  "read"
                ]
              },
              "recipients": [
                "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
              ]
            },
            "fingerprint": "SUNSET-GUITAR-4401-ELBOW",
            "mode": "sync",
            "url": "file:///cold"
          },
          "offsite": {
            "compression": "zstd:1",
            "encryption": {
              "passphrase": {
                "file": "/etc/refloat/passphrase"
              }
            },
            "mode": "sync",
            "url": "file:///backup/db%201"
          }
        },
        "source": {
          "other": {
            "acknowledge": 1,
            "backup_wal": "include",
            "checkpoint": "spread",
            "data_directory": "/var/lib/postgresql/17/main",
            "jobs": 2,
            "kind": "postgres",
            "repositories": [
              "offsite",
              "cold"
            ],
            "retention": {
              "diff": "7d",
              "full": "4w",
              "wal": "7d"
            },
            "run_on": "primary",
            "user": "postgres",
            "wal": "push",
            "wal_fetch_ahead": "128 MB",
            "wal_fetch_timeout": "5 min",
            "wal_push_timeout": "60s"
          },
          "prod": {
            "acknowledge": 1,
            "backup_wal": "auto",
            "checkpoint": "spread",
            "connection": "host='/run/postgresql' port=5433 user=backup",
            "data_directory": "/var/lib/postgresql/15/main",
            "jobs": 16,
            "kind": "postgres",
            "like": "tier1",
            "max_read_rate": "200MB/s",
            "repositories": [
              "offsite",
              "cold"
            ],
            "retention": {
              "cold": {
                "yearly": 10
              },
              "full": 2,
              "offsite": {
                "daily": 7,
                "wal": "2w"
              }
            },
            "run_on": "primary",
            "schedule": {
              "full": "0 2 * * 0",
              "incr": "0 2 * * MON-FRI,6",
              "zone": "Europe/Berlin"
            },
            "wal": "push",
            "wal_fetch_ahead": "128 MB",
            "wal_fetch_timeout": "5 min",
            "wal_push_timeout": "60s"
          }
        },
        "state": "/srv/state"
      },
      "warnings": [
        "/etc/refloat/refloat.toml:31:12: source.prod.schedule: this version starts no backup by itself; cron or a systemd timer does"
      ]
    }
    "#);
}

#[test]
fn without_origin_the_view_is_a_configuration_that_says_the_same() {
    let config = whole();
    let again = parse(&config.show(false)).err().map(|error| error.to_string());
    // Only `like` refers to something that the view has resolved already.
    assert_eq!(again.as_deref(), Some("/etc/refloat/refloat.toml:44:8: template \"tier1\" is not defined"));
    let resolved = config.show(false).replace("like = \"tier1\"\n", "");
    let again = parse(&resolved).expect("it is right");
    assert_eq!(again.show(false), resolved);
}

#[test]
fn the_text_for_backups_loads_again_and_keeps_layers() {
    let config = whole();
    let text = config.without_secrets();
    assert_snapshot!(text, @r#"
    state = "/srv/state/"

    [defaults.postgres]
    checkpoint = "spread"
    jobs = 2
    repositories = ["offsite", "cold"]
    retention = { diff = "7d", full = "4w", wal = "7d" }
    wal_fetch_timeout = "5 min"

    [repository.cold]
    compression = "zstd:-7"
    encryption = { identity = { command = ["/usr/bin/vault", "read"] }, recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"] }
    fingerprint = "SUNSET-GUITAR-4401-ELBOW"
    url = "file:///cold"

    [repository.offsite]
    encryption = { passphrase = { file = "/etc/refloat/passphrase" } }
    url = "file:///backup/db%201"

    [source.other]
    backup_wal = "include"
    data_directory = "/var/lib/postgresql/17/main"
    kind = "postgres"
    user = "postgres"

    [source.prod]
    connection = "host='/run/postgresql' port=5433 user=backup"
    data_directory = "/var/lib/postgresql/15/main"
    jobs = 16
    kind = "postgres"
    like = "tier1"
    schedule = { full = "0 2 * * 0", incr = "0 2 * * MON-FRI,6", zone = "Europe/Berlin" }

    [source.prod.retention.cold]
    yearly = 10

    [template.tier1]
    jobs = 8
    max_read_rate = "200MB/s"
    retention = { full = 2, offsite = { daily = 7, wal = "2w" } }
    "#);
    let again = parse(text).expect("it is right");
    assert_eq!(again.show(false), config.show(false));
    assert_eq!(again.without_secrets(), text);
}

#[test]
fn what_this_version_does_not_act_on_is_said() {
    let warnings: Vec<String> = whole().warnings().iter().map(ToString::to_string).collect();
    assert_snapshot!(warnings.join("\n"), @r"
    /etc/refloat/refloat.toml:31:12: source.prod.schedule: this version starts no backup by itself; cron or a systemd timer does
    ");
}

#[test]
fn state_is_beside_the_file_except_in_etc() {
    assert_eq!(parse(BASE).expect("right").state, std::path::Path::new("/var/lib/refloat/postgres"));
    let config = Config::from_text("/home/ada/pg/refloat.toml".as_ref(), BASE).expect("right");
    assert_eq!(config.state, std::path::Path::new("/home/ada/pg/refloat-state"));
    assert_eq!(whole().state, std::path::Path::new("/srv/state"));
}

#[test]
fn compressions() {
    for (text, expected) in [
        ("zstd", Some(Compression::Zstd(1))),
        ("zstd:19", Some(Compression::Zstd(19))),
        ("zstd:-7", Some(Compression::Zstd(-7))),
        ("zstd:0", Some(Compression::Zstd(0))),
        ("lz4", Some(Compression::Lz4)),
        ("none", Some(Compression::None)),
        ("zstd:20", None),
        ("zstd:-8", None),
        ("zstd:", None),
        ("zstd:x", None),
        ("gzip", None),
        ("", None),
    ] {
        assert_eq!(text.parse::<Compression>().ok(), expected, "{text}");
    }
}

#[test]
fn cron_fields() {
    let check = |cron: &str| parse(&format!("{BASE}schedule = {{ full = {cron:?} }}")).is_ok();
    for good in
        ["* * * * *", "*/5 0-6/2 1,15 JAN-MAR sun", "0 2 L * *", "0 2 * * 1#2", "0 2 * * 5L", "59 23 31 12 7"]
    {
        assert!(check(good), "{good}");
    }
    for bad in [
        "60 * * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "a * * * *",
        "* * * * 1#6",
        "L * * * *",
        "@daily",
        "",
    ] {
        assert!(!check(bad), "{bad}");
    }
}

#[test]
fn stores_behind_a_network_have_settings_of_their_own() {
    let config = parse(
        r#"
[repository.far]
url = "s3://acme-backups/db1"
region = "eu-central-1"
style = "virtual"
credentials = { access_key_id = "AKIA1", secret_access_key = { file = "/etc/refloat/s3" } }
storage_class = "STANDARD_IA"
sse = { kms = "arn:aws:kms:x" }
metadata = { owner = "dba" }
max_upload_rate = "50MB/s"
call_timeout = "10s"
encryption = "none"

[repository.azure]
url = "azblob://backups/db1"
credentials = { account_name = "acme", sas_token = { command = ["/usr/bin/token"] } }
encryption = "none"

[repository.near]
url = "file:///backup"
encryption = "none"

[source.prod]
kind = "postgres"
data_directory = "/data"
repositories = ["far"]
"#,
    )
    .expect("it is right");
    let store = |text: &str| &config.repositories[&name::<RepositoryName>(text)].store;
    let far = store("far");
    assert_eq!((far.region.as_deref(), far.max_connections), (Some("eu-central-1"), Some(32)));
    assert_eq!(far.call_timeout, Some(Duration::from_secs(10)));
    assert_eq!(far.metadata["owner"], "dba");
    let keys = far.credentials.as_ref().expect("they are set");
    assert_eq!((keys.plain["access_key_id"].as_str(), keys.secrets.len()), ("AKIA1", 1));
    assert_eq!(store("azure").credentials.as_ref().expect("they are set").plain["account_name"], "acme");
    // A directory has none of this, and shows none of it.
    assert_eq!((store("near").max_connections, store("near").call_timeout), (None, None));
    let shown = config.show(false);
    assert!(shown.contains("secret_access_key = { file = \"/etc/refloat/s3\" }"), "{shown}");
    assert_eq!(shown.matches("max_connections").count(), 2, "{shown}");
}
