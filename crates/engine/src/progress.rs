//! How long work tells how far it is.

use std::sync::atomic::{AtomicU64, Ordering};

/// Receives progress; called from many threads, often: it must be cheap.
pub trait Progress: Send + Sync {
    /// A new phase begins; `total_bytes` is 0 where it is not known.
    fn phase(&self, name: &str, total_bytes: u64);
    /// So many more bytes are done.
    fn advance(&self, bytes: u64);
    /// Something a person should see now, though nothing failed.
    fn note(&self, text: &str);
}

/// Tells nobody.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn note(&self, _: &str) {}
}

/// Counts bytes from many threads.
#[derive(Debug, Default)]
pub struct ByteCounter(AtomicU64);

impl ByteCounter {
    /// Adds to it.
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
    /// The sum.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
