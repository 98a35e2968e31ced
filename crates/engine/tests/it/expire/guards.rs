//! Writers: one that was stopped for long takes its backup back; what a copied or old state directory says deletes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use refloat_engine::backup;
use refloat_engine::expire::{Keep, Policy};
use refloat_engine::guard::{Guard, GuardError, GuardRequest, SinceBoot};
use refloat_repo::commit::BackupType::{Full, Incr};
use refloat_repo::crypt::random;
use refloat_repo::repository::Uses;
use refloat_repo::{Repository, StateDirectory, layout};
use refloat_store::Store as _;
use refloat_testkit::cluster::TestCluster;
use refloat_types::{Clock as _, SystemClock};

use super::world::World;
use crate::backup::{encrypted, home, request};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What an incremental was built on, or the WAL of a full backup, expires while its process is stopped: before the last
/// look, between the look and the commit, or behind the commit.
#[test]
fn a_writer_that_was_stopped_withdraws() {
    for (stopped_at, kind) in [(0, Incr), (1, Incr), (2, Incr), (0, Full), (1, Full), (2, Full)] {
        for lag in [0, 300] {
            let mut world = World::new(Duration::from_secs(lag));
            world.policy = Some(Policy { full: Some(Keep::Count(1)), ..Policy::default() });
            let repository = Arc::clone(&world.hosts[1].repository);
            world.backup(0, Full).unwrap();
            world.pass(DAY);
            let mut making = world.begin(&repository, kind).unwrap();
            assert_eq!(making.commit.parent.is_some(), kind == Incr);
            // Its last pins die with it; other backups are made, and its parent goes.
            let others = |world: &mut World| {
                for _ in 0..4 {
                    world.pass(DAY);
                    world.backup(0, Full).unwrap();
                    world.pass(Duration::from_secs(3600));
                    world.expire(0).unwrap();
                }
            };
            let mut refused = None;
            for step in 0..3 {
                if step == stopped_at {
                    others(&mut world);
                }
                match step {
                    0 => refused = making.guard.before_commit(&making.commit, &making.packs).err(),
                    1 if refused.is_none() => world.put(&repository, &mut making).unwrap(),
                    _ => {}
                }
            }
            let id = making.commit.backup;
            if refused.is_none() {
                refused = making.guard.after_commit(&making.commit, &making.packs).err();
            }
            let first = making.commit.cluster.start_lsn.0 / super::world::SIZE.bytes();
            let wal_is_gone = world.store.head(&world.wal_key(first)).unwrap().is_none();
            let needed_is_gone = wal_is_gone || world.lacks(&world.made[0]) > 0;
            let is_there = world.is_there(id);
            // Committed before the others began, it is seen, and keeps what it needs.
            if stopped_at == 2 {
                assert!(refused.is_none() || !is_there, "{refused:?}");
            } else {
                assert!(needed_is_gone && !is_there, "stopped at {stopped_at}");
                let told = matches!(refused, Some(GuardError::Marked { .. } | GuardError::Gone { .. }));
                assert!(told, "{refused:?}");
            }
            if is_there {
                let gone = |pack: &&refloat_repo::commit::PackUse| {
                    world.store.head(&layout::pack(pack.id)).unwrap().is_none()
                };
                assert_eq!(making.packs.iter().filter(gone).count(), 0);
                assert!(!wal_is_gone);
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, target).unwrap();
        }
    }
}

#[test]
fn notes_of_a_copied_or_old_state_directory_delete_nothing_that_is_needed() {
    let cluster = TestCluster::builder().build();
    let home = home(encrypted());
    let made = backup::run(&request(&cluster, &home)).unwrap();
    let repository = &home.repository;
    let source = repository.find_source(&"prod".parse().unwrap()).unwrap().unwrap().id;
    let record = repository.find_commit(source, made.backup).unwrap().unwrap();
    let notes = repository
        .state()
        .directory(&format!("repositories/{}/running/{source}", repository.marker().id))
        .unwrap();

    // A note from the past: of a backup that has expired since, on whose pack another backup is built now.
    let old = random::backup_id();
    std::fs::write(notes.join(old.as_str()), format!("{}\n", record.packs[0].id)).unwrap();
    // A copy of this state directory, on a host that is still making a backup of which the copy holds the note.
    let elsewhere = tempfile::tempdir().unwrap();
    copy(repository.state().path(), elsewhere.path());
    let state = StateDirectory::new(elsewhere.path());
    let mut never = || panic!("it knows the repository");
    let store = Arc::clone(repository.store());
    let original = Repository::open(store, state, None, SystemClock.now(), &mut never).unwrap();
    assert_eq!(original.agent(), repository.agent(), "they sign alike");
    let (id, pack) = (random::backup_id(), random::object_id());
    let guard = Guard::begin(
        &original,
        &GuardRequest {
            operation: "backup",
            backup: Some(id),
            uses: Uses::Backups(Vec::new()),
            host: "test",
            now: SystemClock.now(),
            uptime: Arc::new(SinceBoot),
            renew: true,
        },
    )
    .unwrap();
    repository.store().put_new(&layout::pack(pack), b"frames").unwrap();
    std::fs::write(notes.join(id.as_str()), format!("{pack}\n")).unwrap();

    let report = backup::run(&request(&cluster, &home)).unwrap();
    assert_eq!(report.cleared_packs, 0);
    let there: BTreeMap<_, _> = [pack, record.packs[0].id]
        .into_iter()
        .map(|id| (id, repository.store().head(&layout::pack(id)).unwrap().is_some()))
        .collect();
    assert!(there.values().all(|there| *there), "{there:?}");
    assert!(notes.join(id.as_str()).exists() && !notes.join(old.as_str()).exists());
    // When nobody makes it any more, its packs are cleared.
    drop(guard);
    assert_eq!(backup::run(&request(&cluster, &home)).unwrap().cleared_packs, 1);
    assert!(repository.store().head(&layout::pack(pack)).unwrap().is_none());
    assert!(!notes.join(id.as_str()).exists());
}
