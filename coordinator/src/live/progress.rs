//! How far the steps that run are, as their agents last said.
//!
//! Views show it over the checkpoints of the state. Every few seconds what has changed is offered for a checkpoint, so
//! that a new leader begins near it and no percentage falls.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::fence::FencingToken;
use common::id::{MigrationId, StepId, TenantId};
use common::progress::Progress;

/// Which step of which migration of whom.
pub type StepKey = (TenantId, MigrationId, StepId);

/// The last word of an agent about one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveProgress {
    /// Under which lease.
    pub token: FencingToken,
    /// How far.
    pub progress: Progress,
}

/// The leader's knowledge of progress.
#[derive(Debug, Default)]
pub struct LiveProgresses {
    known: Mutex<BTreeMap<StepKey, Entry>>,
}

#[derive(Debug)]
struct Entry {
    live: LiveProgress,
    has_changed: bool,
}

impl LiveProgresses {
    /// Notes how far a step is; an older lease's word is passed by.
    pub fn note(&self, key: StepKey, live: LiveProgress) {
        let mut known = self.known();
        let is_older = known.get(&key).is_some_and(|entry| entry.live.token > live.token);
        if !is_older {
            known.insert(key, Entry { live, has_changed: true });
        }
    }

    /// Returns how far a step is under a lease.
    pub fn of(&self, key: &StepKey, token: FencingToken) -> Option<Progress> {
        let known = self.known();
        known.get(key).filter(|entry| entry.live.token == token).map(|entry| entry.live.progress)
    }

    /// Takes what has changed since the last time, for a checkpoint.
    pub fn take_changed(&self) -> Vec<(StepKey, LiveProgress)> {
        let mut known = self.known();
        let take = |(key, entry): (&StepKey, &mut Entry)| {
            std::mem::take(&mut entry.has_changed).then(|| (key.clone(), entry.live))
        };
        known.iter_mut().filter_map(take).collect()
    }

    /// Forgets the steps whose lease is over.
    pub fn retain(&self, is_held: impl Fn(&StepKey, FencingToken) -> bool) {
        self.known().retain(|key, entry| is_held(key, entry.live.token));
    }

    /// Forgets everything: this process leads no more.
    pub fn clear(&self) {
        self.known().clear();
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<StepKey, Entry>> {
        // Each change is a single insertion or removal, so a panic elsewhere leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lease_is_believed_and_changes_are_offered_once() {
        let known = LiveProgresses::default();
        let key: StepKey =
            (TenantId::default_tenant(), "m1".parse().unwrap(), "file.copy-1".parse().unwrap());
        let live = |index, files_done| LiveProgress {
            token: FencingToken { epoch: 1, index },
            progress: Progress { files_done, ..Progress::default() },
        };
        known.note(key.clone(), live(7, 70));
        known.note(key.clone(), live(6, 99));
        assert_eq!(known.of(&key, live(7, 0).token).map(|progress| progress.files_done), Some(70));
        assert_eq!(known.of(&key, live(6, 0).token), None);
        assert_eq!(known.take_changed(), [(key.clone(), live(7, 70))]);
        assert!(known.take_changed().is_empty());
        known.retain(|_, _| false);
        assert_eq!(known.of(&key, live(7, 0).token), None);
    }
}
