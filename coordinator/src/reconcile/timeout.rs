//! Migrations that take longer than their spec allows.

use std::sync::Arc;

use common::clock::{self, WallMs};
use common::failure::Failure;

use crate::hub::Hub;
use crate::state::migration::{Act, Command as MigrationCommand, Migration, WayBack};
use crate::state::{Command, State};

/// Returns what tells the state which migrations are past their time.
pub fn late(state: &State, now: WallMs) -> Vec<MigrationCommand> {
    let is_late = |migration: &&Arc<Migration>| {
        let limit = migration.spec.options.timeout_ms;
        let is_ending = matches!(migration.way_back, WayBack::Settling(_));
        let is_running = migration.has_time_limit() && migration.completed.is_none() && !is_ending;
        is_running
            && limit.is_some_and(|limit| migration.clock_began.is_some_and(|began| now.since(began) >= limit))
    };
    let time_out = |migration: &Arc<Migration>| {
        let (tenant, migration) = (migration.tenant.clone(), migration.id.clone());
        MigrationCommand::Act { tenant, migration, act: Act::TimeOut }
    };
    state.migrations().active().filter(is_late).map(time_out).collect()
}

/// Tells the state which migrations are past their time; it decides what follows.
///
/// # Errors
/// When this node cannot propose.
pub async fn reconcile(hub: &Hub) -> Result<(), Failure> {
    for command in late(&hub.state(), clock::wall()) {
        match hub.propose(hub.principal(), Command::Migration(command)).await {
            Err(failure) if !hub.is_leader() => return Err(failure),
            // The state looks at its own clock; what it refuses comes again.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}
