//! Files that are left out for their size or age: neither brought, nor compared, nor removed; only counted.

use common::finding::{Finding, Rule, Severity};
use common::human;
use common::rel_path::RelPath;
use common::step::file::FileParams;
use sync::limits::LeftOut;
use sync::listing::Problem;

use crate::trouble::finding;

/// Returns why the source leaves a file out, if it says so and was asked to; else the problem is one.
pub(crate) fn left_out(params: &FileParams, problem: &Problem) -> Option<LeftOut> {
    LeftOut::of(problem).filter(|_reason| params.rules.has_limits())
}

/// Says how many there were, if any.
pub(crate) fn found_left_out(by_size: u64, by_age: u64) -> Option<Finding> {
    let count =
        |files: u64, why: &str| (files > 0).then(|| format!("{} for {why}", human::plural(files, "file")));
    let counts: Vec<String> =
        [count(by_size, "their size"), count(by_age, "their age")].into_iter().flatten().collect();
    let message = format!("left out: {}; what stands there at the destination stays", counts.join(", "));
    let hint = "Nothing to do: the limits of size and age ask for it.";
    (!counts.is_empty()).then(|| finding(Rule::LeftOut, Severity::Notice, &RelPath::root(), message, hint))
}
