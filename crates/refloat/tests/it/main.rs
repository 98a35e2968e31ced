//! The program, run as its users run it.

mod cli;
mod demo;
mod e2e;

/// The program under test: the one built with the tests, or the released one (`REFLOAT_TEST_PROGRAM`), which is linked
/// differently.
#[expect(clippy::disallowed_methods, reason = "tests only: which program is tested")]
fn program() -> String {
    std::env::var("REFLOAT_TEST_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_refloat").to_owned())
}
