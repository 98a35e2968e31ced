//! Sets of numbers that are mostly dense: a million WAL segments without a gap are one run.

use std::collections::BTreeMap;

/// A set of numbers, kept as runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs {
    /// First number of each run to its last; runs neither touch nor overlap.
    runs: BTreeMap<u64, u64>,
}

impl Runs {
    /// Adds a number; `false` when it was there.
    pub fn insert(&mut self, number: u64) -> bool {
        let before = self.runs.range(..=number).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| last >= number) {
            return false;
        }
        let after = number.checked_add(1).and_then(|next| self.runs.remove(&next));
        let last = after.unwrap_or(number);
        match before {
            Some((first, end)) if end.checked_add(1) == Some(number) => self.runs.insert(first, last),
            _ => self.runs.insert(number, last),
        };
        true
    }
    /// Whether the number is there.
    pub fn contains(&self, number: u64) -> bool {
        self.runs.range(..=number).next_back().is_some_and(|(_, last)| *last >= number)
    }
    /// First and last number of each run, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        self.runs.iter().map(|(first, last)| (*first, *last))
    }
    /// The smallest number.
    pub fn first(&self) -> Option<u64> {
        self.runs.keys().next().copied()
    }
    /// The greatest number.
    pub fn last(&self) -> Option<u64> {
        self.runs.values().next_back().copied()
    }
    /// How many numbers there are.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|(first, last)| last - first + 1).sum()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
    /// The first number at or after `from`.
    pub fn next_at_or_after(&self, from: u64) -> Option<u64> {
        if self.contains(from) {
            return Some(from);
        }
        self.runs.range(from..).next().map(|(first, _)| *first)
    }
    /// The last number of the run that holds `from`; `None` when `from` is not there.
    pub fn run_end(&self, from: u64) -> Option<u64> {
        let (_, last) = self.runs.range(..=from).next_back()?;
        (*last >= from).then_some(*last)
    }
    /// What is missing between the first and the last number.
    pub fn gaps(&self) -> Vec<(u64, u64)> {
        let ends = self.runs.values();
        let starts = self.runs.keys().skip(1);
        ends.zip(starts).map(|(end, start)| (end + 1, start - 1)).collect()
    }
    /// What is missing from `first` to `last`, both included.
    pub fn missing(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        let mut at = first;
        while at <= last {
            match self.next_at_or_after(at) {
                Some(next) if next <= last => {
                    if next > at {
                        out.push((at, next - 1));
                    }
                    match self.run_end(next).and_then(|end| end.checked_add(1)) {
                        Some(behind) => at = behind,
                        None => return out,
                    }
                }
                _ => {
                    out.push((at, last));
                    return out;
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_the_set_they_stand_for(numbers in proptest::collection::vec(0_u64..60, 0..80), from in 0_u64..60, length in 0_u64..30) {
            let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(runs.insert(number), set.insert(number));
            }
            prop_assert_eq!(runs.count(), set.len() as u64);
            prop_assert_eq!(runs.first(), set.first().copied());
            prop_assert_eq!(runs.last(), set.last().copied());
            let listed: Vec<u64> = runs.iter().flat_map(|(first, last)| first..=last).collect();
            prop_assert_eq!(listed, set.iter().copied().collect::<Vec<_>>());
            prop_assert!(runs.iter().zip(runs.iter().skip(1)).all(|(a, b)| a.1 + 1 < b.0));
            prop_assert_eq!(runs.next_at_or_after(from), set.range(from..).next().copied());
            let flat = |ranges: Vec<(u64, u64)>| ranges.into_iter().flat_map(|(a, b)| a..=b).collect::<Vec<_>>();
            let expected: Vec<u64> = (from..=from + length).filter(|n| !set.contains(n)).collect();
            prop_assert_eq!(flat(runs.missing(from, from + length)), expected);
            if let (Some(first), Some(last)) = (set.first(), set.last()) {
                let expected: Vec<u64> = (*first..=*last).filter(|n| !set.contains(n)).collect();
                prop_assert_eq!(flat(runs.gaps()), expected);
            }
        }
    }

    #[test]
    fn the_greatest_numbers_do_not_overflow() {
        let mut runs = Runs::default();
        assert!(runs.insert(u64::MAX) && runs.insert(u64::MAX - 1) && !runs.insert(u64::MAX));
        assert_eq!(runs.missing(u64::MAX - 2, u64::MAX), [(u64::MAX - 2, u64::MAX - 2)]);
    }
}
