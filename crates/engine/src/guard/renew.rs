//! The thread that renews a pin while its job works.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use refloat_repo::repository::PinWriter;

/// Renews until it is dropped.
pub(super) struct Renewer {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Renewer {
    /// Starts it; `None` where no thread can be had: then the pin lives for its lease.
    pub(super) fn start(writer: Arc<Mutex<PinWriter>>, every: Duration) -> Option<Self> {
        let (stop, stopped) = channel::<()>();
        let renew = move || {
            while matches!(stopped.recv_timeout(every), Err(RecvTimeoutError::Timeout)) {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = writer.renew() {
                    tracing::warn!(%error, "the pin of this job could not be renewed");
                }
            }
        };
        let thread = std::thread::Builder::new().name("pin".to_owned()).spawn(renew).ok()?;
        Some(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Renewer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
