//! `status`.

use std::time::Duration;

use clap::Args;
use refloat_types::{ByteSize, Clock as _, Timestamp};

use super::key::{unconfirmed, unencrypted};
use super::list::{ad_hoc_path, is_covered, prepare_reading, refuse_unknown, source_name, usable_sources};
use crate::Outcome;
use crate::asking::read_each;
use crate::context::{Access, Context, Opened};
use crate::error::Failure;
use crate::facts::{Finding, SourceFacts, of_source};
use crate::render::text::table;
use crate::render::time;

/// A repository that does not begin to answer within `first` is told as not answering.
const PATIENCE: Access = Access::Soon { first: Duration::from_secs(3), then: Duration::from_secs(10) };

/// From when to when each source can be recovered, its last backup, and what is wrong
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo refloat status
  sudo refloat status --exit-code --quiet        for monitoring: 3 when a person must look, 5 when nothing answers
  refloat -r file:///backup/db1 status           without a configuration")]
pub(crate) struct Status {
    /// Name of a source [default: all]
    #[arg(value_name = "SOURCE")]
    source: Option<String>,
    /// End with 3 when a person must look
    #[arg(long)]
    exit_code: bool,
}

/// All that is found out.
#[derive(Default)]
pub(crate) struct Found {
    /// Sources, each in each repository.
    pub sources: Vec<SourceFacts>,
    /// What is wrong beside the sources.
    pub findings: Vec<Finding>,
    /// What is worth knowing, and no fault.
    pub notes: Vec<String>,
    /// No repository answered.
    pub silent: Option<Failure>,
}

/// What one repository says.
struct Seen {
    sources: Vec<SourceFacts>,
    findings: Vec<Finding>,
    notes: Vec<String>,
    /// The names of all its sources.
    known: Vec<String>,
}

impl Found {
    fn add(&mut self, seen: Seen, known: &mut Vec<String>) {
        self.sources.extend(seen.sources);
        self.findings.extend(seen.findings);
        self.notes.extend(seen.notes);
        known.extend(seen.known);
    }

    /// Whether a person must look.
    pub(crate) fn is_bad(&self) -> bool {
        !self.findings.is_empty() || self.sources.iter().any(|source| !source.findings.is_empty())
    }
}

/// Looks at all sources, or one.
///
/// # Errors
/// Only for what is asked wrongly; what does not answer is a finding.
pub(crate) fn find_out(context: &Context, wanted: Option<&str>) -> Result<Found, Failure> {
    let mut found = Found::default();
    let mut known = Vec::new();
    let look = |one: &Opened| look_into(context, one, wanted);
    if context.is_ad_hoc()? {
        let one = context.open_for(None, Access::ASKED.of_one())?;
        found.add(look(&one)?, &mut known);
    } else {
        let mut answered = false;
        for (config, result) in read_each(context, context.repositories(None)?, PATIENCE, look) {
            match result {
                Ok((_, seen)) => {
                    answered = true;
                    found.add(seen, &mut known);
                }
                Err(failure) => {
                    found.findings.push(Finding {
                        what: format!("repository {}: {}", config.name, failure.line()),
                        mend: failure.hints.first().cloned(),
                    });
                    found.silent = found.silent.take().or(Some(failure));
                }
            }
        }
        found.silent = found.silent.take().filter(|_| !answered);
    }
    refuse_unknown(context, wanted, &known)?;
    if found.silent.is_none() {
        add_unseen(context, wanted, &known, &mut found);
    }
    if let Some(what) = crate::healing::recent_text(context) {
        found.findings.push(Finding::new(what, format!("{} verify --read-data", context.command())));
    }
    Ok(found)
}

