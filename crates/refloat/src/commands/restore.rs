//! `restore`: what is asked for, decided; the plan; the restore; what comes next.
//!
//! `ask` reads the command line and refuses what cannot be meant, `choose` says out of which repository, `place` where and as
//! whom, `tell` prints the plan and the next steps.

mod ask;
mod choose;
mod place;
mod refusal;
mod tell;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use refloat_engine::pitr::{self, RepositoryWal, Situation};
use refloat_engine::restore::{
    Become, FollowTimeline, Recovery, RestorePlan, RestoreReport, RestoreRequest, Target as EngineTarget,
    TargetAction, dry_run_beside, plan_beside as plan_restore, restore as run_restore,
};
use refloat_engine::wal::{Archive, FetchOptions, fetch as fetch_wal};
use refloat_repo::Repository;
use refloat_repo::commit::CommitRecord;
use refloat_repo::crypt::random;
use refloat_repo::repository::{OwnerRecord, SeenSource, SourceInfo};
use refloat_types::{Clock as _, SystemIdentifier, TimelineId, WalFileName, WalSegmentSize};

use self::ask::Asked;
use self::place::Place;
use super::list::{commits_of, refuse_unknown, source_name};
use crate::Outcome;
use crate::context::{Context, Opened};
use crate::error::{CliError, Failure};
use crate::healing;
use crate::operations::Operation;
use crate::progress::Meter;
use crate::render::can_ask;
use crate::terminal;
use crate::thaw::{self, Consent};

/// Restore a cluster, to now or to any moment since its first backup
///
/// T is the moment to go back to. Without one, everything that was archived is replayed. Nothing that exists is deleted:
/// --to wants an empty directory, and --in-place renames what is there. Only --delta writes over the stopped cluster that
/// is there: its files that are the same stay, and its pg_wal is renamed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo refloat restore prod '2026-11-20 02:51+01' --to /srv/prod-copy --as copy     look at a moment, beside the server
  sudo refloat restore prod '10 min ago' --to /srv/prod-copy --as copy --dry-run    what it would do
  sudo refloat restore prod '2026-11-20 02:51+01' --in-place                        the stopped server back to a moment
  sudo refloat restore prod '2026-11-20 02:51+01' --in-place --delta                the same, fetching only what differs
  sudo refloat restore prod k7m2qxw4 --target immediate --to /srv/prod-copy         as it was at the end of a backup
  sudo refloat -r file:///backup/db1 restore prod --to /var/lib/postgresql/15/main  the host is lost, no configuration
  sudo refloat restore prod --in-place --as standby --primary 'host=db1'            a new standby

Times need their zone: 2026-11-20 02:51+01, 2026-11-20T01:51:00Z, 2026-11-20 02:51 Europe/Berlin, 10 min ago.")]
pub(crate) struct Restore {
    /// Name of the source
    #[arg(value_name = "SOURCE")]
    source: String,
    /// A backup by its id, `latest`, or the moment to go back to
    #[arg(value_name = "BACKUP|latest|T")]
    what: Option<String>,
    /// Into this directory: absolute, or beginning with ./
    #[arg(long, value_name = "DIR", conflicts_with = "in_place")]
    to: Option<String>,
    /// Into the source's own data directory; its server is stopped, what is there is renamed beside it
    #[arg(long)]
    in_place: bool,
    /// Reuse the stopped cluster that is there: fetch what differs, remove what the backup lacks
    #[arg(long)]
    delta: bool,
    /// Back to this moment
    #[arg(long, value_name = "T")]
    target_time: Option<String>,
    /// Back to this position in the WAL
    #[arg(long, value_name = "LSN")]
    target_lsn: Option<String>,
    /// Back to the end of this transaction
    #[arg(long, value_name = "XID")]
    target_xid: Option<u64>,
    /// Back to this restore point
    #[arg(long, value_name = "NAME")]
    target_name: Option<String>,
    /// `immediate`: as soon as the backup is consistent; `latest`: everything archived
    #[arg(long, value_name = "immediate|latest")]
    target: Option<String>,
    /// Stop just before the target instead of just behind it
    #[arg(long)]
    target_exclusive: bool,
    /// Along this timeline: a number, `latest`, or `current` for the backup's own
    #[arg(long, value_name = "TIMELINE")]
    target_timeline: Option<String>,
    /// What the server does at the target [default: pause; promote with --as primary or copy]
    #[arg(long, value_name = "pause|promote|shutdown")]
    target_action: Option<Action>,
    /// What this server will be [default: undecided: archiving is locked until takeover]
    #[arg(long = "as", value_name = "primary|copy|standby")]
    becomes: Option<As>,
    /// Whom a standby streams from, without a password (that belongs into ~/.pgpass) [default: it follows the archive]
    #[arg(long, value_name = "'host=… user=…'")]
    primary: Option<String>,
    /// A new place for a tablespace; may be repeated
    #[arg(long, value_name = "OLD=NEW")]
    tablespace_map: Vec<String>,
    /// Put tablespaces without a new place inside the restored directory
    #[arg(long)]
    tablespaces_inside: bool,
    /// Place the WAL that makes the backup consistent as well
    #[arg(long)]
    with_wal: bool,
    /// Threads that fetch and write [default: as many as processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: Option<u32>,
    /// Ask for what lies in a cold class by thaw_command, and wait until it can be read
    #[arg(long)]
    thaw: bool,
    /// Print the plan, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    later: Later,
}

