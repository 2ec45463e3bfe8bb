//! Directories ahead of a walk that are dealt with otherwise than the rest, each with all that is below it.

use std::collections::BTreeSet;

use common::rel_path::RelPath;

/// Directories that are marked at once. A path takes some hundred bytes.
const MARKED_MAX: usize = 10_000;

/// Marked directories that the walk has not left yet: of one parent, as a rule.
///
/// None of them is in another one, so in the order of a walk the last one at or before a path is the only one that can
/// hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subtrees(BTreeSet<RelPath>);

impl Subtrees {
    /// Whether no more should be marked than those that hold all others.
    pub fn is_full(&self) -> bool {
        self.0.len() >= MARKED_MAX
    }

    /// Marks a directory at or ahead of the place of the walk.
    pub fn mark(&mut self, directory: RelPath) {
        if self.holds(&directory) {
            return;
        }
        // What is below it comes right behind it.
        while let Some(below) = self.0.range(&directory..).next().filter(|below| below.is_within(&directory))
        {
            let below = below.clone();
            self.0.remove(&below);
        }
        self.0.insert(directory);
    }

    /// Marks a directory, or its parent, with all that it holds, when too many are marked.
    pub fn mark_or_parent(&mut self, directory: &RelPath) {
        let parent = if self.is_full() { directory.split().map(|(parent, _name)| parent) } else { None };
        self.mark(parent.unwrap_or_else(|| directory.clone()));
    }

    /// Forgets those that the walk has left, now that it has come here.
    pub fn advance(&mut self, here: &RelPath) {
        while self.0.first().is_some_and(|first| first < here && !here.is_within(first)) {
            self.0.pop_first();
        }
    }

    /// Whether a path is marked, or below one that is.
    pub fn holds(&self, path: &RelPath) -> bool {
        self.0.range(..=path).next_back().is_some_and(|marked| path.is_within(marked))
    }
}

#[cfg(test)]
mod tests {
    use common::rel_path::RelPath;

    use super::{MARKED_MAX, Subtrees};

    #[test]
    fn several_of_one_parent_hold_until_the_walk_has_left_each() {
        let path = |text: &str| RelPath::try_from(text.as_bytes().to_vec()).unwrap();
        let mut marked = Subtrees::default();
        for directory in ["a/x", "a/z", "a", "a.b", "c", "a/within"] {
            marked.mark(path(directory));
        }
        assert_eq!(marked.0.len(), 3);
        for (here, is_held, left) in [
            ("a", true, 3),
            ("a/x/y", true, 3),
            ("a.b", true, 2),
            ("b", false, 1),
            ("c/d", true, 1),
            ("d", false, 0),
        ] {
            marked.advance(&path(here));
            assert_eq!((marked.holds(&path(here)), marked.0.len()), (is_held, left), "{here}");
        }
    }

    #[test]
    fn above_the_bound_the_parent_is_marked() {
        let mut marked = Subtrees::default();
        let parent = RelPath::root().join(b"parent").unwrap();
        for number in 0..=MARKED_MAX {
            marked.mark_or_parent(&parent.join(number.to_string().as_bytes()).unwrap());
        }
        assert_eq!(marked.0.into_iter().collect::<Vec<_>>(), [parent]);
    }
}
