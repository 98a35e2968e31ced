//! What a repository's store can do: tried by `init` and `check`, remembered in the state directory, gone by from then on.
//!
//! What is remembered can be lost: a store that was not tried is taken for one that overwrites.

use std::collections::BTreeMap;

use refloat_config::RepositoryConfig;
use refloat_repo::crypt::random;
use refloat_store::{Abilities, Conditional, Options, Store, StoreErrorKind, probe};
use serde::{Deserialize, Serialize};

use super::opening::open_store;
use super::{Access, Context};
use crate::error::Failure;

/// Name of the file in the state directory.
const FILE: &str = "stores.json";

/// What is remembered of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    /// Creating what exists is refused.
    conditional: bool,
}

type All = BTreeMap<String, Remembered>;

/// Where a store really is: a URL names a bucket, and two endpoints may have one of that name.
fn name(config: &RepositoryConfig) -> String {
    match &config.store.endpoint {
        Some(endpoint) => format!("{} at {endpoint}", config.url),
        None => config.url.to_string(),
    }
}

impl Context {
    /// Whether the store was seen to refuse the creation of what exists; `None`: never tried from here.
    pub(super) fn remembered(&self, config: &RepositoryConfig) -> Option<bool> {
        if config.url.directory().is_some() {
            return None;
        }
        let all: All = self.state().read(FILE).ok().flatten()?;
        all.get(&name(config)).map(|of| of.conditional)
    }

    /// Tries what the store can do, and remembers it.
    ///
    /// # Errors
    /// What the store answers to something that has to work.
    pub(crate) fn try_store(&self, config: &RepositoryConfig, access: Access) -> Result<Abilities, Failure> {
        let open = |conditional| {
            let mut settings = self.settings(config);
            settings.conditional = conditional;
            open_store(&config.url, &settings, access, Options::default())
        };
        let key = || refloat_repo::layout::trial(random::object_id());
        let first: std::sync::Arc<dyn Store> = open(None)?;
        let abilities = match probe(first.as_ref(), &key()) {
            // Perhaps it takes no conditions: it answers 501 or 400 to what it does not understand.
            Err(error) if error.kind == StoreErrorKind::Other && config.url.directory().is_none() => {
                let plain = open(Some(false))?;
                let Ok(abilities) = probe(plain.as_ref(), &key()) else { return Err(error.into()) };
                Abilities { conditional: Conditional::Unsupported, ..abilities }
            }
            other => other?,
        };
        if config.url.directory().is_none() {
            let mut all: All = self.state().read(FILE).ok().flatten().unwrap_or_default();
            let seen = Remembered { conditional: abilities.conditional == Conditional::Refuses };
            if all.insert(name(config), seen) != Some(seen)
                && let Err(error) = self.state().write(FILE, &all)
            {
                tracing::debug!(%error, "what a store can do is not remembered");
            }
        }
        Ok(abilities)
    }
}

/// What is not as it could be, and what is done about it.
pub(crate) fn shortcomings(abilities: &Abilities) -> Vec<&'static str> {
    let mut said = Vec::new();
    match abilities.conditional {
        Conditional::Refuses => {}
        Conditional::Overwrites => said.push(
            "the store overwrites where it is told to create: packs, commits, WAL and records have names that cannot collide, and WAL is listed before and after it is put; two hosts must not run `takeover` or `key rotate` at the same moment; whoever holds these credentials can overwrite",
        ),
        Conditional::Unsupported => said.push(
            "the store does not know conditional create: packs, commits, WAL and records have names that cannot collide, and WAL is listed before and after it is put; two hosts must not run `takeover` or `key rotate` at the same moment; whoever holds these credentials can overwrite",
        ),
    }
    if !abilities.lists_at_once {
        said.push(
            "what was just stored is not listed at once: a conflict of two primaries may be seen later",
        );
    }
    said
}
