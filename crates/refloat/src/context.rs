//! What every command starts from: the configuration, who we are, the clock, the repositories.

pub(crate) mod abilities;
mod alone;
mod behind;
mod down;
mod opening;
mod patient;
mod repositories;
mod secrets;
mod store;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use refloat_config::{Config, ConfigError, DEFAULT_FILE, SourceConfig};
use refloat_pg::sql::{ConnectOptions, Place};
use refloat_repo::{Compression, Repository, StateDirectory};
use refloat_types::SystemClock;

use crate::cli::Global;
use crate::error::{CliError, Failure, of_config};
use crate::identity::{Identity, Wanted, is_root, make_directory, user_name};
use crate::render::Out;

pub(crate) use behind::Behind;
pub(crate) use repositories::no_identity;

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
    /// Whether it answers at all is found out within `first`; once it has answered, each call may take longer.
    Soon {
        /// Until the first answer.
        first: Duration,
        /// As for [`Access::Within`].
        then: Duration,
    },
}

impl Access {
    /// For somebody who waits for what several repositories answer: a slow one has its time, and one that is gone does not hold up
    /// the others.
    pub(crate) const ASKED: Self =
        Self::Soon { first: Duration::from_secs(8), then: Duration::from_secs(30) };

    /// The same where only one is asked: nobody goes on without it.
    pub(crate) fn of_one(self) -> Self {
        match self {
            Self::Soon { first, then } => Self::Soon { first: first.max(then), then },
            other => other,
        }
    }

    /// The same, where a repository did not answer somebody else a moment ago.
    pub(crate) fn sooner(self, did_not_answer: bool) -> Self {
        match self {
            Self::Soon { first, then } if did_not_answer => {
                Self::Soon { first: first.min(Duration::from_secs(3)), then }
            }
            other => other,
        }
    }
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

    /// A variable of the environment, for a process that does the same work.
    pub(crate) fn variable(&self, name: &str) -> Option<OsString> {
        (self.environment)(name)
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

impl Context {
    /// User and group that work for the sources, as far as that can be told.
    pub(crate) fn wanted_ids(&self) -> Option<(u32, u32)> {
        let mut sources = self.config.iter().flat_map(|config| config.sources.values());
        sources.find_map(|source| self.wanted(source).ok().flatten()).map(|wanted| wanted.ids())
    }
}
