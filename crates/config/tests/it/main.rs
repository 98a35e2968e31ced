//! Tests of the configuration: what it says when it is wrong, what applies when it is right.

mod codes;
mod documents;
mod errors;
mod files;
mod hosts;
mod layers;
mod reference;
mod secrets;

use std::error::Error;
use std::fmt::Write;
use std::path::Path;

use refloat_config::{Config, ConfigError};
use refloat_types::Explain;

/// An error as the program prints it.
fn printed(error: &dyn Explain) -> String {
    let advice = error.advice();
    let mut out = format!("error[{}]: {error}\n", advice.code);
    let mut cause: Option<&dyn Error> = error.source();
    while let Some(why) = cause {
        writeln!(out, "  cause:  {why}").expect("a string takes everything");
        cause = why.source();
    }
    writeln!(out, "  safe:   {}", advice.safe).expect("a string takes everything");
    for hint in advice.hints {
        writeln!(out, "  hint:   {hint}").expect("a string takes everything");
    }
    writeln!(out, "  exit:   {}", error.advice().exit_code()).expect("a string takes everything");
    out
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::from_text(Path::new("/etc/refloat/refloat.toml"), text)
}

/// What the program prints about a wrong text.
fn wrong(text: &str) -> String {
    match parse(text) {
        Ok(config) => format!("accepted:\n{}", config.show(true)),
        Err(error) => printed(&error),
    }
}

/// A right configuration to which more is added.
const BASE: &str = r#"
[repository.offsite]
url = "file:///backup/db1"
encryption = { passphrase = { file = "/etc/refloat/passphrase" } }

[source.prod]
kind = "postgres"
data_directory = "/var/lib/postgresql/15/main"
"#;

/// What the program prints about [`BASE`] with a wrong line in its source.
fn wrong_in_source(line: &str) -> String {
    wrong(&format!("{BASE}{line}\n"))
}

/// What the program prints about a repository with these lines.
fn wrong_in_repository(lines: &str) -> String {
    wrong(&format!("[repository.offsite]\n{lines}\n"))
}
