//! What is archived, and closing a segment.

use std::path::Path;
use std::time::{Duration, Instant};

use refloat_config::{RepositoryConfig, SourceConfig};
use refloat_engine::wal::KnownSource;
use refloat_engine::wal::push::Writer;
use refloat_engine::wal::status::{RepositoryWal, ServerPosition, TimelineStatus, WalStatus};
use refloat_pg::control::read_settled;
use refloat_pg::sql::Session;
use refloat_repo::Repository;
use refloat_types::{ByteSize, Clock as _, Timestamp, WalSegmentName};

use super::{Status, Switch};
use crate::Outcome;
use crate::asking::{Answer, Away, read_each};
use crate::context::{Access, Context, Opened};
use crate::error::Failure;
use crate::facts::{Finding, goes_on, other_cluster};
use crate::operations::Operation;
use crate::render::text::{count, thousands};
use crate::render::time;

/// `wal status`.
pub(super) fn status(command: &Status, mut context: Context) -> Result<Outcome, Failure> {
    let names: Vec<String> = command.source.clone().into_iter().collect();
    let sources = context.sources(&names)?;
    context.assume(&sources, false)?;
    let mut documents = Vec::new();
    let answers = ask(&context, &sources)?;
    for source in &sources {
        let (mut opened, mut away) = (Vec::new(), Vec::new());
        for (config, result) in &answers {
            match result {
                _ if !context.repositories(Some(source))?.iter().any(|of| of.name == config.name) => {}
                Ok(one) => opened.push(one),
                Err(one) => away.push((config.url.to_string(), one)),
            }
        }
        let repositories: Vec<&Repository> = opened.iter().map(|one| &one.repository).collect();
        let here = position(source);
        let system = match read_settled(&source.data_directory) {
            Ok((control, _)) => Some(control.system_identifier),
            Err(_) => {
                let find = |repository: &&Repository| repository.find_source(&source.name).ok().flatten();
                repositories.iter().find_map(find).and_then(|found| found.system)
            }
        };
        let Some(system) = system else {
            context.out.text(&format!("{}: nothing is archived yet\n", source.name));
            continue;
        };
        let directory = source.data_directory.exists().then_some(source.data_directory.as_path());
        let status = refloat_engine::wal::status(&repositories, system, directory, here)
            .map_err(|error| crate::error::CliError::file("look into", &source.data_directory, error))?;
        let findings = findings(&context, source, &repositories, &status);
        context.out.text(&text(&context, source, &status, &findings));
        for (_, one) in &away {
            context.out.text(&format!("  {}", one.text("what it holds is not known")));
        }
        documents.push(document(source, &status, &findings, &away));
    }
    context.out.document(&serde_json::json!({ "sources": documents }));
    Ok(Outcome::Done)
}

/// How each repository of these sources answered, in the configured order; that one did not is noted for those who archive, and
/// told.
fn ask(context: &Context, sources: &[SourceConfig]) -> Result<Vec<Answer<Opened, Away>>, Failure> {
    let mut configs: Vec<RepositoryConfig> = Vec::new();
    for source in sources {
        for config in context.repositories(Some(source))? {
            if configs.iter().all(|known| known.name != config.name) {
                configs.push(config);
            }
        }
    }
    let answers = read_each(context, configs, Access::ASKED, |_| Ok(()));
    let told = answers.into_iter().map(|(config, result)| {
        let down = context.down(config.name.as_str());
        context.note_answer(config.name.as_str(), result.as_ref().map(drop));
        let result = result.map(|(one, ())| one).map_err(|failure| {
            let mut away = Away::new(config.name.as_str(), &failure);
            if let Some(down) = down {
                let since = time::moment(down.since);
                away.why.push_str(&format!(" (no answer since {since}, asked {} times)", down.failures));
            }
            context.out.warn(&format!("repository {}: {}", config.name, away.why));
            away
        });
        (config, result)
    });
    Ok(told.collect())
}

