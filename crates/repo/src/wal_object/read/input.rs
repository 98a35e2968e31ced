//! Where the bytes of a WAL object come from: asked for as they are needed, or brought by another thread meanwhile.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::thread::{Builder, Scope};

use refloat_store::{Key, Store, StoreError};

use crate::error::RepoError;

/// How much is asked for at a time where a recovery waits for it: a segment of the usual size by one request, whatever is in
/// it.
const AT_ONCE: u64 = 17 << 20;
/// An object of at least this size is brought in two halves: one connection to a store is seldom as fast as two.
const WORTH_TWO: u64 = 1 << 20;
/// Pieces of a larger object that wait to be used; a store over a network hands on some 100 KiB at a time.
const WAITING: usize = 64;

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

    /// All bytes of `key`, for whoever waits for the last. Over a network other threads bring them, so that the first are
    /// used while the rest is on its way.
    pub(super) fn soon<'scope>(
        scope: &'scope Scope<'scope, '_>,
        store: &'scope dyn Store,
        key: &'scope Key,
        size: u64,
    ) -> Input<'scope> {
        let asked = Input::asked(store, key, 0, size, AT_ONCE);
        if !store.features().remote {
            return asked;
        }
        let mut parts = VecDeque::new();
        let mut bring = |range: Range<u64>, waits: bool| {
            let end = range.end;
            let thread = Builder::new().name("fetch".to_owned());
            let (started, receive) = if waits {
                let (send, receive) = sync_channel(WAITING);
                let bring = move || bring_all(store, key, range, &|piece| send.send(piece).is_ok());
                (thread.spawn_scoped(scope, bring), receive)
            } else {
                let (send, receive) = channel();
                let bring = move || bring_all(store, key, range, &|piece| send.send(piece).is_ok());
                (thread.spawn_scoped(scope, bring), receive)
            };
            parts.push_back((end, receive));
            started.is_ok()
        };
        // The second half must not wait until the first is used: there may be but one connection, and it has it.
        let started = match size {
            WORTH_TWO..=AT_ONCE => bring(0..size / 2, false) && bring(size / 2..size, false),
            _ => bring(0..size, true),
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

/// Reads a range in parts that may wait in memory, and sends on what comes until nobody takes it.
fn bring_all(store: &dyn Store, key: &Key, range: Range<u64>, send: &dyn Fn(Piece) -> bool) {
    let mut at = range.start;
    let mut is_wanted = true;
    while at < range.end && is_wanted {
        let end = range.end.min(at + AT_ONCE);
        let result = store.stream(key, at..end, &mut |piece| {
            is_wanted = send(Ok(piece));
            if is_wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if let Err(error) = result {
            send(Err(error));
            return;
        }
        at = end;
    }
}
