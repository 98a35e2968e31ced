//! Why a WAL file was not fetched, and what PostgreSQL is told.

use std::fmt;
use std::io;
use std::path::PathBuf;

use refloat_repo::RepoError;
use refloat_types::{Advice, Explain, Lsn, Severity, TimelineId, WalFileName, WalSegmentName};

use crate::wal::keep::Writer;

/// A repository that did not say whether it has the file.
#[derive(Debug)]
pub struct Unanswered {
    /// Which.
    pub repository: String,
    /// Why.
    pub source: RepoError,
}

impl Unanswered {
    /// A key that this host does not have does not come by waiting, and what somebody else has put there does not become ours.
    const fn is_final(&self) -> bool {
        matches!(self.source, RepoError::NoKey { .. } | RepoError::UnknownOrigin { .. })
    }
}

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.repository, self.source)
    }
}

/// Why a file's absence is no end of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hole {
    /// A later WAL segment of its timeline is stored.
    Later(WalSegmentName),
    /// A timeline that is stored left this one behind it.
    LeftLater {
        /// Which.
        timeline: TimelineId,
        /// Where.
        fork: Lsn,
    },
    /// WAL of the timeline is stored, and its history is not.
    NoHistory(WalFileName),
}

impl fmt::Display for Hole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Later(later) => write!(f, "{later}, which follows it, is stored"),
            Self::LeftLater { timeline, fork } => {
                write!(f, "timeline {timeline}, which is stored, left this one behind it, at {fork}")
            }
            Self::NoHistory(stored) => write!(f, "{stored} of that timeline is stored"),
        }
    }
}

/// A file that was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It does not exist: the archive ends before it.
    #[error("{name} is not archived")]
    NotFound {
        /// Which.
        name: WalFileName,
    },
    /// It is missing from the middle of the archive.
    #[error("{name} is missing from {repository}: {hole}")]
    Hole {
        /// Which.
        name: WalFileName,
        /// Where.
        repository: String,
        /// How that shows.
        hole: Hole,
    },
    /// Two different files of this name are stored.
    #[error(
        "{name} is stored {} times in {repository}: {}, with different bytes ({})",
        writers.len(), objects(writers), digests(writers)
    )]
    Conflict {
        /// Which.
        name: WalFileName,
        /// Where.
        repository: String,
        /// Who wrote which.
        writers: Vec<Writer>,
    },
    /// Not every repository could be asked, or one has it and it cannot be read.
    #[error("could not fetch {name}{}", list(unanswered))]
    Unanswered {
        /// Which.
        name: WalFileName,
        /// Which repositories, and why.
        unanswered: Vec<Unanswered>,
    },
    /// The file could not be written.
    #[error("could not write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The beginnings of what tells them apart: PostgreSQL's log has no place for whole names.
fn digests(writers: &[Writer]) -> String {
    let beginnings = writers.iter().map(|writer| {
        let digest = writer.object.rsplit('-').next().unwrap_or_default();
        digest.get(..12).unwrap_or(digest)
    });
    beginnings.collect::<Vec<_>>().join(", ")
}

fn objects(writers: &[Writer]) -> String {
    writers.iter().map(|writer| format!("\"{}\"", writer.object)).collect::<Vec<_>>().join(" and ")
}

fn list(unanswered: &[Unanswered]) -> String {
    let mut text = String::new();
    for (index, one) in unanswered.iter().enumerate() {
        text.push_str(if index == 0 { " from " } else { "; " });
        text.push_str(&one.to_string());
        let mut cause = std::error::Error::source(&one.source);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
    }
    text
}

impl FetchError {
    /// Whether a later attempt may do better.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::NotFound { .. } | Self::Conflict { .. } => false,
            Self::Unanswered { unanswered, .. } => !unanswered.iter().all(Unanswered::is_final),
            Self::Hole { .. } | Self::Write { .. } => true,
        }
    }

    /// What `restore_command` ends with: 1 says that the archive ends here, 255 stops the recovery. A standby asks again
    /// after any failure, and 255 would stop it.
    pub fn exit_code(&self, is_standby: bool) -> u8 {
        match self {
            Self::NotFound { .. } => 1,
            _ if is_standby => 1,
            _ => 255,
        }
    }
}

impl Explain for FetchError {
    fn advice(&self) -> Advice {
        let safe =
            "recovery stops here and can go on: nothing was promoted, nothing in the archive was changed";
        match self {
            Self::NotFound { .. } => Advice::failed("WAL-030", "every repository answered; none has it"),
            Self::Hole { .. } => Advice::failed("WAL-031", safe)
                .hint("Archive the missing file from the old server's pg_wal, or from a standby's: refloat wal push FILE")
                .hint("To see all gaps: refloat wal status")
                .hint("To stop before it, restore with a target inside the window that `refloat status` shows."),
            Self::Conflict { .. } => Advice::failed("WAL-032", safe)
                .hint("Find out which server was the right one (refloat wal status), and take the other's object away.")
                .hint("To stop before it, restore with a target that lies before both."),
            Self::Unanswered { unanswered, .. } => {
                let first = unanswered.first().map(|one| one.source.advice());
                let severity = first.as_ref().map_or(Severity::Failed, |advice| advice.severity);
                let hints = first.map(|advice| advice.hints).unwrap_or_default();
                let advice = Advice { severity, hints, ..Advice::failed("WAL-033", safe) };
                advice.hint("Start the server again when the repository can be read: recovery goes on where it stopped.")
            }
            Self::Write { .. } => {
                Advice::failed("WAL-034", safe).hint("Is the disk of the data directory full?")
            }
        }
    }
}
