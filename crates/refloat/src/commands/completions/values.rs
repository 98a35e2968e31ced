//! `complete-values`, which the scripts of [`super`] ask at each TAB.
//!
//! Whatever is wrong, it ends with 0, says nothing on stderr and offers what it knows: a person is in the middle of a
//! line. It asks for nothing, writes nothing, and gives up on a repository that does not answer at once.

use std::ffi::{OsStr, OsString};

use clap::{Args, Command, CommandFactory as _};
use clap_complete::CompletionCandidate;
use clap_complete::engine::{ArgValueCompleter, complete};

use super::Shell;
use crate::Outcome;
use crate::cli::{Cli, Global};
use crate::context::Context;
use crate::error::Failure;
use crate::render::print;

mod known;
mod line;

use self::line::Line;

/// What could stand where the cursor is; for the scripts of `completions`
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct CompleteValues {
    shell: Shell,
    /// Which of the words the cursor is in, from 0
    index: usize,
    /// The line up to there, the program's name included
    #[arg(last = true)]
    words: Vec<OsString>,
}

/// What a value is, where the command line alone cannot tell which there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Sources,
    Backups,
    Repositories,
    Files,
    Directories,
}

impl Wanted {
    const ALL: [Self; 5] = [Self::Sources, Self::Backups, Self::Repositories, Self::Files, Self::Directories];

    /// Stands for the values until it is known that they are wanted; no value begins with a colon.
    const fn mark(self) -> &'static str {
        match self {
            Self::Sources => ":sources",
            Self::Backups => ":backups",
            Self::Repositories => ":repositories",
            Self::Files => ":files",
            Self::Directories => ":directories",
        }
    }
}

impl CompleteValues {
    /// Does it. `load` reads a configuration, where there is one that can be read.
    pub(crate) fn run(self, load: impl Fn(Global) -> Result<Context, Failure>) -> Outcome {
        let line = Line::new(self.words, self.index, self.shell == Shell::Bash);
        let mut command = marked(Cli::command());
        let Ok(mut found) = complete(&mut command, line.words.clone(), line.index, None) else {
            return Outcome::Done;
        };
        let is_option =
            |candidate: &CompletionCandidate| candidate.get_value().as_encoded_bytes().starts_with(b"-");
        // Options are offered where nothing else can stand, or where one is begun.
        if line.current().is_empty() && !found.iter().all(is_option) {
            found.retain(|candidate| !is_option(candidate));
        }
        let mut out = String::new();
        for candidate in &found {
            let value = candidate.get_value().to_string_lossy();
            let help = candidate.get_help().map(|help| first_line(&help.to_string())).unwrap_or_default();
            match Wanted::ALL
                .into_iter()
                .find_map(|wanted| Some((wanted, value.strip_suffix(wanted.mark())?)))
            {
                None => self.shell.write(&mut out, &line, &value, &help),
                Some((Wanted::Files | Wanted::Directories, _)) if !out.is_empty() => {}
                Some((wanted @ (Wanted::Files | Wanted::Directories), _)) => {
                    out = format!("{}\n", wanted.mark());
                    break;
                }
                Some((wanted, before)) => {
                    let Ok(context) = load(line.global()) else { continue };
                    for (name, help) in known::values(context, wanted, &line) {
                        let value = format!("{before}{name}");
                        if value.starts_with(&*line.current()) {
                            self.shell.write(&mut out, &line, &value, &help);
                        }
                    }
                }
            }
        }
        print(&out);
        Outcome::Done
    }
}

impl Shell {
    /// A candidate as this shell's script wants it.
    fn write(self, out: &mut String, line: &Line, value: &str, help: &str) {
        let help = help.replace(['\t', '\n'], " ");
        match self {
            // What bash takes for the beginning of the word is not to be repeated.
            Self::Bash => out.push_str(value.get(line.cut..).unwrap_or(value)),
            Self::Zsh if help.is_empty() => out.push_str(&value.replace(':', "\\:")),
            Self::Zsh => out.push_str(&format!("{}:{help}", value.replace(':', "\\:"))),
            Self::Fish if help.is_empty() => out.push_str(value),
            Self::Fish => out.push_str(&format!("{value}\t{help}")),
        }
        out.push('\n');
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// The command line with a completer at each value that is named after something known. Names of values are what the help
/// shows, so that a new command is completed without a word here.
fn marked(command: Command) -> Command {
    let mark = |argument: clap::Arg| {
        let names: Vec<String> =
            argument.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
        let [name] = names.as_slice() else { return argument };
        if !argument.get_possible_values().is_empty() || !argument.get_action().takes_values() {
            return argument;
        }
        let is_source = name == "NAME" && argument.get_id() == "source";
        let offered: Vec<String> = name.split('|').filter_map(|part| offer(part, is_source)).collect();
        if offered.is_empty() {
            return argument;
        }
        argument.add(ArgValueCompleter::new(move |current: &OsStr| {
            let current = current.to_string_lossy();
            let begins = |value: &&String| value.starts_with(':') || value.starts_with(&*current);
            // Nothing that has a name begins like an option.
            let possible = offered.iter().filter(|_| !current.starts_with('-'));
            possible.filter(begins).map(CompletionCandidate::new).collect::<Vec<_>>()
        }))
    };
    command.mut_args(mark).mut_subcommands(marked)
}

/// What is offered for a part of a value's name: a mark, or the word itself where it stands for itself.
fn offer(part: &str, is_source: bool) -> Option<String> {
    let wanted = match part {
        "SOURCE" => Wanted::Sources,
        "NAME" if is_source => Wanted::Sources,
        "BACKUP" => Wanted::Backups,
        "REPO" | "REPOSITORY" => Wanted::Repositories,
        // Of -r NAME|URL.
        "URL" => Wanted::Repositories,
        "FILE" => Wanted::Files,
        "DIR" => Wanted::Directories,
        word if word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') => {
            return Some(word.to_owned());
        }
        _ => return None,
    };
    Some(wanted.mark().to_owned())
}
