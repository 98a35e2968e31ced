//! What every command starts from: the configuration, who we are, the clock, the repositories.

pub(crate) mod abilities;
mod down;
mod patient;
mod store;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use refloat_config::{
    Config, ConfigError, DEFAULT_FILE, Encryption, RepositoryConfig, RepositoryUrl, SecretReader,
    SourceConfig,
};
use refloat_pg::sql::{ConnectOptions, Place};
use refloat_repo::crypt::identity::Identity as AgeIdentity;
use refloat_repo::repository::Credentials;
use refloat_repo::{Compression, KeyError, RepoError, Repository, StateDirectory};
use refloat_store::posix::Options;
use refloat_store::{OpenError, Store, StoreErrorKind, StoreSettings, open};
use refloat_types::{Clock as _, ObjectId, SystemClock};

use crate::cli::Global;
use crate::error::{CliError, Failure, of_config};
use crate::identity::{Identity, Wanted, is_root, make_directory, user_name};
use crate::render::{Out, can_ask};
use crate::terminal;

/// The environment, which only the program knows.
pub(crate) type Environment = fn(&str) -> Option<OsString>;

/// Everything a command starts from.
pub(crate) struct Context {
    /// Options that every command has.
    pub global: Global,
    /// Where to write.
    pub out: Out,
    /// Time.
    pub clock: SystemClock,
    /// The configuration, where there is one.
    pub config: Option<Config>,
    /// The file it was, or would have been, read from.
    pub config_file: PathBuf,
    /// This program, absolute.
    pub executable: PathBuf,
    /// This host.
    pub host: String,
    /// Who started it.
    pub who: String,
    /// Who does the work.
    pub identity: Identity,
    environment: Environment,
    /// State directory where no configuration names one.
    ad_hoc_state: Option<PathBuf>,
    temporary_state: Option<TemporaryState>,
    /// What was entered to open a repository; asked for once.
    entered: std::sync::Mutex<Option<String>>,
}

/// A state directory that is removed when the command ends.
struct TemporaryState(PathBuf);

impl Drop for TemporaryState {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A repository that is open.
pub(crate) struct Opened {
    /// What it is called: its name in the configuration, or its URL.
    pub name: String,
    /// It.
    pub repository: Repository,
    /// How new data is compressed.
    pub compression: Compression,
}

/// How a store is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Much data: nothing stands between.
    Bulk,
    /// Few calls, each of which must be answered soon.
    Within(Duration),
}

/// Why a store could not be opened: a directory that is not there holds no repository.
fn unopened(url: &str, error: OpenError) -> Failure {
    match error {
        OpenError::Store(error) if error.kind == StoreErrorKind::NotFound => {
            RepoError::NotARepository { store: url.to_owned() }.into()
        }
        other => other.into(),
    }
}

/// Which repository is meant by `-r`.
enum Meant<'c> {
    Configured(&'c RepositoryConfig),
    Url(RepositoryUrl),
}

