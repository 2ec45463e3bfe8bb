//! What of a tree is looked at, where not all of it is: names, and directories whole.
//!
//! Both sides of a pass walk by the same value, so that a name which one of them does not show is known to be gone and
//! not merely passed over.

use std::collections::BTreeMap;

use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};

use crate::wire::content::PATH_BYTES_MAX;

/// Names at the most: what one pass looks at name by name; a source with more looks at everything.
pub const LOOKS_MAX: usize = 65_536;
/// Bytes of their paths at the most.
pub const LOOKS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One name that is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Its path.
    pub path: RelPath,
    /// Whether all that is below it is looked at, where it is a directory.
    pub is_deep: bool,
}

impl Look {
    /// Whether it is one that a walk can come by.
    pub fn is_possible(&self) -> bool {
        !self.path.is_root() && self.path.as_bytes().len() <= PATH_BYTES_MAX
    }
}

/// What of a tree is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Only {
    /// The names of each directory that is not looked at whole, and whether all below each of them is.
    names: BTreeMap<RelPath, BTreeMap<Vec<u8>, bool>>,
    count: usize,
    bytes: usize,
}

impl Only {
    /// Adds a name, and the directories on the way to it; says whether there was room.
    pub fn add(&mut self, look: &Look) -> bool {
        let mut directory = RelPath::root();
        let depth = look.path.components().count();
        for (place, name) in look.path.components().enumerate() {
            let is_deep = look.is_deep && place + 1 == depth;
            let names = self.names.entry(directory.clone()).or_default();
            if let Some(known) = names.get_mut(name) {
                *known |= is_deep;
            } else {
                self.count += 1;
                self.bytes += directory.as_bytes().len() + name.len();
                names.insert(name.to_vec(), is_deep);
            }
            let Ok(next) = directory.join(name) else { return false };
            directory = next;
        }
        self.count <= LOOKS_MAX && self.bytes <= LOOKS_BYTES_MAX
    }

    /// Returns the names that are looked at in a directory; none if all are.
    pub fn names(&self, directory: &RelPath) -> Option<impl Iterator<Item = &Vec<u8>>> {
        if self.is_whole(directory) {
            return None;
        }
        Some(self.names.get(directory).into_iter().flat_map(BTreeMap::keys))
    }

    /// Whether a name of a directory is looked at.
    pub fn holds(&self, directory: &RelPath, name: &[u8]) -> bool {
        self.is_whole(directory) || self.names.get(directory).is_some_and(|names| names.contains_key(name))
    }

    /// Whether what has this path is looked at; the root always is.
    pub fn holds_path(&self, path: &[u8]) -> bool {
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], path),
        };
        name.is_empty() || RelPath::try_from(parent.to_vec()).is_ok_and(|parent| self.holds(&parent, name))
    }

    /// Whether anything below a directory is looked at.
    pub fn descends(&self, directory: &RelPath) -> bool {
        directory.is_root() || self.names.contains_key(directory) || self.is_whole(directory)
    }

    /// Whether all below a directory is looked at.
    fn is_whole(&self, directory: &RelPath) -> bool {
        let mut above = RelPath::root();
        directory.components().any(|name| {
            let is_deep = self.names.get(&above).and_then(|names| names.get(name)).copied().unwrap_or(false);
            above = above.join(name).unwrap_or_default();
            is_deep
        })
    }

    /// Returns every name that leads to no further one, and every directory that is looked at whole.
    pub fn looks(&self) -> impl Iterator<Item = Look> {
        self.names.iter().flat_map(|(directory, names)| {
            names.iter().filter_map(|(name, is_deep)| {
                let path = directory.join(name).ok()?;
                let is_last = *is_deep || !self.names.contains_key(&path);
                is_last.then_some(Look { path, is_deep: *is_deep })
            })
        })
    }

    /// Whether nothing is looked at but the root itself.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Returns how many names are looked at, the directories on the way included.
    pub fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::try_from(text.as_bytes().to_vec()).unwrap()
    }

    fn only(looks: &[(&str, bool)]) -> Only {
        let mut only = Only::default();
        for (text, is_deep) in looks {
            assert!(only.add(&Look { path: path(text), is_deep: *is_deep }));
        }
        only
    }

    #[test]
    fn a_name_is_looked_at_with_the_way_to_it_and_a_directory_whole_where_it_is_asked_for() {
        let only = only(&[("a/b/c", false), ("a/d", true), ("e", false)]);
        let names = |text: &str| {
            only.names(&path(text)).map(|names| names.map(|name| name.as_slice()).collect::<Vec<_>>())
        };
        assert_eq!(names(""), Some(vec![&b"a"[..], b"e"]));
        assert_eq!(names("a"), Some(vec![&b"b"[..], b"d"]));
        assert_eq!((names("a/b"), names("a/d"), names("a/d/x")), (Some(vec![&b"c"[..]]), None, None));
        assert!(only.holds(&path("a/d/x"), b"anything") && !only.holds(&path("a/b"), b"x"));
        assert!(only.holds_path(b"") && only.holds_path(b"a/d/x/y") && only.holds_path(b"a/b/c"));
        assert!(!only.holds_path(b"a/x") && !only.holds_path(b"a/b/cc"));
        assert!(only.descends(&path("a/b")) && only.descends(&path("a/d/x")) && !only.descends(&path("e")));
        let looks: Vec<_> = only.looks().map(|look| (look.path.to_string(), look.is_deep)).collect();
        assert_eq!(
            looks,
            [("e", false), ("a/d", true), ("a/b/c", false)].map(|(name, deep)| (name.to_owned(), deep))
        );
        assert_eq!((only.count(), only.is_empty()), (5, false));
    }

    #[test]
    fn more_names_than_there_is_room_for_are_told() {
        let mut only = Only::default();
        let fits = (0..=LOOKS_MAX)
            .all(|number| only.add(&Look { path: path(&format!("n{number}")), is_deep: false }));
        assert!(!fits);
        assert!(!Look { path: RelPath::root(), is_deep: true }.is_possible());
    }
}
