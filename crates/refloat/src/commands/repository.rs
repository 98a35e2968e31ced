//! `repository list`.

use std::time::Duration;

use clap::Subcommand;
use refloat_types::{ByteSize, Timestamp};
use serde::Serialize;

use crate::Outcome;
use crate::context::{Access, Context};
use crate::error::Failure;
use crate::render::text::table;
use crate::render::time;

/// Repositories.
#[derive(Debug, Subcommand)]
pub(crate) enum Repository {
    /// List the configured repositories: where they are, whether they answer, their fingerprints
    List,
}

#[derive(Serialize)]
struct Listed {
    name: String,
    url: String,
    answers: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encrypted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    free_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Repository {
    /// Does it.
    pub(crate) fn run(self, context: &Context) -> Result<Outcome, Failure> {
        let listed: Vec<Listed> =
            context.repositories(None)?.iter().map(|config| look(context, config)).collect();
        let row = |one: &Listed| {
            let state = match (&one.problem, &one.created) {
                (Some(problem), _) => problem.clone(),
                (None, Some(created)) => format!("since {}", time::moment(*created)),
                (None, None) => String::new(),
            };
            let free = one.free_bytes.map_or_else(String::new, |free| format!("{} free", ByteSize(free)));
            vec![one.name.clone(), one.url.clone(), one.fingerprint.clone().unwrap_or_default(), free, state]
        };
        context.out.text(&table(&listed.iter().map(row).collect::<Vec<_>>(), &[]));
        context.out.document(&serde_json::json!({ "repositories": listed }));
        Ok(Outcome::Done)
    }
}

fn look(context: &Context, config: &refloat_config::RepositoryConfig) -> Listed {
    let mut listed = Listed {
        name: config.name.to_string(),
        url: config.url.to_string(),
        answers: false,
        fingerprint: None,
        created: None,
        encrypted: None,
        free_bytes: None,
        problem: None,
    };
    let access = Access::Within(Duration::from_secs(2));
    let store = match context.store(config, access, refloat_store::posix::Options::default()) {
        Ok(store) => store,
        Err(failure) => {
            listed.problem = Some(failure.message);
            return listed;
        }
    };
    listed.free_bytes = store.space().ok().flatten().map(|space| space.free);
    match refloat_repo::Repository::read_marker(store.as_ref()) {
        Ok(marker) => {
            listed.answers = true;
            listed.fingerprint = Some(marker.root.fingerprint());
            listed.created = Some(marker.created);
            match refloat_repo::Repository::newest_generation(store.as_ref(), &marker) {
                Ok(generation) => listed.encrypted = Some(!generation.recipients.is_empty()),
                Err(error) => listed.problem = Some(error.to_string()),
            }
        }
        Err(error) => listed.problem = Some(error.to_string()),
    }
    listed
}
