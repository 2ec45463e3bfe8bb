//! A directory at the destination that stands where something else shall be.

use common::rel_path::RelPath;
use common::step::file::FileParams;
use sync::entry::Entry;
use tree::{Dir, TreeError};

use crate::standing::is_empty;

/// What becomes of it. A directory that holds anything is never taken away as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It holds nothing, and is replaced.
    Replaced,
    /// What it holds is removed first, like all that the source does not have; it counts with that, and is replaced
    /// when it is empty.
    Emptied,
    /// It stays with all that it holds.
    Stays(Reason),
}

/// Why it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Something else is mounted in it, or is a domain of its own with a stage: that can be neither emptied nor moved.
    HoldsDomain,
    /// Nothing is removed, or not everything, and it is not empty.
    NotEmpty,
    /// It was to be emptied, and something is still in it.
    NotEmptied,
}

impl Reason {
    /// Says what stands where something else shall be.
    pub(crate) fn message(self, wanted: &Entry) -> String {
        let what = match self {
            Self::HoldsDomain => "a directory with another file system, subvolume or project in it stands",
            Self::NotEmpty => "a directory that is not empty stands",
            Self::NotEmptied => "a directory of which not all could be removed stands",
        };
        format!("{what}, where a {} shall be", wanted.kind.as_str())
    }

    /// Says what helps.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::HoldsDomain => "Unmount what is there, or settle this migration before it is run again.",
            Self::NotEmpty => "Remove it at the destination, or run with --delete and without --exclude.",
            Self::NotEmptied => "See the findings of what was not removed, then run the migration again.",
        }
    }
}

/// Whether a directory is in the way of an entry.
pub(crate) fn is_in_the_way(found: &Entry, wanted: &Entry) -> bool {
    found.kind.is_directory() && !wanted.kind.is_directory()
}

/// Decides about a directory; `holds_stage` if there is a stage below it. One that is gone by now is in nobody's way.
pub(crate) fn fate(
    root: &Dir,
    path: &RelPath,
    params: &FileParams,
    holds_stage: bool,
) -> Result<Fate, TreeError> {
    let look = |dir: Dir| Ok((holds_stage || dir.holds_mounts()?, is_empty(&dir)?));
    Ok(match root.open_beneath(path.as_bytes()).and_then(look) {
        Err(error) if error.is_not_found() || error.is_wrong_kind() => Fate::Replaced,
        Err(error) => return Err(error),
        Ok((true, _is_empty)) => Fate::Stays(Reason::HoldsDomain),
        Ok((false, true)) => Fate::Replaced,
        Ok((false, false)) if params.delete && params.exclude.is_empty() => Fate::Emptied,
        Ok((false, false)) => Fate::Stays(Reason::NotEmpty),
    })
}
