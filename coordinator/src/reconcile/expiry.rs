//! Leases past their time, and checkpoints of what the others do.

use std::collections::{BTreeMap, BTreeSet};

use common::clock::{self, BootTime};
use common::failure::Failure;
use common::fence::FencingToken;
use common::id::TenantId;

use crate::hub::Hub;
use crate::live::lease_clock::LeaseClock;
use crate::live::progress::StepKey;
use crate::state::lease::Lease;
use crate::state::migration::{CHECKPOINTS_MAX, Checkpoint};
use crate::state::{Command, State, lease, migration};

/// What is logged of a lease that ran out.
pub const LEASE_ENDS: &str = "a lease ends";

/// Returns the leases that are held, by what they are for.
fn held(state: &State) -> BTreeMap<StepKey, Lease> {
    let mut held = BTreeMap::new();
    for migration in state.migrations().active() {
        for (planned, step) in migration.planned() {
            if let Some(lease) = &step.lease {
                let key: StepKey = (migration.tenant.clone(), migration.id.clone(), planned.id.clone());
                held.insert(key, lease.clone());
            }
        }
    }
    held
}

/// Returns what ends the leases that nobody has renewed for a whole TTL, and forgets renewals of those that are over.
pub fn over(state: &State, known: &LeaseClock, now: BootTime) -> Vec<lease::Command> {
    let held = held(state);
    let tokens: BTreeSet<FencingToken> = held.values().map(|lease| lease.token).collect();
    known.retain(|token| tokens.contains(token));
    let is_over = |(_, lease): &(StepKey, Lease)| known.is_over(lease.token, now);
    let end = |((tenant, migration, step), lease): (StepKey, Lease)| {
        let reason = format!("the agent of `{}` did not renew the lease in time", lease.host);
        lease::Command::End { tenant, migration, step, token: lease.token, reason }
    };
    held.into_iter().filter(is_over).map(end).collect()
}

/// Ends the leases that nobody has renewed for a whole TTL.
///
/// # Errors
/// When this node cannot propose.
pub async fn reconcile(hub: &Hub) -> Result<(), Failure> {
    let state = hub.state();
    let held = held(&state);
    hub.progress.retain(|key, token| held.get(key).is_some_and(|lease| lease.token == token));
    for command in over(&state, &hub.lease_clock, clock::boot()) {
        if let lease::Command::End { migration, step, token, reason, .. } = &command {
            tracing::warn!(%migration, %step, %token, reason, "{LEASE_ENDS}");
        }
        match hub.propose(hub.principal(), Command::Lease(command)).await {
            Err(failure) if !hub.is_leader() => return Err(failure),
            // A lease that has ended meanwhile needs no end.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Makes what has changed of live progress durable, coarsely.
///
/// # Errors
/// When this node cannot propose.
pub async fn checkpoint(hub: &Hub) -> Result<(), Failure> {
    let mut by_tenant: BTreeMap<TenantId, Vec<Checkpoint>> = BTreeMap::new();
    for ((tenant, migration, step), live) in hub.progress.take_changed() {
        let checkpoint = Checkpoint { migration, step, token: live.token, progress: live.progress };
        by_tenant.entry(tenant).or_default().push(checkpoint);
    }
    for (tenant, checkpoints) in by_tenant {
        for some in checkpoints.chunks(CHECKPOINTS_MAX) {
            let command = migration::Command::Progress { tenant: tenant.clone(), checkpoints: some.to_vec() };
            hub.propose(hub.principal(), Command::Migration(command)).await?;
        }
    }
    Ok(())
}
