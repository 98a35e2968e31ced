//! From a target to a plan: the newest backup that can reach it along the right timeline.
//!
//! PostgreSQL stops at the first record that lies behind the target, and fails when there is none ("recovery ended
//! before configured recovery target was reached"), after hours of replay. So a plan is made only when that record is
//! known to be archived; a time behind the last transaction becomes `latest`, which reaches the same state.

use refloat_repo::RepoError;
use refloat_repo::commit::CommitRecord;
use refloat_types::{Lsn, TimelineId, Timestamp};

use super::events::Event;
use super::path::Path;
use super::reach::{self, Gap, Reached, Stretch};
use super::search::Searched;
use super::stop::Edge;
use super::window::{self, Ground};
use super::{Plan, Request, Situation, Target, TargetError, WalNeeded, timeline};
use crate::wal::archive::Missing;

/// Finds how `request` can be met.
///
/// # Errors
/// Why it cannot, with the windows of all backups. Nothing was written.
pub fn resolve(situation: &Situation<'_>, request: &Request) -> Result<Plan, TargetError> {
    let mut backups = window::of_system(situation);
    if backups.is_empty() {
        return Err(TargetError::NoBackup { system: situation.archive.system });
    }
    if let Some(id) = request.backup {
        backups.retain(|record| record.commit.backup == id);
        if backups.is_empty() {
            return Err(TargetError::UnknownBackup { backup: id });
        }
    }
    backups.sort_by_key(|record| std::cmp::Reverse(record.commit.number));
    let chosen = timeline::choose(situation, request.timeline, &backups)?;
    let question = Question { situation, request, path: &chosen.path };
    let mut plan = question.answer(&backups)?;
    plan.notes.splice(0..0, chosen.notes);
    Ok(plan)
}

struct Question<'a> {
    situation: &'a Situation<'a>,
    request: &'a Request,
    path: &'a Path,
}

/// What stands against one backup.
enum No {
    /// The target lies before its end.
    TooEarly,
    /// The target lies behind what is archived.
    TooLate,
    /// Something is missing on the way.
    Gap(Gap),
    /// It cannot become consistent.
    Inconsistent,
    /// No such transaction or name behind it.
    NotFound,
    /// Not known.
    Error(TargetError),
}

impl<E: Into<TargetError>> From<E> for No {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// What one backup can do for the target.
struct Way {
    target: Target,
    /// The record to stop behind, where that is not told by the target itself.
    stop: Option<Lsn>,
    /// Last WAL segment that is replayed; `None`: the backup's own WAL is enough.
    last: Option<u64>,
    reaches: Reached,
    note: Option<String>,
}

impl Question<'_> {
    fn answer(&self, backups: &[&CommitRecord]) -> Result<Plan, TargetError> {
        let mut first_no = None;
        let mut on_path = false;
        // Behind a transaction or a name is searched once: what lies behind a newer backup was searched already.
        let mut searched_from = None;
        for record in backups {
            if !self.path.holds(&record.commit.cluster) {
                continue;
            }
            on_path = true;
            let ground = window::ground(self.situation, self.path, &record.commit);
            match self.way(record, &ground, searched_from) {
                Ok(way) => return Ok(self.plan(record, way)?),
                Err(No::Error(error)) => return Err(error),
                Err(no) => {
                    if matches!(no, No::NotFound | No::TooEarly) {
                        searched_from = Some(self.situation.archive.number(record.commit.cluster.stop_lsn));
                    }
                    first_no = Some(match (first_no, no) {
                        // The newest backup's reason is the one that matters, unless it merely is too new.
                        (None | Some(No::TooEarly), no) => no,
                        (Some(first), _) => first,
                    });
                }
            }
        }
        let windows = window::windows(self.situation)?;
        let (target, backup) = (self.request.target.to_string(), self.request.backup);
        Err(match first_no {
            _ if !on_path => TargetError::NotOnTimeline { backup, timeline: self.path.timeline(), windows },
            None | Some(No::TooEarly) => TargetError::TooEarly { target, backup, windows },
            Some(No::TooLate) => TargetError::TooLate { target, windows },
            Some(No::Gap(gap)) => TargetError::Gap { target, gap, windows },
            Some(No::NotFound) => TargetError::NotFound { target, backup, windows },
            Some(No::Error(error)) => error,
            Some(No::Inconsistent) => {
                let record = backups.iter().find(|record| self.path.holds(&record.commit.cluster));
                let record = record.expect("a backup on the path was refused");
                let missing = self.missing(record);
                TargetError::Inconsistent { backup: record.commit.backup, missing, windows }
            }
        })
    }

