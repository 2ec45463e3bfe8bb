//! When leases were last renewed, by the clock that runs on while a machine is suspended.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::clock::BootTime;
use common::fence::FencingToken;
use common::limit::LEASE_TTL;

/// The leader's knowledge of renewals.
#[derive(Debug, Default)]
pub struct LeaseClock {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When this process began to lead; every lease counts as renewed then.
    leading_since: Option<BootTime>,
    renewed: BTreeMap<FencingToken, BootTime>,
}

impl LeaseClock {
    /// Begins anew: this process leads from now on.
    pub fn begin(&self, now: BootTime) {
        *self.known() = Known { leading_since: Some(now), renewed: BTreeMap::new() };
    }

    /// Forgets everything: this process leads no more.
    pub fn end(&self) {
        *self.known() = Known::default();
    }

    /// Notes that a lease was granted or renewed.
    pub fn renew(&self, token: FencingToken, now: BootTime) {
        self.known().renewed.insert(token, now);
    }

    /// Whether a lease may be given away: a whole TTL has passed since it was renewed, or since this process leads.
    pub fn is_over(&self, token: FencingToken, now: BootTime) -> bool {
        let known = self.known();
        let last = known.renewed.get(&token).copied().max(known.leading_since);
        last.is_some_and(|last| now.since(last) > LEASE_TTL)
    }

    /// Whether nothing was heard of a lease for longer than `patience`, or at all under this leadership.
    pub fn is_silent(&self, token: FencingToken, now: BootTime, patience: Duration) -> bool {
        let last = self.known().renewed.get(&token).copied();
        last.is_none_or(|last| now.since(last) > patience)
    }

    /// Forgets the leases that are no longer held.
    pub fn retain(&self, is_held: impl Fn(&FencingToken) -> bool) {
        self.known().renewed.retain(|token, _| is_held(token));
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is a single assignment or insertion, so a panic elsewhere leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_given_away_only_a_whole_ttl_after_its_renewal_and_after_the_election() {
        let (clock, start) = (LeaseClock::default(), common::clock::boot());
        let token = FencingToken { epoch: 1, index: 5 };
        let at = |seconds| start.after(Duration::from_secs(seconds));
        assert!(!clock.is_over(token, at(1_000)), "who does not lead gives nothing away");
        clock.begin(at(0));
        assert!(!clock.is_over(token, at(30)));
        assert!(clock.is_over(token, at(31)));
        clock.renew(token, at(20));
        assert!(!clock.is_over(token, at(50)));
        assert!(clock.is_over(token, at(51)));
        clock.begin(at(100));
        assert!(!clock.is_over(token, at(130)));
    }
}
