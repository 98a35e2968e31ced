//! What is known of a source: from when to when it can be recovered, what its server does, what is wrong.

use std::collections::BTreeSet;
use std::path::Path;

use refloat_config::SourceConfig;
use refloat_engine::pitr::{self, RepositoryWal, Situation, Window};
use refloat_engine::wal::status::server as server_wal;
use refloat_engine::wal::{Archive, GoesOn, KnownSource};
use refloat_pg::control::read_settled;
use refloat_pg::server::{ServerState, server_state};
use refloat_repo::commit::CommitRecord;
use refloat_repo::repository::SourceInfo;
use refloat_types::{BackupId, Clock as _, SystemIdentifier, TimelineId, Timestamp, WalSegmentSize};
use serde::Serialize;

use crate::commands::list::{commits_of, source_name};
use crate::context::{Context, Opened};
use crate::error::Failure;
use crate::render::time;

/// So long a file may wait to be archived before that is a finding.
const LATE: std::time::Duration = std::time::Duration::from_secs(300);

/// A source in one repository.
#[derive(Debug, Serialize)]
pub(crate) struct SourceFacts {
    /// Its name.
    pub source: String,
    /// In which repository.
    pub repository: String,
    /// The cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<SystemIdentifier>,
    /// `15.9`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// Bytes of the cluster at its last backup.
    pub source_bytes: u64,
    /// How many backups there are.
    pub backups: usize,
    /// The last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<LastBackup>,
    /// The earliest moment it can be recovered to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recoverable_from: Option<Timestamp>,
    /// The latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recoverable_to: Option<Timestamp>,
    /// Whether every moment between can be reached.
    pub any_moment: bool,
    /// The timeline that the owner is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<TimelineId>,
    /// The server on this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerFacts>,
    /// What a person must look at, with the line that mends it.
    pub findings: Vec<Finding>,
}

/// The last backup.
#[derive(Debug, Serialize)]
pub(crate) struct LastBackup {
    /// Which.
    pub backup: BackupId,
    /// When it was finished.
    pub finished: Timestamp,
    /// Full, differential, incremental.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// How long it took.
    pub seconds: i64,
}

/// The server on this host.
#[derive(Debug, Serialize)]
pub(crate) struct ServerFacts {
    /// It runs.
    pub running: bool,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Files that wait to be archived.
    pub waiting: u64,
    /// Since when the oldest waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Timestamp>,
}

/// Something to look at.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    /// What.
    pub what: String,
    /// The line that mends it, or looks closer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    /// A finding with the line that mends it.
    pub(crate) fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), mend: Some(mend.into()) }
    }
}

/// So long it is a finding that a server wrote on along a timeline that the owner had left.
const RECENT: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// What to say of a data directory that holds another cluster than its source is known as.
pub(crate) fn other_cluster(config: &SourceConfig, known: Option<SystemIdentifier>) -> Option<Finding> {
    let (control, _) = read_settled(&config.data_directory).ok()?;
    let found = control.system_identifier;
    let known = known.filter(|known| *known != found)?;
    let name = &config.name;
    Some(Finding::new(
        format!(
            "{} holds cluster {found}, and {name} was cluster {known}: nothing of the new one can be restored as {name} yet",
            config.data_directory.display()
        ),
        format!(
            "refloat backup {name}    after pg_upgrade; refloat takeover {name} --new-cluster    if it shall be {name} from now on; else correct data_directory"
        ),
    ))
}

/// What to say of a server that wrote on along a timeline after the owner of its source had left it.
pub(crate) fn goes_on(context: &Context, source: &str, it: &GoesOn) -> Finding {
    let left = match it.left.fork {
        Some(fork) => format!("was left at {fork} by the owner of {source}"),
        None => format!("is not on the way of the owner of {source}"),
    };
    Finding::new(
        format!(
            "timeline {} {left}, which is on timeline {}, and went on to {}, last stored {} ago: two servers are writing",
            it.timeline,
            it.left.owner,
            it.to,
            time::length(time::since(it.last_stored, context.clock.now()))
        ),
        format!(
            "stop the server that should not write; if it is the right one, run on its host:  {} takeover {source}",
            context.command()
        ),
    )
}

/// Those of them that a person should look at now.
pub(crate) fn recent(context: &Context, all: Vec<GoesOn>) -> impl Iterator<Item = GoesOn> {
    let now = context.clock.now();
    all.into_iter().filter(move |it| time::since(it.last_stored, now) < RECENT)
}

/// The archive, backups and windows of a source.
pub(crate) struct Reach {
    /// Its backups.
    pub commits: Vec<CommitRecord>,
    /// How far each reaches.
    pub windows: Vec<Window>,
    /// Backups behind which WAL expired: they can be restored to their own end only.
    pub older: BTreeSet<BackupId>,
    /// Timelines on which WAL is stored that the owner had left before.
    pub go_on: Vec<GoesOn>,
}

/// Reads how far a source can be recovered; `None` where nothing is stored of it.
///
/// # Errors
/// What the repository says.
pub(crate) fn reach(
    context: &Context,
    opened: &Opened,
    source: &SourceInfo,
) -> Result<Option<Reach>, Failure> {
    let commits = commits_of(context, opened, source)?;
    let last = commits.iter().max_by_key(|record| record.commit.number);
    let Some(system) = last.map(|record| record.commit.cluster.system).or(source.system) else {
        return Ok(None);
    };
    let size = last.and_then(|record| WalSegmentSize::new(record.commit.cluster.wal_segment_size));
    let repository = &opened.repository;
    let archive = Archive::read(repository, system, size)?;
    let known = KnownSource::of(repository, source)?;
    let wal = RepositoryWal::new(repository, system);
    let situation =
        Situation { archive: &archive, commits: &commits, owner: known.owner.as_ref(), wal: &wal };
    let windows = pitr::windows(&situation)?;
    let go_on = known.all_that_go_on(repository, &archive)?;
    let marked = repository.marked().unwrap_or_default();
    let expired = |window: &&Window| {
        window.gap.as_ref().is_some_and(|gap| {
            let (timeline, size) = (gap.range.first.timeline, archive.segment_size);
            let (first, last) = (gap.range.first.number(size), gap.range.last.number(size));
            !gap.disputed && marked.other_wal(system, timeline, first, last).is_empty()
        })
    };
    let older = windows.iter().filter(expired).map(|window| window.backup).collect();
    Ok(Some(Reach { commits, windows, older, go_on }))
}

