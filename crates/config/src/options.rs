//! The tables of the file: each setting once, with what it means. The reference and the schema are made of these.

use crate::secret::Program;
use crate::setting::{nothing_required, options, schema_of};
use crate::values::compression::Compression;
use crate::values::connection::Connection;
use crate::values::credentials::{Credentials, CredentialsOptions};
use crate::values::encryption::{Encryption, EncryptionOptions};
use crate::values::plain::{
    AbsolutePath, Acknowledge, Jobs, Rate, Repositories, Size, Text, Timeout, UserName,
};
use crate::values::retention::{PolicyOptions, RetentionOptions};
use crate::values::schedule::{Schedule, ScheduleOptions};
use crate::values::store::{Connections, Metadata, Sse};
use crate::values::url::RepositoryUrl;
use crate::values::words::{BackupWal, Checkpoint, Kind, Mode, RunOn, Style, Wal};

options! {
    /// A place where backups and WAL are kept.
    pub(crate) struct RepositoryOptions {
        /// Where it is: `file:///path`, `s3://bucket/prefix`, `gs://bucket/prefix`, `azblob://container/prefix`,
        /// `sftp://user@host/path`, `webdavs://host/path`, `dropbox://folder` or `gdrive://folder`. No secret stands in it.
        url: RepositoryUrl,
        /// What opens it: `{ passphrase = SECRET }`, or `{ recipients = ["age1…"], identity = SECRET }`. An unencrypted
        /// repository is asked for in words: `"none"`. Has to be said.
        encryption: Encryption,
        /// How data is compressed before it is encrypted: `"zstd:N"` with N from -7 (fastest) to 19 (smallest), `"lz4"`
        /// or `"none"`.
        #[schemars(extend("default" = "zstd:1"))]
        compression: Compression,
        /// The root fingerprint that `refloat init` printed. Where it is set, a repository with another one is refused,
        /// so that nobody can put a forged repository in its place.
        fingerprint: Text,
        /// When it gets what is stored: `"sync"` at once, together with the others that do; `"async"` in the background, out of one
        /// that has it.
        #[schemars(extend("default" = "sync"))]
        mode: Mode,
        /// Region of an S3 bucket. Has to be said where no endpoint is.
        region: Text,
        /// Address of an object store, of Dropbox or of Google Drive that is not the provider's own: `"https://host:port"`.
        endpoint: Text,
        /// How an S3 bucket is addressed. Default: in the path where an endpoint is named, else in the host name.
        style: Style,
        /// Who this host is at the store. Left out: the role of the machine (S3, Google Cloud Storage, Azure), or nobody (WebDAV).
        credentials: Credentials,
        /// Class that an object store keeps new objects in, such as `"STANDARD_IA"`. One that has to be thawed before it can be read
        /// (`"GLACIER"`, `"DEEP_ARCHIVE"`) is used for packs only, so that listing and expiring go on.
        storage_class: Text,
        /// The program that asks for objects in a cold class: `["/path", "ARGUMENT"]`. It gets their names on its standard input, one a
        /// line; `restore` and `verify` run it for what they need, and wait.
        thaw_command: Program,
        /// How S3 encrypts what it keeps, beside what Refloat encrypts: `"AES256"` or `{ kms = "KEY" }`.
        sse: Sse,
        /// Metadata that each new object gets: `{ owner = "dba" }`. Whoever can list the bucket can read it.
        metadata: Metadata,
        /// SFTP: the file that knows the server's key, as OpenSSH keeps it. Has to be said there.
        known_hosts: AbsolutePath,
        /// Certificates (PEM) that are believed beside the system's.
        ca_file: AbsolutePath,
        /// Longest time for one call, without the bytes it moves.
        #[schemars(extend("default" = "30s"))]
        call_timeout: Timeout,
        /// Most calls to the store at once. Default: 32.
        #[schemars(extend("default" = 32))]
        max_connections: Connections,
        /// How fast is sent at most, such as `"100MB/s"`. Default: as fast as it goes.
        max_upload_rate: Rate,
        /// How fast is received at most. Default: as fast as it goes.
        max_download_rate: Rate,
    }
}

