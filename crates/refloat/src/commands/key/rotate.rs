//! `key rotate`: who can read from now on, without writing any data again.
//!
//! A new passphrase is durable in its file before anything is sealed for it. The file of the old one is left as it is. Killed
//! anywhere, the repository opens with the old or with the new one, and the command can be run again.

use std::path::{Path, PathBuf};

use clap::Args;
use refloat_config::{Encryption, RepositoryConfig, SecretSource, SourceConfig};
use refloat_repo::repository::{Generation, Protection};
use refloat_types::Clock as _;

use super::{KeepKey, KeptKey, Named, keep, no_place_for_sheet, refuse_kept};
use crate::Outcome;
use crate::commands::init::{keep_passphrase, protection};
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::operations::Operation;
use crate::render::on_terminal;
use crate::render::text::shell_path;
use crate::sheet::SheetFile;

/// Change who can read what is stored from now on: a new passphrase, or other recipients. No data is written again
///
/// To the passphrase of --new-passphrase-file; without it, to what `encryption` in the configuration says now. Backups made
/// before open with the new passphrase too. Who knew the old one and has a copy of the repository can still open what was sealed
/// until now: `key rewrap --delete-old` takes that out of the repository, not out of copies.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo refloat key rotate --new-passphrase-file /etc/refloat/passphrase-2     draws a passphrase into that file, where it does not exist yet
  sudo refloat key rotate                   to the passphrase file or the recipients that the configuration names now
Then, on every other host: the new passphrase in its configuration, and  refloat init")]
pub(crate) struct Rotate {
    /// The new passphrase is in this file; where there is none yet, one is drawn into it (0600)
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
    /// Write the new recovery sheet to this new file (0600) instead of the terminal
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
    /// The new passphrase is in its file and kept elsewhere already: no sheet, no question
    #[arg(long, conflicts_with = "sheet")]
    key_kept: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// What is rotated to.
enum Target {
    Passphrase { text: String, file: Option<PathBuf> },
    Recipients(Protection),
}

impl Rotate {
    /// Does it.
    pub(super) fn run(self, mut context: Context) -> Result<Outcome, Failure> {
        let configs = context.repositories(None)?;
        let config = super::only(&configs)?;
        if !self.dry_run && !self.key_kept && self.sheet.is_none() && !on_terminal() {
            return Err(no_place_for_sheet().into());
        }
        let missing = self.file(config).filter(|file| !file.exists()).map(Path::to_owned);
        if let Some(file) = &missing {
            refuse_kept(self.key_kept, file)?;
        }
        let mut sheet = match &self.sheet {
            Some(path) if !self.dry_run => Some(SheetFile::make(path)?),
            _ => None,
        };
        let owner = context.wanted_ids().unwrap_or((context.identity.uid, context.identity.gid));
        if let Some(file) = missing.as_deref().filter(|_| !self.dry_run) {
            keep_passphrase(file, owner)
                .map_err(|source| CliError::file("keep a new passphrase in", file, source))?;
            context.out.say(&format!("A passphrase was drawn and is kept in {}.", file.display()));
        }
        let sources: Vec<SourceConfig> = context.config()?.sources.values().cloned().collect();
        context.assume(&sources, false)?;
        let opened = context.open(config, Access::Bulk)?;
        opened.repository.check_root()?;
        if self.dry_run {
            let target = match missing {
                Some(file) => Target::Passphrase { text: String::new(), file: Some(file) },
                None => self.target(&context, config, &opened)?,
            };
            tell_plan(&context, &opened, &target);
            return Ok(Outcome::Done);
        }
        let mut operation = Operation::begin(&context, "key rotate", None);
        operation.detail = Some(format!("repository {}", config.name));
        let result = self.rotate(&context, config, &opened, sheet.as_mut());
        let ended = result.as_ref().map(|_| Outcome::Done).map_err(Failure::clone);
        // With the state as it is now: the record is sealed to the new recipients.
        let again = context.open(config, Access::Bulk).unwrap_or(opened);
        operation.finish(&context, [&again.repository], &ended);
        result?;
        Ok(Outcome::Done)
    }

    /// The file that the new passphrase is in, if it is in one.
    fn file<'a>(&'a self, config: &'a RepositoryConfig) -> Option<&'a Path> {
        match (&self.new_passphrase_file, &config.encryption) {
            (Some(file), _) => Some(file),
            (None, Encryption::Passphrase(secret)) => match secret.source() {
                SecretSource::File(file) => Some(file),
                _ => None,
            },
            _ => None,
        }
    }

    fn target(
        &self,
        context: &Context,
        config: &RepositoryConfig,
        opened: &Opened,
    ) -> Result<Target, Failure> {
        let repository = &opened.repository;
        let file = self.file(config).map(Path::to_owned);
        if let Some(path) = &self.new_passphrase_file {
            let text =
                std::fs::read_to_string(path).map_err(|source| CliError::file("read", path, source))?;
            let text = text.trim_end_matches(['\n', '\r']).to_owned();
            if text.trim().is_empty() {
                return Err(CliError::usage(
                    format!("{} holds no passphrase", path.display()),
                    "Name a file that does not exist yet: a passphrase is drawn into it.",
                )
                .into());
            }
            return new_passphrase(opened, text, file);
        }
        match protection(context, &config.encryption)? {
            Protection::Passphrase(text) => new_passphrase(opened, text, file),
            Protection::None => Err(nothing_to_do(opened, "the configuration says \"none\"").into()),
            Protection::Recipients { mut recipients, identity } => {
                let mut now = repository.generation().recipients.clone();
                now.sort();
                recipients.sort();
                if now == recipients {
                    return Err(nothing_to_do(opened, "its recipients are those of the configuration").into());
                }
                Ok(Target::Recipients(Protection::Recipients { recipients, identity }))
            }
        }
    }

