//! `wal fetch`: one process for each WAL file, so nothing is started that is not needed.
//!
//! What goes wrong is one line below 200 characters on stderr, which PostgreSQL copies into its log; all of it is in the
//! local log. A watchdog ends the process when its whole time is over, whatever hangs.

use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use refloat_config::{RepositoryConfig, SourceConfig};
use refloat_engine::wal::fetch::Fetched;
use refloat_engine::wal::{FetchOptions, fetch as fetch_file, fetch_if_there};
use refloat_pg::control::read_settled;
use refloat_repo::Repository;
use refloat_store::Key;
use refloat_types::{SystemIdentifier, WalFileName};

use super::Fetch;
use super::ahead::{self, Reading};
use super::called::{find_source, here, watch};
use super::line::{STOPS, say};
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::healing::Healing;
use crate::operations::Operation;
use crate::render::complain;
use crate::several;
use crate::{Ended, Outcome};

/// How long a repository is waited for that was seen before, until it is opened in full.
const SOON: Duration = Duration::from_secs(10);
/// A fetch whose whole time was over.
const LATE: &str = "WAL-091";

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
    if context.global.repository.is_none()
        && let Some(here) = &here
    {
        context.global.repository = context.fetched_from_alone(&source.name, here);
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
            "refloat[{LATE}]: could not fetch {name} within {} s; recovery stops here and can go on\n",
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
    let reading = Reading { source, here, name, dest: &command.dest };
    if let Some((repository, bytes)) = ahead::take(context, &reading) {
        operation.bytes = bytes;
        document_fetched(context, name, bytes, &repository);
        return Ok(());
    }
    if let Some((opened, fetched)) = fetch_as_seen(command, context, asked) {
        ends_with.store(0, Ordering::SeqCst);
        tell_fetched(context, name, std::slice::from_ref(&opened), &fetched, operation);
        ahead::begin(context, &reading, &fetched.repository);
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
            ahead::begin(context, &reading, &fetched.repository);
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
    document_fetched(context, name, fetched.bytes, &fetched.repository);
}

fn document_fetched(context: &Context, name: WalFileName, bytes: u64, repository: &str) {
    let name = name.to_string();
    context.out.document(&serde_json::json!({ "name": name, "bytes": bytes, "repository": repository }));
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
