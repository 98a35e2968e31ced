//! A store that does not answer is left alone for a while.
//!
//! After [`FAILURES`] calls in a row without an answer, calls are refused at once instead of each waiting for its deadline;
//! after a pause one call is let through, and its answer decides. A dead store so costs a process little, and a store that
//! comes back is not met by everybody at once.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use refloat_types::Wait;

use super::around::{Gate, Moves};
use crate::{StoreError, StoreErrorKind};

/// Calls in a row without an answer after which the store is left alone.
pub const FAILURES: u32 = 8;

/// Counts calls without an answer.
#[derive(Debug)]
pub struct Breaker {
    state: Mutex<State>,
    first: Duration,
    longest: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    /// Until when calls are refused, where they are.
    until: Option<Instant>,
    /// How long they were refused last.
    pause: Duration,
}

impl Breaker {
    /// Leaves the store alone for `first`, then for twice as long each time, at most for `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { state: Mutex::default(), first, longest }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new(Duration::from_secs(2), Duration::from_secs(30))
    }
}

impl Gate for Breaker {
    type Pass = ();

    fn enter(&self, _: Moves) -> Result<(), io::Error> {
        self.glance()
    }

    fn leave(&self, (): (), error: Option<&StoreError>) {
        self.hear(error);
    }

    fn glance(&self) -> Result<(), io::Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(until) = state.until else { return Ok(()) };
        let now = Instant::now();
        if now < until {
            let text = format!(
                "not asked: {} calls in a row had no answer; asked again in {}",
                state.failures,
                Wait(until - now)
            );
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        // This call finds out; the others wait for what it finds.
        state.until = Some(now + state.pause);
        Ok(())
    }

    fn hear(&self, error: Option<&StoreError>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if error.is_none_or(|error| error.kind != StoreErrorKind::Unreachable) {
            *state = State::default();
            return;
        }
        state.failures += 1;
        if state.failures >= FAILURES {
            let next = if state.pause.is_zero() { self.first } else { state.pause * 2 };
            state.pause = next.min(self.longest);
            // A store that says how long it wants to be left alone is heard.
            let asked = error.and_then(StoreError::retry_after).unwrap_or_default();
            state.until = Some(Instant::now() + state.pause.max(asked));
        }
    }
}
