//! A plan being executed, forward or unwinding. Pure.
//!
//! The saga knows graphs and statuses, not hosts, clocks or leases: it says which steps may start, and the state and
//! its reconcilers decide when and where.

pub mod dag;
pub mod status;
pub mod unwind;

use common::view::StepStatus;
use dag::Dag;

/// Returns the blocked steps that nothing holds back any more: all that they wait for ended well or is caught up.
pub fn unblocked(dag: &Dag, statuses: &[StepStatus]) -> Vec<usize> {
    (0..dag.len())
        .filter(|place| statuses[*place] == StepStatus::Blocked)
        .filter(|place| is_satisfied(dag, statuses, *place))
        .collect()
}

/// Whether all that a step waits for ended well or is caught up.
pub fn is_satisfied(dag: &Dag, statuses: &[StepStatus], place: usize) -> bool {
    let is_over = |place: &usize| matches!(statuses[*place], StepStatus::Succeeded | StepStatus::CaughtUp);
    dag.waits_for(place).iter().all(is_over)
}

/// Returns the continuous steps that a later step, which has started, asks to end.
pub fn asked_to_finish(dag: &Dag, statuses: &[StepStatus]) -> Vec<usize> {
    let has_started = |place: &usize| !matches!(statuses[*place], StepStatus::Blocked | StepStatus::Ready);
    (0..dag.len())
        .filter(|place| statuses[*place] == StepStatus::CaughtUp)
        .filter(|place| dag.dependants(*place).iter().any(has_started))
        .collect()
}

#[cfg(test)]
pub(crate) mod sample {
    //! Plans for tests.

    use common::phase::{Phase, Scope};
    use common::plan::{PLAN_VERSION, Plan, PlannedStep};
    use common::step::{Reversibility, StepKind};

    /// Makes a plan out of names and what each waits for.
    pub(crate) fn plan(steps: &[(&str, &[&str])]) -> Plan {
        let step = |(id, after): &(&str, &[&str])| PlannedStep {
            id: id.parse().unwrap(),
            kind: StepKind::FileCopy,
            version: 1,
            phase: Phase::Copy,
            scope: Scope::Whole,
            host: "web2".parse().unwrap(),
            peer: None,
            after: after.iter().map(|id| id.parse().unwrap()).collect(),
            is_continuous: false,
            reversibility: Reversibility::Reversible,
            weight: 1,
            params: "{}".to_owned(),
        };
        Plan {
            version: PLAN_VERSION,
            migration: "m1".parse().unwrap(),
            generation: 1,
            parent: None,
            steps: steps.iter().map(step).collect(),
            settles: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_starts_when_all_before_it_ended_well_or_are_caught_up() {
        use StepStatus as S;
        let dag = Dag::new(&sample::plan(&[("a", &[]), ("b", &["a"]), ("c", &["a", "b"])])).unwrap();
        assert_eq!(unblocked(&dag, &[S::Blocked, S::Blocked, S::Blocked]), vec![0]);
        assert_eq!(unblocked(&dag, &[S::Leased, S::Blocked, S::Blocked]), Vec::<usize>::new());
        assert_eq!(unblocked(&dag, &[S::CaughtUp, S::Blocked, S::Blocked]), vec![1]);
        assert_eq!(unblocked(&dag, &[S::Succeeded, S::Succeeded, S::Blocked]), vec![2]);
        assert_eq!(unblocked(&dag, &[S::Succeeded, S::Failed, S::Blocked]), Vec::<usize>::new());
    }

    #[test]
    fn a_continuous_step_ends_when_a_later_one_has_started() {
        use StepStatus as S;
        let dag = Dag::new(&sample::plan(&[("a", &[]), ("b", &["a"])])).unwrap();
        assert_eq!(asked_to_finish(&dag, &[S::CaughtUp, S::Ready]), Vec::<usize>::new());
        assert_eq!(asked_to_finish(&dag, &[S::CaughtUp, S::Leased]), vec![0]);
    }
}
