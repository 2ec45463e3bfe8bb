//! Plans. Pure.
//!
//! [`plan`] is a function of the spec, what is known of the hosts, and what the agents found at the roots. It leaves
//! the executor no choice to make, and tells everything that stands against the plan at once.

pub mod check;
pub mod compose;

use common::finding::Finding;
use common::host::HostFacts;
use common::id::{HostName, MigrationId, StepId};
use common::phase::Scope;
use common::plan::{Plan, PlannedStep};
use common::spec::MigrationSpec;
use common::step::file::RootAnswer;

use compose::Against;

/// One side of a migration as the planner knows it.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The host.
    pub host: &'a HostName,
    /// What its agent found.
    pub facts: &'a HostFacts,
    /// What stands at the root.
    pub root: &'a RootAnswer,
}

/// Returns the plan of a migration.
///
/// # Errors
/// With every finding that stands against it.
pub fn plan(
    migration: &MigrationId,
    spec: &MigrationSpec,
    source: Side<'_>,
    destination: Side<'_>,
    relay: Option<&HostFacts>,
    settles: Vec<MigrationId>,
) -> Result<Plan, Vec<Finding>> {
    let findings = check::check(spec, source, destination, relay);
    if findings.is_empty() {
        compose::compose(migration, spec, source.host, destination.host, settles)
            .map_err(|finding| vec![finding])
    } else {
        Err(findings)
    }
}

/// Returns one more verification for a migration that has completed, which compares both sides as they are now;
/// `is_deep` reads both whole.
///
/// # Errors
/// When the plan has no step to verify.
pub fn verify_again(plan: &Plan, spec: &MigrationSpec, is_deep: bool) -> Result<PlannedStep, Finding> {
    let number = (1_u32..).find(|number| {
        let id = format!("file.verify-{number}");
        plan.steps.iter().all(|step| step.id.as_str() != id)
    });
    let copy = plan.steps.iter().find(|step| step.kind == common::step::StepKind::FileCopy);
    let (Some(number), Some(copy)) = (number, copy) else {
        return Err(check::finding("plan", "the migration moved no files", "there is nothing to verify"));
    };
    let against = if is_deep { Against::SourceWhole } else { Against::Source };
    let mut step = compose::verify(spec, number, &copy.host, copy.peer.as_ref(), Scope::Whole, against)?;
    step.after = vec![copy.id.clone()];
    Ok(step)
}

/// Returns the id of a step: the kind and a number.
fn step_id(kind: common::step::StepKind, number: u32) -> Result<StepId, Finding> {
    format!("{kind}-{number}").parse().map_err(|error: common::id::InvalidId| {
        check::finding("plan", &error.to_string(), "report this as a bug")
    })
}
