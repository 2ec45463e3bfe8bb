//! Leases past their time, and checkpoints of what the others do.

use std::collections::{BTreeMap, BTreeSet};

use common::clock;
use common::failure::Failure;
use common::fence::FencingToken;
use common::id::TenantId;

use crate::hub::Hub;
use crate::live::progress::StepKey;
use crate::state::migration::{CHECKPOINTS_MAX, Checkpoint};
use crate::state::{Command, lease, migration};

/// Ends the leases that nobody has renewed for a whole TTL.
///
/// # Errors
/// When this node cannot propose.
pub async fn reconcile(hub: &Hub) -> Result<(), Failure> {
    let state = hub.state();
    let mut held = BTreeMap::new();
    for migration in state.migrations().active() {
        for (planned, step) in migration.planned() {
            if let Some(lease) = &step.lease {
                let key: StepKey = (migration.tenant.clone(), migration.id.clone(), planned.id.clone());
                held.insert(key, (lease.token, lease.host.clone()));
            }
        }
    }
    let tokens: BTreeSet<FencingToken> = held.values().map(|(token, _)| *token).collect();
    hub.lease_clock.retain(|token| tokens.contains(token));
    hub.progress.retain(|key, token| held.get(key).is_some_and(|(held, _)| *held == token));
    for ((tenant, migration, step), (token, host)) in held {
        if !hub.lease_clock.is_over(token, clock::boot()) {
            continue;
        }
        tracing::warn!(%migration, %step, %host, %token, "a lease was not renewed in time and ends");
        let reason = format!("the agent of `{host}` did not renew the lease in time");
        let command = lease::Command::End { tenant, migration, step, token, reason };
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
