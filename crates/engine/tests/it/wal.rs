//! WAL of real servers through push and fetch.

#![expect(clippy::unwrap_used, reason = "tests, and what only they call")]

mod archiver;
mod content;
mod fetch;
pub(crate) mod fixture;
mod moments;
mod push;
mod races;
