//! Which thread copies which ranges: neighbours together, and the work evenly spread.
//!
//! Map leaves of neighbouring ranges lie in the same frames of the parent. A thread that gets them together opens each frame
//! once; threads that take single ranges in turn would all open all of them.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Ranges that are handed out together where there is a parent: as many leaves of whole ranges as a frame holds.
const TOGETHER: usize = 8;

/// Hands out places of a list, in order.
pub(super) struct Handout {
    next: AtomicUsize,
    total: usize,
    most: usize,
    threads: usize,
}

impl Handout {
    /// For `total` places and so many threads; one by one where no leaves are read.
    pub(super) fn new(total: usize, threads: usize, reads_leaves: bool) -> Self {
        let most = if reads_leaves { TOGETHER } else { 1 };
        Self { next: AtomicUsize::new(0), total, most, threads: threads.max(1) }
    }

    /// The next run. Towards the end they are short, so that no thread works long while others have nothing to do.
    pub(super) fn take(&self) -> Option<Range<usize>> {
        let end = |begin: usize| {
            let left = self.total.saturating_sub(begin);
            begin + (left / (2 * self.threads)).clamp(1, self.most)
        };
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |begin| {
            (begin < self.total).then(|| end(begin))
        });
        taken.ok().map(|begin| begin..end(begin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(total: usize, threads: usize, reads_leaves: bool) -> Vec<usize> {
        let handout = Handout::new(total, threads, reads_leaves);
        let mut at = 0;
        let mut lengths = Vec::new();
        while let Some(run) = handout.take() {
            assert_eq!(run.start, at, "in order, none left out");
            assert!(!run.is_empty());
            at = run.end;
            lengths.push(run.len());
        }
        assert_eq!(at, total);
        lengths
    }

    #[test]
    fn long_runs_first_and_single_ones_last() {
        assert!(lengths(0, 4, true).is_empty());
        assert_eq!(lengths(3, 2, true), [1, 1, 1]);
        assert_eq!(lengths(40, 4, false), [1; 40]);
        let runs = lengths(200, 4, true);
        assert!(runs.starts_with(&[8; 16]), "{runs:?}");
        assert!(runs.is_sorted_by(|a, b| a >= b) && runs.ends_with(&[1; 8]), "{runs:?}");
    }

    #[test]
    fn threads_get_everything_once() {
        let handout = Handout::new(10_000, 4, true);
        let take = || {
            let mut mine = Vec::new();
            while let Some(run) = handout.take() {
                mine.extend(run);
            }
            mine
        };
        let mut all: Vec<usize> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        all.sort_unstable();
        assert!(all.into_iter().eq(0..10_000));
    }
}
