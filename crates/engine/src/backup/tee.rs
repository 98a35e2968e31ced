//! One stream of packs into several repositories at once.
//!
//! A backup is read, compressed and sealed once. The first repository decides: what it says is what the backup goes by. The
//! others get the same bytes, each on a thread of its own that is a few frames behind; one that fails or hangs is left out
//! from then on, and gets what it lacks when the backup is committed there. A crash leaves packs that nothing names.

use std::ops::{ControlFlow, Range};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use refloat_store::{Features, Key, ObjectInfo, ObjectWriter, Space, Store, StoreError};

/// Frames that may wait for another repository: 16 MiB where nothing can be compressed.
const WAITING: usize = 64;
/// How long one object may wait for another repository in all before that is left out: the server is in backup mode.
const PATIENCE: Duration = Duration::from_secs(60);

/// Another repository's store.
pub(super) struct Branch {
    store: Arc<dyn Store>,
    /// Why it is left out.
    failed: Mutex<Option<String>>,
}

impl Branch {
    fn is_left_out(&self) -> bool {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
    fn leave_out(&self, why: String) {
        tracing::warn!(store = self.store.describe(), %why, "left behind; it gets its packs later");
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }
}

/// A store whose new objects go to others as well.
pub(super) struct Tee {
    first: Arc<dyn Store>,
    branches: Vec<Arc<Branch>>,
}

impl Tee {
    pub(super) fn new(first: Arc<dyn Store>, others: impl IntoIterator<Item = Arc<dyn Store>>) -> Self {
        let branch = |store| Arc::new(Branch { store, failed: Mutex::default() });
        Self { first, branches: others.into_iter().map(branch).collect() }
    }
}

impl Store for Tee {
    fn describe(&self) -> &str {
        self.first.describe()
    }
    fn put_new(&self, key: &Key, body: &[u8]) -> Result<(), StoreError> {
        self.first.put_new(key, body)
    }
    fn create(&self, key: &Key) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let first = self.first.create(key)?;
        let living = self.branches.iter().filter(|branch| !branch.is_left_out());
        let branches = living.filter_map(|branch| BranchWriter::start(branch, key)).collect();
        Ok(Box::new(TeeWriter { first, branches }))
    }
    fn read(&self, key: &Key, range: Range<u64>, into: &mut Vec<u8>) -> Result<(), StoreError> {
        self.first.read(key, range, into)
    }
    fn settle(&self, key: &Key) -> Result<(), StoreError> {
        self.first.settle(key)
    }
    fn head(&self, key: &Key) -> Result<Option<ObjectInfo>, StoreError> {
        self.first.head(key)
    }
    fn list(
        &self,
        prefix: &str,
        each: &mut dyn FnMut(ObjectInfo) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.first.list(prefix, each)
    }
    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.first.delete(key)
    }
    fn features(&self) -> Features {
        self.first.features()
    }
    fn space(&self) -> Result<Option<Space>, StoreError> {
        self.first.space()
    }
}

struct TeeWriter {
    first: Box<dyn ObjectWriter>,
    branches: Vec<BranchWriter>,
}

impl ObjectWriter for TeeWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        // They begin before the first has finished.
        self.branches.retain_mut(|branch| branch.send(Some(bytes.to_vec())));
        self.first.write(bytes)
    }
    fn finish(self: Box<Self>) -> Result<(), StoreError> {
        let Self { first, branches } = *self;
        let finishing: Vec<_> = branches.into_iter().map(BranchWriter::close).collect();
        let result = first.finish();
        finishing.into_iter().for_each(Finishing::wait);
        result
    }
}

/// An object on its way into another repository. Dropped before it is closed, nothing of it becomes visible there.
struct BranchWriter {
    branch: Arc<Branch>,
    /// `None` in it: the object is complete.
    send: SyncSender<Option<Vec<u8>>>,
    thread: JoinHandle<Result<(), StoreError>>,
    /// How long it has been waited for so far.
    waited: Duration,
}

struct Finishing {
    branch: Arc<Branch>,
    thread: JoinHandle<Result<(), StoreError>>,
}

impl BranchWriter {
    fn start(branch: &Arc<Branch>, key: &Key) -> Option<Self> {
        let (send, receive) = sync_channel(WAITING);
        let (store, key) = (Arc::clone(&branch.store), key.clone());
        let builder = std::thread::Builder::new().name("other repository".to_owned());
        match builder.spawn(move || write(store.as_ref(), &key, &receive)) {
            Ok(thread) => Some(Self { branch: Arc::clone(branch), send, thread, waited: Duration::ZERO }),
            Err(error) => {
                branch.leave_out(error.to_string());
                None
            }
        }
    }

    /// `false` when it is left out.
    fn send(&mut self, message: Option<Vec<u8>>) -> bool {
        if self.branch.is_left_out() {
            return false;
        }
        let began = Instant::now();
        let mut message = message;
        loop {
            message = match self.send.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => {
                    self.branch.leave_out("it failed".to_owned());
                    return false;
                }
                Err(TrySendError::Full(message)) if self.waited + began.elapsed() < PATIENCE => message,
                Err(TrySendError::Full(_)) => {
                    self.branch.leave_out(format!("it was waited for for {} s", PATIENCE.as_secs()));
                    return false;
                }
            };
            std::thread::sleep(Duration::from_millis(1));
        }
        self.waited += began.elapsed();
        true
    }

    fn close(mut self) -> Finishing {
        // One that is gone says so when it is waited for.
        self.send(None);
        Finishing { branch: self.branch, thread: self.thread }
    }
}

impl Finishing {
    /// Waits for the end; one that does not come to it is left to itself, and what it writes is nobody's.
    fn wait(self) {
        let began = Instant::now();
        while !self.thread.is_finished() {
            if self.branch.is_left_out() || began.elapsed() > PATIENCE {
                self.branch.leave_out(format!("it did not finish within {} s", PATIENCE.as_secs()));
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        match self.thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.branch.leave_out(format!("{error}: {}", error.source)),
            Err(_) => self.branch.leave_out("its thread panicked".to_owned()),
        }
    }
}

fn write(store: &dyn Store, key: &Key, receive: &Receiver<Option<Vec<u8>>>) -> Result<(), StoreError> {
    let mut object = store.create(key)?;
    while let Ok(message) = receive.recv() {
        match message {
            Some(bytes) => object.write(&bytes)?,
            None => return object.finish(),
        }
    }
    // Given up over there.
    Ok(())
}
