//! `man-pages DIR`, hidden: the manual pages of every command, made of what `--help` says, and that of the configuration.
//!
//! `scripts/man` calls it where the program is built. The same program writes the same bytes: no date is in them.

mod settings;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _};
use clap_mangen::Man;

use crate::Outcome;
use crate::cli::Cli;
use crate::error::{CliError, Failure};

/// Write the manual pages into man1 and man5 of a directory
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct ManPages {
    /// The directory; it is made where it is missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl ManPages {
    /// Does it.
    pub(crate) fn run(self) -> Result<Outcome, Failure> {
        let (commands, files) = (self.directory.join("man1"), self.directory.join("man5"));
        for directory in [&commands, &files] {
            std::fs::create_dir_all(directory).map_err(|e| CliError::file("create", directory, e))?;
        }
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        for (name, page) in pages(&command) {
            write(&commands, &format!("{name}.1"), &page)?;
        }
        write(&files, "refloat.toml.5", &settings::page())?;
        Ok(Outcome::Done)
    }
}

fn write(directory: &Path, name: &str, page: &str) -> Result<(), Failure> {
    let path = directory.join(name);
    std::fs::write(&path, page).map_err(|source| CliError::file("write", &path, source).into())
}

/// The page of a command and of those below it, by name: `refloat-wal-push`.
fn pages(command: &Command) -> Vec<(String, String)> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut all = vec![(name.clone(), page(command, &name))];
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        all.extend(pages(below));
    }
    all
}

fn page(command: &Command, name: &str) -> String {
    let man = Man::new(command.clone());
    let mut out = title(name, 1).into_bytes();
    let written = (|| {
        man.render_name_section(&mut out)?;
        man.render_synopsis_section(&mut out)?;
        man.render_description_section(&mut out)?;
        man.render_options_section(&mut out)?;
        if command.get_subcommands().any(|below| !below.is_hide_set()) {
            man.render_subcommands_section(&mut out)?;
        }
        out.write_all(after(command).as_bytes())?;
        out.write_all(see_also(name).as_bytes())
    })();
    written.expect("a vector takes everything");
    String::from_utf8_lossy(&out).into_owned()
}

/// How a page begins: without a date, and with the apostrophe that the pages of clap_mangen are written with.
fn title(name: &str, section: u8) -> String {
    let name = name.to_uppercase();
    format!(
        ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH {} {section} \"\" \"Refloat {}\" \"Refloat\"\n",
        escape(&name),
        env!("CARGO_PKG_VERSION")
    )
}

/// What stands at the end of the help, line by line as it is there: examples would be one paragraph otherwise.
fn after(command: &Command) -> String {
    let Some(text) = command.get_after_long_help().or_else(|| command.get_after_help()) else {
        return String::new();
    };
    let text = text.to_string();
    let (title, text) = match text.split_once("Examples:\n") {
        Some(("", examples)) => ("EXAMPLES", examples),
        _ => ("NOTES", text.as_str()),
    };
    format!(".SH {title}\n.nf\n{}.fi\n", lines(text))
}

fn see_also(name: &str) -> String {
    let others = if name == "refloat" { "" } else { "\\fBrefloat\\fR(1), " };
    format!(".SH \"SEE ALSO\"\n{others}\\fBrefloat.toml\\fR(5)\n")
}

/// Lines of plain text, so that nothing in them is taken for a command of roff.
fn lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", escape(line))).collect()
}

/// A line of plain text: a leading dot or quote begins no command, a dash is the dash of an option.
fn escape(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}
