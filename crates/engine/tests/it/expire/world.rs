//! A repository in simulated time, with small backups, made-up WAL and a store that may lag, overwrite, fail and stop.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use refloat_engine::expire::{ExpireError, ExpireReport, ExpireRequest, GRACE, Policy, expire};
use refloat_engine::guard::{Guard, GuardRequest, Uptime};
use refloat_engine::progress::Silent;
use refloat_repo::commit::{BackupType, ClusterPoint, Commit, CommitNames, CommitRecord, PackUse, Sizes};
use refloat_repo::crypt::identity::Identity;
use refloat_repo::crypt::random;
use refloat_repo::manifest::root::RootRef;
use refloat_repo::repository::{Credentials, InitOptions, OwnerRecord, Protection, SourceDescription, Uses};
use refloat_repo::{Repository, StateDirectory, layout};
use refloat_store::{
    Features, Immutability, Key, ObjectInfo, ObjectWriter, Space, Store, StoreError, StoreErrorKind, Version,
};
use refloat_testkit::memory_store::Memory;
use refloat_types::{
    BackupId, Clock, Lsn, ManualClock, ObjectId, SourceId, SystemIdentifier, TimelineId, Timestamp,
    WalFileName, WalSegmentName, WalSegmentSize,
};

pub(super) const SYSTEM: SystemIdentifier = SystemIdentifier(7_300_000_000_000_000_001);
pub(super) const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

/// The uptime of a machine whose clock is right.
pub(super) struct ClockUptime(pub(super) Arc<ManualClock>);

impl Uptime for ClockUptime {
    fn get(&self) -> Duration {
        Duration::from_secs(self.0.now().as_second().max(0) as u64)
    }
}

type Hook = Box<dyn FnMut() + Send>;

/// The store as one process sees it: lists lag, and at some call it dies or is stopped.
#[derive(Clone)]
pub(super) struct View {
    pub(super) inner: Arc<dyn Store>,
    clock: Arc<ManualClock>,
    lag: Duration,
    /// Calls until the process dies; negative: never.
    pub(super) dies_in: Arc<AtomicI64>,
    /// Calls that change something until the hook is called, and the hook.
    pub(super) stop: Arc<Mutex<Option<(i64, Hook)>>>,
}

impl View {
    fn call(&self, key: &str) -> Result<(), StoreError> {
        let left = self.dies_in.load(Ordering::SeqCst);
        if left == 0 {
            let error = std::io::Error::other("the process is dead");
            return Err(StoreError::new(StoreErrorKind::Other, "reach", key, "memory:", error));
        }
        if left > 0 {
            self.dies_in.store(left - 1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn change(&self) {
        let hook = {
            let mut stop = self.stop.lock().unwrap();
            match stop.as_mut() {
                Some((left, _)) if *left > 0 => {
                    *left -= 1;
                    None
                }
                Some(_) => stop.take(),
                None => None,
            }
        };
        if let Some((_, mut hook)) = hook {
            hook();
        }
    }
}

impl Store for View {
    fn describe(&self) -> &str {
        "memory:"
    }
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.call(key.as_str())?;
        self.change();
        self.inner.put_new(key, body)
    }
    fn create(&self, _: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        unreachable!("nothing here writes in pieces")
    }
    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        self.call(key.as_str())?;
        self.inner.read(key, range, into)
    }
    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.settle(key)
    }
    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        self.call(key.as_str())?;
        self.inner.head(key)
    }
    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.call(prefix)?;
        let visible = self.clock.now() - self.lag;
        self.inner.list(prefix, &mut |info| {
            if self.lag.is_zero() || info.created <= visible { each(info) } else { ControlFlow::Continue(()) }
        })
    }
    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.call(key.as_str())?;
        self.change();
        self.inner.delete(key)
    }
    fn features(&self) -> Features {
        Features { create_new: false, durable: true, consistent_list: self.lag.is_zero(), remote: false }
    }
    fn space(&self) -> Result<Option<Space>, StoreError> {
        Ok(None)
    }
    fn immutability(&self) -> Result<Immutability, StoreError> {
        self.inner.immutability()
    }
    fn lock_end(&self, key: &Key, version: Option<&str>) -> Result<Option<Timestamp>, StoreError> {
        self.call(key.as_str())?;
        self.inner.lock_end(key, version)
    }
    fn extend_lock(&self, key: &Key, until: Timestamp) -> Result<(), StoreError> {
        self.inner.extend_lock(key, until)
    }
    fn versions(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(Version) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.call(prefix)?;
        self.inner.versions(prefix, each)
    }
    fn destroy(&self, key: &Key, version: &str) -> Result<(), StoreError> {
        self.call(key.as_str())?;
        self.change();
        self.inner.destroy(key, version)
    }
}

