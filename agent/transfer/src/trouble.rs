//! Errors of calls on trees, as failures and findings.

use common::failure::{Failure, FailureKind, Retry};
use common::finding::{Finding, Rule, Severity};
use common::rel_path::RelPath;
use tree::TreeError;

/// Makes a failure out of an error on something of ours: the stage or the root itself.
pub(crate) fn of_stage(error: &TreeError) -> Failure {
    let kind = kind_of(error);
    if error.is_quota() {
        let message = format!("a quota of the destination is used up: {}", common::failure::chain(error));
        return Failure::new(kind, message).hint(
            "Raise the quota of the owner, group, project or btrfs subvolume there, then retry: what has landed stays and is not sent again.",
        );
    }
    let failure = Failure::of(kind, error);
    if error.is_host_short() {
        return Failure { retry: Retry::Later, ..failure }
            .hint("The agent's host ran out of memory or descriptors; look what takes them there.");
    }
    match kind {
        FailureKind::Exhausted => failure.hint(
            "Make room at the destination (space or inodes), then retry: what has landed stays and is not sent again.",
        ),
        FailureKind::Denied => failure.hint("Run the agent as root, or give it the right to write below the root."),
        FailureKind::Conflict => {
            failure.hint("Something changed the migration's stage; do not move or edit `.drover-…` directories.")
        }
        _ => failure,
    }
}

/// Says what an error on a tree is to the step.
pub(crate) fn kind_of(error: &TreeError) -> FailureKind {
    if error.is_no_space() || error.is_quota() || error.is_host_short() {
        FailureKind::Exhausted
    } else if error.is_permission() {
        FailureKind::Denied
    } else if error.is_not_found() || error.is_exists() || error.is_wrong_kind() || error.is_replaced() {
        FailureKind::Conflict
    } else if error.is_unsupported() || error.is_too_large() {
        FailureKind::Unsupported
    } else if error.is_io() {
        FailureKind::Corrupt
    } else {
        FailureKind::Bug
    }
}

/// Whether an error is about the whole destination, or the agent's host, and not about one entry: the step stops,
/// resumable.
pub(crate) fn is_fatal(error: &TreeError) -> bool {
    error.is_no_space() || error.is_quota() || error.is_io() || error.is_host_short()
}

/// Makes a finding about an entry.
pub(crate) fn finding(
    rule: Rule,
    severity: Severity,
    path: &RelPath,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> Finding {
    Finding { rule, severity, object: path.to_string(), message: message.into(), hint: hint.into() }
}
