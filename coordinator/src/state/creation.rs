//! What stands against a new migration, besides what its roots meet.

use std::sync::Arc;

use common::failure::FailureKind;
use common::id::MigrationId;
use common::plan::Plan;

use super::migration::Migration;
use super::refusal::Refusal;
use super::{request_id, step};
use crate::saga::dag::Dag;

/// Refuses a migration whose parts do not belong together.
pub(super) fn check_new(id: &MigrationId, request_id: &str, plan: &Plan) -> Result<(), Refusal> {
    let invalid =
        |message: String| Refusal::new(FailureKind::Invalid, message, "this is a fault of the caller");
    request_id::check(request_id)?;
    step::check_steps(&plan.steps)?;
    if plan.migration != *id || plan.steps.is_empty() {
        return Err(invalid(format!(
            "the plan is for `{}` and has {} steps",
            plan.migration,
            plan.steps.len()
        )));
    }
    Dag::new(plan).map(|_| ()).map_err(|error| invalid(error.to_string()))
}

/// The way back of an earlier migration ends only if the plan says so and a person agreed.
pub(super) fn refuse_unconfirmed(
    over: &[Arc<Migration>],
    is_confirmed: bool,
    settles: &[MigrationId],
) -> Result<(), Refusal> {
    let unnamed = over.iter().any(|earlier| !settles.contains(&earlier.id));
    if over.is_empty() || (is_confirmed && !unnamed) {
        return Ok(());
    }
    let names: Vec<String> = over.iter().map(|earlier| format!("`{}`", earlier.id)).collect();
    let names = names.join(", ");
    let message = format!("the destination holds the way back of {names}");
    let hint = "agree (`--yes`), or choose another destination";
    let sentence =
        format!("This ends the way back of {names}: what stood there before can no longer be restored.");
    Err(Refusal::new(FailureKind::Conflict, message, hint).confirm(sentence))
}
