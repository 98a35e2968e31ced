//! What `wal push` and `backup` start: one process for a source on a host, which brings every repository what it lacks.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use refloat_config::SourceConfig;

use super::{Copy, Pass};
use crate::Outcome;
use crate::context::Context;
use crate::error::{CliError, Failure};

/// How long it waits for more, so that one list serves several WAL segments.
const GATHER: Duration = Duration::from_secs(3);
/// When it ends whatever is left: the next WAL segment starts another one, with the configuration of then.
const LONGEST: Duration = Duration::from_secs(3600);

/// Works as long as anything is due.
///
/// # Errors
/// What keeps it from working at all; what a repository says is noted, and tried again later.
pub(super) fn run(copy: &Copy, context: &Context, sources: &[SourceConfig]) -> Result<Outcome, Failure> {
    let began = Instant::now();
    for source in sources {
        let is_due = || began.elapsed() < LONGEST && is_due(context, source);
        // Who wished for something while it ended has seen that somebody works: so it looks once more without the lock.
        while is_due() {
            let Some(_lock) = lock(context, source)? else { break };
            while is_due() {
                for (repository, failure) in pass(copy, context, source)?.failed {
                    tracing::warn!(%repository, code = failure.code, message = failure.message, "it stays behind");
                }
                std::thread::sleep(GATHER);
            }
        }
    }
    Ok(Outcome::Done)
}

fn is_due(context: &Context, source: &SourceConfig) -> bool {
    let behind = context.behind(&source.name);
    source.repositories.iter().any(|repository| behind.is_due(repository))
}

/// Brings every repository what it lacks, and strikes out of the notes what is done. Needs the lock.
///
/// # Errors
/// The state directory cannot be written, or the configuration is wrong.
pub(super) fn pass(copy: &Copy, context: &Context, source: &SourceConfig) -> Result<Pass, Failure> {
    let behind = context.behind(&source.name);
    let mut taken = Vec::new();
    for repository in &source.repositories {
        if behind.take(repository.as_str())? {
            taken.push(repository.as_str());
        }
    }
    let pass = copy.pass(context, source)?;
    for repository in taken {
        match pass.failed.iter().find(|(name, _)| name == repository) {
            Some((_, failure)) => behind.failed(repository, failure)?,
            None => {
                // What only one has that was not there to give it comes when that one is looked at.
                for unopened in &pass.unopened {
                    behind.add(unopened)?;
                }
                behind.fulfilled(repository)?;
            }
        }
    }
    Ok(pass)
}

/// Whether a process works for this source.
pub(crate) fn works(context: &Context, source: &SourceConfig) -> bool {
    matches!(lock(context, source), Ok(None))
}

/// One on a host; `None` while another one works.
pub(super) fn lock(context: &Context, source: &SourceConfig) -> Result<Option<File>, Failure> {
    let path = context.state().directory("copy")?.join(format!("{}.lock", source.name));
    let fail = |action, source| CliError::file(action, &path, source);
    let open = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&path);
    let file = open.map_err(|source| fail("open", source))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(fail("lock", source).into()),
    }
}
