//! One backup in several repositories, and backups copied between them: compared with the cluster itself, byte by byte.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use refloat_engine::backup::{self, BackupReport, Other, Wanted};
use refloat_engine::copy::{self, CopyReport, CopyRequest, Named, WhyPassed};
use refloat_engine::progress::Silent;
use refloat_repo::repository::{Marked, Protection};
use refloat_repo::{Compression, Repository, layout};
use refloat_store::{Store, StoreErrorKind};
use refloat_testkit::cluster::TestCluster;
use refloat_testkit::fault_plan::{Effect, FaultPlan, Faulty, On, Rule};
use refloat_types::{BackupId, Clock, ManualClock, ObjectId, SourceName, SystemClock, WalFileName};

use crate::backup::{Home, encrypted, home, record, reopened, request};
use crate::incremental::{compare, quiet};

fn clock() -> ManualClock {
    let clock = ManualClock::new(SystemClock.now());
    clock.advance(Duration::from_secs(3600));
    clock
}

fn prod() -> SourceName {
    "prod".parse().expect("a name")
}

/// A backup into `first`, and into all of `others`.
fn make(
    cluster: &TestCluster,
    first: &Home,
    others: &[(&str, &Repository)],
    clock: &ManualClock,
) -> BackupReport {
    clock.advance(Duration::from_secs(60));
    let mut request = request(cluster, first);
    request.wanted = Wanted::Suitable;
    request.clock = clock;
    request.others = others
        .iter()
        .map(|(name, repository)| Other { name: (*name).to_owned(), repository, keep: None })
        .collect();
    backup::run(&request).expect("a backup")
}

