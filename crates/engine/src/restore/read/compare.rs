//! What of a file is at its place already: asked, by several threads, before its pieces are planned.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use refloat_repo::manifest::Leaf;

use super::{FileSlot, ReadError, SinkError};

/// What is there of one range of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum There {
    /// No file: all of it is wanted, and what no piece covers becomes a hole.
    Nothing,
    /// A file of the right size.
    File {
        /// What is wanted, counted from the range's start, in order. Zeros among it were written.
        wanted: Vec<Range<u32>>,
        /// What the rest adds to the CRC-32C of the range; it was read for this.
        kept_crc: u32,
    },
}

/// Looks at what is there. Called by several threads.
pub trait Compare: Sync {
    /// Compares the range that `leaf` covers, which begins at `offset`. An empty file is asked about with an empty leaf.
    ///
    /// # Errors
    /// Ends the reading.
    fn compare(
        &self,
        file: &FileSlot,
        offset: u64,
        leaf: &Leaf,
        buffer: &mut Vec<u8>,
    ) -> Result<There, SinkError>;
}

/// A range that waits to be compared.
pub(super) struct Waiting {
    pub(super) slot: FileSlot,
    pub(super) offset: u64,
    pub(super) leaf: Leaf,
    /// The file ends with it.
    pub(super) ends: bool,
}

/// Compares all with `jobs` threads; the answers are in the same order.
pub(super) fn compare_all(
    with: &dyn Compare,
    waiting: &[Waiting],
    jobs: usize,
) -> Result<Vec<There>, ReadError> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let answers = Mutex::new(vec![There::Nothing; waiting.len()]);
    let failed: Mutex<Option<ReadError>> = Mutex::new(None);
    let fail = |error: ReadError| {
        stop.store(true, Ordering::Relaxed);
        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    };
    let work = || {
        let mut buffer = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(Waiting { slot, offset, leaf, .. }) = waiting.get(at) else { break };
            match with.compare(slot, *offset, leaf, &mut buffer) {
                Ok(there) => answers.lock().unwrap_or_else(PoisonError::into_inner)[at] = there,
                Err(error) => fail(error.into()),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(waiting.len()) {
            let thread = std::thread::Builder::new().name("restore-compare".to_owned());
            if let Err(error) = thread.spawn_scoped(scope, work) {
                fail(ReadError::Thread(error));
            }
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(answers.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}
