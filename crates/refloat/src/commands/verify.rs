//! `verify`.

use clap::Args;
use refloat_engine::verify::{Grade, Scope, SourceRef, VerifyReport, VerifyRequest, Which, verify};
use refloat_repo::layout::{self, Named};
use refloat_store::Key;
use refloat_types::{BackupId, Clock as _};

use super::backup::jobs;
use super::list::{commits_of, prepare_reading, sources_of};
use crate::Outcome;
use crate::asking::open_all;
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::healing::{Healing, Told};
use crate::operations::Operation;
use crate::progress::Meter;
use crate::render::text::{count, shell};
use crate::render::time;
use crate::thaw::{self, Consent};
use crate::times::{self, Moment};

/// Check what is stored: that everything is there and signed by this repository's agents
///
/// Says what it proved and what it did not. With --read-data every byte is read, decrypted and compared with its digest.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo refloat verify
  sudo refloat verify prod latest --read-data
  sudo refloat verify --read-data --heal --dry-run
  sudo refloat verify --read-data --heal             damaged objects are replaced out of another repository

Exit code 3: something is missing, damaged, or not ours.")]
pub(crate) struct Verify {
    /// Name of a source [default: everything in the repositories]
    #[arg(value_name = "SOURCE")]
    source: Option<String>,
    /// A backup by its id, `latest`, or the day it was finished on [default: all]
    #[arg(value_name = "BACKUP|latest|DATE")]
    backup: Option<String>,
    /// Read every byte
    #[arg(long)]
    read_data: bool,
    /// With --read-data: ask for what lies in a cold class by thaw_command, and wait until it can be read
    #[arg(long, requires = "read_data")]
    thaw: bool,
    /// Threads that read [default: as many as processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: Option<u32>,
    /// Replace what is damaged by a right copy: of another repository, or of what this host has kept
    #[arg(long)]
    heal: bool,
    /// With --heal: say what could be healed, and do nothing
    #[arg(long, requires = "heal")]
    dry_run: bool,
    /// A later release
    #[arg(long, hide = true)]
    restore: bool,
}

impl Verify {
    /// Does it.
    pub(crate) fn run(self, mut context: Context) -> Result<Outcome, Failure> {
        if self.restore {
            return Err(CliError::usage(
                "verify --restore is not in this release",
                "Prove it by hand: refloat restore SOURCE --to DIR --as copy, and start the copy.",
            )
            .into());
        }
        prepare_reading(&mut context, None)?;
        let mut outcome = Outcome::Done;
        let mut documents = Vec::new();
        let all = open_all(&context, Access::Bulk)?;
        for opened in &all {
            let mut operation = Operation::begin(&context, "verify", self.source.as_deref());
            let report = self.one(&context, opened);
            let ended = match &report {
                Ok(report) if report.needs_attention() => Ok(Outcome::Findings),
                Ok(_) => Ok(Outcome::Done),
                Err(failure) => Err(failure.clone()),
            };
            if let Ok(report) = &report {
                operation.bytes = report.bytes_read;
                operation.detail =
                    Some(format!("{}; {}", report.summary(), count(report.findings.len(), "finding")));
            }
            if context.is_ad_hoc()? {
                operation.finish_locally(&ended);
            } else {
                operation.finish(&context, [&opened.repository], &ended);
            }
            let report = report?;
            if ended? == Outcome::Findings {
                outcome = Outcome::Findings;
            }
            context.out.text(&text(opened, &report));
            let healed = if self.heal { self.mend(&context, opened, &all, &report) } else { Vec::new() };
            if self.heal && !self.dry_run && !healed.is_empty() {
                context.out.text(&self.after(&context, opened, &healed));
            }
            documents.push(serde_json::json!({
                "repository": opened.name, "summary": report.summary(), "report": report, "healed": healed,
            }));
        }
        context.out.document(&serde_json::json!({ "repositories": documents }));
        Ok(outcome)
    }

    /// What the verdicts above are worth now that something was healed.
    fn after(&self, context: &Context, opened: &Opened, told: &[Told]) -> String {
        let healed = told.iter().filter(|one| one.is_healed()).count();
        let named = context.global.repository.is_some();
        let of = if named { String::new() } else { format!(" -r {}", shell(&opened.name)) };
        let again = format!(
            "{}{of} verify{}{}",
            context.command(),
            self.source.as_ref().map_or_else(String::new, |source| format!(" {}", shell(source))),
            if self.read_data { " --read-data" } else { "" }
        );
        let what = match told.len() - healed {
            0 => {
                format!("all of it is healed ({}): what is said above was so before", count(healed, "object"))
            }
            rest => {
                format!("{} healed, {rest} not: what is said above was so before", count(healed, "object"))
            }
        };
        format!("  {what}; prove how it is now:  {again}\n")
    }

