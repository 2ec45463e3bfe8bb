//! How the steps that run are paced right now, as their agents were told.
//!
//! What is kept here only saves telling it again: it follows from the state and the time of day.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::fence::FencingToken;
use common::id::{HostName, TenantId};

/// How a step is paced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Bytes per second that its source may send; none is no limit.
    pub bytes_per_s: Option<u64>,
    /// Up to which load its source's host is read, in hundredths; none is any.
    pub max_load: Option<u32>,
    /// Whether it uses disks only when nobody else needs them.
    pub is_idle: bool,
}

/// The pace of a lease, and who is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paced {
    /// Whose.
    pub tenant: TenantId,
    /// The host that holds the lease.
    pub host: HostName,
    /// How its step is paced.
    pub pace: Pace,
}

/// The leader's knowledge of what was told.
#[derive(Debug, Default)]
pub struct Paces(Mutex<BTreeMap<FencingToken, Paced>>);

impl Paces {
    /// Returns the pace of a lease, as far as it was looked at.
    pub fn of(&self, token: FencingToken) -> Option<Pace> {
        self.told().get(&token).map(|paced| paced.pace)
    }

    /// Takes the paces of all leases and returns those that changed; a new lease begins without a limit.
    pub fn replace(&self, paces: BTreeMap<FencingToken, Paced>) -> Vec<(FencingToken, Paced)> {
        let mut told = self.told();
        let has_changed = |(token, paced): &(&FencingToken, &Paced)| {
            told.get(*token).map(|told| told.pace).unwrap_or_default() != paced.pace
        };
        let changed = paces.iter().filter(has_changed);
        let changed = changed.map(|(token, paced)| (*token, paced.clone())).collect();
        *told = paces;
        changed
    }

    /// Forgets what a lease was told, so that it is told again.
    pub fn forget(&self, token: FencingToken) {
        self.told().remove(&token);
    }

    /// Forgets everything: this process leads no more.
    pub fn clear(&self) {
        self.told().clear();
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<FencingToken, Paced>> {
        // Each change is a single one, so a panic elsewhere leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_told_once() {
        let known = Paces::default();
        let token = FencingToken { epoch: 1, index: 7 };
        let (tenant, host) = (TenantId::default_tenant(), "web2".parse::<HostName>().unwrap());
        let paces = |bytes_per_s| {
            let paced = Paced {
                tenant: tenant.clone(),
                host: host.clone(),
                pace: Pace { bytes_per_s, ..Pace::default() },
            };
            BTreeMap::from([(token, paced)])
        };
        assert!(known.replace(paces(None)).is_empty(), "it begins without a limit");
        assert_eq!(known.replace(paces(Some(9))).len(), 1);
        assert!(known.replace(paces(Some(9))).is_empty());
        assert_eq!(known.of(token), Some(Pace { bytes_per_s: Some(9), ..Pace::default() }));
        known.forget(token);
        assert_eq!(known.replace(paces(Some(9))).len(), 1, "what did not arrive is told again");
        assert_eq!(known.replace(paces(None)).len(), 1);
        known.replace(BTreeMap::new());
        assert_eq!(known.of(token), None);
    }
}
