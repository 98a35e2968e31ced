//! Whoever reads pins what is read, without being told to: an expiry beside it takes nothing of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use refloat_engine::expire::{ExpireReport, ExpireRequest, Keep, Policy, SHORTEST_GRACE, expire};
use refloat_engine::guard::SinceBoot;
use refloat_engine::progress::{Progress, Silent};
use refloat_engine::restore::{dry_run, plan, restore};
use refloat_engine::verify::{Scope, VerifyRequest, verify};
use refloat_repo::Repository;
use refloat_testkit::cluster::TestCluster;
use refloat_types::{Clock as _, SourceId, SystemClock};

use crate::backup::{encrypted, home};
use crate::restore::{backed_up, to};

/// Keeps the newest full backup, and marks the others.
fn expires(repository: &Repository, source: SourceId) -> ExpireReport {
    let policy = Policy { full: Some(Keep::Count(1)), ..Policy::default() };
    let request = ExpireRequest {
        repository,
        policies: BTreeMap::from([(source, policy)]),
        grace: SHORTEST_GRACE,
        host: "other",
        clock: &SystemClock,
        uptime: Arc::new(SinceBoot),
        progress: &Silent,
    };
    expire(&request).expect("an expiry")
}

/// Runs an expiry in every phase.
struct Expires<'a> {
    repository: &'a Repository,
    source: SourceId,
    marked: Mutex<Vec<u64>>,
}

impl Progress for Expires<'_> {
    fn phase(&self, _name: &str, _total: u64) {
        let report = expires(self.repository, self.source);
        self.marked.lock().expect("no panic").push(report.marked.backups);
    }
    fn advance(&self, _by: u64) {}
    fn note(&self, _text: &str) {}
}

#[test]
fn an_expiry_beside_a_restore_or_a_verification_marks_nothing() {
    let cluster = TestCluster::builder().build();
    let home = home(encrypted());
    let repository = &home.repository;
    let first = backed_up(&cluster, &home);
    backed_up(&cluster, &home);
    let source = first.commit.source;
    let meanwhile = || Expires { repository, source, marked: Mutex::default() };
    let nothing = |beside: Expires<'_>| {
        let marked = beside.marked.into_inner().unwrap();
        assert!(!marked.is_empty() && marked.iter().all(|count| *count == 0), "{marked:?}");
        assert!(repository.list_pins().unwrap().is_empty(), "the pin goes with the job");
    };

    let beside = meanwhile();
    let request = VerifyRequest {
        repository,
        scope: Scope::Repository,
        read_data: true,
        jobs: 1,
        host: "test",
        now: SystemClock.now(),
        progress: &beside,
    };
    let report = verify(&request).unwrap();
    assert!(report.findings.iter().all(|finding| !finding.object.starts_with("packs/")), "{report:#?}");
    nothing(beside);

    let place = cluster.make_dir("places");
    let looked = dry_run(repository, to(&cluster, &first, &place.join("none"))).unwrap();
    assert!(looked.guard().is_none() && repository.list_pins().unwrap().is_empty(), "a look leaves no trace");
    drop(looked);
    let planned = plan(repository, to(&cluster, &first, &place.join("copy"))).unwrap();
    assert_eq!(expires(repository, source).marked.backups, 0, "from the plan on");
    let beside = meanwhile();
    restore(planned, &beside, None).unwrap();
    nothing(beside);

    // Nobody uses it any more.
    assert_eq!(expires(repository, source).marked.backups, 1);
}
