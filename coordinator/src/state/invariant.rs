//! What must hold after every apply; checked in debug builds and by tests.
//!
//! The check looks at the migrations that are not at rest and at the indexes, so that its cost does not grow with the
//! history.

use common::view::{MigrationStatus, StepStatus};

use super::State;
use super::migration::{Migration, WayBack};

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {rule}")]
pub struct Broken {
    /// Which rule.
    pub rule: &'static str,
    /// Of what.
    pub object: String,
}

/// Checks every invariant.
///
/// # Errors
/// The first that does not hold.
pub fn check(state: &State) -> Result<(), Broken> {
    for migration in state.migrations.active() {
        check_one(migration)?;
        hold(migration.is_active(), "a migration at rest is not in the index of active ones", migration)?;
    }
    for (one, other) in pairs(state) {
        let is_free = one.roots.clash(&other.roots).is_none_or(|clash| !clash.changed_by_both);
        hold(is_free, "two running migrations change one root", one)?;
    }
    Ok(())
}

/// Checks what holds for one migration.
fn check_one(migration: &Migration) -> Result<(), Broken> {
    hold(migration.steps.len() == migration.plan.steps.len(), "every planned step has a record", migration)?;
    for (planned, step) in migration.planned() {
        let needs_lease = matches!(step.status, StepStatus::Leased | StepStatus::CaughtUp);
        let may_have_lease = needs_lease || step.status == StepStatus::Undoing;
        hold(!needs_lease || step.lease.is_some(), "a leased step has a lease", migration)?;
        hold(step.lease.is_none() || may_have_lease, "a lease belongs to a step that runs", migration)?;
        if let Some(lease) = &step.lease {
            hold(lease.host == planned.host, "a lease is held by the planned host", migration)?;
            hold(
                lease.is_undo == (step.status == StepStatus::Undoing),
                "an undo is leased as such",
                migration,
            )?;
            hold(step.not_before.is_none(), "a leased step waits for nothing", migration)?;
            let runs = migration.status.runs_steps() || migration.status == MigrationStatus::Unwinding;
            hold(runs, "only a running or unwinding migration holds leases", migration)?;
        }
    }
    let is_failed_running =
        migration.status.runs_steps() && migration.steps.iter().any(|step| step.status == StepStatus::Failed);
    hold(!is_failed_running, "a failed step stops its migration", migration)?;
    let is_paused = migration.status == MigrationStatus::Paused;
    hold(is_paused == migration.control.paused.is_some(), "what is paused says since when", migration)?;
    hold(migration.status.is_end() == migration.ended.is_some(), "what has ended says when", migration)?;
    let is_settled_unwinding = migration.status == MigrationStatus::Unwinding
        && migration.way_back == WayBack::Ended
        && migration.steps.iter().any(|step| step.status == StepStatus::Undoing);
    hold(!is_settled_unwinding, "nothing is undone without its way back", migration)?;
    hold(migration.permille_max <= 1_000, "progress ends at its total", migration)
}

fn hold(holds: bool, rule: &'static str, migration: &Migration) -> Result<(), Broken> {
    if holds {
        return Ok(());
    }
    Err(Broken { rule, object: format!("{}/{}", migration.tenant, migration.id) })
}

/// Pairs of migrations that change something now; a bounded sample, because the check is quadratic.
fn pairs(state: &State) -> impl Iterator<Item = (&Migration, &Migration)> {
    const SAMPLE: usize = 32;
    let changes = |migration: &&Migration| {
        !migration.spec.options.dry_run && migration.steps.iter().any(|step| step.lease.is_some())
    };
    let running: Vec<&Migration> =
        state.migrations.active().map(std::sync::Arc::as_ref).filter(changes).take(SAMPLE).collect();
    let pairs: Vec<(&Migration, &Migration)> = running
        .iter()
        .enumerate()
        .flat_map(|(place, one)| running[place + 1..].iter().map(|other| (*one, *other)))
        .collect();
    pairs.into_iter()
}
