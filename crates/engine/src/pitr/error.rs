//! Why a target is refused. Nothing was read but headers, and nothing was written.

use refloat_repo::RepoError;
use refloat_types::{Advice, BackupId, Explain, SystemIdentifier, TimelineId};

use super::reach::Gap;
use super::window::Window;
use crate::wal::archive::Missing;

/// A target that cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// There is no backup.
    #[error("there is no backup of the cluster with system identifier {system}")]
    NoBackup {
        /// The cluster.
        system: SystemIdentifier,
    },
    /// No backup has this id.
    #[error("there is no backup {backup} of this source")]
    UnknownBackup {
        /// The id.
        backup: BackupId,
    },
    /// The target lies before what any backup, or the named one, can reach.
    #[error("{target} lies before the {}", end_of(*.backup))]
    TooEarly {
        /// What was asked for.
        target: String,
        /// The backup that was named.
        backup: Option<BackupId>,
        /// What can be reached.
        windows: Vec<Window>,
    },
    /// The target lies behind what is archived.
    #[error("{target} lies after the end of the archived WAL")]
    TooLate {
        /// What was asked for.
        target: String,
        /// What can be reached.
        windows: Vec<Window>,
    },
    /// The backup is not in the past of the timeline.
    #[error("{} not on the way to timeline {timeline}", whose(*.backup))]
    NotOnTimeline {
        /// The backup that was named; `None`: no backup is.
        backup: Option<BackupId>,
        /// The timeline.
        timeline: TimelineId,
        /// What can be reached.
        windows: Vec<Window>,
    },
    /// Nothing is known of this timeline.
    #[error("timeline {timeline} is not archived")]
    UnknownTimeline {
        /// The timeline.
        timeline: TimelineId,
        /// Those that are.
        known: Vec<TimelineId>,
    },
    /// Where the timeline comes from cannot be known.
    #[error("timeline {timeline} cannot be followed: {why}")]
    NoHistory {
        /// The timeline.
        timeline: TimelineId,
        /// Why.
        why: String,
    },
    /// WAL on the way to the target is missing.
    #[error("{target} cannot be reached: {gap}")]
    Gap {
        /// What was asked for.
        target: String,
        /// What is missing.
        gap: Gap,
        /// What can be reached.
        windows: Vec<Window>,
    },
    /// The WAL that makes the backup consistent is missing.
    #[error("backup {backup} cannot become consistent: {missing}")]
    Inconsistent {
        /// The backup.
        backup: BackupId,
        /// What is missing.
        missing: Missing,
        /// What can be reached.
        windows: Vec<Window>,
    },
    /// No such transaction or name in the archived WAL behind any backup.
    #[error("{target} is not in the archived WAL{}", behind(*.backup))]
    NotFound {
        /// What was asked for.
        target: String,
        /// The backup that was named.
        backup: Option<BackupId>,
        /// What can be reached.
        windows: Vec<Window>,
    },
    /// The archive could not be read.
    #[error("could not find out which moments can be reached")]
    Archive(#[from] RepoError),
}

fn end_of(backup: Option<BackupId>) -> String {
    backup.map_or_else(|| "end of every backup".to_owned(), |id| format!("end of backup {id}"))
}

fn whose(backup: Option<BackupId>) -> String {
    backup.map_or_else(|| "every backup is".to_owned(), |id| format!("backup {id} is"))
}

fn behind(backup: Option<BackupId>) -> String {
    backup.map_or_else(|| " behind any backup".to_owned(), |id| format!(" behind backup {id}"))
}

impl TargetError {
    fn windows(&self) -> &[Window] {
        match self {
            Self::TooEarly { windows, .. }
            | Self::TooLate { windows, .. }
            | Self::NotOnTimeline { windows, .. }
            | Self::Gap { windows, .. }
            | Self::Inconsistent { windows, .. }
            | Self::NotFound { windows, .. } => windows,
            Self::NoBackup { .. }
            | Self::UnknownBackup { .. }
            | Self::UnknownTimeline { .. }
            | Self::NoHistory { .. }
            | Self::Archive(_) => &[],
        }
    }
}

/// So many windows are shown.
const SHOWN: usize = 8;

impl Explain for TargetError {
    fn advice(&self) -> Advice {
        let safe = "nothing was written; only headers were read";
        let mut advice = match self {
            Self::NoBackup { .. } => {
                Advice::failed("PIT-001", safe).hint("Take one: refloat backup")
            }
            Self::UnknownBackup { .. } => {
                Advice::usage("PIT-002", safe).hint("To see all of them: refloat list")
            }
            Self::TooEarly { .. } => Advice::usage("PIT-003", safe),
            Self::TooLate { .. } => Advice::usage("PIT-004", safe)
                .hint("Where the server still runs, archive its newest WAL first: refloat wal switch")
                .hint("To replay everything that is archived: --target latest"),
            Self::NotOnTimeline { .. } => Advice::usage("PIT-005", safe)
                .hint("Choose a timeline that descends from the backup's, with --target-timeline, or another backup."),
            Self::UnknownTimeline { known, .. } => {
                let known: Vec<String> = known.iter().map(ToString::to_string).collect();
                Advice::usage("PIT-006", safe).hint(format!("Archived timelines: {}", known.join(", ")))
            }
            Self::NoHistory { .. } => Advice::failed("PIT-007", safe)
                .hint("Archive the history file from a server's pg_wal: refloat wal push FILE")
                .hint("Or name another timeline with --target-timeline."),
            Self::Gap { .. } => Advice::failed("PIT-008", safe)
                .hint("Archive the missing files from the old server's or a standby's pg_wal: refloat wal push FILE"),
            Self::Inconsistent { .. } => Advice::failed("PIT-009", safe)
                .hint("Archive the missing files from the old server's or a standby's pg_wal, or use another backup."),
            Self::NotFound { .. } => Advice::usage("PIT-010", safe),
            Self::Archive(source) => Advice { safe: safe.into(), ..source.advice() },
        };
        let windows = self.windows();
        let shown = windows.iter().take(SHOWN).map(|window| format!("can be reached: {window}"));
        advice.hints.extend(shown);
        if windows.len() > SHOWN {
            advice.hints.push(format!("and {} older backups: refloat list", windows.len() - SHOWN));
        }
        advice
    }
}