    fn missing(&self, record: &CommitRecord) -> Missing {
        let point = &record.commit.cluster;
        let found = self.situation.archive.contains(point.start_lsn, point.stop_lsn, point.timeline);
        found.err().unwrap_or(Missing { segments: Vec::new(), disputed: Vec::new() })
    }

    fn way(&self, record: &CommitRecord, ground: &Ground, searched_from: Option<u64>) -> Result<Way, No> {
        let point = &record.commit.cluster;
        if !ground.usable {
            return Err(No::Inconsistent);
        }
        match &self.request.target {
            Target::Immediate => Ok(self.immediate(record, ground, None)),
            Target::Latest => self.latest(record, ground),
            Target::Time(time) if *time < point.stop_time => Err(No::TooEarly),
            Target::Time(time) => self.time(record, ground, *time),
            Target::Lsn(lsn) if *lsn < point.stop_lsn => Err(No::TooEarly),
            Target::Lsn(lsn) => self.lsn(record, ground, *lsn),
            Target::Xid(xid) => self.xid(record, ground, *xid, searched_from),
            Target::Name(name) => self.name(record, ground, name, searched_from),
        }
    }

    /// The archived WAL that continues a backup, and where it ends.
    fn archived(&self, record: &CommitRecord, ground: &Ground) -> Result<Option<(Stretch, Reached)>, No> {
        let Some(stretch) = ground.stretch.filter(|_| ground.archived) else { return Ok(None) };
        let Situation { archive, wal, .. } = *self.situation;
        let lowest = archive.number(record.commit.cluster.stop_lsn);
        let reached = reach::reached(archive, self.path, wal, &stretch, lowest)?;
        Ok(Some((stretch, reached)))
    }

    fn immediate(&self, record: &CommitRecord, ground: &Ground, note: Option<String>) -> Way {
        let commit = &record.commit;
        let point = &commit.cluster;
        let last = window::last_of_backup(self.situation.archive, point.start_lsn, point.stop_lsn);
        let reaches = Reached {
            lsn: point.stop_lsn,
            last_record: None,
            timeline: point.timeline,
            last_commit: None,
            alive: Some(point.stop_time),
        };
        let last = (ground.archived && !commit.own_wal).then_some(last);
        Way { target: Target::Immediate, stop: None, last, reaches, note }
    }

    fn latest(&self, record: &CommitRecord, ground: &Ground) -> Result<Way, No> {
        if let Some(gap) = ground.gap {
            return Err(No::Gap(gap));
        }
        match self.archived(record, ground)? {
            Some((stretch, reaches)) => {
                Ok(Way { target: Target::Latest, stop: None, last: Some(stretch.last), reaches, note: None })
            }
            None => {
                let note = "No WAL behind this backup is archived: it is restored as it was at its end.";
                Ok(self.immediate(record, ground, Some(note.to_owned())))
            }
        }
    }

    /// What is said of a target behind the end of what can be replayed.
    fn beyond(ground: &Ground) -> No {
        ground.gap.map_or(No::TooLate, No::Gap)
    }

    fn time(&self, record: &CommitRecord, ground: &Ground, time: Timestamp) -> Result<Way, No> {
        let Some((stretch, reaches)) = self.archived(record, ground)? else {
            return if time == record.commit.cluster.stop_time {
                Ok(self.immediate(record, ground, None))
            } else {
                Err(Self::beyond(ground))
            };
        };
        let exclusive = self.request.exclusive;
        let behind = move |at: Timestamp| if exclusive { at >= time } else { at > time };
        if reaches.last_commit.is_some_and(behind) {
            return self.within(record, &stretch, time, &behind);
        }
        if ground.gap.is_some() || reaches.alive.is_none_or(|alive| time > alive) {
            return Err(Self::beyond(ground));
        }
        let nothing = match reaches.last_commit {
            Some(last) => format!("No transaction is archived that ended after {last}"),
            None => "No transaction is archived that ended behind the backup".to_owned(),
        };
        let note = format!("{nothing}: everything archived is replayed, which is the state at {time}");
        Ok(self.so_far(record, &stretch, reaches, note))
    }

