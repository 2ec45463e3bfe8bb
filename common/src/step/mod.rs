//! Step kinds as typed contracts between planner and agent.
//!
//! A kind's parameters and output are serde types with a version; what the planner knows of it is a constant
//! [`StepDescriptor`]. The agent's half of a kind is `agent/src/step/<kind>/`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::phase::{Phase, Scope};

pub mod file;
pub mod pass;

/// A step kind. The wire form is its dotted name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum StepKind {
    /// The bulk pass over a tree.
    #[serde(rename = "file.copy")]
    FileCopy,
    /// A pass while the source is live, repeated.
    #[serde(rename = "file.catch_up")]
    FileCatchUp,
    /// The pass under the freeze.
    #[serde(rename = "file.finish")]
    FileFinish,
    /// The proof of what was written.
    #[serde(rename = "file.verify")]
    FileVerify,
}

impl StepKind {
    /// Returns the dotted name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FileCopy => "file.copy",
            Self::FileCatchUp => "file.catch_up",
            Self::FileFinish => "file.finish",
            Self::FileVerify => "file.verify",
        }
    }

    /// Returns the descriptor of the kind.
    pub fn descriptor(self) -> &'static StepDescriptor {
        match self {
            Self::FileCopy => &file::COPY,
            Self::FileCatchUp => &file::CATCH_UP,
            Self::FileFinish => &file::FINISH,
            Self::FileVerify => &file::VERIFY,
        }
    }

    /// Whether every run reads from the other host; a proof may be had from what is there.
    pub fn needs_peer(self) -> bool {
        match self {
            Self::FileCopy | Self::FileCatchUp | Self::FileFinish => true,
            Self::FileVerify => false,
        }
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A kind in one version, as an agent reports that it can run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepVersion {
    /// The kind.
    pub kind: StepKind,
    /// The version of its parameters and output.
    pub version: u32,
}

/// What anybody but the agent needs to know of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepDescriptor {
    /// The kind.
    pub kind: StepKind,
    /// The version of its parameters and output.
    pub version: u32,
    /// Where in the fixed order it runs, and over what.
    pub phases: &'static [(Phase, Scope)],
    /// Reports `caught up`, keeps its lease, and ends when a later step asks.
    pub is_continuous: bool,
    /// Kinds that come before it inside one phase.
    pub after: &'static [StepKind],
    /// What its undo promises.
    pub reversibility: Reversibility,
    /// Whether it counts into downtime.
    pub needs_freeze: bool,
    /// Its share of the progress bar against other steps.
    pub weight: u32,
}

/// What the undo of a kind promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reversibility {
    /// Afterwards everything is as the run found it.
    Reversible,
    /// It changes nothing, so there is nothing to undo.
    ReadOnly,
    /// It cannot be undone; a gate stands before it.
    Irreversible,
}
