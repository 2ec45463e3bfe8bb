//! What to undo, in which order.
//!
//! Reverse topological order: a step is undone once nothing that waited for it stands any more. A failed step is undone
//! too, because it may be half done; a step that only reads needs no undo; past a step that cannot be undone,
//! unwinding stops.

use common::step::Reversibility;
use common::view::StepStatus;

use super::dag::Dag;

/// What unwinding does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwind {
    /// These may be undone now, or go on being undone; empty while others are.
    Undo(Vec<usize>),
    /// An undo failed; a person is needed.
    Stuck,
    /// A step that cannot be undone has ended well: what it needed stays as it is.
    Irreversible(usize),
    /// Nothing is left.
    Done,
}

/// Returns what unwinding does next.
pub fn next(dag: &Dag, statuses: &[StepStatus], reversibilities: &[Reversibility]) -> Unwind {
    if statuses.contains(&StepStatus::Stuck) {
        return Unwind::Stuck;
    }
    let pending: Vec<usize> =
        (0..dag.len()).filter(|place| needs_undo(statuses[*place], reversibilities[*place])).collect();
    if pending.is_empty() {
        return Unwind::Done;
    }
    let stands_under = stands_under(dag, &pending);
    let free: Vec<usize> = pending.iter().copied().filter(|place| !stands_under[*place]).collect();
    let may_be_undone = |place: &usize| reversibilities[*place] != Reversibility::Irreversible;
    let undo: Vec<usize> = free.iter().copied().filter(may_be_undone).collect();
    match free.first() {
        // All that is left to begin with cannot be undone.
        Some(place) if undo.is_empty() => Unwind::Irreversible(*place),
        Some(_) | None => Unwind::Undo(undo),
    }
}

/// Returns for each step whether one that needs an undo was built on it, directly or through steps that need none.
fn stands_under(dag: &Dag, pending: &[usize]) -> Vec<bool> {
    let mut stands_under = vec![false; dag.len()];
    // Whoever waits for a step stands behind it in the plan.
    for place in (0..dag.len()).rev() {
        let is_built_on = |later: &usize| pending.contains(later) || stands_under[*later];
        stands_under[place] = dag.dependants(place).iter().any(is_built_on);
    }
    stands_under
}

/// Whether something of the step may stand.
fn needs_undo(status: StepStatus, reversibility: Reversibility) -> bool {
    match status {
        StepStatus::Leased | StepStatus::CaughtUp | StepStatus::Undoing | StepStatus::Stuck => true,
        StepStatus::Succeeded | StepStatus::Failed => reversibility != Reversibility::ReadOnly,
        StepStatus::Blocked | StepStatus::Ready | StepStatus::Undone => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::sample;

    fn check(statuses: [StepStatus; 3], expected: Unwind) {
        let dag = Dag::new(&sample::plan(&[("a", &[]), ("b", &["a"]), ("c", &["b"])])).unwrap();
        let reversibilities = [Reversibility::Reversible; 3];
        assert_eq!(next(&dag, &statuses, &reversibilities), expected, "{statuses:?}");
    }

    #[test]
    fn undoes_the_last_first() {
        use StepStatus as S;
        check([S::Succeeded, S::Failed, S::Blocked], Unwind::Undo(vec![1]));
        check([S::Succeeded, S::Undoing, S::Blocked], Unwind::Undo(vec![1]));
        check([S::Succeeded, S::Undone, S::Blocked], Unwind::Undo(vec![0]));
        check([S::Undone, S::Undone, S::Blocked], Unwind::Done);
        check([S::Ready, S::Blocked, S::Blocked], Unwind::Done);
        check([S::Succeeded, S::Stuck, S::Blocked], Unwind::Stuck);
    }

    #[test]
    fn stops_at_what_cannot_be_undone() {
        let dag = Dag::new(&sample::plan(&[("a", &[]), ("b", &["a"])])).unwrap();
        let reversibilities = [Reversibility::Reversible, Reversibility::Irreversible];
        let statuses = [StepStatus::Succeeded, StepStatus::Succeeded];
        assert_eq!(next(&dag, &statuses, &reversibilities), Unwind::Irreversible(1));
    }

    #[test]
    fn two_that_cannot_be_undone_are_waited_for_no_more_than_one() {
        let dag = Dag::new(&sample::plan(&[("a", &[]), ("b", &["a"]), ("c", &["a"])])).unwrap();
        let reversibilities =
            [Reversibility::Reversible, Reversibility::Irreversible, Reversibility::Irreversible];
        let mut statuses = [StepStatus::Succeeded; 3];
        assert_eq!(next(&dag, &statuses, &reversibilities), Unwind::Irreversible(1));
        statuses[1] = StepStatus::Blocked;
        assert_eq!(next(&dag, &statuses, &reversibilities), Unwind::Irreversible(2));
    }

    #[test]
    fn the_order_holds_through_a_step_that_needs_no_undo() {
        let dag = Dag::new(&sample::plan(&[("a", &[]), ("b", &["a"]), ("c", &["b"])])).unwrap();
        let reversibilities = [Reversibility::Reversible, Reversibility::ReadOnly, Reversibility::Reversible];
        let statuses = [StepStatus::Succeeded; 3];
        assert_eq!(next(&dag, &statuses, &reversibilities), Unwind::Undo(vec![2]));
    }

    #[test]
    fn what_only_reads_needs_no_undo() {
        let dag = Dag::new(&sample::plan(&[("a", &[]), ("b", &["a"])])).unwrap();
        let reversibilities = [Reversibility::Reversible, Reversibility::ReadOnly];
        let statuses = [StepStatus::Succeeded, StepStatus::Failed];
        assert_eq!(next(&dag, &statuses, &reversibilities), Unwind::Undo(vec![0]));
    }
}
