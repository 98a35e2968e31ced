//! The command line. The doc comments are the help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    backup, check, completions, config, copy, demo, expire, explain, generate, hold, init, key, list,
    man_pages, repository, restore, show, status, takeover, verify, wal,
};

/// Keeps PostgreSQL recoverable: backups, a WAL archive, and recovery to any moment
///
/// Without a command: what is protected here, to when, what is wrong, and where to begin.
#[derive(Debug, Parser)]
#[command(name = "refloat", version, disable_help_flag = false, after_help = AFTER)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Option<Command>,
}

const AFTER: &str = "\
Exit codes: 0 done, 1 failed, 2 usage or settings, 3 done but a person must look, 4 locked, 5 unreachable, try again.

Something lost?  refloat restore SOURCE 'TIME' --to DIR --as copy   restores beside the server and disturbs nothing
To begin:        refloat init, then refloat check, then refloat backup";

/// Options that every command has.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The configuration [default: $REFLOAT_CONFIG, else /etc/refloat/refloat.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The repository: its name in the configuration, or its URL, which needs no configuration
    #[arg(short = 'r', long, global = true, value_name = "NAME|URL")]
    pub repository: Option<String>,
    /// With -r URL: the file that holds the passphrase [default: asked on the terminal]
    #[arg(long, global = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Data as one JSON document on stdout, errors as one on stderr
    #[arg(long, global = true)]
    pub json: bool,
    /// Say nothing but errors and warnings
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; twice: still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(init::Init),
    Check(check::Check),
    Status(status::Status),
    Backup(backup::Backup),
    List(list::List),
    Show(show::Show),
    Restore(Box<restore::Restore>),
    Takeover(takeover::Takeover),
    /// WAL files: archive them, give them back, look at them
    #[command(subcommand)]
    Wal(wal::Wal),
    Verify(verify::Verify),
    Expire(expire::Expire),
    Copy(copy::Copy),
    /// Backups that must not expire
    #[command(subcommand)]
    Hold(hold::Hold),
    /// What opens the repositories: prove that it is kept, print the sheet again
    #[command(subcommand)]
    Key(key::Key),
    /// The repositories that are configured
    #[command(subcommand)]
    Repository(repository::Repository),
    /// The configuration: check it, show what applies, print its schema
    #[command(subcommand)]
    Config(config::Config),
    /// What the provider of a bucket has to be told: lifecycle, bucket policy, IAM policies
    #[command(subcommand)]
    Generate(generate::Generate),
    Explain(explain::Explain),
    Demo(demo::Demo),
    Completions(completions::Completions),
    CompleteValues(completions::values::CompleteValues),
    ManPages(man_pages::ManPages),
}
