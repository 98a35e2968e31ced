//! What one pass over a WAL segment tells, kept with the archived object: windows, gaps and recovery targets are then
//! known without reading data.
//!
//! The size is bounded whatever the WAL holds: lists are cut at their limit, and [`WalFacts::truncated`] says so.

use refloat_types::{Lsn, TimelineId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::control::WalLevel;

/// Most restore points that are listed.
pub const MAX_RESTORE_POINTS: usize = 256;
/// Most changes of `wal_level`, timeline or similar that are listed, of each kind.
pub const MAX_CHANGES: usize = 16;

/// What the records of a WAL segment say. Absent when empty in the serialised form; absent reads as empty.
///
/// Only records that *end* in the WAL segment and began in it are counted, because the CRC of others cannot be checked
/// here. `unfinished_tail` tells of the one that goes on in the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WalFacts {
    /// Where the first record begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_record: Option<Lsn>,
    /// Where the record before the first one begins, as the first one has it: joins this WAL segment to the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_first: Option<Lsn>,
    /// Where the last record begins, whole or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_record: Option<Lsn>,
    /// End of the last whole record; the end of the WAL segment when that is a switch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_record_end: Option<Lsn>,
    /// Whole records.
    #[serde(skip_serializing_if = "is_zero")]
    pub records: u64,
    /// Bytes that a record of the WAL segment before goes on with, here and after.
    #[serde(skip_serializing_if = "is_zero")]
    pub continued_bytes: u64,
    /// The record that goes on in the next WAL segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unfinished_tail: Option<Lsn>,
    /// Bytes of a record that the next WAL segment goes on with: its `continued_bytes`, unless a crash came between.
    #[serde(skip_serializing_if = "is_zero")]
    pub unfinished_bytes: u64,
    /// Does the WAL end with a switch, before the end of the file?
    #[serde(skip_serializing_if = "is_false")]
    pub ends_with_switch: bool,

    /// Earliest time of a commit or abort. The order of times is almost, not exactly, that of records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_commit: Option<Timestamp>,
    /// Latest time of a commit or abort.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_commit: Option<Timestamp>,
    /// Transactions committed, prepared ones included.
    #[serde(skip_serializing_if = "is_zero")]
    pub commits: u64,
    /// Transactions aborted, prepared ones included.
    #[serde(skip_serializing_if = "is_zero")]
    pub aborts: u64,
    /// Oldest id of a top-level transaction that ended, in the circular order of transaction ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xid_min: Option<u32>,
    /// Newest id of a top-level transaction that ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xid_max: Option<u32>,

    /// Tablespaces made; where is told by their records only.
    #[serde(skip_serializing_if = "is_zero")]
    pub tablespaces: u64,
    /// Restore points, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restore_points: Vec<RestorePoint>,
    /// Checkpoint records.
    #[serde(skip_serializing_if = "is_zero")]
    pub checkpoints: u64,
    /// The first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_checkpoint: Option<CheckpointFact>,
    /// The last of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<CheckpointFact>,
    /// Each record that tells standbys of settings, with the `wal_level` it names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wal_levels: Vec<WalLevelChange>,
    /// Where `full_page_writes` was first turned off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_page_writes_off: Option<Lsn>,
    /// Where new timelines begin.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeline_switches: Vec<TimelineSwitch>,
    /// Timeline of the first page, when it is not that of the file's name: the first WAL segment of a timeline begins
    /// with a copy of its parent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begins_on: Option<TimelineId>,
    /// Records that a crash cut off, and that PostgreSQL marked as such when it went on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overwritten: Vec<Lsn>,

    /// Records whose CRC holds and whose inside was not understood, or was too long to be kept.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_understood: u64,
    /// Was a list cut at its limit?
    #[serde(skip_serializing_if = "is_false")]
    pub truncated: bool,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl WalFacts {
    /// The lowest `wal_level` that a record of this WAL segment announces; `None` when none does.
    pub fn lowest_wal_level(&self) -> Option<WalLevel> {
        self.wal_levels.iter().map(|change| change.level).min()
    }
}

/// A named restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePoint {
    /// Its name, at most 63 bytes; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// End of its record: where recovery to this name stops, and what `pg_create_restore_point` returned.
    pub lsn: Lsn,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
}

/// A checkpoint record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointFact {
    /// Where its record begins.
    pub lsn: Lsn,
    /// Where recovery from it begins.
    pub redo: Lsn,
    /// Was it made by a shutdown or the end of a recovery?
    #[serde(default, skip_serializing_if = "is_false")]
    pub shutdown: bool,
}

/// A record that names `wal_level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalLevelChange {
    /// Where it begins.
    pub lsn: Lsn,
    /// The level from here on.
    #[serde(with = "level_word")]
    pub level: WalLevel,
}

/// Where a new timeline begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineSwitch {
    /// Where the record that says so begins.
    pub lsn: Lsn,
    /// The timeline before.
    pub from: TimelineId,
    /// The new one.
    pub to: TimelineId,
    /// When; a shutdown checkpoint that begins a timeline does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
}

/// A moment as PostgreSQL writes it: microseconds since 2000-01-01 00:00 UTC. `None` for what no clock can show.
pub(crate) fn timestamp(microseconds: i64) -> Option<Timestamp> {
    /// 2000-01-01 in microseconds since 1970-01-01.
    const EPOCH: i64 = 946_684_800_000_000;
    Timestamp::from_microsecond(microseconds.checked_add(EPOCH)?).ok()
}

/// `wal_level` in JSON: its name.
mod level_word {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::control::WalLevel;

    pub(super) fn serialize<S: Serializer>(level: &WalLevel, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(level)
    }
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<WalLevel, D::Error> {
        let text = String::deserialize(from)?;
        (0..)
            .map_while(WalLevel::from_number)
            .find(|level| level.to_string() == text)
            .ok_or_else(|| D::Error::custom(format!("\"{text}\" is no wal_level")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_compact_and_come_back() {
        assert_eq!(serde_json::to_string(&WalFacts::default()).expect("plain data"), "{}");
        assert_eq!(serde_json::from_str::<WalFacts>("{}").expect("all default"), WalFacts::default());
        let facts = WalFacts {
            first_record: Some(Lsn(0x0100_0028)),
            records: 7,
            last_commit: timestamp(0),
            wal_levels: vec![WalLevelChange { lsn: Lsn(0x0100_0028), level: WalLevel::Minimal }],
            restore_points: vec![RestorePoint {
                name: "before the upgrade".to_owned(),
                lsn: Lsn(0x0100_0100),
                time: timestamp(1),
            }],
            ends_with_switch: true,
            ..WalFacts::default()
        };
        let json = serde_json::to_string(&facts).expect("plain data");
        assert_eq!(
            json,
            r#"{"first_record":"0/1000028","records":7,"ends_with_switch":true,"last_commit":"2000-01-01T00:00:00Z","restore_points":[{"name":"before the upgrade","lsn":"0/1000100","time":"2000-01-01T00:00:00.000001Z"}],"wal_levels":[{"lsn":"0/1000028","level":"minimal"}]}"#
        );
        assert_eq!(serde_json::from_str::<WalFacts>(&json).expect("own output"), facts);
        assert_eq!(facts.lowest_wal_level(), Some(WalLevel::Minimal));
    }

    #[test]
    fn times_beyond_the_calendar_are_none() {
        for odd in [i64::MIN, i64::MAX, i64::MIN + 1, i64::MAX - 1] {
            assert_eq!(timestamp(odd), None);
        }
    }
}
