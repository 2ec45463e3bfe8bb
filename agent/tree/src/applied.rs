//! What became of setting metadata: attribute by attribute, so that each failure can be a finding.

use std::fmt;

use crate::error::{Cause, TreeError};
use crate::escape::escape;
use crate::name::Name;
use crate::stat::Stat;

/// What can be set of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// Owner and group.
    Owner,
    /// Permission, set-id and sticky bits.
    Mode,
    /// The extended attribute of this name, or all of them if the name is empty (they could not be listed).
    Xattr(Vec<u8>),
    /// The time of the last change.
    Times,
}

impl fmt::Display for Attribute {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => formatter.write_str("owner"),
            Self::Mode => formatter.write_str("mode"),
            Self::Xattr(name) if name.is_empty() => formatter.write_str("extended attributes"),
            Self::Xattr(name) => formatter.write_str(&escape(name)),
            Self::Times => formatter.write_str("times"),
        }
    }
}

/// One attribute that could not be set.
#[derive(Debug)]
pub struct Problem {
    /// Which one.
    pub attribute: Attribute,
    /// Why.
    pub error: TreeError,
}

impl Problem {
    /// What the kernel does not tell: it set another time than was asked for, the nearest that the file system can hold.
    #[must_use]
    pub fn other_time(name: &Name) -> Self {
        let error = TreeError::new("set times", name.as_bytes(), Cause::OtherTime);
        Self { attribute: Attribute::Times, error }
    }
}

/// The result of setting metadata.
#[derive(Debug)]
#[must_use = "attributes that could not be set are only told here"]
pub struct Applied {
    /// The attributes as they were before.
    pub before: Stat,
    /// Whether anything was changed.
    pub is_changed: bool,
    /// What could not be set; everything else is as wanted.
    pub problems: Vec<Problem>,
}

impl Applied {
    /// Says whether everything is as wanted.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.problems.is_empty()
    }
}
