//! `expire`.

use std::collections::BTreeMap;

use clap::Args;
use refloat_config::SourceConfig;
use refloat_engine::expire::{Amount, ExpireReport, expire, explain};
use refloat_types::{BackupId, ByteSize, Timestamp};
use serde_json::{Value, json};

use super::list::{commits_of, locks_of, source_name};
use crate::Outcome;
use crate::context::{Access, Context, Opened};
use crate::error::Failure;
use crate::operations::Operation;
use crate::progress::Meter;
use crate::render::text::{count, table};
use crate::render::time;
use crate::retention::{grace, policies, policy_of, request, words};

/// Delete what the retention does not want: mark it first, delete it a day later
///
/// Says of each backup why it is kept, or why it goes. The first run marks what goes; a run at least 24 hours later deletes
/// it, if nothing needs it then. Run it regularly, such as after each backup. Without `retention` in the configuration
/// nothing is ever deleted.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo refloat expire --dry-run
  sudo refloat expire prod

Always kept: the newest backup, the newest full that is whole, what is held (refloat hold), what a running job uses.")]
pub(crate) struct Expire {
    /// Name of a source [default: all]
    #[arg(value_name = "SOURCE")]
    source: Option<String>,
    /// Say what would be marked and deleted, and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl Expire {
    /// Does it.
    pub(crate) fn run(self, mut context: Context) -> Result<Outcome, Failure> {
        let named: Vec<String> = self.source.iter().cloned().collect();
        let sources = context.sources(&named)?;
        context.assume(&sources, false)?;
        let mut documents = Vec::new();
        let mut failed: Option<Failure> = None;
        for config in context.repositories(None)? {
            if !sources.iter().any(|source| source.repositories.contains(&config.name)) {
                continue;
            }
            let done = context
                .open(&config, Access::Bulk)
                .and_then(|opened| self.in_repository(&context, &sources, &opened));
            match done {
                Ok(document) => documents.push(document),
                // The other repositories are looked at all the same.
                Err(failure) => match &mut failed {
                    None => failed = Some(failure),
                    Some(first) => first.more.push(failure),
                },
            }
        }
        context.out.document(&json!({ "dry_run": self.dry_run, "repositories": documents }));
        failed.map_or(Ok(Outcome::Done), Err)
    }

    fn in_repository(
        &self,
        context: &Context,
        sources: &[SourceConfig],
        opened: &Opened,
    ) -> Result<Value, Failure> {
        let known = opened.repository.list_sources()?;
        let policies = policies(sources, opened, &known);
        if policies.is_empty() {
            let configured = sources.iter().any(|source| policy_of(source, &opened.name).is_some());
            let why = if configured {
                "nothing is stored yet of the sources that have a retention"
            } else {
                "no retention is configured, so nothing is ever deleted"
            };
            context.out.text(&format!("repository {}: {why}\n", opened.name));
            return Ok(json!({ "repository": opened.name, "configured": configured }));
        }
        let names: Vec<String> =
            known.iter().filter(|s| policies.contains_key(&s.id)).map(source_name).collect();
        let meter = Meter::new(context.out);
        let asked = request(context, opened, policies, &meter);
        let report = if self.dry_run {
            explain(&asked)?
        } else {
            let mut operation = Operation::begin(context, "expire", self.source.as_deref());
            let result = expire(&asked).map_err(Failure::from);
            if let Ok(report) = &result {
                operation.bytes = report.deleted.bytes;
                operation.detail =
                    Some(format!("deleted {}; marked {}", amount(&report.deleted), amount(&report.marked)));
            }
            let ended = result.as_ref().map(|_| Outcome::Done).map_err(Failure::clone);
            operation.finish(context, [&opened.repository], &ended);
            result?
        };
        meter.finish();
        let mut records = Vec::new();
        for source in known.iter().filter(|_| self.dry_run) {
            records.extend(commits_of(context, opened, source)?);
        }
        // What goes and is locked stays until then.
        let locks = locks_of(context, opened, records.iter());
        context.out.text(&self.text(context, opened, &names, (&report, &locks)));
        Ok(document(opened, &names, (&report, &locks)))
    }