impl Context {
    /// Loads the configuration, if there is any. A missing one is an error only where it is asked for.
    ///
    /// # Errors
    /// A configuration that is there and wrong.
    pub(crate) fn load(
        global: Global,
        config_file: PathBuf,
        named: bool,
        environment: Environment,
    ) -> Result<Self, Failure> {
        let out = Out { json: global.json, quiet: global.quiet };
        let config = match Config::load(&config_file) {
            Ok(config) => Some(config),
            Err(ConfigError::Absent { .. }) if !named => None,
            Err(error) => return Err(of_config(&error)),
        };
        let executable = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("refloat"));
        let identity = Identity::current();
        let config_file = config.as_ref().map_or(config_file, |config| config.file.clone());
        Ok(Self {
            out,
            clock: SystemClock,
            config,
            config_file,
            executable,
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            who: user_name(identity.uid),
            identity,
            environment,
            ad_hoc_state: None,
            temporary_state: None,
            entered: std::sync::Mutex::new(None),
            global,
        })
    }

    /// What tells this machine, since it was started, from others whose files may have the same inodes and times.
    pub(crate) fn machine(&self) -> String {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let id = read("/etc/machine-id");
        let id = if id.trim().is_empty() { self.host.as_str() } else { id.trim() };
        // A machine that lost its power may have files with new bytes and an old ctime.
        format!("{id} {}", read("/proc/sys/kernel/random/boot_id").trim())
    }

    /// The configuration.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn config(&self) -> Result<&Config, Failure> {
        self.config
            .as_ref()
            .ok_or_else(|| Failure::from(ConfigError::Absent { file: self.config_file.clone() }))
    }

    /// ` --config FILE`, where the configuration is not where it is looked for anyway.
    pub(crate) fn config_option(&self) -> String {
        if self.config_file == Path::new(DEFAULT_FILE) {
            return String::new();
        }
        format!(" --config {}", crate::render::text::shell_path(&self.config_file))
    }

    /// `sudo refloat --config FILE`, or as the user who types it is: how printed lines begin.
    pub(crate) fn command(&self) -> String {
        let sudo = if self.who == self.identity.name { "" } else { "sudo " };
        let repository = self
            .global
            .repository
            .as_ref()
            .map_or_else(String::new, |name| format!(" -r {}", crate::render::text::shell(name)));
        let config = if self.config.is_some() { self.config_option() } else { String::new() };
        format!("{sudo}refloat{config}{repository}")
    }

    /// The state directory, where one is known.
    pub(crate) fn state_path(&self) -> Option<&Path> {
        self.ad_hoc_state.as_deref().or_else(|| self.config.as_ref().map(|config| config.state.as_path()))
    }

    /// The state directory.
    pub(crate) fn state(&self) -> StateDirectory {
        StateDirectory::new(self.state_path().unwrap_or_else(|| Path::new("refloat-state")))
    }

    /// The names of all sources.
    pub(crate) fn source_names(&self) -> Vec<String> {
        let sources = self.config.iter().flat_map(|config| config.sources.keys());
        sources.map(ToString::to_string).collect()
    }

    /// The source of this name, or the only one.
    ///
    /// # Errors
    /// There is none of that name, or several and none is named.
    pub(crate) fn source(&self, name: Option<&str>, what: &'static str) -> Result<&SourceConfig, Failure> {
        let config = self.config()?;
        let known = self.source_names();
        let place = self.config_file.display().to_string();
        match name {
            Some(name) => {
                let found = config.sources.values().find(|source| source.name.as_str() == name);
                found.ok_or_else(|| CliError::NoSource { name: name.to_owned(), place, known }.into())
            }
            None => {
                let mut all = config.sources.values();
                match (all.next(), all.next()) {
                    (Some(only), None) => Ok(only),
                    _ => Err(CliError::WhichSource { what, known }.into()),
                }
            }
        }
    }

    /// These sources, or all.
    ///
    /// # Errors
    /// There is none of such a name.
    pub(crate) fn sources(&self, names: &[String]) -> Result<Vec<SourceConfig>, Failure> {
        if names.is_empty() {
            return Ok(self.config()?.sources.values().cloned().collect());
        }
        names.iter().map(|name| self.source(Some(name), "this").cloned()).collect()
    }

    /// Who works for a source: `user =`, else the owner of its data directory; where that is lost, of the state directory.
    fn wanted(&self, source: &SourceConfig) -> Result<Option<Wanted>, CliError> {
        if let Some(user) = &source.user {
            return Wanted::named(user, &self.config_file).map(Some);
        }
        let state = self.state_path().map(Path::to_owned).unwrap_or_default();
        if let Ok(metadata) = std::fs::metadata(&source.data_directory)
            && std::os::unix::fs::MetadataExt::uid(&metadata) == 0
        {
            // A directory of root's is no server's; the program stays what it is.
            return Ok(Wanted::owner_of([state.as_path()]));
        }
        let found = Wanted::owner_of([source.data_directory.as_path(), state.as_path()]);
        Ok(found.or_else(|| is_root().then(|| Wanted::postgres(&source.data_directory)).flatten()))
    }

    /// Becomes the user who works for these sources, with a state directory of that user's.
    ///
    /// # Errors
    /// They belong to different users, or this process may not become that user.
    pub(crate) fn assume(&mut self, sources: &[SourceConfig], keep_root: bool) -> Result<(), Failure> {
        let mut chosen: Option<(Wanted, &SourceConfig)> = None;
        for source in sources {
            let Some(wanted) = self.wanted(source)? else { continue };
            match &chosen {
                Some((first, of)) if first.ids() != wanted.ids() => {
                    return Err(CliError::usage(
                        format!("sources \"{}\" and \"{}\" belong to different users", of.name, source.name),
                        "Name one of them; each of these users needs a configuration with a state directory of its own.",
                    )
                    .into());
                }
                Some(_) => {}
                None => chosen = Some((wanted, source)),
            }
        }
        if let Some((wanted, _)) = chosen {
            self.become_user(&wanted, keep_root)?;
        }
        Ok(())
    }

    /// Becomes the user who works for a source, and makes nothing.
    ///
    /// # Errors
    /// This process may not become that user.
    pub(crate) fn assume_only(&mut self, source: &SourceConfig) -> Result<(), Failure> {
        if let Some(wanted) = self.wanted(source)? {
            self.identity = wanted.assume(false)?;
        }
        Ok(())
    }

    /// Becomes this user; root first makes the state directory for it.
    ///
    /// # Errors
    /// When that cannot be.
    pub(crate) fn become_user(&mut self, wanted: &Wanted, keep_root: bool) -> Result<(), Failure> {
        if let Some(state) = self.state_path().filter(|_| is_root()) {
            make_directory(state, 0o700, wanted.ids())
                .map_err(|source| CliError::file("create", state, source))?;
        }
        self.identity = wanted.assume(keep_root)?;
        Ok(())
    }

    /// Uses a state directory of its own: `None` for one that is removed at the end.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn use_state(&mut self, state: Option<PathBuf>) -> Result<(), Failure> {
        let path = match state {
            Some(path) => path,
            None => {
                let unique = refloat_repo::crypt::random::object_id();
                let path = std::env::temp_dir().join(format!("refloat-{}-{unique}", std::process::id()));
                self.temporary_state = Some(TemporaryState(path.clone()));
                path
            }
        };
        self.ad_hoc_state = Some(path);
        Ok(())
    }

    /// Whether `-r` names a place that no configuration knows.
    ///
    /// # Errors
    /// A URL or name that is none.
    pub(crate) fn is_ad_hoc(&self) -> Result<bool, Failure> {
        Ok(matches!(self.meant()?, Some(Meant::Url(_))))
    }

    fn meant(&self) -> Result<Option<Meant<'_>>, Failure> {
        let Some(text) = &self.global.repository else { return Ok(None) };
        let configured = || self.config.iter().flat_map(|config| config.repositories.values());
        if text.contains("://") || text.starts_with('/') {
            let url: RepositoryUrl = text.parse().map_err(|error: refloat_config::BadUrl| {
                CliError::usage(format!("-r {text}: {error}"), error.hint())
            })?;
            // Who brings a passphrase wants it to be used.
            let brings_key = self.global.passphrase_file.is_some();
            let known = configured().find(|repository| repository.url == url && !brings_key);
            return Ok(Some(known.map_or(Meant::Url(url), Meant::Configured)));
        }
        let found = configured().find(|repository| repository.name.as_str() == text);
        match found {
            Some(found) => Ok(Some(Meant::Configured(found))),
            None => {
                self.config()?;
                let known = configured().map(|repository| repository.name.to_string()).collect();
                let place = self.config_file.display().to_string();
                Err(CliError::NoRepository { name: text.clone(), place, known }.into())
            }
        }
    }

    /// The configured repositories that a command is about: the one of `-r`, else those of the source, else all.
    ///
    /// # Errors
    /// `-r` names none of them.
    pub(crate) fn repositories(
        &self,
        source: Option<&SourceConfig>,
    ) -> Result<Vec<RepositoryConfig>, Failure> {
        match self.meant()? {
            Some(Meant::Configured(repository)) => return Ok(vec![repository.clone()]),
            Some(Meant::Url(_)) => {
                let text = self.global.repository.clone().unwrap_or_default();
                return Err(CliError::usage(
                    format!("{text} is in no configuration"),
                    "This command works with configured repositories: -r NAME.",
                )
                .into());
            }
            None => {}
        }
        let config = self.config()?;
        Ok(match source {
            None => config.repositories.values().cloned().collect(),
            Some(source) => {
                source.repositories.iter().filter_map(|name| config.repositories.get(name)).cloned().collect()
            }
        })
    }

    /// Opens the first repository of a source that answers, or that of `-r`: for reading.
    ///
    /// # Errors
    /// What the first one said, when none can be opened.
    pub(crate) fn open_for(&self, source: Option<&SourceConfig>, access: Access) -> Result<Opened, Failure> {
        if let Some(Meant::Url(url)) = self.meant()? {
            return self.open_ad_hoc(&url, access, true);
        }
        let mut first = None;
        for repository in self.repositories(source)? {
            match self.open(&repository, access) {
                Ok(opened) => return Ok(opened),
                Err(failure) => {
                    if first.is_none() {
                        first = Some(failure);
                    } else {
                        self.out.warn(&format!("repository {}: {}", repository.name, failure.message));
                    }
                }
            }
        }
        Err(first.unwrap_or_else(|| {
            CliError::usage("there is no repository", "Write [repository.NAME] into the configuration.")
                .into()
        }))
    }

    /// Opens a configured repository.
    ///
    /// # Errors
    /// What the store, the secret or the repository says.
    pub(crate) fn open(&self, config: &RepositoryConfig, access: Access) -> Result<Opened, Failure> {
        let store = self.store(config, access, Options::default())?;
        self.open_in(config, store)
    }

    /// Opens a configured repository in a store that is open.
    ///
    /// # Errors
    /// What the secret or the repository says.
    pub(crate) fn open_in(
        &self,
        config: &RepositoryConfig,
        store: Arc<dyn Store>,
    ) -> Result<Opened, Failure> {
        let mut refused = None;
        let mut credentials = || {
            self.credentials(&config.encryption).map_err(|failure| {
                refused = Some(failure);
                no_identity()
            })
        };
        let now = self.clock.now();
        let pin = config.fingerprint.as_deref();
        let opened = Repository::open(store, self.state(), pin, now, &mut credentials);
        let repository = opened.map_err(|error| refused.take().unwrap_or_else(|| error.into()))?;
        Ok(Opened { name: config.name.to_string(), repository, compression: compression(config) })
    }

    /// Opens a configured repository that this host has opened before: asks for nothing and writes nothing.
    ///
    /// # Errors
    /// It was never opened here, or what the store or the repository says.
    pub(crate) fn open_known(&self, config: &RepositoryConfig) -> Result<Opened, Failure> {
        let store = self.store(config, Access::Bulk, Options { read_only: true, ..Options::default() })?;
        let (now, pin) = (self.clock.now(), config.fingerprint.as_deref());
        let repository = Repository::open(store, self.state(), pin, now, &mut || Err(no_identity()))?;
        Ok(Opened { name: config.name.to_string(), repository, compression: compression(config) })
    }

    /// Opens a configured repository as this host has seen it last, without asking its store; `None` where it has not.
    ///
    /// # Errors
    /// A store that cannot be opened, or a state directory that cannot be read.
    pub(crate) fn open_as_seen(
        &self,
        config: &RepositoryConfig,
        access: Access,
    ) -> Result<Option<Opened>, Failure> {
        let store = self.store(config, access, Options { read_only: true, ..Options::default() })?;
        let seen = Repository::open_as_seen(store, self.state(), config.fingerprint.as_deref())?;
        let (name, compression) = (config.name.to_string(), compression(config));
        Ok(seen.map(|repository| Opened { name, repository, compression }))
    }

    /// Opens the repository of `-r URL`; read-only unless this host is to be enrolled in it.
    ///
    /// # Errors
    /// What the store, the passphrase or the repository says.
    pub(crate) fn open_url_of_option(&self, read_only: bool) -> Result<Opened, Failure> {
        match self.meant()? {
            Some(Meant::Url(url)) => self.open_ad_hoc(&url, Access::Bulk, read_only),
            Some(Meant::Configured(config)) => self.open(config, Access::Bulk),
            None => Err(CliError::usage("no repository is named", "Name it: -r file:///backup/db1").into()),
        }
    }

    fn open_ad_hoc(&self, url: &RepositoryUrl, access: Access, read_only: bool) -> Result<Opened, Failure> {
        self.open_ad_hoc_in(url, access, read_only, self.state())
    }

    fn open_ad_hoc_in(
        &self,
        url: &RepositoryUrl,
        access: Access,
        read_only: bool,
        state: StateDirectory,
    ) -> Result<Opened, Failure> {
        let settings = self.settings_of_url(url);
        let options = Options { read_only, ..Options::default() };
        let store = open_store(url, &settings, access, options)?;
        let marker = Repository::read_marker(store.as_ref())?;
        let encrypted = !Repository::newest_generation(store.as_ref(), &marker)?.recipients.is_empty();
        let mut refused = None;
        let mut credentials = || {
            if !encrypted {
                return Ok(Credentials::Unencrypted);
            }
            self.ask_passphrase(&marker.root.fingerprint()).map_err(|failure| {
                refused = Some(failure);
                no_identity()
            })
        };
        let opened = Repository::open(store, state, None, self.clock.now(), &mut credentials);
        let repository = opened.map_err(|error| refused.take().unwrap_or_else(|| error.into()))?;
        Ok(Opened { name: url.to_string(), repository, compression: Compression::Zstd(1) })
    }

    /// The passphrase or identity of `--passphrase-file`, else of the terminal.
    fn ask_passphrase(&self, fingerprint: &str) -> Result<Credentials, Failure> {
        let known = self.entered();
        let text = match &self.global.passphrase_file {
            _ if known.is_some() => known.unwrap_or_default(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|source| CliError::file("read", path, source))?
                .trim_end_matches(['\n', '\r'])
                .to_owned(),
            None if can_ask() => {
                self.out.say(&format!(
                    "The repository shows the fingerprint {fingerprint}: compare it with the sheet."
                ));
                terminal::secret("Passphrase of the recovery sheet: ")?
            }
            None => {
                return Err(CliError::NeedsTerminal {
                    message:
                        "the repository is encrypted, and there is no terminal to ask for its passphrase"
                            .to_owned(),
                    hints: vec!["Give it in a file: --passphrase-file FILE".to_owned()],
                }
                .into());
            }
        };
        *self.entered.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(text.clone());
        Ok(match AgeIdentity::parse(&text).filter(|_| text.contains("AGE-SECRET-KEY-")) {
            Some(identity) => Credentials::Identity(identity),
            None => Credentials::Passphrase(text),
        })
    }

    /// What was entered to open the repository of `-r URL`.
    pub(crate) fn entered(&self) -> Option<String> {
        self.entered.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Opens the repository of `-r URL` for writing, with this state directory.
    ///
    /// # Errors
    /// What the store or the repository says.
    pub(crate) fn open_url_with(&self, state: &Path) -> Result<Opened, Failure> {
        match self.meant()? {
            Some(Meant::Url(url)) => {
                self.open_ad_hoc_in(&url, Access::Bulk, false, StateDirectory::new(state))
            }
            _ => self.open_url_of_option(false),
        }
    }

    /// Opens the repository of `-r URL` with a state directory that stays. Answers whether this host is enrolled there.
    ///
    /// # Errors
    /// What the store or the repository says.
    pub(crate) fn enrol_at(&self, state: &Path) -> Result<bool, Failure> {
        let Some(Meant::Url(url)) = self.meant()? else { return Ok(true) };
        let opened = self.open_ad_hoc_in(&url, Access::Bulk, false, StateDirectory::new(state))?;
        Ok(Repository::is_known(&StateDirectory::new(state), opened.repository.marker().id)?)
    }

    /// What the configuration says opens a repository.
    ///
    /// # Errors
    /// A secret that cannot be had.
    pub(crate) fn credentials(&self, encryption: &Encryption) -> Result<Credentials, Failure> {
        let reader = SecretReader::current(&self.environment);
        match encryption {
            Encryption::None => Ok(Credentials::Unencrypted),
            Encryption::Passphrase(secret) => {
                Ok(Credentials::Passphrase(secret.read(&reader)?.expose().to_owned()))
            }
            Encryption::Recipients { identity: None, .. } => Err(CliError::usage(
                "this host has no identity that opens the repository",
                "Let it be invited on a host that can read (refloat key invite), then here: refloat init --invite @FILE. Or give it an identity: encryption = { recipients = […], identity = { file = … } }",
            )
            .into()),
            Encryption::Recipients { identity: Some(secret), .. } => {
                let text = secret.read(&reader)?;
                AgeIdentity::parse(text.expose()).map(Credentials::Identity).ok_or_else(|| {
                    CliError::usage(
                        format!("what {} names is no age identity", secret.setting()),
                        "It is a file with a line AGE-SECRET-KEY-1…",
                    )
                    .into()
                })
            }
        }
    }

    /// Whether secrets can be read, without reading them.
    pub(crate) fn secret_reader(&self) -> SecretReader<'_> {
        SecretReader::current(&self.environment)
    }

    /// Secrets as another user would read them.
    pub(crate) fn secret_reader_of(&self, uid: u32, gids: Vec<u32>) -> SecretReader<'_> {
        SecretReader::on_behalf_of(uid, gids, &self.environment)
    }

    /// Opens the store of a configured repository.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn store(
        &self,
        config: &RepositoryConfig,
        access: Access,
        options: Options,
    ) -> Result<Arc<dyn Store>, Failure> {
        let mut settings = self.settings(config);
        settings.conditional = self.remembered(config);
        open_store(&config.url, &settings, access, options)
    }

    /// How the store at a URL is reached. Who brings a passphrase for a configured place brings only that.
    fn settings_of_url(&self, url: &RepositoryUrl) -> StoreSettings {
        let mut known = self.config.iter().flat_map(|config| config.repositories.values());
        known.find(|repository| repository.url == *url).map_or_else(
            || store::of_environment(url.location(), self.environment),
            |repository| self.settings(repository),
        )
    }

    /// What a configuration has to say beside the URL so that the store of `opened` is reached as it is now. `keep` puts a secret
    /// into a file and answers which.
    ///
    /// # Errors
    /// A secret that cannot be had or kept.
    pub(crate) fn store_lines(
        &self,
        opened: &Opened,
        keep: &mut dyn FnMut(&str, &str) -> Result<PathBuf, Failure>,
    ) -> Result<String, Failure> {
        let settings = match self.meant()? {
            Some(Meant::Url(url)) => self.settings_of_url(&url),
            _ => {
                let mut known = self.config.iter().flat_map(|config| config.repositories.values());
                match known.find(|repository| repository.name.as_str() == opened.name) {
                    Some(config) => self.settings(config),
                    None => return Ok(String::new()),
                }
            }
        };
        store::lines(&settings, keep)
    }

    fn settings(&self, config: &RepositoryConfig) -> StoreSettings {
        store::configured(&config.store, self.environment, self.wanted_ids())
    }

    /// How to reach the server of a source.
    pub(crate) fn connection(source: &SourceConfig) -> ConnectOptions {
        let mut options = ConnectOptions::default();
        if let Some(configured) = &source.connection {
            options.place = configured.host().map(|host| {
                if host.starts_with('/') {
                    Place::Socket(PathBuf::from(host))
                } else {
                    Place::Tcp(host.to_owned())
                }
            });
            options.port = configured.port();
            options.user = configured.user().map(str::to_owned);
            if let Some(name) = configured.dbname() {
                options.database = name.to_owned();
            }
        }
        options
    }
}

