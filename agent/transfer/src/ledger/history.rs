//! The ledger by path, in the order of listings, however large it is.

use std::cmp::Ordering;

use common::failure::Failure;
use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};
use sync::entry::Entry;
use sync::stamp::Time;
use tree::Dir;

use super::log::SettledRecords;
use super::record::{Change, Settled, listing_order};
use crate::domain::{DomainId, HOME};
use crate::external_sort::{Sorted, Sorter};
use crate::standing::{Look, is_as_recorded};

/// All that was done to one path, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct History {
    /// The path.
    pub(crate) path: RelPath,
    /// At least one.
    pub(crate) changes: Vec<Settled>,
}

impl History {
    /// Returns what stands there if nobody else touched it, with its change time.
    pub(crate) fn standing(&self) -> Option<(&Entry, Option<Time>)> {
        let last = self.changes.last()?;
        Some((last.intent.change.standing()?, last.ctime))
    }

    /// Returns the digest of the content that this migration wrote last, with the inode that holds it.
    pub(crate) fn written(&self) -> Option<(&Entry, common::digest::Digest)> {
        self.changes.iter().rev().find_map(|settled| settled.intent.change.written())
    }

    /// Whether what stands there is what this migration put there, untouched since.
    pub(crate) fn is_ours(&self, now: impl Into<Look>) -> bool {
        let now = now.into();
        let is_untouched = self.standing().is_some_and(|(entry, ctime)| is_as_recorded(entry, ctime, now));
        is_untouched && self.is_made(now.ino())
    }

    /// The same for what may have been moved since: its change time tells nothing.
    pub(crate) fn is_ours_moved(&self, now: impl Into<Look>) -> bool {
        let now = now.into();
        let is_untouched = self.standing().is_some_and(|(entry, _ctime)| is_as_recorded(entry, None, now));
        is_untouched && self.is_made(now.ino())
    }

    /// Whether this migration made an inode of this number here.
    pub(crate) fn is_made(&self, ino: u64) -> bool {
        self.changes.iter().any(|settled| match &settled.intent.change {
            Change::Create { new, .. } | Change::Replace { new, .. } => new.ino == ino,
            Change::Remove { .. } | Change::Metadata { .. } => false,
        })
    }

    /// Returns what stood there before the migration; nothing if nothing did.
    pub(crate) fn original(&self) -> Option<&Entry> {
        self.changes.first()?.intent.change.old()
    }

    /// Returns where the original is kept, and what it is; none if it is still in its place or never was.
    pub(crate) fn kept(&self) -> Option<(Kept, &Entry)> {
        let original = self.original()?;
        let (kept, old) = self.all_kept().next()?;
        // A first change of metadata knows better how it looked; unless somebody replaced the inode after that.
        Some((kept, if old.ino == original.ino { original } else { old }))
    }

    /// Returns what else is in `undo/`: what somebody put in the place of ours before a later pass.
    pub(crate) fn kept_between(&self) -> impl Iterator<Item = Kept> {
        let original = self.kept().map(|(kept, _old)| kept);
        self.all_kept().map(|(kept, _old)| kept).filter(move |kept| Some(*kept) != original)
    }

    /// Returns the rename domain in which the path was changed last.
    pub(crate) fn domain(&self) -> DomainId {
        self.changes.last().map_or(HOME, |settled| settled.domain)
    }

    /// Returns all that was put into `undo/`, oldest first.
    pub(crate) fn all_kept(&self) -> impl Iterator<Item = (Kept, &Entry)> {
        self.changes.iter().filter_map(|settled| {
            let Settled { intent, domain, .. } = settled;
            let old = intent.change.old().filter(|_old| intent.change.keeps_old())?;
            Some((Kept { domain: *domain, seq: intent.seq }, old))
        })
    }
}

/// Where something is kept that stood in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// In the `undo/` of this rename domain's stage.
    pub(crate) domain: DomainId,
    /// Under the number of this record.
    pub(crate) seq: u64,
}

/// A record by its path and number.
#[derive(Debug, Serialize, Deserialize)]
struct ByPath(Settled);

impl Ord for ByPath {
    fn cmp(&self, other: &Self) -> Ordering {
        let (first, second) = (&self.0.intent, &other.0.intent);
        listing_order(&first.path, &second.path).then(first.seq.cmp(&second.seq))
    }
}

impl PartialOrd for ByPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByPath {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for ByPath {}

/// Histories of paths in the order of listings.
#[derive(Debug)]
pub(crate) struct Histories {
    sorted: Sorted<ByPath>,
    peeked: Option<History>,
}

impl Histories {
    /// Sorts records; runs go to `spill`, under names that begin with `label`.
    pub(crate) fn sort(records: Option<SettledRecords>, spill: &Dir, label: &str) -> Result<Self, Failure> {
        let mut sorter = Sorter::new(spill, label);
        if let Some(mut records) = records {
            while let Some(settled) = records.next()? {
                sorter.push(ByPath(settled))?;
            }
        }
        Ok(Self { sorted: sorter.finish()?, peeked: None })
    }

    /// Stands for a ledger that is not there.
    pub(crate) fn none() -> Self {
        Self { sorted: Sorted::none(), peeked: None }
    }

    /// Returns the next path's history without taking it.
    pub(crate) fn peek(&mut self) -> Result<Option<&History>, Failure> {
        if self.peeked.is_none() {
            self.peeked = self.merge()?;
        }
        Ok(self.peeked.as_ref())
    }

    /// Takes the next path's history.
    pub(crate) fn next(&mut self) -> Result<Option<History>, Failure> {
        match self.peeked.take() {
            Some(history) => Ok(Some(history)),
            None => self.merge(),
        }
    }

    /// Takes the history of a path, passing over those that come before it in the order of listings.
    pub(crate) fn find(&mut self, path: &RelPath) -> Result<Option<History>, Failure> {
        while let Some(history) = self.peek()? {
            match listing_order(&history.path, path) {
                Ordering::Less => drop(self.next()?),
                Ordering::Equal => return self.next(),
                Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    fn merge(&mut self) -> Result<Option<History>, Failure> {
        let Some(ByPath(first)) = self.sorted.next()? else { return Ok(None) };
        let mut history = History { path: first.intent.path.clone(), changes: vec![first] };
        while self.sorted.peek().is_some_and(|ByPath(next)| next.intent.path == history.path) {
            history.changes.extend(self.sorted.next()?.map(|ByPath(settled)| settled));
        }
        Ok(Some(history))
    }
}
