//! The graph of a plan's steps.
//!
//! Steps are known by their place in the plan, which is topologically ordered; [`Dag::new`] refuses a plan that is not.

use std::collections::BTreeMap;

use common::id::StepId;
use common::plan::Plan;

/// Who waits for whom, by places in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dag {
    after: Vec<Vec<usize>>,
    before: Vec<Vec<usize>>,
}

/// Why a plan is not a graph of steps in topological order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPlan {
    /// Two steps have one id.
    #[error("the step {0} stands in the plan twice")]
    Twice(StepId),
    /// A step waits for one that does not stand before it.
    #[error("the step {step} waits for {missing}, which does not stand before it")]
    NotBefore {
        /// Who waits.
        step: StepId,
        /// For whom.
        missing: StepId,
    },
}

impl Dag {
    /// Reads the graph out of a plan.
    ///
    /// # Errors
    /// When an id stands there twice, or a step waits for one that does not stand before it.
    pub fn new(plan: &Plan) -> Result<Self, InvalidPlan> {
        let mut places: BTreeMap<&StepId, usize> = BTreeMap::new();
        let mut after = Vec::with_capacity(plan.steps.len());
        let mut before = vec![Vec::new(); plan.steps.len()];
        for (place, step) in plan.steps.iter().enumerate() {
            let mut waits_for = Vec::with_capacity(step.after.len());
            for id in &step.after {
                let Some(earlier) = places.get(id).copied() else {
                    return Err(InvalidPlan::NotBefore { step: step.id.clone(), missing: id.clone() });
                };
                waits_for.push(earlier);
                before[earlier].push(place);
            }
            after.push(waits_for);
            if places.insert(&step.id, place).is_some() {
                return Err(InvalidPlan::Twice(step.id.clone()));
            }
        }
        Ok(Self { after, before })
    }

    /// Returns the steps that the one at `place` waits for.
    pub fn waits_for(&self, place: usize) -> &[usize] {
        self.after.get(place).map_or(&[], Vec::as_slice)
    }

    /// Returns the steps that wait for the one at `place`.
    pub fn dependants(&self, place: usize) -> &[usize] {
        self.before.get(place).map_or(&[], Vec::as_slice)
    }

    /// Returns how many steps there are.
    pub fn len(&self) -> usize {
        self.after.len()
    }

    /// Whether there is no step.
    pub fn is_empty(&self) -> bool {
        self.after.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::saga::sample;

    #[test]
    fn reads_both_directions() {
        let dag = Dag::new(&sample::plan(&[("a", &[]), ("b", &["a"]), ("c", &["a", "b"])])).unwrap();
        assert_eq!(dag.waits_for(2), &[0, 1]);
        assert_eq!(dag.dependants(0), &[1, 2]);
        assert_eq!(dag.len(), 3);
    }

    #[test]
    fn refuses_what_is_not_in_order() {
        let backwards = sample::plan(&[("a", &["b"]), ("b", &[])]);
        assert!(matches!(Dag::new(&backwards), Err(InvalidPlan::NotBefore { .. })));
        let twice = sample::plan(&[("a", &[]), ("a", &[])]);
        assert!(matches!(Dag::new(&twice), Err(InvalidPlan::Twice(_))));
        let itself = sample::plan(&[("a", &["a"])]);
        assert!(matches!(Dag::new(&itself), Err(InvalidPlan::NotBefore { .. })));
    }
}
