//! What was noticed about one object, without stopping the rest.

use serde::{Deserialize, Serialize};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing; everything asked for was done.
    Notice,
    /// Something asked for was not done or not proven for this object.
    Warning,
    /// This object is wrong or missing at the destination.
    Error,
}

/// What a finding is about; the wire form is the text of the report's `rule`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Vanished between the scan and the read.
    Vanished,
    /// Kept changing while it was read.
    Changed,
    /// Could not be read at the source.
    Unreadable,
    /// Somebody else wrote to it at the destination.
    Conflict,
    /// Content differs from the recorded digest although inode and ctime are as recorded.
    Corrupt,
    /// Could not be made or written at the destination.
    Unwritable,
    /// An owner or group name that the destination lacks.
    UnknownOwner,
    /// An attribute that the destination cannot hold.
    Attribute,
    /// A hard link that could not be made.
    HardLink,
    /// A special file that could not be made.
    SpecialFile,
    /// Not deleted, with the reason.
    NotDeleted,
    /// A directory of another migration's stage was passed over.
    Stage,
    /// A destination object stands in the way.
    InTheWay,
    /// Changed after the commit, so moved to `after/` by the undo.
    KeptAside,
    /// Space, inodes or quota.
    Capacity,
    /// The destination is missing an entry, has another type, or other metadata than proven.
    Differs,
    /// The plan cannot be made as asked: roots, hosts, versions.
    Plan,
    /// Could not be masked as the spec asks, so it was not copied.
    NotSanitized,
    /// Left out by a limit of size or age.
    LeftOut,
}

/// One result of a check or of a run about one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about.
    pub rule: Rule,
    /// How much it matters.
    pub severity: Severity,
    /// The object: a path below the root (escaped), a host, a key of the spec.
    pub object: String,
    /// What was found, a sentence.
    pub message: String,
    /// What the operator can do.
    pub hint: String,
}
