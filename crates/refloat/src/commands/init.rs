//! `init`: makes what is missing, enrols this host, prints the sheet and PostgreSQL's settings. Safe to repeat.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use refloat_config::{Encryption, RepositoryConfig, SecretRef, SecretSource, SourceConfig};
use refloat_repo::crypt::identity::{Identity as AgeIdentity, Recipient, draw_passphrase};
use refloat_repo::repository::{InitOptions, Protection, TOKEN_PREFIX, Token};
use refloat_repo::{RepoError, Repository};
use refloat_store::posix::Options;
use refloat_types::Clock as _;
use serde::Serialize;

use super::key::{KeepKey, KeptKey, keep, no_place_for_sheet, refuse_kept};
use crate::Outcome;
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::identity::{is_root, make_directory};
use crate::operations::Operation;
use crate::render::on_terminal;
use crate::render::text::shell_path;
use crate::rescue::{self, Look};
use crate::sheet::SheetFile;

/// Make the repositories that are configured, enrol this host, print the recovery sheet and PostgreSQL's settings
///
/// Safe to repeat, and needed on every node that backs up or restores. Where the passphrase's file does not exist yet, a
/// passphrase is drawn and kept there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo refloat init                         prints the recovery sheet on the terminal and asks for the passphrase back
  sudo refloat init --sheet /root/sheet     writes it to a new file instead
  sudo refloat init --invite @/run/token    on a host that shall only write: see key invite
  refloat init --key-kept                   for automation whose passphrase comes from a secret store")]
