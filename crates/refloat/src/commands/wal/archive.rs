//! Push and fetch: one process for each WAL file, so nothing is started that is not needed.
//!
//! What goes wrong is one line below 200 characters on stderr, which PostgreSQL copies into its log; all of it is in the
//! local log. A watchdog ends the process when its whole time is over, whatever hangs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use refloat_config::{RepositoryConfig, SourceConfig};
use refloat_engine::locked::{Locked, Purpose};
use refloat_engine::wal::fetch::Fetched;
use refloat_engine::wal::push::Pushed;
use refloat_engine::wal::{
    FetchOptions, PushError, PushOptions, fetch as fetch_file, fetch_if_there, push as push_file,
};
use refloat_pg::control::read_settled;
use refloat_repo::Repository;
use refloat_store::Key;
use refloat_types::{Clock as _, SystemIdentifier, WalFileName};

use super::backlog::Backlog;
use super::line::{KEPT, STOPS, one_line, say};
use super::{Fetch, Push};
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::healing::Healing;
use crate::operations::Operation;
use crate::render::complain;
use crate::several;
use crate::{Ended, Outcome};

/// How long a repository is waited for that others can do without.
const SOON: Duration = Duration::from_secs(10);
/// How long its first answer is waited for.
const FIRST: Duration = Duration::from_secs(4);

/// A push whose whole time was over.
const LATE_PUSH: &str = "WAL-090";
/// A fetch whose whole time was over.
const LATE_FETCH: &str = "WAL-091";

/// Ends the process with `code` when `limit` is over. What is done by then may set it to 0: the rest is left undone.
fn watch(limit: Duration, code: i32, line: String) -> Arc<AtomicI32> {
    let shared = Arc::new(AtomicI32::new(code));
    let code = Arc::clone(&shared);
    let watchdog = std::thread::Builder::new().name("watchdog".to_owned());
    let started = watchdog.spawn(move || {
        std::thread::sleep(limit);
        let code = code.load(Ordering::SeqCst);
        if code != 0 {
            complain(&line);
        }
        #[expect(
            clippy::exit,
            reason = "a call to a dead file system never comes back; nothing is acknowledged by this"
        )]
        std::process::exit(code);
    });
    if let Err(error) = started {
        tracing::warn!(%error, "no watchdog could be started");
    }
    shared
}

/// The data directory that PostgreSQL starts its commands in, where this is one.
fn here() -> Option<PathBuf> {
    let directory = std::env::current_dir().ok()?;
    directory.join("PG_VERSION").exists().then_some(directory)
}

fn find_source(context: &Context, name: Option<&str>, here: Option<&Path>) -> Result<SourceConfig, Failure> {
    let source = match (name, here) {
        (Some(name), _) => context.source(Some(name), "this")?,
        (None, Some(directory)) => context.config()?.source_for_data_directory(directory)?,
        (None, None) => context.source(None, "this, outside of a data directory,")?,
    };
    Ok(source.clone())
}

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
            "refloat[{LATE_PUSH}]: could not archive {name} within {} s; WAL is kept and offered again\n",
            limit.as_secs()
        ),
    );
    let mut operation = Operation::begin(&context, "wal push", Some(source.name.as_str()));
    operation.about = Some(name);
    let result = push_to_all(command, &context, &source, here.as_deref(), &mut operation);
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

/// `wal fetch`.
pub(super) fn fetch(command: &Fetch, context: Result<Context, Failure>) -> Result<Outcome, Ended> {
    let json = context.as_ref().is_ok_and(|context| context.global.json);
    let unknown = super::cannot_know();
    let is_standby = unknown == 1;
    match context
        .map_err(|failed| (failed, unknown))
        .and_then(|context| fetch_with(command, context, is_standby))
    {
        Ok(()) => Ok(Outcome::Done),
        Err((failed, code)) => {
            // A file that does not exist is an answer, which every recovery asks for; it is not worth a line of log.
            if code != 1 || is_standby {
                say(json, &failed, if code == 255 { STOPS } else { "" });
            }
            Err(Ended::Said(code))
        }
    }
}

/// A failure and what to end with.
type FetchFailed = (Failure, u8);

