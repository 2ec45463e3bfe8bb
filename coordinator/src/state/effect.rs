//! What the leader should do once a command is committed.
//!
//! An effect is a hint that wakes a reconciler: losing every one of them costs latency and nothing else, because the
//! reconcilers find the same by looking at the state.

use common::fence::FencingToken;
use common::id::{HostName, MigrationId, StepId, TenantId};
use serde::{Deserialize, Serialize};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Something of a migration changed: watchers want to know, and steps may be ready.
    MigrationChanged {
        /// Whose.
        tenant: TenantId,
        /// Which.
        migration: MigrationId,
    },
    /// A lease ended without its holder's doing: tell the holder to stop.
    LeaseEnded {
        /// Whose.
        tenant: TenantId,
        /// Which migration.
        migration: MigrationId,
        /// Which step.
        step: StepId,
        /// Who held it.
        host: HostName,
        /// Under which token.
        token: FencingToken,
        /// Why, for people.
        reason: String,
    },
    /// The way back of a migration ends: ask the destination's agent to remove the stage.
    Settle {
        /// Whose.
        tenant: TenantId,
        /// Which migration.
        migration: MigrationId,
    },
    /// A host's record changed.
    HostChanged {
        /// Whose.
        tenant: TenantId,
        /// Which.
        host: HostName,
    },
    /// A host's certificate is void: cut its connections.
    HostRevoked {
        /// Whose.
        tenant: TenantId,
        /// Which.
        host: HostName,
    },
    /// The list of coordinators changed.
    NodesChanged,
    /// A page of the audit was closed or has left.
    AuditChanged,
}
