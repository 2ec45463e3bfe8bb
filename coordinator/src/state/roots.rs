//! Which folders a migration holds, known by what they are and not by what they are called.

use common::id::HostName;
use common::step::file::{RootAnswer, RootIdentity};
use serde::{Deserialize, Serialize};

/// The roots of both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roots {
    /// Only read.
    pub source: Root,
    /// Changed.
    pub destination: Root,
}

/// One root, as an agent found it when the plan was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The host whose agent looked.
    pub host: HostName,
    /// The path with links resolved, escaped; with the components that were missing then.
    pub path: String,
    /// The root and its ancestors, nearest first; beginning with the nearest that existed.
    pub chain: Vec<RootIdentity>,
    /// The components below the first of the chain that did not exist.
    pub missing: Vec<String>,
}

/// How one root lies to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlap {
    /// They are one folder.
    Same,
    /// The first holds the second.
    Above,
    /// The second holds the first.
    Below,
}

impl Root {
    /// Makes a root out of what an agent answered.
    pub fn new(host: HostName, answer: &RootAnswer) -> Self {
        let mut path = answer.canonical_path.clone();
        let missing = if answer.exists { Vec::new() } else { answer.missing.clone() };
        for name in &missing {
            if !path.ends_with('/') {
                path.push('/');
            }
            path.push_str(name);
        }
        let chain = answer.identity.iter().chain(&answer.ancestors).cloned().collect();
        Self { host, path, chain, missing }
    }

    /// Returns how this root lies to another; none when neither holds the other.
    ///
    /// Identities say so under any name and on any host; on one host the resolved paths say so too, which still holds
    /// after a reboot and when a folder was made since.
    pub fn overlap(&self, other: &Self) -> Option<Overlap> {
        let by_path = if self.host == other.host {
            compare(&components(&self.path), &components(&other.path))
        } else {
            None
        };
        by_path.or_else(|| self.overlap_by_identity(other))
    }

    fn overlap_by_identity(&self, other: &Self) -> Option<Overlap> {
        let (ours, theirs) = (self.chain.first()?, other.chain.first()?);
        if let Some(depth) = other.chain.iter().position(|identity| identity == ours) {
            return compare(&self.names_below(0), &other.names_below(depth));
        }
        let depth = self.chain.iter().position(|identity| identity == theirs)?;
        compare(&self.names_below(depth), &other.names_below(0))
    }

    /// The names that lead from the member of the chain at `depth` to the root.
    fn names_below(&self, depth: usize) -> Vec<&str> {
        let names = components(&self.path);
        let count = (depth + self.missing.len()).min(names.len());
        names[names.len() - count..].to_vec()
    }
}

fn components(path: &str) -> Vec<&str> {
    path.split('/').filter(|name| !name.is_empty()).collect()
}

/// How the folder at the end of one list of names lies to the one at the end of another, both from the same place.
fn compare(ours: &[&str], theirs: &[&str]) -> Option<Overlap> {
    if ours == theirs {
        Some(Overlap::Same)
    } else if theirs.starts_with(ours) {
        Some(Overlap::Above)
    } else if ours.starts_with(theirs) {
        Some(Overlap::Below)
    } else {
        None
    }
}

impl Roots {
    /// Returns what of these roots and another migration's cannot be worked on at once: one side is changed and the
    /// other is there too. Two migrations may read one source.
    pub fn clash(&self, other: &Self) -> Option<Clash> {
        let pairs = [
            (&self.destination, &other.destination, true),
            (&self.destination, &other.source, false),
            (&self.source, &other.destination, false),
        ];
        let found = pairs.into_iter().find_map(|(ours, theirs, changed_by_both)| {
            ours.overlap(theirs).map(|overlap| (ours, overlap, changed_by_both))
        });
        found.map(|(ours, overlap, changed_by_both)| Clash {
            path: format!("{}:{}", ours.host, ours.path),
            overlap,
            changed_by_both,
        })
    }
}

/// Two roots of two migrations that cannot be worked on at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// Our root.
    pub path: String,
    /// How it lies to the other's.
    pub overlap: Overlap,
    /// Whether both are destinations.
    pub changed_by_both: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(inode: u64) -> RootIdentity {
        RootIdentity { boot_id: "boot".to_owned(), device: 1, inode }
    }

    fn root(host: &str, path: &str, chain: &[u64], missing: &[&str]) -> Root {
        Root {
            host: host.parse().unwrap(),
            path: path.to_owned(),
            chain: chain.iter().map(|inode| identity(*inode)).collect(),
            missing: missing.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn one_folder_under_two_names_on_two_agents_is_one() {
        let here = root("agent-1", "/srv/www", &[30, 20, 2], &[]);
        let there = root("agent-2", "/mnt/bind", &[30, 25, 2], &[]);
        assert_eq!(here.overlap(&there), Some(Overlap::Same));
    }

    #[test]
    fn nesting_is_noticed_either_way() {
        let above = root("agent-1", "/srv", &[20, 2], &[]);
        let below = root("agent-2", "/srv/www/shop", &[40, 30, 20, 2], &[]);
        assert_eq!(above.overlap(&below), Some(Overlap::Above));
        assert_eq!(below.overlap(&above), Some(Overlap::Below));
        let beside = root("agent-2", "/home", &[50, 2], &[]);
        assert_eq!(above.overlap(&beside), None);
    }

    #[test]
    fn a_root_that_was_to_be_made_is_known_by_its_names() {
        let planned = root("agent-1", "/srv/new/shop", &[20, 2], &["new", "shop"]);
        let made = root("agent-2", "/srv/new/shop", &[60, 50, 20, 2], &[]);
        assert_eq!(planned.overlap(&made), Some(Overlap::Same));
        let deeper = root("agent-2", "/srv/new/shop/x", &[20, 2], &["new", "shop", "x"]);
        assert_eq!(planned.overlap(&deeper), Some(Overlap::Above));
        let beside = root("agent-2", "/srv/new/other", &[20, 2], &["new", "other"]);
        assert_eq!(planned.overlap(&beside), None);
    }

    #[test]
    fn two_may_read_what_nobody_changes() {
        let source = root("agent-1", "/srv", &[20, 2], &[]);
        let one = Roots { source: source.clone(), destination: root("agent-2", "/a", &[30, 2], &[]) };
        let two = Roots { source, destination: root("agent-2", "/b", &[31, 2], &[]) };
        assert_eq!(one.clash(&two), None);
        let back = Roots { source: one.destination.clone(), destination: one.source.clone() };
        assert!(one.clash(&back).is_some_and(|clash| !clash.changed_by_both));
        assert!(one.clash(&one).is_some_and(|clash| clash.changed_by_both));
    }
}
