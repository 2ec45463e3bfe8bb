//! What a verification tells of an entry, and what follows for the verdict.

use common::failure::{Failure, FailureKind, Retry};
use common::finding::{Rule, Severity};
use common::human;
use common::rel_path::RelPath;

use super::check::Checker;
use crate::trouble::finding;

const EXTRA_HINT: &str = "Run the migration with --delete if it shall go.";

impl Checker<'_> {
    /// Notes something that only the destination has.
    pub(super) fn extra(&mut self, path: &RelPath, is_wrong: bool) {
        if is_wrong {
            return self.differs(path, "it is only at the destination");
        }
        let message = "it is only at the destination, where nothing was to be removed";
        self.ctx.findings.report(finding(Rule::Differs, Severity::Notice, path, message, EXTRA_HINT));
    }

    /// Notes how many further ones a directory has.
    pub(super) fn more_extras(&mut self, path: &RelPath, count: u64, is_wrong: bool) {
        let message = format!("{} more of its entries are only at the destination", human::count(count));
        let severity = if is_wrong { Severity::Error } else { Severity::Notice };
        self.is_verified &= !is_wrong;
        self.ctx.findings.report(finding(Rule::Differs, severity, path, message, EXTRA_HINT));
    }

    pub(super) fn unread(&mut self, path: &RelPath) {
        self.report(
            Rule::Changed,
            Severity::Warning,
            path,
            "it could not be compared: it changed, vanished or cannot be read at the source",
            "Run the migration again, then verify.",
        );
    }

    /// Notes a part of the source that could not be looked at: of that nothing is proven.
    pub(super) fn unseen(&mut self, path: &RelPath, why: &str, is_told: bool) {
        (self.is_verified, self.is_partial) = (false, true);
        if !is_told {
            let message = format!("it could not be looked at at the source: {why}");
            let hint = "Look at it on the source host, then verify again.";
            self.report(Rule::Unreadable, Severity::Error, path, &message, hint);
        }
    }

    pub(super) fn conflict(&mut self, path: &RelPath, message: &str) {
        self.report(
            Rule::Conflict,
            Severity::Error,
            path,
            message,
            "Look who writes to the destination; run the migration again if the source's state is wanted.",
        );
    }

    pub(super) fn differs(&mut self, path: &RelPath, message: &str) {
        self.report(
            Rule::Differs,
            Severity::Error,
            path,
            message,
            "Run the migration again; it brings what differs.",
        );
    }

    pub(super) fn report(
        &mut self,
        rule: Rule,
        severity: Severity,
        path: &RelPath,
        message: &str,
        hint: &str,
    ) {
        self.is_verified = false;
        self.ctx.findings.report(finding(rule, severity, path, message, hint));
    }

    pub(super) fn corrupt(&mut self, path: &RelPath) -> Failure {
        let message = "its content is not what was written, although nothing says that it was changed";
        let hint = "Look at the destination's disk and memory; everything else there may be damaged too.";
        self.report(Rule::Corrupt, Severity::Error, path, message, hint);
        let mut failure = Failure::new(FailureKind::Corrupt, format!("`{path}` is damaged: {message}"))
            .context("path", path.to_string())
            .hint(hint);
        // Reading it once more proves nothing.
        failure.retry = Retry::Never;
        failure
    }
}
