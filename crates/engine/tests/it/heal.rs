//! Two repositories with the same backup and the same WAL: whatever is damaged in one is put right from the other, and what
//! cannot be is named and left alone.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use refloat_engine::backup::{self, BackupReport, Other};
use refloat_engine::heal::{HealError, HealRequest, Healed, heal};
use refloat_engine::progress::Silent;
use refloat_engine::restore::{RestoreError, plan_beside, restore};
use refloat_repo::layout::Named;
use refloat_repo::repository::{HoldWords, OperationRecord, Protection};
use refloat_repo::{Compression, Repository};
use refloat_store::posix::{Options, PosixStore};
use refloat_store::{Key, StoreErrorKind};
use refloat_testkit::cluster::{StopMode, TestCluster};
use refloat_testkit::fault_plan::{Effect, FaultPlan, Faulty, On, Rule};
use refloat_types::{Clock as _, Explain as _, SystemClock};

use crate::backup::{Home, encrypted, home, record, reopened, request};
use crate::incremental::{compare, quiet};
use crate::restore::{to, tree};
use crate::verify::small::real_wal;
use crate::wal::fixture::options;

/// A day, as long as copies are not looked for again.
const SELDOM: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Two repositories with one backup and some WAL.
struct Twins {
    first: Home,
    second: Home,
    report: BackupReport,
}

fn twins(cluster: &TestCluster, protection: fn() -> Protection) -> Twins {
    let (first, second) = (home(protection()), home(protection()));
    let mut request = request(cluster, &first);
    request.others = vec![Other { name: "second".to_owned(), repository: &second.repository, keep: None }];
    let report = backup::run(&request).expect("a backup");
    assert!(report.others[0].failed.is_none());
    let wal = real_wal();
    for segment in &wal.segments[..3] {
        let path = wal.directory.path().join(segment.to_string());
        let both = [&first.repository, &second.repository];
        refloat_engine::wal::push(&both, &options(wal.system), &path).expect("stored");
    }
    Twins { first, second, report }
}

fn file(home: &Home, key: &Key) -> PathBuf {
    home.packs().parent().expect("the repository").join(key.as_str())
}

fn objects(home: &Home) -> BTreeMap<Key, Vec<u8>> {
    let mut all = BTreeMap::new();
    let listed = home.repository.store().list("", &mut |info| {
        let bytes = fs::read(file(home, &info.key)).expect("an object");
        all.insert(info.key, bytes);
        ControlFlow::Continue(())
    });
    listed.expect("lists");
    all
}

/// Puts other bytes in the place of an object: what a store must never do.
fn replace(home: &Home, key: &Key, bytes: Option<&[u8]>) {
    let path = file(home, key);
    fs::remove_file(&path).expect("it is there");
    if let Some(bytes) = bytes {
        fs::write(&path, bytes).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    }
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

fn of<'a>(home: &'a Home, others: &'a [&'a Repository]) -> HealRequest<'a> {
    HealRequest {
        repository: &home.repository,
        others,
        compression: Compression::default(),
        now: SystemClock.now(),
        dry_run: false,
    }
}

fn record_something(repository: &Repository) {
    let record = OperationRecord {
        operation: "check".to_owned(),
        source: None,
        who: "ann@db1".to_owned(),
        started: SystemClock.now(),
        seconds: 0.1,
        result: "done".to_owned(),
        detail: None,
        bytes: 0,
        about: None,
        version: "0.1.0".to_owned(),
    };
    repository.record_operation(&record, SystemClock.now()).expect("a record");
}