fn look_into(context: &Context, opened: &Opened, wanted: Option<&str>) -> Result<Seen, Failure> {
    let mut found = Seen { sources: Vec::new(), findings: Vec::new(), notes: Vec::new(), known: Vec::new() };
    let sources = usable_sources(context, opened, &mut |name, failure| {
        if wanted.is_none_or(|wanted| wanted == name) {
            let look = format!("{} verify", context.command());
            found.findings.push(Finding::new(is_covered(opened, &name, &failure), look));
        }
        found.known.push(name);
        Ok(())
    })?;
    for source in sources {
        let name = source_name(&source);
        found.known.push(name.clone());
        if wanted.is_some_and(|wanted| wanted != name) {
            continue;
        }
        let config = context
            .config
            .as_ref()
            .and_then(|config| config.sources.values().find(|s| s.name.as_str() == name));
        let config = config.filter(|config| config.repositories.iter().any(|r| r.as_str() == opened.name));
        found.sources.push(of_source(context, opened, &source, config)?);
    }
    found.notes.extend(unencrypted(opened)?);
    if !context.is_ad_hoc()? && unconfirmed(opened)? {
        found.findings.push(Finding::new(
            format!(
                "The recovery sheet of {} is not confirmed: if {} is lost, nobody can open these backups.",
                opened.name, context.host
            ),
            format!("{} key confirm", context.command()),
        ));
    }
    Ok(found)
}

/// Sources of the configuration that no repository knows yet.
fn add_unseen(context: &Context, wanted: Option<&str>, known: &[String], found: &mut Found) {
    for name in context.source_names() {
        if known.contains(&name) || wanted.is_some_and(|wanted| wanted != name) {
            continue;
        }
        let mut facts = SourceFacts::empty(&name, "");
        facts
            .findings
            .push(Finding::new("there is no backup yet", format!("{} backup {name}", context.command())));
        found.sources.push(facts);
    }
}

impl Status {
    /// Does it.
    pub(crate) fn run(self, mut context: Context) -> Result<Outcome, Failure> {
        prepare_reading(&mut context, None)?;
        if context.is_ad_hoc()? {
            ad_hoc_path(&context)?;
        }
        let found = find_out(&context, self.source.as_deref())?;
        let now = context.clock.now();
        let mut out = source_table(&found.sources, now);
        out.push_str(&findings_text(&found));
        for note in &found.notes {
            out.push_str(&format!("  {note}\n"));
        }
        context.out.text(&out);
        context.out.document(&serde_json::json!({ "sources": found.sources, "findings": found.findings, "notes": found.notes }));
        if self.exit_code {
            if let Some(failure) = found.silent {
                return Err(failure);
            }
            if found.is_bad() {
                return Ok(Outcome::Findings);
            }
        }
        Ok(Outcome::Done)
    }
}

/// `2026-11-06 02:00:09 … 16:04:28 (3 s ago)`.
pub(crate) fn window_text(facts: &SourceFacts, now: Timestamp) -> String {
    match (facts.recoverable_from, facts.recoverable_to) {
        (Some(from), Some(to)) => format!(
            "{} … {} ({} ago)",
            time::moment(from),
            time::short(to, now),
            time::length(time::since(to, now))
        ),
        _ => "not recoverable yet".to_owned(),
    }
}

fn source_table(sources: &[SourceFacts], now: Timestamp) -> String {
    if sources.is_empty() {
        return "no sources\n".to_owned();
    }
    let header = ["source", "repository", "recoverable", "last backup", "size", "state"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for facts in sources {
        let last = facts.last_backup.as_ref().map_or_else(
            || "none".to_owned(),
            |last| {
                format!(
                    "{} {} {}",
                    time::short(last.finished, now),
                    last.kind,
                    time::seconds(last.seconds as f64)
                )
            },
        );
        rows.push(vec![
            facts.source.clone(),
            facts.repository.clone(),
            window_text(facts, now),
            last,
            if facts.source_bytes == 0 { String::new() } else { ByteSize(facts.source_bytes).to_string() },
            if facts.findings.is_empty() { "ok".to_owned() } else { "LOOK".to_owned() },
        ]);
    }
    table(&rows, &[4])
}

/// One line for each finding, with what mends it.
pub(crate) fn findings_text(found: &Found) -> String {
    let mut out = String::new();
    let of_sources = found
        .sources
        .iter()
        .flat_map(|source| source.findings.iter().map(move |f| (Some(&source.source), f)));
    for (source, finding) in of_sources.chain(found.findings.iter().map(|finding| (None, finding))) {
        let source = source.map_or_else(String::new, |source| format!("{source}: "));
        out.push_str(&format!("! {source}{}", finding.what));
        if let Some(mend) = &finding.mend {
            out.push_str(&format!("     {mend}"));
        }
        out.push('\n');
    }
    out
}