pub(crate) struct Init {
    /// Write the recovery sheet to this new file (0600) instead of the terminal
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    /// What opens the repository is there and kept elsewhere already: no sheet, no question
    #[arg(long, conflicts_with = "sheet")]
    key_kept: bool,
    /// Enrol this host by a token of `key invite`: @FILE, or - for stdin; the token itself would be seen by `ps`
    #[arg(long, value_name = "TOKEN")]
    invite: Option<String>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Made {
    name: String,
    url: String,
    fingerprint: String,
    made: bool,
    confirmed: bool,
    encrypted: bool,
}

/// How long a store behind a network is asked whether it holds a repository.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// What is found of a repository before anything is done.
struct Plan {
    config: RepositoryConfig,
    exists: bool,
    draws_passphrase: bool,
}

impl Init {
    /// Does it.
    pub(crate) fn run(self, mut context: Context) -> Result<Outcome, Failure> {
        let sources: Vec<SourceConfig> = context.config()?.sources.values().cloned().collect();
        let owner = context.wanted_ids().unwrap_or((context.identity.uid, context.identity.gid));
        let plans: Vec<Plan> = context
            .repositories(None)?
            .into_iter()
            .map(|config| plan(&context, config))
            .collect::<Result<_, Failure>>()?;
        let token = self.invite.as_deref().map(|text| read_token(&context, text)).transpose()?;
        if token.is_some() {
            super::key::only(plans.iter().map(|plan| plan.config.clone()).collect::<Vec<_>>().as_slice())?;
        }
        for file in
            plans.iter().filter(|plan| plan.draws_passphrase).filter_map(|plan| passphrase_file(&plan.config))
        {
            refuse_kept(self.key_kept, file)?;
        }
        if self.dry_run {
            return Ok(tell_plan(&context, &plans));
        }
        let makes_key = |plan: &Plan| !plan.exists && !matches!(plan.config.encryption, Encryption::None);
        if !self.key_kept && self.sheet.is_none() && !on_terminal() && plans.iter().any(makes_key) {
            return Err(no_place_for_sheet().into());
        }
        // Who repeats it has the sheet; a new repository's never goes where another is.
        let is_repeated = plans.iter().all(|plan| plan.exists);
        let make =
            if is_repeated { SheetFile::make_once } else { |path: &Path| SheetFile::make(path).map(Some) };
        let mut sheet = self.sheet.as_deref().map(make).transpose()?.flatten();
        if let Some(path) = self.sheet.as_deref().filter(|_| sheet.is_none()) {
            let path = path.display();
            context.out.say(&format!(
                "{path} is there and stays as it is; another sheet: {} key sheet",
                context.command()
            ));
        }
        for plan in &plans {
            prepare(&context, plan, owner)?;
        }
        context.assume(&sources, false)?;
        let mut made = Vec::new();
        for plan in plans {
            let mut operation = Operation::begin(&context, "init", None);
            operation.detail = Some(format!("repository {}", plan.config.name));
            let opened = match open_or_make(&context, &plan, token.as_ref()) {
                Ok(opened) => opened,
                Err(failure) => {
                    operation.finish_locally(&Err(failure.clone()));
                    return Err(failure);
                }
            };
            rescue::keep(&context, &opened, Look::Now);
            let how = KeepKey { sheet: sheet.as_mut(), key_kept: self.key_kept };
            let result = keep(&context, &plan.config, &opened, KeptKey::Configured, how);
            let ended = result.as_ref().map(|_| Outcome::Done).map_err(Failure::clone);
            operation.finish(&context, [&opened.repository], &ended);
            made.push(tell(&context, &plan, &opened, result?));
        }
        let lines = settings(&context);
        tell_settings(&context, &lines);
        context.out.document(&serde_json::json!({ "repositories": made, "postgresql_conf": lines }));
        Ok(Outcome::Done)
    }
}

/// The token of `--invite`. It is never repeated, not in an error either.
fn read_token(context: &Context, text: &str) -> Result<Token, Failure> {
    let read = match (text, text.strip_prefix('@')) {
        ("-", _) => std::io::read_to_string(std::io::stdin().take(4096))
            .map_err(|source| CliError::file("read the token from", "stdin", source))?,
        (_, Some(file)) => std::fs::read_to_string(file)
            .map_err(|source| CliError::file("read the token from", file, source))?,
        _ => {
            context.out.warn(
                "other users of this host can see a token in a command line: --invite @FILE, or - for stdin",
            );
            text.to_owned()
        }
    };
    Token::parse(&read).ok_or_else(|| {
        CliError::usage(
            "what --invite gives is no token, or not a whole one",
            format!("It is one line that begins with {TOKEN_PREFIX}, printed by `refloat key invite`."),
        )
        .into()
    })
}

fn plan(context: &Context, config: RepositoryConfig) -> Result<Plan, Failure> {
    let exists = match config.url.directory() {
        Some(directory) => directory.join(refloat_repo::layout::REPOSITORY).exists(),
        None => {
            let options = Options { read_only: true, ..Options::default() };
            let store = context.store(&config, Access::Within(PATIENCE), options)?;
            match Repository::read_marker(store.as_ref()) {
                Ok(_) => true,
                Err(RepoError::NotARepository { .. }) => false,
                Err(error) => return Err(error.into()),
            }
        }
    };
    let draws_passphrase = passphrase_file(&config).is_some_and(|file| !exists && !file.exists());
    Ok(Plan { config, exists, draws_passphrase })
}

fn passphrase_file(config: &RepositoryConfig) -> Option<&Path> {
    match config.encryption.passphrase().map(SecretRef::source) {
        Some(SecretSource::File(path)) => Some(path),
        _ => None,
    }
}

/// The passphrase of an encryption, where it has one.
trait HasPassphrase {
    fn passphrase(&self) -> Option<&SecretRef>;
}

impl HasPassphrase for Encryption {
    fn passphrase(&self) -> Option<&SecretRef> {
        match self {
            Self::Passphrase(secret) => Some(secret),
            _ => None,
        }
    }
}

fn tell_plan(context: &Context, plans: &[Plan]) -> Outcome {
    for plan in plans {
        let name = &plan.config.name;
        if plan.draws_passphrase
            && let Some(file) = passphrase_file(&plan.config)
        {
            context.out.text(&format!("would draw a passphrase into {}\n", file.display()));
        }
        let what = if plan.exists { "would open and enrol this host in" } else { "would make" };
        context.out.text(&format!("{what} repository {name} at {}\n", plan.config.url));
    }
    let planned: Vec<_> = plans
        .iter()
        .map(|plan| {
            serde_json::json!({ "name": plan.config.name.to_string(), "exists": plan.exists, "draws_passphrase": plan.draws_passphrase })
        })
        .collect();
    context.out.document(&serde_json::json!({ "dry_run": true, "repositories": planned }));
    Outcome::Done
}

/// What only root may be able to do: directories below root's, and the passphrase's file. Everything is given to `owner`.
fn prepare(context: &Context, plan: &Plan, owner: (u32, u32)) -> Result<(), Failure> {
    if let Some(directory) = plan.config.url.directory() {
        make_directory(directory, 0o750, owner)
            .map_err(|source| CliError::file("create", directory, source))?;
    }
    if plan.draws_passphrase
        && let Some(file) = passphrase_file(&plan.config)
    {
        keep_passphrase(file, owner)
            .map_err(|source| CliError::file("keep a new passphrase in", file, source))?;
        context.out.say(&format!("A passphrase was drawn and is kept in {}.", file.display()));
    }
    Ok(())
}

/// 0640 root:GROUP when root makes it for another user, 0600 otherwise. Durable before it is used.
pub(crate) fn keep_passphrase(path: &Path, (uid, gid): (u32, u32)) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let for_other = is_root() && uid != 0;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(format!("{}\n", draw_passphrase()).as_bytes())?;
    if for_other {
        std::os::unix::fs::fchown(&file, Some(0), Some(gid))?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o640))?;
    }
    file.sync_all()?;
    path.parent().map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
}

