//! The one runtime that network stores run on.
//!
//! It is started by the first call, so a process that never talks to a network never has one. Calls are handed to it and
//! waited for through a channel: that works on any thread, also on one that drives a runtime of its own.

use std::future::Future;
use std::io;
use std::sync::OnceLock;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// Threads that drive connections. TLS is worked there, so one alone would be a bottleneck.
const THREADS: usize = 2;

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

fn runtime() -> io::Result<&'static Runtime> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    // Two threads may both make one; the second is dropped unused.
    let made = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(16)
        .thread_name("store network")
        .enable_all()
        .build()?;
    if let Err(unused) = RUNTIME.set(made) {
        unused.shutdown_background();
    }
    RUNTIME.get().ok_or_else(|| io::Error::other("the runtime vanished"))
}

/// Runs `future` to its end.
///
/// # Errors
/// The runtime cannot be started, or the future died.
pub(crate) fn run<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
    let (send, receive) = sync_channel(1);
    runtime()?.spawn(async move {
        // Nobody may be waiting any more.
        let _ = send.send(future.await);
    });
    receive.recv().map_err(|_| io::Error::other("a call to the store died"))
}

/// Starts `future` and waits for nothing.
pub(crate) fn start(future: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = runtime() {
        runtime.spawn(future);
    }
}

/// Runs `future` for at most `limit`; `None` when it was cut off.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit, future).await.ok()
}
