//! From records to [`WalFacts`].

use refloat_types::{Lsn, TimelineId};

use super::facts::{
    CheckpointFact, MAX_CHANGES, MAX_RESTORE_POINTS, RestorePoint, TimelineSwitch, WalFacts, WalLevelChange,
    timestamp,
};
use super::record::{MalformedRecord, Record, RecordHeader, RecordVisitor, manager};
use super::tablespace;
use super::xact::{self, Ending};
use super::xlog;
use crate::control::WalLevel;

/// Gathers facts from records.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    facts: WalFacts,
    /// Earliest and latest time of a commit or abort, as PostgreSQL counts.
    times: Option<(i64, i64)>,
}

/// Is this record read here? Block images, the bulk of the WAL manager's records, are not.
fn is_of_interest(header: &RecordHeader) -> bool {
    match header.manager {
        manager::XACT => xact::ending(header.info).is_some(),
        manager::XLOG => matches!(
            header.operation(),
            xlog::CHECKPOINT_SHUTDOWN
                | xlog::CHECKPOINT_ONLINE
                | xlog::PARAMETER_CHANGE
                | xlog::RESTORE_POINT
                | xlog::FPW_CHANGE
                | xlog::END_OF_RECOVERY
                | xlog::OVERWRITE_CONTRECORD
        ),
        manager::TABLESPACE => tablespace::is_made(header.manager, header.info),
        _ => false,
    }
}

impl RecordVisitor for Collector {
    fn keep(&self, header: &RecordHeader) -> usize {
        if is_of_interest(header) { usize::MAX } else { 0 }
    }

    #[inline]
    fn record(&mut self, record: &Record<'_>) {
        let facts = &mut self.facts;
        facts.records += 1;
        if facts.first_record.is_none() {
            facts.first_record = Some(record.at);
            facts.before_first = Some(record.header.previous);
        }
        facts.last_record = Some(record.at);
        facts.last_record_end = Some(record.end);
        if record.header.manager <= manager::TABLESPACE && is_of_interest(&record.header) {
            self.read(record);
        }
    }
}

impl Collector {
    /// What was gathered.
    pub(crate) fn into_facts(mut self) -> WalFacts {
        if let Some((first, last)) = self.times {
            self.facts.first_commit = timestamp(first);
            self.facts.last_commit = timestamp(last);
        }
        self.facts
    }

    fn read(&mut self, record: &Record<'_>) {
        let read = match record.header.manager {
            manager::XACT => self.transaction_end(record),
            manager::TABLESPACE => {
                self.facts.tablespaces += 1;
                Ok(())
            }
            _ => self.log_record(record),
        };
        if read.is_err() {
            self.facts.not_understood += 1;
        }
    }

    fn transaction_end(&mut self, record: &Record<'_>) -> Result<(), MalformedRecord> {
        let header = &record.header;
        let Some((ending, prepared)) = xact::ending(header.info) else { return Ok(()) };
        let facts = &mut self.facts;
        match ending {
            Ending::Commit => facts.commits += 1,
            Ending::Abort => facts.aborts += 1,
        }
        let main = record.parts(|_| ())?.main;
        // The time comes first: known even when so many subtransactions follow that they were not kept.
        if let Some(time) = xact::time(main) {
            let (first, last) = self.times.unwrap_or((time, time));
            self.times = Some((first.min(time), last.max(time)));
        }
        let end = if prepared {
            let end = xact::parse(main, header.info, ending, record.version)?;
            end.prepared_xid.unwrap_or(header.xid)
        } else {
            header.xid
        };
        if end != 0 {
            facts.xid_min =
                Some(facts.xid_min.map_or(end, |oldest| if is_before(end, oldest) { end } else { oldest }));
            facts.xid_max =
                Some(facts.xid_max.map_or(end, |newest| if is_before(newest, end) { end } else { newest }));
        }
        Ok(())
    }

    fn log_record(&mut self, record: &Record<'_>) -> Result<(), MalformedRecord> {
        let main = record.parts(|_| ())?.main;
        let operation = record.header.operation();
        let short = MalformedRecord("its main data is too short");
        match operation {
            xlog::CHECKPOINT_SHUTDOWN | xlog::CHECKPOINT_ONLINE => {
                let found = xlog::checkpoint(main).ok_or(short)?;
                let shutdown = operation == xlog::CHECKPOINT_SHUTDOWN;
                let fact = CheckpointFact { lsn: record.at, redo: found.redo, shutdown };
                self.facts.checkpoints += 1;
                self.facts.first_checkpoint.get_or_insert(fact);
                self.facts.last_checkpoint = Some(fact);
                if shutdown && found.timeline != found.previous {
                    self.timeline_switch(record.at, found.previous, found.timeline, None);
                }
            }
            xlog::END_OF_RECOVERY => {
                let (time, to, from) = xlog::end_of_recovery(main).ok_or(short)?;
                self.timeline_switch(record.at, from, to, Some(time));
            }
            xlog::PARAMETER_CHANGE => {
                let number = xlog::parameter_change(main).ok_or(short)?;
                let level = WalLevel::from_number(number);
                let level = level.ok_or(MalformedRecord("it names an unknown wal_level"))?;
                let change = WalLevelChange { lsn: record.at, level };
                self.facts.truncated |= !push(&mut self.facts.wal_levels, change, MAX_CHANGES);
            }
            xlog::FPW_CHANGE if *main.first().ok_or(short)? == 0 => {
                self.facts.full_page_writes_off.get_or_insert(record.at);
            }
            xlog::RESTORE_POINT => {
                let (time, name) = xlog::restore_point(main).ok_or(short)?;
                let point = RestorePoint { name, lsn: record.end, time: timestamp(time) };
                self.facts.truncated |= !push(&mut self.facts.restore_points, point, MAX_RESTORE_POINTS);
            }
            xlog::OVERWRITE_CONTRECORD => {
                let lsn = xlog::overwritten(main).ok_or(short)?;
                self.facts.truncated |= !push(&mut self.facts.overwritten, lsn, MAX_CHANGES);
            }
            _ => {}
        }
        Ok(())
    }

    fn timeline_switch(&mut self, lsn: Lsn, from: TimelineId, to: TimelineId, time: Option<i64>) {
        // The end of a crash recovery stays on its timeline.
        if from != to {
            let switch = TimelineSwitch { lsn, from, to, time: time.and_then(timestamp) };
            self.facts.truncated |= !push(&mut self.facts.timeline_switches, switch, MAX_CHANGES);
        }
    }
}

/// Appends unless the list is full; `false` when it is.
fn push<T>(list: &mut Vec<T>, item: T, limit: usize) -> bool {
    let room = list.len() < limit;
    if room {
        list.push(item);
    }
    room
}

/// Is transaction id `a` older than `b`? Ids go round: each has 2 billion before it and 2 billion behind.
const fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_ids_go_round() {
        assert!(is_before(3, 4) && !is_before(4, 3) && !is_before(4, 4));
        assert!(is_before(u32::MAX, 3), "after the wrap-around");
    }

    #[test]
    fn lists_stop_at_their_limit() {
        let mut list = vec![1, 2];
        assert!(push(&mut list, 3, 3));
        assert!(!push(&mut list, 4, 3));
        assert_eq!(list, [1, 2, 3]);
    }
}
