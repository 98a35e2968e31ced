//! Threads for calls that may never come back.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// How many idle threads are kept for the next call.
const IDLE: usize = 8;

/// Runs calls on threads of its own, keeps threads that came back, and gives up those that did not.
#[derive(Debug)]
pub(super) struct Threads {
    /// Hands a job to a thread that waits for one.
    idle: Arc<Mutex<Vec<SyncSender<Job>>>>,
    /// Each call holds a share while it runs: how many are out is seen from the count.
    running: Arc<()>,
    /// Most calls that may be out, hanging ones included.
    limit: usize,
}

/// A call without an answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The deadline passed; the call goes on, unobserved.
    Late,
    /// The call panicked; whatever it held is gone.
    Died,
    /// No thread for it.
    NotStarted(io::Error),
}

impl Threads {
    pub(super) fn new(limit: usize) -> Self {
        Self { idle: Arc::default(), running: Arc::new(()), limit }
    }

    /// Runs `call` and waits for its answer, at most for `deadline`.
    pub(super) fn run<T: Send + 'static>(
        &self,
        deadline: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let (send, receive) = sync_channel(1);
        self.start(move || {
            // Nobody may be waiting any more.
            let _ = send.send(call());
        })?;
        wait(&receive, deadline)
    }

    /// Starts `call` without waiting.
    pub(super) fn start(&self, call: impl FnOnce() + Send + 'static) -> Result<(), NoAnswer> {
        let share = Arc::clone(&self.running);
        if Arc::strong_count(&self.running) > self.limit + 1 {
            let text = format!("{} calls hang already", self.limit);
            return Err(NoAnswer::NotStarted(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        let job: Job = Box::new(move || {
            call();
            drop(share);
        });
        let waiting = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let job = match waiting {
            Some(thread) => match thread.send(job) {
                Ok(()) => return Ok(()),
                Err(refused) => refused.0,
            },
            None => job,
        };
        let idle = Arc::clone(&self.idle);
        let body = move || serve(job, &idle);
        let builder = std::thread::Builder::new().name("store call".to_owned());
        builder.spawn(body).map(drop).map_err(NoAnswer::NotStarted)
    }
}

/// Waits for what a started call sends.
pub(super) fn wait<T>(receive: &Receiver<T>, deadline: Duration) -> Result<T, NoAnswer> {
    receive.recv_timeout(deadline).map_err(|error| match error {
        RecvTimeoutError::Timeout => NoAnswer::Late,
        RecvTimeoutError::Disconnected => NoAnswer::Died,
    })
}

/// The life of a thread: this job, then whatever comes, until nobody keeps its sender.
fn serve(first: Job, idle: &Mutex<Vec<SyncSender<Job>>>) {
    let mut job = first;
    loop {
        job();
        let (send, receive) = sync_channel(1);
        {
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() >= IDLE {
                return;
            }
            idle.push(send);
        }
        match receive.recv() {
            Ok(next) => job = next,
            Err(_) => return,
        }
    }
}
