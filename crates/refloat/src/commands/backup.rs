//! `backup`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use refloat_config::{BackupWal, Checkpoint, RepositoryConfig, SourceConfig};
use refloat_engine::backup::{self, BackupError, BackupReport, BackupRequest, OwnWal, RunOn, Wanted};
use refloat_types::{ByteSize, Clock as _};

use super::key::unconfirmed;
use crate::Outcome;
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::healing;
use crate::operations::Operation;
use crate::progress::Meter;
use crate::render::time;
use crate::rescue::{self, Look};

/// How long an unconfirmed recovery sheet is only warned about.
const PATIENCE: Duration = Duration::from_secs(72 * 3600);
/// How long the last WAL segment of a backup may take to arrive.
const ARCHIVE_TIMEOUT: Duration = Duration::from_secs(120);

/// Back up running clusters: all sources, or those that are named
///
/// The server goes on working. A backup becomes visible only when everything it needs is safe in the repository.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo refloat backup
  sudo refloat backup prod --label 'before the upgrade'
  sudo refloat backup prod --type full            stores everything again
  sudo refloat backup prod --scan                 as usual, but reads every file

Exit code 3: the backup is kept, but a person must look: a damaged page in the database, archiving that fails,
another cluster than before (after pg_upgrade), or a recovery sheet that nobody has
confirmed for 72 hours.")]
pub(crate) struct Backup {
    /// Names of sources [default: all]
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
    /// What kind: full stores everything, diff what has changed since the last full one, incr what has changed since the
    /// last one of any kind [default: incr, or full where there is none yet]
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    /// Read every file, also those that the file system says have not changed
    #[arg(long)]
    scan: bool,
    /// A word to remember it by
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Threads that read, compress and encrypt [default: as many as processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: Option<u32>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Kinds of backups, as they are typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Stores everything; refers to nothing older
    #[value(alias = "base")]
    Full,
    /// What has changed since the last full one
    #[value(alias = "differential")]
    Diff,
    /// What has changed since the last one of any kind
    #[value(alias = "incremental")]
    Incr,
}

impl Backup {
    fn wanted(&self) -> Wanted {
        match self.kind {
            None => Wanted::Suitable,
            Some(Kind::Full) => Wanted::Full,
            Some(Kind::Diff) => Wanted::Diff,
            Some(Kind::Incr) => Wanted::Incr,
        }
    }

    /// Does it.
    pub(crate) fn run(self, mut context: Context) -> Result<Outcome, Failure> {
        let sources = context.sources(&self.sources)?;
        if sources.is_empty() {
            return Err(CliError::usage(
                "there is no source to back up",
                "Write [source.NAME] into the configuration.",
            )
            .into());
        }
        context.assume(&sources, false)?;
        let (mut reports, mut left) = (Vec::new(), Vec::new());
        let mut outcome = Outcome::Done;
        let mut failed: Option<Failure> = None;
        for source in &sources {
            for repository in context.repositories(Some(source))? {
                if self.dry_run {
                    context.out.text(&format!(
                        "would make {} of {} ({}) in {} ({})\n",
                        match self.wanted() {
                            Wanted::Full => "a full backup",
                            Wanted::Diff => "a differential backup (a full one where there is none)",
                            Wanted::Suitable | Wanted::Incr => {
                                "an incremental backup (a full one where there is nothing to refer to)"
                            }
                        },
                        source.name,
                        source.data_directory.display(),
                        repository.name,
                        repository.url
                    ));
                    continue;
                }
                match self.one(&context, source, &repository) {
                    Ok(Made::Backup(report, one)) => {
                        reports.push(*report);
                        if one == Outcome::Findings {
                            outcome = one;
                        }
                    }
                    Ok(Made::Left(why)) => {
                        context.out.text(&format!(
                            "{} in {}: nothing to do here: {why}\n",
                            source.name, repository.name
                        ));
                        left.push(serde_json::json!({ "source": source.name, "repository": repository.name, "why": why }));
                    }
                    // The others are made all the same.
                    Err(failure) => match &mut failed {
                        None => failed = Some(failure),
                        Some(first) => first.more.push(failure),
                    },
                }
            }
        }
        context
            .out
            .document(&serde_json::json!({ "dry_run": self.dry_run, "backups": reports, "left": left }));
        failed.map_or(Ok(outcome), Err)
    }

    fn one(
        &self,
        context: &Context,
        source: &SourceConfig,
        config: &RepositoryConfig,
    ) -> Result<Made, Failure> {
        let mut operation = Operation::begin(context, "backup", Some(source.name.as_str()));
        let opened = context.open(config, Access::Bulk).inspect_err(|failure| {
            operation.finish_locally(&Err(failure.clone()));
        })?;
        let result = self.make(context, source, &opened);
        if matches!(result, Ok(Made::Backup(..))) {
            rescue::keep(context, &opened, &config.url.to_string(), Look::Seldom);
            healing::keep_copies(context, &opened);
        }
        if let Ok(Made::Backup(report, _)) = &result {
            operation.bytes = report.stored_bytes;
            operation.about = Some(report.backup.to_string());
            let damaged =
                (!report.bad_pages.is_empty()).then(|| format!("{} damaged pages", report.bad_pages.len()));
            let failing = report.archiver_failing.as_ref().map(|it| format!("archiving fails: {}", it.file));
            operation.detail = damaged.or(failing);
        }
        match &result {
            // Nobody did anything.
            Ok(Made::Left(_)) => operation.finish_locally(&Ok(Outcome::Done)),
            Ok(Made::Backup(_, outcome)) => {
                operation.finish(context, [&opened.repository], &Ok(*outcome));
            }
            Err(failure) => operation.finish(context, [&opened.repository], &Err(failure.clone())),
        }
        result
    }

