//! WAL files: what their heads say, and, where that was asked for, every byte and every record of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use refloat_pg::history::TimelineHistory;
use refloat_pg::wal::{BackupHistory, InspectOptions, SegmentInspector};
use refloat_repo::repository::StoredWal;
use refloat_repo::wal_object::WalHead;
use refloat_repo::{RepoError, Repository, layout};
use refloat_store::Key;
use refloat_types::{
    ObjectId, SystemIdentifier, TimelineId, Timestamp, WalFileName, WalSegmentName, WalSegmentSize,
};

use super::VerifyError;
use super::census::WalItem;
use super::chain::Cluster;
use super::ledger::Fault;
use super::report::{Depends, FindingKind};
use super::run::Run;
use crate::wal::ArchivedFacts;

/// What a head says.
#[derive(Debug, Clone, Copy)]
struct HeadFacts {
    agent: ObjectId,
    key: ObjectId,
    size: Option<WalSegmentSize>,
    first_commit: Option<Timestamp>,
    last_commit: Option<Timestamp>,
}

/// What was found in the bytes of one file.
enum BodyFault {
    Repo(RepoError),
    /// Signed, whole, and not what PostgreSQL writes.
    Content(String),
    /// PostgreSQL's version is not known: pages were checked, records were not.
    NotParsed,
}

