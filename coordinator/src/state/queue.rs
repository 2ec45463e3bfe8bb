//! Which migrations wait for their turn: behind a way back that ends, and behind their tenant's limit.

use std::collections::BTreeMap;
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
        let mut places = self.places();
        let may_start = |migration: &&Arc<Migration>| {
            migration.status == MigrationStatus::Queued
                && places.get(&migration.tenant) != Some(&0)
                && migration.plan.settles.iter().all(|earlier| is_settled(&migration.tenant, earlier))
        };
        let mut waiting: Vec<Arc<Migration>> = self.active().filter(may_start).cloned().collect();
        waiting.sort_by(|one, other| (one.created, &one.id).cmp(&(other.created, &other.id)));
        let mut effects = Vec::new();
        for migration in waiting {
            match places.get_mut(&migration.tenant) {
                Some(0) => continue,
                Some(left) => *left -= 1,
                None => {}
            }
            let mut migration = migration.as_ref().clone();
            effects.extend(migration.start(stamp));
            self.put(migration);
        }
        effects
    }

    /// Returns how many more migrations of each tenant that has a limit may run.
    ///
    /// It is asked with every change of a migration, so it goes over those that are active once.
    fn places(&self) -> BTreeMap<TenantId, u32> {
        let mut places: BTreeMap<TenantId, u32> =
            self.limits.iter().map(|(tenant, limit)| (tenant.clone(), *limit)).collect();
        // What is paused has given its place away.
        let waits = |status| matches!(status, MigrationStatus::Queued | MigrationStatus::Paused);
        let runs = |migration: &&Arc<Migration>| !migration.status.is_end() && !waits(migration.status);
        for migration in self.active().filter(runs) {
            if let Some(left) = places.get_mut(&migration.tenant) {
                *left = left.saturating_sub(1);
            }
        }
        places
    }
}
