//! Whether the WAL that is stored follows itself: what is missing, which backups need that, which moments are lost. What
//! expired is not missing, but where a backup needs it.

use std::collections::{BTreeMap, BTreeSet};

use refloat_pg::history::TimelineHistory;
use refloat_repo::layout;
use refloat_types::{
    Lsn, SystemIdentifier, TimelineId, Timestamp, WalFileName, WalSegmentName, WalSegmentSize,
};

use super::backups::Known;
use super::report::{Depends, FindingKind, Grade, WalStretch, WalVerdict};
use super::run::Run;

/// How far to look for a commit time beside a hole.
const LOOK_ASIDE: usize = 64;

/// The holes between `first` and `last` in ascending `numbers`: first missing one, and the one behind the last missing.
pub(super) fn holes(first: u64, last: u64, numbers: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    let mut next = first;
    for number in numbers {
        if number > last {
            break;
        }
        if number > next {
            out.push((next, number));
        }
        next = next.max(number.saturating_add(1));
    }
    if next <= last {
        out.push((next, last.saturating_add(1)));
    }
    out
}

/// What is known of the WAL segments of one number.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Segment {
    /// How many different ones are stored.
    pub(super) copies: u32,
    /// The head of one can be believed.
    pub(super) good: bool,
    pub(super) first_commit: Option<Timestamp>,
    pub(super) last_commit: Option<Timestamp>,
}

/// One timeline.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) partials: BTreeSet<u64>,
    /// A history file is stored.
    pub(super) has_history: bool,
    pub(super) history: Option<TimelineHistory>,
}

impl Timeline {
    /// Whether the number lies between the first and the last that are stored.
    fn spans(&self, number: u64) -> bool {
        self.segments.range(..=number).next().is_some() && self.segments.range(number..).next().is_some()
    }
}

/// All WAL of a cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) size: WalSegmentSize,
    pub(super) timelines: BTreeMap<TimelineId, Timeline>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { size: WalSegmentSize::DEFAULT, timelines: BTreeMap::new() }
    }
}

impl Cluster {
    fn name(&self, timeline: TimelineId, number: u64) -> WalSegmentName {
        WalSegmentName::numbered(timeline, number, self.size)
    }
    pub(super) fn number(&self, lsn: Lsn) -> u64 {
        lsn.0 / self.size.bytes()
    }
    /// The WAL segments that make a backup consistent.
    fn needed(&self, backup: &Known) -> (u64, u64) {
        let cluster = &backup.record.commit.cluster;
        let last = Lsn(cluster.stop_lsn.0.saturating_sub(1)).max(cluster.start_lsn);
        (self.number(cluster.start_lsn), self.number(last))
    }

    fn stretch(&self, system: SystemIdentifier, timeline: TimelineId, first: u64, behind: u64) -> WalStretch {
        let segments = self.timelines.get(&timeline).map(|timeline| &timeline.segments);
        let before = segments.and_then(|segments| {
            segments.range(..first).rev().take(LOOK_ASIDE).find_map(|(_, segment)| segment.last_commit)
        });
        let after = segments.and_then(|segments| {
            segments.range(behind..).take(LOOK_ASIDE).find_map(|(_, segment)| segment.first_commit)
        });
        WalStretch {
            system,
            first: self.name(timeline, first).to_string(),
            last: self.name(timeline, behind.saturating_sub(1)).to_string(),
            count: behind.saturating_sub(first),
            after: before,
            before: after,
        }
    }

    /// What cannot be done without the WAL segments from `first` up to `behind`.
    pub(super) fn depends(
        &self,
        backups: &[Known],
        system: SystemIdentifier,
        timeline: TimelineId,
        (first, behind): (u64, u64),
    ) -> Depends {
        let mut depends =
            Depends { wal: vec![self.stretch(system, timeline, first, behind)], ..Depends::default() };
        for backup in backups.iter().filter(|backup| backup.record.commit.cluster.system == system) {
            let (from, to) = self.needed(backup);
            let commit = &backup.record.commit;
            if commit.cluster.timeline == timeline {
                if !commit.own_wal && first <= to && behind > from {
                    depends.backups.insert(backup.name.clone());
                } else if behind > from {
                    depends.recovery.insert(backup.name.clone());
                }
            } else if self.descends(timeline, backup) {
                depends.recovery.insert(backup.name.clone());
            }
        }
        depends
    }