/// A host: what it keeps, and how it sees the store.
pub(super) struct Host {
    pub(super) view: View,
    pub(super) repository: Arc<Repository>,
}

/// Everything.
pub(super) struct World {
    _states: tempfile::TempDir,
    pub(super) store: Arc<dyn Store>,
    /// The store, where it is the one in memory.
    pub(super) memory: Memory,
    pub(super) clock: Arc<ManualClock>,
    pub(super) lag: Duration,
    pub(super) hosts: Vec<Host>,
    pub(super) source: SourceId,
    /// The cluster that it is at present.
    pub(super) system: SystemIdentifier,
    pub(super) policy: Option<Policy>,
    /// Number of the WAL segment that is written now.
    pub(super) wal: u64,
    /// Backups that were acknowledged, oldest first.
    pub(super) made: Vec<CommitRecord>,
}

/// A backup that is being made.
pub(super) struct Making<'a> {
    pub(super) guard: Guard<'a>,
    pub(super) commit: Commit,
    pub(super) packs: Vec<PackUse>,
}

impl World {
    pub(super) fn new(lag: Duration) -> Self {
        let clock = Self::clock();
        let memory = Memory::new().overwriting().with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
        let store: Arc<dyn Store> = Arc::new(memory.clone());
        Self { memory, ..Self::on([Arc::clone(&store), store], lag, clock) }
    }

    /// In a store that keeps versions and locks each so long. The second host may only add.
    pub(super) fn locked(period: Duration) -> Self {
        let clock = Self::clock();
        let memory = Memory::new().with_clock(Arc::clone(&clock) as Arc<dyn Clock>).with_locks(period);
        let stores: [Arc<dyn Store>; 2] = [Arc::new(memory.clone()), Arc::new(memory.add_only())];
        Self { memory, ..Self::on(stores, Duration::ZERO, clock) }
    }

