//! The journal's records. Each stands behind one byte of version; a field is only ever added with a new version.

use common::fence::FencingToken;
use common::id::{MigrationId, StepId};
use serde::{Deserialize, Serialize};

/// A step that was begun and has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningStep {
    /// The migration.
    pub migration: MigrationId,
    /// The step.
    pub step: StepId,
    /// The right under which it was begun.
    pub token: FencingToken,
    /// Kind and version, as `file.copy@1`.
    pub kind: String,
    /// Which attempt it is.
    pub attempt: u32,
    /// Whether the step is being undone.
    pub is_undo: bool,
}

/// One event on its way to the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxRecord {
    /// The migration.
    pub migration: MigrationId,
    /// The step.
    pub step: StepId,
    /// The right under which it happened.
    pub token: FencingToken,
    /// What happened.
    pub event: OutboxEvent,
}

/// What happened to a step. Documents are the JSON that goes over the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutboxEvent {
    /// It ended well; its output.
    Succeeded(String),
    /// It failed; a `common::failure::Failure`.
    Failed(String),
    /// It has nothing left to do for now; its lag.
    CaughtUp {
        /// In milliseconds.
        lag_ms: u64,
    },
    /// What it noticed; a list of `common::finding::Finding`.
    Findings(String),
    /// What a continuous step did so far; its output.
    SoFar(String),
}

impl OutboxEvent {
    /// Whether the lease ends with this event.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Succeeded(_) | Self::Failed(_) => true,
            Self::CaughtUp { .. } | Self::Findings(_) | Self::SoFar(_) => false,
        }
    }
}
