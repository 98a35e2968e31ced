//! Where the bytes of a WAL object come from: asked for as they are needed, or brought by another thread meanwhile.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, Scope};

use refloat_store::{Key, Store, StoreError};

use crate::error::RepoError;

/// How much is asked for at a time where a recovery waits for it: a segment of the usual size by one request, whatever is in
/// it.
const AT_ONCE: u64 = 17 << 20;
/// An object of at least this size is brought in two halves: one connection to a store is seldom as fast as two.
const WORTH_TWO: u64 = 1 << 20;

/// The bytes of an object, from some place on.
pub(super) struct Input<'a> {
    store: &'a dyn Store,
    key: &'a Key,
    /// Where the next bytes begin.
    at: u64,
    size: u64,
    from: From,
    /// An error was answered: whoever asks now need not be told another.
    failed: bool,
}

enum From {
    /// The store, so many bytes at a time at least.
    Store(u64),
    /// Threads that read all of it: where the part of each ends, and what comes of it.
    Threads(VecDeque<(u64, Receiver<Piece>)>),
}

/// Bytes that came, or why no more will.
type Piece = Result<Vec<u8>, StoreError>;

impl<'a> Input<'a> {
    /// The bytes of `key` from `at` on, of `size` in all; at least `ahead` are asked for at a time.
    pub(super) const fn asked(store: &'a dyn Store, key: &'a Key, at: u64, size: u64, ahead: u64) -> Self {
        Self { store, key, at, size, from: From::Store(ahead), failed: false }
    }

    /// All bytes of `key`; those of a segment of the usual size by one request.
    pub(super) const fn at_once(store: &'a dyn Store, key: &'a Key, size: u64) -> Self {
        Self::asked(store, key, 0, size, AT_ONCE)
    }

    /// All bytes of `key`, for whoever waits for the last. Over a network other threads bring those of a segment of the usual
    /// size, so that the first are used while the rest is on its way.
    pub(super) fn waited_for<'scope>(
        scope: &'scope Scope<'scope, '_>,
        store: &'scope dyn Store,
        key: &'scope Key,
        size: u64,
    ) -> Input<'scope> {
        let asked = Input::at_once(store, key, size);
        // All of it may wait in memory: whoever brings it never waits for whoever uses it, who may need the only connection
        // there is for the key.
        if !store.features().remote || size > AT_ONCE {
            return asked;
        }
        let mut parts = VecDeque::new();
        let mut bring = |range: Range<u64>| {
            let (send, receive) = channel();
            parts.push_back((range.end, receive));
            let bring = move || bring(store, key, range, &send);
            Builder::new().name("fetch".to_owned()).spawn_scoped(scope, bring).is_ok()
        };
        let started = match size {
            WORTH_TWO.. => bring(0..size / 2) && bring(size / 2..size),
            _ => bring(0..size),
        };
        // A thread that cannot be started (too many processes) is no reason to stop a recovery.
        if started { Input { from: From::Threads(parts), ..asked } } else { asked }
    }

    /// Whether there was an error.
    pub(super) const fn has_failed(&self) -> bool {
        self.failed
    }

    /// Where the next bytes begin.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// Appends at least `missing` bytes to `into`.
    ///
    /// # Errors
    /// `Damaged` when it has no more, or what the store says.
    pub(super) fn more(&mut self, missing: u64, into: &mut Vec<u8>) -> Result<(), RepoError> {
        if self.size.saturating_sub(self.at) < missing {
            self.failed = true;
            return Err(RepoError::damaged(self.key, "it ends within a frame"));
        }
        let result = self.take(missing, into);
        self.failed |= result.is_err();
        result
    }

    fn take(&mut self, missing: u64, into: &mut Vec<u8>) -> Result<(), RepoError> {
        match &mut self.from {
            From::Store(ahead) => {
                let end = self.size.min(self.at + missing.max(*ahead));
                self.store.read(self.key, self.at..end, into)?;
                self.at = end;
            }
            From::Threads(parts) => {
                let enough = self.at + missing;
                while self.at < enough {
                    let died =
                        || RepoError::internal("read a WAL file", std::io::Error::other("a thread died"));
                    let (end, receive) = parts.front().ok_or_else(died)?;
                    let piece = receive.recv().map_err(|_| died())??;
                    self.at += piece.len() as u64;
                    into.extend_from_slice(&piece);
                    if self.at >= *end {
                        parts.pop_front();
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads a range and sends on what comes until nobody takes it.
fn bring(store: &dyn Store, key: &Key, range: Range<u64>, send: &Sender<Piece>) {
    let result = store.stream(key, range, &mut |piece| match send.send(Ok(piece)) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    });
    if let Err(error) = result {
        // Nobody may be waiting any more.
        let _ = send.send(Err(error));
    }
}
