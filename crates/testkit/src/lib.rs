//! For tests only: real PostgreSQL clusters, real store servers and a proxy before them, the contract every store must
//! keep, fault plans.

pub mod between;
pub mod cluster;
pub mod failpoints;
pub mod fault_plan;
pub mod http;
pub mod memory_store;
pub mod proxy;
pub mod servers;
pub mod store_contract;
pub mod wal;

/// Says loudly that a test, or a part of one, is skipped and why. `./test` repeats it before the runner's summary, because
/// the runner shows nothing of tests that pass.
#[expect(clippy::disallowed_methods, reason = "tests only: where the notices are gathered")]
#[expect(clippy::print_stderr, reason = "tests only: a skip is loud")]
pub fn skipped(why: &str) {
    use std::io::Write as _;
    eprintln!("SKIPPED: {why}");
    let Some(file) = std::env::var_os("REFLOAT_TEST_SKIPS") else { return };
    if let Ok(mut file) = std::fs::OpenOptions::new().append(true).open(file) {
        let _ = writeln!(file, "{why}");
    }
}

/// `true` when strace is not installed or may not trace here. Says so; fails where `CI=true`.
///
/// # Panics
/// When strace does not work and `CI=true`.
#[expect(clippy::disallowed_methods, reason = "tests only: CI must not skip")]
pub fn skip_without_strace() -> bool {
    let tried = std::process::Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    if tried.is_ok_and(|output| output.status.success()) {
        return false;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "strace does not work, and CI=true allows no skip");
    skipped("strace is not installed or may not trace processes here");
    true
}
