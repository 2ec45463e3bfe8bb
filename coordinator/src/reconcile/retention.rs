//! Old migrations: condensed after a while, forgotten after a longer one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::clock::{self, WallMs};
use common::failure::{Failure, FailureKind};
use common::id::{MigrationId, TenantId};
use serde::Deserialize;

use crate::hub::Hub;
use crate::state::Command;
use crate::state::migration::Command as MigrationCommand;
use crate::state::retention::{Bounds, Due, RETAINED_MAX};

/// How often the leader looks; a look over 100 000 migrations takes some milliseconds beside everything else.
const INTERVAL: Duration = Duration::from_secs(15);
/// The milliseconds of a day.
const DAY_MS: u64 = 24 * 3600 * 1000;

/// The part `[retention]` of the settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSettings {
    /// Days after its end, and the end of its way back, until only the totals of a migration are kept.
    pub condense_days: u32,
    /// Days after its end until nothing is kept.
    pub forget_days: u32,
    /// Ended migrations that are kept whole; the oldest above are condensed.
    pub whole_max: usize,
    /// Condensed migrations that are kept; the oldest above are forgotten.
    pub condensed_max: usize,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self { condense_days: 30, forget_days: 365, whole_max: 10_000, condensed_max: 100_000 }
    }
}

impl RetentionSettings {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// When something would be forgotten before it is condensed.
    pub fn check(&self) -> Result<(), Failure> {
        if self.forget_days >= self.condense_days {
            return Ok(());
        }
        let message = format!(
            "the setting `retention.forget_days` is {}, and less than `retention.condense_days`",
            self.forget_days
        );
        Err(Failure::new(FailureKind::Invalid, message).hint("give it at least as many days"))
    }

    fn bounds(&self, now: WallMs) -> Bounds {
        let before = |days: u32| WallMs(now.0.saturating_sub(u64::from(days) * DAY_MS));
        Bounds {
            condense_before: before(self.condense_days),
            forget_before: before(self.forget_days),
            whole_max: self.whole_max,
            condensed_max: self.condensed_max,
        }
    }
}

/// Condenses and forgets while this node leads, until the shutdown.
pub async fn run(hub: Arc<Hub>) {
    loop {
        if hub.is_leader()
            && let Err(failure) = reconcile(&hub).await
        {
            tracing::debug!(%failure, "old migrations are condensed later");
        }
        tokio::select! {
            biased;
            () = hub.shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Condenses and forgets what is due.
///
/// # Errors
/// When this node cannot propose.
async fn reconcile(hub: &Hub) -> Result<(), Failure> {
    let (replica, bounds) = (hub.proposer.read(), hub.retention.bounds(clock::wall()));
    let looking = move || replica.state.migrations().due(&bounds);
    let due = tokio::task::spawn_blocking(looking).await;
    let Due { condense, forget } = due.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    let command = |tenant: TenantId, condense, forget| {
        Command::Migration(MigrationCommand::Retain { tenant, condense, forget })
    };
    for (tenant, some) in by_tenant(condense) {
        hub.propose(hub.principal(), command(tenant, some, Vec::new())).await?;
    }
    for (tenant, some) in by_tenant(forget) {
        hub.propose(hub.principal(), command(tenant, Vec::new(), some)).await?;
    }
    Ok(())
}

/// Returns what one command each can hold.
fn by_tenant(all: Vec<(TenantId, MigrationId)>) -> Vec<(TenantId, Vec<MigrationId>)> {
    let mut grouped: BTreeMap<TenantId, Vec<MigrationId>> = BTreeMap::new();
    for (tenant, id) in all {
        grouped.entry(tenant).or_default().push(id);
    }
    let parts = grouped.into_iter().flat_map(|(tenant, ids)| {
        let parts: Vec<Vec<MigrationId>> = ids.chunks(RETAINED_MAX).map(<[MigrationId]>::to_vec).collect();
        parts.into_iter().map(move |part| (tenant.clone(), part))
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_of_one_tenant_and_bounded() {
        let (ours, theirs): (TenantId, TenantId) = ("ours".parse().unwrap(), "theirs".parse().unwrap());
        let all = (0..300_u32).map(|number| {
            let tenant = if number < 299 { &ours } else { &theirs };
            (tenant.clone(), format!("m{number}").parse().unwrap())
        });
        let sizes: Vec<(TenantId, usize)> =
            by_tenant(all.collect()).into_iter().map(|(tenant, ids)| (tenant, ids.len())).collect();
        assert_eq!(sizes, [(ours.clone(), 256), (ours, 43), (theirs, 1)]);
    }

    #[test]
    fn nothing_is_forgotten_before_it_is_condensed() {
        assert!(RetentionSettings::default().check().is_ok());
        assert!(RetentionSettings { forget_days: 1, ..RetentionSettings::default() }.check().is_err());
    }
}