fn open_or_make(context: &Context, plan: &Plan, token: Option<&Token>) -> Result<Opened, Failure> {
    let config = &plan.config;
    let mut store = context.store(config, Access::Bulk, Options { create: true, ..Options::default() })?;
    if config.url.directory().is_none() {
        let abilities = context.try_store(config, Access::Within(PATIENCE))?;
        for said in crate::context::abilities::shortcomings(&abilities) {
            context.out.warn(&format!("repository {}: {said}", config.name));
        }
        // Opened again, now that it is known what it can do.
        store = context.store(config, Access::Bulk, Options { create: true, ..Options::default() })?;
    }
    if let Some(token) = token {
        Repository::accept(store.clone(), context.state(), token, context.clock.now())?;
    }
    match Repository::read_marker(store.as_ref()) {
        Ok(_) => {
            let opened = catch_up(context, config, context.open_in(config, store.clone())?, store)?;
            opened.repository.ensure_enrolled(context.clock.now())?;
            Ok(opened)
        }
        Err(RepoError::NotARepository { .. }) => {
            let options = InitOptions {
                protection: protection(context, &config.encryption)?,
                now: context.clock.now(),
            };
            Repository::init(store.clone(), context.state(), options)?;
            context.open_in(config, store)
        }
        Err(error) => Err(error.into()),
    }
}

/// A host that has opened the repository before it was rotated, or without an identity, opens it as it is now, where the
/// configuration says how.
fn catch_up(
    context: &Context,
    config: &RepositoryConfig,
    opened: Opened,
    store: std::sync::Arc<dyn refloat_store::Store>,
) -> Result<Opened, Failure> {
    let writes_only = matches!(config.encryption, Encryption::Recipients { identity: None, .. });
    if !opened.repository.lacks_identity() || writes_only {
        return Ok(opened);
    }
    let mut refused = None;
    let adopted = opened.repository.adopt(context.clock.now(), &mut || {
        context.credentials(&config.encryption).map_err(|failure| {
            refused = Some(failure);
            crate::context::no_identity()
        })
    });
    adopted.map_err(|error| refused.unwrap_or_else(|| error.into()))?;
    context.open_in(config, store)
}

