//! One byte flipped, an object cut, lengthened, taken away, or swapped with another: `verify` names it and what depends on
//! it; and whoever reads gets the bytes that were stored, or an error.
//!
//! Objects that say nothing about each other are damaged in the same run, or this would take an hour: each must still be
//! named.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use refloat_engine::progress::Silent;
use refloat_engine::restore::read::{Backup, FileSlot, Sink, SinkError, Window};
use refloat_engine::verify::{Finding, FindingKind, Grade, VerifyReport};
use refloat_repo::Repository;
use refloat_repo::layout::Named;
use refloat_store::{Key, Store as _};
use refloat_testkit::memory_store::Memory;

use super::small::{Small, copy, files, objects, real_wal, verify_all};

#[test]
fn a_whole_repository_has_nothing_wrong() {
    for small in [Small::encrypted(), Small::plain()] {
        for read_data in [false, true] {
            let report = verify_all(&small.repository, read_data, 2);
            assert!(!report.needs_attention(), "{:#?}", report.findings);
            let kinds: Vec<_> = report.findings.iter().map(|f| (f.kind, f.grade)).collect();
            assert_eq!(kinds, [(FindingKind::NotNeeded, Grade::Note)], "{:#?}", report.findings);
            let all = objects(&small.store);
            assert_eq!(report.objects.expected, all.len() as u64);
            assert_eq!(report.objects.present, all.len() as u64);
            assert!(report.backups.iter().all(|b| b.restorable && b.recoverable && b.manifest_read));
            let bytes: usize = all
                .iter()
                .filter(|(key, _)| key.as_str().starts_with("packs/") || key.as_str().starts_with("wal/"))
                .map(|(_, bytes)| bytes.len())
                .sum();
            assert_eq!(report.bytes_read, if read_data { bytes as u64 } else { 0 });
        }
    }
}

/// What deleting goes by is checked like everything else.
#[test]
fn tombstones_and_holds_are_checked() {
    use refloat_repo::repository::{HoldWords, Marked};
    use refloat_types::{Clock as _, SystemClock};
    for small in [Small::encrypted(), Small::plain()] {
        let (repository, now) = (&small.repository, SystemClock.now());
        let before: BTreeSet<Key> = objects(&small.store).into_iter().map(|(key, _)| key).collect();
        let words = HoldWords { reason: "audit".to_owned(), who: "ann@db1".to_owned() };
        for backup in &small.backups {
            repository.add_hold(small.source, *backup, &words, None, now).unwrap();
        }
        let second = repository.list_holds().unwrap()[1].id;
        repository.release_hold(second, &words, now).unwrap();
        let pack = before.iter().find(|key| key.as_str().starts_with("packs/")).unwrap();
        let mut marked = Marked::default();
        marked.add_commit(small.source, 1, small.backups[0]);
        let judged = [(small.source, vec![format!("{:010}-{}", 1, small.backups[0])])].into();
        repository.put_tombstone(vec![pack.clone()], judged, marked, now).unwrap();
        assert_eq!(repository.list_holds().unwrap().len(), 1);
        assert!(!verify_all(repository, true, 1).needs_attention());
        let new: Vec<Object> =
            objects(&small.store).into_iter().filter(|(key, _)| !before.contains(key)).collect();
        assert_eq!(new.len(), 4);
        for object in &new {
            for at in (0..object.1.len()).step_by(17) {
                let one = std::slice::from_ref(object);
                let report = damaged(&small.store, repository, one, false, &|bytes| bytes[at] ^= 4);
                finding(&report, &object.0, &format!("byte {at}"));
            }
        }
    }
}

/// Objects of one group are damaged in the same run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// Packs, WAL and records: read only when every byte is.
    Data,
    /// What others are reached by.
    Heads,
    /// What vouches for others.
    Agents,
}

const GROUPS: [Group; 3] = [Group::Data, Group::Heads, Group::Agents];

fn group(key: &Key) -> Group {
    match Named::parse(key) {
        Some(Named::Agent(_)) => Group::Agents,
        Some(Named::Repository | Named::Commit(..) | Named::Envelope(_)) => Group::Heads,
        _ => Group::Data,
    }
}

type Object = (Key, Vec<u8>);

fn members(all: &[Object], of: Group) -> Vec<Object> {
    all.iter().filter(|(key, _)| group(key) == of).cloned().collect()
}