impl Run<'_> {
    /// Heads of all WAL files, the chains they make, and their bytes.
    pub(super) fn check_wal(&mut self) -> Result<(), VerifyError> {
        self.request.progress.phase("wal heads", 0);
        let mut wal = std::mem::take(&mut self.census.wal);
        for (system, items) in &mut wal {
            items.retain(|item| self.wants(*system, item.name));
            items.sort_by_key(|item| (timeline_of(item.name), item.name.to_string(), item.digest));
        }
        for (system, items) in &wal {
            self.check_heads(*system, items)?;
        }
        self.check_chains();
        if self.request.read_data && self.repository.can_read() {
            let bytes = wal.values().flatten().map(|item| item.size).sum();
            self.request.progress.phase("wal", bytes);
            for (system, items) in &wal {
                self.check_bodies(*system, items)?;
            }
        }
        self.ledger.not_proved.insert("that no WAL was archived behind the newest that is there".to_owned());
        Ok(())
    }

    fn check_heads(&mut self, system: SystemIdentifier, items: &[WalItem]) -> Result<(), VerifyError> {
        let repository = self.repository;
        let heads = on_threads(self.request.jobs, items, |item| {
            repository.read_wal_head(&stored(system, item)).map(|head| HeadFacts::of(&head))
        })?;
        let mut cluster = Cluster::default();
        let known = self.backups.iter().map(|backup| &backup.record.commit.cluster);
        let known = known.filter(|point| point.system == system).map(|point| point.wal_segment_size);
        let told = heads.iter().filter_map(|(_, head)| head.as_ref().ok()?.size);
        cluster.size =
            known.filter_map(WalSegmentSize::new).chain(told).next().unwrap_or(WalSegmentSize::DEFAULT);
        for (at, head) in &heads {
            self.add_to_chain(system, &mut cluster, &items[*at], head.as_ref().ok());
        }
        self.clusters.insert(system, cluster);
        for (at, head) in heads {
            let (item, key) = (&items[at], stored(system, &items[at]).key);
            self.ledger.present += 1;
            match head {
                Ok(head) => self.note_use(system, item, &key, head),
                Err(error) => {
                    let depends = self.wal_depends(system, item.name);
                    self.fail(&key, error, depends)?;
                }
            }
        }
        Ok(())
    }

    fn add_to_chain(
        &self,
        system: SystemIdentifier,
        cluster: &mut Cluster,
        item: &WalItem,
        head: Option<&HeadFacts>,
    ) {
        let size = cluster.size;
        let timeline = cluster.timelines.entry(timeline_of(item.name)).or_default();
        match item.name {
            WalFileName::Segment(name) => {
                let segment = timeline.segments.entry(name.number(size)).or_default();
                segment.copies += 1;
                if let Some(head) = head {
                    segment.good = true;
                    segment.first_commit = head.first_commit;
                    segment.last_commit = head.last_commit;
                }
            }
            WalFileName::Partial(name) => drop(timeline.partials.insert(name.number(size))),
            WalFileName::History(id) => {
                timeline.has_history = true;
                timeline.history = read_history(self.repository, &stored(system, item), id);
            }
            WalFileName::BackupHistory(..) => {}
        }
    }

    fn note_use(&mut self, system: SystemIdentifier, item: &WalItem, key: &Key, head: HeadFacts) {
        let segment = match item.name {
            WalFileName::Segment(name) | WalFileName::Partial(name) => Some(name),
            WalFileName::History(_) | WalFileName::BackupHistory(..) => None,
        };
        let depends = segment.is_none().then(|| self.wal_depends(system, item.name));
        for (id, uses) in [(head.agent, &mut self.ledger.agents), (head.key, &mut self.ledger.keys)] {
            if id == ObjectId::NONE {
                continue;
            }
            let uses = uses.entry(id).or_default();
            match (segment, &depends) {
                (Some(name), _) => {
                    let times = (head.first_commit, head.last_commit);
                    uses.add_segment(|| key.to_string(), system, name, times);
                }
                (None, depends) => uses.add(key.as_str(), depends.clone().unwrap_or_default()),
            }
        }
    }

    /// What cannot be done without this file.
    fn wal_depends(&self, system: SystemIdentifier, name: WalFileName) -> Depends {
        let Some(cluster) = self.clusters.get(&system) else { return Depends::default() };
        let of = |segment: WalSegmentName| {
            let number = segment.number(cluster.size);
            cluster.depends(&self.backups, system, segment.timeline, (number, number + 1))
        };
        match name {
            WalFileName::Segment(segment) => of(segment),
            WalFileName::Partial(segment) => {
                let mut depends = of(segment);
                // It is the end of a timeline: no backup was committed on the strength of it.
                depends.recovery.append(&mut depends.backups);
                depends
            }
            WalFileName::History(timeline) => cluster.depends_on_history(&self.backups, system, timeline),
            WalFileName::BackupHistory(segment, _) => Depends::other(format!(
                "what PostgreSQL noted of a backup that began in {segment}; no recovery reads it"
            )),
        }
    }

    fn check_bodies(&mut self, system: SystemIdentifier, items: &[WalItem]) -> Result<(), VerifyError> {
        let (repository, progress) = (self.repository, self.request.progress);
        let read = on_threads(self.request.jobs, items, |item| {
            let read = read_body(repository, system, item);
            progress.advance(item.size);
            // What is right needs not be kept until the end.
            Ok(read.err())
        })?;
        for (at, fault) in read {
            let item = &items[at];
            let key = stored(system, item).key;
            self.ledger.bytes_read += item.size;
            match fault.unwrap_or(None) {
                None => {}
                Some(BodyFault::Repo(error)) => {
                    let depends = self.wal_depends(system, item.name);
                    self.fail_body(&key, error, depends)?;
                }
                Some(BodyFault::Content(what)) => {
                    let depends = self.wal_depends(system, item.name);
                    self.ledger.add(FindingKind::BadWal, key.as_str(), what).depends.merge(depends);
                }
                Some(BodyFault::NotParsed) => {
                    let what = "records of WAL whose PostgreSQL version this release does not know";
                    self.ledger.not_proved.insert(what.to_owned());
                }
            }
        }
        Ok(())
    }

    /// A head that failed is said already; a key that does not open is told by its envelope.
    fn fail_body(&mut self, key: &Key, error: RepoError, depends: Depends) -> Result<(), VerifyError> {
        match &error {
            RepoError::UnknownOrigin { .. } | RepoError::NewerFormat { .. } => Ok(()),
            RepoError::NoKey { .. } => Fault::of(key.as_str(), error).map(drop),
            RepoError::Damaged { object, .. } | RepoError::Missing { object }
                if object.starts_with(layout::ENVELOPES) || object.starts_with(layout::AGENTS) =>
            {
                Ok(())
            }
            _ => self.fail(key, error, depends),
        }
    }
}

/// What threads answered, with the places of the items.
type Answers<T> = Vec<(usize, Result<T, RepoError>)>;

