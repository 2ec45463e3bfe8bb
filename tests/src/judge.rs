//! Asking the judge.

use std::path::Path;
use std::process::Command;

/// Returns the differences that `tests/judge.sh` sees between two trees, a line each; none when they are equal.
///
/// # Panics
/// When the judge could not look.
#[must_use]
pub fn differences(source: &Path, destination: &Path) -> Vec<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/judge.sh");
    let output = Command::new("bash").arg(script).args([source, destination]).output().expect("bash runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    match output.status.code() {
        Some(0) => assert!(lines.is_empty(), "the judge said nothing differs, and {lines:?}"),
        Some(1) => assert!(!lines.is_empty(), "the judge said something differs, but not what"),
        code => panic!("the judge could not look ({code:?}): {}", String::from_utf8_lossy(&output.stderr)),
    }
    lines
}

/// Asserts that two trees are equal in everything that the judge sees.
///
/// # Panics
/// When they differ.
pub fn assert_equal(source: &Path, destination: &Path) {
    let lines = differences(source, destination);
    assert!(
        lines.is_empty(),
        "{} and {} differ:\n{}",
        source.display(),
        destination.display(),
        lines.join("\n")
    );
}