    /// What cannot be done without a whole timeline, or without the file that says where it comes from.
    pub(super) fn depends_on_history(
        &self,
        backups: &[Known],
        system: SystemIdentifier,
        timeline: TimelineId,
    ) -> Depends {
        let segments = self.timelines.get(&timeline).map(|timeline| &timeline.segments);
        let ends = segments.and_then(|s| Some((*s.first_key_value()?.0, *s.last_key_value()?.0)));
        let mut depends = Depends::other(format!("recovery along timeline {timeline}"));
        if let Some((first, last)) = ends {
            depends.wal.push(self.stretch(system, timeline, first, last.saturating_add(1)));
        }
        let older = |backup: &&Known| {
            let cluster = &backup.record.commit.cluster;
            cluster.system == system && cluster.timeline < timeline
        };
        depends.recovery.extend(backups.iter().filter(older).map(|backup| backup.name.clone()));
        depends
    }

    /// Whether the WAL of `timeline` goes on from a backup that was taken on another one.
    fn descends(&self, timeline: TimelineId, backup: &Known) -> bool {
        let cluster = &backup.record.commit.cluster;
        let history = self.timelines.get(&timeline).and_then(|timeline| timeline.history.as_ref());
        let start = Lsn(cluster.stop_lsn.0.saturating_sub(1)).max(cluster.start_lsn);
        cluster.timeline < timeline
            && history.is_some_and(|history| history.contains(cluster.timeline, start))
    }
}

