//! Expiry: that nothing needed is ever deleted, and nothing unneeded stays for ever.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod bucket;
mod guards;
mod history;
mod locked;
mod rules;
mod world;
