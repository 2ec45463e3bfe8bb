//! Leases: the right, and the duty, of one agent to run one attempt of one step or its undo.
//!
//! A lease stands in the record of its step, so the two can never disagree. Granting and ending go through raft; being
//! alive is the leader's knowledge, in memory.

use common::clock::WallMs;
use common::fence::FencingToken;
use common::id::{HostName, MigrationId, StepId, TenantId};
use serde::{Deserialize, Serialize};

/// A lease that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Cluster epoch and the log index of the grant.
    pub token: FencingToken,
    /// Who holds it.
    pub host: HostName,
    /// The start of the agent that holds it; a later start ends it.
    pub incarnation: u64,
    /// Whether it is for the undo.
    pub is_undo: bool,
    /// Counts the leases of this step, from 1.
    pub attempt: u32,
    /// When it was granted.
    pub granted: WallMs,
}

/// What can be asked of leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Gives a step to its host.
    Grant {
        /// Whose.
        tenant: TenantId,
        /// Which migration.
        migration: MigrationId,
        /// The generation of the plan that was looked at.
        generation: u32,
        /// Which step.
        step: StepId,
        /// To whom; the host that the plan names.
        host: HostName,
        /// The start of the agent that is connected.
        incarnation: u64,
        /// For the undo.
        is_undo: bool,
    },
    /// Ends a lease without a result.
    End {
        /// Whose.
        tenant: TenantId,
        /// Which migration.
        migration: MigrationId,
        /// Which step.
        step: StepId,
        /// Which lease; another one that is held meanwhile stays.
        token: FencingToken,
        /// Why, for people.
        reason: String,
    },
    /// Lets a step that waits before its next attempt begin at once: what it waited for has come.
    Hurry {
        /// Whose.
        tenant: TenantId,
        /// Which migration.
        migration: MigrationId,
        /// Which step.
        step: StepId,
    },
}
