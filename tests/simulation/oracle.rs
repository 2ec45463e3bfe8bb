//! What must hold after every event, and at the end.
//!
//! The oracle believes nothing that the system says of itself: it remembers which tokens were given, what was
//! acknowledged and what the disks hold, and compares.

use std::sync::Arc;

use common::clock::WallMs;
use common::id::{HostName, StepId, TenantId};
use common::limit::LEASE_TTL;
use common::step::Reversibility;
use common::view::{MigrationStatus, StepStatus};
use coordinator::state::migration::{self, Migration, WayBack};
use coordinator::state::refusal::Refusal;
use coordinator::state::{Applied, Command, Outcome, State, invariant, lease};

use crate::agent::units;
use crate::disk::{Effect, EffectKind};
use crate::operator;
use crate::world::{World, millis};

/// How long after its time a lease may stand: two looks of a leader, and the way of its word.
const EXPIRY_SLACK_MS: u64 = 12_000;

impl World {
    /// Notes the first thing that is not as it must be.
    pub(crate) fn violate(&mut self, message: String) {
        let message = format!("after {} ms, log index {}: {message}", self.now, self.log.len());
        self.violation.get_or_insert(message);
    }

    /// Compares the state before and after a command.
    pub(crate) fn check_applied(
        &mut self,
        before: &State,
        node: usize,
        command: &Command,
        applied: &Result<Applied, Refusal>,
    ) {
        let after = self.nodes[node].state.clone();
        if applied.is_err() && after != *before {
            self.violate(format!("a refused command changed something: {command:?}"));
        }
        if let Err(broken) = invariant::check(&after) {
            self.violate(broken.to_string());
        }
        if after.audit().count() < before.audit().count() {
            self.violate("the audit chain became shorter".to_owned());
        }
        let has_moved = after.audit().head() != before.audit().head();
        if has_moved != (after.audit().count() > before.audit().count()) {
            self.violate("the audit's head does not cover its lines".to_owned());
        }
        self.check_outcome(command, applied);
        let tenant = TenantId::default_tenant();
        for (_, id, migration) in after.migrations().table().all() {
            let earlier = before.migrations().get(&tenant, id);
            if earlier.is_some_and(|earlier| Arc::ptr_eq(earlier, migration)) {
                continue;
            }
            self.check_migration(earlier.map(Arc::as_ref), migration, command);
        }
        self.check_holders(&after);
    }

    fn check_outcome(&mut self, command: &Command, applied: &Result<Applied, Refusal>) {
        let Ok(applied) = applied else { return };
        match (&applied.outcome, command) {
            (Outcome::Granted(lease), _) => {
                if self.highest_token.is_some_and(|highest| lease.token <= highest) {
                    self.violate(format!("the token {} does not rise", lease.token));
                }
                self.highest_token = Some(lease.token);
                self.renewed_at.insert(lease.token, self.now);
                self.counts.granted += 1;
            }
            (
                Outcome::Acknowledged { is_effective, .. },
                Command::Migration(migration::Command::Event { host, number, token, event, .. }),
            ) => {
                let key = (host.clone(), self.life_of(host), *number);
                let word = format!("{token} {event:?}");
                let known = self.events.entry(key).or_insert_with(|| word.clone());
                if *known != word {
                    let message = format!("event {number} of {host} has two contents: {known} and {word}");
                    self.violate(message);
                }
                if *is_effective && !self.effective.insert((host.clone(), self.life_of(host), *number)) {
                    self.violate(format!("event {number} of {host} counted twice"));
                }
                self.counts.events += u64::from(*is_effective);
            }
            _ => {}
        }
    }

    /// Which journal of a host: one that joins again begins with an empty one.
    fn life_of(&self, host: &HostName) -> u64 {
        let tenant = TenantId::default_tenant();
        self.state().hosts().get(&tenant, host).map_or(0, |known| known.generation)
    }

