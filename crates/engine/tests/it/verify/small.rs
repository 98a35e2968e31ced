//! A small repository in memory that has everything a repository can have: two hosts, two backups that share a leaf, one
//! with its own WAL, WAL segments with their history and backup files, records, and the pack of a backup that died.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use refloat_engine::progress::Silent;
use refloat_engine::verify::{Scope, VerifyReport, VerifyRequest, verify};
use refloat_engine::wal::{PushOptions, push};
use refloat_pg::control;
use refloat_repo::commit::{BackupType, ClusterPoint, Commit, CommitNames, PackUse, Sizes};
use refloat_repo::crypt::identity::Identity;
use refloat_repo::crypt::random;
use refloat_repo::manifest::leaf::LEAF_SPAN;
use refloat_repo::manifest::root::LeafGatherer;
use refloat_repo::manifest::{Entry, FileStat, Leaf, LeafRef, ManifestWriter, What};
use refloat_repo::pack::frame::Content;
use refloat_repo::pack::{PackSummary, Packer};
use refloat_repo::repository::{
    Credentials, InitOptions, OperationRecord, OwnerRecord, Protection, Shown, SourceDescription,
};
use refloat_repo::{Compression, Repository, StateDirectory};
use refloat_store::{Key, Store as _};
use refloat_testkit::cluster::{TestCluster, wait_until};
use refloat_testkit::memory_store::Memory;
use refloat_types::{
    BackupId, Clock as _, Lsn, SourceId, SystemClock, SystemIdentifier, TimelineId, WalSegmentName,
    WalSegmentSize,
};

/// Real WAL of a real server, in segments of 1 MiB.
pub(crate) struct RealWal {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) system: SystemIdentifier,
    /// WAL segments, in order and without a gap.
    pub(crate) segments: Vec<WalSegmentName>,
    /// A backup history file.
    pub(crate) backup_file: String,
}

pub(crate) const SIZE: WalSegmentSize = match WalSegmentSize::new(1 << 20) {
    Some(size) => size,
    None => panic!("PostgreSQL has this size"),
};

pub(crate) fn real_wal() -> &'static RealWal {
    static WAL: OnceLock<RealWal> = OnceLock::new();
    WAL.get_or_init(|| {
        let mut cluster =
            TestCluster::builder().wal_segment_size_mb(1).setting("archive_mode", "on").build_stopped();
        let archived = cluster.make_dir("archived");
        cluster.configure("archive_command", &format!("cp %p {}/%f", archived.display()));
        cluster.start();
        cluster.psql("postgres", "create table t (a int); select pg_switch_wal()");
        for n in 0..4 {
            cluster.psql("postgres", &format!("insert into t values ({n}); select pg_switch_wal()"));
        }
        let start = "select pg_backup_start('x', true)";
        cluster.psql("postgres", &format!("{start}; select pg_backup_stop(false)"));
        cluster.psql("postgres", "insert into t values (9); select pg_switch_wal()");
        let names = || {
            let entries = std::fs::read_dir(&archived).unwrap();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let ready = || std::fs::read_dir(cluster.data_directory().join("pg_wal/archive_status")).unwrap();
        let done = || {
            ready().all(|entry| entry.unwrap().path().extension().is_some_and(|end| end == "done"))
                && names().iter().any(|name| name.ends_with(".backup"))
        };
        assert!(wait_until(Duration::from_secs(60), done));
        let directory = tempfile::tempdir().unwrap();
        for name in names() {
            std::fs::copy(archived.join(&name), directory.path().join(&name)).unwrap();
        }
        let (control, _) = control::read_settled(cluster.data_directory()).unwrap();
        let mut segments: Vec<WalSegmentName> = names().iter().filter_map(|name| name.parse().ok()).collect();
        // The last six will do, and each stands for 256 verifications a kilobyte.
        segments = segments.split_off(segments.len().saturating_sub(6));
        let backup_file = names().into_iter().find(|name| name.ends_with(".backup")).unwrap();
        RealWal { directory, system: control.system_identifier, segments, backup_file }
    })
}

/// The repository.
pub(crate) struct Small {
    pub(crate) store: Memory,
    pub(crate) state: tempfile::TempDir,
    pub(crate) repository: Repository,
    pub(crate) source: SourceId,
    pub(crate) backups: Vec<BackupId>,
    identity: Option<Identity>,
}

