//! What PostgreSQL is: control file, pages, WAL, labels, manifests, SQL sessions, server binaries

pub mod conf;
pub mod control;
pub mod history;
pub mod label;
pub mod layout;
pub mod manifest;
pub mod page;
pub mod server;
pub mod sql;
pub mod wal;