    fn check_migration(&mut self, earlier: Option<&Migration>, migration: &Migration, command: &Command) {
        let now = WallMs(self.now);
        let view = migration.view(now, &|_| None, false);
        if let Some(earlier) = earlier {
            let shown = earlier.view(now, &|_| None, false).progress;
            if view.progress < shown {
                self.violate(format!("the progress of {} fell to {}", migration.id, view.progress));
            }
            self.check_expiry(earlier, migration, command);
        }
        let holds_lease = migration.steps.iter().any(|step| step.lease.is_some());
        let has_ended = migration.status.is_end();
        if has_ended && holds_lease {
            self.violate(format!("{} has ended and holds a lease", migration.id));
        }
        if has_ended && migration.way_back == WayBack::Ended && migration.holds_roots() {
            self.violate(format!("{} has ended and holds its root", migration.id));
        }
        match migration.status {
            MigrationStatus::Stuck => self.counts.stuck += 1,
            MigrationStatus::RolledBack | MigrationStatus::Cancelled => self.counts.unwound += 1,
            MigrationStatus::Completed => self.counts.completed += 1,
            _ => {}
        }
        if matches!(migration.status, MigrationStatus::RolledBack | MigrationStatus::Cancelled) {
            self.check_as_before(migration);
        }
        if migration.status == MigrationStatus::Completed && migration.unwinding.is_none() {
            self.check_whole(migration);
        }
    }

    /// A lease that time took away is one that its holder does not believe in any more.
    fn check_expiry(&mut self, earlier: &Migration, migration: &Migration, command: &Command) {
        let Command::Lease(lease::Command::End { step, token, .. }) = command else { return };
        let Some(place) = migration.place(step) else { return };
        let host = &migration.plan.steps[place].host;
        if earlier.held(step, *token).is_some() && self.agents[host].believes_in(*token, self.now) {
            self.violate(format!("the lease {token} was given away while {host} works under it"));
        }
    }

    /// At most one lease for what one root is changed under.
    fn check_holders(&mut self, state: &State) {
        let mut holders: Vec<(u64, u64, String, String)> = Vec::new();
        for migration in state.migrations().active() {
            if migration.spec.options.dry_run {
                continue;
            }
            // Who is asked to end does so before the agent begins what follows.
            let asked = migration.asked_to_finish();
            let is_asked = |step: &StepId| asked.iter().any(|(asked, _)| asked == step);
            for (planned, step) in migration.planned() {
                let holds = step.lease.is_some() && !is_asked(&planned.id);
                if !holds || planned.reversibility == Reversibility::ReadOnly {
                    continue;
                }
                let place = operator::place_of(&migration.id, planned);
                let holder = (place.machine, place.root, place.part, migration.id.to_string());
                let is_shared = |other: &(u64, u64, String, String)| {
                    (other.0, other.1) == (holder.0, holder.1) && (other.3 != holder.3 || other.2 == holder.2)
                };
                if holders.iter().any(is_shared) {
                    self.violate(format!("the root {} on machine {} has two holders", holder.1, holder.0));
                }
                holders.push(holder);
            }
        }
    }

    /// While an undo takes something away, nothing stands that was built on it.
    pub(crate) fn check_undo_order(&mut self, effect: &Effect) {
        if effect.kind != EffectKind::Undo {
            return;
        }
        let state = self.state().clone();
        let id = &effect.place.migration;
        let Some(migration) = state.migrations().get(&TenantId::default_tenant(), id) else { return };
        for later in later_than(migration, &effect.step) {
            let planned = migration.plan.steps.iter().find(|planned| planned.id == later).unwrap();
            let place = operator::place_of(id, planned);
            if self.disk.standing(&place, &later) > 0 {
                self.violate(format!("{} of {id} is undone while {later} stands on it", effect.step));
            }
        }
    }