/// Calls `work` for each item on several threads; answers in no order, with the place of the item.
///
/// # Errors
/// A store that does not answer, or that threads cannot be started.
fn on_threads<T: Send>(
    jobs: usize,
    items: &[WalItem],
    work: impl Fn(&WalItem) -> Result<T, RepoError> + Sync,
) -> Result<Answers<T>, VerifyError> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let out = Mutex::new(Vec::with_capacity(items.len()));
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, items.len().max(1)) {
            let body = || {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { break };
                    let answer = work(item);
                    out.lock().unwrap_or_else(PoisonError::into_inner).push((at, answer));
                }
            };
            let thread = std::thread::Builder::new().name("verify-wal".to_owned());
            if let Err(error) = thread.spawn_scoped(scope, body) {
                stop.store(true, Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(VerifyError::Thread(error)),
        None => {
            let mut out = out.into_inner().unwrap_or_else(PoisonError::into_inner);
            out.sort_by_key(|(at, _)| *at);
            Ok(out)
        }
    }
}

fn read_body(repository: &Repository, system: SystemIdentifier, item: &WalItem) -> Result<(), BodyFault> {
    let head = repository.read_wal_head(&stored(system, item)).map_err(BodyFault::Repo)?;
    let name = item.name;
    match name {
        WalFileName::Segment(segment) | WalFileName::Partial(segment) => {
            let partial = matches!(name, WalFileName::Partial(_));
            let options = InspectOptions { partial, expected_system: Some(system), ancestors: Vec::new() };
            let mut inspector = SegmentInspector::new(segment, options);
            // Its fault is remembered by the inspector, and told when all bytes were checked.
            let read = repository.read_wal(&head, &mut |bytes| {
                let _ = inspector.feed(bytes);
                Ok(())
            });
            read.map_err(BodyFault::Repo)?;
            let inspection =
                inspector.finish(head.clear.size).map_err(|e| BodyFault::Content(e.to_string()))?;
            if inspection.records_parsed { Ok(()) } else { Err(BodyFault::NotParsed) }
        }
        WalFileName::History(timeline) => {
            let bytes = whole(repository, &head)?;
            TimelineHistory::parse(timeline, &bytes).map(drop).map_err(|e| BodyFault::Content(e.to_string()))
        }
        WalFileName::BackupHistory(segment, offset) => {
            let bytes = whole(repository, &head)?;
            let parsed = BackupHistory::parse(segment, offset, &bytes);
            parsed.map(drop).map_err(|e| BodyFault::Content(e.to_string()))
        }
    }
}

fn whole(repository: &Repository, head: &WalHead) -> Result<Vec<u8>, BodyFault> {
    let mut bytes = Vec::new();
    let read = repository.read_wal(head, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    });
    read.map_err(BodyFault::Repo)?;
    Ok(bytes)
}

/// A timeline's history, as the signed head of its file tells it.
fn read_history(
    repository: &Repository,
    stored: &StoredWal,
    timeline: TimelineId,
) -> Option<TimelineHistory> {
    let head = repository.read_wal_head(stored).ok()?;
    ArchivedFacts::read(&head.clear.facts).history_of(timeline)
}

fn stored(system: SystemIdentifier, item: &WalItem) -> StoredWal {
    let key = layout::wal(system, item.name, &item.digest);
    StoredWal { key, name: item.name, digest: item.digest, size: item.size }
}

pub(super) fn timeline_of(name: WalFileName) -> TimelineId {
    match name {
        WalFileName::Segment(name) | WalFileName::Partial(name) | WalFileName::BackupHistory(name, _) => {
            name.timeline
        }
        WalFileName::History(timeline) => timeline,
    }
}

impl HeadFacts {
    fn of(head: &WalHead) -> Self {
        let segment = ArchivedFacts::read(&head.clear.facts).segment;
        Self {
            agent: head.header.agent,
            key: head.header.key,
            size: segment.as_ref().and_then(|segment| segment.size()),
            first_commit: segment.as_ref().and_then(|segment| segment.wal.first_commit),
            last_commit: segment.as_ref().and_then(|segment| segment.wal.last_commit),
        }
    }
}
