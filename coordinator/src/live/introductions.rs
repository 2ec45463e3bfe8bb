//! What the two agents of a step were told of each other.
//!
//! The holder of a lease hears of every session of the agent on the other side, and that agent is told once in each of
//! its sessions whom to let in. What is kept here is only what saves telling it again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::fence::FencingToken;

use super::progress::StepKey;

/// The sessions of both sides, by number; none while an agent is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Of the agent that serves.
    pub peer: Option<u64>,
    /// Of the agent that holds the lease.
    pub holder: Option<u64>,
}

/// The leader's knowledge of what was told.
#[derive(Debug, Default)]
pub struct Introductions {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    told: BTreeMap<FencingToken, Pair>,
    /// The peer's session when the last lease of a step was granted.
    granted: BTreeMap<StepKey, (FencingToken, Option<u64>)>,
}

impl Introductions {
    /// Returns what both sides of a lease were told last.
    pub fn told(&self, token: FencingToken) -> Option<Pair> {
        self.known().told.get(&token).copied()
    }

    /// Notes what both sides of a step's lease were told.
    pub fn note(&self, key: &StepKey, token: FencingToken, pair: Pair) {
        let mut known = self.known();
        if known.granted.get(key).is_none_or(|(granted, _)| *granted != token) {
            known.granted.insert(key.clone(), (token, pair.peer));
        }
        known.told.insert(token, pair);
    }

    /// Whether the peer has come back since the last lease of a step was granted; true once for each lease.
    pub fn take_return(&self, key: &StepKey, peer: Option<u64>) -> bool {
        let mut known = self.known();
        let is_back = peer.is_some() && known.granted.get(key).is_some_and(|(_, granted)| *granted != peer);
        if is_back {
            known.granted.remove(key);
        }
        is_back
    }

    /// Forgets the leases and steps that are over.
    pub fn retain(&self, is_held: impl Fn(&FencingToken) -> bool, is_open: impl Fn(&StepKey) -> bool) {
        let mut known = self.known();
        known.told.retain(|token, _| is_held(token));
        known.granted.retain(|key, _| is_open(key));
    }

    /// Forgets everything: this process leads no more.
    pub fn clear(&self) {
        *self.known() = Known::default();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is a single insertion or removal, so a panic elsewhere leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use common::id::TenantId;

    use super::*;

    #[test]
    fn a_return_is_a_session_that_was_not_there_at_the_grant_and_counts_once() {
        let introductions = Introductions::default();
        let key: StepKey =
            (TenantId::default_tenant(), "m1".parse().unwrap(), "file.copy-1".parse().unwrap());
        let token = |index| FencingToken { epoch: 1, index };
        assert!(!introductions.take_return(&key, Some(3)), "nothing was granted under this leadership");
        introductions.note(&key, token(7), Pair { peer: Some(3), holder: Some(4) });
        assert!(!introductions.take_return(&key, Some(3)));
        assert!(!introductions.take_return(&key, None));
        // It went and came back while the lease was still held.
        introductions.note(&key, token(7), Pair { peer: None, holder: Some(4) });
        introductions.note(&key, token(7), Pair { peer: Some(5), holder: Some(4) });
        assert_eq!(introductions.told(token(7)), Some(Pair { peer: Some(5), holder: Some(4) }));
        assert!(introductions.take_return(&key, Some(5)));
        assert!(!introductions.take_return(&key, Some(5)));
        introductions.note(&key, token(9), Pair { peer: Some(5), holder: Some(4) });
        assert!(!introductions.take_return(&key, Some(5)));
        introductions.retain(|_| false, |_| false);
        assert_eq!(introductions.told(token(9)), None);
    }
}