    fn make(&self, context: &Context, source: &SourceConfig, opened: &Opened) -> Result<Made, Failure> {
        let meter = Meter::new(context.out);
        let request = BackupRequest {
            repository: &opened.repository,
            repository_name: opened.name.clone(),
            source: source.name.clone(),
            data_directory: source.data_directory.clone(),
            connection: Context::connection(source),
            run_on: match source.run_on {
                refloat_config::RunOn::Primary => RunOn::Primary,
                refloat_config::RunOn::Standby => RunOn::Standby,
                refloat_config::RunOn::Any => RunOn::Any,
            },
            wanted: self.wanted(),
            scan: self.scan,
            machine: context.machine(),
            label: self.label.clone(),
            jobs: jobs(self.jobs.or(source.jobs)),
            compression: opened.compression,
            fast_checkpoint: source.checkpoint == Checkpoint::Fast,
            own_wal: match source.backup_wal {
                BackupWal::Auto => OwnWal::Auto,
                BackupWal::Include => OwnWal::Include,
                BackupWal::Archive => OwnWal::Archive,
            },
            archive_timeout: ARCHIVE_TIMEOUT,
            max_read_rate: source.max_read_rate.map(|rate| rate.0),
            configuration: context.config()?.without_secrets().to_owned(),
            others: Vec::new(),
            host: context.host.clone(),
            clock: &context.clock,
            progress: &meter,
        };
        let report = match backup::run(&request) {
            Err(BackupError::NotHere(why)) => return Ok(Made::Left(why)),
            other => other?,
        };
        meter.finish();
        let outcome = judge(context, opened, &report)?;
        tell(context, opened, &report);
        Ok(Made::Backup(Box::new(report), outcome))
    }
}

/// What came of one source in one repository.
enum Made {
    /// A backup, and whether a person must look.
    Backup(Box<BackupReport>, Outcome),
    /// Another node does it; why.
    Left(String),
}

/// How many threads: as asked for, else one for each processor.
pub(crate) fn jobs(asked: Option<u32>) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    asked.and_then(|jobs| usize::try_from(jobs).ok()).unwrap_or(processors).max(1)
}

/// Whether a person must look.
fn judge(context: &Context, opened: &Opened, report: &BackupReport) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::Done;
    for page in &report.bad_pages {
        let relation = page.relation.as_deref().map_or_else(String::new, |name| format!(" of {name}"));
        context
            .out
            .warn(&format!("damaged page: block {}{relation} in {}: {}", page.block, page.path, page.what));
        outcome = Outcome::Findings;
    }
    if let Some(new) = &report.new_generation {
        context.out.warn(&format!(
            "{} is another cluster now: {} (PostgreSQL {}), before it was {} (PostgreSQL {}). What was backed up before stays restorable as what it was; from this backup on the new one is. If that is wrong, correct data_directory.",
            report.source, new.is, new.to_version, new.was, new.from_version
        ));
        outcome = Outcome::Findings;
    }
    if let Some(failing) = &report.archiver_failing {
        let at = failing.at.map_or_else(String::new, |at| format!(" at {}", time::moment(at)));
        context.out.warn(&format!(
            "archiving fails: archive_command could not archive {}{at}; until it can, {} is recoverable to the end of this backup, not beyond.     {} check {}",
            failing.file,
            report.source,
            context.command(),
            report.source
        ));
        outcome = Outcome::Findings;
    }
    if unconfirmed(opened)? {
        let age = time::since(opened.repository.marker().created, context.clock.now());
        context.out.warn(&format!(
            "nobody has shown that the recovery sheet of {} is kept: if {} is lost, nobody can open these backups.     {} key confirm",
            opened.name,
            context.host,
            context.command()
        ));
        if age > PATIENCE {
            outcome = Outcome::Findings;
        }
    }
    Ok(outcome)
}

fn tell(context: &Context, opened: &Opened, report: &BackupReport) {
    for note in &report.notes {
        context.out.say(&format!("note: {note}"));
    }
    let parent = report.parent.map_or_else(String::new, |parent| format!(" since {parent}"));
    let size = ByteSize(report.source_bytes);
    // The control file and WAL of the backup's own are not read as files.
    let unread = report.source_bytes.saturating_sub(report.read_bytes);
    let read = if report.parent.is_some() && unread > report.source_bytes / 100 {
        format!("{size}, of which {} read", ByteSize(report.read_bytes))
    } else {
        format!("{size} read")
    };
    context.out.text(&format!(
        "{} backup {} of {} in {}{parent}: {read}, {} stored, in {}\n  restorable from {} on; {}\n",
        report.kind,
        report.backup,
        report.source,
        opened.name,
        ByteSize(report.stored_bytes),
        time::seconds(report.seconds),
        time::moment(report.stop_time),
        if report.own_wal { "carries its own WAL" } else { "its WAL is verified in the archive" },
    ));
}
