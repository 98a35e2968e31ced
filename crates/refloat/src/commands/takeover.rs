//! `takeover SOURCE`.

use std::time::Duration;

use clap::Args;
use refloat_config::SourceConfig;
use refloat_engine::generation;
use refloat_engine::takeover::{Kept, TakeoverReport, TakeoverRequest, check_new_cluster, takeover};
use refloat_pg::control::{ControlFile, read_settled};
use refloat_repo::repository::{SourceDescription, SourceInfo};
use refloat_types::Clock as _;

use crate::Outcome;
use crate::context::{Access, Context, Opened};
use crate::error::{CliError, Failure};
use crate::operations::Operation;
use crate::progress::Meter;
use crate::render::text::count;

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
        let mut opened = Vec::new();
        for config in context.repositories(Some(&source))? {
            opened.push(context.open(&config, Access::Bulk)?);
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

    /// In all repositories at once: the lock is lifted when every one of them knows the new owner.
    fn in_all(
        &self,
        context: &Context,
        source: &SourceConfig,
        opened: &[Opened],
    ) -> Result<TakeoverReport, Failure> {
        let mut sources = Vec::new();
        for one in opened {
            let known = one.repository.find_source(&source.name)?.ok_or_else(|| CliError::NoSource {
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
        Ok(takeover(&request, &kept, &meter)?)
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
        context.out.text(&out);
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
