//! `copy`: backups with their WAL from repository to repository, without PostgreSQL.

pub(crate) mod background;

use std::time::Duration;

use clap::Args;
use refloat_config::{RepositoryConfig, SourceConfig};
use refloat_engine::copy::{self, CopyError, CopyReport, CopyRequest, Named};
use refloat_types::{BackupId, ByteSize};

use super::backup::jobs;
use crate::Outcome;
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::operations::Operation;
use crate::progress::Meter;
use crate::render::text::count;
use crate::render::time;
use crate::retention::{longest, policy_of};

/// How long one WAL file may take.
const WAL_TIMEOUT: Duration = Duration::from_secs(120);
/// Copy backups with their WAL from one repository to another
///
/// Without --from and --to it brings every repository of the source what another one has and it lacks. Whatever is there is not
/// copied again, so a copy that was interrupted goes on. What the retention of a repository would delete at once is not
/// copied there. PostgreSQL is not needed, and nothing is read from it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo refloat copy prod --from local --to offsite
  sudo refloat copy prod --from offsite --to cold --backup bk7q2x3 --self-contained
  sudo refloat copy --dry-run                     what every repository lacks

A backup is copied in the order in which backups were made: one that is older than the newest that both have is passed over.")]
pub(crate) struct Copy {
    /// Name of a source [default: all]
    #[arg(value_name = "SOURCE")]
    source: Option<String>,
    /// The repository that has it [default: each that answers]
    #[arg(long, value_name = "REPOSITORY")]
    from: Option<String>,
    /// The repository that shall have it [default: each of the source's]
    #[arg(long, value_name = "REPOSITORY")]
    to: Option<String>,
    /// Only this backup, whatever the retention there says
    #[arg(long, value_name = "BACKUP", requires = "to")]
    backup: Option<String>,
    /// Store everything again in packs of its own, so that it depends on no older backup's
    #[arg(long, requires = "to")]
    self_contained: bool,
    /// Threads [default: as many as processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: Option<u32>,
    /// Say what would be copied, and copy nothing
    #[arg(long)]
    dry_run: bool,
    /// Started by `wal push` and `backup`: one on a host, and silent
    #[arg(long, hide = true)]
    background: bool,
}

impl Copy {
    /// Whether nobody waits for it.
    pub(crate) const fn is_left_behind(&self) -> bool {
        self.background
    }

    /// Does it.
    pub(crate) fn run(self, mut context: Context) -> Result<Outcome, Failure> {
        let named: Vec<String> = self.source.iter().cloned().collect();
        let sources = context.sources(&named)?;
        context.assume(&sources, false)?;
        if self.background {
            return background::run(&self, &context, &sources);
        }
        let (mut reports, mut failed) = (Vec::new(), None::<Failure>);
        for source in &sources {
            let pass = self.pass_noted(&context, source)?;
            reports.extend(pass.reports);
            for (_, failure) in pass.failed {
                match &mut failed {
                    None => failed = Some(failure),
                    Some(first) => first.more.push(failure),
                }
            }
        }
        context.out.document(&serde_json::json!({ "dry_run": self.dry_run, "copies": reports }));
        if let Some(failed) = failed {
            return Err(failed);
        }
        // Who names a backup wants it there.
        let passed = self.backup.is_some() && reports.iter().any(|report| !report.passed.is_empty());
        Ok(if passed { Outcome::Findings } else { Outcome::Done })
    }

    /// One source. What is noted as lacking is struck out where it is all brought now.
    fn pass_noted(&self, context: &Context, source: &SourceConfig) -> Result<Pass, Failure> {
        let all = context.global.repository.is_none() && self.from.is_none() && self.to.is_none();
        let whole = all && self.backup.is_none() && !self.dry_run;
        // One that works in the background sees to its own notes.
        let lock = if whole { background::lock(context, source)? } else { None };
        match lock {
            Some(_lock) => background::pass(self, context, source),
            None => self.pass(context, source),
        }
    }

    /// One source, from every repository to every other.
    fn pass(&self, context: &Context, source: &SourceConfig) -> Result<Pass, Failure> {
        let mut pass = Pass::default();
        let (from, to) = (self.side(context, source, &self.from)?, self.side(context, source, &self.to)?);
        let mut opened: Vec<Opened> = Vec::new();
        for config in from.iter().chain(&to) {
            let name = config.name.as_str();
            if opened.iter().any(|one| one.name == name) || pass.unopened.iter().any(|one| one == name) {
                continue;
            }
            match context.open(config, Access::Bulk) {
                Ok(one) => opened.push(one),
                Err(failure) => {
                    context.note_answer(name, Err(&failure));
                    pass.unopened.push(name.to_owned());
                    pass.failed.push((name.to_owned(), failure));
                }
            }
        }
        let find = |config: &RepositoryConfig| opened.iter().find(|one| one.name == config.name.as_str());
        for to in to.iter().filter_map(find) {
            for from in from.iter().filter_map(find).filter(|from| from.name != to.name) {
                match self.one(context, source, from, to) {
                    Ok(Some(report)) => pass.reports.push(report),
                    Ok(None) => {}
                    Err(failure) => pass.failed.push((to.name.clone(), failure)),
                }
            }
        }
        Ok(pass)
    }

