//! `wal fetch` in a recovery over a network: it takes what a process has fetched before it was asked for, and starts that
//! process.

use std::path::Path;
use std::process::{Command, Stdio};

use refloat_config::{RepositoryConfig, SourceConfig};
use refloat_engine::wal::fetch::ahead::{ReadAhead, Spool, read_ahead, window};
use refloat_pg::control::{ClusterState, read_settled};
use refloat_pg::server::postmaster_pid;
use refloat_repo::Repository;
use refloat_types::{WalFileName, WalSegmentName};

use super::Fetch;
use super::archive::{find_source, here};
use crate::Outcome;
use crate::context::{Access, Context, Opened};
use crate::error::Failure;
use crate::several;

/// The name that PostgreSQL has every WAL segment put under that it replays. Who fetches one by hand wants no other.
const IN_RECOVERY: &str = "RECOVERYXLOG";

/// What is fetched, and where to.
pub(super) struct Reading<'a> {
    pub source: &'a SourceConfig,
    /// The data directory that asks.
    pub here: Option<&'a Path>,
    pub name: WalFileName,
    pub dest: &'a Path,
}

impl Reading<'_> {
    /// The segment, where a recovery asks for one that others follow.
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
    let (control, _) = read_settled(reading.here.unwrap_or(&reading.source.data_directory)).ok()?;
    let configs = context.repositories(Some(reading.source)).ok()?;
    let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
    // Who waited as long asks for it as if nobody had.
    let patience = reading.source.wal_fetch_timeout / 2;
    let taken = spool.take(control.system_identifier, name, &names, reading.dest, patience)?;
    let config = configs.iter().find(|config| config.name.as_str() == taken.repository)?;
    Some((config.url.to_string(), taken.bytes))
}

/// Starts the process that fetches what comes behind a segment, which `repository` has given, where that is worth it and none
/// does.
pub(super) fn begin(context: &Context, reading: &Reading<'_>, repository: &str) {
    let is_near =
        |config: &RepositoryConfig| config.url.directory().is_some() && config.url.to_string() == repository;
    let is_remote = || context.repositories(Some(reading.source)).is_ok_and(|all| !all.iter().any(is_near));
    if reading.segment().is_none()
        || reading.source.wal_fetch_ahead.0 == 0
        || !is_remote()
        || Spool::beside(reading.dest).is_served()
    {
        return;
    }
    let mut command = Command::new(&context.executable);
    command.arg("--config").arg(&context.config_file).arg("--quiet");
    if let Some(repository) = &context.global.repository {
        command.arg("--repository").arg(repository);
    }
    command.args(["wal", "fetch", "--ahead", "--source", reading.source.name.as_str()]);
    command.arg(reading.name.to_string()).arg(reading.dest);
    // PostgreSQL waits for whoever holds its log open.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Not of PostgreSQL's group: it ends by itself, and takes with it what it has fetched.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    match command.spawn() {
        Ok(child) => tracing::debug!(pid = child.id(), "the segments that follow are being fetched"),
        Err(error) => tracing::debug!(%error, "nothing is read ahead"),
    }
}

/// Removes what a process left that was killed, beside a file that a server archives: it is no longer in recovery.
pub(super) fn tidy(file: &Path) {
    Spool::beside(file).tidy();
}

/// `wal fetch --ahead`. Ends with 0 whatever there was: where PostgreSQL is the first process of a container, this one becomes
/// its child, and another code would be the crash of a backend to it.
pub(super) fn serve(command: &Fetch, context: Result<Context, Failure>) -> Outcome {
    if let Err(failure) = context.and_then(|context| serve_with(command, context)) {
        tracing::debug!(code = failure.code, message = failure.message, "nothing is read ahead");
    }
    Outcome::Done
}

fn serve_with(command: &Fetch, mut context: Context) -> Result<(), Failure> {
    let here = here();
    let source = find_source(&context, command.source.as_deref(), here.as_deref())?;
    context.assume(std::slice::from_ref(&source), false)?;
    let directory = here.as_deref().unwrap_or(&source.data_directory);
    let reading = || {
        let name: WalSegmentName = command.name.parse().ok()?;
        let (control, _) = read_settled(directory).ok()?;
        window(source.wal_fetch_ahead.0, control.wal_segment_size)?;
        let served = Spool::beside(&command.dest).serve();
        let served = served.map_err(|error| tracing::debug!(%error, "it cannot be served")).ok()??;
        Some((name, control, served))
    };
    let Some((name, control, served)) = reading() else { return Ok(()) };
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
    read_ahead(&served, what, &|| postmaster.is_none() || recovers(directory, postmaster));
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
