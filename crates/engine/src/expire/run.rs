//! The story of an expiry: read, judge, delete what is ripe, mark the rest, tidy up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use refloat_repo::RepoError;
use refloat_repo::commit::{Commit, CommitRecord};
use refloat_repo::layout::Named;
use refloat_repo::repository::Uses;
use refloat_store::Key;
use refloat_types::{ObjectId, SourceId, SystemIdentifier, Timestamp, WalFileName, WalSegmentName, fault};

use super::destroy::{Destroyer, Fate};
use super::facts::Facts;
use super::judge::{Judged, judge};
use super::policy::later;
use super::{Amount, ExpireError, ExpireReport, ExpireRequest, SHORTEST_GRACE, clocks, tidy};
use crate::guard::{Guard, GuardRequest, span, written_at};

/// What changes is read again when it was read longer ago.
const FRESH: Duration = Duration::from_secs(60);
/// What was read longer ago is not relied on for a single object. Far below the shortest grace time.
const STALE: Duration = Duration::from_secs(10 * 60);
/// One run ends after so long; the next goes on.
const LONGEST: Duration = Duration::from_secs(6 * 3600);

/// What is deleted, in this order: a backup must not be seen when its packs are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Commits,
    Packs,
    Wal,
}

/// An expiry at work.
pub(super) struct Run<'a> {
    pub(super) request: &'a ExpireRequest<'a>,
    guard: Guard<'a>,
    pub(super) facts: Facts,
    pub(super) judged: Judged,
    began: Duration,
    /// When this process had read what changes.
    read: Duration,
    pub(super) gone: BTreeSet<Key>,
    /// What a lock holds, and until when.
    locked: BTreeMap<Key, Timestamp>,
    held: Amount,
    pub(super) destroyer: Destroyer,
    pub(super) hidden: u64,
    deleted: Amount,
    pub(super) notes: Vec<String>,
}

/// Marks what the policies do not want, and deletes what was marked long enough ago and is still not needed.
///
/// # Errors
/// Nothing that is needed is deleted, ever; what was deleted before the error was not needed.
pub fn expire(request: &ExpireRequest<'_>) -> Result<ExpireReport, ExpireError> {
    let repository = request.repository;
    repository.ensure_enrolled(request.clock.now())?;
    let began = request.uptime.get();
    let guard = Guard::begin(
        repository,
        &GuardRequest {
            operation: super::OPERATION,
            backup: None,
            uses: Uses::Backups(Vec::new()),
            host: request.host,
            now: request.clock.now(),
            uptime: request.uptime.clone(),
            renew: false,
        },
    )?;
    request.progress.phase("reading what there is", 0);
    let facts = Facts::begin(repository)?;
    let mut run = Run {
        request,
        guard,
        facts,
        judged: Judged::default(),
        began,
        read: began,
        gone: BTreeSet::new(),
        locked: BTreeMap::new(),
        held: Amount::default(),
        destroyer: Destroyer::new(repository)?,
        hidden: 0,
        deleted: Amount::default(),
        notes: Vec::new(),
    };
    run.read_again()?;
    let verdicts = judge(&run.facts, &request.policies, request.clock.now());
    request.progress.phase("deleting", 0);
    for step in [Step::Commits, Step::Packs, Step::Wal] {
        run.delete(step)?;
    }
    request.progress.phase("marking", 0);
    let marked = run.mark()?;
    tidy::tidy(&mut run)?;
    Ok(run.report(verdicts, marked))
}

/// What an expiry would say now, without writing or deleting anything. The store's time is not asked for, because that
/// takes a write: this host's counts.
///
/// # Errors
/// As [`expire`].
pub fn explain(request: &ExpireRequest<'_>) -> Result<ExpireReport, ExpireError> {
    let now = request.clock.now();
    let mut facts = Facts::begin(request.repository)?;
    facts.refresh(request.repository, request.uptime.as_ref(), &|| Ok(now), true)?;
    let mut notes = Vec::new();
    if let Err(error) = clocks::check(&facts, &request.policies, now) {
        notes.push(format!("nothing would be deleted: {error}"));
    }
    let judged = judge(&facts, &request.policies, now);
    let named = names(&facts);
    let marked = amount(&judged, |key| !named.contains(key));
    let waiting = amount(&judged, |key| named.contains(key));
    let next = next_ripe(&facts, &judged, request.grace.max(SHORTEST_GRACE));
    let Judged { backups, wal, .. } = judged;
    Ok(ExpireReport {
        backups,
        wal,
        deleted: Amount::default(),
        marked,
        waiting,
        locked: Amount::default(),
        locked_until: None,
        hidden_bytes: 0,
        next,
        notes,
    })
}