    /// The repositories of one side.
    fn side(
        &self,
        context: &Context,
        source: &SourceConfig,
        named: &Option<String>,
    ) -> Result<Vec<RepositoryConfig>, Failure> {
        let config = context.config()?;
        match named {
            None => context.repositories(Some(source)),
            Some(name) => {
                let found = config.repositories.values().find(|one| one.name.as_str() == name);
                let known = || config.repositories.keys().map(ToString::to_string).collect();
                let place = || context.config_file.display().to_string();
                let found = found.cloned();
                Ok(vec![found.ok_or_else(|| CliError::NoRepository {
                    name: name.clone(),
                    place: place(),
                    known: known(),
                })?])
            }
        }
    }

    /// From one to another; `None` where there is nothing to copy from and that was not asked for in words.
    fn one(
        &self,
        context: &Context,
        source: &SourceConfig,
        from: &Opened,
        to: &Opened,
    ) -> Result<Option<CopyReport>, Failure> {
        let only = self.backup.as_deref().map(str::parse::<BackupId>).transpose();
        let only =
            only.map_err(|error| CliError::usage(error.to_string(), "`refloat list` shows their ids."))?;
        let policy = policy_of(source, &to.name);
        let meter = Meter::new(context.out);
        let request = CopyRequest {
            from: Named { name: &from.name, repository: &from.repository },
            to: Named { name: &to.name, repository: &to.repository },
            source: &source.name,
            only,
            keeps: policy.as_ref(),
            keep: policy.as_ref().and_then(|policy| longest(policy, None)),
            self_contained: self.self_contained,
            wal: true,
            compression: to.compression,
            jobs: jobs(self.jobs.or(source.jobs)),
            wal_timeout: WAL_TIMEOUT,
            host: &context.host,
            clock: &context.clock,
            progress: &meter,
        };
        if self.dry_run {
            let planned = absent_is_nothing(copy::plan(&request), self.from.is_none())?;
            if let Some(report) = &planned {
                context.out.text(&text(report, true));
            }
            return Ok(planned);
        }
        let mut operation = Operation::begin(context, "copy", Some(source.name.as_str()));
        let copied = absent_is_nothing(copy::copy(&request), self.from.is_none());
        let blamed = copied.as_ref().err().and_then(CopyError::repository).map(str::to_owned);
        let result = copied.map_err(Failure::from);
        meter.finish();
        match &result {
            Ok(None) => {}
            Ok(Some(report)) => {
                context.note_answer(&to.name, Ok(()));
                operation.bytes = report.backups.iter().map(|one| one.bytes).sum::<u64>() + report.wal.bytes;
                operation.detail = Some(format!("from {} to {}: {}", from.name, to.name, what(report)));
                // Asked for by every WAL segment: where nothing was done, nothing is recorded.
                if !report.backups.is_empty() {
                    operation.finish(context, [&to.repository], &Ok(Outcome::Done));
                } else if report.wal.files > 0 {
                    operation.finish_locally(&Ok(Outcome::Done));
                }
                context.out.text(&text(report, false));
            }
            Err(failure) => {
                if let Some(blamed) = &blamed {
                    context.note_answer(blamed, Err(failure));
                }
                operation.detail = Some(format!("from {} to {}", from.name, to.name));
                operation.finish_locally(&Err(failure.clone()));
            }
        }
        result
    }
}

/// What came of one source.
#[derive(Default)]
struct Pass {
    reports: Vec<CopyReport>,
    /// Which repository lacks something still, and why.
    failed: Vec<(String, Failure)>,
    /// Repositories that could not be opened.
    unopened: Vec<String>,
}

/// A repository that does not know the source has nothing to copy from.
fn absent_is_nothing(
    result: Result<CopyReport, CopyError>,
    any: bool,
) -> Result<Option<CopyReport>, CopyError> {
    match result {
        Err(CopyError::NoSource { .. }) if any => Ok(None),
        other => other.map(Some),
    }
}

fn what(report: &CopyReport) -> String {
    let bytes: u64 = report.backups.iter().map(|one| one.bytes).sum();
    format!(
        "{} ({}), {} of WAL",
        count(report.backups.len(), "backup"),
        ByteSize(bytes),
        count(usize::try_from(report.wal.files).unwrap_or(usize::MAX), "file")
    )
}

fn text(report: &CopyReport, dry: bool) -> String {
    let (from, to) = (&report.from, &report.to);
    let nothing = report.backups.is_empty() && report.wal.files == 0;
    let mut out = if nothing && !report.passed.is_empty() {
        format!("{}: nothing is copied from {from} to {to}\n", report.source)
    } else if nothing {
        format!("{}: {to} lacks nothing that {from} has\n", report.source)
    } else if dry {
        format!("{}: would copy {} from {from} to {to}\n", report.source, what(report))
    } else {
        let took = time::seconds(report.seconds);
        format!("{}: copied {} from {from} to {to}, in {took}\n", report.source, what(report))
    };
    for one in &report.backups {
        let again = match one.stored_again {
            0 => String::new(),
            bytes => format!(", {} of it stored again", ByteSize(bytes)),
        };
        out.push_str(&format!("  {}  {}{again}\n", one.backup, ByteSize(one.bytes)));
        match one.short_locks {
            Some(0) => {}
            Some(short) => {
                let packs = count(usize::try_from(short).unwrap_or(usize::MAX), "older pack");
                out.push_str(&format!("    note: the lock of {packs} ends before it may go, and this host can do nothing about that\n"));
            }
            None => out.push_str(
                "    note: how long older packs are locked is not known: these credentials may not ask for it\n",
            ),
        }
    }
    for passed in &report.passed {
        out.push_str(&format!("  {} is not copied: {}\n", passed.backup, passed.why));
    }
    for note in &report.notes {
        out.push_str(&format!("  note: {note}\n"));
    }
    out
}
