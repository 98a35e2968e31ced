//! What a policy says of the backups of one source: which stay, and why.
//!
//! Ages count from the newest whole backup, not from the clock: where backups stopped being made, nothing grows old, and a
//! clock that is years ahead ages nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use refloat_repo::commit::{BackupType, Commit};
use refloat_types::{BackupId, Timestamp};

use super::calendar::Period;
use super::reason::Reason;

/// How many, or how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// The newest so many.
    Count(u32),
    /// Those younger than this, and its text as configured.
    Age(Duration, String),
}

impl std::fmt::Display for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Age(_, text) => f.write_str(text),
        }
    }
}

/// What is to be kept of a source in a repository. A backup that any rule wants stays.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Full backups, with what was made on top of them.
    pub full: Option<Keep>,
    /// Differential backups.
    pub diff: Option<Keep>,
    /// Incremental backups.
    pub incr: Option<Keep>,
    /// How far back any moment can be restored, and its text.
    pub wal: Option<(Duration, String)>,
    /// The last backup of each day, week, month, year (UTC).
    pub calendar: BTreeMap<Period, Keep>,
}

impl Policy {
    fn of_type(&self, kind: BackupType) -> Option<&Keep> {
        match kind {
            BackupType::Full => self.full.as_ref(),
            BackupType::Diff => self.diff.as_ref(),
            BackupType::Incr => self.incr.as_ref(),
        }
    }
}

/// A backup as the policy sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    /// What its commit says.
    pub(super) commit: &'a Commit,
    /// All its packs are there.
    pub(super) is_whole: bool,
}

/// Why each backup stays; those without a reason may go.
pub(super) type Reasons = BTreeMap<BackupId, Vec<Reason>>;

/// How long before `at` something is: nothing when it is behind.
fn age(at: Timestamp, of: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(of)).unwrap_or(Duration::ZERO)
}

/// `at` and so much later; `None` beyond the end of time.
pub(super) fn later(at: Timestamp, by: Duration) -> Option<Timestamp> {
    at.checked_add(by).ok()
}