/// The archived WAL that makes a backup consistent.
fn span_of(commit: &Commit) -> impl Iterator<Item = (SystemIdentifier, WalSegmentName)> + use<> {
    let system = commit.cluster.system;
    span(commit).map(move |segment| (system, segment))
}

/// Everything that tombstones name.
pub(super) fn names(facts: &Facts) -> BTreeSet<&Key> {
    facts.tombstones.iter().flat_map(|stored| &stored.names).collect()
}

fn amount(judged: &Judged, counts: impl Fn(&Key) -> bool) -> Amount {
    let sum = |files: &BTreeMap<Key, u64>| {
        let counted = files.iter().filter(|(key, _)| counts(key));
        counted.fold((0, 0), |(count, bytes), (_, size)| (count + 1, bytes + size))
    };
    let ((packs, pack_bytes), (wal, wal_bytes)) = (sum(&judged.packs), sum(&judged.wal_files));
    let backups = judged.commits.iter().filter(|key| counts(key)).count() as u64;
    Amount { backups, packs, wal, bytes: pack_bytes + wal_bytes }
}

fn count(into: &mut Amount, step: Step, size: u64) {
    match step {
        Step::Commits => into.backups += 1,
        Step::Packs => into.packs += 1,
        Step::Wal => into.wal += 1,
    }
    into.bytes += size;
}

/// When something that is marked and may go gets ripe.
fn next_ripe(facts: &Facts, judged: &Judged, grace: Duration) -> Option<Timestamp> {
    let may_go = |key: &Key| {
        judged.commits.contains(key) || judged.packs.contains_key(key) || judged.wal_files.contains_key(key)
    };
    let waiting = facts.tombstones.iter().filter(|stored| stored.names.iter().any(may_go));
    waiting.filter_map(|stored| later(stored.created, grace)).min()
}

