//! Leases: the right, and the duty, of one agent to run one attempt of one step or its undo.
//!
//! A lease stands in the record of its step, so the two can never disagree. Granting and ending go through raft; being
//! alive is the leader's knowledge, in memory.

use common::clock::WallMs;
use common::fence::FencingToken;
use common::id::{HostName, MigrationId, StepId, TenantId};
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::migration::Migration;
use super::refusal::Refusal;
use crate::saga::status::Change;

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

impl Migration {
    /// Ends every lease; the holders are told to stop.
    pub(super) fn end_leases(
        &mut self,
        now: WallMs,
        change: Change,
        reason: &str,
    ) -> Result<Vec<Effect>, Refusal> {
        let mut effects = Vec::new();
        let (tenant, migration) = (self.tenant.clone(), self.id.clone());
        let places = 0..self.steps.len();
        let followed = places.map(|place| self.is_followed(place)).collect::<Result<Vec<bool>, Refusal>>()?;
        for ((planned, step), is_followed) in self.plan.steps.iter().zip(&mut self.steps).zip(followed) {
            let Some(lease) = step.end_lease(now) else { continue };
            step.change(match change {
                _ if lease.is_undo => Change::UndoLost,
                Change::Lost if is_followed => Change::Succeeded,
                change => change,
            })?;
            effects.push(Effect::LeaseEnded {
                tenant: tenant.clone(),
                migration: migration.clone(),
                step: planned.id.clone(),
                host: lease.host,
                token: lease.token,
                reason: reason.to_owned(),
            });
        }
        Ok(effects)
    }
}
