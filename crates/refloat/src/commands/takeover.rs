//! `takeover SOURCE`.

use std::time::Duration;

use clap::Args;
use refloat_config::SourceConfig;
use refloat_engine::generation;
use refloat_engine::takeover::{
    Kept, TakeoverError, TakeoverReport, TakeoverRequest, check_new_cluster, takeover,
};
use refloat_pg::control::{ControlFile, read_settled};
use refloat_repo::repository::{SourceDescription, SourceInfo};
use refloat_types::{Clock as _, Severity};

use crate::Outcome;
use crate::asking::read_each;
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::operations::Operation;
use crate::progress::Meter;
use crate::render::text::{count, shell};

/// How long the end of a recovery may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// This server is SOURCE from now on: a paused recovery ends, archiving is unlocked
///
/// Look at the restored server first. The new owner is recorded in every repository, then the lock is lifted and
/// PostgreSQL archives what has waited.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo refloat takeover prod                  a restored server, looked at and found right
  sudo refloat takeover prod --new-cluster    a new cluster, or one upgraded elsewhere")]
pub(crate) struct Takeover {
    /// Name of the source; its data directory is the restored one
    #[arg(value_name = "SOURCE")]
    source: String,
    /// The source is another cluster from now on (initdb, pg_upgrade); the older backups stay restorable
    #[arg(long)]
    new_cluster: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Takeover {
    /// Does it.
    pub(crate) fn run(self, mut context: Context) -> Result<Outcome, Failure> {
        if context.is_ad_hoc()? && context.config.is_none() {
            return Err(CliError::usage(
                "takeover needs a configuration that has the source: a URL does not say which directory and which server it is",
                format!(
                    "What `restore -r URL` has made has one beside its directory: refloat --config DIR.refloat/refloat.toml takeover {}",
                    self.source
                ),
            )
            .into());
        }
        let source = context.source(Some(&self.source), "takeover")?.clone();
        context.assume(std::slice::from_ref(&source), false)?;
        if self.dry_run {
            if self.new_cluster {
                let (control, _) = read_settled(&source.data_directory)?;
                let found = control.system_identifier;
                context
                    .out
                    .text(&format!("would record that {} is cluster {found} from now on\n", source.name));
            }
            context.out.text(&format!(
                "would end the recovery of the server in {}, record it as the owner of {}, and unlock archiving\n",
                source.data_directory.display(),
                source.name
            ));
            context.out.document(&serde_json::json!({ "dry_run": true, "source": self.source }));
            return Ok(Outcome::Done);
        }
        let (mut opened, mut away) = (Vec::new(), Vec::new());
        for (config, result) in
            read_each(&context, context.repositories(Some(&source))?, Access::Bulk, |_| Ok(()))
        {
            match result {
                Ok((one, ())) => opened.push(one),
                Err(failure) => away.push((config.name.to_string(), failure)),
            }
        }
        if !away.is_empty() {
            return Err(self.not_begun(&context, &opened, away));
        }
        let mut operation = Operation::begin(&context, "takeover", Some(&self.source));
        let result = self.in_all(&context, &source, &opened);
        let ended = result.as_ref().map(|_| Outcome::Done).map_err(Failure::clone);
        if let Ok(report) = &result {
            operation.about = Some(format!("timeline {}", report.timeline));
        }
        operation.finish(&context, opened.iter().map(|one| &one.repository), &ended);
        self.tell(&context, &result?);
        Ok(Outcome::Done)
    }

    /// Nothing is begun while one of the repositories, `away`, of which there is one at least, would not know of it.
    fn not_begun(&self, context: &Context, opened: &[Opened], away: Vec<(String, Failure)>) -> Failure {
        let names: Vec<&str> = away.iter().map(|(name, _)| name.as_str()).collect();
        let ways_out = self.ways_out(context, opened, &names);
        let all = away.iter().map(|(name, why)| {
            let error = TakeoverError::Away { repository: name.clone(), severity: why.severity };
            let detail = std::iter::once(&why.message).chain(&why.detail).cloned().collect();
            // Whoever can mend it by a line need not go on without it.
            let hints = why.hints.iter().filter(|_| why.severity != Severity::Unreachable).cloned().collect();
            Failure { detail, hints, ..Failure::of(&error) }
        });
        let mut all: Vec<Failure> = all.collect();
        let mut first = all.remove(0);
        first.hints.extend(ways_out);
        first.more = all;
        first
    }

    /// What to do where some repositories cannot be told: wait for them, or go on without.
    fn ways_out(&self, context: &Context, opened: &[Opened], away: &[&str]) -> Vec<String> {
        let again =
            format!("takeover {}{}", self.source, if self.new_cluster { " --new-cluster" } else { "" });
        let names = away.join(" and ");
        let (answer, know) = if away.len() == 1 { ("answers", "it") } else { ("answer", "them") };
        let mut hints = vec![format!("When {names} {answer}, run it again:  {} {again}", context.command())];
        let others: Vec<&str> =
            opened.iter().map(|one| one.name.as_str()).filter(|name| !away.contains(name)).collect();
        if context.global.repository.is_none() && !others.is_empty() {
            let line = |name: &&str| format!("{} -r {} {again}", context.command(), shell(name));
            let lines = |names: &[&str]| names.iter().map(line).collect::<Vec<_>>().join(";  ");
            hints.push(format!("To take over without {know}:  {}", lines(&others)));
            hints.push(format!("and as soon as {names} {answer}:  {}", lines(away)));
        }
        hints
    }

    /// In all repositories at once: the lock is lifted when every one of them knows the new owner.
    fn in_all(
        &self,
        context: &Context,
        source: &SourceConfig,
        opened: &[Opened],
    ) -> Result<TakeoverReport, Failure> {
        let mut sources = Vec::new();
        for one in opened {
            let found = one
                .repository
                .find_source(&source.name)
                .map_err(|error| self.not_begun(context, opened, vec![(one.name.clone(), error.into())]))?;
            let known = found.ok_or_else(|| CliError::NoSource {
                name: self.source.clone(),
                place: format!("repository {}", one.name),
                known: Vec::new(),
            })?;
            sources.push((one, known));
        }
        if self.new_cluster {
            let control = check_new_cluster(&source.data_directory)?;
            for (one, known) in &sources {
                begin_generation(context, source, one, known, &control)?;
            }
        }
        let kept: Vec<Kept<'_>> = sources
            .iter()
            .map(|(one, known)| Kept { repository: &one.repository, source: known.id })
            .collect();
        let request = TakeoverRequest {
            data_directory: source.data_directory.clone(),
            connection: Context::connection(source),
            patience: PATIENCE,
            now: context.clock.now(),
        };
        let meter = Meter::new(context.out);
        let alone = || context.fetch_from_one(source);
        takeover(&request, &kept, &alone, &meter).map_err(|error| {
            let mut failure = Failure::of(&error);
            if let TakeoverError::NotRecorded { repository, .. } = &error {
                let away = opened.iter().filter(|one| one.repository.store().describe() == repository);
                let away: Vec<&str> = away.map(|one| one.name.as_str()).collect();
                failure.hints.extend(self.ways_out(context, opened, &away));
            }
            failure
        })
    }

    fn tell(&self, context: &Context, report: &TakeoverReport) {
        let fork = report.fork_lsn.map_or_else(String::new, |lsn| format!(", which began at {lsn}"));
        let mut out =
            format!("{} is this server from now on, on timeline {}{fork}\n", self.source, report.timeline);
        if report.promoted {
            out.push_str("  recovery is ended: the server accepts writes\n");
        }
        if report.was_locked {
            out.push_str("  archiving is unlocked\n");
        }
        if report.waiting_wal > 0 {
            let waiting = count(usize::try_from(report.waiting_wal).unwrap_or(usize::MAX), "WAL file");
            out.push_str(&format!("  {waiting} will be archived now\n"));
        }
        if !report.running {
            out.push_str("  the server is stopped; start it as you are used to\n");
        }
        for note in &report.notes {
            out.push_str(&format!("  note: {note}\n"));
        }
        out.push_str(&format!("next:  {0} check {1};  {0} backup {1}\n", context.command(), self.source));
        context.out.done(&out);
        context.out.document(&serde_json::json!({
            "source": self.source, "timeline": report.timeline, "fork_lsn": report.fork_lsn, "promoted": report.promoted,
            "was_locked": report.was_locked, "running": report.running, "waiting_wal": report.waiting_wal, "notes": report.notes,
        }));
    }
}

/// Makes the cluster that is there the source's, unless it is that already.
fn begin_generation(
    context: &Context,
    source: &SourceConfig,
    opened: &Opened,
    known: &SourceInfo,
    control: &ControlFile,
) -> Result<(), Failure> {
    if known.system == Some(control.system_identifier) {
        return Ok(());
    }
    let description = SourceDescription {
        name: source.name.clone(),
        kind: "postgres".to_owned(),
        host: context.host.clone(),
        data_directory: source.data_directory.display().to_string(),
    };
    generation::begin(&opened.repository, known, &description, control, context.clock.now())?;
    Ok(())
}