fn open_store(
    url: &RepositoryUrl,
    settings: &StoreSettings,
    access: Access,
    options: Options,
) -> Result<Arc<dyn Store>, Failure> {
    match access {
        Access::Bulk => {
            let opened = open(url.location(), settings, options);
            Ok(Arc::from(opened.map_err(|error| unopened(&url.to_string(), error))?))
        }
        Access::Within(limit) if url.directory().is_none() => {
            // Deadlines and retries of its own, cut to what is allowed here.
            let mut settings = settings.clone();
            let call = (limit / 3).max(Duration::from_millis(500));
            settings.patience.call = settings.patience.call.min(call);
            let opened = open(url.location(), &settings, options);
            Ok(Arc::from(opened.map_err(|error| unopened(&url.to_string(), error))?))
        }
        Access::Within(limit) => {
            let store = patient::open_within(url.location(), settings, options, limit)?;
            Ok(Arc::new(patient::patient(store, limit)))
        }
    }
}

/// Stands for "no credentials" inside [`Repository::open`]; the real reason is shown instead.
pub(crate) fn no_identity() -> RepoError {
    RepoError::NoKey { key: ObjectId::NONE, source: KeyError::NoIdentity }
}

fn compression(config: &RepositoryConfig) -> Compression {
    match config.compression {
        refloat_config::Compression::Zstd(level) => Compression::Zstd(level.into()),
        refloat_config::Compression::Lz4 => Compression::Lz4,
        refloat_config::Compression::None => Compression::None,
    }
}

impl Context {
    /// User and group that work for the sources, as far as that can be told.
    pub(crate) fn wanted_ids(&self) -> Option<(u32, u32)> {
        let mut sources = self.config.iter().flat_map(|config| config.sources.values());
        sources.find_map(|source| self.wanted(source).ok().flatten()).map(|wanted| wanted.ids())
    }
}