/// The moment that ages count from: when the newest whole backup ended, never later than `now`.
pub(super) fn reference(candidates: &[Candidate<'_>], now: Timestamp) -> Timestamp {
    let whole = candidates.iter().filter(|candidate| candidate.is_whole);
    whole.map(|candidate| candidate.commit.cluster.stop_time).max().map_or(now, |newest| newest.min(now))
}

/// What the policy and the rules that stand above every policy say. `candidates` are all backups of one source.
pub(super) fn judge(policy: &Policy, candidates: &[Candidate<'_>], now: Timestamp) -> Reasons {
    let mut sorted: Vec<Candidate<'_>> = candidates.to_vec();
    sorted.sort_by_key(|candidate| (candidate.commit.number, candidate.commit.backup));
    let mut work = Work { sorted, reference: reference(candidates, now), reasons: Reasons::new() };
    if !work.whole(Some(BackupType::Full)).any(|_| true) {
        // Nothing could be restored for sure: nothing goes.
        let all: Vec<BackupId> = work.sorted.iter().map(|candidate| candidate.commit.backup).collect();
        all.into_iter().for_each(|backup| work.keep(backup, Reason::NothingWhole));
        return work.reasons;
    }
    for kind in [BackupType::Full, BackupType::Diff, BackupType::Incr] {
        work.by_type(policy, kind);
    }
    for (period, keep) in &policy.calendar {
        work.by_calendar(*period, keep);
    }
    work.above_the_policy();
    work.with_their_full(policy);
    work.reasons
}

/// Which of these whole backups of one source a repository with this policy would keep: what a copy there is worth.
pub(crate) fn would_keep(policy: &Policy, commits: &[&Commit], now: Timestamp) -> BTreeSet<BackupId> {
    let candidates: Vec<Candidate<'_>> =
        commits.iter().map(|commit| Candidate { commit, is_whole: true }).collect();
    let mut kept: BTreeSet<BackupId> = judge(policy, &candidates, now).into_keys().collect();
    if let Some((window, _)) = &policy.wal {
        let cutoff = reference(&candidates, now).checked_sub(*window).unwrap_or(Timestamp::MIN);
        let is_young = |commit: &&Commit| commit.cluster.stop_time > cutoff;
        kept.extend(commits.iter().copied().filter(is_young).map(|commit| commit.backup));
        // The window begins with the newest one before it.
        let base =
            commits.iter().copied().filter(|commit| !is_young(commit)).max_by_key(|commit| commit.number);
        kept.extend(base.map(|commit| commit.backup));
    }
    kept
}

struct Work<'a> {
    /// Oldest first.
    sorted: Vec<Candidate<'a>>,
    reference: Timestamp,
    reasons: Reasons,
}

impl<'a> Work<'a> {
    fn keep(&mut self, backup: BackupId, reason: Reason) {
        self.reasons.entry(backup).or_default().push(reason);
    }

    /// Whole backups of a type, newest first.
    fn whole(&self, kind: Option<BackupType>) -> impl Iterator<Item = &'a Commit> + '_ {
        let all = self.sorted.iter().rev().filter(|candidate| candidate.is_whole);
        all.map(|candidate| candidate.commit)
            .filter(move |commit| kind.is_none_or(|kind| commit.kind == kind))
    }

    fn by_type(&mut self, policy: &Policy, kind: BackupType) {
        let Some(keep) = policy.of_type(kind) else {
            // A full that no rule speaks of stays; others go with their full.
            if kind == BackupType::Full && policy.calendar.is_empty() {
                let fulls: Vec<BackupId> = self.all(kind).map(|commit| commit.backup).collect();
                fulls.into_iter().for_each(|backup| self.keep(backup, Reason::NoRule(kind)));
            }
            return;
        };
        match keep {
            Keep::Count(count) => {
                let wanted: Vec<&Commit> = self.whole(Some(kind)).take(*count as usize).collect();
                // What is not whole does not count, and stays as long as what is older than it.
                let oldest = wanted.last().map_or(0, |commit| commit.number);
                for (nth, commit) in wanted.iter().enumerate() {
                    self.keep(commit.backup, Reason::Count { kind, nth: nth as u32 + 1, of: *count });
                }
                let damaged: Vec<BackupId> = self
                    .sorted
                    .iter()
                    .filter(|c| !c.is_whole && c.commit.kind == kind && c.commit.number > oldest)
                    .map(|c| c.commit.backup)
                    .collect();
                damaged.into_iter().for_each(|backup| self.keep(backup, Reason::Damaged));
            }
            Keep::Age(limit, text) => {
                let reference = self.reference;
                let young = |commit: &&Commit| age(reference, commit.cluster.stop_time) < *limit;
                let wanted: Vec<&Commit> = self.all(kind).filter(young).collect();
                for commit in wanted {
                    let until = later(commit.cluster.stop_time, *limit);
                    self.keep(commit.backup, Reason::Younger { kind, than: text.clone(), until });
                }
            }
        }
    }

    fn all(&self, kind: BackupType) -> impl Iterator<Item = &'a Commit> + '_ {
        self.sorted.iter().map(|candidate| candidate.commit).filter(move |commit| commit.kind == kind)
    }

    fn by_calendar(&mut self, period: Period, keep: &Keep) {
        let mut seen = BTreeSet::new();
        let mut wanted = Vec::new();
        for commit in self.whole(None) {
            let stop = commit.cluster.stop_time;
            if !seen.insert(period.of(stop)) {
                continue;
            }
            match keep {
                Keep::Count(count) if seen.len() > *count as usize => break,
                Keep::Age(limit, _) if age(self.reference, stop) >= *limit => continue,
                _ => wanted.push((commit.backup, seen.len() as u32)),
            }
        }
        for (backup, nth) in wanted {
            self.keep(backup, Reason::Calendar { period, nth, keep: keep.to_string() });
        }
    }

    /// The newest of all, the newest full that is whole, and the newest full in which PostgreSQL's pages were sound.
    fn above_the_policy(&mut self) {
        if let Some(newest) = self.sorted.last().map(|candidate| candidate.commit.backup) {
            self.keep(newest, Reason::Newest);
        }
        let full = self.whole(Some(BackupType::Full)).next().map(|commit| commit.backup);
        if let Some(full) = full {
            self.keep(full, Reason::LastFull);
        }
        let is_clean = |newest: Option<&Commit>| newest.is_some_and(|commit| commit.bad_pages == 0);
        let newest_is_clean =
            is_clean(self.whole(None).next()) && is_clean(self.whole(Some(BackupType::Full)).next());
        let clean = self.whole(Some(BackupType::Full)).find(|commit| commit.bad_pages == 0);
        if let Some(clean) = clean.map(|commit| commit.backup).filter(|_| !newest_is_clean) {
            self.keep(clean, Reason::LastClean);
        }
    }

    /// Backups that no rule of their own speaks of stay with the full they were made on, where that stays for its own
    /// sake, not only as the last of a day or month.
    fn with_their_full(&mut self, policy: &Policy) {
        let fulls = self.fulls();
        for kind in [BackupType::Diff, BackupType::Incr] {
            if policy.of_type(kind).is_some() {
                continue;
            }
            let mut found = Vec::new();
            for commit in self.all(kind) {
                let Some(full) = fulls.get(&commit.backup).copied() else { continue };
                let kept = self.reasons.get(&full);
                if kept.is_some_and(|reasons| reasons.iter().any(|r| !matches!(r, Reason::Calendar { .. }))) {
                    found.push((commit.backup, full));
                }
            }
            for (backup, full) in found {
                self.keep(backup, Reason::WithFull(full));
            }
        }
    }

    /// The full that each backup was made on: by its parents, else the newest before it. Each way is gone once, however
    /// long the chains are.
    fn fulls(&self) -> BTreeMap<BackupId, BackupId> {
        let commits = self.sorted.iter().rev().map(|candidate| candidate.commit);
        let by_id: BTreeMap<BackupId, &Commit> = commits.map(|commit| (commit.backup, commit)).collect();
        let by_number: Vec<&Commit> = self.all(BackupType::Full).collect();
        let mut by_parents: BTreeMap<BackupId, Option<BackupId>> = BTreeMap::new();
        let mut fulls = BTreeMap::new();
        for commit in self.sorted.iter().map(|candidate| candidate.commit) {
            let (mut at, mut way) = (commit, Vec::new());
            let full = loop {
                if let Some(known) = by_parents.get(&at.backup) {
                    break *known;
                }
                // Parents in a circle are nothing that a backup writes.
                if way.len() > self.sorted.len() {
                    break None;
                }
                way.push(at.backup);
                match at.parent.and_then(|parent| by_id.get(&parent)) {
                    None => break None,
                    Some(parent) if parent.kind == BackupType::Full => break Some(parent.backup),
                    Some(parent) => at = parent,
                }
            };
            by_parents.extend(way.into_iter().map(|backup| (backup, full)));
            let before = by_number.partition_point(|full| full.number < commit.number);
            let newest = || by_number[..before].last().map(|full| full.backup);
            if let Some(full) = full.or_else(newest) {
                fulls.insert(commit.backup, full);
            }
        }
        fulls
    }
}