    pub(super) fn clock() -> Arc<ManualClock> {
        Arc::new(ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap()))
    }

    /// In a store, as each of two hosts sees it.
    pub(super) fn on(stores: [Arc<dyn Store>; 2], lag: Duration, clock: Arc<ManualClock>) -> Self {
        let states = tempfile::tempdir().unwrap();
        let identity = Identity::draw();
        let recipients = vec![identity.recipient()];
        let protection = Protection::Recipients { recipients, identity: Some(identity.clone()) };
        let mut hosts = Vec::new();
        for (n, store) in stores.iter().enumerate() {
            let state = StateDirectory::new(states.path().join(format!("host{n}")));
            let view = View {
                inner: Arc::clone(store),
                clock: Arc::clone(&clock),
                lag,
                dies_in: Arc::new(AtomicI64::new(-1)),
                stop: Arc::default(),
            };
            let shared: Arc<dyn Store> = Arc::new(view.clone());
            let repository = if n == 0 {
                let options = InitOptions { protection: clone(&protection), now: clock.now() };
                Repository::init(shared, state, options).unwrap()
            } else {
                let mut open = || Ok(Credentials::Identity(identity.clone()));
                Repository::open(shared, state, None, clock.now(), &mut open).unwrap()
            };
            hosts.push(Host { view, repository: Arc::new(repository) });
        }
        let mut world = Self {
            _states: states,
            store: Arc::clone(&stores[0]),
            memory: Memory::new(),
            clock,
            lag,
            hosts,
            source: SourceId::NONE,
            system: SYSTEM,
            policy: None,
            wal: 10,
            made: Vec::new(),
        };
        world.describe();
        world
    }

    fn describe(&mut self) {
        let description = SourceDescription {
            name: "prod".parse().unwrap(),
            kind: "postgres".to_owned(),
            host: "db1".to_owned(),
            data_directory: "/data".to_owned(),
        };
        let now = self.clock.now();
        let repository = &self.hosts[0].repository;
        let known = Some(self.source).filter(|source| *source != SourceId::NONE);
        self.source = repository.describe_source(known, &description, self.system, now).unwrap().id;
        let owner = OwnerRecord {
            source: self.source,
            number: 0,
            at: now,
            system: self.system,
            timeline: TimelineId::FIRST,
            fork_lsn: None,
            restored_from: None,
        };
        repository.put_owner(owner).unwrap();
        self.pass(Duration::from_secs(7200));
    }

    /// The source is another cluster from now on.
    pub(super) fn upgrade(&mut self) {
        self.system = SystemIdentifier(self.system.0 + 1);
        self.describe();
    }

    /// Time passes, and WAL is archived: one segment an hour.
    pub(super) fn pass(&mut self, by: Duration) {
        let mut left = by;
        while !left.is_zero() {
            let step = left.min(Duration::from_secs(3600));
            self.clock.advance(step);
            left -= step;
            if step == Duration::from_secs(3600) {
                self.archive();
            }
        }
    }

    fn archive(&mut self) {
        let key = self.wal_key(self.wal);
        self.store.put_new(&key, b"WAL").unwrap();
        self.wal += 1;
    }

    pub(super) fn wal_key(&self, number: u64) -> Key {
        let name = WalSegmentName::numbered(TimelineId::FIRST, number, SIZE);
        layout::wal(self.system, WalFileName::Segment(name), &[7; 16])
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn uptime(&self) -> Arc<dyn Uptime> {
        Arc::new(ClockUptime(Arc::clone(&self.clock)))
    }

    /// Begins a backup: pin, parent, packs. `Err` where this host is dead.
    pub(super) fn begin<'a>(
        &mut self,
        repository: &'a Repository,
        kind: BackupType,
    ) -> Result<Making<'a>, Box<dyn std::error::Error>> {
        let id = random::backup_id();
        let request = GuardRequest {
            operation: "backup",
            backup: Some(id),
            uses: Uses::Source(self.source),
            host: "db1",
            now: self.now(),
            uptime: self.uptime(),
            renew: false,
        };
        let guard = Guard::begin(repository, &request)?;
        let forbidden = guard.forbidden();
        let mut packs: Vec<PackUse> = Vec::new();
        let mut parent = None;
        if kind != BackupType::Full {
            let all = repository.list_commits(self.source, &mut |_, _| {})?;
            let good = |record: &&CommitRecord| !forbidden.has_backup(self.source, record.commit.backup);
            if let Some(found) = all.iter().rev().find(good) {
                parent = Some(found.commit.backup);
                packs.extend(found.packs.iter().filter(|pack| !forbidden.has_pack(pack.id)).step_by(2));
            }
        }
        guard.uses(parent.as_slice())?;
        for _ in 0..3 {
            let id = random::object_id();
            repository.store().put_new(&layout::pack(id), b"frames")?;
            packs.push(PackUse { id, key: ObjectId::NONE, size: 6, live: 6 });
        }
        packs.sort_by_key(|pack| pack.id);
        let kind = if parent.is_none() { BackupType::Full } else { kind };
        let start = Lsn(self.wal * SIZE.bytes() + 40);
        let point = ClusterPoint {
            system: self.system,
            timeline: TimelineId::FIRST,
            start_lsn: start,
            stop_lsn: Lsn(start.0 + 1000),
            start_time: self.now(),
            stop_time: self.now(),
            wal_segment_size: SIZE.bytes() as u32,
            server_version: 150_018,
            checksums: true,
            standby: false,
            stop_record: None,
        };
        let commit = Commit {
            source: self.source,
            backup: id,
            number: 0,
            kind,
            parent,
            started: self.now(),
            finished: self.now(),
            cluster: point,
            sizes: Sizes::default(),
            keys: Vec::new(),
            root: RootRef { frames: Vec::new(), digest: [0; 32] },
            own_wal: false,
            bad_pages: 0,
        };
        self.archive();
        Ok(Making { guard, commit, packs })
    }

    /// Writes the commit of a backup.
    pub(super) fn put(
        &mut self,
        repository: &Repository,
        making: &mut Making<'_>,
    ) -> Result<(), refloat_repo::RepoError> {
        making.commit.number = repository.next_commit_number(self.source)?;
        making.commit.finished = self.now();
        making.commit.cluster.stop_time = self.now();
        repository.put_commit(&making.commit, &making.packs, &CommitNames::default(), None)
    }

    /// The last look, and the acknowledgement.
    pub(super) fn acknowledge(&mut self, making: Making<'_>) -> bool {
        let good = making.guard.after_commit(&making.commit, &making.packs).is_ok();
        if good {
            let packs = making.packs.clone().into();
            self.made.push(CommitRecord { commit: making.commit, packs, agent: ObjectId::NONE });
        }
        good
    }

    /// A whole backup at once.
    pub(super) fn backup(&mut self, host: usize, kind: BackupType) -> Option<BackupId> {
        let repository = Arc::clone(&self.hosts[host].repository);
        let mut making = self.begin(&repository, kind).ok()?;
        let id = making.commit.backup;
        making.guard.before_commit(&making.commit, &making.packs).ok()?;
        self.put(&repository, &mut making).ok()?;
        self.acknowledge(making).then_some(id)
    }

    /// Runs the real expiry on a host.
    pub(super) fn expire(&self, host: usize) -> Result<ExpireReport, ExpireError> {
        run_expire(&self.hosts[host].repository, self.source, self.policy.as_ref(), &self.clock)
    }

    /// All objects that are there.
    pub(super) fn objects(&self, prefix: &str) -> BTreeSet<Key> {
        let mut all = BTreeSet::new();
        let listed = self.store.list(prefix, &mut |info| {
            all.insert(info.key);
            ControlFlow::Continue(())
        });
        listed.unwrap();
        all
    }

    pub(super) fn is_there(&self, backup: BackupId) -> bool {
        let ending = format!("-{backup}");
        self.objects(&layout::commits(self.source)).iter().any(|key| key.as_str().ends_with(&ending))
    }

    /// Packs of a backup that are not there.
    pub(super) fn lacks(&self, record: &CommitRecord) -> usize {
        let gone = |pack: &&PackUse| self.store.head(&layout::pack(pack.id)).unwrap().is_none();
        record.packs.iter().filter(gone).count()
    }
}

pub(super) fn run_expire(
    repository: &Repository,
    source: SourceId,
    policy: Option<&Policy>,
    clock: &Arc<ManualClock>,
) -> Result<ExpireReport, ExpireError> {
    let policies: BTreeMap<SourceId, Policy> =
        policy.iter().map(|policy| (source, (*policy).clone())).collect();
    expire(&ExpireRequest {
        repository,
        policies,
        grace: GRACE,
        host: "db1",
        clock: clock.as_ref(),
        uptime: Arc::new(ClockUptime(Arc::clone(clock))),
        progress: &Silent,
    })
}

fn clone(protection: &Protection) -> Protection {
    match protection {
        Protection::Recipients { recipients, identity } => {
            Protection::Recipients { recipients: recipients.clone(), identity: identity.clone() }
        }
        _ => Protection::None,
    }
}
