//! The checked configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use refloat_types::{ByteSize, RepositoryName, SourceName};

use crate::check;
use crate::document::{self, Document};
use crate::error::ConfigError;
use crate::place::{Origin, Place};
use crate::show::Shown;
use crate::values::compression::Compression;
use crate::values::connection::Connection;
use crate::values::credentials::Credentials;
use crate::values::encryption::Encryption;
use crate::values::retention::Policy;
use crate::values::schedule::Schedule;
use crate::values::store::Sse;
use crate::values::url::RepositoryUrl;
use crate::values::words::{BackupWal, Checkpoint, Kind, Mode, RunOn, Style, Wal};

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_FILE: &str = "/etc/refloat/refloat.toml";

/// Which file to load: `--config`, else `$REFLOAT_CONFIG`, else [`DEFAULT_FILE`]. Both are given by the caller, who alone
/// knows command line and environment.
pub fn file_to_load(flag: Option<&Path>, environment: Option<&Path>) -> PathBuf {
    let named = flag.or(environment.filter(|path| !path.as_os_str().is_empty()));
    named.map_or_else(|| PathBuf::from(DEFAULT_FILE), Path::to_owned)
}

/// A configuration in which every value is checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The main file, absolute.
    pub file: PathBuf,
    /// Every file that was read, the main one first.
    pub files: Vec<PathBuf>,
    /// The directory for what this host has to remember.
    pub state: PathBuf,
    /// Repositories by name.
    pub repositories: BTreeMap<RepositoryName, RepositoryConfig>,
    /// Sources by name.
    pub sources: BTreeMap<SourceName, SourceConfig>,
    pub(crate) shown: BTreeMap<String, Shown>,
    pub(crate) warnings: Vec<Warning>,
    pub(crate) text: String,
}

/// A repository.
#[derive(Debug, Clone)]
pub struct RepositoryConfig {
    /// Its name in the configuration.
    pub name: RepositoryName,
    /// Where it is.
    pub url: RepositoryUrl,
    /// What opens it.
    pub encryption: Encryption,
    /// How data is compressed.
    pub compression: Compression,
    /// The root fingerprint it must have, as printed by `init`.
    pub fingerprint: Option<String>,
    /// When it gets what is stored.
    pub mode: Mode,
    /// What its URL does not say of the store.
    pub store: StoreConfig,
}

/// What a repository's URL does not say of its store.
#[derive(Debug, Clone, Default)]
pub struct StoreConfig {
    /// Region of the bucket.
    pub region: Option<String>,
    /// Address of a store that is not the provider's own.
    pub endpoint: Option<String>,
    /// How a bucket is addressed, where it is said.
    pub style: Option<Style>,
    /// Who this host is; `None`: the machine's role.
    pub credentials: Option<Credentials>,
    /// Class of new objects.
    pub storage_class: Option<String>,
    /// The program that asks for objects in a cold class, and its arguments.
    pub thaw_command: Option<Vec<String>>,
    /// How the store encrypts.
    pub sse: Option<Sse>,
    /// Metadata of new objects.
    pub metadata: BTreeMap<String, String>,
    /// The file that knows the keys of SSH servers.
    pub known_hosts: Option<PathBuf>,
    /// Certificates that are believed beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Longest time for one call; `None` for a directory.
    pub call_timeout: Option<Duration>,
    /// Most calls at once; `None` for a directory.
    pub max_connections: Option<u32>,
    /// Bytes a second that are sent at most.
    pub max_upload_rate: Option<ByteSize>,
    /// Bytes a second that are received at most.
    pub max_download_rate: Option<ByteSize>,
}

