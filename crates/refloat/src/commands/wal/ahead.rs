//! `wal fetch` in a recovery over a network: it takes what a process has fetched before it was asked for, and starts that
//! process.

use std::fs;
use std::path::Path;
use std::time::Duration;

use refloat_config::{RepositoryConfig, SourceConfig};
use refloat_engine::wal::fetch::ahead::{ReadAhead, Spool, read_ahead, window};
use refloat_pg::control::{ClusterState, read_settled};
use refloat_pg::server::postmaster_pid;
use refloat_repo::Repository;
use refloat_types::{WalFileName, WalSegmentName};

use super::Fetch;
use super::called::{find_source, here};
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::{left_behind, several};

/// The name that PostgreSQL has every WAL segment put under that it replays. Who fetches one by hand wants no other.
const IN_RECOVERY: &str = "RECOVERYXLOG";
/// One fetch follows another where no more time lies between them.
const A_MOMENT: Duration = Duration::from_secs(10);

/// What is fetched, and where to.
pub(super) struct Reading<'a> {
    pub source: &'a SourceConfig,
    /// The data directory that asks.
    pub here: Option<&'a Path>,
    pub name: WalFileName,
    pub dest: &'a Path,
}

impl Reading<'_> {
    /// The data directory that it is for.
    fn directory(&self) -> &Path {
        self.here.unwrap_or(&self.source.data_directory)
    }

    /// The WAL segment, where a recovery asks for one that others follow.
    fn segment(&self) -> Option<WalSegmentName> {
        match self.name {
            WalFileName::Segment(name) if self.dest.ends_with(IN_RECOVERY) => Some(name),
            _ => None,
        }
    }
}

/// Where a file is that was fetched before: moves it to its place, and answers its repository and its bytes.
pub(super) fn take(context: &Context, reading: &Reading<'_>) -> Option<(String, u64)> {
    let name = reading.segment()?;
    let spool = Spool::beside(reading.dest);
    if !spool.is_served() {
        return None;
    }
    let (control, _) = read_settled(reading.directory()).ok()?;
    let bytes = control.wal_segment_size.bytes();
    let configs = context.repositories(Some(reading.source)).ok()?;
    let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
    // Who has waited so long asks for it as if nobody had.
    let patience = reading.source.wal_fetch_timeout / 4;
    let taken = spool.take(control.system_identifier, (name, bytes), &names, reading.dest, patience)?;
    let config = configs.iter().find(|config| config.name.as_str() == taken)?;
    Some((config.url.to_string(), bytes))
}

/// Starts the process that fetches what comes behind a WAL segment, which `repository` has given, where that is worth it and
/// none does: over a network, when the one before it was fetched a moment ago.
pub(super) fn begin(context: &Context, reading: &Reading<'_>, repository: &str) {
    let Some(name) = reading.segment() else { return };
    let is_near =
        |config: &RepositoryConfig| config.url.directory().is_some() && config.url.to_string() == repository;
    let is_remote = || context.repositories(Some(reading.source)).is_ok_and(|all| !all.iter().any(is_near));
    if reading.source.wal_fetch_ahead.0 == 0 || !is_remote() || Spool::beside(reading.dest).is_served() {
        return;
    }
    match follows(context, reading, name) {
        Ok(true) => {}
        Ok(false) => return,
        Err(failure) => {
            tracing::debug!(code = failure.code, message = failure.message, "nothing is read ahead");
            return;
        }
    }
    let mut command = left_behind::command(context, reading.source);
    if let Some(repository) = &context.global.repository {
        command.arg("--repository").arg(repository);
    }
    command.args(["wal", "fetch", "--ahead", "--source", reading.source.name.as_str()]);
    command.arg(reading.name.to_string()).arg(reading.dest);
    match left_behind::start(command) {
        Ok(pid) => tracing::debug!(pid, "the WAL segments that follow are being fetched"),
        Err(error) => tracing::debug!(%error, "nothing is read ahead"),
    }
}