/// Options of the design that this release does not have; known, so that they are answered clearly.
#[derive(Debug, Args)]
struct Later {
    #[arg(long, hide = true)]
    database: Vec<String>,
    #[arg(long, hide = true)]
    table: Vec<String>,
    #[arg(long, hide = true)]
    path: Vec<String>,
    #[arg(long, hide = true)]
    into: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1)]
    start: Option<Option<String>>,
}

/// The repository that is restored from, and others that may have copies.
type From<'a> = (&'a Opened, &'a [&'a Opened]);

/// What happens at the target.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    /// Wait, read-only
    Pause,
    /// Begin a new timeline and accept writes
    Promote,
    /// Stop
    Shutdown,
}

/// What the server will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum As {
    /// The source from now on
    Primary,
    /// A throw-away: archives nothing, ever
    Copy,
    /// A standby: follows the archive, and streams from --primary
    Standby,
}

/// Backups, WAL, and whose it is.
struct Past {
    commits: Vec<CommitRecord>,
    archive: Archive,
    owner: Option<OwnerRecord>,
}

impl Restore {
    /// Does it.
    pub(crate) fn run(self, mut context: Context) -> Result<Outcome, Failure> {
        let asked = ask::read(&self, &context)?;
        let place = place::settle(&mut context, &self)?;
        let mut operation = Operation::begin(&context, "restore", Some(&self.source));
        let opened = place.open(&context).inspect_err(|failure| {
            operation.finish_locally(&Err(failure.clone()));
        })?;
        let config = context
            .config
            .as_ref()
            .and_then(|all| all.sources.values().find(|source| source.name.as_str() == self.source));
        let others = healing::others(&context, config, &opened);
        let mut all = vec![opened];
        all.extend(others);
        let (used, result) = self.out_of_any(&context, &asked, &place, &all, &mut operation);
        let opened = &all[used];
        if !self.dry_run {
            match place.enrolled(&context) {
                Some(writable) => operation.finish(&context, [&writable.repository], &result),
                None if context.is_ad_hoc()? => operation.finish_locally(&result),
                None => operation.finish(&context, [&opened.repository], &result),
            }
        }
        result
    }

