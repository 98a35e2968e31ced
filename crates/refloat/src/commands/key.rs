//! Keys: `confirm` and `sheet` here, the others in files of their own.

mod invite;
mod list;
mod rewrap;
mod rotate;

use clap::Subcommand;
use refloat_config::{Encryption, RepositoryConfig, SourceConfig};
use refloat_repo::crypt::identity::Identity as AgeIdentity;
use refloat_repo::repository::{Confirmation, Shown};
use refloat_types::Clock as _;

use crate::Outcome;
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::operations::Operation;
use crate::render::{can_ask, on_terminal, time};
use crate::rescue::Stored;
use crate::sheet::Sheet;
use crate::terminal;

/// Keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Prove that what opens the repository is kept: paste the passphrase from where you keep it
    #[command(
        after_help = "Example:  sudo refloat key confirm\nRepeat it now and then, such as once a month."
    )]
    Confirm,
    /// Print the recovery sheet again, on the terminal only
    Sheet {
        /// Write it to this new file (0600) instead
        #[arg(long, value_name = "FILE")]
        sheet: Option<std::path::PathBuf>,
    },
    /// List who can read, the data keys and what needs them, and who may write
    #[command(after_help = "\
Examples:
  sudo refloat key list
  sudo refloat key list --json
Exit code 3: there is an object that cannot be believed.")]
    List,
    Rotate(rotate::Rotate),
    Rewrap(rewrap::Rewrap),
    Invite(invite::Invite),
}

impl Key {
    /// Does it.
    pub(crate) fn run(self, mut context: Context) -> Result<Outcome, Failure> {
        if let Self::Rotate(rotate) = self {
            // It may have to make a file as root first.
            return rotate.run(context);
        }
        let sources: Vec<SourceConfig> = context.config()?.sources.values().cloned().collect();
        context.assume(&sources, false)?;
        let configs = context.repositories(None)?;
        match self {
            Self::List => list::run(&context, &configs),
            Self::Invite(invite) => invite.run(&context, &configs),
            Self::Rewrap(rewrap) => rewrap.run(&context, &configs),
            Self::Confirm => each(&context, &configs, "key confirm", |_, opened| confirm(&context, opened)),
            Self::Sheet { sheet } => each(&context, &configs, "key sheet", |config, opened| {
                print_again(&context, config, opened, sheet.as_deref())
            }),
            Self::Rotate(_) => Ok(Outcome::Done),
        }
    }
}

/// Does something with each repository, and records it there.
fn each(
    context: &Context,
    configs: &[RepositoryConfig],
    name: &'static str,
    work: impl Fn(&RepositoryConfig, &Opened) -> Result<(), Failure>,
) -> Result<Outcome, Failure> {
    for config in configs {
        let opened = context.open(config, Access::Bulk)?;
        let mut operation = Operation::begin(context, name, None);
        operation.detail = Some(format!("repository {}", config.name));
        let result = work(config, &opened).map(|()| Outcome::Done);
        operation.finish(context, [&opened.repository], &result);
        result?;
    }
    Ok(Outcome::Done)
}

/// The one repository that is meant.
pub(crate) fn only(configs: &[RepositoryConfig]) -> Result<&RepositoryConfig, Failure> {
    if let [config] = configs {
        return Ok(config);
    }
    let names: Vec<_> = configs.iter().map(|config| config.name.to_string()).collect();
    let hint = format!("Name one of {}: -r NAME", names.join(", "));
    Err(CliError::usage("which repository is meant?", hint).into())
}

/// How what opens a new repository, or a new generation of it, is kept.
#[derive(Clone, Copy)]
pub(crate) struct KeepKey<'a> {
    /// The sheet goes to this new file.
    pub(crate) sheet: Option<&'a std::path::Path>,
    /// Somebody says that it is kept.
    pub(crate) key_kept: bool,
}

