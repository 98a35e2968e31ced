//! A repository with one of everything that this release writes.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use refloat_repo::commit::{BackupType, ClusterPoint, Commit, CommitNames, PackUse, Sizes};
use refloat_repo::crypt::random;
use refloat_repo::manifest::root::{LeafGatherer, LeafReader, read_part};
use refloat_repo::manifest::{Entry, FileStat, Leaf, LeafRef, ManifestWriter, Root, What};
use refloat_repo::pack::frame::Content;
use refloat_repo::pack::{FrameOpener, Packer};
use refloat_repo::repository::{OperationRecord, OwnerRecord, Shown, SourceDescription, StoredWal};
use refloat_repo::wal_object::Wanted;
use refloat_repo::wal_object::{NewWal, WalDigest, WalFrames};
use refloat_repo::{Compression, RepoError, Repository, layout};
use refloat_store::{Key, Store};
use refloat_types::{BackupId, Lsn, SourceId, SystemIdentifier, TimelineId, Timestamp, WalFileName};

pub(crate) const SYSTEM: SystemIdentifier = SystemIdentifier(7_300_000_000_000_000_001);

pub(crate) fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

/// Path and bytes of the files in the backup.
pub(crate) fn files() -> Vec<(&'static str, Vec<u8>)> {
    let text = "the quick brown fox jumps over the lazy dog\n".repeat(20);
    vec![
        ("PG_VERSION", b"15\n".to_vec()),
        ("base/5/16384", [text.as_bytes(), &[0; 20_000], b"end"].concat()),
        ("base/5/empty", Vec::new()),
        ("global/pg_control", (0..=255).collect()),
    ]
}

/// The bytes of a WAL file, of several frames.
pub(crate) fn wal_bytes() -> Vec<u8> {
    (0..300_000_u32).map(|n| (n / 1000) as u8).collect()
}

pub(crate) fn wal_name() -> WalFileName {
    "000000010000000000000003".parse().unwrap()
}

/// What [`fill`] made.
pub(crate) struct Filled {
    pub(crate) source: SourceId,
    pub(crate) backup: BackupId,
}

/// Puts one of everything into a repository.
pub(crate) fn fill(repository: &Repository) -> Filled {
    let description = SourceDescription {
        name: "prod".parse().unwrap(),
        kind: "postgres".to_owned(),
        host: "db1".to_owned(),
        data_directory: "/var/lib/postgresql/15/main".to_owned(),
    };
    let source = repository.describe_source(None, &description, SYSTEM, now()).unwrap().id;
    let owner = OwnerRecord {
        source,
        number: 0,
        at: now(),
        system: SYSTEM,
        timeline: TimelineId::FIRST,
        fork_lsn: None,
        restored_from: None,
    };
    repository.put_owner(owner).unwrap();
    if repository.needs_confirmation() {
        repository.put_confirmation(Shown::Entered, None, now()).unwrap();
    }
    put_wal(repository, &wal_bytes()).unwrap();
    let backup = put_backup(repository, source);
    record(repository, "init", None);
    record(repository, "backup", Some(backup));
    Filled { source, backup }
}

pub(crate) fn record(repository: &Repository, operation: &str, about: Option<BackupId>) {
    let record = OperationRecord {
        operation: operation.to_owned(),
        source: Some("prod".to_owned()),
        who: "postgres@db1".to_owned(),
        started: now(),
        seconds: 1.5,
        result: "done".to_owned(),
        detail: None,
        bytes: 42,
        about: about.map(|id| id.to_string()),
        version: "0.1.0".to_owned(),
    };
    repository.record_operation(&record, now()).unwrap();
}

