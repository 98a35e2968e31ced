//! `wal push`: one process for each WAL file, so nothing is started that is not needed.
//!
//! What goes wrong is one line below 200 characters on stderr, which PostgreSQL copies into its log; all of it is in the
//! local log. A watchdog ends the process when its whole time is over, whatever hangs.

use std::path::Path;
use std::time::Duration;

use refloat_config::SourceConfig;
use refloat_engine::locked::{Locked, Purpose};
use refloat_engine::wal::push::Pushed;
use refloat_engine::wal::{PushError, PushOptions, push as push_file};
use refloat_repo::Repository;
use refloat_types::Clock as _;

use super::backlog::Backlog;
use super::called::{find_source, here, watch};
use super::line::{KEPT, one_line, say};
use super::{Push, ahead};
use crate::context::{Access, Context};
use crate::error::{CliError, Failure};
use crate::operations::Operation;
use crate::render::complain;
use crate::several;
use crate::{Ended, Outcome};

/// How long a repository is waited for that others can do without.
const SOON: Duration = Duration::from_secs(10);
/// How long its first answer is waited for.
const FIRST: Duration = Duration::from_secs(4);
/// A push whose whole time was over.
const LATE: &str = "WAL-090";

/// `wal push`.
pub(super) fn push(command: &Push, context: Result<Context, Failure>) -> Result<Outcome, Ended> {
    let json = context.as_ref().is_ok_and(|context| context.global.json);
    match context.and_then(|context| push_with(command, context)) {
        Ok(()) => Ok(Outcome::Done),
        Err(failed) => {
            say(json, &failed, KEPT);
            Err(Ended::Said(failed.exit_code()))
        }
    }
}

fn push_with(command: &Push, mut context: Context) -> Result<(), Failure> {
    let here = here();
    // First of all, and before any source is looked for: a clone lies where no configuration knows it.
    if let Some(directory) = &here
        && refuse_locked(directory)? == Purpose::Copy
    {
        return Ok(());
    }
    let source = find_source(&context, command.source.as_deref(), here.as_deref())?;
    context.assume(std::slice::from_ref(&source), false)?;
    let name = command.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let limit = source.wal_push_timeout;
    watch(
        limit,
        5,
        format!(
            "refloat[{LATE}]: could not archive {name} within {} s; WAL is kept and offered again\n",
            limit.as_secs()
        ),
    );
    let mut operation = Operation::begin(&context, "wal push", Some(source.name.as_str()));
    operation.about = Some(name);
    let result = push_to_all(command, &context, &source, here.as_deref(), &mut operation);
    ahead::tidy(&command.file);
    let directory = here.as_deref().unwrap_or(&source.data_directory);
    let backlog = Backlog { context: &context, source: &source.name, data_directory: directory };
    match &result {
        Ok(()) => {
            if let Some(line) = backlog.stored(&command.file) {
                complain(&line);
            }
        }
        Err(_) => backlog.failed(&command.file),
    }
    operation.finish_locally(&result.as_ref().map(|()| Outcome::Done).map_err(Failure::clone));
    result
}

/// What a lock in `directory` says: refuses an undecided one; without a lock this is nobody's copy.
fn refuse_locked(directory: &Path) -> Result<Purpose, Failure> {
    let locked = Locked::read(directory)
        .map_err(|source| PushError::LockUnreadable { directory: directory.to_owned(), source })?;
    match locked {
        None => Ok(Purpose::Undecided),
        Some(locked) if locked.purpose == Purpose::Copy => Ok(Purpose::Copy),
        Some(locked) => Err(PushError::Locked { source_name: locked.source, at: locked.at }.into()),
    }
}

fn push_to_all(
    command: &Push,
    context: &Context,
    source: &SourceConfig,
    here: Option<&Path>,
    operation: &mut Operation,
) -> Result<(), Failure> {
    let limit = source.wal_push_timeout;
    let configs = context.repositories(Some(source))?;
    let enough = (source.acknowledge as usize).min(configs.len());
    // Where others are enough, one that does not answer is soon left behind.
    let patience = |together: usize| match together > enough {
        true => {
            let then = (limit * 8 / 10).min(SOON);
            Access::Soon { first: FIRST.min(then), then }
        }
        false => Access::Within(limit * 8 / 10),
    };
    let mut all = several::open(context, configs, enough, patience);
    if all.opened.len() >= enough {
        let repositories: Vec<&Repository> = all.opened.iter().map(|one| &one.repository).collect();
        let options = PushOptions {
            compression: all.opened.first().map(|one| one.compression).unwrap_or_default(),
            now: context.clock.now(),
            expected_system: None,
            data_directory: Some(here.unwrap_or(&source.data_directory)),
            source: Some(&source.name),
            acknowledge: enough,
            deadline: limit * 8 / 10,
        };
        match push_file(&repositories, &options, &command.file)? {
            Pushed::Discarded { .. } => return Ok(()),
            Pushed::Stored(stored) => {
                operation.bytes = stored.file_bytes;
                for warning in &stored.warnings {
                    complain(&format!("refloat[{}]: {warning}\n", warning.code()));
                }
                let mut behind = Vec::new();
                for left in &stored.left_behind {
                    let name = all.opened[left.place].name.clone();
                    let failure = Failure::of(&left.error);
                    context.note_answer(&name, Err(&failure));
                    complain(&format!(
                        "refloat: {name} does not have {}: {}\n",
                        stored.name,
                        one_line(&failure, "")
                    ));
                    behind.push(name);
                }
                for (name, failure) in &all.failed {
                    complain(&format!(
                        "refloat: {name} does not have {}: {}\n",
                        stored.name,
                        one_line(failure, "")
                    ));
                    behind.push(name.to_string());
                }
                let directory = here.unwrap_or(&source.data_directory);
                let backlog = Backlog { context, source: &source.name, data_directory: directory };
                backlog.told(&behind).iter().for_each(|line| complain(line));
                behind.extend(all.later.iter().map(ToString::to_string));
                for stored in all.opened.iter().filter(|one| !behind.contains(&one.name)) {
                    context.note_answer(&stored.name, Ok(()));
                }
                context.out.document(&serde_json::json!({
                    "name": stored.name.to_string(), "bytes": stored.file_bytes, "seconds": stored.seconds,
                    "behind": behind,
                    "already_there": stored.repositories.iter().all(|one| one.already_there),
                }));
                tracing::info!("{stored}");
                several::catch_up_later(context, source, &behind);
                return Ok(());
            }
        }
    }
    let none =
        || CliError::usage("there is no repository", "Write [repository.NAME] into the configuration.");
    if enough > 1
        && let Some((_, first)) = all.failed.first()
    {
        let error = CliError::NotEnough {
            what: format!(
                "{} is not archived",
                command.file.file_name().unwrap_or_default().to_string_lossy()
            ),
            source_name: source.name.to_string(),
            needed: enough,
            answering: all.opened.iter().map(|one| one.name.clone()).collect(),
            away: all.failed.iter().map(|(name, _)| name.to_string()).collect(),
            severity: first.severity,
        };
        let mut failure = Failure::from(error);
        failure.detail = all.failed.iter().map(|(name, why)| format!("{name}: {}", why.line())).collect();
        return Err(failure);
    }
    let mut failed = all.failed.drain(..).map(|(_, failure)| failure);
    let mut first = failed.next().unwrap_or_else(|| none().into());
    first.more.extend(failed);
    Err(first)
}
