//! The list of step kinds, one line each.

use common::failure::{Failure, FailureKind};
use common::step::StepVersion;

use super::Step;
use super::file_pass;
use super::file_verify::FileVerify;

/// Every kind that this agent can run, in the order of their names.
pub static STEPS: &[&dyn Step] = &[&file_pass::CATCH_UP, &file_pass::COPY, &file_pass::FINISH, &FileVerify];

/// Returns the kinds and versions, for the host's facts.
pub fn versions(steps: &[&dyn Step]) -> Vec<StepVersion> {
    let version = |step: &&dyn Step| {
        let descriptor = step.descriptor();
        StepVersion { kind: descriptor.kind, version: descriptor.version }
    };
    steps.iter().map(version).collect()
}

/// Returns the kind with this name and version, as `file.copy@1`.
///
/// # Errors
/// When this agent does not have it.
pub fn find(steps: &'static [&'static dyn Step], kind: &str) -> Result<&'static dyn Step, Failure> {
    let is_meant = |step: &&&dyn Step| {
        let descriptor = step.descriptor();
        format!("{}@{}", descriptor.kind, descriptor.version) == kind
    };
    steps.iter().find(is_meant).copied().ok_or_else(|| {
        let message = format!("this agent cannot run steps of kind {kind}");
        Failure::new(FailureKind::Unsupported, message).hint("bring the agent to the coordinator's version")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name_and_version() {
        for version in versions(STEPS) {
            let found = find(STEPS, &format!("{}@{}", version.kind, version.version)).unwrap();
            assert_eq!(found.descriptor().kind, version.kind);
        }
        assert_eq!(find(STEPS, "file.copy@999").err().unwrap().kind, FailureKind::Unsupported);
    }
}
