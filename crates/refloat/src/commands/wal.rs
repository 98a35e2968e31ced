//! `wal push`, `wal fetch`, `wal status`, `wal switch`.

mod ahead;
mod backlog;
mod called;
mod fetch;
mod line;
mod look;
mod push;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::Global;
use crate::context::Context;
use crate::error::Failure;
use crate::left_behind;
use crate::{Ended, Outcome};

/// WAL.
#[derive(Debug, Subcommand)]
pub(crate) enum Wal {
    Push(Push),
    Fetch(Fetch),
    Status(Status),
    Switch(Switch),
}

/// Archive a WAL file: PostgreSQL's archive_command
///
/// Checks the file, stores it in every repository of the source, and ends with 0 only when as many hold it durably as
/// `acknowledge` says.
/// The source is found by the data directory it is started in.
#[derive(Debug, Args)]
#[command(after_help = "In postgresql.conf:  archive_command = '/usr/bin/refloat wal push %p'")]
pub(crate) struct Push {
    /// The source [default: the one whose data directory this is]
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// The file: %p
    pub file: PathBuf,
}

/// Give back a WAL file: PostgreSQL's restore_command
///
/// Ends with 1 only when it knows that the file does not exist, and with 255 when it cannot know, which stops a recovery
/// instead of ending it early.
#[derive(Debug, Args)]
#[command(
    after_help = "restore writes it:  restore_command = '/usr/bin/refloat wal fetch --source prod %f %p'"
)]
pub(crate) struct Fetch {
    /// The source [default: the one whose data directory this is]
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// Name of the file: %f
    pub name: String,
    /// Where to put it: %p
    pub dest: PathBuf,
    /// Serve the segments that follow: what a fetch over a network starts
    #[arg(long, hide = true)]
    pub ahead: bool,
}

/// What is archived, what is missing, what waits on the server
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Name of a source [default: all]
    #[arg(value_name = "SOURCE")]
    pub source: Option<String>,
}

/// Close the current WAL segment, so that it is archived now
#[derive(Debug, Args)]
pub(crate) struct Switch {
    /// Name of the source [default: the only one]
    #[arg(value_name = "SOURCE")]
    pub source: Option<String>,
}

/// What `wal fetch` ends with when it cannot know: 255 stops a recovery, and a standby asks again after 1.
pub(crate) fn cannot_know() -> u8 {
    let is_standby = std::env::current_dir().is_ok_and(|here| here.join("standby.signal").exists());
    if is_standby { 1 } else { 255 }
}

impl Wal {
    /// Does it.
    pub(crate) fn run(
        self,
        global: Global,
        load: impl FnOnce(Global) -> Result<Context, Failure>,
    ) -> Result<Outcome, Ended> {
        match self {
            Self::Push(command) => push::push(&command, load(global)),
            Self::Fetch(command) if command.ahead => {
                Ok(left_behind::run(|| ahead::serve(&command, load(global)?)))
            }
            Self::Fetch(command) => fetch::fetch(&command, load(global)),
            Self::Status(command) => Ok(look::status(&command, load(global)?)?),
            Self::Switch(command) => Ok(look::switch(&command, load(global)?)?),
        }
    }
}
