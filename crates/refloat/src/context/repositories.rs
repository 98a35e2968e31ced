//! Which repositories a command is about, and opening them.

use std::path::Path;
use std::sync::Arc;

use refloat_config::{RepositoryConfig, RepositoryUrl, SourceConfig};
use refloat_repo::repository::Credentials;
use refloat_repo::{Compression, KeyError, RepoError, Repository, StateDirectory};
use refloat_store::Store;
use refloat_store::posix::Options;
use refloat_types::{Clock as _, ObjectId};

use super::opening::open_store;
use super::{Access, Context, Opened};
use crate::asking::Waiting;
use crate::error::{CliError, Failure};

/// Which repository is meant by `-r`.
pub(super) enum Meant<'c> {
    Configured(&'c RepositoryConfig),
    Url(RepositoryUrl),
}

impl Context {
    /// Whether `-r` names a place that no configuration knows.
    ///
    /// # Errors
    /// A URL or name that is none.
    pub(crate) fn is_ad_hoc(&self) -> Result<bool, Failure> {
        Ok(matches!(self.meant()?, Some(Meant::Url(_))))
    }

    pub(super) fn meant(&self) -> Result<Option<Meant<'_>>, Failure> {
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
        // Not while a person is asked.
        let waiting = Waiting::on(self.out, &url.to_string());
        let store = open_store(url, &settings, access, options)?;
        let marker = Repository::read_marker(store.as_ref())?;
        let encrypted = !Repository::newest_generation(store.as_ref(), &marker)?.recipients.is_empty();
        drop(waiting);
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
