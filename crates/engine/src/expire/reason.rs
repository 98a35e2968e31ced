//! Why a backup stays, or goes, in words that people read.

use std::fmt;

use refloat_repo::commit::BackupType;
use refloat_types::{BackupId, Timestamp};

use super::calendar::Period;

/// Why a backup stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Nothing is configured to be deleted.
    NoPolicy,
    /// No rule speaks of backups of this type.
    NoRule(BackupType),
    /// One of the newest so many.
    Count {
        /// Its type.
        kind: BackupType,
        /// From the newest, 1.
        nth: u32,
        /// How many are kept.
        of: u32,
    },
    /// Not old enough.
    Younger {
        /// Its type.
        kind: BackupType,
        /// As configured.
        than: String,
        /// Until then.
        until: Option<Timestamp>,
    },
    /// The last one of a day, week, month or year.
    Calendar {
        /// Of what.
        period: Period,
        /// From the newest, 1.
        nth: u32,
        /// As configured.
        keep: String,
    },
    /// Made on a full backup that stays.
    WithFull(BackupId),
    /// The newest backup of its source always stays.
    Newest,
    /// The newest full backup that is whole always stays.
    LastFull,
    /// The newest full backup without damaged pages stays while newer ones have some.
    LastClean,
    /// The moments that shall be restorable begin with it.
    Window(String),
    /// Somebody holds it.
    Held {
        /// Why; `None` where this host cannot read it.
        reason: Option<String>,
        /// Until then.
        until: Option<Timestamp>,
    },
    /// A running job uses it.
    Pinned(String),
    /// Packs of it are missing, so it does not count; what is newer than the oldest that counts stays.
    Damaged,
    /// No full backup of its source is whole.
    NothingWhole,
}

impl Reason {
    /// Until about when it holds, where that is known.
    pub const fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Younger { until, .. } | Self::Held { until, .. } => *until,
            _ => None,
        }
    }
}

fn day(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d").to_string()
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPolicy => f.write_str("no retention is configured"),
            Self::NoRule(kind) => write!(f, "no rule for {} backups", kind.as_str()),
            Self::Count { kind, nth, of } => write!(f, "{} {nth} of {of}", kind.as_str()),
            Self::Younger { kind, than, until } => {
                write!(f, "{} younger than {than}", kind.as_str())?;
                until.map_or(Ok(()), |until| write!(f, ", until about {}", day(until)))
            }
            Self::Calendar { period, nth, keep } => {
                write!(f, "last of its {} ({nth}, of {keep})", period.as_str())
            }
            Self::WithFull(full) => write!(f, "made on {full}"),
            Self::Newest => f.write_str("the newest"),
            Self::LastFull => f.write_str("the newest full"),
            Self::LastClean => f.write_str("the newest full without damaged pages"),
            Self::Window(window) => write!(f, "any moment of the last {window} needs it"),
            Self::Held { reason, until } => {
                f.write_str("held")?;
                if let Some(reason) = reason {
                    write!(f, ": {reason}")?;
                }
                until.map_or(Ok(()), |until| write!(f, ", until {}", day(until)))
            }
            Self::Pinned(operation) => write!(f, "a running {operation} uses it"),
            Self::Damaged => f.write_str("packs of it are missing: it does not count (refloat verify)"),
            Self::NothingWhole => f.write_str("no full backup of this source is whole (refloat verify)"),
        }
    }
}

/// Why a backup goes: the rule of its type, in words.
pub(super) fn why_gone(policy: &super::Policy, kind: BackupType) -> String {
    let rule = match kind {
        BackupType::Full => &policy.full,
        BackupType::Diff => &policy.diff,
        BackupType::Incr => &policy.incr,
    };
    match rule {
        Some(super::Keep::Count(count)) => format!("more than {count} newer {} backups", kind.as_str()),
        Some(super::Keep::Age(_, text)) => format!("older than {text}"),
        None if kind == BackupType::Full => "no calendar rule wants it".to_owned(),
        None => "its full backup goes".to_owned(),
    }
}