/// The finding about an object, which says what depends on it.
fn finding<'a>(report: &'a VerifyReport, key: &Key, what: &str) -> &'a Finding {
    let named = report.findings.iter().filter(|finding| finding.kind != FindingKind::NotNeeded);
    let found = named.into_iter().find(|finding| finding.names(key.as_str()));
    let lines = || report.findings.iter().map(|f| format!("\n{:?} {f}", f.kind)).collect::<String>();
    let Some(found) = found else { panic!("{what} of {key}: not named in {}", lines()) };
    assert!(!found.depends.is_empty(), "{what} of {key}: {found}");
    found
}

/// Calls `each` for every case on as many threads as there are processors, each with a copy of the repository.
fn for_cases<C: Sync>(small: &Small, cases: &[C], each: impl Fn(&C, &Memory, &Repository) + Sync) {
    let all = objects(&small.store);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let store = copy(&all);
                let repository = small.open(&store, "first");
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    each(case, &store, &repository);
                }
            });
        }
    });
}

/// Changes every object of `objects`, verifies, and puts the bytes back.
fn damaged(
    store: &Memory,
    repository: &Repository,
    objects: &[Object],
    read_data: bool,
    change: &dyn Fn(&mut Vec<u8>),
) -> VerifyReport {
    for (key, _) in objects {
        store.damage(key, change);
    }
    let report = verify_all(repository, read_data, 1);
    for (key, bytes) in objects {
        store.damage(key, |now| now.clone_from(bytes));
    }
    report
}

/// Every byte of objects below this size is flipped; larger ones at places spread over all of them.
const EVERY_BYTE: usize = 4096;

/// Every `step`-th byte beside the first and the last two hundred, which are flipped all.
fn every_flipped_byte_is_named(small: &Small, step: usize) {
    let all = objects(&small.store);
    for of in GROUPS {
        let members = members(&all, of);
        let longest = members.iter().map(|(_, bytes)| bytes.len()).filter(|n| *n < EVERY_BYTE).max();
        let longest = longest.unwrap_or(0);
        let ends = |at: usize| at < 200 || at + 200 >= longest;
        let cases: Vec<usize> = (0..longest).filter(|at| at % step == 0 || ends(*at)).collect();
        for_cases(small, &cases, |case, store, repository| {
            let at = |length: usize| match length {
                0..EVERY_BYTE => *case,
                // A step that shares no factor with the length meets other bytes each time, its ends first.
                _ => match case % 4 {
                    0 => case / 4 % 120,
                    1 => length - 1 - case / 4 % 120,
                    _ => case * 7919 % length,
                },
            };
            let hit: Vec<Object> =
                members.iter().filter(|(_, bytes)| at(bytes.len()) < bytes.len()).cloned().collect();
            let report = damaged(store, repository, &hit, of == Group::Data, &|bytes| {
                let at = at(bytes.len());
                bytes[at] ^= 1 << (case % 8);
            });
            for (key, bytes) in &hit {
                finding(&report, key, &format!("byte {}", at(bytes.len())));
            }
        });
    }
}

#[test]
fn flipped_bytes_are_named_in_an_encrypted_repository() {
    every_flipped_byte_is_named(&Small::encrypted(), 3);
}

#[test]
fn every_flipped_byte_is_named_in_a_plain_repository() {
    every_flipped_byte_is_named(&Small::plain(), 1);
}

#[test]
fn every_cut_and_every_addition_is_named() {
    for small in [Small::encrypted(), Small::plain()] {
        let all = objects(&small.store);
        for of in GROUPS {
            let members = members(&all, of);
            let cuts: Vec<usize> = (0..24).collect();
            for_cases(&small, &cuts, |case, store, repository| {
                let left = |length: usize| match case {
                    0..4 => [0, 1, 63, 64][*case].min(length - 1),
                    4..8 => length - 1 - (case - 4) * 15,
                    _ => case * 7919 % length,
                };
                let report = damaged(store, repository, &members, of == Group::Data, &|bytes| {
                    bytes.truncate(left(bytes.len()));
                });
                for (key, bytes) in &members {
                    finding(&report, key, &format!("cut to {}", left(bytes.len())));
                }
                let report = damaged(store, repository, &members, of == Group::Data, &|bytes| {
                    bytes.extend(vec![*case as u8; case + 1]);
                });
                for (key, _) in &members {
                    finding(&report, key, "bytes added");
                }
            });
        }
    }
}

