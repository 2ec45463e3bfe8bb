//! What all migrations of a host share: a bandwidth, and how many of them run beside each other.
//!
//! A host is its tenant's own, so no other tenant waits for what is shared here.

use std::collections::BTreeMap;
use std::sync::Arc;

use common::control::{HostLimitChange, HostLimits};
use common::failure::FailureKind;
use common::id::{HostName, TenantId};
use common::view::MigrationStatus;

use super::migration::{Migration, Migrations};
use super::refusal::Refusal;

/// How many more migrations may run, by whose and where; what is absent has no limit.
#[derive(Debug, Default)]
pub(super) struct Places {
    tenants: BTreeMap<TenantId, u32>,
    hosts: BTreeMap<(TenantId, HostName), u32>,
}

impl Migrations {
    /// Returns what the migrations of a host share.
    pub fn host_limits(&self, tenant: &TenantId, host: &HostName) -> HostLimits {
        self.host_limits.get(tenant, host).map(|limits| limits.as_ref().clone()).unwrap_or_default()
    }

    /// Changes what the migrations of a host share; what is left out stays.
    pub(super) fn limit_host(
        &mut self,
        tenant: &TenantId,
        host: &HostName,
        change: HostLimitChange,
    ) -> Result<(), Refusal> {
        if change == HostLimitChange::default() {
            let hint = "say what, as in `ctl host limit HOST --bandwidth 50MiB --migrations 4`";
            return Err(Refusal::new(FailureKind::Invalid, "nothing is to be limited", hint));
        }
        let HostLimitChange { bandwidth, migrations } = change;
        let mut limits = self.host_limits(tenant, host);
        if let Some(bandwidth) = bandwidth {
            limits.bandwidth = Some(bandwidth).filter(|bandwidth| !bandwidth.is_unlimited());
        }
        if let Some(migrations) = migrations {
            limits.migrations = Some(migrations).filter(|migrations| *migrations > 0);
        }
        self.put_host_limits(tenant, host.clone(), limits);
        Ok(())
    }

    /// Stores what the migrations of a host share.
    pub(super) fn put_host_limits(&mut self, tenant: &TenantId, host: HostName, limits: HostLimits) {
        if limits == HostLimits::default() {
            self.host_limits.remove(tenant, &host);
        } else {
            self.host_limits.insert(tenant, host, limits);
        }
    }

    /// Returns how many more migrations may run, of each tenant and over each host that has a limit.
    ///
    /// It is asked with every change of a migration, so it goes over those that are active once.
    pub(super) fn places(&self) -> Places {
        let limited = self
            .host_limits
            .all()
            .filter_map(|(tenant, host, limits)| Some(((tenant.clone(), host.clone()), limits.migrations?)));
        let mut places = Places {
            tenants: self.limits.iter().map(|(tenant, limit)| (tenant.clone(), *limit)).collect(),
            hosts: limited.collect(),
        };
        // What is paused has given its place away.
        let waits = |status| matches!(status, MigrationStatus::Queued | MigrationStatus::Paused);
        let runs = |migration: &&Arc<Migration>| !migration.status.is_end() && !waits(migration.status);
        for migration in self.active().filter(runs) {
            places.take(migration);
        }
        places
    }

    /// Returns what a queued migration waits for, for people; none when it does not wait for a place.
    pub fn waits_for(&self, migration: &Migration) -> Option<String> {
        if migration.status != MigrationStatus::Queued {
            return None;
        }
        self.places().lacks(migration)
    }
}

impl Migration {
    /// Returns the hosts that it works on; one, where both sides stand on it.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        let (source, destination) = (&self.roots.source.host, &self.roots.destination.host);
        std::iter::once(destination).chain(Some(source).filter(|source| *source != destination))
    }
}

impl Places {
    /// Takes a place for a migration.
    pub(super) fn take(&mut self, migration: &Migration) {
        let tenant = self.tenants.get_mut(&migration.tenant).into_iter();
        for left in tenant {
            *left = left.saturating_sub(1);
        }
        for host in migration.hosts() {
            if let Some(left) = self.hosts.get_mut(&(migration.tenant.clone(), host.clone())) {
                *left = left.saturating_sub(1);
            }
        }
    }

    /// Returns which limit leaves a migration no place, for people.
    pub(super) fn lacks(&self, migration: &Migration) -> Option<String> {
        if self.tenants.get(&migration.tenant) == Some(&0) {
            return Some(format!("the tenant `{}` runs as many as it may", migration.tenant));
        }
        let is_full =
            |host: &&HostName| self.hosts.get(&(migration.tenant.clone(), (*host).clone())) == Some(&0);
        let host = migration.hosts().find(is_full)?;
        Some(format!("the host `{host}` runs as many as it may"))
    }
}
