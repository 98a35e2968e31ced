//! Every store and every wrapper keeps the contract.

use std::time::Duration;

use refloat_store::{Backoff, Deadline, Limits, Options, PosixStore, Retry, Store};
use refloat_testkit::fault_plan::{FaultPlan, Faulty};
use refloat_testkit::memory_store::Memory;
use refloat_testkit::store_contract::run;

/// Makes stores in directories that live as long as this.
struct Places(tempfile::TempDir, std::cell::Cell<u32>);

impl Places {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap(), std::cell::Cell::new(0))
    }
    fn store(&self) -> PosixStore {
        self.1.set(self.1.get() + 1);
        let path = self.0.path().join(self.1.get().to_string());
        PosixStore::open(path, Options { create: true, ..Options::default() }).unwrap()
    }
}

#[test]
fn posix() {
    let places = Places::new();
    run(&|| Box::new(places.store()));
}

#[test]
fn memory() {
    run(&|| Box::new(Memory::new()));
}

#[test]
fn memory_that_overwrites() {
    run(&|| Box::new(Memory::new().overwriting()));
}

#[test]
fn memory_with_a_plan_in_which_nothing_goes_wrong() {
    run(&|| Box::new(Faulty::new(Memory::new(), &FaultPlan::new())));
}

#[test]
fn posix_with_deadlines_and_retries() {
    let places = Places::new();
    run(&|| {
        let limits = Limits { call: Duration::from_secs(60), ..Limits::default() };
        Box::new(Retry::new(Deadline::new(places.store(), limits), Backoff::default()))
    });
}

#[test]
fn memory_behind_pointers() {
    run(&|| {
        Box::new(Retry::new(
            std::sync::Arc::new(Memory::new()) as std::sync::Arc<dyn Store>,
            Backoff::default(),
        ))
    });
}
