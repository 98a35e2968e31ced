//! `backup`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use refloat_config::{BackupWal, Checkpoint, Mode, RepositoryConfig, SourceConfig};
use refloat_engine::backup::{self, BackupError, BackupReport, BackupRequest, Other, OwnWal, RunOn, Wanted};
use refloat_repo::Repository;
use refloat_types::{ByteSize, Clock as _, Severity};

use super::key::unconfirmed;
use crate::Outcome;
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::healing;
use crate::operations::Operation;
use crate::progress::Meter;
use crate::render::text::{count, shell};
use crate::render::time;
use crate::rescue::{self, Look};
use crate::retention::{longest, policy_of};
use crate::several::{self, Several};

/// How long an unconfirmed recovery sheet is only warned about.
const PATIENCE: Duration = Duration::from_secs(72 * 3600);
/// How long a call to one of several repositories may take.
const PATIENCE_WITH_ONE: Duration = Duration::from_secs(60);
/// The code of a backup that fewer repositories have than must.
const TOO_FEW: &str = "CLI-020";
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
another cluster than before (after pg_upgrade), a repository that lacks it, or a
recovery sheet that nobody has confirmed for 72 hours.")]
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
            let configs = context.repositories(Some(source))?;
            if self.dry_run {
                configs.iter().for_each(|config| context.out.text(&self.would(source, config)));
                continue;
            }
            match self.one(&context, source, configs) {
                Ok(Made::Backup(report, one)) => {
                    reports.push(*report);
                    if one == Outcome::Findings {
                        outcome = one;
                    }
                }
                Ok(Made::Left(repository, why)) => {
                    context
                        .out
                        .text(&format!("{} in {repository}: nothing to do here: {why}\n", source.name));
                    left.push(
                        serde_json::json!({ "source": source.name, "repository": repository, "why": why }),
                    );
                }
                // The others are made all the same.
                Err(failure) => match &mut failed {
                    None => failed = Some(failure),
                    Some(first) => first.more.push(failure),
                },
            }
        }
        context
            .out
            .document(&serde_json::json!({ "dry_run": self.dry_run, "backups": reports, "left": left }));
        failed.map_or(Ok(outcome), Err)
    }

    fn would(&self, source: &SourceConfig, repository: &RepositoryConfig) -> String {
        let what = match self.wanted() {
            Wanted::Full => "a full backup",
            Wanted::Diff => "a differential backup (a full one where there is none)",
            Wanted::Suitable | Wanted::Incr => {
                "an incremental backup (a full one where there is nothing to refer to)"
            }
        };
        let when = match repository.mode {
            Mode::Sync => "make",
            Mode::Async => "copy later",
        };
        format!(
            "would {when} {what} of {} ({}) in {} ({})\n",
            source.name,
            source.data_directory.display(),
            repository.name,
            repository.url
        )
    }

    /// One reading of one source, into all of its repositories.
    fn one(
        &self,
        context: &Context,
        source: &SourceConfig,
        configs: Vec<RepositoryConfig>,
    ) -> Result<Made, Failure> {
        let mut operation = Operation::begin(context, "backup", Some(source.name.as_str()));
        let enough = (source.acknowledge as usize).min(configs.len());
        // Among several, one that hangs must not hold the others.
        let patience = |together: usize| match together {
            0 | 1 => Access::Bulk,
            _ => Access::Within(PATIENCE_WITH_ONE),
        };
        let mut all = several::open(context, configs, enough, patience);
        let result = self.in_several(context, source, &mut all, enough);
        if let Ok(Made::Backup(report, _)) = &result {
            operation.bytes = report.stored_bytes;
            operation.about = Some(report.backup.to_string());
            let damaged =
                (!report.bad_pages.is_empty()).then(|| format!("{} damaged pages", report.bad_pages.len()));
            let failing = report.archiver_failing.as_ref().map(|it| format!("archiving fails: {}", it.file));
            operation.detail = damaged.or(failing);
        }
        let stored = |one: &&Opened| match &result {
            Ok(Made::Backup(report, _)) => {
                report.others.iter().all(|other| other.repository != one.name || other.failed.is_none())
            }
            _ => true,
        };
        let repositories = all.opened.iter().filter(stored).map(|one| &one.repository);
        match &result {
            // Nobody did anything.
            Ok(Made::Left(..)) => operation.finish_locally(&Ok(Outcome::Done)),
            Ok(Made::Backup(_, outcome)) => operation.finish(context, repositories, &Ok(*outcome)),
            Err(failure) => operation.finish(context, repositories, &Err(failure.clone())),
        }
        if matches!(result, Ok(Made::Backup(..))) {
            for one in all.opened.iter().filter(stored) {
                rescue::keep(context, one, Look::Seldom);
                healing::keep_copies(context, one);
            }
        }
        match &result {
            Ok(Made::Backup(report, _)) => {
                let failed = report.others.iter().filter(|other| other.failed.is_some());
                let mut left_out: Vec<String> = failed.map(|other| other.repository.clone()).collect();
                left_out.extend(all.left_out());
                several::catch_up_later(context, source, &left_out);
                several::know_what_lacks(context, source);
            }
            // It was made, and too few have it.
            Err(failure) if failure.code == TOO_FEW => {
                let every: Vec<String> = source.repositories.iter().map(ToString::to_string).collect();
                several::catch_up_later(context, source, &every);
            }
            _ => {}
        }
        result
    }

    /// Into the first that can take it and the others with it. One that goes away while it is the first is left out, and the
    /// backup begun anew with the next.
    fn in_several(
        &self,
        context: &Context,
        source: &SourceConfig,
        all: &mut Several,
        enough: usize,
    ) -> Result<Made, Failure> {
        loop {
            if all.opened.len() < enough {
                return Err(too_few(context, source, all, enough));
            }
            let made = self.make(context, source, all, enough);
            let first = &all.opened[0];
            match made {
                Err(failure)
                    if failure.severity == Severity::Unreachable
                        && all.opened.len() > enough
                        && !answers(first) =>
                {
                    context.note_answer(&first.name, Err(&failure));
                    context.out.warn(&format!(
                        "repository {} went away: {}; the backup begins anew in {}",
                        first.name,
                        failure.line(),
                        all.opened[1].name
                    ));
                    let gone = all.opened.remove(0);
                    if let Ok(name) = gone.name.parse() {
                        all.failed.push((name, failure));
                    }
                }
                other => return other,
            }
        }
    }

    fn make(
        &self,
        context: &Context,
        source: &SourceConfig,
        all: &Several,
        enough: usize,
    ) -> Result<Made, Failure> {
        let Some((opened, others)) = all.opened.split_first() else { return Err(none_at_all()) };
        let meter = Meter::new(context.out);
        let request = BackupRequest {
            repository: &opened.repository,
            repository_name: opened.name.clone(),
            others: others
                .iter()
                .map(|other| Other {
                    name: other.name.clone(),
                    repository: &other.repository,
                    keep: policy_of(source, &other.name).and_then(|policy| longest(&policy, None)),
                })
                .collect(),
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
            keep: policy_of(source, &opened.name).and_then(|policy| longest(&policy, None)),
            configuration: context.config()?.without_secrets().to_owned(),
            host: context.host.clone(),
            clock: &context.clock,
            progress: &meter,
        };
        let report = match backup::run(&request) {
            Err(BackupError::NotHere(why)) => return Ok(Made::Left(opened.name.clone(), why)),
            other => other?,
        };
        meter.finish();
        context.note_answer(&opened.name, Ok(()));
        tell(context, opened, &report);
        let mut outcome = judge(context, opened, &report)?;
        for other in others {
            outcome = worse(outcome, sheet(context, other)?);
        }
        let behind = tell_others(context, all, &report);
        let holders = 1 + report.others.iter().filter(|other| other.failed.is_none()).count();
        if holders < enough {
            let (backup, first) = (report.backup.to_string(), opened.name.clone());
            return Err(CliError::TooFew { backup, first, holders, enough, behind }.into());
        }
        if !behind.is_empty() {
            outcome = Outcome::Findings;
        }
        Ok(Made::Backup(Box::new(report), outcome))
    }
}

