//! How far each agent's outbox is acknowledged, which makes its events count exactly once.

use common::id::{HostName, TenantId};
use serde::{Deserialize, Serialize};

use super::table::Table;

/// The highest number of each host's outbox that the state holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outboxes {
    table: Table<HostName, u64>,
}

impl Outboxes {
    /// Returns the highest number that the state holds of a host's events, zero for none.
    pub fn acknowledged(&self, tenant: &TenantId, host: &HostName) -> u64 {
        self.table.get(tenant, host).map_or(0, |number| **number)
    }

    /// Returns the numbers by host.
    pub fn table(&self) -> &Table<HostName, u64> {
        &self.table
    }

    /// Takes an event's number; false when it was taken before.
    ///
    /// A gap is accepted: the numbers between went to a cluster state that a restore has taken back.
    pub(super) fn take(&mut self, tenant: &TenantId, host: &HostName, number: u64) -> bool {
        let is_new = number > self.acknowledged(tenant, host);
        if is_new {
            self.table.insert(tenant, host.clone(), number);
        }
        is_new
    }

    /// Begins again with an agent that joins with an empty journal.
    pub(super) fn reset(&mut self, tenant: &TenantId, host: &HostName) {
        self.table.remove(tenant, host);
    }
}
