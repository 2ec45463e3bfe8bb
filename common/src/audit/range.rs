//! Numbers that are missing, as ranges.

use std::collections::BTreeMap;

/// Ranges that are told apart; a chain with more holes than that is named by its first ones.
const RANGES_MAX: usize = 1_000;

/// Numbers, as ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    by_first: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Adds the numbers from `first` to `last`, which are all above those that are here.
    pub(super) fn add(&mut self, first: u64, last: u64) {
        if first <= last && self.by_first.len() < RANGES_MAX {
            self.by_first.insert(first, last);
        }
    }

    /// Takes a number out; says whether it was here.
    pub(super) fn take(&mut self, number: u64) -> bool {
        let Some((&first, &last)) = self.by_first.range(..=number).next_back() else { return false };
        if number > last {
            return false;
        }
        self.by_first.remove(&first);
        if first < number {
            self.by_first.insert(first, number - 1);
        }
        if number < last {
            self.by_first.insert(number + 1, last);
        }
        true
    }

    /// Takes all ranges out.
    pub(super) fn drain(&mut self) -> BTreeMap<u64, u64> {
        std::mem::take(&mut self.by_first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_once() {
        let mut ranges = Ranges::default();
        ranges.add(3, 6);
        assert!(!ranges.take(2) && ranges.take(4) && !ranges.take(4) && ranges.take(6) && !ranges.take(7));
        assert_eq!(ranges.drain().into_iter().collect::<Vec<_>>(), [(3, 3), (5, 5)]);
    }
}
