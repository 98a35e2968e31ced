//! What may go, judged from all that is known. Nothing is deleted here, and nothing is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use refloat_repo::commit::{BackupType, Commit, CommitRecord};
use refloat_repo::layout::{self, Named};
use refloat_repo::repository::{Marked, Uses};
use refloat_store::Key;
use refloat_types::{BackupId, ObjectId, SourceId, SystemIdentifier, Timestamp};

use super::facts::Facts;
use super::policy::{self, Candidate, Policy};
use super::reason::{Reason, why_gone};
use super::wal::{self, Kept, Need, WalVerdict};

/// Packs that no backup names may go when they are so old, by the store's clock: a backup died on a host that never came
/// back to clear them.
pub(super) const OLDEST_ORPHAN: Duration = Duration::from_secs(7 * 24 * 3600);

/// What becomes of one backup.
#[derive(Debug, Clone)]
pub struct BackupVerdict {
    /// Its source.
    pub source: SourceId,
    /// How that is called.
    pub source_name: String,
    /// Which.
    pub backup: BackupId,
    /// Its number.
    pub number: u64,
    /// Its type.
    pub kind: BackupType,
    /// Server time when it ended.
    pub ended: Timestamp,
    /// All its packs are there.
    pub is_whole: bool,
    /// Why it stays; none when it goes.
    pub reasons: Vec<Reason>,
    /// Why it goes.
    pub why: Option<String>,
    /// When it was marked, by the store's clock.
    pub marked: Option<Timestamp>,
}

impl BackupVerdict {
    /// Whether it may be deleted.
    pub const fn goes(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// What was judged.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) backups: Vec<BackupVerdict>,
    pub(super) wal: Vec<WalVerdict>,
    /// Everything that may go, with its size in the store where that is known.
    pub(super) commits: BTreeSet<Key>,
    pub(super) packs: BTreeMap<Key, u64>,
    pub(super) wal_files: BTreeMap<Key, u64>,
    /// The numbers of what may go.
    pub(super) numbers: Marked,
}

/// Judges. `now` is host time, which holds and ages are measured by.
pub(super) fn judge(facts: &Facts, policies: &BTreeMap<SourceId, Policy>, now: Timestamp) -> Judged {
    let mut judged = Judged::default();
    let mut kept: BTreeMap<SystemIdentifier, Vec<Kept<'_>>> = BTreeMap::new();
    let mut windows: BTreeMap<SystemIdentifier, Duration> = BTreeMap::new();
    for source in facts.source_ids() {
        let records: Vec<(&Key, &CommitRecord)> = facts.of_source(source).collect();
        let view = View { facts, source, records: &records, now };
        let (reasons, members) = view.reasons(policies.get(&source));
        for (key, record) in &records {
            let commit = &record.commit;
            let why = reasons.get(&commit.backup).cloned().unwrap_or_default();
            if why.is_empty() {
                judged.commits.insert((*key).clone());
                judged.numbers.add_commit(source, commit.number, commit.backup);
            } else {
                let pinned = why.iter().any(|reason| matches!(reason, Reason::Pinned(_)));
                let in_window = pinned || members.as_ref().is_none_or(|m| m.contains(&commit.backup));
                let point = &commit.cluster;
                kept.entry(point.system).or_default().push(Kept { point, in_window });
                let window = policies.get(&source).and_then(|policy| policy.wal.as_ref());
                let longest = windows.entry(point.system).or_default();
                *longest = (*longest).max(window.map_or(Duration::ZERO, |(age, _)| *age));
            }
            judged.backups.push(view.verdict(key, commit, why, policies.get(&source)));
        }
    }
    for (system, sources) in &facts.former {
        kept.entry(*system).or_default();
        let of = sources.iter().filter_map(|source| policies.get(source)?.wal.as_ref());
        let longest = windows.entry(*system).or_default();
        *longest = of.map(|(age, _)| *age).fold(*longest, Duration::max);
    }
    for (system, kept) in kept {
        // Where nothing is configured for one of its sources, nothing of the cluster's WAL goes.
        if !facts.sources_of(system).iter().all(|source| policies.contains_key(source)) {
            continue;
        }
        let window = windows.get(&system).copied().unwrap_or_default();
        let Some(need) = Need::new(facts, system, kept, window) else { continue };
        let wal = need.judge();
        judged.wal_files.extend(wal.goes);
        wal.numbers.into_iter().for_each(|(tli, number)| judged.numbers.add_wal(system, tli, number));
        judged.wal.extend(wal.verdicts);
    }
    judged.find_packs(facts);
    judged
}

/// One source.
struct View<'a> {
    facts: &'a Facts,
    source: SourceId,
    records: &'a [(&'a Key, &'a CommitRecord)],
    now: Timestamp,
}