options! {
    /// They may stand in `[source.NAME]`, in the `[template.NAME]` that the source is `like`, or in
    /// `[defaults.postgres]`; the first of these that has a setting wins.
    pub(crate) struct PostgresOptions {
        /// The cluster's data directory. Port and socket of the server are found there.
        data_directory: AbsolutePath,
        /// How to reach the server where the data directory does not say it: `"host=… port=… user=… dbname=…"`. A
        /// password cannot be given.
        connection: Connection,
        /// The repositories that its backups and WAL go to, the first one first. Default: the only one there is.
        repositories: Repositories,
        /// How many of its repositories must hold a WAL segment durably before PostgreSQL may recycle it, and a backup before it
        /// counts as made. The others get it too; one that does not answer delays nothing and catches up. Default: 1.
        #[schemars(extend("default" = 1))]
        acknowledge: Acknowledge,
        /// How long backups and WAL are to be kept; for one repository by `[source.NAME.retention.REPOSITORY]`.
        /// `refloat expire` deletes what none of it wants. Without it nothing is ever deleted.
        retention: RetentionOptions,
        /// When backups are to be made. This version checks and shows it and starts nothing by itself.
        schedule: Schedule,
        /// How WAL gets into the repository: PostgreSQL's `archive_command` pushes it.
        #[schemars(extend("default" = "push"))]
        wal: Wal,
        /// How long one `wal push` may take before it gives up and PostgreSQL tries again.
        #[schemars(extend("default" = "60s"))]
        wal_push_timeout: Timeout,
        /// How long one `wal fetch` asks a repository that does not answer before it stops the recovery.
        #[schemars(extend("default" = "60s"))]
        wal_fetch_timeout: Timeout,
        /// How much WAL a recovery may have fetched before PostgreSQL asks for it, beside where it goes (`pg_wal`), where WAL comes
        /// over a network. None while less than four times as much is free there; `"0"`: none at all.
        #[schemars(extend("default" = "128 MB"))]
        wal_fetch_ahead: Size,
        /// Where the WAL is that a backup needs to become consistent: `"include"` stores it in the backup, `"archive"`
        /// waits until the archive has it, `"auto"` waits where archiving works and else stores it.
        #[schemars(extend("default" = "auto"))]
        backup_wal: BackupWal,
        /// How the checkpoint is made that a backup begins with: `"fast"` at once, `"spread"` gently over minutes.
        #[schemars(extend("default" = "fast"))]
        checkpoint: Checkpoint,
        /// How many workers read, compress and encrypt. Default: as many as the host has processors.
        jobs: Jobs,
        /// How fast the data directory is read at most, such as `"100MB/s"`. Default: as fast as it can be.
        max_read_rate: Rate,
        /// The user that everything runs as. Default: the owner of the data directory.
        user: UserName,
        /// Which of several nodes makes the backups.
        #[schemars(extend("default" = "primary"))]
        run_on: RunOn,
    }
}

options! {
    /// What a source says of itself, beside the settings of its kind.
    pub(crate) struct SourceHead {
        /// What it is. This version knows `"postgres"`.
        kind: Kind,
        /// The template whose settings it takes where it has none of its own: `like = "tier1"` takes `[template.tier1]`.
        like: Text,
    }
}

options! {
    /// The top of the file.
    pub(crate) struct TopOptions {
        /// The directory for what this host has to remember: its writer id, the opened identity, records of operations.
        /// Default: `/var/lib/refloat/postgres` for a file in `/etc/refloat`, else `refloat-state` beside the file.
        state: AbsolutePath,
    }
}

/// The tables at the top of the file.
pub(crate) const TABLES: &[&str] = &["repository", "defaults", "template", "source"];

/// Where a setting of this name belongs.
pub(crate) fn home_of(key: &str) -> Option<&'static str> {
    let homes: [(&[&str], &str); 8] = [
        (TopOptions::KEYS, "the top of the file, above every [table]"),
        (RepositoryOptions::KEYS, "[repository.NAME]"),
        (SourceHead::KEYS, "[source.NAME]"),
        (PostgresOptions::KEYS, "[source.NAME], [template.NAME] or [defaults.postgres]"),
        (EncryptionOptions::KEYS, "encryption = { … } of [repository.NAME]"),
        (CredentialsOptions::KEYS, "credentials = { … } of [repository.NAME]"),
        (PolicyOptions::KEYS, "retention = { … } of a source"),
        (ScheduleOptions::KEYS, "schedule = { … } of a source"),
    ];
    homes.into_iter().find(|(keys, _)| keys.contains(&key)).map(|(_, home)| home)
}

/// `[source.NAME]`: its head and the settings of its kind in one table.
pub(crate) struct SourceOptions;

schema_of!(SourceOptions, |generator| {
    let mut schema = <PostgresOptions as schemars::JsonSchema>::json_schema(generator);
    let mut head = <SourceHead as schemars::JsonSchema>::json_schema(generator);
    let head = head.remove("properties");
    if let (Some(serde_json::Value::Object(into)), Some(serde_json::Value::Object(head))) =
        (schema.get_mut("properties"), head)
    {
        into.extend(head);
    }
    schema.insert("description".to_owned(), "What is backed up: a PostgreSQL cluster.".into());
    schema.insert("required".to_owned(), serde_json::json!(["kind"]));
    schema
});

/// The configuration of Refloat on one host.
#[derive(schemars::JsonSchema)]
#[schemars(deny_unknown_fields, rename = "refloat.toml", transform = nothing_required)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct File {
    #[schemars(flatten)]
    top: TopOptions,
    /// Repositories by name.
    repository: std::collections::BTreeMap<String, RepositoryOptions>,
    /// Settings for every source of a kind.
    defaults: Defaults,
    /// Settings that sources take by `like`.
    template: std::collections::BTreeMap<String, PostgresOptions>,
    /// What is backed up, by name.
    source: std::collections::BTreeMap<String, SourceOptions>,
}

#[derive(schemars::JsonSchema)]
#[schemars(deny_unknown_fields, inline, transform = nothing_required)]
#[expect(dead_code, reason = "only its schema is used")]
struct Defaults {
    /// For every PostgreSQL source.
    postgres: PostgresOptions,
}
