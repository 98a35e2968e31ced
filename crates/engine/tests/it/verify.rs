//! What `verify` finds in repositories that are whole, damaged, cut, robbed and forged.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod faults;
mod forged;
mod real;
pub(crate) mod small;