    /// What was unwound left nothing behind.
    fn check_as_before(&mut self, migration: &Migration) {
        let place = operator::place_of(&migration.id, &migration.plan.steps[0]);
        let standing: Vec<String> = self
            .disk
            .of(&place)
            .flat_map(|(_, stage)| &stage.standing)
            .filter(|(_, units)| **units > 0)
            .map(|(step, units)| format!("{units} of {step}"))
            .collect();
        if !standing.is_empty() {
            let status = migration.status.as_str();
            self.violate(format!("{} is {status} and left {}", migration.id, standing.join(", ")));
        }
    }

    /// What has completed stands whole.
    fn check_whole(&mut self, migration: &Migration) {
        if migration.spec.options.dry_run {
            return;
        }
        for (planned, step) in migration.planned() {
            let is_done = step.status == StepStatus::Succeeded;
            let place = operator::place_of(&migration.id, planned);
            let stands = self.disk.standing(&place, &planned.id) >= units(&planned.id);
            let is_read_only = planned.reversibility == Reversibility::ReadOnly;
            if !is_done || !(stands || is_read_only) {
                self.violate(format!("{} has completed without {}", migration.id, planned.id));
            }
        }
    }

    /// What must hold whenever a leader has looked.
    pub(crate) fn check_leader(&mut self, node: usize) {
        let state = self.nodes[node].state.clone();
        let led_since = self.nodes[node].led_since;
        for migration in state.migrations().active() {
            for lease in migration.steps.iter().filter_map(|step| step.lease.as_ref()) {
                let last = self.renewed_at.get(&lease.token).copied().unwrap_or(0).max(led_since);
                if self.now > last + millis(LEASE_TTL) + EXPIRY_SLACK_MS {
                    self.violate(format!("nobody renewed the lease {} and it stands", lease.token));
                }
            }
        }
        for (host, number) in self.told.clone() {
            let held = state.outboxes().acknowledged(&TenantId::default_tenant(), &host);
            if held < number.1 && number.0 == self.life_of(&host) {
                self.violate(format!("{host} was told that event {} is durable, and it is not", number.1));
            }
        }
    }

    /// What must hold once nothing breaks any more and there was time.
    pub(crate) fn check_end(&mut self) {
        let state = self.state().clone();
        let tenant = TenantId::default_tenant();
        for id in self.acknowledged.clone() {
            if state.migrations().get(&tenant, &id).is_none() {
                self.violate(format!("{id} was acknowledged and is not there"));
            }
        }
        for (_, id, migration) in state.migrations().table().all() {
            let waits = matches!(migration.way_back, WayBack::Settling(_));
            if !migration.status.is_end() || waits {
                let statuses: Vec<StepStatus> = migration.steps.iter().map(|step| step.status).collect();
                let status = migration.status.as_str();
                let message = format!("{id} does not end: {status}, {:?}, {statuses:?}", migration.way_back);
                self.violate(message);
            }
            if self.cancelled.contains(id) && migration.status == MigrationStatus::Completed {
                self.violate(format!("{id} was cancelled and has completed"));
            }
        }
        for (host, agent) in &self.agents {
            if !agent.is_quiet() {
                let message = format!("{host} has events that nobody takes");
                self.violation.get_or_insert(message);
            }
        }
    }
}

/// Returns every step that waits for one, directly or through others.
fn later_than(migration: &Migration, step: &StepId) -> Vec<StepId> {
    let mut found = vec![step.clone()];
    for planned in &migration.plan.steps {
        if planned.after.iter().any(|earlier| found.contains(earlier)) {
            found.push(planned.id.clone());
        }
    }
    found.remove(0);
    found
}

/// A number that an agent was told to be durable, by the life of its host.
pub(crate) type Told = (u64, u64);

impl World {
    /// Notes what an agent was told.
    pub(crate) fn note_told(&mut self, host: &HostName, number: u64) {
        let life = self.life_of(host);
        let told = self.told.entry(host.clone()).or_default();
        if told.0 != life {
            *told = (life, 0);
        }
        told.1 = told.1.max(number);
    }
}
