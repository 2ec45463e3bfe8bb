//! Saying aloud that a test cannot run here.

use std::io::Write;

/// Writes the reason to standard error past the test runner's capture, where `tests/run.sh` counts it.
pub fn aloud(reason: &str) {
    // A lost line would only make the count too small; the test itself has nothing to report.
    drop(writeln!(std::io::stderr(), "skipped: {reason}"));
}

/// Returns whether the tests run as root, and says aloud when they do not.
pub fn unless_root(what: &str) -> bool {
    let is_root = crate::tree::is_root();
    if !is_root {
        aloud(&format!("{what} needs root"));
    }
    is_root
}