impl Small {
    pub(crate) fn encrypted() -> Self {
        let identity = Identity::draw();
        let recipients = vec![identity.recipient()];
        let protection = Protection::Recipients { recipients, identity: Some(identity.clone()) };
        Self::new(protection, Some(identity))
    }

    pub(crate) fn plain() -> Self {
        Self::new(Protection::None, None)
    }

    fn new(protection: Protection, identity: Option<Identity>) -> Self {
        let store = Memory::new();
        let state = tempfile::tempdir().unwrap();
        let options = InitOptions { protection, now: SystemClock.now() };
        let first = StateDirectory::new(state.path().join("first"));
        let repository = Repository::init(Arc::new(store.clone()), first, options).unwrap();
        let mut small =
            Self { store, state, repository, source: SourceId::NONE, backups: Vec::new(), identity };
        small.fill();
        small
    }

    fn fill(&mut self) {
        let now = SystemClock.now();
        let repository = &self.repository;
        let wal = real_wal();
        let description = |data: &str| SourceDescription {
            name: "prod".parse().unwrap(),
            kind: "postgres".to_owned(),
            host: "db1".to_owned(),
            data_directory: data.to_owned(),
        };
        self.source = repository.describe_source(None, &description("/a"), wal.system, now).unwrap().id;
        repository.describe_source(Some(self.source), &description("/b"), wal.system, now).unwrap();
        for timeline in [1, 2] {
            let record = OwnerRecord {
                source: self.source,
                number: 0,
                at: now,
                system: wal.system,
                timeline: TimelineId::new(timeline).unwrap(),
                fork_lsn: None,
                restored_from: None,
            };
            repository.put_owner(record).unwrap();
        }
        for shown in [Shown::Declared, Shown::Entered] {
            repository.put_confirmation(shown, None, now).unwrap();
        }
        self.record(&self.repository, "init", None);
        for name in wal.segments.iter().map(ToString::to_string).chain([wal.backup_file.clone()]) {
            self.push(&self.repository, &wal.directory.path().join(name));
        }
        let behind = wal.segments.last().unwrap().end(SIZE);
        let history = self.state.path().join("00000002.history");
        std::fs::write(&history, format!("1\t{behind}\tno recovery target specified\n")).unwrap();
        self.push(&self.repository, &history);
        let (first, leaf, packs) = self.backup(1, false, None);
        let (second, _, _) = self.backup(2, true, Some((leaf, packs)));
        self.backups = vec![first, second];
        // A second host, and a backup of which only a pack was written.
        let other = self.open(&self.store, "second");
        self.record(&other, "check", None);
        self.record(&other, "check", None);
        self.died();
    }

    pub(crate) fn record(&self, repository: &Repository, operation: &str, about: Option<String>) {
        let record = OperationRecord {
            operation: operation.to_owned(),
            source: Some("prod".to_owned()),
            who: "postgres@db1".to_owned(),
            started: SystemClock.now(),
            seconds: 1.0,
            result: "done".to_owned(),
            detail: None,
            bytes: 1,
            about,
            version: "0.1.0".to_owned(),
        };
        repository.record_operation(&record, SystemClock.now()).unwrap();
    }

    pub(crate) fn push(&self, repository: &Repository, path: &Path) {
        let options = PushOptions {
            compression: Compression::default(),
            now: SystemClock.now(),
            expected_system: Some(real_wal().system),
            data_directory: None,
            source: None,
            acknowledge: 1,
            deadline: Duration::from_secs(60),
        };
        push(&[repository], &options, path).unwrap();
    }

    fn packer(&self, key: Option<&Arc<refloat_repo::crypt::seal::DataKey>>) -> Packer {
        let store = Arc::new(self.store.clone());
        Packer::new(store, key.cloned(), Compression::default(), Arc::new(|_| Ok(()))).unwrap()
    }

    fn died(&self) {
        let key = self.repository.draw_key("backup", SystemClock.now()).unwrap();
        let mut packer = self.packer(key.as_ref());
        packer.add(Content::Data, b"nobody needs this").unwrap();
        packer.finish().unwrap();
    }