/// Shows the sheet of what nobody has confirmed yet, and asks whether it is kept. Answers whether that is shown.
///
/// # Errors
/// What the repository or the terminal says.
pub(crate) fn keep(
    context: &Context,
    config: &RepositoryConfig,
    opened: &Opened,
    how: KeepKey<'_>,
    passphrase: Option<&str>,
) -> Result<bool, Failure> {
    let repository = &opened.repository;
    if !unconfirmed(opened)? {
        return Ok(true);
    }
    if how.key_kept {
        repository.put_confirmation(Shown::Declared, context.clock.now())?;
        return Ok(true);
    }
    if how.sheet.is_some() || on_terminal() {
        give_sheet(context, &sheet_text(context, config, opened, passphrase), how.sheet)?;
    }
    if !can_ask() || how.sheet.is_some() {
        return Ok(false);
    }
    loop {
        let entered = terminal::secret(&format!(
            "Paste what opens repository {} from where you kept it (Enter alone: later, by key confirm): ",
            opened.name
        ))?;
        if entered.is_empty() {
            return Ok(false);
        }
        match try_entered(opened, &entered) {
            Ok(()) => {
                repository.put_confirmation(Shown::Entered, context.clock.now())?;
                return Ok(true);
            }
            Err(failure) => context.out.say(&format!("{}; try again", failure.message)),
        }
    }
}

/// Asks for what opens the repository, and records that it was shown.
fn confirm(context: &Context, opened: &Opened) -> Result<(), Failure> {
    let repository = &opened.repository;
    if !repository.needs_confirmation() {
        context.out.say(&format!("repository {}: nothing has to be kept to open it", opened.name));
        return Ok(());
    }
    let entered = entered(context, &opened.name)?;
    try_entered(opened, &entered)?;
    let confirmation = repository.put_confirmation(Shown::Entered, context.clock.now())?;
    context.out.say(&format!(
        "repository {}: it opens. Confirmed {}; repeat it now and then.",
        opened.name,
        time::moment(confirmation.at)
    ));
    context.out.document(&serde_json::json!({ "repository": opened.name, "confirmation": confirmation }));
    Ok(())
}

fn entered(context: &Context, name: &str) -> Result<String, Failure> {
    if let Some(file) = &context.global.passphrase_file {
        let text = std::fs::read_to_string(file).map_err(|source| CliError::file("read", file, source))?;
        return Ok(text.trim_end_matches(['\n', '\r']).to_owned());
    }
    if can_ask() {
        return Ok(terminal::secret(&format!(
            "Paste what opens repository {name}, from where you keep it (not from this host): "
        ))?);
    }
    Err(CliError::NeedsTerminal {
        message: "the passphrase has to be pasted by a person, and there is no terminal".to_owned(),
        hints: vec![
            "Run it on a terminal: sudo refloat key confirm".to_owned(),
            "For automation that takes it from a secret store: refloat init --key-kept, or --passphrase-file FILE".to_owned(),
        ],
    }
    .into())
}