    /// Replaces what is damaged, where a right copy can be had.
    fn mend(&self, context: &Context, of: &Opened, all: &[Opened], report: &VerifyReport) -> Vec<Told> {
        // What nothing needs is no damage; what somebody else has put there is not made right by a copy.
        let damaged = report.findings.iter().filter(|finding| finding.grade != Grade::Note);
        let names = damaged.flat_map(|finding| std::iter::once(&finding.object).chain(&finding.also));
        let objects: Vec<Key> = names
            .filter_map(|name| name.parse().ok())
            .filter(|key| Named::parse(key).is_some() || key.as_str().starts_with(layout::RESCUE))
            .collect();
        let from = all.iter().filter(|one| one.name != of.name).map(|one| &one.repository).collect();
        Healing { of, from, source: self.source.as_deref(), dry_run: self.dry_run }.run(context, objects)
    }

    fn one(&self, context: &Context, opened: &Opened) -> Result<VerifyReport, Failure> {
        let scope = match &self.source {
            None => Scope::Repository,
            Some(name) => {
                let name = name.parse().map_err(|error: refloat_types::BadName| {
                    CliError::usage(error.to_string(), "refloat list  shows the sources.")
                })?;
                Scope::Source(SourceRef::Name(name), self.which(context, opened)?)
            }
        };
        if self.thaw {
            self.thaw(context, opened, &scope)?;
        }
        // Who is enrolled can pin what is looked at.
        refloat_engine::guard::enrol(&opened.repository, context.clock.now())?;
        let meter = Meter::new(context.out);
        let request = VerifyRequest {
            repository: &opened.repository,
            scope,
            read_data: self.read_data,
            jobs: jobs(self.jobs),
            host: &context.host,
            now: context.clock.now(),
            progress: &meter,
        };
        Ok(verify(&request)?)
    }

    /// Sees to it that what is to be read can be.
    fn thaw(&self, context: &Context, opened: &Opened, scope: &Scope) -> Result<(), Failure> {
        let mut records = Vec::new();
        for source in sources_of(context, opened, self.source.as_deref())? {
            records.extend(commits_of(context, opened, &source)?);
        }
        match scope {
            Scope::Source(_, Which::Backup(id)) => records.retain(|record| record.commit.backup == *id),
            Scope::Source(_, Which::Latest) => {
                let newest = records.into_iter().max_by_key(|record| record.commit.number);
                records = newest.into_iter().collect();
            }
            _ => {}
        }
        let consent = Consent { given: true, ask: false, dry_run: false, elsewhere: false };
        thaw::thaw(context, opened, &records, ("verify", consent)).map(drop)
    }

    fn which(&self, context: &Context, opened: &Opened) -> Result<Which, Failure> {
        let Some(text) = self.backup.as_deref() else { return Ok(Which::All) };
        if text == "latest" {
            return Ok(Which::Latest);
        }
        if let Ok(id) = text.parse::<BackupId>() {
            return Ok(Which::Backup(id));
        }
        let Moment::Zoneless(civil) = times::parse(text, context.clock.now()) else {
            return Err(CliError::usage(
                format!("\"{text}\" is neither a backup, nor latest, nor a day"),
                "Write an id (refloat list), latest, or a day such as 2026-11-20.",
            )
            .into());
        };
        let mut newest = None;
        for source in sources_of(context, opened, self.source.as_deref())? {
            for record in commits_of(context, opened, &source)? {
                if record.commit.finished.to_zoned(time::zone()).date() == civil.date() {
                    newest = Some(record.commit.backup);
                }
            }
        }
        newest.map(Which::Backup).ok_or_else(|| {
            CliError::usage(
                format!("no backup was finished on {}", civil.date()),
                "refloat list  shows when each was finished.",
            )
            .into()
        })
    }
}

fn text(opened: &Opened, report: &VerifyReport) -> String {
    let mut out =
        format!("repository {}: {}, in {}\n", opened.name, report.summary(), time::seconds(report.seconds));
    for backup in &report.backups {
        let state = match (backup.restorable, backup.recoverable) {
            (false, _) => "CANNOT be restored whole",
            (true, false) => "can be restored; CANNOT be recovered to the newest WAL",
            (true, true) => "nothing found against restoring it",
        };
        out.push_str(&format!("  backup {}: {state}\n", backup.name));
    }
    for wal in &report.wal {
        let span = wal
            .first
            .as_ref()
            .zip(wal.last.as_ref())
            .map_or_else(String::new, |(a, b)| format!(" {a} … {b}"));
        let missing =
            if wal.missing == 0 { "none missing".to_owned() } else { format!("{} MISSING", wal.missing) };
        out.push_str(&format!("  WAL of timeline {}:{span}, {missing}\n", wal.timeline));
    }
    for finding in &report.findings {
        let grade = match finding.grade {
            Grade::Note => "note ",
            Grade::Attention => "LOOK ",
            Grade::Damage => "DAMAGE",
        };
        out.push_str(&format!("{grade} {finding}\n"));
    }
    if report.findings_left_out > 0 {
        out.push_str(&format!("and {} more findings\n", report.findings_left_out));
    }
    for not in &report.not_proved {
        out.push_str(&format!("  not proved: {not}\n"));
    }
    out
}