    fn with(
        &self,
        context: &Context,
        asked: &Asked,
        place: &Place,
        (opened, others): From<'_>,
        operation: &mut Operation,
        (elsewhere, begun): (bool, &mut bool),
    ) -> Result<Outcome, Failure> {
        let source = self.find(context, opened)?;
        self.mend_commits(context, (opened, others), &source)?;
        let (found, follow) = self.resolve(context, asked, opened, &source)?;
        let restore_id = random::backup_id().as_str().get(..4).unwrap_or("rest").to_owned();
        operation.about = Some(format!("{restore_id} of backup {}", found.backup.commit.backup));
        let request = self.request(context, place, (&found, follow), &restore_id);
        let refuse = |error| refusal::of_plan(context, &self.source, error);
        let consent = Consent { given: self.thaw, ask: true, dry_run: self.dry_run, elsewhere };
        let needed = std::slice::from_ref(&found.backup);
        let frozen = thaw::thaw(context, opened, needed, ("restore", consent))?;
        if !frozen.is_empty() {
            let all = serde_json::json!(thaw::document(opened, &frozen));
            let what = refloat_engine::thaw::describe(&frozen);
            tell::cold_plan(context, &found, (&self.source, &place.directory), (&all, &what));
            return Ok(Outcome::Done);
        }
        let copies: Vec<&Repository> = others.iter().map(|other| &other.repository).collect();
        if self.dry_run {
            let plan = dry_run_beside(&opened.repository, &copies, request).map_err(refuse)?;
            tell::plan(context, asked, &found, &plan, true);
            return Ok(Outcome::Done);
        }
        let plan = plan_restore(&opened.repository, &copies, request).map_err(refuse)?;
        tell_guard(context, &plan, &found);
        tell::plan(context, asked, &found, &plan, false);
        self.agree(context, place, opened, &found, plan.delta)?;
        place.prepare(context, opened)?;
        let made = plan.request().made_tablespaces.iter().map(PathBuf::as_path);
        for tablespace in
            plan.tablespaces.iter().filter_map(|tablespace| tablespace.goes.as_deref()).chain(made)
        {
            place.make(context, tablespace)?;
        }
        let action = plan.request().recovery.action;
        *begun = true;
        let report = self.execute(context, (opened, others), plan)?;
        operation.bytes = report.bytes;
        self.mend(context, (opened, others), report.passed_over.keys().cloned().collect());
        let mut outcome = Outcome::Done;
        if self.becomes == Some(As::Primary) && !place.record_owner(context, opened, &source, &found) {
            outcome = Outcome::Findings;
        }
        tell::report(context, place, asked, &found, &report, self.becomes.map(As::purpose), action);
        Ok(outcome)
    }

    fn find(&self, context: &Context, opened: &Opened) -> Result<SourceInfo, Failure> {
        let (mut sources, mut strange) = (Vec::new(), None);
        for seen in opened.repository.see_sources()? {
            match seen {
                SeenSource::Usable(source) => sources.push(source),
                // To go by what it was before would be a way back that nobody has asked for.
                SeenSource::Covered { last, error, .. } if source_name(&last) == self.source => {
                    return Err(error.into());
                }
                SeenSource::Covered { key, error, .. } | SeenSource::Strange { key, error } => {
                    context
                        .out
                        .warn(&format!("repository {}: source {key} is not used: {error}", opened.name));
                    strange.get_or_insert(error);
                }
            }
        }
        let known: Vec<String> = sources.iter().map(source_name).collect();
        let found = sources.into_iter().find(|source| source_name(source) == self.source);
        match (found, strange) {
            (Some(found), _) => Ok(found),
            // It may be hidden by that: whoever has described it may be one of us whose own record is damaged.
            (None, Some(error)) => Err(error.into()),
            (None, None) => {
                refuse_unknown(context, Some(&self.source), &known)?;
                Err(refusal::RestoreRefusal::NothingStored {
                    source_name: self.source.clone(),
                    place: opened.name.clone(),
                }
                .into())
            }
        }
    }

    /// What one repository holds of the source's past.
    fn past(
        &self,
        context: &Context,
        asked: &Asked,
        opened: &Opened,
        source: &SourceInfo,
    ) -> Result<Past, Failure> {
        let commits = commits_of(context, opened, source)?;
        let last = asked.of_cluster(&commits);
        let system = last.map(|record| record.commit.cluster.system).or(source.system);
        let nothing = || refusal::RestoreRefusal::NothingStored {
            source_name: self.source.clone(),
            place: opened.name.clone(),
        };
        let system: SystemIdentifier = system.ok_or_else(nothing)?;
        let size = last.and_then(|record| WalSegmentSize::new(record.commit.cluster.wal_segment_size));
        let archive = Archive::read(&opened.repository, system, size)?;
        let owner = opened.repository.owner(source.id)?;
        Ok(Past { commits, archive, owner })
    }