pub(crate) fn protection(context: &Context, encryption: &Encryption) -> Result<Protection, Failure> {
    let reader = context.secret_reader();
    Ok(match encryption {
        Encryption::None => Protection::None,
        Encryption::Passphrase(secret) => Protection::Passphrase(secret.read(&reader)?.expose().to_owned()),
        Encryption::Recipients { recipients, identity } => {
            let bad = |text: &String| {
                CliError::usage(format!("\"{text}\" is no age recipient"), "It begins with age1.")
            };
            let recipients: Vec<Recipient> = recipients
                .iter()
                .map(|text| Recipient::parse(text).ok_or_else(|| bad(text)))
                .collect::<Result<_, _>>()?;
            let identity = match identity {
                None => None,
                Some(secret) => {
                    let text = secret.read(&reader)?;
                    let identity = AgeIdentity::parse(text.expose()).ok_or_else(|| {
                        CliError::usage(
                            format!("what {} names is no age identity", secret.setting()),
                            "It is a file with a line AGE-SECRET-KEY-1…",
                        )
                    })?;
                    Some(identity)
                }
            };
            Protection::Recipients { recipients, identity }
        }
    })
}

fn tell(context: &Context, plan: &Plan, opened: &Opened, confirmed: bool) -> Made {
    let repository = &opened.repository;
    let done =
        if plan.exists { "was there; this host is enrolled" } else { "is made; this host is enrolled" };
    context.out.text(&format!(
        "repository {} at {} {done}\n  fingerprint  {}\n",
        opened.name,
        plan.config.url,
        repository.fingerprint()
    ));
    if !repository.is_encrypted() && !matches!(plan.config.encryption, Encryption::None) {
        context.out.warn(&format!(
            "the configuration says that repository {0} is encrypted, and it is not; to turn encryption on:  {1} -r {0} key rotate",
            opened.name,
            context.command()
        ));
    } else if !repository.is_encrypted() {
        context.out.warn(&format!(
            "repository {} is not encrypted: whoever can read it can read the databases",
            opened.name
        ));
    }
    if !confirmed {
        context.out.text(&format!(
            "! nobody has shown that the recovery sheet is kept: if {} is lost, nobody can open these backups.     {1} key confirm\n  \
             where there is no sheet yet, this prints it:     {1} key sheet\n",
            context.host,
            context.command()
        ));
    }
    Made {
        name: opened.name.clone(),
        url: plan.config.url.to_string(),
        fingerprint: repository.fingerprint(),
        made: !plan.exists,
        confirmed,
        encrypted: repository.is_encrypted(),
    }
}

/// The lines for `postgresql.conf`.
pub(crate) fn settings(context: &Context) -> Vec<String> {
    vec![
        "archive_mode = on".to_owned(),
        format!("archive_command = '{}'", archive_command(context).replace('\'', "''")),
        "archive_timeout = 60".to_owned(),
    ]
}

/// The command as PostgreSQL shall run it: nothing in it depends on the environment.
pub(crate) fn archive_command(context: &Context) -> String {
    let program = shell_path(&context.executable);
    // PostgreSQL replaces %p; any other % is doubled for it.
    format!("{} wal push %p", format!("{program}{}", context.config_option()).replace('%', "%%"))
}

fn tell_settings(context: &Context, lines: &[String]) {
    let sources = context.config.iter().flat_map(|config| config.sources.values());
    for source in sources {
        let place = super::config::settings_file(&source.data_directory)
            .unwrap_or_else(|| source.data_directory.join("postgresql.conf"));
        context.out.text(&format!("\nsource {}: these lines belong in {}\n", source.name, place.display()));
        for line in lines {
            context.out.text(&format!("{line}\n"));
        }
    }
    context.out.text(&format!(
        "\narchive_mode needs a restart of the server, the others a reload. Then:  {0} check,  {0} backup\n",
        context.command()
    ));
}