impl Run<'_> {
    /// Holes, contradictions, and what backups need. `needed_only` leaves out WAL that is there for recovery.
    pub(super) fn check_chains(&mut self) {
        let clusters = std::mem::take(&mut self.clusters);
        for (system, cluster) in &clusters {
            for timeline in cluster.timelines.keys() {
                self.check_timeline(*system, cluster, *timeline);
            }
        }
        self.check_needed(&clusters);
        self.clusters = clusters;
    }

    fn check_timeline(&mut self, system: SystemIdentifier, cluster: &Cluster, id: TimelineId) {
        let Some(timeline) = cluster.timelines.get(&id) else { return };
        let numbers = timeline.segments.keys().copied();
        let ends =
            timeline.segments.keys().next().copied().zip(timeline.segments.keys().next_back().copied());
        let mut missing = 0;
        if let Some((first, last)) = ends {
            // A timeline that another one left must reach to where it was left.
            let last = last.max(self.left_at(cluster, id).unwrap_or(0));
            let lost = holes(first, last, numbers).into_iter().flat_map(|(first, behind)| {
                self.marked.other_wal(system, id, first, behind.saturating_sub(1))
            });
            for hole in lost.map(|(first, last)| (first, last + 1)).collect::<Vec<_>>() {
                missing += hole.1 - hole.0;
                self.report_hole(system, cluster, id, hole);
            }
        }
        for (number, segment) in timeline.segments.iter().filter(|(_, segment)| segment.copies > 1) {
            let name = cluster.name(id, *number);
            let what =
                format!("{} WAL segments of this name with different bytes are stored", segment.copies);
            let object = begin_of_key(system, WalFileName::Segment(name));
            let depends = cluster.depends(&self.backups, system, id, (*number, number + 1));
            let finding = self.ledger.add(FindingKind::Conflict, object, what);
            finding.depends.merge(depends);
            finding.grade = Grade::Damage;
        }
        if id != TimelineId::FIRST && !timeline.has_history {
            self.report_no_history(system, cluster, id);
        }
        self.wal_verdicts.push(WalVerdict {
            system,
            timeline: id.get(),
            first: ends.map(|(first, _)| cluster.name(id, first).to_string()),
            last: ends.map(|(_, last)| cluster.name(id, last).to_string()),
            end: ends.map(|(_, last)| cluster.name(id, last).end(cluster.size)),
            segments: timeline.segments.len() as u64,
            missing,
            first_commit: timeline.segments.values().find_map(|segment| segment.first_commit),
            last_commit: timeline
                .segments
                .values()
                .rev()
                .take(LOOK_ASIDE)
                .find_map(|segment| segment.last_commit),
        });
    }

    /// The last WAL segment that must be whole because a later timeline began behind it.
    fn left_at(&self, cluster: &Cluster, id: TimelineId) -> Option<u64> {
        let forks = cluster.timelines.values().filter_map(|timeline| timeline.history.as_ref());
        let forks = forks.flat_map(|history| history.forks()).filter(|fork| fork.timeline == id);
        // The WAL segment of the fork itself is copied to the new timeline.
        forks.filter_map(|fork| cluster.number(fork.at).checked_sub(1)).max()
    }

    fn report_hole(&mut self, system: SystemIdentifier, cluster: &Cluster, id: TimelineId, hole: (u64, u64)) {
        let object = begin_of_key(system, WalFileName::Segment(cluster.name(id, hole.0)));
        let depends = cluster.depends(&self.backups, system, id, hole);
        let what = match hole.1 - hole.0 {
            1 => "this WAL segment is not stored".to_owned(),
            count => {
                let last = cluster.name(id, hole.1 - 1);
                format!("{count} WAL segments, up to {last}, are not stored")
            }
        };
        let nobody = depends.backups.is_empty() && depends.recovery.is_empty();
        let finding = self.ledger.add(FindingKind::Gap, object, what);
        finding.depends.merge(depends);
        if nobody {
            finding.grade = Grade::Note;
            finding.depends.merge(Depends::other("no backup that was looked at"));
        }
        self.ledger.missing += hole.1 - hole.0;
    }

    fn report_no_history(&mut self, system: SystemIdentifier, cluster: &Cluster, id: TimelineId) {
        let object = begin_of_key(system, WalFileName::History(id));
        let depends = cluster.depends_on_history(&self.backups, system, id);
        let has_past = cluster.timelines.keys().any(|other| *other < id);
        let what = format!("the file that says where timeline {id} comes from is not stored");
        let finding = self.ledger.add(FindingKind::Missing, object, what);
        finding.depends.merge(depends);
        // Archiving may have begun here when the cluster was on this timeline already.
        finding.grade = if has_past { Grade::Damage } else { Grade::Note };
    }

    /// The WAL that makes each backup consistent is in the archive, or in the backup.
    fn check_needed(&mut self, clusters: &BTreeMap<SystemIdentifier, Cluster>) {
        let none = Cluster::default();
        for at in 0..self.backups.len() {
            let backup = &self.backups[at];
            let point = &backup.record.commit.cluster;
            let (system, timeline) = (point.system, point.timeline);
            let sized;
            let cluster = match (clusters.get(&system), WalSegmentSize::new(point.wal_segment_size)) {
                (Some(cluster), _) => cluster,
                (None, Some(size)) => {
                    sized = Cluster { size, timelines: BTreeMap::new() };
                    &sized
                }
                (None, None) => &none,
            };
            let (first, last) = cluster.needed(backup);
            let depends = Depends::on_backups([backup.name.clone()]);
            let own_wal = backup.record.commit.own_wal;
            // Without the manifest nobody knows what is in the backup; that is said already.
            let inside = match (&backup.manifest, own_wal) {
                (Some(seen), true) if seen.whole => Some(seen.wal.clone()),
                (_, true) => continue,
                _ => None,
            };
            let stored = cluster.timelines.get(&timeline);
            for number in first..=last {
                let name = cluster.name(timeline, number);
                let is_there = match &inside {
                    Some(inside) => inside.contains(&name),
                    None => stored.is_some_and(|stored| stored.segments.contains_key(&number)),
                };
                if is_there {
                    continue;
                }
                let object = match &inside {
                    Some(_) => layout::commit(
                        self.backups[at].source,
                        self.backups[at].name.number,
                        self.backups[at].name.id,
                    )
                    .to_string(),
                    None => begin_of_key(system, WalFileName::Segment(name)),
                };
                let what = format!("{name}, which makes the backup consistent, is not stored");
                let kind = if own_wal { FindingKind::Missing } else { FindingKind::Gap };
                let finding = self.ledger.add(kind, object, what);
                finding.grade = Grade::Damage;
                finding.depends.merge(depends.clone());
                let in_hole = stored.is_some_and(|stored| stored.spans(number));
                if !own_wal && !in_hole {
                    self.ledger.missing += 1;
                }
            }
        }
    }
}

/// What the key of this WAL file begins with, whatever its bytes.
pub(super) fn begin_of_key(system: SystemIdentifier, name: WalFileName) -> String {
    let mut key = layout::wal_file(system, name);
    key.truncate(key.trim_end_matches('-').len());
    key
}

#[cfg(test)]
mod tests {
    use super::holes;

    #[test]
    fn holes_are_what_is_missing() {
        assert_eq!(holes(1, 0, []), []);
        assert_eq!(holes(1, 3, [1, 2, 3]), []);
        assert_eq!(holes(1, 9, [2, 3, 3, 6]), [(1, 2), (4, 6), (7, 10)]);
        assert_eq!(holes(5, 6, [1, 9]), [(5, 7)]);
    }
}