#[test]
fn each_object_of_one_of_two_repositories() {
    let cluster = TestCluster::builder().setting("autovacuum", "off").build();
    cluster.pgbench_init(1);
    quiet(&cluster);
    for protection in [encrypted, || Protection::None] {
        let Twins { first, second, report } = twins(&cluster, protection);
        let words = HoldWords { reason: "audit".to_owned(), who: "ann@db1".to_owned() };
        let source = record(&first, &report).commit.source;
        first.repository.add_hold(source, report.backup, &words, None, SystemClock.now()).expect("a hold");
        record_something(&first.repository);
        assert!(first.repository.keep_copies_seldom(SELDOM, SystemClock.now()).expect("kept") > 3);
        assert_eq!(
            first.repository.keep_copies_seldom(SELDOM, SystemClock.now()).expect("kept"),
            0,
            "lately"
        );

        let others = [&second.repository];
        let mut kinds = BTreeMap::new();
        let before = second.repository.store();
        let theirs = objects(&second);
        for (key, bytes) in objects(&first) {
            let named = Named::parse(&key).expect("an object of ours");
            let only_here = matches!(named, Named::Operation(..) | Named::Pin(..));
            let middle = bytes.len() / 2;
            let damages = [
                Some(flipped(&bytes, 20)),
                Some(flipped(&bytes, middle)),
                Some(flipped(&bytes, bytes.len() - 1)),
                Some(bytes[..middle].to_vec()),
                None,
            ];
            for (number, damaged) in damages.into_iter().enumerate() {
                // A repository that is not there is perhaps a disk that is not mounted: nobody makes one of it.
                if named == Named::Repository && damaged.is_none() {
                    continue;
                }
                replace(&first, &key, damaged.as_deref());
                let healed = heal(&of(&first, &others), &key);
                if only_here {
                    assert!(matches!(healed, Err(HealError::NoCopy { .. })), "{key} {number}: {healed:?}");
                    assert_eq!(fs::read(file(&first, &key)).ok(), damaged, "{key} is left alone");
                    if damaged.is_some() {
                        replace(&first, &key, Some(&bytes));
                    } else {
                        fs::write(file(&first, &key), &bytes).expect("writes");
                    }
                    continue;
                }
                assert!(matches!(healed, Ok(Healed::From(_))), "{key} {number}: {healed:?}");
                assert_eq!(
                    heal(&of(&first, &others), &key).expect("looked at"),
                    Healed::Whole,
                    "{key} {number}"
                );
                if !matches!(named, Named::Wal(..)) {
                    assert!(
                        fs::read(file(&first, &key)).expect("it is there") == bytes,
                        "{key}: byte for byte"
                    );
                }
            }
            *kinds.entry(key.as_str().split('/').next().expect("a part").to_owned()).or_insert(0) += 1;
        }
        for kind in ["repository", "agents", "packs", "sources", "wal", "holds", "operations"] {
            assert!(kinds.contains_key(kind), "no object in {kind}: {kinds:?}");
        }
        assert_eq!(kinds.contains_key("keys"), first.repository.is_encrypted());
        assert!(objects(&second) == theirs, "nothing of {} was touched", before.describe());
        compare(&cluster, &first, &report);
        let wal = real_wal();
        let segment = wal.segments[0].to_string();
        let name = segment.parse().expect("a name");
        let stored = first.repository.find_wal(wal.system, name).expect("lists").remove(0);
        let mut plain = Vec::new();
        let head = first.repository.read_wal_head(&stored).expect("a head");
        first
            .repository
            .read_wal(&head, &mut |piece| {
                plain.extend_from_slice(piece);
                Ok(())
            })
            .expect("reads");
        assert!(plain == fs::read(wal.directory.path().join(segment)).expect("the file"));
    }
}