fn fetch_with(command: &Fetch, mut context: Context, is_standby: bool) -> Result<(), FetchFailed> {
    let unknown = if is_standby { 1 } else { 255 };
    let cannot_know = |failed: Failure| (failed, unknown);
    let here = here();
    let source = find_source(&context, command.source.as_deref(), here.as_deref()).map_err(cannot_know)?;
    context.assume(std::slice::from_ref(&source), false).map_err(cannot_know)?;
    if context.global.repository.is_none() {
        context.global.repository = context.fetched_from_alone(&source.name);
    }
    let name: WalFileName = command.name.parse().map_err(|error: refloat_types::wal_name::BadWalName| {
        cannot_know(CliError::usage(error.to_string(), "PostgreSQL gives it as %f.").into())
    })?;
    let limit = source.wal_fetch_timeout;
    // Longer than all attempts together: a call that hangs is ended by its own deadline first.
    let ends_with = watch(
        limit * 2,
        i32::from(unknown),
        format!(
            "refloat[{LATE_FETCH}]: could not fetch {name} within {} s; recovery stops here and can go on\n",
            limit.as_secs() * 2
        ),
    );
    let mut operation = Operation::begin(&context, "wal fetch", Some(source.name.as_str()));
    operation.about = Some(name.to_string());
    let asked = Asked { source: &source, here: here.as_deref(), name, is_standby, ends_with: &ends_with };
    let result = fetch_from_any(command, &context, &asked, &mut operation);
    let told = result.as_ref().map(|()| Outcome::Done).map_err(|(failed, _)| failed.clone());
    operation.finish_locally(&told);
    result
}

/// What a fetch is asked for.
struct Asked<'a> {
    source: &'a SourceConfig,
    here: Option<&'a Path>,
    name: WalFileName,
    is_standby: bool,
    /// What the watchdog ends the process with.
    ends_with: &'a AtomicI32,
}

fn fetch_from_any(
    command: &Fetch,
    context: &Context,
    asked: &Asked<'_>,
    operation: &mut Operation,
) -> Result<(), FetchFailed> {
    let Asked { source, here, name, is_standby, ends_with } = *asked;
    let unknown = if is_standby { 1 } else { 255 };
    let cannot_know = |failed: Failure| (failed, unknown);
    let until = Instant::now() + source.wal_fetch_timeout;
    if let Some((opened, fetched)) = fetch_as_seen(command, context, asked) {
        ends_with.store(0, Ordering::SeqCst);
        tell_fetched(context, name, std::slice::from_ref(&opened), &fetched, operation);
        return Ok(());
    }
    let mut opened = open_sure(context, source).map_err(cannot_know)?;
    let mut soon = None;
    if let Some(first) = opened.first()
        && let Ok(system) = cluster(&first.repository, source, here)
    {
        // One that did not answer a moment ago is asked only where these do not have it.
        let repositories: Vec<&Repository> = opened.iter().map(|one| &one.repository).collect();
        let deadline = until.saturating_duration_since(Instant::now());
        let options = FetchOptions { system, deadline, is_standby: true };
        soon = fetch_file(&repositories, &options, name, &command.dest).ok();
    }
    let (result, failed) = match soon {
        Some(fetched) => (Ok(fetched), None),
        None => {
            let failed =
                open_patiently(context, source, is_standby, until, &mut opened).map_err(cannot_know)?;
            let Some(first) = opened.first() else {
                let none =
                    || CliError::usage("there is no repository to fetch from", "Name one: -r NAME").into();
                return Err(cannot_know(failed.unwrap_or_else(none)));
            };
            let system = cluster(&first.repository, source, here).map_err(cannot_know)?;
            let repositories: Vec<&Repository> = opened.iter().map(|one| &one.repository).collect();
            let deadline = until.saturating_duration_since(Instant::now());
            let options = FetchOptions { system, deadline, is_standby };
            (fetch_file(&repositories, &options, name, &command.dest), failed)
        }
    };
    match result {
        Ok(fetched) => {
            // The file is in its place: however long a store hangs that is mended now, this fetch is a good one.
            ends_with.store(0, Ordering::SeqCst);
            tell_fetched(context, name, &opened, &fetched, operation);
            mend(context, source, &opened, &fetched.damaged);
            // The next file is had with two questions less.
            if let Some(first) = opened.first()
                && let Err(error) = first.repository.keep_as_seen()
            {
                tracing::debug!(%error, "what was seen of {} could not be kept", first.name);
            }
            Ok(())
        }
        Err(error) => {
            let code = error.exit_code(is_standby);
            match failed {
                // The others do not have it, and this one could not be asked.
                Some(failed) if code == 1 => Err(cannot_know(failed)),
                _ => Err((error.into(), code)),
            }
        }
    }
}

/// What a fetch that ended well leaves behind.
fn tell_fetched(
    context: &Context,
    name: WalFileName,
    opened: &[Opened],
    fetched: &Fetched,
    operation: &mut Operation,
) {
    operation.bytes = fetched.bytes;
    for why in &fetched.passed_over {
        complain(&format!("refloat: passed over: {why}\n"));
    }
    let answered = opened.iter().find(|one| one.repository.store().describe() == fetched.repository);
    if let Some(answered) = answered {
        context.note_answer(&answered.name, Ok(()));
    }
    context.out.document(&serde_json::json!({
        "name": name.to_string(), "bytes": fetched.bytes, "repository": fetched.repository,
    }));
}