pub(crate) fn copied(
    from: &Home,
    to: &Repository,
    clock: &dyn Clock,
    change: impl FnOnce(&mut CopyRequest<'_>),
) -> CopyReport {
    let source = prod();
    let mut request = CopyRequest {
        from: Named { name: "from", repository: &from.repository },
        to: Named { name: "to", repository: to },
        source: &source,
        only: None,
        keeps: None,
        keep: None,
        self_contained: false,
        wal: true,
        compression: Compression::default(),
        jobs: 2,
        wal_timeout: Duration::from_secs(20),
        host: "test",
        clock,
        progress: &Silent,
    };
    change(&mut request);
    copy::copy(&request).expect("copies")
}

fn packs(repository: &Repository) -> BTreeSet<ObjectId> {
    let mut packs = BTreeSet::new();
    let listed = repository.store().list(layout::PACKS, &mut |info| {
        packs.insert(info.key.file_name().parse().expect("a pack"));
        std::ops::ControlFlow::Continue(())
    });
    listed.expect("lists");
    packs
}

fn backups(home: &Repository) -> Vec<BackupId> {
    let Some(source) = home.find_source(&prod()).expect("lists") else { return Vec::new() };
    let commits = home.list_commits(source.id, &mut |key, error| panic!("{key}: {error}")).expect("lists");
    commits.iter().map(|record| record.commit.backup).collect()
}

/// Changes some pages, and leaves most as they are.
fn change(cluster: &TestCluster) {
    cluster.psql("postgres", "update pgbench_accounts set abalance = abalance + 1 where aid % 1000 = 7");
    quiet(cluster);
}

#[test]
fn what_is_read_once_is_whole_in_each() {
    for (first, second) in [(encrypted(), encrypted()), (Protection::None, Protection::None)] {
        let cluster = TestCluster::builder().setting("autovacuum", "off").build();
        cluster.pgbench_init(5);
        quiet(&cluster);
        let (first, second, clock) = (home(first), home(second), clock());
        let others = [("second", &second.repository)];
        let full = make(&cluster, &first, &others, &clock);
        assert_eq!(
            (full.others[0].copied_bytes, full.others[0].failed.is_none()),
            (0, true),
            "written at once"
        );
        assert_eq!(full.others[0].backups, [full.backup]);
        change(&cluster);
        let incr = make(&cluster, &first, &others, &clock);
        assert_eq!((incr.kind, incr.parent), ("incr", Some(full.backup)));
        assert_eq!(incr.others[0].copied_bytes, 0);
        assert_eq!(packs(&first.repository), packs(&second.repository), "the same objects");
        for home in [&first, &second] {
            assert_eq!(backups(&home.repository), [full.backup, incr.backup]);
            compare(&cluster, home, &incr);
        }
        // The second goes on alone, and builds on what came from the first: its page hashes are understood there.
        change(&cluster);
        let alone = make(&cluster, &second, &[], &clock);
        assert_eq!(alone.parent, Some(incr.backup));
        assert!(
            alone.stored_bytes * 4 < full.stored_bytes,
            "{} of {}",
            alone.stored_bytes,
            full.stored_bytes
        );
        compare(&cluster, &second, &alone);
    }
}

#[test]
fn one_that_fails_keeps_nobody_waiting_and_catches_up() {
    let cluster = TestCluster::builder().setting("autovacuum", "off").build();
    cluster.pgbench_init(5);
    quiet(&cluster);
    let (first, second, clock) = (home(encrypted()), home(encrypted()), clock());
    let full = make(&cluster, &first, &[("second", &second.repository)], &clock);

    // In the middle of the second backup the other repository goes away.
    let plan = FaultPlan::new();
    let inner: Arc<dyn Store> = Arc::clone(second.repository.store());
    let broken = reopened(&second, Arc::new(Faulty::new(inner, &plan)));
    plan.add(Rule::new(On::Any, Effect::Refuse(StoreErrorKind::Unreachable)).key("packs/"));
    change(&cluster);
    let incr = make(&cluster, &first, &[("second", &broken)], &clock);
    compare(&cluster, &first, &incr);
    let failed = incr.others[0].failed.as_ref().expect("it does not have it");
    assert!(failed.may_pass && failed.code == "STO-007", "{failed:?}");
    assert_eq!(backups(&second.repository), [full.backup], "and nothing half of it");

    // It is back: the next backup brings what it lacks, in order.
    change(&cluster);
    let next = make(&cluster, &first, &[("second", &second.repository)], &clock);
    assert_eq!(next.others[0].backups, [incr.backup, next.backup]);
    assert_eq!(backups(&second.repository), [full.backup, incr.backup, next.backup]);
    compare(&cluster, &second, &next);
}

#[test]
fn what_died_is_cleared_in_each_repository_and_nothing_fails_where_it_is_not() {
    let cluster = TestCluster::builder().setting("autovacuum", "off").build();
    quiet(&cluster);
    let (mut first, second, clock) = (home(encrypted()), home(encrypted()), clock());
    let (plan, other_plan) = (FaultPlan::new(), FaultPlan::new());
    let inner: Arc<dyn Store> = Arc::clone(first.repository.store());
    first.repository = reopened(&first, Arc::new(Faulty::new(inner, &plan)));
    let inner: Arc<dyn Store> = Arc::clone(second.repository.store());
    let other = reopened(&second, Arc::new(Faulty::new(inner, &other_plan)));
    for kind in [StoreErrorKind::Unreachable, StoreErrorKind::Other, StoreErrorKind::ReadOnly] {
        for plan in [&plan, &other_plan] {
            plan.clear();
            plan.add(Rule::new(On::Clear, Effect::Refuse(kind)));
        }
        let report = make(&cluster, &first, &[("second", &other)], &clock);
        assert!(report.others[0].failed.is_none(), "{kind:?}: {:?}", report.others[0].failed);
    }
    assert_eq!((plan.calls_of(On::Clear), other_plan.calls_of(On::Clear)), (3, 3));
    assert_eq!(backups(&first.repository).len(), 3);
    assert_eq!(backups(&first.repository), backups(&second.repository));
    // One that does not have the backup is not asked.
    other_plan.add(Rule::new(On::Any, Effect::Refuse(StoreErrorKind::Unreachable)).key("packs/"));
    let report = make(&cluster, &first, &[("second", &other)], &clock);
    assert!(report.others[0].failed.is_some());
    assert_eq!((plan.calls_of(On::Clear), other_plan.calls_of(On::Clear)), (4, 3));
}

#[test]
fn a_copy_takes_what_is_missing_and_nothing_twice() {
    let cluster = TestCluster::builder().setting("autovacuum", "off").build();
    cluster.pgbench_init(5);
    quiet(&cluster);
    let (first, second, third, clock) =
        (home(encrypted()), home(encrypted()), home(Protection::None), clock());
    let full = make(&cluster, &first, &[], &clock);
    change(&cluster);
    let incr = make(&cluster, &first, &[], &clock);
    let report = copied(&first, &second.repository, &clock, |_| {});
    assert_eq!(report.backups.iter().map(|one| one.backup).collect::<Vec<_>>(), [full.backup, incr.backup]);
    assert!(report.backups.iter().all(|one| one.stored_again == 0));
    compare(&cluster, &second, &incr);
    let again = copied(&first, &second.repository, &clock, |_| {});
    assert!(again.backups.is_empty() && again.passed.is_empty(), "{again:?}");

    // What is encrypted is stored again where nothing is: nobody could open it there.
    let plain = copied(&first, &third.repository, &clock, |_| {});
    assert!(plain.backups.iter().all(|one| one.packs == 0 && one.stored_again > 0), "{plain:?}");
    compare(&cluster, &third, &incr);
    assert_eq!(record(&third, &incr).commit.keys, []);

    // By itself: it refers to nothing that another backup has.
    let fourth = home(encrypted());
    copied(&first, &fourth.repository, &clock, |request| request.only = Some(full.backup));
    let before = packs(&fourth.repository);
    copied(&first, &fourth.repository, &clock, |request| request.self_contained = true);
    let own = record(&fourth, &incr);
    assert!(own.packs.iter().all(|pack| !before.contains(&pack.id)));
    assert_eq!((own.commit.kind.as_str(), own.commit.parent), ("full", None));
    compare(&cluster, &fourth, &incr);
    change(&cluster);
    let next = make(&cluster, &fourth, &[], &clock);
    assert!(next.stored_bytes * 4 < full.stored_bytes, "its pages are still known by their hashes");
    compare(&cluster, &fourth, &next);
}

#[test]
fn what_is_being_deleted_is_not_used_and_what_was_deleted_stays_away() {
    let cluster = TestCluster::builder().setting("autovacuum", "off").build();
    cluster.pgbench_init(2);
    quiet(&cluster);
    let (first, second, clock) = (home(encrypted()), home(encrypted()), clock());
    let full = make(&cluster, &first, &[("second", &second.repository)], &clock);
    change(&cluster);
    let incr = make(&cluster, &first, &[], &clock);
    // The second is about to delete the full backup, and all its packs.
    let there = record(&second, &full);
    let mut names = vec![layout::commit(there.commit.source, there.commit.number, full.backup)];
    names.extend(there.packs.iter().map(|pack| layout::pack(pack.id)));
    let mut marked = Marked::default();
    marked.add_commit(there.commit.source, there.commit.number, full.backup);
    second.repository.put_tombstone(names.clone(), Default::default(), marked, clock.now()).expect("marks");
    let report = copied(&first, &second.repository, &clock, |_| {});
    let one = report.backups[0];
    assert!(one.backup == incr.backup && one.stored_again > 0 && one.present == 0, "{report:?}");
    // Now it does.
    names.iter().for_each(|name| second.repository.store().delete(name).expect("deletes"));
    compare(&cluster, &second, &incr);
    let after = copied(&first, &second.repository, &clock, |_| {});
    assert_eq!(after.backups, []);
    assert_eq!((after.passed[0].backup, after.passed[0].why), (full.backup, WhyPassed::Deleted));
}

#[test]
fn a_copy_that_was_interrupted_goes_on() {
    let cluster = TestCluster::builder().build();
    cluster.pgbench_init(3);
    let (first, second, clock) = (home(encrypted()), home(encrypted()), clock());
    let full = make(&cluster, &first, &[], &clock);
    let plan = FaultPlan::new();
    let inner: Arc<dyn Store> = Arc::clone(second.repository.store());
    let broken = reopened(&second, Arc::new(Faulty::new(inner, &plan)));
    plan.add(Rule::new(On::Put, Effect::Refuse(StoreErrorKind::Unreachable)).key("commits/"));
    let source = prod();
    let request = CopyRequest {
        from: Named { name: "from", repository: &first.repository },
        to: Named { name: "to", repository: &broken },
        source: &source,
        only: None,
        keeps: None,
        keep: None,
        self_contained: false,
        wal: true,
        compression: Compression::default(),
        jobs: 1,
        wal_timeout: Duration::from_secs(20),
        host: "test",
        clock: &clock,
        progress: &Silent,
    };
    let error = copy::copy(&request).expect_err("the commit cannot be written");
    assert_eq!(error.to_string(), "repository \"to\"");
    assert_eq!(backups(&second.repository), []);
    let there = packs(&second.repository);
    assert_eq!(there, packs(&first.repository));
    let report = copied(&first, &second.repository, &clock, |_| {});
    assert_eq!((report.backups[0].packs, report.backups[0].present), (0, there.len() as u64), "none twice");
    assert_eq!(backups(&second.repository), [full.backup]);
}

#[test]
fn a_damaged_pack_is_not_copied() {
    let cluster = TestCluster::builder().build();
    cluster.pgbench_init(2);
    let (first, second, clock) = (home(encrypted()), home(encrypted()), clock());
    make(&cluster, &first, &[], &clock);
    let pack = *packs(&first.repository).first().expect("a pack");
    let id = pack.to_string();
    let path = first.packs().join(&id[..2]).join(&id);
    let mut bytes = std::fs::read(&path).expect("reads");
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).expect("writes");
    let source = prod();
    let request = CopyRequest {
        from: Named { name: "from", repository: &first.repository },
        to: Named { name: "to", repository: &second.repository },
        source: &source,
        only: None,
        keeps: None,
        keep: None,
        self_contained: false,
        wal: false,
        compression: Compression::default(),
        jobs: 2,
        wal_timeout: Duration::from_secs(20),
        host: "test",
        clock: &clock,
        progress: &Silent,
    };
    let error = copy::copy(&request).expect_err("it is damaged");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains(&id), "{cause}");
    assert_eq!(backups(&second.repository), []);
    assert!(!packs(&second.repository).contains(&pack));
}

