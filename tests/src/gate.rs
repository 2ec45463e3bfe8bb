//! How far a move may come, in tests with real processes: the agents under test ask before they commit a group.
//!
//! A move that waits at its gate cannot end before a test has done what it came for, however slow the machine is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::wait;

/// The variable that tells an agent under test where its gate is.
pub const VARIABLE: &str = "AGENT_UNDER_TEST_GATE";

/// How long a machine may take to bring a few groups, whatever else it does.
const DEADLINE: Duration = Duration::from_secs(600);
/// How often who waits looks again.
const POLL: Duration = Duration::from_millis(5);

/// A gate that is closed; it opens when it is dropped.
#[derive(Debug)]
pub struct Gate(PathBuf);

impl Gate {
    /// Closes the gate at a path.
    pub(crate) fn closed(path: PathBuf) -> Self {
        let gate = Self(path);
        gate.write(0);
        gate
    }

    /// Lets so many groups pass, and waits until the last of them was begun.
    ///
    /// # Panics
    /// When they do not come.
    pub fn let_pass(&self, groups: u32) {
        self.write(groups);
        wait::until("groups to pass the gate", DEADLINE, || (left(&self.0) == Some(0)).then_some(()));
    }

    fn write(&self, groups: u32) {
        write(&self.0, groups);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

/// Waits until the gate lets a group pass, or nobody wants it any more; a gate that is not there lets all pass.
pub fn pass(path: &Path, is_over: &dyn Fn() -> bool) {
    while let Some(left) = left(path).filter(|_left| !is_over()) {
        if left > 0 {
            return write(path, left - 1);
        }
        std::thread::sleep(POLL);
    }
}

fn left(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.parse().ok()
}

/// Whoever reads sees the number before or this one.
fn write(path: &Path, groups: u32) {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, groups.to_string()).expect("the gate's directory is there");
    fs::rename(fresh, path).expect("the gate's directory is there");
}
