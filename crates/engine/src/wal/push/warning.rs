//! What a person should see though a WAL file was stored.

use std::fmt;
use std::time::{Duration, Instant};

use refloat_pg::control::ControlFile;
use refloat_pg::history::TimelineHistory;
use refloat_repo::Repository;
use refloat_types::{Lsn, SourceName, SystemIdentifier, TimelineId, WalFileName};

use super::{PushOptions, StoredIn};
use crate::wal::check::Checked;
use crate::wal::keep::Task;
use crate::wal::source::{FRESH, KnownSource};

/// What a person should see though the file was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushWarning {
    /// WAL of a version this release does not know: stored, its records not checked.
    UnknownVersion {
        /// Magic number of its pages.
        magic: u16,
    },
    /// WAL of a timeline that the owner has left, from beyond the point where it left: another server is still writing.
    LeftTimeline {
        /// The timeline it is of.
        timeline: TimelineId,
        /// Where its WAL ends.
        end: Lsn,
        /// The owner's timeline.
        owner: TimelineId,
        /// Where the owner left it; `None` where it never was on it.
        fork: Option<Lsn>,
    },
    /// The source was another cluster: this one's WAL is stored under its own identifier.
    OtherCluster {
        /// The source.
        source: SourceName,
        /// The cluster that it is known as.
        known: SystemIdentifier,
        /// The cluster that this is.
        found: SystemIdentifier,
    },
    /// An object of that name was there, damaged, and was replaced.
    ReplacedDamaged {
        /// In which repository.
        repository: String,
    },
    /// It is the end of a timeline that was left, and another server had come farther on it, or less far.
    OtherEnd {
        /// In which repository.
        repository: String,
    },
}

impl fmt::Display for PushWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownVersion { magic } => write!(
                f,
                "WAL of an unknown version of PostgreSQL (magic {magic:04X}): stored as bytes, its records were not checked"
            ),
            Self::LeftTimeline { timeline, end, owner, fork: Some(fork) } => write!(
                f,
                "timeline {timeline} was left at {fork} by the owner of this source, which is on timeline {owner}, and goes on here to {end}: two servers are writing"
            ),
            Self::LeftTimeline { timeline, end, owner, fork: None } => write!(
                f,
                "timeline {timeline} is not on the way of the owner of this source, which is on timeline {owner}, and goes on here to {end}: two servers are writing"
            ),
            Self::OtherCluster { source, known, found } => write!(
                f,
                "this is cluster {found}, and {source} was cluster {known}: its WAL is stored, but cannot be restored as {source}; give it a source of its own"
            ),
            Self::ReplacedDamaged { repository } => {
                write!(f, "a damaged object of this name in {repository} was replaced")
            }
            Self::OtherEnd { repository } => write!(
                f,
                "another server left this timeline elsewhere: both ends are stored in {repository}, and no recovery needs either"
            ),
        }
    }
}

impl PushWarning {
    /// Its stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::UnknownVersion { .. } => "WAL-011",
            Self::LeftTimeline { .. } => "WAL-012",
            Self::ReplacedDamaged { .. } => "WAL-013",
            Self::OtherCluster { .. } => "WAL-014",
            Self::OtherEnd { .. } => "WAL-015",
        }
    }
}

pub(super) fn unknown_version(file: &Checked) -> Option<PushWarning> {
    let segment = file.facts.segment.as_ref().filter(|segment| segment.version.is_none())?;
    Some(PushWarning::UnknownVersion { magic: segment.magic })
}

/// What came to light when it was stored in one repository.
pub(super) fn of_repository(stored: &StoredIn) -> impl Iterator<Item = PushWarning> {
    let repository = stored.repository.clone();
    let replaced = PushWarning::ReplacedDamaged { repository: repository.clone() };
    let other_end = PushWarning::OtherEnd { repository };
    [(stored.replaced_damaged, replaced), (stored.other_end, other_end)]
        .into_iter()
        .filter_map(|(is, warning)| is.then_some(warning))
}

/// What the repositories say to WAL of this server, now that it is stored: a cluster that the source is not, or a server
/// that writes on after the owner went another way.
pub(super) fn of_source(
    repositories: &[&Repository],
    options: &PushOptions<'_>,
    control: Option<&ControlFile>,
    task: &Task<'_>,
) -> Vec<PushWarning> {
    let Some(source) = options.source else { return Vec::new() };
    let (system, file, server) = (task.system, task.file, control.map(ControlFile::timeline));
    let begun = begun(file, server);
    let fresh = if begun.is_some() { Duration::ZERO } else { FRESH };
    let mut warnings = Vec::new();
    for repository in repositories {
        if Instant::now() >= task.until {
            break;
        }
        let known = KnownSource::kept(repository, source, system, options.now, fresh);
        let Some(mut known) = known else { continue };
        if let Some(found) = known.system.filter(|known| *known != system) {
            warnings.push(PushWarning::OtherCluster { source: source.clone(), known: found, found: system });
        }
        if let Some(history) = &begun
            && let Err(error) = known.follow(repository, source, system, history, options.now)
        {
            tracing::warn!(%error, timeline = %history.timeline(), "it is not recorded that the owner is on this timeline");
        }
        warnings.extend(left_timeline(&known, server, system, file));
    }
    warnings.dedup();
    warnings
}

/// The history of the timeline that the server has begun, where this is its file.
fn begun(file: &Checked, server: Option<TimelineId>) -> Option<TimelineHistory> {
    let WalFileName::History(timeline) = file.name else { return None };
    file.facts.history_of(timeline).filter(|_| server.is_none_or(|server| server == timeline))
}

/// A server that has gone on to another timeline itself pushes what is left of this one.
fn left_timeline(
    known: &KnownSource,
    server: Option<TimelineId>,
    system: SystemIdentifier,
    file: &Checked,
) -> Option<PushWarning> {
    let timeline = match file.name {
        WalFileName::Segment(segment) | WalFileName::Partial(segment) => segment.timeline,
        WalFileName::History(_) | WalFileName::BackupHistory(..) => return None,
    };
    let (end, left) = (file.end?, known.left(system, timeline)?);
    let writes = server.is_none_or(|server| server == timeline);
    (writes && left.is_passed(end)).then_some(PushWarning::LeftTimeline {
        timeline,
        end,
        owner: left.owner,
        fork: left.fork,
    })
}