/// Why it is not begun: what is there, what is needed, and why the others are not there.
fn too_few(context: &Context, source: &SourceConfig, all: &mut Several, enough: usize) -> Failure {
    let mut failed: Vec<(String, Failure)> =
        all.failed.drain(..).map(|(name, failure)| (name.to_string(), failure)).collect();
    if failed.is_empty() {
        return none_at_all();
    }
    if enough < 2 {
        let mut first = failed.remove(0).1;
        first.more.extend(failed.into_iter().map(|(_, failure)| failure));
        return first;
    }
    let answering: Vec<String> = all.opened.iter().map(|one| one.name.clone()).collect();
    let error = CliError::NotEnough {
        what: format!("the backup of {} is not begun", source.name),
        source_name: source.name.to_string(),
        needed: enough,
        answering: answering.clone(),
        away: failed.iter().map(|(name, _)| name.clone()).collect(),
        severity: failed[0].1.severity,
    };
    let mut failure = Failure::from(error);
    failure.detail = failed.iter().map(|(name, why)| format!("{name}: {}", why.line())).collect();
    if let Some(one) = answering.first() {
        let line = format!("{} -r {} backup {}", context.command(), shell(one), source.name);
        failure.hints.push(format!("To make it in {one} alone:  {line}"));
    }
    failure
}

