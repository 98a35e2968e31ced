//! The `refloat` program: parses the command line, becomes the right user, calls, prints.
//!
//! One file per command in `commands`; `render` is how things look, `error` the one shape of every error, `identity` who
//! we are, `context` what every command starts from. The environment is read here and nowhere else.

mod asking;
mod bucket;
mod cli;
mod commands;
mod context;
mod error;
mod facts;
mod healing;
mod identity;
mod left_behind;
mod log;
mod names;
mod operations;
mod progress;
mod reach;
mod render;
mod rescue;
mod retention;
mod several;
mod sheet;
mod site;
mod terminal;
mod thaw;
mod times;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::cli::{Cli, Command, Global};
use crate::context::Context;
use crate::error::{CliError, Failure};
use crate::render::{complain, failure, print};

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Done. Exit 0.
    Done,
    /// Done and kept, but a person must look. Exit 3.
    Findings,
}

#[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
pub(crate) fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

fn main() -> ExitCode {
    names::carry_own_lookups();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    match run(&arguments) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(3),
        Err(Ended::Said(code)) => ExitCode::from(code),
        Err(Ended::Failed(failed)) => {
            complain(&if json { failure::document(&failed) } else { failure::text(&failed) });
            ExitCode::from(failed.exit_code())
        }
    }
}

/// How a command ended otherwise.
pub(crate) enum Ended {
    /// Everything is said already; this is the exit code.
    Said(u8),
    /// An error that is to be shown.
    Failed(Box<Failure>),
}

impl<E: Into<Failure>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(Box::new(error.into()))
    }
}

fn run(arguments: &[OsString]) -> Result<Outcome, Ended> {
    words::refuse_known(arguments)?;
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            print(&error.render().to_string());
            return Ok(Outcome::Done);
        }
        Err(error) if words::is_fetch(arguments) => {
            complain(&failure::text(&misused(&error, arguments).into()));
            return Err(Ended::Said(commands::wal::cannot_know()));
        }
        Err(error) => return Err(misused(&error, arguments).into()),
    };
    // Who is in the middle of typing a line is told nothing.
    if !matches!(cli.command, Some(Command::CompleteValues(_))) {
        log::begin(cli.global.verbose, cli.global.quiet);
    }
    commands::run(cli, load)
}

/// Reads the configuration that is meant, if there is one.
fn load(global: Global) -> Result<Context, Failure> {
    let variable = environment("REFLOAT_CONFIG").map(PathBuf::from);
    let named = global.config.as_deref().or(variable.as_deref().filter(|path| !path.as_os_str().is_empty()));
    let is_named = named.is_some();
    let file = refloat_config::file_to_load(named, None);
    let file = std::path::absolute(&file).unwrap_or(file);
    Context::load(global, file, is_named, environment)
}

/// A command line that clap refuses, in our shape.
fn misused(error: &clap::Error, arguments: &[OsString]) -> CliError {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let wanted = |part: &&str| part.starts_with("Usage:") || part.starts_with("Commands:");
        let hints = text.split("\n\n").map(str::trim).filter(wanted).map(str::to_owned).collect();
        return CliError::Usage { message: "it is not said what to do".to_owned(), hints };
    }
    let mut parts = text.split("\n\n");
    let message = parts.next().unwrap_or(text).lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let known = words::peer_option(arguments);
    let mut hints: Vec<String> = known.map(str::to_owned).into_iter().collect();
    for part in parts {
        let part = part.trim();
        // Of another tool's option we know more than which of ours looks like it, and how that is used.
        if known.is_some() && part.contains("similar argument") {
            break;
        }
        let part = part.strip_prefix("tip: ").unwrap_or(part);
        if !part.is_empty() && !part.starts_with("For more information") {
            hints.push(part.to_owned());
        }
    }
    CliError::Usage { message, hints }
}
