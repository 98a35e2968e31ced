//! Ranges of WAL segments as people read them.

use std::fmt;

use refloat_types::WalSegmentName;

/// WAL segments of one timeline that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRange {
    /// The first.
    pub first: WalSegmentName,
    /// The last; the same when it is only one.
    pub last: WalSegmentName,
    /// How many.
    pub count: u64,
}

impl fmt::Display for SegmentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 1 {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{} to {} ({} files)", self.first, self.last, self.count)
        }
    }
}

/// Ranges, led by a word; nothing when there are none; the first few when there are many.
pub(super) fn list(f: &mut fmt::Formatter<'_>, word: &str, ranges: &[SegmentRange]) -> fmt::Result {
    const SHOWN: usize = 4;
    for (index, range) in ranges.iter().take(SHOWN).enumerate() {
        write!(f, "{}{range}", if index == 0 { word } else { ", " })?;
    }
    match ranges.len().checked_sub(SHOWN) {
        None | Some(0) => Ok(()),
        Some(more) => write!(f, " and {more} more stretches"),
    }
}
