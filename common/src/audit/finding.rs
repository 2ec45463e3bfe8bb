//! What is wrong with a chain, and where.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What happened to lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Damage {
    /// A line says something else than what was written.
    Edited,
    /// Lines are not there.
    Removed,
    /// A line stands in another place.
    Reordered,
    /// A line is there twice.
    Duplicated,
    /// The end of a file is not there.
    Truncated,
    /// Lines were replaced by others that are well formed but do not belong here.
    Rewritten,
    /// The file holds another page, or its first line was altered.
    Header,
    /// A whole page is not there.
    MissingPage,
    /// The state holds another hash for a page than its lines have.
    PageHash,
    /// The state holds another hash for the end than its lines have.
    Head,
    /// An anchor says otherwise.
    Anchor,
    /// The authority of the cluster did not sign what claims it.
    Signature,
}

impl Damage {
    /// Returns the word that people read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edited => "edited",
            Self::Removed => "removed",
            Self::Reordered => "reordered",
            Self::Duplicated => "duplicated",
            Self::Truncated => "truncated",
            Self::Rewritten => "rewritten",
            Self::Header => "header altered",
            Self::MissingPage => "page missing",
            Self::PageHash => "page hash altered",
            Self::Head => "head altered",
            Self::Anchor => "contradicts an anchor",
            Self::Signature => "signature invalid",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What happened.
    pub damage: Damage,
    /// In which file; `state` for the replicated state itself.
    pub file: String,
    /// The first line that it happened to.
    pub first: u64,
    /// The last one.
    pub last: u64,
    /// In words.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { damage: _, file, first, last, message } = self;
        if first == last {
            write!(f, "{file}: line {first}: {message}")
        } else {
            write!(f, "{file}: lines {first} to {last}: {message}")
        }
    }
}