#[test]
fn a_restore_takes_from_another_what_is_damaged_in_the_first() {
    let mut cluster = TestCluster::builder().setting("autovacuum", "off").build();
    cluster.pgbench_init(2);
    quiet(&cluster);
    let Twins { first, second, report } = twins(&cluster, encrypted);
    cluster.stop(StopMode::Fast);
    let commit = record(&first, &report);
    let place = cluster.make_dir("place");
    let restored = |name: &str, others: &[&Repository]| {
        let request = to(&cluster, &commit, &place.join(name));
        plan_beside(&first.repository, others, request).and_then(|plan| restore(plan, &Silent, None))
    };
    let truth = restored("before", &[]).expect("restores");
    assert!(truth.passed_over.is_empty());
    let same = |name: &str| {
        let files = |name: &str| {
            let mut files = tree(&place.join(name));
            // It says when it was restored.
            files.retain(|path, _| !path.ends_with("refloat.locked") && !path.ends_with("backup_manifest"));
            files
        };
        assert!(files(name) == files("before"), "{name}");
    };

    // Every pack, and every envelope: a byte in each frame that could be needed first.
    let all = objects(&first);
    let damaged: Vec<&Key> = all
        .keys()
        .filter(|key| {
            let key = key.as_str();
            let needed = commit.commit.keys.iter().any(|id| key.ends_with(&id.to_string()));
            key.starts_with("packs/") || (key.starts_with("keys/data/") && needed)
        })
        .collect();
    assert!(damaged.len() > 2, "{damaged:?}");
    for key in &damaged {
        let bytes = &all[*key];
        let every = (100..bytes.len()).step_by(20_000);
        replace(&first, key, Some(&every.fold(bytes.clone(), |bytes, at| flipped(&bytes, at))));
    }
    let error = restored("alone", &[]).expect_err("nothing else has it");
    assert!(matches!(error, RestoreError::Repository(_) | RestoreError::Read(_)), "{error:?}");
    let beside = restored("beside", &[&second.repository]).expect("restores");
    same("beside");
    assert_eq!(beside.passed_over.keys().collect::<Vec<_>>(), damaged);

    // One is cut, one is gone.
    for (number, key) in damaged.iter().enumerate() {
        replace(&first, key, (number % 2 == 0).then(|| &all[*key][..all[*key].len() / 3]));
    }
    let beside = restored("cut", &[&second.repository]).expect("restores");
    same("cut");
    for key in beside.passed_over.keys() {
        let healed = heal(&of(&first, &[&second.repository]), key).expect("heals");
        assert!(matches!(healed, Healed::From(_)), "{key}");
    }
    let alone = restored("healed", &[]).expect("restores");
    same("healed");
    assert!(alone.passed_over.is_empty());
}

#[test]
fn what_is_right_nowhere_or_may_not_be_replaced_is_left_alone() {
    let cluster = TestCluster::builder().setting("autovacuum", "off").build();
    let Twins { first, second, .. } = twins(&cluster, encrypted);
    let (ours, theirs) = (objects(&first), objects(&second));
    let key = ours.keys().find(|key| key.as_str().starts_with("packs/")).expect("a pack");
    let damaged = flipped(&ours[key], ours[key].len() / 2);
    replace(&first, key, Some(&damaged));
    let now = |home: &Home| fs::read(file(home, key)).expect("it is there");

    // What nobody may delete stays as it is, and it is said why.
    let faults = FaultPlan::new();
    faults.add(Rule::new(On::Delete, Effect::Refuse(StoreErrorKind::Denied)));
    let directory = file(&first, key).ancestors().nth(3).expect("the repository").to_owned();
    let store = PosixStore::open(directory, Options::default()).expect("a store");
    let locked = reopened(&first, Arc::new(Faulty::new(store, &faults)));
    let others = [&second.repository];
    let error = heal(&HealRequest { repository: &locked, ..of(&first, &others) }, key).expect_err("refused");
    assert_eq!(error.advice().code, "HEA-004");
    assert!(now(&first) == damaged);

    // Looking changes nothing.
    let looked = heal(&HealRequest { dry_run: true, ..of(&first, &others) }, key).expect("a right copy");
    assert!(matches!(looked, Healed::From(_)));
    assert!(now(&first) == damaged);

    // A copy that is damaged too is no copy.
    replace(&second, key, Some(&flipped(&theirs[key], theirs[key].len() / 3)));
    let error = heal(&of(&first, &others), key).expect_err("no right copy");
    assert_eq!(error.advice().code, "HEA-001");
    assert!(now(&first) == damaged);
    let error = heal(&of(&first, &[]), key).expect_err("no copy");
    assert_eq!(error.advice().code, "HEA-001");
    let error = heal(&of(&first, &others), &"packs/readme".parse().expect("a key")).expect_err("not ours");
    assert_eq!(error.advice().code, "HEA-002");

    // A WAL file of the same name with other bytes takes nobody's place.
    let wal = ours.keys().find(|key| key.as_str().starts_with("wal/")).expect("WAL");
    let Some(Named::Wal(system, name, _)) = Named::parse(wal) else { panic!("{wal} is no WAL file") };
    replace(&first, wal, Some(&flipped(&ours[wal], ours[wal].len() / 2)));
    let other = second.repository.find_wal(system, name).expect("lists").remove(0).key;
    let renamed = format!("{}{}", &other.as_str()[..other.as_str().len() - 4], "0000");
    fs::rename(file(&second, &other), file(&second, &renamed.parse().expect("a key"))).expect("renames");
    let error = heal(&of(&first, &others), wal).expect_err("no right copy");
    assert_eq!(error.advice().code, "HEA-001");
}