pub(crate) fn put_wal(repository: &Repository, bytes: &[u8]) -> Result<StoredWal, RepoError> {
    let mut digest = WalDigest::new(repository.naming_key());
    digest.update(bytes);
    let key = repository.writer_key(now())?;
    let wal = NewWal {
        name: wal_name(),
        system: SYSTEM,
        size: bytes.len() as u64,
        digest: digest.finish(),
        stored: now(),
        facts: serde_json::json!({ "history": [] }),
        sealed_facts: serde_json::json!({ "restore_points": [] }),
        compression: Compression::default(),
        key: key.as_deref(),
        signing: repository.signing(),
    };
    let (key, size) = repository.put_wal(&wal, &WalFrames::of(Compression::default(), bytes)?)?;
    let (name, digest) = layout::parse_wal(&key).unwrap();
    Ok(StoredWal { key, name, digest, size })
}

/// A packer for each way to compress, so that a backup has frames of each.
pub(crate) fn put_backup(repository: &Repository, source: SourceId) -> BackupId {
    let key = repository.draw_key("backup", now()).unwrap();
    let packer = |how| {
        let store = Arc::clone(repository.store());
        Packer::new(store, key.clone(), how, Arc::new(|_| Ok(()))).unwrap()
    };
    let mut data = [packer(Compression::Zstd(1)), packer(Compression::Lz4), packer(Compression::None)];
    let mut meta = packer(Compression::default());
    let mut gatherer = LeafGatherer::default();
    let files = files();
    let mut places: Vec<Vec<LeafRef>> = vec![Vec::new(); files.len()];
    for (at, (_, bytes)) in files.iter().enumerate() {
        let mut leaf = Leaf { block_size: 8192, crc32c: crc32c::crc32c(bytes), ..Leaf::default() };
        leaf.hashes = bytes.chunks(8192).map(|page| repository.page_hasher().hash(page)).collect();
        for (piece, packer) in bytes.chunks(500).zip((0..3).cycle()) {
            if piece.iter().all(|byte| *byte == 0) {
                leaf.push_zeros(piece.len() as u64);
            } else {
                leaf.push_frame(piece.len() as u64, &data[packer].add(Content::Data, piece).unwrap(), 0);
            }
        }
        let mut encoded = Vec::new();
        leaf.encode(&mut encoded);
        for ((file, _), leaf) in gatherer.add(&mut meta, (at, 0), &encoded).unwrap() {
            places[file].push(leaf);
        }
    }
    for ((file, _), leaf) in gatherer.flush(&mut meta).unwrap() {
        places[file].push(leaf);
    }
    let entry = |path: &str, mode, what| Entry {
        path: path.as_bytes().to_vec(),
        mode,
        uid: 1001,
        gid: 1002,
        mtime_ns: -5,
        what,
    };
    let mut entries = vec![
        entry("base", 0o700, What::Directory),
        entry("pg_tblspc/1", 0o777, What::Symlink { target: b"/elsewhere".to_vec() }),
    ];
    for ((path, bytes), leaves) in files.iter().zip(places) {
        let stat = FileStat { device: 1, inode: 2, ctime_ns: 3 };
        let what = What::File { size: bytes.len() as u64, stat, leaves: leaves.into() };
        entries.push(entry(path, 0o600, what));
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let mut writer = ManifestWriter::new(&mut meta);
    entries.iter().for_each(|entry| writer.push(entry).unwrap());
    writer.blob("backup_label", b"START WAL LOCATION: 0/3000028\n").unwrap();
    let root = writer.finish().unwrap();
    let summaries: Vec<_> = data.into_iter().chain([meta]).map(|packer| packer.finish().unwrap()).collect();
    let mut packs = Vec::new();
    for summary in &summaries {
        packs.extend(summary.packs.iter().map(|pack| PackUse {
            id: pack.id,
            key: pack.key,
            size: pack.size,
            live: summary.live[&pack.id],
        }));
    }
    packs.sort_by_key(|pack| pack.id);
    let bytes = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let commit = Commit {
        source,
        backup: random::backup_id(),
        number: repository.next_commit_number(source).unwrap(),
        kind: BackupType::Full,
        parent: None,
        started: now(),
        finished: now(),
        cluster: ClusterPoint {
            system: SYSTEM,
            timeline: TimelineId::FIRST,
            start_lsn: Lsn(0x300_0028),
            stop_lsn: Lsn(0x300_0128),
            start_time: now(),
            stop_time: now(),
            wal_segment_size: 16 << 20,
            server_version: 150_018,
            checksums: true,
            standby: false,
            stop_record: None,
        },
        sizes: Sizes {
            entries: entries.len() as u64,
            source: bytes,
            read: bytes,
            stored: packs.iter().map(|pack| pack.size).sum(),
        },
        keys: key.iter().map(|key| key.id()).collect(),
        root,
        own_wal: false,
        bad_pages: 0,
    };
    let names = CommitNames {
        source_name: "prod".to_owned(),
        host: "db1".to_owned(),
        label: Some("sample".to_owned()),
        ..CommitNames::default()
    };
    repository.put_commit(&commit, &packs, &names, key.as_deref()).unwrap();
    commit.backup
}

/// Every file of a backup.
pub(crate) fn read_files(
    repository: &Repository,
    source: SourceId,
    backup: BackupId,
) -> Result<Vec<(String, Vec<u8>)>, RepoError> {
    let store = repository.store().as_ref();
    let record = repository
        .find_commit(source, backup)?
        .ok_or_else(|| RepoError::Missing { object: backup.to_string() })?;
    let mut opener = FrameOpener::new(Arc::new(repository.pack_keys(&record)?))?;
    let root = Root::read(store, &mut opener, &record.commit.root)?;
    let (mut leaves, mut out) = (LeafReader::default(), Vec::new());
    for part in &root.parts {
        for entry in read_part(store, &mut opener, part)? {
            let What::File { leaves: places, .. } = &entry.what else { continue };
            let mut bytes = Vec::new();
            for place in places.iter() {
                let leaf = leaves.read(store, &mut opener, place)?;
                let mut plain = Vec::new();
                for run in &leaf.runs {
                    match run.source {
                        None => bytes.resize(bytes.len() + run.length as usize, 0),
                        Some((frame, at)) => {
                            opener.fetch(store, leaf.frames.get(frame).unwrap(), &mut plain)?;
                            bytes.extend_from_slice(&plain[at as usize..at as usize + run.length as usize]);
                        }
                    }
                }
                if crc32c::crc32c(&bytes) != leaf.crc32c {
                    return Err(RepoError::damaged(backup, "its bytes are others"));
                }
            }
            out.push((String::from_utf8(entry.path).unwrap(), bytes));
        }
    }
    Ok(out)
}

pub(crate) fn expected_files() -> Vec<(String, Vec<u8>)> {
    files().into_iter().map(|(path, bytes)| (path.to_owned(), bytes)).collect()
}

pub(crate) fn read_wal(repository: &Repository) -> Result<Vec<u8>, RepoError> {
    let found = repository.find_wal(SYSTEM, wal_name())?;
    let [stored] = found.as_slice() else { panic!("{} objects", found.len()) };
    let head = repository.read_wal_head(stored)?;
    let mut bytes = Vec::new();
    let in_order = repository.read_wal(&head, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    });
    // By two threads or one, each piece to its place: the same bytes, or the same refusal.
    let placed = Mutex::new(vec![0; head.clear.size as usize]);
    for wanted in [Wanted::Soon, Wanted::Now] {
        let by_place = repository.place_wal(stored, wanted, &|offset, piece| {
            placed.lock().unwrap()[offset as usize..][..piece.len()].copy_from_slice(piece);
            Ok(())
        });
        assert_eq!(in_order.is_ok(), by_place.is_ok(), "{wanted:?}: {in_order:?} {by_place:?}");
    }
    in_order?;
    assert!(bytes == placed.into_inner().unwrap());
    Ok(bytes)
}

/// Every object with its bytes, in the order of keys.
pub(crate) fn objects(store: &dyn Store) -> Vec<(Key, Vec<u8>)> {
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