/// Notes that this WAL segment was fetched; answers whether the one before it was, a moment ago. A standby that has all there
/// is asks for one from time to time.
fn follows(context: &Context, reading: &Reading<'_>, name: WalSegmentName) -> Result<bool, Failure> {
    let path = context.state().directory("fetched")?.join(reading.source.name.as_str());
    let fail = |action, source| CliError::file(action, &path, source);
    let (control, _) = read_settled(reading.directory())?;
    let before = match fs::metadata(&path).and_then(|meta| meta.modified()) {
        Ok(at) if at.elapsed().is_ok_and(|age| age < A_MOMENT) => {
            fs::read_to_string(&path).ok().and_then(|before| before.parse::<WalSegmentName>().ok())
        }
        _ => None,
    };
    // Nothing depends on it: not synced, not swapped.
    fs::write(&path, name.to_string()).map_err(|source| fail("write", source))?;
    let number = |name: WalSegmentName| name.number(control.wal_segment_size);
    Ok(before.is_some_and(|before| number(before) + 1 == number(name)))
}

/// Removes what a process left that was killed, beside a file that a server archives.
pub(super) fn tidy(file: &Path) {
    Spool::beside(file).tidy();
}

/// `wal fetch --ahead`.
///
/// # Errors
/// Nothing can be read ahead.
pub(super) fn serve(command: &Fetch, mut context: Context) -> Result<(), Failure> {
    let here = here();
    let source = find_source(&context, command.source.as_deref(), here.as_deref())?;
    context.assume(std::slice::from_ref(&source), false)?;
    let directory = here.as_deref().unwrap_or(&source.data_directory);
    let Ok(name) = command.name.parse::<WalSegmentName>() else { return Ok(()) };
    let (control, _) = read_settled(directory)?;
    if window(source.wal_fetch_ahead.0, control.wal_segment_size).is_none() {
        return Ok(());
    }
    let spool = Spool::beside(&command.dest);
    let served = spool.serve().map_err(|source| CliError::file("use", &command.dest, source))?;
    let Some(served) = served else { return Ok(()) };
    let opened = open(&context, &source)?;
    let repositories: Vec<(&str, &Repository)> =
        opened.iter().map(|one| (one.name.as_str(), &one.repository)).collect();
    let what = ReadAhead {
        repositories: &repositories,
        system: control.system_identifier,
        segment_size: control.wal_segment_size,
        after: name,
        room: source.wal_fetch_ahead.0,
    };
    let postmaster = here.as_deref().and_then(postmaster_pid);
    let goes_on = || postmaster.is_none() || recovers(directory, postmaster);
    read_ahead(&served, what, &goes_on, || {
        #[expect(clippy::exit, reason = "what is on its way may hang, and nobody waits for it any more")]
        std::process::exit(0);
    });
    Ok(())
}

/// Whether the server of `postmaster` runs and has not ended its recovery.
fn recovers(directory: &Path, postmaster: Option<u32>) -> bool {
    let is_open =
        |(control, _): (refloat_pg::control::ControlFile, _)| control.state == ClusterState::InProduction;
    postmaster_pid(directory) == postmaster && !read_settled(directory).is_ok_and(is_open)
}

/// Opens what a fetch would be out of, and asks none again that does not answer.
fn open(context: &Context, source: &SourceConfig) -> Result<Vec<Opened>, Failure> {
    let access = Access::Within(source.wal_fetch_timeout);
    let mut configs = context.repositories(Some(source))?;
    if context.global.repository.is_none() {
        configs.retain(|config| !context.is_left_alone(config.name.as_str()));
    }
    if let [only] = configs.as_slice()
        && let Some(opened) = context.open_as_seen(only, access)?
    {
        return Ok(vec![opened]);
    }
    let opened = several::open_at_once(context, configs, access);
    Ok(opened.into_iter().filter_map(|(_, result)| result.ok()).collect())
}
