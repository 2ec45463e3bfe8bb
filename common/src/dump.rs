//! Keeping a process's memory to itself: it holds keys and, for moments, secrets.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Forbids core files of this process, and its memory to other processes of the same user.
///
/// A system that refuses either leaves a warning in the log and goes on: it is a second line.
pub fn forbid() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the memory of this process stays readable to its user");
    }
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "core files of this process are not forbidden");
    }
}