/// All that is known of a source in a repository. `config` where this host has the source.
///
/// # Errors
/// What the repository says.
pub(crate) fn of_source(
    context: &Context,
    opened: &Opened,
    source: &SourceInfo,
    config: Option<&SourceConfig>,
) -> Result<SourceFacts, Failure> {
    let mut facts = SourceFacts::empty(&source_name(source), &opened.name);
    facts.system = source.system;
    if let Some(reach) = reach(context, opened, source)? {
        facts.take(&reach);
        let go_on = recent(context, reach.go_on);
        facts.findings.extend(go_on.map(|it| goes_on(context, &facts.source, &it)));
    }
    if facts.backups == 0 {
        facts.findings.push(Finding::new(
            "there is no backup yet",
            format!("{} backup {}", context.command(), facts.source),
        ));
    }
    if let Some(config) = config {
        facts.findings.extend(other_cluster(config, source.system));
        facts.look_at_server(context, config);
    }
    Ok(facts)
}

impl SourceFacts {
    /// A source of which nothing is stored.
    pub(crate) fn empty(source: &str, repository: &str) -> Self {
        Self {
            source: source.to_owned(),
            repository: repository.to_owned(),
            system: None,
            server_version: None,
            source_bytes: 0,
            backups: 0,
            last_backup: None,
            recoverable_from: None,
            recoverable_to: None,
            any_moment: false,
            timeline: None,
            server: None,
            findings: Vec::new(),
        }
    }

    fn take(&mut self, reach: &Reach) {
        self.backups = reach.commits.len();
        if let Some(record) = reach.commits.iter().max_by_key(|record| record.commit.number) {
            let commit = &record.commit;
            let number = commit.cluster.server_version;
            self.server_version = Some(format!("{}.{}", number / 10_000, number % 10_000));
            self.source_bytes = commit.sizes.source;
            self.last_backup = Some(LastBackup {
                backup: commit.backup,
                finished: commit.finished,
                kind: commit.kind.as_str(),
                seconds: commit.finished.as_second() - commit.started.as_second(),
            });
            if commit.bad_pages > 0 {
                self.findings.push(Finding {
                    what: format!(
                        "backup {} holds {} damaged pages of the cluster",
                        commit.backup, commit.bad_pages
                    ),
                    mend: Some(format!("refloat show {}", commit.backup)),
                });
            }
        }
        let mut usable: Vec<&Window> = reach.windows.iter().filter(|window| window.usable).collect();
        // Older backups stand alone; the window in which any moment can be had begins behind them.
        if usable.iter().any(|window| !reach.older.contains(&window.backup)) {
            usable.retain(|window| !reach.older.contains(&window.backup));
        }
        self.recoverable_from = usable.iter().map(|window| window.earliest).min();
        let end = |window: &&Window| {
            let latest = window.latest.as_ref();
            latest.and_then(|latest| latest.alive.or(latest.last_commit)).unwrap_or(window.earliest)
        };
        let newest = usable.iter().max_by_key(|window| end(window));
        self.recoverable_to = newest.map(end);
        self.timeline = newest.map(|window| window.timeline);
        self.any_moment = newest.is_some_and(|window| window.latest.is_some())
            && usable.iter().all(|window| window.gap.is_none());
        for window in &reach.windows {
            if !window.usable {
                self.findings.push(Finding::new(
                    format!(
                        "backup {} cannot become consistent: WAL that it needs is missing",
                        window.backup
                    ),
                    format!("refloat wal status {}", self.source),
                ));
            } else if let Some(gap) = window.gap.as_ref().filter(|_| !reach.older.contains(&window.backup)) {
                self.findings.push(Finding::new(
                    format!("behind backup {} WAL is missing: {gap}", window.backup),
                    format!("refloat backup {}   (makes later moments recoverable again)", self.source),
                ));
            }
        }
    }

    fn look_at_server(&mut self, context: &Context, config: &SourceConfig) {
        let directory: &Path = &config.data_directory;
        let Ok(state) = server_state(directory) else { return };
        let (running, port) = match state {
            ServerState::Running(file) => (true, file.port),
            ServerState::Doubtful { .. } => (true, None),
            ServerState::NotRunning { .. } => (false, None),
        };
        let mut server = ServerFacts { running, port, waiting: 0, waiting_since: None };
        if let Ok(wal) = server_wal(directory) {
            server.waiting = wal.ready;
            server.waiting_since = wal.waiting_since;
            let now = context.clock.now();
            if let Some(locked) = wal.locked {
                self.findings.push(Finding::new(
                    format!(
                        "archiving is locked: restored from {} at {}, not yet taken over",
                        locked.source,
                        time::moment(locked.at)
                    ),
                    format!("{} takeover {}", context.command(), self.source),
                ));
            } else if let Some(since) = wal.waiting_since
                && time::since(since, now) > LATE
            {
                self.findings.push(Finding::new(
                    format!("WAL waits to be archived for {}", time::length(time::since(since, now))),
                    format!("{} check {}", context.command(), self.source),
                ));
            }
        }
        self.server = Some(server);
    }
}
