//! Which migrations wait for their turn: behind a way back that ends, and behind their tenant's limit.

use std::sync::Arc;

use common::id::{MigrationId, TenantId};
use common::view::MigrationStatus;

use super::effect::Effect;
use super::migration::{Migration, Migrations, WayBack};
use super::stamp::Stamp;

impl Migrations {
    /// Says how many migrations of a tenant run beside each other.
    pub(super) fn set_limit(&mut self, tenant: TenantId, limit: Option<u32>) {
        match limit {
            Some(limit) => self.limits.insert_mut(tenant, limit),
            None => {
                let _was_limited = self.limits.remove_mut(&tenant);
            }
        }
    }

    /// Starts what is queued and waits for nothing any more, the oldest of each tenant first, up to its limit.
    pub(super) fn start_waiting(&mut self, stamp: &Stamp) -> Vec<Effect> {
        let is_settled = |tenant: &TenantId, id: &MigrationId| {
            self.get(tenant, id).is_none_or(|earlier| earlier.way_back == WayBack::Ended)
        };
        let may_start = |migration: &&Arc<Migration>| {
            migration.status == MigrationStatus::Queued
                && migration.plan.settles.iter().all(|earlier| is_settled(&migration.tenant, earlier))
        };
        let mut waiting: Vec<Arc<Migration>> = self.active().filter(may_start).cloned().collect();
        waiting.sort_by(|one, other| (one.created, &one.id).cmp(&(other.created, &other.id)));
        let mut effects = Vec::new();
        for migration in waiting {
            if !self.has_place(&migration.tenant) {
                continue;
            }
            let mut migration = migration.as_ref().clone();
            effects.extend(migration.start(stamp));
            self.put(migration);
        }
        effects
    }

    /// Whether one more migration of a tenant may run.
    fn has_place(&self, tenant: &TenantId) -> bool {
        let Some(limit) = self.limits.get(tenant) else { return true };
        let runs = |migration: &&Arc<Migration>| {
            migration.tenant == *tenant
                && !migration.status.is_end()
                && migration.status != MigrationStatus::Queued
        };
        self.active().filter(runs).count() < usize::try_from(*limit).unwrap_or(usize::MAX)
    }
}
