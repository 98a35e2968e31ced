//! For tests only: one body for each parser of bytes that come from a disk, a network or a person.
//!
//! A body takes any bytes and returns; a panic, an abort or an endless loop is a fault. Where the parser stands behind a
//! checksum or a signature, the body makes these right first: who forges bytes can do so as well, and damage that is
//! found by a checksum shows nothing of the parser behind it. Two things run the bodies:
//!
//! - `fuzz/`, a workspace of its own, with cargo-fuzz and a nightly compiler: `scripts/fuzz SECONDS`.
//! - this crate's test, with every `./test`: the committed seeds and some mutations of each, always the same.
//!
//! What a fuzzer finds becomes a seed, so that it stays found.

pub mod config;
pub mod mutate;
pub mod postgres;
pub mod repository;

use std::path::PathBuf;

/// A parser and what is done to it.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of the cargo-fuzz target and of the directory with its seeds.
    pub name: &'static str,
    /// Must return, whatever it is given.
    pub body: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident: $body:path,)*) => {
        /// Every parser of foreign bytes.
        pub const TARGETS: &[Target] = &[$(Target { name: stringify!($name), body: $body },)*];
    };
}

targets! {
    wal_segment: postgres::wal_segment,
    wal_record: postgres::wal_record,
    control_file: postgres::control_file,
    backup_label: postgres::backup_label,
    tablespace_map: postgres::tablespace_map,
    timeline_history: postgres::timeline_history,
    backup_history: postgres::backup_history,
    server_configuration: postgres::server_configuration,
    page: postgres::page,
    file_names: postgres::file_names,
    object_header: repository::object_header,
    document: repository::document,
    leaf: repository::leaf,
    manifest_part: repository::manifest_part,
    pack: repository::pack,
    frame: repository::frame,
    commit_packs: repository::commit_packs,
    wal_object: repository::wal_object,
    configuration: config::configuration,
}

/// Directory with the seeds of a target.
pub fn seeds_of(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target)
}
