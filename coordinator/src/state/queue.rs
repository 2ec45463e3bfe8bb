//! Which migrations wait for their turn: behind a way back that ends, and behind the limits of their tenant and hosts.

use std::cmp::Reverse;
use std::sync::Arc;

use common::clock::WallMs;
use common::control::Priority;
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

    /// Starts what is queued and waits for nothing any more, by priority and then the oldest first, up to the limits of
    /// its tenant and of its hosts. One that has no place holds up nobody behind it.
    pub(super) fn start_waiting(&mut self, stamp: &Stamp) -> Vec<Effect> {
        let is_settled = |tenant: &TenantId, id: &MigrationId| {
            self.get(tenant, id).is_none_or(|earlier| earlier.way_back == WayBack::Ended)
        };
        let mut places = self.places();
        let may_start = |migration: &&Arc<Migration>| {
            migration.status == MigrationStatus::Queued
                && places.lacks(migration).is_none()
                && migration.plan.settles.iter().all(|earlier| is_settled(&migration.tenant, earlier))
        };
        let mut waiting: Vec<Arc<Migration>> = self.active().filter(may_start).cloned().collect();
        waiting.sort_by(|one, other| turn(one).cmp(&turn(other)));
        let mut effects = Vec::new();
        for migration in waiting {
            if places.lacks(&migration).is_some() {
                continue;
            }
            places.take(&migration);
            let mut migration = migration.as_ref().clone();
            effects.extend(migration.start(stamp));
            self.put(migration);
        }
        effects
    }
}

/// When it is a migration's turn: what is less comes first.
pub fn turn(migration: &Migration) -> (Reverse<Priority>, WallMs, &MigrationId) {
    (Reverse(migration.priority()), migration.created, &migration.id)
}
