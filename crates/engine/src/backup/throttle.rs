//! Keeps all threads together below a rate.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A shared allowance of bytes a second.
pub(super) struct Throttle {
    bytes_per_second: Option<u64>,
    /// When the bytes granted so far will have been used up.
    used_until: Mutex<Instant>,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.filter(|r| *r > 0), used_until: Mutex::new(Instant::now()) }
    }
    /// Sleeps until `bytes` more may be read.
    pub(super) fn take(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let wait = {
            let mut until = self.used_until.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let wait = until.saturating_duration_since(now);
            *until = (*until).max(now) + cost;
            wait
        };
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
    }
}