    fn resolve(
        &self,
        context: &Context,
        asked: &Asked,
        opened: &Opened,
        source: &SourceInfo,
    ) -> Result<(pitr::Plan, FollowTimeline), Failure> {
        let Past { commits, archive, owner } = self.past(context, asked, opened, source)?;
        let wal = RepositoryWal::new(&opened.repository, archive.system);
        let situation = Situation { archive: &archive, commits: &commits, owner: owner.as_ref(), wal: &wal };
        let mut found = pitr::resolve(&situation, &asked.request(&commits)?)?;
        let mut follow = FollowTimeline::Latest;
        if self.becomes == Some(As::Standby)
            && let Some(stray) = stray(&archive, found.timeline)
        {
            // The newest timeline is what PostgreSQL would follow, whoever began it.
            follow = FollowTimeline::Number(found.timeline);
            found.notes.push(format!(
                "it follows timeline {} and no later one, because timeline {stray} in the archive does not come from that: \
                 after a failover set recovery_target_timeline",
                found.timeline
            ));
        }
        Ok((found, follow))
    }

    fn request(
        &self,
        context: &Context,
        place: &Place,
        (found, follow): (&pitr::Plan, FollowTimeline),
        restore_id: &str,
    ) -> RestoreRequest {
        let own_timeline = found.backup.commit.cluster.timeline;
        let becomes = self.becomes.map_or(Become::Undecided, As::purpose);
        let action = match (self.target_action, becomes) {
            (Some(Action::Pause), _) => TargetAction::Pause,
            // Nobody takes a copy over. Where it is not known exactly where to stop, a paused one would also keep a
            // table locked that is dropped just behind the target.
            (Some(Action::Promote), _) | (None, Become::Primary | Become::Copy | Become::Standby) => {
                TargetAction::Promote
            }
            (Some(Action::Shutdown), _) => TargetAction::Shutdown,
            (None, _) => TargetAction::Pause,
        };
        let mut recovery = Recovery {
            target: match &found.target {
                pitr::Target::Latest => EngineTarget::Latest,
                pitr::Target::Immediate => EngineTarget::Immediate,
                pitr::Target::Time(at) => EngineTarget::Time(*at),
                pitr::Target::Lsn(lsn) => EngineTarget::Lsn(*lsn),
                pitr::Target::Xid(xid) => EngineTarget::Xid(*xid),
                pitr::Target::Name(name) => EngineTarget::Name(name.clone()),
            },
            inclusive: !found.exclusive,
            action,
            timeline: if found.timeline == own_timeline {
                FollowTimeline::Current
            } else {
                FollowTimeline::Number(found.timeline)
            },
            restore_command: found.wal.is_some().then(|| place.restore_command(context, &self.source, false)),
            primary_conninfo: self.primary.clone(),
        };
        if becomes == Become::Standby {
            // All that comes, and what is archived next, though nothing may be now.
            recovery.target = EngineTarget::Latest;
            recovery.timeline = follow;
            recovery.restore_command = Some(place.restore_command(context, &self.source, true));
        } else if let Some(lsn) = found.stop_lsn {
            // The same state, without what the next transaction did.
            (recovery.target, recovery.inclusive) = (EngineTarget::Lsn(lsn), true);
        }
        RestoreRequest {
            commit: found.backup.clone(),
            source_name: self.source.clone(),
            to: place.destination(),
            delta: self.delta,
            recovery,
            becomes,
            tablespaces: self.tablespaces(),
            tablespaces_inside: self.tablespaces_inside,
            made_tablespaces: found.tablespaces.clone(),
            with_wal: self.with_wal,
            jobs: super::backup::jobs(self.jobs),
            owner: None,
            host: context.host.clone(),
            now: context.clock.now(),
            restore_id: restore_id.to_owned(),
        }
    }

    /// Checked by `ask`.
    fn tablespaces(&self) -> BTreeMap<PathBuf, PathBuf> {
        let pairs = self.tablespace_map.iter().filter_map(|pair| pair.split_once('='));
        pairs.map(|(old, new)| (PathBuf::from(old), PathBuf::from(new))).collect()
    }

