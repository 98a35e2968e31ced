//! Processes that a command starts and does not wait for: they go on when it has ended.
//!
//! Where PostgreSQL is the first process of a container, they become its children when their parent is gone. Then it takes
//! whatever does not end with 0 or 1 for the crash of a backend, and restarts all sessions (PostgreSQL: `CleanupBackend` in
//! `src/backend/postmaster/postmaster.c`). So they end with 0 whatever they met.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::process::{Command, Stdio};

use refloat_config::{SecretRef, SourceConfig};

use crate::Outcome;
use crate::commands::config::secrets_of;
use crate::context::Context;
use crate::error::Failure;

/// The program with this configuration, for `source`; what it is to do follows.
pub(crate) fn command(context: &Context, source: &SourceConfig) -> Command {
    let mut command = Command::new(&context.executable);
    command.arg("--config").arg(&context.config_file).arg("--quiet");
    command.env_clear().envs(environment(context, source));
    // PostgreSQL waits for whoever holds its log open.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Not of PostgreSQL's group: what ends an archiver, or a recovery, does not end this.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command
}

/// Starts it; answers its pid.
///
/// # Errors
/// It cannot be started.
pub(crate) fn start(mut command: Command) -> io::Result<u32> {
    // PostgreSQL's commands inherit the files that it has open: kept, a database that is dropped would go on taking space.
    close_fds::set_fds_cloexec(3, &[]);
    command.spawn().map(|child| child.id())
}

/// Does `work` as such a process.
pub(crate) fn run(work: impl FnOnce() -> Result<(), Failure>) -> Outcome {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a process in the background ends");
        #[expect(clippy::exit, reason = "a panic must not end with the signal of an abort")]
        std::process::exit(0);
    }));
    if let Err(failure) = work() {
        tracing::warn!(code = failure.code, message = failure.message, "a process in the background ends");
    }
    Outcome::Done
}

/// What it needs of this one's environment to open the repositories of a source as this one does, and nothing else.
fn environment(context: &Context, source: &SourceConfig) -> BTreeMap<String, OsString> {
    let configured = context.config.iter().flat_map(|config| config.repositories.values());
    let of_source = configured.filter(|repository| source.repositories.contains(&repository.name));
    let secrets = of_source.flat_map(secrets_of).filter_map(SecretRef::variable);
    let names = secrets.chain(refloat_store::CERTIFICATE_VARIABLES);
    names.filter_map(|name| Some((name.to_owned(), context.variable(name)?))).collect()
}