/// A source: a PostgreSQL cluster.
#[derive(Debug, Clone)]
pub struct SourceConfig {
    /// Its name in the configuration.
    pub name: SourceName,
    /// What it is.
    pub kind: Kind,
    /// The cluster's data directory.
    pub data_directory: PathBuf,
    /// How to reach the server, where the data directory does not say it.
    pub connection: Option<Connection>,
    /// Repositories, the first one first; at least one, each defined.
    pub repositories: Vec<RepositoryName>,
    /// How many of them must hold something before it counts as stored.
    pub acknowledge: u32,
    /// What is to be kept.
    pub retention: Option<Policy>,
    /// What is to be kept in single repositories.
    pub retention_of: BTreeMap<RepositoryName, Policy>,
    /// When backups are to be made; this version does not act on it.
    pub schedule: Option<Schedule>,
    /// How WAL gets into the repository.
    pub wal: Wal,
    /// Deadline of one `wal push`.
    pub wal_push_timeout: Duration,
    /// Deadline of one `wal fetch`.
    pub wal_fetch_timeout: Duration,
    /// How many bytes of WAL a recovery may have fetched before it needs them.
    pub wal_fetch_ahead: ByteSize,
    /// Where the WAL is that a backup needs.
    pub backup_wal: BackupWal,
    /// How the first checkpoint is made.
    pub checkpoint: Checkpoint,
    /// How many workers; `None`: as many as there are processors.
    pub jobs: Option<u32>,
    /// How many bytes of the data directory are read in a second; `None`: as many as can be.
    pub max_read_rate: Option<ByteSize>,
    /// The user to run as; `None`: the owner of the data directory.
    pub user: Option<String>,
    /// Which of several nodes does the work.
    pub run_on: RunOn,
}

/// A setting that is right and that this version does not act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where it stands.
    pub place: Place,
    /// What it has no effect on, in words.
    pub message: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl Config {
    /// Reads and checks `file` and `conf.d/*.toml` beside it.
    ///
    /// As root, refuses files that others could change. Secrets are not read.
    ///
    /// # Errors
    /// Every fault that can be found at once, each with its place.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::load_as(file, rustix::process::geteuid().is_root())
    }

    /// As [`Config::load`], for a process that will become root or stop being root.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_as(file: &Path, for_root: bool) -> Result<Self, ConfigError> {
        let absolute = std::path::absolute(file)
            .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
        check::check(absolute.clone(), document::read(&absolute, for_root)?)
    }

    /// Checks one text as if it were read from `file` (absolute).
    ///
    /// # Errors
    /// As [`Config::load`], without those of reading.
    pub fn from_text(file: &Path, text: &str) -> Result<Self, ConfigError> {
        check::check(file.to_owned(), Document::from_text(file, text))
    }

    /// The source whose data directory this is, by path or by what the paths lead to. PostgreSQL starts the archiver in
    /// its data directory, so this is how `wal push` knows its source.
    ///
    /// # Errors
    /// There is none.
    pub fn source_for_data_directory(&self, directory: &Path) -> Result<&SourceConfig, ConfigError> {
        if let Some(source) = self.sources.values().find(|source| source.data_directory == directory) {
            return Ok(source);
        }
        let real = directory.canonicalize().ok();
        let same = |source: &&SourceConfig| {
            real.is_some() && source.data_directory.canonicalize().ok().as_ref() == real.as_ref()
        };
        self.sources.values().find(same).ok_or_else(|| ConfigError::NoSource {
            file: self.file.clone(),
            directory: directory.to_owned(),
            known: self
                .sources
                .values()
                .map(|source| (source.name.clone(), source.data_directory.clone()))
                .collect(),
        })
    }

    /// Settings that are accepted although this version does not act on them.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Where a value came from, by its dotted path: `repository.offsite.compression`; of a table, where its first value
    /// did. `None` for a setting that is neither set nor has a default.
    pub fn origin(&self, path: &str) -> Option<&Origin> {
        let below = format!("{path}.");
        let mut from = self.shown.range(path.to_owned()..);
        let found = from.find(|(known, _)| *known == path || known.starts_with(&below));
        found.map(|(_, shown)| &shown.origin)
    }

    /// What was written in all files, as one TOML text: templates, defaults and references to secrets as they are,
    /// without comments. No secret is in it, because none can stand in a configuration. Goes into every backup.
    pub fn without_secrets(&self) -> &str {
        &self.text
    }
}

impl SourceConfig {
    /// What is to be kept in one repository.
    pub fn retention_in(&self, repository: &RepositoryName) -> Option<&Policy> {
        self.retention_of.get(repository).or(self.retention.as_ref())
    }
}
