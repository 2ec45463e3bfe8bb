//! What will be done: an immutable graph of steps.

use serde::{Deserialize, Serialize};

use crate::id::{HostName, MigrationId, StepId};
use crate::phase::{Phase, Scope};
use crate::step::{Reversibility, StepKind};

/// The version of [`Plan`].
pub const PLAN_VERSION: u32 = 1;

/// An immutable graph of steps; a changed plan is a child with the next generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// Whose plan.
    pub migration: MigrationId,
    /// Counts the plans of a migration, from 1.
    pub generation: u32,
    /// The generation that this one replaces.
    pub parent: Option<u32>,
    /// Topologically ordered: a step stands after all that it waits for.
    pub steps: Vec<PlannedStep>,
    /// Completed migrations whose way back ends when this one starts.
    pub settles: Vec<MigrationId>,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// Unique in the plan.
    pub id: StepId,
    /// What it is.
    pub kind: StepKind,
    /// The version of its parameters.
    pub version: u32,
    /// When it runs.
    pub phase: Phase,
    /// Over what.
    pub scope: Scope,
    /// The host that holds the lease: the side that is changed.
    pub host: HostName,
    /// The host that serves under a ticket.
    pub peer: Option<HostName>,
    /// Steps that must have ended well, or be caught up, before this one starts.
    pub after: Vec<StepId>,
    /// Whether it reports `caught up` and goes on.
    pub is_continuous: bool,
    /// What its undo promises.
    pub reversibility: Reversibility,
    /// Its share of the progress bar.
    pub weight: u32,
    /// Its parameters as JSON, of the type that its kind and version name.
    pub params: String,
}
