//! Keys: `confirm` and `sheet` here, the others in files of their own.

mod invite;
mod keeping;
mod list;
mod proof;
mod rewrap;
mod rotate;

use clap::Subcommand;
use refloat_config::{RepositoryConfig, SourceConfig};
use refloat_repo::crypt::identity::{Identity as AgeIdentity, Recipient};
use refloat_repo::repository::Shown;
use refloat_types::Clock as _;

use crate::Outcome;
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::operations::Operation;
use crate::render::{can_ask, time};
use crate::sheet::SheetFile;
use crate::terminal;
use keeping::print_again;
pub(crate) use keeping::{
    KeepKey, Key as KeptKey, confirmation, keep, no_place_for_sheet, refuse_kept, unconfirmed,
};
pub(crate) use proof::{Named, named, prove};

/// Keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Prove that what opens the repository is kept: paste the passphrase from where you keep it
    #[command(
        after_help = "Example:  sudo refloat key confirm\nRepeat it now and then, such as once a month."
    )]
    Confirm,
    /// Print the recovery sheet again, on the terminal only
    ///
    /// What the configuration names is tried on the repository first: no sheet is printed that opens nothing.
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
        let configs = context.repositories(None)?;
        let mut file = match &self {
            Self::Sheet { sheet: Some(path) } => Some(SheetFile::make(path)?),
            _ => None,
        };
        context.assume(&sources, false)?;
        match self {
            Self::List => list::run(&context, &configs),
            Self::Invite(invite) => invite.run(&context, &configs),
            Self::Rewrap(rewrap) => rewrap.run(&context, &configs),
            Self::Confirm => each(&context, &configs, "key confirm", |_, opened| confirm(&context, opened)),
            Self::Sheet { .. } => each(&context, &configs, "key sheet", |config, opened| {
                print_again(&context, config, opened, file.as_mut())
            }),
            Self::Rotate(rotate) => rotate.run(context),
        }
    }
}

/// Does something with each repository, and records it there.
fn each(
    context: &Context,
    configs: &[RepositoryConfig],
    name: &'static str,
    mut work: impl FnMut(&RepositoryConfig, &Opened) -> Result<(), Failure>,
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

/// Asks for what opens the repository, and records that it was shown.
fn confirm(context: &Context, opened: &Opened) -> Result<(), Failure> {
    let repository = &opened.repository;
    if !repository.needs_confirmation() {
        context.out.say(&format!("repository {}: nothing has to be kept to open it", opened.name));
        return Ok(());
    }
    let entered = entered(context, &opened.name)?;
    let opens = try_entered(opened, &entered)?;
    let confirmation = repository.put_confirmation(Shown::Entered, Some(opens), context.clock.now())?;
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

/// Whether what was entered opens the repository: answers the public half of the identity that does.
///
/// # Errors
/// It does not.
fn try_entered(opened: &Opened, entered: &str) -> Result<Recipient, Failure> {
    if entered.contains("AGE-SECRET-KEY-") {
        let recipient = AgeIdentity::parse(entered).map(|identity| identity.recipient());
        let fits = recipient.filter(|one| opened.repository.generation().recipients.contains(one));
        return fits.ok_or_else(|| CliError::NotTheKey(opened.name.clone()).into());
    }
    match opened.repository.try_passphrase(entered) {
        Ok(opens) => Ok(opens),
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
