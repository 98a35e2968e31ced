//! `completions SHELL`: the script that makes a shell complete command lines of Refloat.
//!
//! The scripts know nothing: at each TAB they ask the hidden `complete-values` ([`values`]), so that commands and flags
//! are those of the program that is installed, and sources and backups those there are.

pub(crate) mod values;

use clap::{Args, ValueEnum};

use crate::Outcome;
use crate::render::print;

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(refloat completions bash)              this shell
  refloat completions bash | sudo tee /usr/share/bash-completion/completions/refloat
  refloat completions zsh | sudo tee /usr/share/zsh/vendor-completions/_refloat
  refloat completions fish | sudo tee /usr/share/fish/vendor_completions.d/refloat.fish

Names of sources are offered to whoever may read the configuration, backups to the user who makes them.")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// A shell that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completions {
    /// Does it.
    pub(crate) fn run(self) -> Outcome {
        print(match self.shell {
            Shell::Bash => include_str!("completions/refloat.bash"),
            Shell::Zsh => include_str!("completions/refloat.zsh"),
            Shell::Fish => include_str!("completions/refloat.fish"),
        });
        Outcome::Done
    }
}
