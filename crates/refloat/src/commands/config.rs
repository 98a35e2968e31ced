//! `config check`, `config show`, `config schema`.

use std::path::Path;

use clap::Subcommand;
use refloat_config::{Encryption, RepositoryConfig, SecretError, SecretRef};

use crate::Outcome;
use crate::context::Context;
use crate::error::Failure;
use crate::render::text::count;
use crate::render::{json, print};

/// The configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Check every value, and whether secrets are there and safe from others
    Check,
    /// Print what applies; secrets are shown by where they are
    Show {
        /// Say where each value comes from
        #[arg(long)]
        origin: bool,
    },
    /// Print the JSON schema of the file, for editors
    Schema,
}

impl Config {
    /// Does it.
    pub(crate) fn run(self, context: &Context) -> Result<Outcome, Failure> {
        match self {
            Self::Check => check(context),
            Self::Show { origin } => {
                let config = context.config()?;
                context.out.text(&config.show(origin));
                if context.out.json {
                    print(&format!("{:#}\n", config.view(origin)));
                }
                Ok(Outcome::Done)
            }
            Self::Schema => Ok(schema()),
        }
    }
}

/// Prints the schema.
pub(crate) fn schema() -> Outcome {
    print(&format!("{:#}\n", refloat_config::schema()));
    Outcome::Done
}

/// Secrets that the configuration names.
pub(crate) fn secrets(config: &refloat_config::Config) -> Vec<&SecretRef> {
    config.repositories.values().flat_map(secrets_of).collect()
}

/// Secrets that one repository is opened with.
pub(crate) fn secrets_of(repository: &RepositoryConfig) -> Vec<&SecretRef> {
    let encryption = match &repository.encryption {
        Encryption::Passphrase(secret) => Some(secret),
        Encryption::Recipients { identity, .. } => identity.as_ref(),
        Encryption::None => None,
    };
    let store = repository.store.credentials.iter().flat_map(|credentials| credentials.secrets.values());
    encryption.into_iter().chain(store).collect()
}

/// Whether a secret is there and safe, for the user who will read it; root looks on that user's behalf.
pub(crate) fn check_secret(context: &Context, secret: &SecretRef) -> Result<(), SecretError> {
    let owner = context.wanted_ids();
    match owner {
        Some((uid, gid)) if crate::identity::is_root() => {
            secret.check(&context.secret_reader_of(uid, vec![gid]))
        }
        _ => secret.check(&context.secret_reader()),
    }
}

fn check(context: &Context) -> Result<Outcome, Failure> {
    let config = context.config()?;
    for secret in secrets(config) {
        check_secret(context, secret)?;
    }
    let warnings: Vec<String> = config.warnings().iter().map(ToString::to_string).collect();
    let (repositories, sources) = (config.repositories.len(), config.sources.len());
    if context.out.json {
        let document = serde_json::json!({
            "file": config.file, "files": config.files, "warnings": warnings,
            "repositories": config.repositories.keys().map(ToString::to_string).collect::<Vec<_>>(),
            "sources": context.source_names(),
        });
        print(&format!("{}\n", json(&document)));
        return Ok(Outcome::Done);
    }
    for warning in &warnings {
        context.out.text(&format!("warn  {warning}\n"));
    }
    context.out.text(&format!(
        "ok    {}{}: {}, {}\n",
        config.file.display(),
        more_files(config.files.len()),
        repositories_text(repositories),
        count(sources, "source")
    ));
    Ok(Outcome::Done)
}

fn repositories_text(number: usize) -> String {
    if number == 1 { "1 repository".to_owned() } else { format!("{number} repositories") }
}

/// ` + 2 files of conf.d`.
pub(crate) fn more_files(files: usize) -> String {
    match files {
        0 | 1 => String::new(),
        _ => format!(" + {} of conf.d", count(files - 1, "file")),
    }
}

/// Where settings of a server go: Debian has a directory for them.
pub(crate) fn settings_file(data_directory: &Path) -> Option<std::path::PathBuf> {
    let cluster = refloat_pg::server::debian_cluster(Path::new("/etc/postgresql"), data_directory)?;
    Some(cluster.config_directory.join("conf.d").join("refloat.conf"))
}
