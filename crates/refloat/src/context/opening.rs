//! Opening the store of a repository, so that it answers in time where it must.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use refloat_config::{RepositoryConfig, RepositoryUrl};
use refloat_repo::RepoError;
use refloat_store::posix::Options;
use refloat_store::{OpenError, Store, StoreErrorKind, StoreSettings, open};

use super::repositories::Meant;
use super::{Access, Context, Opened, patient, store};
use crate::error::Failure;

/// Why a store could not be opened: a directory that is not there holds no repository.
pub(super) fn unopened(url: &str, error: OpenError) -> Failure {
    match error {
        OpenError::Store(error) if error.kind == StoreErrorKind::NotFound => {
            RepoError::NotARepository { store: url.to_owned() }.into()
        }
        other => other.into(),
    }
}

impl Context {
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
    pub(super) fn settings_of_url(&self, url: &RepositoryUrl) -> StoreSettings {
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

    pub(super) fn settings(&self, config: &RepositoryConfig) -> StoreSettings {
        store::configured(&config.store, self.environment, self.wanted_ids())
    }
}

pub(super) fn open_store(
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
        Access::Soon { first, then } => {
            let store = match url.directory() {
                None => {
                    // Why it does not answer is known before it is given up.
                    let mut settings = settings.clone();
                    settings.patience.first = first / 2;
                    open_store(url, &settings, Access::Within(then), options)?
                }
                Some(_) => {
                    let store = patient::open_within(url.location(), settings, options, first)?;
                    Arc::new(patient::patient(store, then))
                }
            };
            Ok(Arc::new(patient::soon(store, first)))
        }
    }
}