    /// Everything that is archived by now. What is archived later, before the server starts or while it replays, is behind the
    /// target: so recovery stops at the last record that is there, where that can be named.
    fn so_far(&self, record: &CommitRecord, stretch: &Stretch, reaches: Reached, note: String) -> Way {
        let from = record.commit.cluster.stop_lsn;
        let last_promise = || {
            let searched = self.searched(self.situation.archive.number(from).min(stretch.last), stretch);
            let found = searched.last_before(&Edge { behind: &|_| false, from }, reaches.lsn);
            found.ok().flatten().map(|event| event.at)
        };
        let stop = reaches.last_record.filter(|last| *last >= from).or_else(last_promise);
        let later = match stop {
            Some(_) => "nothing that is archived from now on is",
            None => "what is archived before it is started is too",
        };
        let note = Some(format!("{note}; {later}."));
        Way { target: Target::Latest, stop, last: Some(stretch.last), reaches, note }
    }

    /// A time that a transaction is known to end behind.
    fn within(
        &self,
        record: &CommitRecord,
        stretch: &Stretch,
        time: Timestamp,
        behind: &dyn Fn(Timestamp) -> bool,
    ) -> Result<Way, No> {
        let edge = Edge { behind, from: record.commit.cluster.stop_lsn };
        let searched = self.searched(self.situation.archive.number(edge.from).min(stretch.last), stretch);
        let number = searched.first_behind(behind)?;
        let last = number + u64::from(searched.spans(number, behind)?);
        let end = self.situation.archive.name(self.path.file_of(last), last);
        let reaches = Reached {
            lsn: end.end(self.situation.archive.segment_size),
            last_record: None,
            timeline: end.timeline,
            last_commit: None,
            alive: Some(time),
        };
        let way = Way { target: Target::Time(time), stop: None, last: Some(last), reaches, note: None };
        let stop = searched.stopper(&edge, number).and_then(|stopper| match stopper {
            Some(stopper) => searched.last_before(&edge, stopper.at),
            None => Ok(None),
        });
        Ok(self.exactly(way, stop, stretch))
    }

    fn lsn(&self, record: &CommitRecord, ground: &Ground, lsn: Lsn) -> Result<Way, No> {
        let Some((stretch, reaches)) = self.archived(record, ground)? else {
            return if lsn == record.commit.cluster.stop_lsn {
                Ok(self.immediate(record, ground, None))
            } else {
                Err(Self::beyond(ground))
            };
        };
        let stops = match reaches.last_record {
            Some(last) => lsn <= last,
            None => lsn < reaches.lsn,
        };
        if stops {
            let last = self.situation.archive.number(lsn).clamp(stretch.first, stretch.last);
            let timeline = self.path.file_of(last);
            let reaches = Reached { lsn, last_record: None, timeline, last_commit: None, alive: None };
            return Ok(Way { target: Target::Lsn(lsn), stop: None, last: Some(last), reaches, note: None });
        }
        if lsn > reaches.lsn || ground.gap.is_some() {
            return Err(Self::beyond(ground));
        }
        let note = format!(
            "No record is archived that begins at {lsn} or behind it: everything archived is replayed, which ends at {}",
            reaches.lsn
        );
        Ok(self.so_far(record, &stretch, reaches, note))
    }