/// What nothing in the repository can miss: the newest of a chain, or what nobody needs.
fn cannot_be_missed(small: &Small, all: &[Object]) -> BTreeSet<String> {
    let last_of = |prefix: String| {
        let mut of = all.iter().rev().filter(|(key, _)| key.as_str().starts_with(&prefix));
        of.next().map(|(key, _)| key.to_string()).unwrap()
    };
    let wal = real_wal();
    let mut out = BTreeSet::from([
        last_of("keys/confirmation/".to_owned()),
        last_of(format!("sources/{}/source/", small.source)),
        last_of(format!("sources/{}/owner/", small.source)),
        // The newest record of each host.
        last_of(format!("operations/{}/", small.repository.agent())),
        last_of(format!("operations/{}/", small.open(&small.store, "second").agent())),
        // No recovery reads it, and no backup knows of it.
        all.iter().map(|(key, _)| key.to_string()).find(|key| key.contains(".backup-")).unwrap(),
        // WAL before the start of the oldest backup.
        all.iter()
            .map(|(key, _)| key.to_string())
            .find(|key| key.contains(&wal.segments[0].to_string()))
            .unwrap(),
        // A new timeline of which nothing else is stored.
        last_of(format!("wal/{}/00000002/", wal.system)),
    ]);
    // The pack of a backup that died, and its key.
    let report = verify_all(&small.repository, false, 1);
    let dead = report.findings.iter().find(|f| f.kind == FindingKind::NotNeeded).unwrap().object.clone();
    let claim = small.repository.claim(&dead.parse().unwrap()).unwrap().unwrap();
    if small.repository.is_encrypted() {
        out.insert(Named::Envelope(claim.key).key().to_string());
    }
    out.insert(dead);
    out
}

#[test]
fn what_is_taken_away_is_missed() {
    for small in [Small::encrypted(), Small::plain()] {
        let all = objects(&small.store);
        let silent = cannot_be_missed(&small, &all);
        let unmissed = Mutex::new(BTreeSet::new());
        for_cases(&small, &all, |(key, bytes), store, _| {
            // A process that has not read any enrolment yet.
            let repository = small.open(store, "first");
            store.delete(key).unwrap();
            let report = verify_all(&repository, true, 1);
            store.put_new(key, bytes).unwrap();
            // What is missing may not be known by its whole name: who knows the digest of WAL that is gone?
            let missed = report.findings.iter().find(|finding| {
                let by_name = finding.names(key.as_str()) || key.as_str().starts_with(&finding.object);
                let backup = key.as_str().rsplit('-').next().unwrap_or_default();
                let by_backup = key.as_str().contains("/commits/") && finding.object.ends_with(backup);
                (by_name || by_backup) && finding.kind != FindingKind::NotNeeded
            });
            match missed {
                Some(finding) => {
                    assert!(finding.grade > Grade::Note, "{key}: {finding}");
                    assert!(!finding.depends.is_empty(), "{key}: {finding}");
                    // Whether a stranger's enrolment was there or never was cannot be told.
                    let counted = report.objects.present < report.objects.expected;
                    assert!(
                        counted || finding.kind == FindingKind::UnknownOrigin,
                        "{key}: {:?}",
                        report.objects
                    );
                }
                None => {
                    unmissed.lock().unwrap().insert(key.to_string());
                }
            }
        });
        assert_eq!(unmissed.into_inner().unwrap(), silent);
    }
}

#[test]
fn what_is_swapped_is_named() {
    for small in [Small::encrypted(), Small::plain()] {
        let all = objects(&small.store);
        let kind = |key: &Key| std::mem::discriminant(&Named::parse(key).unwrap());
        let pairs: Vec<(&Object, &Object)> = all
            .iter()
            .flat_map(|a| all.iter().map(move |b| (a, b)))
            .filter(|(a, b)| a.0 < b.0 && kind(&a.0) == kind(&b.0))
            .collect();
        assert!(pairs.len() > 40, "{}", pairs.len());
        for_cases(&small, &pairs, |(a, b), store, _| {
            let repository = small.open(store, "first");
            store.damage(&a.0, |bytes| bytes.clone_from(&b.1));
            store.damage(&b.0, |bytes| bytes.clone_from(&a.1));
            let report = verify_all(&repository, true, 1);
            store.damage(&a.0, |bytes| bytes.clone_from(&a.1));
            store.damage(&b.0, |bytes| bytes.clone_from(&b.1));
            finding(&report, &a.0, &format!("swapped with {}", b.0));
            finding(&report, &b.0, &format!("swapped with {}", a.0));
        });
    }
}

/// Keeps the files of a backup.
#[derive(Default)]
struct Keep(Mutex<std::collections::BTreeMap<Vec<u8>, Vec<u8>>>);