    /// A backup of a few files; the second one shares a leaf of the first.
    fn backup(
        &self,
        number: u64,
        own_wal: bool,
        shared: Option<(LeafRef, Vec<PackUse>)>,
    ) -> (BackupId, LeafRef, Vec<PackUse>) {
        let repository = &self.repository;
        let now = SystemClock.now();
        let key = repository.draw_key("backup", now).unwrap();
        let (mut data, mut meta) = (self.packer(key.as_ref()), self.packer(key.as_ref()));
        let mut files = files(number);
        let mut gatherer = LeafGatherer::default();
        let mut places: Vec<Vec<LeafRef>> = vec![Vec::new(); files.len() + 8];
        if own_wal {
            for segment in &real_wal().segments[1..=2] {
                let bytes = std::fs::read(real_wal().directory.path().join(segment.to_string())).unwrap();
                files.push((format!("pg_wal/{segment}"), bytes));
            }
        }
        for (at, (_, bytes)) in files.iter().enumerate() {
            for (place, span) in bytes.chunks(LEAF_SPAN as usize).enumerate() {
                let mut encoded = Vec::new();
                leaf_of(span, &mut data, repository).encode(&mut encoded);
                for ((file, _), leaf) in gatherer.add(&mut meta, (at, place), &encoded).unwrap() {
                    places[file].push(leaf);
                }
            }
        }
        for ((file, _), leaf) in gatherer.flush(&mut meta).unwrap() {
            places[file].push(leaf);
        }
        let first_leaf = places[1][0];
        let mut entries = entries(&files, places);
        if let Some((leaf, _)) = &shared {
            let bytes = &self::files(1)[1].1;
            entries.push(file_entry("base/shared", bytes.len() as u64, vec![*leaf]));
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let source: u64 =
            entries.iter().map(|e| if let What::File { size, .. } = e.what { size } else { 0 }).sum();
        let mut writer = ManifestWriter::new(&mut meta);
        entries.iter().for_each(|entry| writer.push(entry).unwrap());
        writer.blob("backup_label", b"START WAL LOCATION").unwrap();
        writer.blob("facts", b"{}").unwrap();
        let root = writer.finish().unwrap();
        let mut packs = uses(&[data.finish().unwrap(), meta.finish().unwrap()]);
        let own = packs.clone();
        packs.extend(shared.iter().flat_map(|(_, packs)| packs.iter().copied()));
        packs.sort_by_key(|pack| pack.id);
        let mut keys: Vec<_> = packs.iter().map(|pack| pack.key).filter(|key| key.0 != [0; 16]).collect();
        keys.dedup();
        let id = random::backup_id();
        let (start, stop) = (real_wal().segments[1].start(SIZE), real_wal().segments[2].start(SIZE));
        let commit = Commit {
            source: self.source,
            backup: id,
            number,
            kind: BackupType::Full,
            parent: None,
            started: now,
            finished: now,
            cluster: ClusterPoint {
                system: real_wal().system,
                timeline: TimelineId::FIRST,
                start_lsn: start.plus(40),
                stop_lsn: Lsn(stop.0 + 200),
                start_time: now,
                stop_time: now,
                wal_segment_size: SIZE.bytes() as u32,
                server_version: 150_018,
                checksums: true,
                standby: false,
                stop_record: None,
            },
            sizes: Sizes { entries: entries.len() as u64, source, read: source, stored: 1 },
            keys,
            root,
            own_wal,
            bad_pages: 0,
        };
        let names = CommitNames { source_name: "prod".to_owned(), ..CommitNames::default() };
        repository.put_commit(&commit, &packs, &names, key.as_deref()).unwrap();
        self.record(repository, "backup", Some(id.to_string()));
        (id, first_leaf, own)
    }

    /// The repository as a host of this name sees it in `store`, which may be a copy of ours.
    pub(crate) fn open(&self, store: &Memory, host: &str) -> Repository {
        let state = StateDirectory::new(self.state.path().join(host));
        let fingerprint = self.repository.fingerprint();
        let mut credentials = || {
            Ok(match &self.identity {
                Some(identity) => Credentials::Identity(identity.clone()),
                None => Credentials::Unencrypted,
            })
        };
        // Without encryption only the first host holds the root key.
        if self.identity.is_none() && host != "first" {
            let id = self.repository.marker().id;
            let root = |host: &str| self.state.path().join(host).join(format!("repositories/{id}/root.json"));
            std::fs::create_dir_all(root(host).parent().unwrap()).unwrap();
            std::fs::copy(root("first"), root(host)).unwrap();
        }
        let store = Arc::new(store.clone());
        Repository::open(store, state, Some(&fingerprint), SystemClock.now(), &mut credentials).unwrap()
    }
}

/// Files of backup `number`, in the order of their paths.
pub(crate) fn files(number: u64) -> Vec<(String, Vec<u8>)> {
    let noise = |length: usize, seed: u64| {
        let mut state = seed;
        let step = move |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(step).collect::<Vec<u8>>()
    };
    let mut holes = noise(3000, 7 + number);
    holes.extend(vec![0; 300_000]);
    holes.extend(noise(2000, 8 + number));
    let mut large = vec![0; LEAF_SPAN as usize];
    large.extend(noise(100, 9 + number));
    vec![
        ("PG_VERSION".to_owned(), b"15\n".to_vec()),
        ("base/5/1".to_owned(), noise(5000, number)),
        ("base/5/2".to_owned(), holes),
        ("base/5/3".to_owned(), Vec::new()),
        ("base/5/4".to_owned(), large),
        ("global/pg_control".to_owned(), noise(296, 100 + number)),
    ]
}

/// Frames of 2 KiB, so that a small file has several.
fn leaf_of(bytes: &[u8], packer: &mut Packer, repository: &Repository) -> Leaf {
    const FRAME: usize = 2048;
    let mut leaf = Leaf { block_size: 8192, crc32c: crc32c::crc32c(bytes), ..Leaf::default() };
    let hasher = repository.page_hasher();
    leaf.hashes = bytes.chunks(8192).map(|page| hasher.hash(page)).collect();
    for piece in bytes.chunks(FRAME) {
        if piece.iter().all(|byte| *byte == 0) {
            leaf.push_zeros(piece.len() as u64);
        } else {
            leaf.push_frame(piece.len() as u64, &packer.add(Content::Data, piece).unwrap(), 0);
        }
    }
    leaf
}

fn file_entry(path: &str, size: u64, leaves: Vec<LeafRef>) -> Entry {
    let what = What::File { size, stat: FileStat::default(), leaves: leaves.into() };
    Entry { path: path.as_bytes().to_vec(), mode: 0o600, uid: 1, gid: 1, mtime_ns: 5, what }
}

fn entries(files: &[(String, Vec<u8>)], places: Vec<Vec<LeafRef>>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = files
        .iter()
        .zip(places)
        .map(|((path, bytes), leaves)| file_entry(path, bytes.len() as u64, leaves))
        .collect();
    for (path, what) in [
        ("base", What::Directory),
        ("base/5", What::Directory),
        ("global", What::Directory),
        ("pg_wal", What::Directory),
        ("pg_tblspc/1", What::Symlink { target: b"/elsewhere".to_vec() }),
    ] {
        let path = path.as_bytes().to_vec();
        entries.push(Entry { path, mode: 0o700, uid: 1, gid: 1, mtime_ns: 5, what });
    }
    entries
}

fn uses(summaries: &[PackSummary]) -> Vec<PackUse> {
    let of = |summary: &PackSummary| {
        let live = summary.live.clone();
        summary.packs.clone().into_iter().map(move |pack| PackUse {
            id: pack.id,
            key: pack.key,
            size: pack.size,
            live: live.get(&pack.id).copied().unwrap_or(0),
        })
    };
    summaries.iter().flat_map(of).collect()
}

/// Every object with its bytes, in the order of keys.
pub(crate) fn objects(store: &Memory) -> Vec<(Key, Vec<u8>)> {
    objects_of(store)
}

/// A store of its own with the same objects.
pub(crate) fn copy(objects: &[(Key, Vec<u8>)]) -> Memory {
    let store = Memory::new();
    for (key, bytes) in objects {
        store.put_new(key, bytes).unwrap();
    }
    store
}

pub(crate) fn verify_all(repository: &Repository, read_data: bool, jobs: usize) -> VerifyReport {
    verify_scope(repository, Scope::Repository, read_data, jobs)
}

pub(crate) fn verify_scope(
    repository: &Repository,
    scope: Scope,
    read_data: bool,
    jobs: usize,
) -> VerifyReport {
    let now = SystemClock.now();
    verify(&VerifyRequest { repository, scope, read_data, jobs, host: "test", now, progress: &Silent })
        .unwrap()
}

/// Every object of any store with its bytes.
pub(crate) fn objects_of(store: &dyn refloat_store::Store) -> Vec<(Key, Vec<u8>)> {
    let mut all = Vec::new();
    let listed = store.list("", &mut |info| {
        all.push((info.key, info.size));
        ControlFlow::Continue(())
    });
    listed.unwrap();
    all.sort();
    let read = |(key, size): (Key, u64)| {
        let mut bytes = Vec::new();
        store.read(&key, 0..size, &mut bytes).unwrap();
        (key, bytes)
    };
    all.into_iter().map(read).collect()
}

/// A backup of so many bytes in files of 1 GiB; answers how many.
pub(crate) fn large_backup(repository: &Repository, bytes: u64) -> u64 {
    let now = SystemClock.now();
    let system = SystemIdentifier(7);
    let description = SourceDescription {
        name: "large".parse().unwrap(),
        kind: "postgres".to_owned(),
        host: "db1".to_owned(),
        data_directory: "/a".to_owned(),
    };
    let source = repository.describe_source(None, &description, system, now).unwrap().id;
    let timeline = TimelineId::FIRST;
    let owner =
        OwnerRecord { source, number: 0, at: now, system, timeline, fork_lsn: None, restored_from: None };
    repository.put_owner(owner).unwrap();
    let key = repository.draw_key("backup", now).unwrap();
    let packer = || {
        let store = Arc::clone(repository.store());
        Packer::new(store, key.clone(), Compression::default(), Arc::new(|_| Ok(()))).unwrap()
    };
    let (mut data, mut meta) = (packer(), packer());
    let mut gatherer = LeafGatherer::default();
    let mut leaves = Vec::new();
    let mut page = vec![0_u8; 256 << 10];
    for span in 0..bytes / LEAF_SPAN {
        let mut leaf = Leaf { block_size: 8192, ..Leaf::default() };
        for frame in 0..LEAF_SPAN / page.len() as u64 {
            for (at, byte) in page.iter_mut().enumerate().step_by(61) {
                *byte = (span * 131 + frame * 17 + at as u64) as u8;
            }
            leaf.crc32c = crc32c::crc32c_append(leaf.crc32c, &page);
            leaf.hashes.extend((0..32).map(|n| span * n));
            leaf.push_frame(page.len() as u64, &data.add(Content::Data, &page).unwrap(), 0);
        }
        let mut encoded = Vec::new();
        leaf.encode(&mut encoded);
        leaves.extend(gatherer.add(&mut meta, (0, span as usize), &encoded).unwrap());
    }
    leaves.extend(gatherer.flush(&mut meta).unwrap());
    leaves.sort_by_key(|(name, _)| *name);
    let entry = file_entry("base/5/1", bytes, leaves.into_iter().map(|(_, leaf)| leaf).collect());
    let mut writer = ManifestWriter::new(&mut meta);
    writer.push(&entry).unwrap();
    let segment: WalSegmentName = "000000010000000000000001".parse().unwrap();
    let wal = file_entry(&format!("pg_wal/{segment}"), 0, Vec::new());
    writer.push(&wal).unwrap();
    let root = writer.finish().unwrap();
    let mut packs = uses(&[data.finish().unwrap(), meta.finish().unwrap()]);
    packs.sort_by_key(|pack| pack.id);
    let start = segment.start(WalSegmentSize::DEFAULT);
    let commit = Commit {
        source,
        backup: random::backup_id(),
        number: 1,
        kind: BackupType::Full,
        parent: None,
        started: now,
        finished: now,
        cluster: ClusterPoint {
            system,
            timeline,
            start_lsn: start.plus(40),
            stop_lsn: start.plus(4000),
            start_time: now,
            stop_time: now,
            wal_segment_size: WalSegmentSize::DEFAULT.bytes() as u32,
            server_version: 150_018,
            checksums: true,
            standby: false,
            stop_record: None,
        },
        sizes: Sizes { entries: 2, source: bytes, read: bytes, stored: 1 },
        keys: key.iter().map(|key| key.id()).collect(),
        root,
        own_wal: true,
        bad_pages: 0,
    };
    repository.put_commit(&commit, &packs, &CommitNames::default(), key.as_deref()).unwrap();
    bytes
}
