//! Stores around stores.
//!
//! `Retry<Deadline<S>>` is the usual order: each attempt has its own deadline.

mod deadline;
mod retry;
mod threads;

pub use deadline::{Deadline, Limits};
pub use retry::{Backoff, Retry};