    /// A person agrees on a terminal. Elsewhere what is there is only renamed, or written `over`, when that was said.
    fn agree(
        &self,
        context: &Context,
        place: &Place,
        opened: &Opened,
        found: &pitr::Plan,
        over: bool,
    ) -> Result<(), Failure> {
        let replaces = self.in_place || over;
        let names = opened.repository.read_commit_names(&found.backup).ok();
        let own = |name: &&String| !matches!(name.as_str(), "postgres" | "template0" | "template1");
        let databases: Vec<String> =
            names.iter().flat_map(|names| names.databases.keys()).filter(own).cloned().collect();
        if replaces && can_ask() && !databases.is_empty() {
            let typed = terminal::line(&format!(
                "This takes the place of {} with the databases {}.\nType the name of the source to go on: ",
                place.directory.display(),
                databases.join(", ")
            ))?;
            return if typed == self.source {
                Ok(())
            } else {
                Err(CliError::NotAgreed("the restore").into())
            };
        }
        if self.yes {
            return Ok(());
        }
        if can_ask() {
            return if terminal::yes("Restore now?")? {
                Ok(())
            } else {
                Err(CliError::NotAgreed("the restore").into())
            };
        }
        if replaces {
            let what = if over { "over a cluster" } else { "in place" };
            return Err(CliError::NeedsTerminal {
                message: format!("a restore {what} has to be agreed to, and there is no terminal"),
                hints: vec![
                    format!(
                        "Agree on the command line: {} restore {} … {}{} --yes",
                        context.command(),
                        self.source,
                        if self.in_place { "--in-place" } else { "--to DIR" },
                        if over { " --delta" } else { "" }
                    ),
                    "Look at the plan first: --dry-run".to_owned(),
                ],
            }
            .into());
        }
        // Into an empty directory nothing is lost.
        Ok(())
    }

    fn execute(
        &self,
        context: &Context,
        (opened, others): From<'_>,
        plan: RestorePlan<'_>,
    ) -> Result<RestoreReport, Failure> {
        let meter = Meter::new(context.out);
        let system = plan.request().commit.commit.cluster.system;
        let options =
            FetchOptions { system, deadline: std::time::Duration::from_secs(60), is_standby: false };
        let all: Vec<&Repository> =
            std::iter::once(opened).chain(others.iter().copied()).map(|one| &one.repository).collect();
        let fetch = |name: WalFileName, path: &std::path::Path| {
            fetch_wal(&all, &options, name, path)
                .map(drop)
                .map_err(|error| Box::new(error) as Box<dyn std::error::Error + Send + Sync>)
        };
        run_restore(plan, &meter, Some(&fetch)).map_err(|error| refusal::of_restore(context, self, error))
    }
}

/// Says what keeps the backup from being deleted while it is restored, where nothing does for long.
fn tell_guard(context: &Context, plan: &RestorePlan<'_>, found: &pitr::Plan) {
    let commit = &found.backup.commit;
    match plan.guard() {
        Some(guard) if guard.forbidden().has_backup(commit.source, commit.backup) => {
            context.out.warn(&format!(
                "backup {} is marked to be deleted; keep it for good: {} hold add {} --reason TEXT",
                commit.backup,
                context.command(),
                commit.backup
            ))
        }
        Some(_) => {}
        None => {
            let why = match context.is_ad_hoc() {
                Ok(true) => "Where only a URL is named nothing is written into the repository, no pin either",
                _ => "This host cannot write into the repository",
            };
            context.out.say(&format!("{why}: do not run expire elsewhere meanwhile."));
        }
    }
}

/// The first archived timeline with a higher number that does not come from `timeline`.
fn stray(archive: &Archive, timeline: TimelineId) -> Option<TimelineId> {
    let comes_from_it = |later: TimelineId| archive.history(later).is_some_and(|it| it.includes(timeline));
    archive.timelines.keys().copied().find(|later| *later > timeline && !comes_from_it(*later))
}

impl As {
    /// As it is typed.
    const fn word(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Copy => "copy",
            Self::Standby => "standby",
        }
    }
    fn purpose(self) -> Become {
        match self {
            Self::Primary => Become::Primary,
            Self::Copy => Become::Copy,
            Self::Standby => Become::Standby,
        }
    }
}