/// The usual case over a network: the only repository has it, and is what it was when this host has opened it last. Then
/// the file is listed and read, and that is all. Whatever else is so is left to a repository that is opened in full.
fn fetch_as_seen(command: &Fetch, context: &Context, asked: &Asked<'_>) -> Option<(Opened, Fetched)> {
    let Asked { source, here, name, .. } = *asked;
    // Of several it has to be seen that they agree.
    let [config] = <[RepositoryConfig; 1]>::try_from(context.repositories(Some(source)).ok()?).ok()?;
    // A directory is opened in no time.
    if config.url.directory().is_some() || context.is_left_alone(config.name.as_str()) {
        return None;
    }
    let (control, _) = read_settled(here.unwrap_or(&source.data_directory)).ok()?;
    let access = Access::Within((source.wal_fetch_timeout / 4).min(SOON));
    let opened = context.open_as_seen(&config, access).ok()??;
    let fetched = fetch_if_there(&opened.repository, control.system_identifier, name, &command.dest)?;
    Some((opened, fetched))
}

/// Replaces what was damaged in one repository and right in another: the next recovery may have only this one.
fn mend(context: &Context, source: &SourceConfig, opened: &[Opened], damaged: &[(usize, Key)]) {
    for (place, of) in opened.iter().enumerate() {
        let objects: Vec<Key> =
            damaged.iter().filter(|(of, _)| *of == place).map(|(_, key)| key.clone()).collect();
        if !objects.is_empty() {
            let from = opened.iter().filter(|one| one.name != of.name).map(|one| &one.repository).collect();
            Healing { of, from, source: Some(source.name.as_str()), dry_run: false }.run(context, objects);
        }
    }
}

/// Opens those of a source's repositories that can be, where others are left alone for now; none where all are to be asked.
fn open_sure(context: &Context, source: &SourceConfig) -> Result<Vec<Opened>, Failure> {
    // Who names one means it.
    if context.global.repository.is_some() {
        return Ok(Vec::new());
    }
    let all = context.repositories(Some(source))?;
    let (doubtful, sure): (Vec<RepositoryConfig>, Vec<RepositoryConfig>) =
        all.into_iter().partition(|config| context.is_left_alone(config.name.as_str()));
    let mut opened = Vec::new();
    if !doubtful.is_empty() {
        open_more(context, source, sure, &mut opened);
    }
    Ok(opened)
}

/// Opens these at once, so that one that does not answer keeps nobody waiting for another. Answers what the first that cannot
/// be opened said.
fn open_more(
    context: &Context,
    source: &SourceConfig,
    configs: Vec<RepositoryConfig>,
    opened: &mut Vec<Opened>,
) -> Option<Failure> {
    let mut failed = None;
    let access = Access::Within(source.wal_fetch_timeout / 2);
    for (config, result) in several::open_at_once(context, configs, access) {
        match result {
            Ok(one) => opened.push(one),
            Err(failure) => {
                context.note_answer(config.name.as_str(), Err(&failure));
                failed = failed.or(Some(failure));
            }
        }
    }
    failed
}

/// Opens what can be opened of a source's other repositories; asks again until `until` while none can. Answers why not all of
/// them are open.
fn open_patiently(
    context: &Context,
    source: &SourceConfig,
    is_standby: bool,
    until: Instant,
    opened: &mut Vec<Opened>,
) -> Result<Option<Failure>, Failure> {
    let configs = context.repositories(Some(source))?;
    loop {
        let is_open = |config: &RepositoryConfig| opened.iter().any(|one| one.name == config.name.as_str());
        let missing = configs.iter().filter(|config| !is_open(config)).cloned().collect();
        let failed = open_more(context, source, missing, opened);
        let pause = Duration::from_secs(1);
        if !opened.is_empty() || is_standby || Instant::now() + pause > until {
            let place = |one: &Opened| configs.iter().position(|config| config.name.as_str() == one.name);
            opened.sort_by_key(place);
            return Ok(failed);
        }
        std::thread::sleep(pause);
    }
}

/// Which cluster it is: by the directory that asks, else by the source's own, else as the repository knows it.
fn cluster(
    repository: &Repository,
    source: &SourceConfig,
    here: Option<&Path>,
) -> Result<SystemIdentifier, Failure> {
    let directory = here.unwrap_or(&source.data_directory);
    match read_settled(directory) {
        Ok((control, _)) => Ok(control.system_identifier),
        Err(error) => match repository.find_source(&source.name)?.and_then(|found| found.system) {
            Some(system) => Ok(system),
            None => Err(error.into()),
        },
    }
}
