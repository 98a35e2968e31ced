//! A cluster's past in a few numbers, and slow, obvious answers to the questions that plans answer fast.
//!
//! WAL segments have 1 MiB. In segment `n` transaction `n` ends 10 `n` seconds after the beginning, and the segment is
//! stored 5 seconds later. A backup in segment `n` ends 5 seconds before that transaction, at offset 0x10000.

use std::collections::BTreeMap;

use proptest::test_runner::TestCaseError;
use refloat_pg::history::TimelineHistory;
use refloat_pg::wal::{RestorePoint, WalFacts};
use refloat_repo::RepoError;
use refloat_repo::commit::{BackupType, ClusterPoint, Commit, CommitRecord, Sizes};
use refloat_types::{
    BackupId, Lsn, ObjectId, SourceId, SystemIdentifier, TimelineId, Timestamp, WalSegmentName,
    WalSegmentSize,
};

use crate::pitr::{
    ArchivedWal, Event, Plan, Request, SegmentHead, Situation, Target, TargetError, What, resolve,
};
use crate::wal::archive::History;
use crate::wal::facts::TailFact;
use crate::wal::{Archive, SegmentFacts, TimelineArchive};

pub(super) const SEGMENT: WalSegmentSize = WalSegmentSize::new(1 << 20).unwrap();
const SYSTEM: SystemIdentifier = SystemIdentifier(7);