    fn text(
        &self,
        context: &Context,
        opened: &Opened,
        names: &[String],
        (report, locks): Told<'_>,
    ) -> String {
        let mut out = format!("repository {}\n", opened.name);
        for name in names {
            out.push_str(&format!("  {name}\n"));
            let of = report.backups.iter().filter(|verdict| verdict.source_name == *name);
            let rows: Vec<Vec<String>> = of
                .map(|verdict| {
                    let id = format!("    {}", verdict.backup);
                    let locked = locks.get(&verdict.backup).filter(|_| verdict.goes());
                    let locked = locked
                        .map_or_else(String::new, |end| format!("; locked until {}", time::moment(*end)));
                    let words = format!("{}{locked}", words(verdict));
                    vec![id, verdict.kind.as_str().to_owned(), time::moment(verdict.ended), words]
                })
                .collect();
            out.push_str(&table(&rows, &[]));
        }
        for wal in &report.wal {
            let from =
                wal.kept_from.map_or_else(String::new, |from| format!(", from {from} on without a gap"));
            out.push_str(&format!("  WAL of timeline {}: {} kept{from}\n", wal.timeline, wal.kept));
            for (first, last, files) in &wal.goes {
                let files = count(usize::try_from(*files).unwrap_or(usize::MAX), "file");
                out.push_str(&format!("    goes: {first} … {last} ({files}): no kept backup needs it\n"));
            }
        }
        if self.dry_run {
            out.push_str(&format!("  would mark {}\n", amount(&report.marked)));
        } else {
            out.push_str(&format!(
                "  deleted {}\n  marked {}\n",
                amount(&report.deleted),
                amount(&report.marked)
            ));
        }
        if !report.waiting.is_nothing() {
            out.push_str(&format!("  marked before and still there: {}\n", amount(&report.waiting)));
        }
        if !report.locked.is_nothing() {
            let until = report
                .locked_until
                .map_or_else(String::new, |end| format!(", the first of them until {}", time::moment(end)));
            out.push_str(&format!(
                "  locked by the store: {}{until}; expire deletes them when their locks are over\n",
                amount(&report.locked)
            ));
        }
        if report.hidden_bytes > 0 {
            out.push_str(&format!(
                "  older versions that nobody sees: {} still in the store\n",
                ByteSize(report.hidden_bytes)
            ));
        }
        if let Some(next) = report.next {
            out.push_str(&format!(
                "  next: {} expire  deletes what is marked, {} after it was marked; the next from {} on\n",
                context.command(),
                grace(),
                time::moment(next)
            ));
        }
        for note in &report.notes {
            out.push_str(&format!("  note: {note}\n"));
        }
        out
    }
}

/// A report, and in a dry run until when the store lets nobody destroy each backup.
type Told<'a> = (&'a ExpireReport, &'a BTreeMap<BackupId, Timestamp>);

/// `2 backups, 6 packs, 40 WAL files (1.2 GB)`, `nothing`.
fn amount(amount: &Amount) -> String {
    if amount.is_nothing() {
        return "nothing".to_owned();
    }
    let number = |number: u64, what| count(usize::try_from(number).unwrap_or(usize::MAX), what);
    format!(
        "{}, {}, {} ({})",
        number(amount.backups, "backup"),
        number(amount.packs, "pack"),
        number(amount.wal, "WAL file"),
        ByteSize(amount.bytes)
    )
}

fn document(opened: &Opened, names: &[String], (report, locks): Told<'_>) -> Value {
    let number = |amount: &Amount| json!({ "backups": amount.backups, "packs": amount.packs, "wal_files": amount.wal, "bytes": amount.bytes });
    let backups: Vec<Value> = report
        .backups
        .iter()
        .filter(|verdict| names.contains(&verdict.source_name))
        .map(|verdict| {
            let reasons: Vec<String> = verdict.reasons.iter().map(ToString::to_string).collect();
            json!({
                "source": verdict.source_name, "backup": verdict.backup, "number": verdict.number,
                "type": verdict.kind, "ended": verdict.ended, "kept": !verdict.goes(), "reasons": reasons,
                "until": verdict.reasons.iter().filter_map(|reason| reason.until()).max(),
                "locked_until": locks.get(&verdict.backup), "goes_because": verdict.why, "marked": verdict.marked,
            })
        })
        .collect();
    let wal: Vec<Value> = report
        .wal
        .iter()
        .map(|wal| {
            let goes: Vec<Value> = wal
                .goes
                .iter()
                .map(|(first, last, files)| {
                    json!({ "first": first.to_string(), "last": last.to_string(), "files": files })
                })
                .collect();
            json!({
                "system": wal.system, "timeline": wal.timeline, "kept_files": wal.kept,
                "kept_from": wal.kept_from.map(|name| name.to_string()), "goes": goes, "bytes": wal.bytes,
            })
        })
        .collect();
    json!({
        "repository": opened.name, "configured": true, "backups": backups, "wal": wal,
        "deleted": number(&report.deleted), "marked": number(&report.marked), "waiting": number(&report.waiting),
        "locked": number(&report.locked), "locked_until": report.locked_until, "hidden_bytes": report.hidden_bytes,
        "next": report.next, "notes": report.notes,
    })
}