#[test]
fn a_commit_that_was_not_kept_is_made_anew_only_where_it_was_verified() {
    let cluster = TestCluster::builder().setting("autovacuum", "off").build();
    let Twins { first, second, report } = twins(&cluster, encrypted);
    let all = objects(&first);
    let (key, bytes) =
        all.iter().find(|(key, _)| matches!(Named::parse(key), Some(Named::Commit(..)))).expect("a commit");
    let Some(Named::Commit(source, number, backup)) = Named::parse(key) else { panic!("{key} is no commit") };
    assert_eq!(backup, report.backup);
    let others = [&second.repository];
    let cache = first
        .repository
        .state()
        .path()
        .join(format!("repositories/{}/commits/{source}", first.repository.marker().id));
    let is_no_copy = |key: &Key| {
        let error = heal(&of(&first, &others), key).expect_err("nobody vouches for it");
        assert_eq!(error.advice().code, "HEA-001", "{error:?}");
    };

    // Never verified here: the name is whatever its writer says.
    let _ = fs::remove_file(&cache);
    replace(&first, key, Some(&flipped(bytes, bytes.len() / 2)));
    is_no_copy(key);

    // Verified here, it is what it was.
    replace(&first, key, Some(bytes));
    let before = first.repository.list_commits(source, &mut |_, _| {}).expect("lists").remove(0);
    replace(&first, key, Some(&flipped(bytes, bytes.len() / 2)));
    let named_anew = refloat_repo::layout::commit(source, number + 1, backup);
    fs::write(file(&first, &named_anew), b"a name that nobody here knows").expect("writes");
    is_no_copy(&named_anew);
    is_no_copy(key);
    fs::remove_file(file(&first, &named_anew)).expect("removes");
    let pack = refloat_repo::layout::pack(before.packs[0].id);
    replace(&first, &pack, None);
    is_no_copy(key);
    assert!(matches!(heal(&of(&first, &others), &pack), Ok(Healed::From(_)) | Err(_)));
    if !file(&first, &pack).exists() {
        fs::write(file(&first, &pack), &all[&pack]).expect("writes");
    }
    assert!(matches!(heal(&of(&first, &others), key).expect("heals"), Healed::From(_)));
    let after = first.repository.read_commit(key).expect("it is right");
    assert_eq!((after.commit, after.packs), (before.commit, before.packs));
}

#[test]
fn a_host_opens_a_repository_whose_own_object_is_damaged() {
    let first = home(Protection::None);
    let key: Key = "repository".parse().expect("a key");
    let bytes = objects(&first)[&key].clone();
    let open = || {
        let directory = file(&first, &key).parent().expect("the repository").to_owned();
        let store = Arc::new(PosixStore::open(directory, Options::default()).expect("a store"));
        let state = first.repository.state().clone();
        Repository::open(store, state, None, SystemClock.now(), &mut || panic!("it was opened before"))
    };
    replace(&first, &key, Some(&flipped(&bytes, 30)));
    assert!(open().is_err(), "nothing was kept");
    replace(&first, &key, Some(&bytes));
    first.repository.keep_copies_seldom(SELDOM, SystemClock.now()).expect("kept");
    for damaged in [flipped(&bytes, 30), flipped(&bytes, bytes.len() - 1), bytes[..40].to_vec()] {
        replace(&first, &key, Some(&damaged));
        let opened = open().expect("what was kept");
        let request = HealRequest { repository: &opened, ..of(&first, &[]) };
        assert!(matches!(heal(&request, &key).expect("heals"), Healed::From(_)));
        assert!(fs::read(file(&first, &key)).expect("it is there") == bytes);
    }
    // An empty directory is where a disk is not mounted.
    fs::remove_file(file(&first, &key)).expect("removes");
    assert!(open().is_err());
}