    fn searched(&self, first: u64, stretch: &Stretch) -> Searched<'_> {
        let Situation { archive, wal, .. } = *self.situation;
        Searched { archive, path: self.path, wal, first, end: stretch.last }
    }

    fn not_found(ground: &Ground) -> No {
        ground.gap.map_or(No::NotFound, No::Gap)
    }

    fn xid(
        &self,
        record: &CommitRecord,
        ground: &Ground,
        xid: u64,
        searched_from: Option<u64>,
    ) -> Result<Way, No> {
        let point = &record.commit.cluster;
        let Some(stretch) = ground.stretch.filter(|_| ground.archived) else {
            return Err(Self::not_found(ground));
        };
        // The upper half is the epoch, which WAL records do not carry.
        let low = (xid & u64::from(u32::MAX)) as u32;
        let searched = self.searched(self.situation.archive.number(point.start_lsn), &stretch);
        let to = searched_from.unwrap_or(u64::MAX);
        let Some(event) = searched.transaction(low, point.start_lsn, to)? else {
            return Err(Self::not_found(ground));
        };
        if event.at < point.stop_lsn {
            return Err(No::TooEarly);
        }
        let way = self.at(Target::Xid(xid), event.end, event.time, &stretch);
        if !self.request.exclusive {
            return Ok(way);
        }
        let edge = Edge { behind: &|_| false, from: point.stop_lsn };
        Ok(self.exactly(way, searched.last_before(&edge, event.at), &stretch))
    }

    /// The same way with an exact stop, where there is one. It is not worth refusing for: its lack is only told.
    fn exactly(&self, mut way: Way, stop: Result<Option<Event>, RepoError>, stretch: &Stretch) -> Way {
        let why = match stop {
            Ok(Some(event)) => {
                let ended = event.time.filter(|_| event.is_transaction_end());
                let reaches = self.at(way.target.clone(), event.end, ended, stretch).reaches;
                let alive = match way.target {
                    Target::Time(time) => Some(time),
                    _ => event.time,
                };
                way.reaches = Reached { last_record: Some(event.at), alive, ..reaches };
                way.stop = Some(event.at);
                return way;
            }
            Ok(None) => String::new(),
            Err(error) => format!(" (what comes before it could not be looked for: {error})"),
        };
        way.note = Some(format!(
            "Recovery stops just before the end of the next transaction{why}: tables that it locks may be locked while recovery is paused, and takeover releases them."
        ));
        way
    }

    fn name(
        &self,
        record: &CommitRecord,
        ground: &Ground,
        name: &str,
        searched_from: Option<u64>,
    ) -> Result<Way, No> {
        let point = &record.commit.cluster;
        let Some(stretch) = ground.stretch.filter(|_| ground.archived) else {
            return Err(Self::not_found(ground));
        };
        let searched = self.searched(self.situation.archive.number(point.start_lsn), &stretch);
        let to = searched_from.unwrap_or(u64::MAX);
        let Some(lsn) = searched.restore_point(name, point.start_lsn, to)? else {
            return Err(Self::not_found(ground));
        };
        if lsn <= point.stop_lsn {
            return Err(No::TooEarly);
        }
        Ok(self.at(Target::Name(name.to_owned()), lsn, None, &stretch))
    }

    /// A target whose record was found; it ends at `end`.
    fn at(&self, target: Target, end: Lsn, time: Option<Timestamp>, stretch: &Stretch) -> Way {
        let last = self.situation.archive.number(Lsn(end.0.saturating_sub(1)));
        let last = last.clamp(stretch.first, stretch.last);
        let timeline = self.path.file_of(last);
        let reaches = Reached { lsn: end, last_record: None, timeline, last_commit: time, alive: time };
        Way { target, stop: None, last: Some(last), reaches, note: None }
    }

    fn plan(&self, record: &CommitRecord, way: Way) -> Result<Plan, RepoError> {
        let archive = self.situation.archive;
        let first = archive.number(record.commit.cluster.start_lsn);
        let name = |number| archive.name(self.path.file_of(number), number);
        let wal = way.last.map(|last| {
            let segments = last.saturating_sub(first) + 1;
            let bytes = segments.saturating_mul(archive.segment_size.bytes());
            WalNeeded { first: name(first), last: name(last), segments, bytes }
        });
        let tablespaces = match way.last {
            Some(last) => {
                let Situation { archive, wal, .. } = *self.situation;
                let searched = Searched { archive, path: self.path, wal, first, end: last };
                searched.tablespaces(record.commit.cluster.start_lsn, way.reaches.lsn)?
            }
            None => Vec::new(),
        };
        let legs = self.path.legs(first);
        let last = way.last.unwrap_or(first);
        let timelines: Vec<TimelineId> =
            legs.iter().filter(|leg| leg.first <= last).map(|leg| leg.timeline).collect();
        Ok(Plan {
            backup: record.clone(),
            timeline: self.path.timeline(),
            timelines,
            target: way.target,
            exclusive: self.request.exclusive,
            stop_lsn: way.stop,
            wal,
            reaches: way.reaches,
            tablespaces,
            notes: way.note.into_iter().collect(),
        })
    }
}