impl Run<'_> {
    fn grace(&self) -> Duration {
        self.request.grace.max(SHORTEST_GRACE)
    }

    /// Since what changes was read.
    fn age(&self) -> Duration {
        self.request.uptime.get().saturating_sub(self.facts.read_at)
    }

    /// Whether what changes must be read again. However long reading took, something is deleted behind it, as long as it
    /// can be relied on.
    fn is_old(&self) -> bool {
        self.request.uptime.get().saturating_sub(self.read) > FRESH || self.age() > STALE
    }

    /// Reads what changes, and judges anew.
    fn read_again(&mut self) -> Result<(), ExpireError> {
        let (repository, guard) = (self.request.repository, &self.guard);
        let store_now = || Ok(written_at(repository, &guard.renewed()?)?);
        self.facts.refresh(repository, self.request.uptime.as_ref(), &store_now, false)?;
        // Each time: a clock may be set while this goes on.
        clocks::check(&self.facts, &self.request.policies, self.request.clock.now())?;
        self.read = self.request.uptime.get();
        if self.age() > STALE {
            return Err(ExpireError::TooSlow { seconds: self.age().as_secs() });
        }
        self.judged = judge(&self.facts, &self.request.policies, self.request.clock.now());
        Ok(())
    }

    /// What was marked long enough ago.
    pub(super) fn ripe(&self) -> BTreeSet<&Key> {
        let is_ripe = |at: Timestamp| later(at, self.grace()).is_some_and(|at| at <= self.facts.store_now);
        let ripe = self.facts.tombstones.iter().filter(|stored| is_ripe(stored.created));
        ripe.flat_map(|stored| &stored.names).collect()
    }

    /// What can be deleted now.
    fn ready(&self, step: Step) -> Vec<(Key, u64)> {
        let ripe = self.ripe();
        let ready =
            |key: &&Key| ripe.contains(*key) && !self.gone.contains(*key) && !self.locked.contains_key(*key);
        let sized = |files: &BTreeMap<Key, u64>| {
            let ready = files.iter().filter(|(key, _)| ready(key));
            ready.map(|(key, size)| (key.clone(), *size)).collect::<Vec<_>>()
        };
        match step {
            Step::Commits => self.judged.commits.iter().filter(ready).map(|key| (key.clone(), 0)).collect(),
            Step::Wal => {
                // The same for WAL: a backup that goes later is whole until then.
                let spans: BTreeSet<_> = self.present().flat_map(|record| span_of(&record.commit)).collect();
                let mut files = sized(&self.judged.wal_files);
                files.retain(|(key, _)| match Named::parse(key) {
                    Some(Named::Wal(system, WalFileName::Segment(segment), _)) => {
                        !spans.contains(&(system, segment))
                    }
                    _ => true,
                });
                files
            }
            Step::Packs => {
                // Also what is named by a backup that goes later has to wait for it.
                let named: BTreeSet<ObjectId> =
                    self.present().flat_map(|r| r.packs.iter().map(|p| p.id)).collect();
                let mut packs = sized(&self.judged.packs);
                packs.retain(|(key, _)| match Named::parse(key) {
                    Some(Named::Pack(id)) => !named.contains(&id),
                    _ => false,
                });
                packs
            }
        }
    }

    /// Commits that are there.
    fn present(&self) -> impl Iterator<Item = &CommitRecord> {
        let all = self.facts.commits.iter().filter(|(key, _)| !self.gone.contains(*key));
        all.map(|(_, (record, _))| record)
    }

    fn delete(&mut self, step: Step) -> Result<(), ExpireError> {
        let point = |name: &'static str| {
            fault::point(name).map_err(|e| ExpireError::from(RepoError::internal("expire", e)))
        };
        loop {
            if self.request.uptime.get().saturating_sub(self.began) > LONGEST {
                self.notes.push("it took too long; run it again to go on".to_owned());
                return Ok(());
            }
            let ready = self.ready(step);
            if ready.is_empty() {
                return Ok(());
            }
            if self.is_old() {
                self.read_again()?;
                continue;
            }
            for (key, size) in ready {
                // This process may have been stopped since the last one.
                if self.is_old() {
                    break;
                }
                point("expire.before_delete")?;
                let now = self.facts.store_now;
                let fate = self.destroyer.destroy(self.request.repository, &key, now);
                match fate.map_err(RepoError::from)? {
                    Fate::Locked(end) => {
                        count(&mut self.held, step, size);
                        self.locked.insert(key, end);
                        continue;
                    }
                    Fate::Hidden(bytes) => self.hidden += bytes,
                    Fate::Gone => {}
                }
                point("expire.after_delete")?;
                count(&mut self.deleted, step, size);
                self.gone.insert(key);
                self.request.progress.advance(size);
            }
        }
    }

    /// Writes a tombstone for what may go and is named by none.
    fn mark(&mut self) -> Result<Amount, ExpireError> {
        if self.is_old() {
            self.read_again()?;
        }
        let named = names(&self.facts);
        let is_new = |key: &Key| !named.contains(key) && !self.gone.contains(key);
        let amount = amount(&self.judged, is_new);
        if amount.is_nothing() {
            return Ok(amount);
        }
        let all =
            self.judged.commits.iter().chain(self.judged.packs.keys()).chain(self.judged.wal_files.keys());
        let new: Vec<Key> = all.filter(|key| is_new(key)).cloned().collect();
        let mut marked = self.judged.numbers.clone();
        self.facts.tombstones.iter().for_each(|stored| marked.merge(&stored.tombstone.marked));
        let mut seen: BTreeMap<SourceId, Vec<String>> = BTreeMap::new();
        for record in self.present() {
            let commit = &record.commit;
            let name = format!("{:010}-{}", commit.number, commit.backup);
            seen.entry(commit.source).or_default().push(name);
        }
        self.request.repository.put_tombstone(new, seen, marked, self.request.clock.now())?;
        Ok(amount)
    }

    fn report(self, verdicts: Judged, marked: Amount) -> ExpireReport {
        let named = names(&self.facts);
        let waiting = amount(&self.judged, |key| named.contains(key) && !self.gone.contains(key));
        let marked_now = (!marked.is_nothing()).then(|| later(self.facts.store_now, self.grace())).flatten();
        let waits =
            (!waiting.is_nothing()).then(|| next_ripe(&self.facts, &self.judged, self.grace())).flatten();
        ExpireReport {
            backups: verdicts.backups,
            wal: verdicts.wal,
            deleted: self.deleted,
            marked,
            waiting,
            locked: self.held,
            locked_until: self.locked.values().min().copied(),
            hidden_bytes: self.hidden,
            next: waits.or(marked_now),
            notes: self.notes,
        }
    }
}
