//! What is to be copied next: threads take runs of neighbouring spans from the front of the listing, so that packs and
//! frames hold neighbours. Map leaves of neighbouring spans lie in the same frames of the parent, too: a thread that gets
//! them together opens each frame once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use refloat_repo::RepoError;
use refloat_repo::manifest::leaf::LEAF_SPAN;

use super::files::{Entries, FileToCopy, Listing};

/// Most files of a run: the lock is taken, and records are read, for all of them at once.
const RUN: usize = 64;

/// Spans that are handed out together where there is a parent: as many leaves of whole spans as a frame holds.
const TOGETHER: u64 = 8;

/// A span of a file.
pub(super) struct Task {
    pub(super) file: Arc<FileToCopy>,
    pub(super) span: u64,
}

/// Everything that is to be copied.
pub(super) struct Queue {
    next: Mutex<Next>,
}

struct Next {
    entries: Entries,
    /// Spans that are not handed out yet.
    left: u64,
    /// Most bytes of a run, in spans.
    most: u64,
    threads: u64,
    /// A file of which spans are left.
    open: Option<Task>,
}

impl Queue {
    /// All spans of all files, for so many threads.
    pub(super) fn new(listing: &Listing, threads: usize, reads_leaves: bool) -> Self {
        let most = if reads_leaves { TOGETHER } else { 1 };
        let threads = threads.max(1) as u64;
        let next = Next { entries: listing.entries(), left: listing.spans, most, threads, open: None };
        Self { next: Mutex::new(next) }
    }

    /// The next run: small files up to the bytes of one span, or one span of a large one; several where leaves are read.
    /// Empty when nothing is left.
    pub(super) fn take(&self, run: &mut VecDeque<Task>) -> Result<(), RepoError> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take(run)
    }
}

impl Next {
    fn take(&mut self, run: &mut VecDeque<Task>) -> Result<(), RepoError> {
        let mut bytes = 0;
        let limit = LEAF_SPAN * together(self.left, self.threads, self.most);
        while run.len() < RUN && bytes < limit {
            let task = match self.open.take() {
                Some(task) => task,
                None => match self.entries.next_file()? {
                    Some(file) => Task { file: Arc::new(file), span: 0 },
                    None => break,
                },
            };
            bytes += task.file.size.saturating_sub(task.span * LEAF_SPAN).min(LEAF_SPAN);
            if task.span + 1 < task.file.spans() {
                self.open = Some(Task { file: Arc::clone(&task.file), span: task.span + 1 });
            }
            run.push_back(task);
        }
        self.left = self.left.saturating_sub(run.len() as u64);
        Ok(())
    }
}

/// How many spans are handed out together. Towards the end few, so that no thread works long while others have nothing to
/// do.
fn together(left: u64, threads: u64, most: u64) -> u64 {
    (left / (2 * threads)).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_runs_first_and_single_ones_last() {
        assert_eq!((together(0, 2, 8), together(3, 2, 8), together(40, 4, 1)), (1, 1, 1));
        let (mut left, mut runs) = (200, Vec::new());
        while left > 0 {
            runs.push(together(left, 4, 8));
            left -= runs.last().unwrap();
        }
        assert!(runs.starts_with(&[8; 16]), "{runs:?}");
        assert!(runs.is_sorted_by(|a, b| a >= b) && runs.ends_with(&[1; 8]), "{runs:?}");
    }
}
