//! One file per command: its options, what it does, what it prints.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod copy;
pub(crate) mod demo;
pub(crate) mod expire;
pub(crate) mod explain;
pub(crate) mod generate;
pub(crate) mod hold;
pub(crate) mod init;
pub(crate) mod key;
pub(crate) mod list;
pub(crate) mod man_pages;
mod overview;
pub(crate) mod repository;
pub(crate) mod restore;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod takeover;
pub(crate) mod verify;
pub(crate) mod wal;

use crate::cli::{Cli, Command, Global};
use crate::context::Context;
use crate::error::Failure;
use crate::left_behind;
use crate::{Ended, Outcome};

/// Runs the command. `load` reads the configuration, for those that need one.
pub(crate) fn run(cli: Cli, load: impl Fn(Global) -> Result<Context, Failure>) -> Result<Outcome, Ended> {
    let global = cli.global;
    let Some(command) = cli.command else { return Ok(overview::run(load(global)?)?) };
    let outcome = match command {
        Command::Explain(command) => command.run(&global)?,
        Command::Demo(command) => command.run(&global)?,
        Command::Completions(command) => command.run(),
        Command::ManPages(command) => command.run()?,
        Command::CompleteValues(command) => command.run(load),
        Command::Config(config::Config::Schema) => config::schema(),
        Command::Wal(command) => return command.run(global, load),
        Command::Init(command) => command.run(load(global)?)?,
        Command::Check(command) => command.run(load(global)?)?,
        Command::Status(command) => command.run(load(global)?)?,
        Command::Backup(command) => command.run(load(global)?)?,
        Command::List(command) => command.run(load(global)?)?,
        Command::Show(command) => command.run(load(global)?)?,
        Command::Restore(command) => command.run(load(global)?)?,
        Command::Takeover(command) => command.run(load(global)?)?,
        Command::Verify(command) => command.run(load(global)?)?,
        Command::Expire(command) => command.run(load(global)?)?,
        Command::Copy(command) if command.is_left_behind() => {
            left_behind::run(|| command.run(load(global)?).map(|_| ()))
        }
        Command::Copy(command) => command.run(load(global)?)?,
        Command::Hold(command) => command.run(load(global)?)?,
        Command::Key(command) => command.run(load(global)?)?,
        Command::Generate(command) => command.run(&load(global)?)?,
        Command::Repository(command) => command.run(&load(global)?)?,
        Command::Config(command) => command.run(&load(global)?)?,
    };
    Ok(outcome)
}
