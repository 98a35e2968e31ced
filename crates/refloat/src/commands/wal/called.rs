//! What both have that PostgreSQL calls once for each WAL file: a watchdog, and the source of the data directory that it calls
//! from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use refloat_config::SourceConfig;

use crate::context::Context;
use crate::error::Failure;
use crate::render::complain;

/// Ends the process with `code` when `limit` is over. What is done by then may set it to 0: the rest is left undone.
pub(super) fn watch(limit: Duration, code: i32, line: String) -> Arc<AtomicI32> {
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
pub(super) fn here() -> Option<PathBuf> {
    let directory = std::env::current_dir().ok()?;
    directory.join("PG_VERSION").exists().then_some(directory)
}

pub(super) fn find_source(
    context: &Context,
    name: Option<&str>,
    here: Option<&Path>,
) -> Result<SourceConfig, Failure> {
    let source = match (name, here) {
        (Some(name), _) => context.source(Some(name), "this")?,
        (None, Some(directory)) => context.config()?.source_for_data_directory(directory)?,
        (None, None) => context.source(None, "this, outside of a data directory,")?,
    };
    Ok(source.clone())
}
