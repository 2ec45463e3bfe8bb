//! Names of which one side says nothing but why: it could not look at them, or rules leave them out.

use std::sync::atomic::Ordering::Relaxed;

use common::failure::Failure;
use common::finding::{Rule, Severity};
use sync::limits::LeftOut;
use sync::listing::Problem;
use sync::sanitize::UNMASKED_HINT;

use super::Pass;
use super::plan::Planner;
use crate::left_out::{found_left_out, left_out};
use crate::tally::add;

impl Planner<'_> {
    /// Deals with a name that is there on either side and is no entry.
    pub(super) fn unseen(
        &mut self,
        source: Option<Problem>,
        destination: Option<Problem>,
    ) -> Result<(), Failure> {
        if let Some(reason) = source.as_ref().and_then(|problem| left_out(&self.pass.params, problem)) {
            let [by_size, by_age] = &self.pass.counters.left_out;
            add(if reason == LeftOut::BySize { by_size } else { by_age }, 1);
            // Whatever stands there is nobody's concern.
            return Ok(());
        }
        for (problem, rule, side) in
            [(source, Rule::Unreadable, "source"), (destination, Rule::Unwritable, "destination")]
        {
            let Some(problem) = problem else { continue };
            let path = self.path_of(&problem.name)?;
            if problem.is_unmasked() {
                let message = format!("it was not copied: {}", problem.why);
                self.pass.except(Rule::NotSanitized, Severity::Error, &path, message, UNMASKED_HINT);
                continue;
            }
            let message = format!("it could not be looked at at the {side}: {}", problem.why);
            let hint = format!("Look at it on the {side} host, then run the migration again.");
            self.pass.except(rule, Severity::Error, &path, message, hint);
        }
        Ok(())
    }
}

/// Tells how many files were left out for their size or age.
pub(super) fn tell_left_out(pass: &Pass) {
    let [by_size, by_age] = &pass.counters.left_out;
    if let Some(finding) = found_left_out(by_size.load(Relaxed), by_age.load(Relaxed)) {
        pass.findings.report(finding);
    }
}
