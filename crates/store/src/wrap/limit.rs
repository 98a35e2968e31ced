//! How many calls at once, and how many bytes a second.

use std::io;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::around::{Gate, Moves};
use crate::StoreError;

/// Lets so many calls through at once, and paces bytes. The limits are those of a process for a store.
#[derive(Debug)]
pub struct Limit {
    free: Mutex<usize>,
    left: Condvar,
    upload: Option<Pace>,
    download: Option<Pace>,
}

impl Limit {
    /// At most `connections` calls at once, and these many bytes a second in each direction.
    pub fn new(connections: usize, upload_rate: Option<u64>, download_rate: Option<u64>) -> Self {
        Self {
            free: Mutex::new(connections.max(1)),
            left: Condvar::new(),
            upload: upload_rate.map(Pace::new),
            download: download_rate.map(Pace::new),
        }
    }
}

impl Gate for Limit {
    type Pass = ();

    fn enter(&self, moves: Moves) -> Result<(), io::Error> {
        // Before a connection is taken: whoever waits for bytes holds nobody up.
        if let Some(pace) = &self.upload {
            pace.wait(moves.sent);
        }
        if let Some(pace) = &self.download {
            pace.wait(moves.received);
        }
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.left.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Ok(())
    }

    fn leave(&self, (): (), _: Option<&StoreError>) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.left.notify_one();
    }
}

/// Hands out time for bytes.
#[derive(Debug)]
struct Pace {
    rate: u64,
    /// When the bytes that were handed out so far are through.
    through: Mutex<Instant>,
}

/// Unused time up to this is made up for.
const BURST: Duration = Duration::from_millis(250);

impl Pace {
    fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), through: Mutex::new(Instant::now()) }
    }

    /// Waits until the bytes before these are through.
    fn wait(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let pause = {
            let mut through = self.through.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let begin = (*through).max(now.checked_sub(BURST).unwrap_or(now));
            *through = begin + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
            through.saturating_duration_since(now)
        };
        std::thread::sleep(pause);
    }
}