#[test]
fn wal_is_copied_from_the_oldest_backup_on_and_never_brought_back() {
    let source = crate::wal::fixture::Source::new();
    let cluster = &source.cluster;
    cluster.pgbench_init(1);
    let (first, second, clock) = (home(encrypted()), home(encrypted()), clock());
    let early = source.segment("create table early(n int)");
    push(&first.repository, &source, &early);
    make(cluster, &first, &[], &clock);
    let mut later = Vec::new();
    for round in 0..3 {
        let name = source.segment(&format!("create table later{round}(n int)"));
        push(&first.repository, &source, &name);
        later.push(name);
    }
    let report = copied(&first, &second.repository, &clock, |_| {});
    assert_eq!((report.backups.len(), report.wal.files as usize >= later.len()), (1, true), "{report:?}");
    let there = |name: &str| {
        let name: WalFileName = name.parse().expect("a name");
        !second.repository.find_wal(source.system, name).expect("lists").is_empty()
    };
    assert!(later.iter().all(|name| there(name)));
    assert!(!there(&early), "no backup needs it");
    assert_eq!(copied(&first, &second.repository, &clock, |_| {}).wal.files, 0);
    // One is lost there: it comes back. One was deleted on purpose: it does not.
    let delete = |name: &str| {
        let name: WalFileName = name.parse().expect("a name");
        for stored in second.repository.find_wal(source.system, name).expect("lists") {
            second.repository.store().delete(&stored.key).expect("deletes");
        }
    };
    delete(&later[0]);
    assert_eq!(copied(&first, &second.repository, &clock, |_| {}).wal.files, 1);
    let segment: refloat_types::WalSegmentName = later[0].parse().expect("a WAL segment");
    let mut marked = Marked::default();
    marked.add_wal(source.system, segment.timeline, segment.number(refloat_types::WalSegmentSize::DEFAULT));
    second.repository.put_tombstone(Vec::new(), Default::default(), marked, clock.now()).expect("marks");
    delete(&later[0]);
    assert_eq!(copied(&first, &second.repository, &clock, |_| {}).wal.files, 0);
}

fn push(repository: &Repository, source: &crate::wal::fixture::Source, name: &str) {
    use refloat_engine::wal::{PushOptions, push};
    let options = PushOptions {
        compression: Compression::default(),
        now: SystemClock.now(),
        expected_system: Some(source.system),
        data_directory: None,
        source: None,
        acknowledge: 1,
        deadline: Duration::from_secs(30),
    };
    push(&[repository], &options, &source.path(name)).expect("archives");
}