pub(super) fn tli(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

/// Seconds after the beginning.
pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_704_067_200 + seconds).unwrap()
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Fork {
    pub(super) timeline: u32,
    pub(super) parent: u32,
    pub(super) at: Lsn,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Backup {
    pub(super) timeline: u32,
    pub(super) segment: u64,
    pub(super) own_wal: bool,
}

impl Backup {
    fn start(self) -> Lsn {
        Lsn((self.segment << 20) + 0x28)
    }
    fn stop(self) -> Lsn {
        Lsn((self.segment << 20) + 0x1_0000)
    }
    fn stop_time(self) -> Timestamp {
        at(self.segment as i64 * 10 - 5)
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct World {
    /// WAL segments stored, by timeline.
    pub(super) segments: Vec<(u32, Vec<u64>)>,
    /// Stored twice.
    pub(super) disputed: Vec<(u32, u64)>,
    /// No transaction ends in them.
    pub(super) quiet: Vec<(u32, u64)>,
    /// Transaction 1000 + n ends across the end of segment n, 9 seconds after the segment's first moment.
    pub(super) across: Vec<(u32, u64)>,
    pub(super) forks: Vec<Fork>,
    pub(super) backups: Vec<Backup>,
    /// Restore points at the end of a segment.
    pub(super) names: Vec<(String, u64)>,
    pub(super) owner: Option<u32>,
    /// A transaction is prepared in these segments, 3 seconds after their first moment and before all that ends there.
    pub(super) prepared: Vec<(u32, u64)>,
    /// A tablespace in `/n` is made in segment n, before all else; or across its end.
    pub(super) tablespaces: Vec<(u64, bool)>,
}

impl World {
    /// Parent and fork of each timeline on the way to this one, newest first.
    fn chain(&self, timeline: u32) -> Vec<(u32, Lsn)> {
        let mut chain = Vec::new();
        let mut at = timeline;
        while let Some(fork) = self.forks.iter().find(|fork| fork.timeline == at) {
            chain.push((at, fork.at));
            at = fork.parent;
        }
        chain.push((at, Lsn(0)));
        chain
    }

    fn history(&self, timeline: u32) -> TimelineHistory {
        let mut chain = self.chain(timeline);
        chain.reverse();
        let mut history = TimelineHistory::without_parent(tli(chain[0].0));
        for (next, at) in &chain[1..] {
            history = history.forked(tli(*next), *at, "").unwrap();
        }
        history
    }

    pub(super) fn archive(&self) -> Archive {
        let mut timelines: BTreeMap<TimelineId, TimelineArchive> = BTreeMap::new();
        for (timeline, numbers) in &self.segments {
            let stored = timelines.entry(tli(*timeline)).or_default();
            for number in numbers {
                stored.segments.insert(*number);
                if self.disputed.contains(&(*timeline, *number)) {
                    stored.disputed.insert(*number);
                }
            }
            if self.forks.iter().any(|fork| fork.timeline == *timeline) {
                stored.history = History::Known(self.history(*timeline));
            }
        }
        Archive { system: SYSTEM, segment_size: SEGMENT, timelines }
    }

    pub(super) fn commits(&self) -> Vec<CommitRecord> {
        let commit = |(backup, number): (&Backup, u64)| Commit {
            source: SourceId::NONE,
            backup: BackupId::from_random([number as u8; 8]),
            number,
            kind: BackupType::Full,
            parent: None,
            started: backup.stop_time(),
            finished: backup.stop_time(),
            cluster: ClusterPoint {
                system: SYSTEM,
                timeline: tli(backup.timeline),
                start_lsn: backup.start(),
                stop_lsn: backup.stop(),
                start_time: at(backup.segment as i64 * 10 - 8),
                stop_time: backup.stop_time(),
                wal_segment_size: 1 << 20,
                server_version: 150_000,
                checksums: true,
                standby: false,
                stop_record: None,
            },
            sizes: Sizes::default(),
            keys: Vec::new(),
            root: serde_json::from_value(root_json()).unwrap(),
            own_wal: backup.own_wal,
            bad_pages: 0,
        };
        let record = |commit| CommitRecord { commit, packs: [].into(), agent: ObjectId::NONE };
        self.backups.iter().zip(1..).map(commit).map(record).collect()
    }

    pub(super) fn situation<'a>(
        &'a self,
        archive: &'a Archive,
        commits: &'a [CommitRecord],
    ) -> Situation<'a> {
        Situation { archive, commits, owner: None, wal: self }
    }

    pub(super) fn ask(&self, request: &Request) -> Result<Plan, TargetError> {
        let (archive, commits) = (self.archive(), self.commits());
        let owner = self.owner.map(|timeline| refloat_repo::repository::OwnerRecord {
            source: SourceId::NONE,
            number: 1,
            at: at(0),
            system: SYSTEM,
            timeline: tli(timeline),
            fork_lsn: None,
            restored_from: None,
        });
        resolve(&Situation { owner: owner.as_ref(), ..self.situation(&archive, &commits) }, request)
    }

    fn has_commit(&self, timeline: u32, number: u64) -> bool {
        !self.quiet.contains(&(timeline, number))
    }

    /// Times and ids of transactions that end in a file, or across its end when its successor is replayed too.
    fn ends(&self, timeline: u32, number: u64, has_next: bool) -> Vec<(u64, Timestamp)> {
        let own = self.has_commit(timeline, number).then(|| (number, at(number as i64 * 10)));
        let crosses = has_next && self.across.contains(&(timeline, number));
        let across = crosses.then(|| (1000 + number, at(number as i64 * 10 - 1)));
        let after = (crosses && own.is_some()).then(|| (1000 + number, at(number as i64 * 10 + 1)));
        own.into_iter().chain(after.or(across)).collect()
    }

    /// Which file holds segment `number` on the way to `timeline`, and whether it can be used.
    fn file(&self, timeline: TimelineId, number: u64) -> (u32, bool) {
        let chain = self.chain(timeline.get());
        // A timeline that was left before it began has no WAL in this history.
        let mut end = Lsn(u64::MAX);
        let of = chain
            .iter()
            .find(|(_, begin)| {
                let lives = *begin < end;
                end = end.min(*begin);
                lives && begin.0 >> 20 <= number
            })
            .unwrap()
            .0;
        let stored = self.segments.iter().any(|(t, numbers)| *t == of && numbers.contains(&number));
        (of, stored && !self.disputed.contains(&(of, number)))
    }

    fn is_on_the_way(&self, backup: Backup, timeline: TimelineId) -> bool {
        let chain = self.chain(timeline.get());
        let Some(place) = chain.iter().position(|(t, _)| *t == backup.timeline) else { return false };
        let left = chain[..place].iter().map(|(_, begin)| *begin).min().unwrap_or(Lsn(u64::MAX));
        let began = chain[place].1;
        backup.start() >= began && backup.start() < left && backup.stop() <= left
    }

    /// The last segment without a gap from a backup's start.
    pub(super) fn naive_end(&self, backup: usize, timeline: TimelineId) -> Option<u64> {
        let first = self.backups[backup].segment;
        (first..30).take_while(|n| self.file(timeline, *n).1).last()
    }

    /// Whether anything on the way behind segment `last` is stored.
    fn goes_on(&self, timeline: TimelineId, last: u64) -> bool {
        (last + 1..30).any(|n| {
            let (of, _) = self.file(timeline, n);
            self.segments.iter().any(|(t, numbers)| *t == of && numbers.contains(&n))
        })
    }

    /// Whether this backup can reach the target along this timeline.
    pub(super) fn can_reach(&self, backup: usize, timeline: TimelineId, request: &Request) -> bool {
        let one = self.backups[backup];
        if !self.is_on_the_way(one, timeline) {
            return false;
        }
        let end = self.naive_end(backup, timeline);
        let Some(end) = end else {
            let stops_there = match &request.target {
                Target::Immediate => true,
                Target::Latest => !self.goes_on(timeline, one.segment - 1),
                Target::Time(time) => *time == one.stop_time(),
                Target::Lsn(lsn) => *lsn == one.stop(),
                Target::Xid(_) | Target::Name(_) => false,
            };
            return one.own_wal && stops_there;
        };
        let all: Vec<(u64, Timestamp)> =
            (one.segment..=end).flat_map(|n| self.ends(self.file(timeline, n).0, n, n < end)).collect();
        match &request.target {
            Target::Immediate => true,
            Target::Latest => !self.goes_on(timeline, end),
            Target::Time(time) => {
                let stops = all.iter().any(|(_, t)| if request.exclusive { t >= time } else { t > time });
                let alive = all.iter().map(|(_, t)| *t).max().max(Some(at(end as i64 * 10 + 5)));
                *time >= one.stop_time() && (stops || (!self.goes_on(timeline, end) && Some(*time) <= alive))
            }
            Target::Lsn(lsn) => {
                let last = self.last_record(self.file(timeline, end).0, end);
                let whole = Lsn((end + 1) << 20);
                *lsn >= one.stop()
                    && (*lsn <= last
                        || (!self.goes_on(timeline, end)
                            && *lsn <= whole
                            && self.tail(self.file(timeline, end).0, end).is_none()))
            }
            Target::Xid(xid) => all.iter().any(|(id, _)| id == xid),
            Target::Name(_) => false,
        }
    }

    pub(super) fn check_plan(&self, request: &Request, plan: &Plan) -> Result<(), TestCaseError> {
        let check = |held: bool, what: &str| {
            if held { Ok(()) } else { Err(TestCaseError::fail(format!("{what}: {plan:?}"))) }
        };
        let index = plan.backup.commit.number as usize - 1;
        let backup = self.backups[index];
        check(self.is_on_the_way(backup, plan.timeline), "the backup is not on the way")?;
        check(self.can_reach(index, plan.timeline, request), "this backup cannot reach it")?;
        for newer in index + 1..self.backups.len() {
            check(!self.can_reach(newer, plan.timeline, request), "a newer backup can")?;
        }
        let Some(wal) = &plan.wal else {
            return check(backup.own_wal, "no WAL, and none in the backup");
        };
        check(wal.first.number(SEGMENT) == backup.segment, "WAL begins elsewhere")?;
        let last = wal.last.number(SEGMENT);
        for number in backup.segment..=last {
            check(self.file(plan.timeline, number).1, "there is a gap")?;
        }
        check(tli(self.file(plan.timeline, last).0) == wal.last.timeline, "another file ends it")?;
        let ends = |upto: u64| {
            (backup.segment..=upto)
                .flat_map(|n| self.ends(self.file(plan.timeline, n).0, n, n < upto))
                .collect::<Vec<_>>()
        };
        check(self.naive_stop(backup, plan, request) == plan.stop_lsn, "it stops elsewhere")?;
        check(plan.stop_lsn.is_none_or(|stop| stop >= backup.stop()), "it stops before it is consistent")?;
        match &plan.target {
            Target::Latest => check(!self.goes_on(plan.timeline, last), "it goes on"),
            Target::Immediate => Ok(()),
            Target::Time(time) => {
                let behind = |t: &Timestamp| if request.exclusive { t >= time } else { t > time };
                check(ends(last).iter().any(|(_, t)| behind(t)), "nothing stops it")
            }
            Target::Lsn(lsn) => check(*lsn <= Lsn((last + 1) << 20), "it ends before"),
            Target::Xid(xid) => check(ends(last).iter().any(|(id, _)| id == xid), "not in it"),
            Target::Name(_) => Ok(()),
        }
    }

    /// Replays the records behind the backup one by one, to the last one that may be shown.
    fn naive_stop(&self, backup: Backup, plan: &Plan, request: &Request) -> Option<Lsn> {
        let last = self.naive_end(plan.backup.commit.number as usize - 1, plan.timeline)?;
        // All that there is, and nothing that comes later: to its last record, or the last one that may be shown.
        let so_far =
            plan.target == Target::Latest && matches!(request.target, Target::Time(_) | Target::Lsn(_));
        let (ending, _) = self.file(plan.timeline, last);
        if so_far && self.tail(ending, last).is_none() {
            return Some(self.last_record(ending, last));
        }
        let mut stop = None;
        for number in backup.segment..=last {
            let (timeline, _) = self.file(plan.timeline, number);
            let crossing = (number < last).then(|| self.crossing(timeline, number)).flatten();
            for event in self.records(timeline, number).into_iter().chain(crossing) {
                let time = event.time.unwrap();
                let behind = match &plan.target {
                    Target::Time(at) => time > *at || (request.exclusive && time == *at),
                    Target::Xid(xid) if request.exclusive => event.ends(*xid as u32),
                    Target::Latest if so_far => false,
                    _ => return None,
                };
                match event.what {
                    _ if event.at < backup.stop() => {}
                    What::TransactionEnd { .. } if behind => return stop,
                    What::Prepare { .. } if behind => {}
                    _ => stop = Some(event.at),
                }
            }
        }
        stop.filter(|_| so_far)
    }

    /// What ends or is prepared in a file.
    fn records(&self, timeline: u32, number: u64) -> Vec<Event> {
        let event = |offset: u64, seconds: i64, what| Event {
            at: Lsn((number << 20) + offset),
            end: Lsn((number << 20) + offset + 0x30),
            time: Some(at(number as i64 * 10 + seconds)),
            what,
        };
        let prepared = self.prepared.contains(&(timeline, number));
        let prepared = prepared.then(|| event(0x7_0000, -7, What::Prepare { xid: 2000 + number as u32 }));
        let ended = self.has_commit(timeline, number);
        let ended = ended.then(|| event(0x8_0000, 0, What::TransactionEnd { xid: number as u32 }));
        prepared.into_iter().chain(ended).collect()
    }

    /// The tablespace that is made in a file, or across its end.
    fn made(&self, number: u64, across: bool) -> Option<Event> {
        let at = Lsn((number << 20) + if across { 0xF_FFF0 } else { 0x4_0000 });
        let what = What::Tablespace { path: format!("/{number}").into() };
        let made = self.tablespaces.contains(&(number, across));
        made.then_some(Event { at, end: at.plus(0x70), time: None, what })
    }

    fn crossing(&self, timeline: u32, number: u64) -> Option<Event> {
        let (xid, time) = self.ends(timeline, number, true).into_iter().find(|(xid, _)| *xid > 1000)?;
        Some(Event {
            at: Lsn((number << 20) + 0xF_FFF0),
            end: Lsn(((number + 1) << 20) + 0x50),
            time: Some(time),
            what: What::TransactionEnd { xid: xid as u32 },
        })
    }

    fn tail(&self, timeline: u32, number: u64) -> Option<TailFact> {
        let crosses = self.across.contains(&(timeline, number)) || self.made(number, true).is_some();
        let lsn = Lsn((number << 20) + 0xF_FFF0);
        crosses.then_some(TailFact { lsn, xid: 1000 + number as u32, kind: None })
    }

    fn last_record(&self, timeline: u32, number: u64) -> Lsn {
        match self.tail(timeline, number) {
            // Not known; what is before the end of the last whole record is reached.
            Some(tail) => Lsn(tail.lsn.0 - 1),
            None => Lsn((number << 20) + 0xF_FF00),
        }
    }
}

impl ArchivedWal for World {
    fn head(&self, name: WalSegmentName) -> Result<SegmentHead, RepoError> {
        let (timeline, number) = (name.timeline.get(), name.number(SEGMENT));
        let stored = self.segments.iter().any(|(t, numbers)| *t == timeline && numbers.contains(&number));
        if !stored || self.disputed.contains(&(timeline, number)) {
            return Err(RepoError::Missing { object: name.to_string() });
        }
        let tail = self.tail(timeline, number);
        let commit = self.has_commit(timeline, number);
        let xid = commit.then_some(number as u32);
        let wal = WalFacts {
            last_record: Some(tail.map_or(self.last_record(timeline, number), |tail| tail.lsn)),
            last_record_end: Some(tail.map_or(Lsn((number + 1) << 20), |tail| tail.lsn)),
            unfinished_tail: tail.map(|tail| tail.lsn),
            last_commit: commit.then(|| at(number as i64 * 10)),
            xid_min: xid,
            xid_max: xid,
            tablespaces: u64::from(self.made(number, false).is_some()),
            ..WalFacts::default()
        };
        let facts = SegmentFacts {
            magic: 0xD110,
            version: Some(15),
            segment_size: 1 << 20,
            valid_bytes: 1 << 20,
            restore_points: self.names.iter().filter(|(_, n)| *n == number).count() as u64,
            tail,
            wal,
        };
        Ok(SegmentHead { name, stored: at(number as i64 * 10 + 5), facts })
    }

    fn restore_points(&self, name: WalSegmentName) -> Result<Vec<RestorePoint>, RepoError> {
        let number = name.number(SEGMENT);
        let point = |name: &String| RestorePoint {
            name: name.clone(),
            lsn: Lsn((number << 20) + 0xF_0000),
            time: None,
        };
        Ok(self.names.iter().filter(|(_, n)| *n == number).map(|(name, _)| point(name)).collect())
    }

    fn events(&self, name: WalSegmentName) -> Result<Vec<Event>, RepoError> {
        let (timeline, number) = (name.timeline.get(), name.number(SEGMENT));
        Ok(self.made(number, false).into_iter().chain(self.records(timeline, number)).collect())
    }

    fn boundary(&self, head: &SegmentHead, next: WalSegmentName) -> Result<Option<Event>, RepoError> {
        assert_eq!(next.number(SEGMENT), head.name.number(SEGMENT) + 1);
        let (timeline, number) = (head.name.timeline.get(), head.name.number(SEGMENT));
        Ok(self.made(number, true).or_else(|| self.crossing(timeline, number)))
    }
}

fn root_json() -> serde_json::Value {
    serde_json::json!({ "frames": [], "digest": "00".repeat(32) })
}