    fn rotate(
        &self,
        context: &Context,
        config: &RepositoryConfig,
        opened: &Opened,
        sheet: Option<&mut SheetFile>,
    ) -> Result<Generation, Failure> {
        let (to, passphrase, file) = match self.target(context, config, opened)? {
            Target::Passphrase { text, file } => (Protection::Passphrase(text.clone()), Some(text), file),
            Target::Recipients(to) => (to, None, None),
        };
        let turned_on = !opened.repository.is_encrypted();
        let generation = opened.repository.rotate(&to, context.clock.now())?;
        let again = context.open(config, Access::Bulk)?;
        let what = file.as_deref().map_or_else(
            || "the passphrase that the configuration names".to_owned(),
            |file| format!("the passphrase in {}", file.display()),
        );
        let key = match passphrase {
            Some(text) => KeptKey::New(Named::Passphrase { text, what }),
            None => KeptKey::Configured,
        };
        let confirmed = keep(context, config, &again, key, KeepKey { sheet, key_kept: self.key_kept })?;
        tell(context, &again, &generation, turned_on);
        if let Some(file) = self.new_passphrase_file.as_deref() {
            context.out.text(&format!(
                "Now let the configuration name it, here and on every host:\n  \
                 encryption = {{ passphrase = {{ file = \"{}\" }} }}\n",
                file.display()
            ));
        }
        if !confirmed {
            context.out.text(&format!(
                "! nobody has shown that the new recovery sheet is kept.     {} key confirm\n",
                context.command()
            ));
        }
        context.out.document(&serde_json::json!({
            "repository": opened.name,
            "fingerprint": again.repository.fingerprint(),
            "generation": generation,
            "passphrase_file": file,
            "encryption_turned_on": turned_on,
            "confirmed": confirmed,
        }));
        Ok(generation)
    }
}

fn new_passphrase(opened: &Opened, text: String, file: Option<PathBuf>) -> Result<Target, Failure> {
    let repository = &opened.repository;
    if repository.generation().has_passphrase && repository.try_passphrase(&text).is_ok() {
        return Err(nothing_to_do(opened, "this passphrase opens it already").into());
    }
    Ok(Target::Passphrase { text, file })
}

fn nothing_to_do(opened: &Opened, why: &str) -> CliError {
    CliError::Usage {
        message: format!("repository {}: there is nothing to change to: {why}", opened.name),
        hints: vec![
            "For a new passphrase: --new-passphrase-file FILE; where there is no such file, one is drawn into it"
                .to_owned(),
            "For other recipients: change `encryption` in the configuration first".to_owned(),
        ],
    }
}

fn tell_plan(context: &Context, opened: &Opened, target: &Target) {
    let number = opened.repository.generation().number + 1;
    let (what, file) = match target {
        Target::Passphrase { file: Some(file), text } => {
            let drawn = if text.is_empty() { "a new passphrase, drawn into" } else { "the passphrase in" };
            (format!("{drawn} {}", shell_path(file)), Some(file))
        }
        Target::Passphrase { file: None, .. } => {
            ("the passphrase that the configuration names".to_owned(), None)
        }
        Target::Recipients(Protection::Recipients { recipients, .. }) => {
            let all: Vec<&str> = recipients.iter().map(|recipient| recipient.as_str()).collect();
            (format!("the recipients {}", all.join(", ")), None)
        }
        Target::Recipients(_) => ("nobody".to_owned(), None),
    };
    context.out.text(&format!("would seal repository {} to {what} (generation {number})\n", opened.name));
    context.out.document(&serde_json::json!({
        "dry_run": true, "repository": opened.name, "number": number, "to": what, "passphrase_file": file,
    }));
}

fn tell(context: &Context, opened: &Opened, generation: &Generation, turned_on: bool) {
    let recipients: Vec<&str> = generation.recipients.iter().map(|recipient| recipient.as_str()).collect();
    let opens = if generation.has_passphrase { "the new passphrase" } else { "the private keys of these" };
    context.out.text(&format!(
        "repository {}: generation {}, sealed to {}; {opens} opens it\n  fingerprint  {}, as before\n",
        opened.name,
        generation.number,
        recipients.join(", "),
        opened.repository.fingerprint()
    ));
    if turned_on {
        context.out.text(
            "  Encryption is on from now. What was stored before stays as it is, readable by whoever reads the store,\n  \
             until it expires; the next backup is a full one.\n",
        );
    } else {
        context.out.text(&format!(
            "  What was sealed before is still open to who has the old key and reads the store:     {} key rewrap --delete-old\n",
            context.command()
        ));
    }
    context.out.text(
        "  Other hosts write on. To read, each needs the new key in its configuration, and:  refloat init\n",
    );
}
