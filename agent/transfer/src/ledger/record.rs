//! The records of the ledger.

use std::cmp::Ordering;

use common::digest::Digest;
use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};
use sync::entry::Entry;
use sync::stamp::Time;

use crate::domain::DomainId;

/// One frame of the ledger; new kinds are added at the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Record {
    /// What is about to be done.
    Intent(Box<Intent>),
    /// It was done; the change time that the entry has since, where it is known.
    Done { seq: u64, ctime: Option<Time> },
    /// It was not done and will not be.
    Abandoned { seq: u64 },
    /// What is about to be done in another rename domain than the root's, in whose stage the old is kept.
    IntentIn { domain: DomainId, intent: Box<Intent> },
}

/// How a record begins, which tells what it is about without reading all of it.
#[derive(Debug, Deserialize)]
pub(crate) enum RecordHead<'a> {
    #[serde(borrow)]
    Intent(IntentHead<'a>),
    Done {
        seq: u64,
    },
    Abandoned {
        seq: u64,
    },
    IntentIn {
        #[expect(dead_code, reason = "it stands before what is asked for")]
        domain: DomainId,
        intent: IntentHead<'a>,
    },
}

/// How an intent begins.
#[derive(Debug, Deserialize)]
pub(crate) struct IntentHead<'a> {
    #[expect(dead_code, reason = "it stands before what is asked for")]
    seq: u64,
    #[expect(dead_code, reason = "it stands before what is asked for")]
    pass: u32,
    pub(crate) path: &'a [u8],
}

/// What is about to be done to one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    /// Rises by one; also the name of what is kept in `undo/`.
    pub(crate) seq: u64,
    /// The pass that does it, from 1.
    pub(crate) pass: u32,
    /// Where.
    pub(crate) path: RelPath,
    /// What.
    pub(crate) change: Change,
}

/// A change of one path. Entries hold what undo and verification need: inode, metadata, size, text of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    /// Nothing stands there; a staged entry gets this name.
    Create {
        /// What will stand there, with the inode that is staged.
        new: Entry,
        /// Its content, of a regular file.
        digest: Option<Digest>,
    },
    /// A staged entry takes the place of what stands there.
    Replace {
        /// What stands there.
        old: Entry,
        /// Whether the old one goes to `undo/`; if not, this migration made it and it is dropped.
        is_kept: bool,
        /// What will stand there.
        new: Entry,
        /// Its content, of a regular file.
        digest: Option<Digest>,
    },
    /// What stands there is taken away.
    Remove {
        /// What stands there.
        old: Entry,
        /// Whether it goes to `undo/`.
        is_kept: bool,
    },
    /// Owner, mode, attributes and times are changed in place. For a directory, also: what stands in it will be
    /// changed, and so its times.
    Metadata {
        /// As it is.
        old: Entry,
        /// As it will be.
        new: Entry,
    },
}

impl Change {
    /// Returns what stood there before.
    pub(crate) fn old(&self) -> Option<&Entry> {
        match self {
            Self::Create { .. } => None,
            Self::Replace { old, .. } | Self::Remove { old, .. } | Self::Metadata { old, .. } => Some(old),
        }
    }

    /// Returns what stands there afterwards.
    pub(crate) fn standing(&self) -> Option<&Entry> {
        match self {
            Self::Create { new, .. } | Self::Replace { new, .. } | Self::Metadata { new, .. } => Some(new),
            Self::Remove { .. } => None,
        }
    }

    /// Returns what stands there afterwards with its digest, if this change wrote content.
    pub(crate) fn written(&self) -> Option<(&Entry, Digest)> {
        match self {
            Self::Create { new, digest } | Self::Replace { new, digest, .. } => Some((new, (*digest)?)),
            Self::Remove { .. } | Self::Metadata { .. } => None,
        }
    }

    /// Whether this change put what was there before into `undo/`.
    pub(crate) fn keeps_old(&self) -> bool {
        matches!(self, Self::Replace { is_kept: true, .. } | Self::Remove { is_kept: true, .. })
    }
}

/// An intent that was carried out, or one whose end is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settled {
    /// What was done.
    pub(crate) intent: Intent,
    /// The change time afterwards; none when it is not known.
    pub(crate) ctime: Option<Time>,
    /// The rename domain in whose stage the old is kept.
    pub(crate) domain: DomainId,
}

/// Orders paths as listings come: by directory in the order of a walk, inside of one by name.
pub(crate) fn listing_order(first: &RelPath, second: &RelPath) -> Ordering {
    match (first.split(), second.split()) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some((first_parent, first_name)), Some((second_parent, second_name))) => {
            first_parent.cmp(&second_parent).then_with(|| first_name.cmp(second_name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_by_directory_and_then_by_name() {
        let mut paths = ["b/x", "a/z", "", "c", "a", "b", "a.b", "a/b/c", "a/b"]
            .map(|text| RelPath::try_from(text.as_bytes().to_vec()).unwrap());
        paths.sort_by(listing_order);
        let shown = paths.map(|path| path.to_string());
        assert_eq!(shown, [".", "a", "a.b", "b", "c", "a/b", "a/z", "a/b/c", "b/x"]);
    }
}
