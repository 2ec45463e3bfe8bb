//! What a group is made of, and what became of it.

use std::sync::Arc;

use common::digest::Digest;
use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};
use sync::entry::Entry;
use sync::stamp::Time;
use tree::{Dir, Name, Problem, TreeError};

use crate::assembly::Assembly;
use crate::domain::DomainId;
use crate::ledger::Change;

/// One change of one path.
#[derive(Debug)]
pub(crate) struct Task {
    /// Where.
    pub(crate) path: RelPath,
    /// The rename domain of that place: in its stage the new is, and the old will be.
    pub(crate) domain: DomainId,
    /// What.
    pub(crate) effect: Effect,
}

/// What is done to a path.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Gives a staged entry this name, in place of what stands there.
    Install {
        /// The staged entry; durable, with its metadata.
        staged: Staged,
        /// What it is.
        new: Box<Entry>,
        /// Its content, of a regular file: computed over the bytes that were written.
        digest: Option<Digest>,
        /// What the scan saw there.
        seen: Option<Box<Seen>>,
    },
    /// Takes away what stands there.
    Remove {
        /// What the scan saw there.
        seen: Box<Seen>,
    },
    /// Changes owner, mode, attributes and times in place.
    Metadata {
        /// What the scan saw there.
        seen: Box<Entry>,
        /// How it shall look.
        wanted: Box<Entry>,
    },
    /// Records how a directory looks before what stands in it is changed.
    Touch {
        /// What the scan saw there.
        seen: Box<Entry>,
    },
}

/// A staged entry.
#[derive(Debug)]
pub(crate) struct Staged {
    /// The directory of the stage that holds it.
    pub(crate) dir: Dir,
    /// Its name there.
    pub(crate) name: Name,
    /// Whether it keeps that name, because further names are to be linked to it.
    pub(crate) is_anchor: bool,
    /// Whether it is durable already, by a sync of its own.
    pub(crate) is_synced: bool,
    /// The directory that is filled in the stage: this one, or the one in which this file was made.
    pub(crate) assembly: Option<Arc<Assembly>>,
}

/// What the scan saw at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// The entry.
    pub(crate) entry: Entry,
    /// Whether this migration made it: then it is not kept.
    pub(crate) is_ours: bool,
}

/// What became of a task.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It was carried out.
    Done {
        /// The change time since, where it is known.
        ctime: Option<Time>,
        /// Attributes that could not be set in place.
        problems: Vec<Problem>,
    },
    /// Something else stands there than the scan saw; nothing was changed.
    Conflict,
    /// The kernel refused; nothing was changed.
    Failed(TreeError),
}

impl Effect {
    /// Returns the change that the ledger records.
    pub(super) fn change(&self) -> Change {
        match self {
            Self::Install { new, digest, seen: None, .. } => {
                Change::Create { new: (**new).clone(), digest: *digest }
            }
            Self::Install { new, digest, seen: Some(seen), .. } => Change::Replace {
                old: seen.entry.clone(),
                is_kept: !seen.is_ours,
                new: (**new).clone(),
                digest: *digest,
            },
            Self::Remove { seen } => Change::Remove { old: seen.entry.clone(), is_kept: !seen.is_ours },
            Self::Metadata { seen, wanted } => {
                let mut new = (**wanted).clone();
                (new.dev, new.ino) = (seen.dev, seen.ino);
                Change::Metadata { old: (**seen).clone(), new }
            }
            Self::Touch { seen } => Change::Metadata { old: (**seen).clone(), new: (**seen).clone() },
        }
    }
}
