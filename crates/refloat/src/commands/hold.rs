//! `hold add` and `hold remove`.

use clap::Subcommand;
use refloat_config::SourceConfig;
use refloat_engine::expire::GRACE;
use refloat_repo::layout;
use refloat_repo::repository::HoldWords;
use refloat_types::{BackupId, Clock as _, SourceId, Timestamp};
use serde_json::json;

use super::list::sources_of;
use crate::Outcome;
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::operations::Operation;
use crate::render::time;
use crate::times::{self, Moment};

/// Holds.
#[derive(Debug, Subcommand)]
pub(crate) enum Hold {
    /// Keep a backup whatever the retention says
    #[command(
        after_help = "Example:  sudo refloat hold add k7m2qxw4 --reason 'audit 2026' --until 2027-03-01Z"
    )]
    Add {
        /// Its id, as `refloat list` prints it
        #[arg(value_name = "BACKUP")]
        backup: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// It ends by itself then: a time with its zone [default: never]
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
    },
    /// End every hold of a backup: the retention decides again
    Remove {
        /// Its id
        #[arg(value_name = "BACKUP")]
        backup: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

impl Hold {
    /// Does it, in every repository that has the backup.
    pub(crate) fn run(self, mut context: Context) -> Result<Outcome, Failure> {
        let (text, reason) = match &self {
            Self::Add { backup, reason, .. } | Self::Remove { backup, reason } => (backup, reason),
        };
        let backup: BackupId = text.parse().map_err(|error: refloat_types::id::BadId| {
            CliError::usage(
                error.to_string(),
                "Ids are a letter and seven letters or digits; refloat list shows them.",
            )
        })?;
        let until = match &self {
            Self::Add { until: Some(until), .. } => Some(end(until, context.clock.now())?),
            _ => None,
        };
        let sources: Vec<SourceConfig> = context.config()?.sources.values().cloned().collect();
        context.assume(&sources, false)?;
        let words = HoldWords { reason: reason.clone(), who: format!("{}@{}", context.who, context.host) };
        let (mut found, mut outcome) = (Vec::new(), Outcome::Done);
        for config in context.repositories(None)? {
            let opened = context.open(&config, Access::Bulk)?;
            let Some(source) = source_of(&context, &opened, backup)? else { continue };
            let mut operation = Operation::begin(&context, self.name(), None);
            operation.about = Some(backup.to_string());
            operation.detail = Some(reason.clone());
            opened.repository.ensure_enrolled(context.clock.now())?;
            let result = match &self {
                Self::Add { .. } => add(&context, &opened, (source, backup), &words, until),
                Self::Remove { .. } => remove(&context, &opened, backup, &words),
            };
            operation.finish(&context, [&opened.repository], &result);
            if result? == Outcome::Findings {
                outcome = Outcome::Findings;
            }
            found.push(opened.name);
        }
        if found.is_empty() {
            let place = "the repositories".to_owned();
            return Err(
                CliError::NoBackup { id: text.clone(), source_name: "any source".to_owned(), place }.into()
            );
        }
        context.out.document(&json!({
            "backup": backup, "held": matches!(self, Self::Add { .. }), "until": until, "reason": reason, "repositories": found,
        }));
        Ok(outcome)
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Add { .. } => "hold add",
            Self::Remove { .. } => "hold remove",
        }
    }
}

/// When a hold ends: a moment to come, with its zone.
fn end(text: &str, now: Timestamp) -> Result<Timestamp, CliError> {
    let hint = "Write it with its zone: --until 2027-03-01Z, or --until '2027-03-01 00:00+01'";
    match times::parse(text, now) {
        Moment::At(at) if at > now => Ok(at),
        Moment::At(at) => Err(CliError::usage(format!("{} is over", time::moment(at)), hint)),
        Moment::Zoneless(_) => Err(CliError::usage(format!("\"{text}\" has no time zone"), hint)),
        Moment::Bad(why) => Err(CliError::usage(why, hint)),
        Moment::NotATime => Err(CliError::usage(format!("\"{text}\" is not a time"), hint)),
    }
}

fn source_of(context: &Context, opened: &Opened, backup: BackupId) -> Result<Option<SourceId>, Failure> {
    for source in sources_of(context, opened, None)? {
        if opened.repository.find_commit(source.id, backup)?.is_some() {
            return Ok(Some(source.id));
        }
    }
    Ok(None)
}

fn add(
    context: &Context,
    opened: &Opened,
    (source, backup): (SourceId, BackupId),
    words: &HoldWords,
    until: Option<Timestamp>,
) -> Result<Outcome, Failure> {
    let repository = &opened.repository;
    let now = context.clock.now();
    repository.add_hold(source, backup, words, until, now)?;
    let ends = until.map_or_else(String::new, |until| format!(" until {}", time::moment(until)));
    // Only now: an expiry that read the holds before this one was written is seen by its tombstone.
    let ending = format!("-{backup}");
    let commits = layout::commits(source);
    let names =
        |key: &refloat_store::Key| key.as_str().starts_with(&commits) && key.as_str().ends_with(&ending);
    let stones = repository.list_tombstones()?;
    let marked = stones.iter().filter(|stone| stone.names.iter().any(names)).map(|stone| stone.created).min();
    let late = marked.is_some_and(|at| time::since(at, now) + std::time::Duration::from_secs(3600) > GRACE);
    if repository.find_commit(source, backup)?.is_none() {
        let place = format!("repository {}: it was deleted meanwhile", opened.name);
        return Err(CliError::NoBackup {
            id: backup.to_string(),
            source_name: "any source".to_owned(),
            place,
        }
        .into());
    }
    context.out.say(&format!("repository {}: {backup} is held{ends}", opened.name));
    if late {
        context.out.warn(&format!(
            "repository {}: {backup} was marked to be deleted at {}, and an expiry may be deleting it right now: {} verify",
            opened.name,
            time::moment(marked.unwrap_or(now)),
            context.command()
        ));
        return Ok(Outcome::Findings);
    }
    Ok(Outcome::Done)
}

fn remove(
    context: &Context,
    opened: &Opened,
    backup: BackupId,
    words: &HoldWords,
) -> Result<Outcome, Failure> {
    let holds = opened.repository.list_holds()?;
    let mut released = 0;
    for hold in holds.iter().filter(|hold| hold.backup == backup) {
        opened.repository.release_hold(hold.id, words, context.clock.now())?;
        released += 1;
    }
    context.out.say(&match released {
        0 => format!("repository {}: {backup} was not held", opened.name),
        _ => format!("repository {}: {backup} is held no more; the retention decides", opened.name),
    });
    Ok(Outcome::Done)
}