fn none_at_all() -> Failure {
    CliError::usage("there is no repository", "Write [repository.NAME] into the configuration.").into()
}

/// Whether a repository answers at all now: what was unreachable may have been the server.
fn answers(opened: &Opened) -> bool {
    Repository::read_marker(opened.repository.store().as_ref()).is_ok()
}

const fn worse(one: Outcome, other: Outcome) -> Outcome {
    match (one, other) {
        (Outcome::Done, Outcome::Done) => Outcome::Done,
        _ => Outcome::Findings,
    }
}

/// Tells of the repositories beside the first, and answers which of them lack the backup though they should have it now.
fn tell_others(context: &Context, all: &Several, report: &BackupReport) -> Vec<String> {
    let mut behind = Vec::new();
    for other in &report.others {
        match &other.failed {
            None => {
                context.note_answer(&other.repository, Ok(()));
                let copied = match other.copied_bytes {
                    0 => String::new(),
                    bytes => format!(", {} of it copied", ByteSize(bytes)),
                };
                let earlier = other.backups.len().saturating_sub(1);
                let earlier = match earlier {
                    0 => String::new(),
                    number => format!(", with {} that it lacked", count(number, "earlier backup")),
                };
                context.out.done(&format!("  also in {}{copied}{earlier}\n", other.repository));
            }
            Some(failed) => {
                context.out.warn(&format!(
                    "repository {} does not have it: {} {}; it catches up by itself, or:     {} copy {} --to {}",
                    other.repository,
                    failed.code,
                    failed.why,
                    context.command(),
                    report.source,
                    other.repository
                ));
                behind.push(other.repository.clone());
            }
        }
    }
    for (name, failure) in &all.failed {
        context.out.warn(&format!("repository {name} does not have it: {} {}", failure.code, failure.line()));
        behind.push(name.to_string());
    }
    for name in &all.later {
        let why = match context.down(name.as_str()) {
            Some(down) if context.is_left_alone(name.as_str()) => {
                behind.push(name.to_string());
                format!("it does not answer since {}", time::moment(down.since))
            }
            _ => "it is copied in the background".to_owned(),
        };
        context.out.done(&format!("  later in {name}: {why}\n"));
    }
    behind
}

/// What came of one source in one repository.
enum Made {
    /// A backup, and whether a person must look.
    Backup(Box<BackupReport>, Outcome),
    /// Another node does it; in which repository that shows, and why.
    Left(String, String),
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
    Ok(worse(outcome, sheet(context, opened)?))
}

/// Whether a person must see to the recovery sheet of a repository.
fn sheet(context: &Context, opened: &Opened) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::Done;
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
    context.out.done(&format!(
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