/// What is wrong with whose WAL it is, as the repositories know the source.
fn findings(
    context: &Context,
    source: &SourceConfig,
    repositories: &[&Repository],
    status: &WalStatus,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for (repository, stored) in repositories.iter().zip(&status.repositories) {
        // One that does not answer is told of below, and not asked once more.
        if stored.timelines.is_err() {
            continue;
        }
        let Ok(Some(known)) = KnownSource::read(repository, &source.name) else { continue };
        let timelines = stored.timelines.iter().flatten();
        let go_on = timelines.filter_map(|timeline| {
            let (to, at) = (timeline.archived_to?, timeline.last_stored?);
            known.goes_on(status.system, timeline.timeline, to, at)
        });
        let go_on = go_on.map(|it| goes_on(context, source.name.as_str(), &it));
        for finding in other_cluster(source, known.system).into_iter().chain(go_on) {
            if findings.iter().all(|told| told.what != finding.what) {
                findings.push(finding);
            }
        }
    }
    findings
}

/// Where the server writes, when it answers.
fn position(source: &SourceConfig) -> Option<ServerPosition> {
    let session = Session::connect_to(&source.data_directory, &Context::connection(source)).ok()?;
    let lsn = session.current_wal_lsn().ok()?;
    let (control, _) = read_settled(&source.data_directory).ok()?;
    Some(ServerPosition { lsn, timeline: control.checkpoint.timeline })
}

fn text(context: &Context, source: &SourceConfig, status: &WalStatus, findings: &[Finding]) -> String {
    let now = context.clock.now();
    let mut out = format!("{} (cluster {})\n", source.name, status.system);
    for finding in findings {
        let mend = finding.mend.as_deref().unwrap_or_default();
        out.push_str(&format!("  ! {}:  {mend}\n", finding.what));
    }
    if let Some(server) = &status.server {
        let waits = match (server.ready, &server.oldest_ready, server.waiting_since) {
            (0, ..) => "nothing waits to be archived".to_owned(),
            (number, Some(oldest), Some(since)) => format!(
                "{} to be archived, the oldest is {oldest}, for {}",
                if number == 1 { "1 file waits".to_owned() } else { format!("{number} files wait") },
                time::length(time::since(since, now))
            ),
            (number, ..) => {
                format!("{} to be archived", count(usize::try_from(number).unwrap_or(usize::MAX), "file"))
            }
        };
        out.push_str(&format!(
            "  server      {waits}; pg_wal has {}, {} free\n",
            ByteSize(server.pg_wal_bytes),
            ByteSize(server.free_bytes)
        ));
        if let Some(locked) = &server.locked {
            out.push_str(&format!(
                "  ! archiving is locked: restored from {} at {}, not yet taken over; WAL is kept:  {} takeover {}\n",
                locked.source,
                time::moment(locked.at),
                context.command(),
                source.name
            ));
        }
    }
    for repository in &status.repositories {
        out.push_str(&format!("  {}\n", repository.repository));
        out.push_str(&match &repository.timelines {
            Err(error) => format!("    ! {error}\n"),
            Ok(timelines) if timelines.is_empty() => "    nothing is archived yet\n".to_owned(),
            Ok(timelines) => timelines.iter().map(|timeline| timeline_text(timeline, now)).collect(),
        });
    }
    out
}

fn timeline_text(timeline: &TimelineStatus, now: Timestamp) -> String {
    let span = timeline.span.map_or_else(String::new, |(first, last)| format!("{first} … {last}, "));
    let mut out = format!(
        "    timeline {}  {span}{} segments, {}\n",
        timeline.timeline,
        thousands(timeline.segments),
        ByteSize(timeline.stored_bytes)
    );
    if let Some(stored) = timeline.last_stored {
        let lag = timeline
            .lag_bytes
            .map_or_else(String::new, |bytes| format!("; {} not yet archived", ByteSize(bytes)));
        let commit =
            timeline.last_commit.map_or_else(String::new, |at| format!(", last commit {}", time::exact(at)));
        out.push_str(&format!(
            "      last one {} ago{commit}{lag}\n",
            time::length(time::since(stored, now))
        ));
    }
    if timeline.behind > 0 {
        out.push_str(&format!(
            "      ! lacks {} that another repository has\n",
            count(usize::try_from(timeline.behind).unwrap_or(usize::MAX), "segment")
        ));
    }
    for gap in &timeline.gaps {
        out.push_str(&format!("      ! missing: {gap}\n"));
    }
    for (name, writers) in &timeline.conflicts {
        let who: Vec<String> = writers.iter().map(writer).collect();
        out.push_str(&format!("      ! {name} is stored with different bytes: {}\n", who.join("; ")));
    }
    for partial in &timeline.partials {
        out.push_str(&format!("      {partial}.partial is the unfinished end of a timeline\n"));
    }
    out
}

