//! The stores of this crate against their contract, and what they must survive.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking and skip loudly, their helpers too"
)]

mod between;
mod buckets;
mod child;
mod cleaning;
mod confirmed;
mod contract;
mod dropbox;
mod full_disk;
mod gdrive;
mod guarded;
mod power_cut;
mod refused;
mod resilience;
mod sftp;
mod small;
mod webdav;
mod wrappers;