/// Whether what was entered opens the repository.
///
/// # Errors
/// It does not.
pub(crate) fn try_entered(opened: &Opened, entered: &str) -> Result<(), Failure> {
    if entered.contains("AGE-SECRET-KEY-") {
        let fits = AgeIdentity::parse(entered).is_some_and(|identity| {
            opened.repository.generation().recipients.contains(&identity.recipient())
        });
        return if fits { Ok(()) } else { Err(CliError::NotTheKey(opened.name.clone()).into()) };
    }
    match opened.repository.try_passphrase(entered) {
        Ok(()) => Ok(()),
        Err(refloat_repo::RepoError::WrongPassphrase { .. }) => {
            Err(CliError::NotTheKey(opened.name.clone()).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// What is still readable to everybody since encryption was turned on; `None` where nothing is.
///
/// # Errors
/// What the repository says.
pub(crate) fn unencrypted(opened: &Opened) -> Result<Option<String>, Failure> {
    let count = opened.repository.unencrypted_backups()?;
    let backups = crate::render::text::count(usize::try_from(count).unwrap_or(usize::MAX), "older backup");
    let are = if count == 1 { "is" } else { "are" };
    Ok((count > 0).then(|| {
        format!("{backups} in {}, and the WAL before, {are} not encrypted until they expire", opened.name)
    }))
}

/// Whether somebody has to be reminded, and what is known.
///
/// # Errors
/// What the repository says.
pub(crate) fn unconfirmed(opened: &Opened) -> Result<bool, Failure> {
    let repository = &opened.repository;
    let confirmed: Option<Confirmation> =
        if repository.needs_confirmation() { repository.confirmation()? } else { return Ok(false) };
    Ok(confirmed.is_none())
}

fn print_again(
    context: &Context,
    config: &RepositoryConfig,
    opened: &Opened,
    file: Option<&std::path::Path>,
) -> Result<(), Failure> {
    let passphrase = configured_passphrase(context, config, opened)?;
    give_sheet(context, &sheet_text(context, config, opened, passphrase.as_deref()), file)
}

/// The passphrase that the configuration names, for the sheet. One that opens nothing any more is on no sheet.
///
/// # Errors
/// It cannot be read, or the repository was rotated to another one.
pub(crate) fn configured_passphrase(
    context: &Context,
    config: &RepositoryConfig,
    opened: &Opened,
) -> Result<Option<String>, Failure> {
    let Encryption::Passphrase(secret) = &config.encryption else { return Ok(None) };
    let generation = opened.repository.generation();
    if !generation.has_passphrase {
        return Ok(None);
    }
    let text = secret.read(&context.secret_reader())?.expose().to_owned();
    if generation.number > 0 {
        opened.repository.try_passphrase(&text)?;
    }
    Ok(Some(text))
}

/// The sheet of a repository.
pub(crate) fn sheet_text(
    context: &Context,
    config: &RepositoryConfig,
    opened: &Opened,
    passphrase: Option<&str>,
) -> String {
    let all = context.config.iter().flat_map(|all| all.sources.values());
    let clusters = all.filter(|source| source.repositories.contains(&config.name)).map(|source| {
        let version = refloat_pg::server::read_pg_version(&source.data_directory)
            .map_or_else(|_| "PostgreSQL".to_owned(), |version| format!("PostgreSQL {version}"));
        format!("{}: {version} in {}", source.name, source.data_directory.display())
    });
    Sheet {
        name: config.name.as_str(),
        url: config.url.to_string(),
        generation: opened.repository.generation(),
        fingerprint: opened.repository.fingerprint(),
        passphrase,
        host: &context.host,
        now: context.clock.now(),
        clusters: clusters.collect(),
        stored: stored_program(context, opened),
    }
    .text()
}

/// The program in the rescue kit; a kit that cannot be read is no reason to print no sheet.
fn stored_program(context: &Context, opened: &Opened) -> Option<Stored> {
    match opened.repository.kits() {
        Ok(kits) => kits.newest().and_then(Stored::of),
        Err(error) => {
            context.out.warn(&format!("the rescue kit of {} cannot be read: {error}", opened.name));
            None
        }
    }
}

/// Shows a sheet on the terminal, or writes it to a new file; never to a pipe.
///
/// # Errors
/// There is neither, or the file exists.
pub(crate) fn give_sheet(
    context: &Context,
    text: &str,
    file: Option<&std::path::Path>,
) -> Result<(), Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    if let Some(path) = file {
        let fail = |source| CliError::file("write the recovery sheet to", path, source);
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
        context.out.say(&format!(
            "The recovery sheet is in {}. Keep it elsewhere, then delete it here.",
            path.display()
        ));
        return Ok(());
    }
    if !on_terminal() {
        return Err(no_place_for_sheet().into());
    }
    crate::render::print(&format!("\n{text}\n"));
    Ok(())
}

/// A sheet is never written to a pipe.
pub(crate) fn no_place_for_sheet() -> CliError {
    CliError::NeedsTerminal {
        message: "the recovery sheet is shown on a terminal only, and there is none".to_owned(),
        hints: vec![
            "Run it on a terminal, or let it be written: --sheet FILE".to_owned(),
            "For automation whose passphrase comes from a secret store: refloat init --key-kept".to_owned(),
        ],
    }
}
