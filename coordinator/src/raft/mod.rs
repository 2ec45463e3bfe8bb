//! Agreement: openraft on sled around the replicated state.
//!
//! ```text
//! grpc/control, reconcile ── Proposer ──> Raft ── LogStore (sled: log, vote, committed, purged)
//!                               │          │ ──── StateMachine (memory) ── snapshots (plain files)
//!                               └─ reads ──┘ ──── Network ── Wire ──> peers' Server
//! Campaign ── decides when to elect; openraft's own timer is off
//! ```
//!
//! A command is answered once it is durable on a quorum and applied here. The state is a value in memory: the newest
//! snapshot file and the committed log give it back after a restart. Nothing is decided here; that is `state`'s.
//! When a replica cannot apply or store what was agreed, it stops: a missing node is better than a diverged one.

pub mod campaign;
#[cfg(test)]
mod cluster_test;
mod floor;
pub mod log_store;
pub mod membership;
pub mod network;
pub mod node;
pub mod proposer;
pub mod server;
pub mod snapshot;
pub mod state_machine;
pub mod wire;

use common::clock::WallMs;
use common::principal::Principal;
use serde::{Deserialize, Serialize};

use crate::state::Applied;
use crate::state::refusal::Refusal;

openraft::declare_raft_types!(
    /// The types that openraft works on here.
    pub TypeConfig:
        D = Proposal,
        R = Reply,
        NodeId = u64,
        Node = Member,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = snapshot::SnapshotFile,
);

/// openraft's handle for our types.
pub type Raft = openraft::Raft<TypeConfig>;
/// A position in the log.
pub type LogId = openraft::LogId<u64>;
/// The members of the cluster and the position at which they became that.
pub type Membership = openraft::StoredMembership<u64, Member>;

/// A command on its way through the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proposal {
    /// The leader's wall time when it was proposed.
    pub wall: WallMs,
    /// Who asked for it.
    pub principal: Principal,
    /// The command behind its byte of version.
    pub command: Vec<u8>,
}

/// What applying an entry gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// The entry held no command.
    Nothing,
    /// The command was applied.
    Applied(Applied),
    /// The command no longer fitted.
    Refused(Refusal),
}

/// A member as the others reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where `ctl` and agents reach it.
    pub api_address: String,
    /// Where its peers reach it.
    pub raft_address: String,
}
