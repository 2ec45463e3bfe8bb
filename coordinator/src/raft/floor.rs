//! What this node's log has held at least, kept outside of the log.
//!
//! A log that is damaged at its end, or is gone, looks like a shorter one or a new one; and a node that goes on with
//! such a log has forgotten what it acknowledged and whom it voted for. So the position up to which entries are agreed
//! on, and the term of the vote, stand in a small file beside the directory of raft: both only ever rise. It is written
//! at each start, at an orderly end and every thousand entries. A log that ends below its floor is refused.
//!
//! Not noticed: the loss of what came after the last writing, when the process was killed since; and an older copy of
//! the whole state directory, floor included.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::atomic_file;
use serde::{Deserialize, Serialize};

/// The version of the file.
const VERSION: u32 = 1;
/// Entries after which the file is written anew while the node runs: some writes a day on a busy cluster.
const EVERY: u64 = 1_000;

/// A position that the log has reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The last entry that was agreed on.
    pub(super) committed: u64,
    /// The term of the vote.
    pub(super) term: u64,
}

impl Mark {
    fn max(self, other: Self) -> Self {
        Self { committed: self.committed.max(other.committed), term: self.term.max(other.term) }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    committed: u64,
    term: u64,
}

/// The floor of one log.
#[derive(Debug)]
pub(super) struct Floor {
    path: PathBuf,
    /// What was reached, and what of it is in the file.
    known: Mutex<(Mark, Mark)>,
}

impl Floor {
    /// Reads the floor; a file that is absent or damaged is written anew, and the latter told.
    pub(super) fn open(path: PathBuf) -> Self {
        let mark = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(|Document { version: _, committed, term }| Mark { committed, term }),
            Err(_absent) => Ok(Mark::default()),
        };
        let mark = mark.unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), %error, "the floor of the log cannot be read; it is written anew");
            Mark::default()
        });
        Self { path, known: Mutex::new((mark, mark)) }
    }

    /// Returns what the log must hold at least.
    pub(super) fn mark(&self) -> Mark {
        self.known().0
    }

    /// Notes what the log has reached, and returns whether it is time to write that down.
    pub(super) fn note(&self, reached: Mark) -> bool {
        let mut known = self.known();
        known.0 = known.0.max(reached);
        known.0.committed >= known.1.committed + EVERY
    }

    /// Writes down what was noted. A disk that refuses costs the floor its height and nothing else, so it is told only.
    pub(super) fn write(&self) {
        let mut known = self.known();
        if known.0 == known.1 && self.path.exists() {
            return;
        }
        let Mark { committed, term } = known.0;
        let document = Document { version: VERSION, committed, term };
        let text = serde_json::to_vec(&document).expect("numbers are JSON");
        match atomic_file::write(&self.path, &text, 0o600) {
            Ok(()) => known.1 = known.0,
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "the floor of the log could not be written");
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, (Mark, Mark)> {
        // Both marks are whole values, so a panic elsewhere leaves them true.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_rises_and_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("raft.floor");
        let floor = Floor::open(path.clone());
        assert!(!floor.note(Mark { committed: 7, term: 2 }));
        assert!(!floor.note(Mark { committed: 3, term: 5 }));
        floor.write();
        assert_eq!(Floor::open(path.clone()).mark(), Mark { committed: 7, term: 5 });
        assert!(floor.note(Mark { committed: 7 + EVERY, term: 0 }));
        assert_eq!(std::fs::read(&path).unwrap(), br#"{"version":1,"committed":7,"term":5}"#);
        std::fs::write(&path, b"{").unwrap();
        assert_eq!(Floor::open(path).mark(), Mark::default());
    }
}
