//! What a stored WAL file tells without being read: the clear facts in its header, the sealed ones in its first frame.
//!
//! Clear facts hold numbers, positions and times; names (of restore points) are sealed. A field that is not there reads
//! as empty, so that later releases can add some.

use refloat_pg::history::TimelineHistory;
use refloat_pg::wal::{Inspection, RestorePoint, WalFacts};
use refloat_types::{Lsn, TimelineId, WalSegmentSize};
use serde::{Deserialize, Serialize};

/// The clear facts of a stored WAL file: exactly one of the fields is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ArchivedFacts {
    /// Of a WAL segment, whole or partial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<SegmentFacts>,
    /// Of a timeline's history: the timelines it left, oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<ForkFact>>,
    /// Of a backup history file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupFacts>,
}

/// What is known of a WAL segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentFacts {
    /// Magic number of its pages.
    pub magic: u16,
    /// Major version that wrote it; `None`: unknown, so its records were not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u16>,
    /// Bytes of this cluster's WAL segments.
    pub segment_size: u32,
    /// Bytes from the beginning that mean something; the rest was stored as zeros.
    pub valid_bytes: u64,
    /// Restore points in it; their names are sealed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub restore_points: u64,
    /// The record that goes on in the next WAL segment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<TailFact>,
    /// What its records say, without restore points.
    #[serde(default)]
    pub wal: WalFacts,
}

/// The beginning of a record that goes on in the next WAL segment. It may end a transaction or be a restore point, which
/// the facts of neither WAL segment count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailFact {
    /// Where it begins.
    pub lsn: Lsn,
    /// Its transaction; 0 for none.
    pub xid: u32,
    /// Resource manager and operation; `None` where the WAL segment ends before they are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<(u8, u8)>,
}

/// A timeline that was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkFact {
    /// Which.
    pub timeline: TimelineId,
    /// Its first byte that does not belong any more.
    pub at: Lsn,
}

/// What a backup history file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFacts {
    /// Where replay begins.
    pub start: Lsn,
    /// Where the backup becomes consistent.
    pub stop: Lsn,
}

/// The sealed facts of a stored WAL file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SealedFacts {
    /// Restore points with their names, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub restore_points: Vec<RestorePoint>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl ArchivedFacts {
    /// Reads the facts of a stored file's header; facts that cannot be read are as none.
    pub fn read(clear: &serde_json::Value) -> Self {
        Self::deserialize(clear).unwrap_or_default()
    }

    /// The facts of an inspected WAL segment, apart by what is clear and what is sealed. `header_at` answers up to 24
    /// bytes of the file from an offset on.
    pub(crate) fn of_segment(
        inspection: Inspection,
        file_start: Lsn,
        header_at: impl FnOnce(u64) -> Vec<u8>,
    ) -> (Self, SealedFacts) {
        let mut wal = inspection.facts;
        let sealed = SealedFacts { restore_points: std::mem::take(&mut wal.restore_points) };
        let tail = wal.unfinished_tail.and_then(|lsn| {
            let bytes = header_at(file_start.bytes_until(lsn));
            let xid = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
            let kind = bytes.get(16..24).map(|rest| (rest[1], rest[0] & 0xF0));
            Some(TailFact { lsn, xid, kind })
        });
        let segment = SegmentFacts {
            magic: inspection.magic,
            version: inspection.version,
            segment_size: u32::try_from(inspection.segment_size.bytes()).unwrap_or(0),
            valid_bytes: inspection.valid_bytes,
            restore_points: sealed.restore_points.len() as u64,
            tail,
            wal,
        };
        (Self { segment: Some(segment), ..Self::default() }, sealed)
    }

    /// The facts of a history file. The reasons it gives may hold names; they stay in the sealed bytes.
    pub(crate) fn of_history(history: &TimelineHistory) -> Self {
        let forks = history.forks().iter().map(|fork| ForkFact { timeline: fork.timeline, at: fork.at });
        Self { history: Some(forks.collect()), ..Self::default() }
    }

    /// The history that these facts of `timeline`'s file tell; `None` when they tell none.
    pub fn history_of(&self, timeline: TimelineId) -> Option<TimelineHistory> {
        let forks = self.history.as_ref()?;
        let mut history = TimelineHistory::without_parent(forks.first()?.timeline);
        for (index, fork) in forks.iter().enumerate() {
            let next = forks.get(index + 1).map_or(timeline, |next| next.timeline);
            history = history.forked(next, fork.at, "").ok()?;
        }
        Some(history)
    }
}

impl SegmentFacts {
    /// Size of WAL segments; `None` for a size PostgreSQL does not have.
    pub fn size(&self) -> Option<WalSegmentSize> {
        WalSegmentSize::new(self.segment_size)
    }
    /// The latest moment that its records name.
    pub fn last_time(&self) -> Option<refloat_types::Timestamp> {
        let switches = self.wal.timeline_switches.iter().filter_map(|switch| switch.time);
        switches.chain(self.wal.last_commit).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_comes_back_from_its_facts() {
        let tli = |n| TimelineId::new(n).unwrap();
        let text = b"1\t0/5000098\twhy\n\n3\t0/7000000\tat restore point \"secret\"\n";
        let history = TimelineHistory::parse(tli(4), text).unwrap();
        let facts = ArchivedFacts::of_history(&history);
        let json = serde_json::to_value(&facts).unwrap();
        assert!(!json.to_string().contains("secret"));
        let back = ArchivedFacts::read(&json).history_of(tli(4)).unwrap();
        let places = |h: &TimelineHistory| h.forks().iter().map(|f| (f.timeline, f.at)).collect::<Vec<_>>();
        assert_eq!((back.timeline(), places(&back)), (tli(4), places(&history)));
    }

    #[test]
    fn facts_of_a_later_release_are_read_as_far_as_they_are_known() {
        let json = serde_json::json!({ "segment": { "magic": 53520, "segment_size": 16_777_216, "valid_bytes": 5,
            "blocks": [1, 2], "wal": { "records": 3, "new": true } }, "more": 1 });
        let facts = ArchivedFacts::read(&json).segment.unwrap();
        assert_eq!((facts.wal.records, facts.size()), (3, Some(WalSegmentSize::DEFAULT)));
        assert_eq!(ArchivedFacts::read(&serde_json::Value::Null), ArchivedFacts::default());
    }
}
