//! The types that settings have: parsed once, valid for whoever holds them.

pub mod compression;
pub mod connection;
pub mod credentials;
pub mod encryption;
pub mod plain;
pub mod retention;
pub mod schedule;
pub mod store;
pub mod url;
pub mod words;
