//! A map that holds so much and no more: what was asked for since it came stays, what was not makes room.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// A map of bounded size.
///
/// Values go in the order in which they came, but for one that was asked for, which comes anew instead: a site's core
/// that each further site asks for outlives whatever only one of them has.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    held: HashMap<K, Slot<V>>,
    order: VecDeque<K>,
    max: usize,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    is_asked_for: bool,
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    /// Makes an empty map for so many values, one at least.
    pub(crate) fn new(max: usize) -> Self {
        Self { held: HashMap::new(), order: VecDeque::new(), max: max.max(1) }
    }

    /// Returns a value, and keeps it for longer.
    pub(crate) fn get(&mut self, key: &K) -> Option<&V> {
        let slot = self.held.get_mut(key)?;
        slot.is_asked_for = true;
        Some(&slot.value)
    }

    /// Holds a value, in the place of an earlier one of this key.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if let Some(slot) = self.held.get_mut(&key) {
            slot.value = value;
            return;
        }
        while self.held.len() >= self.max
            && let Some(first) = self.order.pop_front()
        {
            match self.held.get_mut(&first) {
                Some(slot) if slot.is_asked_for => {
                    slot.is_asked_for = false;
                    self.order.push_back(first);
                }
                Some(_) | None => {
                    self.held.remove(&first);
                }
            }
        }
        self.held.insert(key.clone(), Slot { value, is_asked_for: false });
        self.order.push_back(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_outlives_what_is_not() {
        let mut recent = Recent::new(4);
        for key in 0..1_000_u32 {
            recent.insert(key, key * 2);
            assert_eq!(recent.get(&0), Some(&0), "it was asked for each time");
            assert!(recent.held.len() <= 4 && recent.order.len() == recent.held.len());
        }
        assert_eq!(recent.get(&5), None);
        assert_eq!(recent.get(&999), Some(&1_998));
        recent.insert(999, 7);
        assert_eq!(recent.get(&999), Some(&7));
        // Everything was asked for: the first one goes all the same.
        for key in [998, 997] {
            recent.get(&key);
        }
        recent.insert(2_000, 1);
        assert_eq!(recent.held.len(), 4);
    }
}