impl Sink for Keep {
    type Worker = ();
    fn worker(&self) {}
    fn whole(&self, (): &mut (), file: &FileSlot, bytes: &[u8]) -> Result<(), SinkError> {
        self.piece(&mut (), file, 0, bytes)
    }
    fn piece(&self, (): &mut (), file: &FileSlot, offset: u64, bytes: &[u8]) -> Result<(), SinkError> {
        let mut files = self.0.lock().unwrap();
        let whole = files.entry(file.path.clone()).or_insert_with(|| vec![0; file.size as usize]);
        whole[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn finish(&self, (): &mut (), file: &FileSlot) -> Result<(), SinkError> {
        self.0.lock().unwrap().entry(file.path.clone()).or_insert_with(|| vec![0; file.size as usize]);
        Ok(())
    }
}

/// The files of the second backup, which has leaves of the first.
fn read_back(small: &Small, repository: &Repository) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let commit = repository.find_commit(small.source, small.backups[1]).ok()??;
    let backup = Backup::open(repository, &commit).ok()?;
    let keep = Keep::default();
    backup.read(&keep, &mut |_, _| Ok(true), 1, Window::default(), &Silent).ok()?;
    Some(keep.0.into_inner().unwrap().into_iter().collect())
}

#[test]
fn a_reader_never_gets_a_wrong_byte() {
    for small in [Small::encrypted(), Small::plain()] {
        let all = objects(&small.store);
        let truth = read_back(&small, &small.repository).unwrap();
        let shared = truth.iter().find(|(path, _)| path == b"base/shared").unwrap();
        assert_eq!(shared.1, files(1)[1].1);
        for (path, bytes) in files(2) {
            let read = truth.iter().find(|(read, _)| read == path.as_bytes()).unwrap();
            assert!(read.1 == bytes, "{path}");
        }
        let read: Vec<&Object> = all
            .iter()
            .filter(|(key, _)| {
                matches!(
                    Named::parse(key),
                    Some(Named::Pack(_) | Named::Commit(..) | Named::Envelope(_) | Named::Agent(_))
                )
            })
            .collect();
        let cases: Vec<(&Object, usize)> =
            read.iter().flat_map(|object| (0..60).map(move |n| (*object, n))).collect();
        let stopped = AtomicUsize::new(0);
        for_cases(&small, &cases, |((key, bytes), n), store, _| {
            let repository = small.open(store, "first");
            let length = bytes.len();
            store.damage(key, |bytes| match n % 6 {
                0 => bytes.truncate(n * 7919 % length),
                _ => bytes[n * 7919 % length] ^= 1 << (n % 8),
            });
            let got = read_back(&small, &repository);
            store.damage(key, |now| now.clone_from(bytes));
            match got {
                None => drop(stopped.fetch_add(1, Ordering::Relaxed)),
                Some(got) => assert!(got == truth, "{key}, case {n}"),
            }
        });
        let stopped = stopped.into_inner();
        assert!(stopped > cases.len() / 4, "{stopped} of {} were stopped", cases.len());
    }
}

#[test]
fn wal_is_read_right_or_not_at_all() {
    for small in [Small::encrypted(), Small::plain()] {
        let all = objects(&small.store);
        let name = refloat_types::WalFileName::Segment(real_wal().segments[3]);
        let read = |repository: &Repository| {
            let found = repository.find_wal(real_wal().system, name).ok()?;
            let head = repository.read_wal_head(found.first()?).ok()?;
            let mut bytes = Vec::new();
            let sink = &mut |piece: &[u8]| {
                bytes.extend_from_slice(piece);
                Ok(())
            };
            repository.read_wal(&head, sink).ok()?;
            Some(bytes)
        };
        let truth = std::fs::read(real_wal().directory.path().join(name.to_string())).unwrap();
        assert!(read(&small.repository) == Some(truth), "as PostgreSQL wrote it");
        let (key, bytes) = all.iter().find(|(key, _)| key.as_str().contains(&format!("/{name}-"))).unwrap();
        let cases: Vec<usize> = (0..bytes.len()).collect();
        for_cases(&small, &cases, |at, store, repository| {
            store.damage(key, |bytes| bytes[*at] ^= 1 << (at % 8));
            let got = read(repository);
            store.damage(key, |now| now.clone_from(bytes));
            assert!(got.is_none(), "byte {at}");
            store.damage(key, |bytes| bytes.truncate(*at));
            let got = read(repository);
            store.damage(key, |now| now.clone_from(bytes));
            assert!(got.is_none(), "cut at {at}");
        });
    }
}