impl View<'_> {
    /// Why each backup stays; and those that need all WAL from their start on, `None` for all.
    fn reasons(&self, policy: Option<&Policy>) -> (policy::Reasons, Option<BTreeSet<BackupId>>) {
        let candidates: Vec<Candidate<'_>> = self
            .records
            .iter()
            .map(|(key, record)| Candidate {
                commit: &record.commit,
                is_whole: self.facts.whole.contains(*key),
            })
            .collect();
        let Some(policy) = policy else {
            let all = candidates.iter().map(|c| (c.commit.backup, vec![Reason::NoPolicy]));
            return (all.collect(), None);
        };
        let mut reasons = policy::judge(policy, &candidates, self.now);
        let members = policy.wal.as_ref().map(|window| self.window(&candidates, window, &mut reasons));
        self.held_and_pinned(&mut reasons);
        (reasons, members)
    }

    /// The backups inside the window; those it begins with stay for it.
    fn window(
        &self,
        candidates: &[Candidate<'_>],
        (window, text): &(Duration, String),
        reasons: &mut policy::Reasons,
    ) -> BTreeSet<BackupId> {
        let reference = policy::reference(candidates, self.now);
        let cutoff = reference.checked_sub(*window).unwrap_or(Timestamp::MIN);
        let whole: Vec<&Commit> = candidates.iter().filter(|c| c.is_whole).map(|c| c.commit).collect();
        let systems: BTreeSet<SystemIdentifier> = whole.iter().map(|commit| commit.cluster.system).collect();
        let owner = self.facts.owners.get(&self.source);
        let young = candidates.iter().map(|c| c.commit).filter(|c| c.cluster.stop_time > cutoff);
        let mut members: BTreeSet<BackupId> = young.map(|commit| commit.backup).collect();
        for system in systems {
            // What the source was before an upgrade has no owner any more, and goes as its WAL grows old.
            let owner = owner.filter(|owner| owner.system == system).map(|owner| owner.timeline);
            for base in wal::bases(self.facts, system, &whole, owner, cutoff) {
                members.insert(base.backup);
                let (why, list) = (Reason::Window(text.clone()), reasons.entry(base.backup).or_default());
                // Of two ways to begin the window both may be the same backup.
                if !list.contains(&why) {
                    list.push(why);
                }
            }
        }
        members
    }

    fn held_and_pinned(&self, reasons: &mut policy::Reasons) {
        for hold in self.facts.holds.iter().filter(|hold| hold.holds_at(self.now)) {
            let reason = hold.words.as_ref().map(|words| words.reason.clone());
            // By its id alone: a hold that names another source by mistake holds too much, not too little.
            reasons.entry(hold.backup).or_default().push(Reason::Held { reason, until: hold.until });
        }
        for seen in self.facts.living() {
            let pinned: Vec<BackupId> = match &seen.pin.uses {
                Uses::Repository => self.ids().collect(),
                Uses::Source(source) if *source == self.source => self.ids().collect(),
                Uses::Source(_) => Vec::new(),
                Uses::Backups(backups) => backups.clone(),
            };
            for backup in pinned {
                reasons.entry(backup).or_default().push(Reason::Pinned(seen.pin.operation.clone()));
            }
        }
    }

    fn ids(&self) -> impl Iterator<Item = BackupId> + '_ {
        self.records.iter().map(|(_, record)| record.commit.backup)
    }

    fn verdict(
        &self,
        key: &Key,
        commit: &Commit,
        reasons: Vec<Reason>,
        policy: Option<&Policy>,
    ) -> BackupVerdict {
        let marked = self.facts.tombstones.iter().filter(|stored| stored.names.binary_search(key).is_ok());
        let why = if reasons.is_empty() { policy.map(|policy| why_gone(policy, commit.kind)) } else { None };
        BackupVerdict {
            source: self.source,
            source_name: self.facts.name_of(self.source),
            backup: commit.backup,
            number: commit.number,
            kind: commit.kind,
            ended: commit.cluster.stop_time,
            is_whole: self.facts.whole.contains(key),
            reasons,
            why,
            marked: marked.map(|stored| stored.created).min(),
        }
    }
}

impl Judged {
    /// Packs that no backup names which stays.
    fn find_packs(&mut self, facts: &Facts) {
        let mut needed: BTreeSet<ObjectId> = BTreeSet::new();
        let mut going: BTreeSet<ObjectId> = BTreeSet::new();
        for (key, (record, _)) in &facts.commits {
            let set = if self.commits.contains(key) { &mut going } else { &mut needed };
            set.extend(record.packs.iter().map(|pack| pack.id));
        }
        for stored in &facts.tombstones {
            for name in &stored.names {
                if let Some(Named::Pack(id)) = Named::parse(name) {
                    going.insert(id);
                }
            }
        }
        let orphans_go = !facts.uses_orphans();
        for (id, (size, created)) in &facts.packs {
            let may_go = going.contains(id) || (orphans_go && is_orphan(facts, *created));
            if may_go && !needed.contains(id) {
                self.packs.insert(layout::pack(*id), *size);
            }
        }
    }
}

/// Whether a pack that no backup names cannot belong to one that is being made.
fn is_orphan(facts: &Facts, created: Timestamp) -> bool {
    let old = policy::later(created, OLDEST_ORPHAN).is_some_and(|at| at < facts.store_now);
    let before_all = match facts.oldest_backup() {
        None => true,
        Some(began) => began.is_some_and(|began| created < began),
    };
    old && before_all
}