fn writer(writer: &Writer) -> String {
    let agent = writer.agent.map_or_else(|| "unknown".to_owned(), |agent| agent.to_string());
    let at = writer.stored.map_or_else(String::new, |at| format!(" at {}", time::moment(at)));
    format!("agent {agent}{at} ({})", writer.object)
}

fn document(
    source: &SourceConfig,
    status: &WalStatus,
    findings: &[Finding],
    away: &[(String, &Away)],
) -> serde_json::Value {
    let of_timeline = |timeline: &TimelineStatus| {
        serde_json::json!({
            "timeline": timeline.timeline,
            "first": timeline.span.map(|(first, _)| first.to_string()),
            "last": timeline.span.map(|(_, last)| last.to_string()),
            "segments": timeline.segments,
            "gaps": timeline.gaps.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "conflicts": timeline.conflicts.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>(),
            "partials": timeline.partials.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "stored_bytes": timeline.stored_bytes,
            "last_stored": timeline.last_stored,
            "last_commit": timeline.last_commit,
            "archived_to": timeline.archived_to,
            "lag_bytes": timeline.lag_bytes,
            "behind_segments": timeline.behind,
        })
    };
    let of_repository = |repository: &RepositoryWal| match &repository.timelines {
        Ok(timelines) => serde_json::json!({
            "repository": repository.repository,
            "timelines": timelines.iter().map(of_timeline).collect::<Vec<_>>(),
        }),
        Err(error) => {
            serde_json::json!({ "repository": repository.repository, "problem": error.to_string() })
        }
    };
    let of_away = |(url, one): &(String, &Away)| serde_json::json!({ "repository": url, "problem": one.why });
    let repositories = status.repositories.iter().map(of_repository).chain(away.iter().map(of_away));
    serde_json::json!({
        "source": source.name.to_string(),
        "system": status.system,
        "findings": findings,
        "repositories": repositories.collect::<Vec<_>>(),
        "server": status.server.as_ref().map(|server| serde_json::json!({
            "waiting": server.ready,
            "oldest_waiting": server.oldest_ready.map(|name| name.to_string()),
            "waiting_since": server.waiting_since,
            "pg_wal_bytes": server.pg_wal_bytes,
            "free_bytes": server.free_bytes,
            "locked": server.locked,
        })),
    })
}

/// `wal switch`.
pub(super) fn switch(command: &Switch, mut context: Context) -> Result<Outcome, Failure> {
    let source = context.source(command.source.as_deref(), "wal switch")?.clone();
    context.assume(std::slice::from_ref(&source), false)?;
    let mut operation = Operation::begin(&context, "wal switch", Some(source.name.as_str()));
    let switched = Session::connect_to(&source.data_directory, &Context::connection(&source))
        .and_then(|session| session.switch_wal())
        .map_err(Failure::from);
    operation.about = switched.as_ref().ok().map(|switched| switched.segment.to_string());
    operation.finish_locally(&switched.as_ref().map(|_| Outcome::Done).map_err(Failure::clone));
    let switched = switched?;
    let archived = wait_for_archiver(&source.data_directory, switched.segment);
    let segment = switched.segment;
    context.out.text(&match archived {
        Some(true) => format!("{segment} is archived (to {})\n", switched.lsn),
        Some(false) => format!(
            "{segment} is complete, and not archived after {} s (to {}); why:  refloat check {}\n",
            PATIENCE.as_secs(),
            switched.lsn,
            source.name
        ),
        None => format!("{segment} is complete, and will not be archived: archive_mode is off\n"),
    });
    context.out.document(&serde_json::json!({
        "segment": segment.to_string(), "lsn": switched.lsn, "archived": archived == Some(true),
    }));
    Ok(Outcome::Done)
}

/// Whoever closes a segment wants to restore from it, or to leave the machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether PostgreSQL was told that a closed segment is stored; `None` when it archives nothing.
fn wait_for_archiver(data_directory: &Path, segment: WalSegmentName) -> Option<bool> {
    let status =
        |ending: &str| data_directory.join(format!("pg_wal/archive_status/{segment}.{ending}")).exists();
    let began = Instant::now();
    if !status("ready") {
        return status("done").then_some(true);
    }
    while status("ready") {
        if began.elapsed() > PATIENCE {
            return Some(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(true)
}
