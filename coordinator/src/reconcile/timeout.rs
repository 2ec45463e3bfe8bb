//! Migrations that take longer than their spec allows.

use common::clock;
use common::failure::Failure;
use common::view::MigrationStatus;

use crate::hub::Hub;
use crate::state::Command;
use crate::state::migration::{Act, Command as MigrationCommand};

/// Tells the state which migrations are past their time; it decides what follows.
///
/// # Errors
/// When this node cannot propose.
pub async fn reconcile(hub: &Hub) -> Result<(), Failure> {
    let now = clock::wall();
    let state = hub.state();
    let is_late = |migration: &crate::state::migration::Migration| {
        let limit = migration.spec.options.timeout_ms;
        let is_running = migration.status == MigrationStatus::Running && migration.completed.is_none();
        is_running
            && limit.is_some_and(|limit| migration.clock_began.is_some_and(|began| now.since(began) >= limit))
    };
    let late: Vec<_> = state.migrations().active().filter(|migration| is_late(migration)).cloned().collect();
    for migration in late {
        let (tenant, id) = (migration.tenant.clone(), migration.id.clone());
        let command = MigrationCommand::Act { tenant, migration: id, act: Act::TimeOut };
        match hub.propose(hub.principal(), Command::Migration(command)).await {
            Err(failure) if !hub.is_leader() => return Err(failure),
            // The state looks at its own clock; what it refuses comes again.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}
