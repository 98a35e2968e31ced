//! Seeing to it that what opens a repository is kept: the sheet is shown, and what was kept asked back.
//!
//! No sheet is printed, and nothing recorded, of a key that was not tried on the repository right then.

use refloat_config::RepositoryConfig;
use refloat_repo::repository::{Confirmation, Shown, sha256_of};
use refloat_types::{Clock as _, hex};

use super::proof::{Named, Proven, named, prove};
use super::try_entered;
use crate::context::{Context, Opened};
use crate::error::{CliError, Failure};
use crate::reach;
use crate::render::{can_ask, on_terminal};
use crate::rescue::Stored;
use crate::sheet::{Sheet, SheetFile};
use crate::terminal;

/// How what opens a new repository, or a new generation of it, is kept.
pub(crate) struct KeepKey<'a> {
    /// The sheet goes to this file.
    pub(crate) sheet: Option<&'a mut SheetFile>,
    /// Somebody says that it is kept.
    pub(crate) key_kept: bool,
}

/// What is known of a key that is to be kept.
pub(crate) enum Key {
    /// It is what the configuration names.
    Configured,
    /// It is this passphrase, which the repository was just sealed to.
    New(Named),
}

/// Shows the sheet of what nobody has confirmed yet, and asks whether it is kept. A file gets it in any case. Answers whether that
/// is shown.
///
/// # Errors
/// What opens it does not, or what the repository, the file or the terminal says.
pub(crate) fn keep(
    context: &Context,
    config: &RepositoryConfig,
    opened: &Opened,
    key: Key,
    how: KeepKey<'_>,
) -> Result<bool, Failure> {
    let repository = &opened.repository;
    let confirmed = !unconfirmed(opened)?;
    let read = match key {
        Key::New(named) => named,
        Key::Configured => match named(context, config, opened) {
            // Whoever took it off this host has not lost it by that.
            Err(failure) if confirmed && how.sheet.is_none() => {
                context.out.warn(&format!(
                    "repository {}: whether it opens with what the configuration names was not tried: {}",
                    opened.name,
                    failure.line()
                ));
                return Ok(true);
            }
            other => other?,
        },
    };
    let proven = prove(opened, read)?;
    if how.key_kept {
        if !confirmed {
            repository.put_confirmation(Shown::Declared, proven.opens, context.clock.now())?;
        }
        return Ok(true);
    }
    let to_file = how.sheet.is_some();
    if to_file || (!confirmed && on_terminal()) {
        give_sheet(context, &sheet_text(context, config, opened, &proven), how.sheet)?;
    }
    if confirmed || to_file || !can_ask() {
        return Ok(confirmed);
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
            Ok(opens) => {
                repository.put_confirmation(Shown::Entered, Some(opens), context.clock.now())?;
                return Ok(true);
            }
            Err(failure) => context.out.say(&format!("{}; try again", failure.message)),
        }
    }
}

/// Prints the sheet again, once what stands on it was tried.
///
/// # Errors
/// It opens nothing, or there is no place for the sheet.
pub(super) fn print_again(
    context: &Context,
    config: &RepositoryConfig,
    opened: &Opened,
    file: Option<&mut SheetFile>,
) -> Result<(), Failure> {
    let proven = prove(opened, named(context, config, opened)?)?;
    give_sheet(context, &sheet_text(context, config, opened, &proven), file)
}

/// Whether somebody has to be reminded, and what is known.
///
/// # Errors
/// What the repository says.
pub(crate) fn unconfirmed(opened: &Opened) -> Result<bool, Failure> {
    Ok(opened.repository.needs_confirmation() && confirmation(opened)?.is_none())
}

/// When somebody has shown, or said, last that what opens the repository now is kept.
///
/// # Errors
/// What the repository says.
pub(crate) fn confirmation(opened: &Opened) -> Result<Option<Confirmation>, Failure> {
    Ok(opened.repository.confirmation()?)
}

/// The sheet of a repository.
fn sheet_text(context: &Context, config: &RepositoryConfig, opened: &Opened, proven: &Proven) -> String {
    let all = context.config.iter().flat_map(|all| all.sources.values());
    let clusters = all.filter(|source| source.repositories.contains(&config.name)).map(|source| {
        let version = refloat_pg::server::read_pg_version(&source.data_directory)
            .map_or_else(|_| "PostgreSQL".to_owned(), |version| format!("PostgreSQL {version}"));
        format!("{}: {version} in {}", source.name, source.data_directory.display())
    });
    let certificates = config.store.ca_file.as_ref().map(|file| {
        // One that cannot be read is told of where the store is used.
        let digest = std::fs::read(file).map(|bytes| format!(", sha256 {}", hex::encode(&sha256_of(&bytes))));
        format!("keep a copy of {}{}", file.display(), digest.unwrap_or_default())
    });
    Sheet {
        name: config.name.as_str(),
        reach: &reach::of(config),
        certificates,
        generation: opened.repository.generation(),
        fingerprint: opened.repository.fingerprint(),
        passphrase: proven.passphrase.as_deref(),
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

/// Shows a sheet on the terminal, or adds it to a file; never to a pipe.
fn give_sheet(context: &Context, text: &str, file: Option<&mut SheetFile>) -> Result<(), Failure> {
    if let Some(file) = file {
        file.add(text, &format!("{} key sheet", context.command()))?;
        context.out.say(&format!(
            "The recovery sheet is in {}. Keep it elsewhere, then delete it here.",
            file.path().display()
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

/// Nobody can have kept what is only drawn now.
///
/// # Errors
/// `file`, into which a passphrase would be drawn, is said to be kept.
pub(crate) fn refuse_kept(key_kept: bool, file: &std::path::Path) -> Result<(), CliError> {
    if !key_kept {
        return Ok(());
    }
    let file = file.display();
    Err(CliError::Usage {
        message: format!(
            "--key-kept says that the passphrase is kept elsewhere, and there is none yet: {file} does not exist, and one would be drawn into it now"
        ),
        hints: vec![
            format!("Put the passphrase that is kept elsewhere into {file} first, of mode 0600"),
            "Or let one be drawn, and keep its sheet: --sheet FILE instead of --key-kept".to_owned(),
        ],
    })
}
