//! Stores around stores.
//!
//! `Retry<Deadline<S>>` is the usual order: each attempt has its own deadline. A store behind a network has deadlines of its
//! own and is wrapped as [`resilient`] says.

mod around;
mod breaker;
mod deadline;
mod limit;
mod retry;
mod threads;

pub use around::{Around, Gate, Moves};
pub use breaker::{Breaker, FAILURES};
pub use deadline::{Deadline, Limits};
pub use limit::Limit;
pub use retry::{Backoff, Retry};

/// What stands around every store behind a network: retries, with a breaker between the attempts, and limits inside, so
/// that a call that is refused or pauses holds no connection.
pub fn resilient<S: crate::Store>(
    store: S,
    patience: &crate::Patience,
) -> Retry<Around<Around<S, Limit>, Breaker>> {
    let limit = Limit::new(patience.connections, patience.upload_rate, patience.download_rate);
    let limited = Around::new(store, std::sync::Arc::new(limit));
    let budget = patience.call * 3;
    Retry::new(
        Around::new(limited, std::sync::Arc::new(Breaker::default())),
        Backoff { budget, ..Backoff::default() },
    )
    .with_first(patience.first)
}
