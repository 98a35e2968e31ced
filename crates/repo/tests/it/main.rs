//! The format as a stranger sees it: through the public interface, and through the bytes in the store.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking, their helpers too")]

mod fixture;
mod forged;
mod inviting;
mod kits;
mod known;
mod numbers;
mod once;
mod opening;
mod rotation;
mod sample;
mod segment;
