//! A backup of a real server: whole, damaged, and read back; and how much memory a large one takes.

use std::sync::Arc;

use refloat_engine::backup::{self, OwnWal};
use refloat_engine::restore::{RestoreError, plan, restore};
use refloat_engine::verify::{FindingKind, Grade, Scope, SourceRef, Which};
use refloat_repo::commit::CommitRecord;
use refloat_repo::manifest::root::{LeafReader, read_part};
use refloat_repo::manifest::{Root, What};
use refloat_repo::pack::FrameOpener;
use refloat_repo::pack::frame::FrameRef;
use refloat_repo::{Repository, layout};
use refloat_testkit::cluster::TestCluster;

use super::small::{copy, objects_of, verify_all, verify_scope};
use crate::backup::{encrypted, home, reopened, request};
use crate::restore::{to, tree};

#[test]
fn a_real_backup_is_whole_and_each_damage_is_named_with_its_files() {
    let cluster = TestCluster::builder().checksums(true).build();
    cluster.pgbench_init(1);
    let home = home(encrypted());
    let mut how = request(&cluster, &home);
    how.own_wal = OwnWal::Include;
    let made = backup::run(&how).unwrap();
    let source = home.repository.find_source(&"prod".parse().unwrap()).unwrap().unwrap();
    let commit = home.repository.find_commit(source.id, made.backup).unwrap().unwrap();

    let report = verify_all(&home.repository, true, 2);
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    assert_eq!(report.backups[0].bytes, made.source_bytes);
    let stored: u64 = commit.packs.iter().map(|pack| pack.size).sum();
    assert_eq!(report.bytes_read, stored, "every byte of every pack");
    for which in [Which::All, Which::Latest, Which::Backup(made.backup)] {
        let name = SourceRef::Name("prod".parse().unwrap());
        let report = verify_scope(&home.repository, Scope::Source(name, which), false, 1);
        assert!(report.findings.is_empty(), "{:#?}", report.findings);
    }

    // The same objects in memory, where they are easily damaged.
    let all = objects_of(home.repository.store().as_ref());
    let store = copy(&all);
    let damaged = reopened(&home, Arc::new(store.clone()));
    let good = cluster.make_dir("good");
    restore(plan(&damaged, to(&cluster, &commit, &good)).unwrap(), &refloat_engine::progress::Silent, None)
        .unwrap();
    let good = tree(&good);
    for case in 0..12_usize {
        let pack = &commit.packs[case % commit.packs.len()];
        let key = layout::pack(pack.id);
        let at = match case {
            0..3 => 3 + case * 20,
            3..6 => pack.size as usize - 1 - case * 7,
            _ => (case * 7_919_777) % pack.size as usize,
        };
        store.damage(&key, |bytes| bytes[at] ^= 4);
        let report = verify_all(&damaged, true, 2);
        let found = report.findings.iter().find(|finding| finding.names(key.as_str())).unwrap();
        assert_eq!((found.kind, found.grade), (FindingKind::Damaged, Grade::Damage), "{found}");
        assert!(found.depends.backups.iter().any(|backup| backup.id == made.backup), "{found}");
        assert!(!report.backups[0].restorable && report.summary().contains("present: "));
        let directory = cluster.make_dir(&format!("case{case}"));
        let request = to(&cluster, &commit, &directory);
        let restored = plan(&damaged, request)
            .and_then(|plan| restore(plan, &refloat_engine::progress::Silent, None))
            .map(|_| tree(&directory));
        match restored {
            // The bytes that are damaged are of no file.
            Ok(tree) => {
                assert_eq!(differing(&tree, &good), [""; 0].map(std::path::PathBuf::from), "case {case}")
            }
            Err(RestoreError::Read(_) | RestoreError::Repository(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
        store.damage(&key, |bytes| bytes[at] ^= 4);
    }
    assert!(verify_all(&damaged, true, 2).findings.is_empty());
}

type Tree = std::collections::BTreeMap<std::path::PathBuf, Vec<u8>>;

/// Files that are not the same in both; what a restore itself writes tells its time.
fn differing(a: &Tree, b: &Tree) -> Vec<std::path::PathBuf> {
    let own = |path: &std::path::Path| {
        let name = path.file_name().unwrap().as_encoded_bytes();
        name.starts_with(b"refloat.") || name == b"backup_manifest"
    };
    let paths: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
    paths.into_iter().filter(|path| !own(path) && a.get(*path) != b.get(*path)).cloned().collect()
}

#[test]
fn a_damaged_page_names_its_table() {
    let cluster = TestCluster::builder().build();
    cluster.psql("postgres", "create table victim as select generate_series(1, 100000) n; checkpoint");
    let path = cluster.psql("postgres", "select pg_relation_filepath('victim')");
    let home = home(encrypted());
    let made = backup::run(&request(&cluster, &home)).unwrap();
    let source = home.repository.find_source(&"prod".parse().unwrap()).unwrap().unwrap();
    let commit = home.repository.find_commit(source.id, made.backup).unwrap().unwrap();
    let frame = first_frame(&home.repository, &commit, path.trim());

    let store = copy(&objects_of(home.repository.store().as_ref()));
    let damaged = reopened(&home, Arc::new(store.clone()));
    let key = layout::pack(frame.pack);
    store.damage(&key, |bytes| bytes[frame.offset as usize + 9] ^= 1);
    let report = verify_all(&damaged, true, 2);
    let finding = report.findings.iter().find(|finding| finding.names(key.as_str())).unwrap();
    assert!(finding.depends.files.iter().any(|file| file.starts_with(path.trim())), "{finding}");
    assert!(finding.to_string().contains(made.backup.as_str()), "{finding}");
    assert!(
        verify_all(&damaged, false, 2).findings.is_empty(),
        "without reading it is not seen, and that is said"
    );
}

/// The frame with the first bytes of a file.
fn first_frame(repository: &Repository, commit: &CommitRecord, path: &str) -> FrameRef {
    let store = repository.store().as_ref();
    let mut opener = FrameOpener::new(Arc::new(repository.pack_keys(commit).unwrap())).unwrap();
    let root = Root::read(store, &mut opener, &commit.commit.root).unwrap();
    for part in &root.parts {
        for entry in read_part(store, &mut opener, part).unwrap() {
            if let What::File { leaves, .. } = &entry.what
                && entry.path == path.as_bytes()
            {
                let leaf = LeafReader::default().read(store, &mut opener, &leaves[0]).unwrap();
                return leaf.frames.frames()[0];
            }
        }
    }
    panic!("no {path} in the backup")
}

/// Peak of this process' resident memory since the last call, in bytes. Each test is a process of its own.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    kilobytes << 10
}

#[test]
fn memory_is_bounded_at_a_gigabyte() {
    let home = home(encrypted());
    let bytes = super::small::large_backup(&home.repository, 1 << 30);
    peak_memory();
    let report = verify_all(&home.repository, true, 2);
    let peak = peak_memory();
    assert!(!report.needs_attention(), "{:#?}", report.findings);
    assert_eq!(report.backups[0].bytes, bytes);
    assert!(peak < 128 << 20, "{} MiB", peak >> 20);
}

#[test]
fn what_is_asked_for_and_not_there_is_an_error() {
    use refloat_engine::verify::{VerifyError, VerifyRequest, verify};
    let home = home(encrypted());
    let ask = |scope| {
        verify(&VerifyRequest {
            repository: &home.repository,
            scope,
            read_data: false,
            jobs: 1,
            host: "test",
            now: refloat_types::Clock::now(&refloat_types::SystemClock),
            progress: &refloat_engine::progress::Silent,
        })
    };
    let name = SourceRef::Name("absent".parse().unwrap());
    let error = ask(Scope::Source(name, Which::All)).unwrap_err();
    assert!(matches!(error, VerifyError::NoSuchSource { .. }), "{error:?}");
}

#[test]
fn a_host_that_cannot_read_says_what_it_did_not_prove() {
    let recipients = vec![refloat_repo::crypt::identity::Identity::draw().recipient()];
    let home = home(refloat_repo::repository::Protection::Recipients { recipients, identity: None });
    super::small::large_backup(&home.repository, 64 << 20);
    let report = verify_all(&home.repository, true, 1);
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    assert!(!report.read_data && !report.backups[0].manifest_read);
    assert!(report.summary().contains("bytes not read"), "{}", report.summary());
    assert!(report.not_proved.iter().any(|what| what.contains("no identity")), "{:?}", report.not_proved);
}
