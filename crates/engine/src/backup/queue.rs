//! What is to be copied next: threads take runs of neighbouring spans from the front of the listing, so that packs and
//! frames hold neighbours.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use refloat_repo::RepoError;
use refloat_repo::manifest::leaf::LEAF_SPAN;

use super::files::{Entries, FileToCopy, Listing};

/// Most files of a run: the lock is taken, and records are read, for all of them at once.
const RUN: usize = 64;

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
    /// A file of which spans are left.
    open: Option<Task>,
}

impl Queue {
    /// All spans of all files.
    pub(super) fn new(listing: &Listing) -> Self {
        Self { next: Mutex::new(Next { entries: listing.entries(), open: None }) }
    }

    /// The next run: small files up to the bytes of one span, or one span of a large one. Empty when nothing is left.
    pub(super) fn take(&self, run: &mut VecDeque<Task>) -> Result<(), RepoError> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).take(run)
    }
}

impl Next {
    fn take(&mut self, run: &mut VecDeque<Task>) -> Result<(), RepoError> {
        let mut bytes = 0;
        while run.len() < RUN && bytes < LEAF_SPAN {
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
        Ok(())
    }
}
