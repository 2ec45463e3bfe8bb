//! Whether the names of each inode of the source are names of one inode here, and of no other file's.

use common::failure::Failure;
use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};
use sync::entry::Entry;
use tree::Dir;

use crate::external_sort::Sorter;

/// One name that shares its inode, on either side.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Linked {
    /// The inode by which it is sorted, and the one on the other side.
    inode: (u64, u64),
    path: Vec<u8>,
    other: (u64, u64),
}

/// Gathers names with further names, on disk when there are many.
#[derive(Debug)]
pub(super) struct Links {
    by_source: Sorter<Linked>,
    by_destination: Sorter<Linked>,
}

impl Links {
    pub(super) fn new(spill: &Dir) -> Self {
        Self {
            by_source: Sorter::new(spill, "by-source"),
            by_destination: Sorter::new(spill, "by-destination"),
        }
    }

    /// Takes a name that stands on both sides.
    pub(super) fn push(&mut self, path: &RelPath, source: &Entry, found: &Entry) -> Result<(), Failure> {
        if !source.is_hard_link() && !found.is_hard_link() {
            return Ok(());
        }
        let (there, here) = ((source.dev, source.ino), (found.dev, found.ino));
        let path = path.as_bytes().to_vec();
        self.by_source.push(Linked { inode: there, other: here, path: path.clone() })?;
        self.by_destination.push(Linked { inode: here, other: there, path })
    }

    /// Returns the paths that are not linked as at the source: `(path, whether it shares an inode wrongly)`.
    pub(super) fn finish(self) -> Result<Vec<(RelPath, bool)>, Failure> {
        let mut wrong = Vec::new();
        for (sorter, shares_wrongly) in [(self.by_source, false), (self.by_destination, true)] {
            let mut sorted = sorter.finish()?;
            let mut group: Option<Linked> = None;
            while let Some(next) = sorted.next()? {
                match &group {
                    Some(first) if first.inode == next.inode => {
                        if first.other != next.other && wrong.len() < WRONG_MAX {
                            wrong
                                .extend(RelPath::try_from(next.path).ok().map(|path| (path, shares_wrongly)));
                        }
                    }
                    Some(_) | None => group = Some(next),
                }
            }
        }
        Ok(wrong)
    }
}

/// Names that are told one by one; a tree with more is wrong as a whole.
const WRONG_MAX: usize = 100_000;
