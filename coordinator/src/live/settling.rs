//! Which migrations' stages are being removed right now, so that no agent is asked twice at once.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use common::id::{MigrationId, TenantId};

/// The migrations that have a task which settles them.
#[derive(Debug, Default)]
pub struct Settling {
    running: Mutex<BTreeSet<(TenantId, MigrationId)>>,
}

impl Settling {
    /// Enters a migration; false when it is there already, or when `may` says no to the number of the others.
    pub fn enter(&self, key: (TenantId, MigrationId), may: impl Fn(usize) -> bool) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        may(running.len()) && running.insert(key)
    }

    /// Takes a migration off.
    pub fn leave(&self, key: &(TenantId, MigrationId)) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}
