//! Attempts of steps: grants, lost leases, and what agents report under them.

use std::sync::Arc;

use common::clock::WallMs;
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::host::HostStatus;
use common::id::{HostName, MigrationId, StepId, TenantId};
use common::plan::PlannedStep;
use common::step::StepKind;
use common::view::{MigrationStatus, StepStatus};

use super::effect::Effect;
use super::host::{Host, Hosts};
use super::lease::{self, Lease};
use super::migration::{Checkpoint, Migration, Migrations};
use super::refusal::Refusal;
use super::stamp::Stamp;
use super::step::{Event, OUTPUT_BYTES_MAX, Step, bounded, named};
use super::{Applied, Outcome};
use crate::saga::status::Change;
use crate::saga::{self, unwind::Unwind};

/// What may be granted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startable {
    /// The step's place in the plan.
    pub place: usize,
    /// Whether its undo is to run.
    pub is_undo: bool,
}

/// Where an event comes from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// The agent.
    pub(super) host: HostName,
    /// The migration.
    pub(super) migration: MigrationId,
    /// The step.
    pub(super) step: StepId,
    /// The lease under which it happened.
    pub(super) token: FencingToken,
}

impl Migration {
    /// Returns the place of a step in the plan.
    pub fn place(&self, step: &StepId) -> Option<usize> {
        self.plan.steps.iter().position(|planned| planned.id == *step)
    }

    /// Returns the steps with what was planned for them.
    pub fn planned(&self) -> impl Iterator<Item = (&PlannedStep, &Step)> {
        self.plan.steps.iter().zip(&self.steps)
    }

    /// Returns what may be granted now, in the order of the plan.
    pub fn startable(&self, now: WallMs) -> Vec<Startable> {
        let Ok(dag) = self.dag() else { return Vec::new() };
        let is_due = |place: &usize| self.steps[*place].is_due(now);
        let places = if self.status.runs_steps() {
            let statuses = self.statuses();
            // What a step waits for may have been lost after it became ready.
            let may_start = |place: &usize| {
                statuses[*place] == StepStatus::Ready && saga::is_satisfied(&dag, &statuses, *place)
            };
            (0..self.steps.len()).filter(may_start).collect()
        } else if self.status == MigrationStatus::Unwinding {
            match saga::unwind::next(&dag, &self.statuses(), &self.reversibilities()) {
                Unwind::Undo(places) => places,
                Unwind::Stuck | Unwind::Irreversible(_) | Unwind::Done => Vec::new(),
            }
        } else {
            Vec::new()
        };
        let is_undo = self.status == MigrationStatus::Unwinding;
        places.into_iter().filter(is_due).map(|place| Startable { place, is_undo }).collect()
    }

    /// Returns the continuous steps that are asked to end, with their leases.
    pub fn asked_to_finish(&self) -> Vec<(StepId, Lease)> {
        let Ok(dag) = self.dag() else { return Vec::new() };
        let asked = saga::asked_to_finish(&dag, &self.statuses());
        let held = |place: usize| Some((self.plan.steps[place].id.clone(), self.steps[place].lease.clone()?));
        asked.into_iter().filter_map(held).collect()
    }

    fn grant(&mut self, stamp: &Stamp, host: &Host, place: usize, is_undo: bool) -> Result<Lease, Refusal> {
        let planned = &self.plan.steps[place];
        if !self.startable(stamp.wall).contains(&Startable { place, is_undo }) {
            return Err(self.refused(&format!("{} cannot start now", named(&planned.id)), "look again"));
        }
        let step = &mut self.steps[place];
        if is_undo {
            // An undo that goes on after a lost lease or a retry is under way already.
            if step.status != StepStatus::Undoing {
                step.change(Change::UndoGranted)?;
            }
        } else {
            step.change(Change::Granted)?;
            let mut findings = (*self.findings).clone();
            findings.forget(&planned.id);
            if planned.kind != StepKind::FileVerify {
                // A pass looks at everything again, whatever those before it found.
                let moves = self.plan.steps.iter().filter(|other| other.kind != StepKind::FileVerify);
                moves.for_each(|other| findings.forget(&other.id));
            }
            self.findings = Arc::new(findings);
        }
        step.attempts += 1;
        step.not_before = None;
        let lease = Lease {
            token: stamp.token(),
            host: planned.host.clone(),
            incarnation: host.incarnation,
            is_undo,
            attempt: step.attempts,
            granted: stamp.wall,
        };
        step.lease = Some(lease.clone());
        self.started = self.started.or(Some(stamp.wall));
        self.clock_began = self.clock_began.or(Some(stamp.wall));
        Ok(lease)
    }

    /// Fails a run or an undo without granting it, because a host that it needs was revoked.
    fn deny(&mut self, stamp: &Stamp, startable: &Startable, why: Failure) -> Result<Vec<Effect>, Refusal> {
        let Startable { place, is_undo } = *startable;
        let planned = &self.plan.steps[place];
        if !self.startable(stamp.wall).contains(startable) {
            return Err(self.refused(&format!("{} cannot start now", named(&planned.id)), "look again"));
        }
        let (kind, step) = (planned.kind, &mut self.steps[place]);
        if !is_undo {
            step.change(Change::Granted)?;
        } else if step.status != StepStatus::Undoing {
            step.change(Change::UndoGranted)?;
        }
        step.fail(kind, why, is_undo, stamp.wall)?;
        self.advance(stamp)
    }

    /// Ends a lease whose holder said nothing, or ended in the middle of its work.
    fn lose(&mut self, stamp: &Stamp, place: usize, loss: Loss) -> Result<Vec<Effect>, Refusal> {
        let is_followed = self.is_followed(place)?;
        let step = &mut self.steps[place];
        let Some(lease) = step.end_lease(stamp.wall) else { return Ok(Vec::new()) };
        step.change(if is_followed && !lease.is_undo { Change::Succeeded } else { lost(&lease) })?;
        let mut effects = vec![Effect::LeaseEnded {
            tenant: self.tenant.clone(),
            migration: self.id.clone(),
            step: self.plan.steps[place].id.clone(),
            host: lease.host,
            token: lease.token,
            reason: loss.reason().to_owned(),
        }];
        effects.extend(self.advance(stamp)?);
        Ok(effects)
    }

    /// Takes what the holder of a lease reports.
    fn report(&mut self, stamp: &Stamp, place: usize, event: Event) -> Result<Vec<Effect>, Refusal> {
        let kind = self.plan.steps[place].kind;
        let is_undo = self.steps[place].lease.as_ref().is_some_and(|lease| lease.is_undo);
        match event {
            Event::Findings(findings) => {
                let mut all = (*self.findings).clone();
                all.add(&self.plan.steps[place].id, findings);
                self.findings = Arc::new(all);
                return Ok(vec![self.changed()]);
            }
            Event::SoFar(output) => {
                let is_taken = self.plan.steps[place].is_continuous && !is_undo;
                if is_taken && output.len() <= OUTPUT_BYTES_MAX {
                    self.steps[place].output = Some(output);
                }
                return Ok(vec![self.changed()]);
            }
            Event::CaughtUp(_) => {
                if self.steps[place].status == StepStatus::Leased && self.plan.steps[place].is_continuous {
                    self.steps[place].change(Change::CaughtUp)?;
                }
            }
            Event::Succeeded(output) => {
                let step = &mut self.steps[place];
                step.end_lease(stamp.wall);
                step.failures = 0;
                if is_undo {
                    step.change(Change::Undone)?;
                } else {
                    step.change(Change::Succeeded)?;
                    step.output = Some(output).filter(|output| output.len() <= OUTPUT_BYTES_MAX);
                    step.failure = None;
                }
            }
            // What it could not do is done by the step that follows it.
            Event::Failed(_) if !is_undo && self.is_followed(place)? => {
                self.steps[place].end_lease(stamp.wall);
                self.steps[place].change(Change::Succeeded)?;
            }
            Event::Failed(failure) => {
                let step = &mut self.steps[place];
                step.end_lease(stamp.wall);
                step.fail(kind, bounded(failure), is_undo, stamp.wall)?;
            }
        }
        self.advance(stamp)
    }

    /// Returns the place of a step whose lease has this token.
    pub fn held(&self, step: &StepId, token: FencingToken) -> Option<usize> {
        let place = self.place(step)?;
        let lease = self.steps[place].lease.as_ref()?;
        (lease.token == token).then_some(place)
    }
}

impl Migrations {
    /// Grants or ends a lease.
    pub(super) fn apply_lease(
        &mut self,
        stamp: &Stamp,
        hosts: &Hosts,
        command: lease::Command,
    ) -> Result<Applied, Refusal> {
        match command {
            lease::Command::Grant { tenant, migration, generation, step, host, incarnation, is_undo } => {
                let mut migration = self.copy(&tenant, &migration)?;
                let place = migration.place(&step).ok_or_else(|| Refusal::absent("step", &step))?;
                if migration.plan.generation != generation || migration.plan.steps[place].host != host {
                    return Err(migration.refused("the plan has changed", "look again"));
                }
                let startable = Startable { place, is_undo };
                if let Some(why) = revoked(hosts, &migration, &startable) {
                    let effects = migration.deny(stamp, &startable, why)?;
                    self.put(migration);
                    return Ok(Applied::done().effects(effects));
                }
                let record = may_take(hosts, &tenant, &host, incarnation, is_undo)?;
                let lease = migration.grant(stamp, record, place, is_undo)?;
                let changed = migration.changed();
                self.put(migration);
                Ok(Applied::new(Outcome::Granted(lease)).effect(changed))
            }
            lease::Command::End { tenant, migration, step, token, reason } => {
                let mut migration = self.copy(&tenant, &migration)?;
                let Some(place) = migration.held(&step, token) else {
                    return Err(migration.refused("this lease has ended already", "nothing needs doing"));
                };
                let effects = migration.lose(stamp, place, Loss::Silent(&reason))?;
                self.put(migration);
                Ok(Applied::done().effects(effects))
            }
            lease::Command::Hurry { tenant, migration, step } => {
                let mut migration = self.copy(&tenant, &migration)?;
                let place = migration.place(&step).ok_or_else(|| Refusal::absent("step", &step))?;
                let waiting = &mut migration.steps[place];
                if waiting.lease.is_some() || waiting.status != StepStatus::Ready {
                    return Err(migration.refused("the step does not wait", "nothing needs doing"));
                }
                waiting.not_before = None;
                let changed = migration.changed();
                self.put(migration);
                Ok(Applied::done().effect(changed))
            }
        }
    }

    /// Ends the leases of a host that were granted to an earlier start of its agent.
    pub(super) fn lose_leases_of(
        &mut self,
        stamp: &Stamp,
        tenant: &TenantId,
        host: &HostName,
        incarnation: u64,
    ) -> Result<Vec<Effect>, Refusal> {
        let is_over = |_: &PlannedStep, lease: &Lease| lease.host == *host && lease.incarnation < incarnation;
        self.lose_leases(stamp, tenant, Loss::Restarted, is_over)
    }

    /// Ends the leases of a host that was revoked, and of all runs that read from it. The grant of such a run, and of
    /// anything at that host, is a failure from now on; see [`Migration::deny`].
    pub(super) fn cut_off(
        &mut self,
        stamp: &Stamp,
        tenant: &TenantId,
        host: &HostName,
    ) -> Result<Vec<Effect>, Refusal> {
        let is_over = |planned: &PlannedStep, lease: &Lease| {
            lease.host == *host || (!lease.is_undo && reads_from(planned, host))
        };
        let effects = self.lose_leases(stamp, tenant, Loss::Revoked, is_over)?;
        // What waits for another try learns it at once.
        let waits = |planned: &PlannedStep, step: &Step| {
            step.not_before.is_some() && (planned.host == *host || reads_from(planned, host))
        };
        let is_concerned = |migration: &&Arc<Migration>| {
            migration.tenant == *tenant && migration.planned().any(|(planned, step)| waits(planned, step))
        };
        let concerned: Vec<Arc<Migration>> = self.active().filter(is_concerned).cloned().collect();
        for migration in concerned {
            let mut migration = migration.as_ref().clone();
            for (planned, step) in migration.plan.steps.iter().zip(&mut migration.steps) {
                if waits(planned, step) {
                    step.not_before = None;
                }
            }
            self.put(migration);
        }
        Ok(effects)
    }

    fn lose_leases(
        &mut self,
        stamp: &Stamp,
        tenant: &TenantId,
        loss: Loss<'_>,
        is_over: impl Fn(&PlannedStep, &Lease) -> bool,
    ) -> Result<Vec<Effect>, Refusal> {
        let is_lost = |migration: &Migration, place: usize| {
            let lease = migration.steps[place].lease.as_ref();
            lease.is_some_and(|lease| is_over(&migration.plan.steps[place], lease))
        };
        let is_concerned = |migration: &&Arc<Migration>| {
            migration.tenant == *tenant && (0..migration.steps.len()).any(|place| is_lost(migration, place))
        };
        let concerned: Vec<Arc<Migration>> = self.active().filter(is_concerned).cloned().collect();
        let mut effects = Vec::new();
        for migration in concerned {
            let mut migration = migration.as_ref().clone();
            for place in 0..migration.steps.len() {
                if is_lost(&migration, place) {
                    effects.extend(migration.lose(stamp, place, loss)?);
                }
            }
            self.put(migration);
        }
        Ok(effects)
    }

    /// Takes an agent's event; none for one that changes nothing, because its lease is over or was never the agent's.
    pub(super) fn apply_event(
        &mut self,
        stamp: &Stamp,
        tenant: &TenantId,
        source: &Source,
        event: Event,
    ) -> Option<Vec<Effect>> {
        let migration = self.get(tenant, &source.migration)?;
        let place = migration.held(&source.step, source.token)?;
        let is_holder = migration.steps[place].lease.as_ref().is_some_and(|lease| lease.host == source.host);
        if !is_holder {
            return None;
        }
        let mut migration = migration.as_ref().clone();
        // An event that the saga cannot take is acknowledged too, or the agent would send it for ever.
        let effects = migration.report(stamp, place, event).ok()?;
        self.put(migration);
        Some(effects)
    }

    /// Stores checkpoints of progress; those under a lease that is over are passed by.
    pub(super) fn apply_progress(&mut self, stamp: &Stamp, tenant: &TenantId, checkpoints: Vec<Checkpoint>) {
        for Checkpoint { migration, step, token, progress } in checkpoints {
            let Some(migration) = self.get(tenant, &migration) else { continue };
            let Some(place) = migration.held(&step, token) else { continue };
            let mut migration = migration.as_ref().clone();
            migration.steps[place].take_progress(progress, stamp.wall);
            migration.permille_max = migration.permille_max.max(migration.permille(&|_| None));
            self.put(migration);
        }
    }
}

/// Whether every run of a step reads from this host.
fn reads_from(planned: &PlannedStep, host: &HostName) -> bool {
    planned.kind.needs_peer() && planned.peer.as_ref() == Some(host)
}

/// Returns why a step cannot start, if a host that it needs was revoked.
fn revoked(hosts: &Hosts, migration: &Migration, startable: &Startable) -> Option<Failure> {
    let Startable { place, is_undo } = *startable;
    let (planned, step) = (&migration.plan.steps[place], &migration.steps[place]);
    let is_revoked = |host: &&HostName| {
        hosts.get(&migration.tenant, host).is_some_and(|host| host.status == HostStatus::Revoked)
    };
    let denied = |host: &HostName, what: &str, then: &str| {
        Failure::new(FailureKind::Denied, format!("{what} the host `{host}`, because it was revoked"))
            .context("host", host.to_string())
            .hint(format!(
                "if it shall be all the same, let it join again with `ctl host enroll {host}`; then {then}"
            ))
    };
    let again = "`ctl retry`, or a new migration where this one was undone";
    if is_revoked(&&planned.host) {
        return Some(match is_undo {
            true => denied(&planned.host, "nothing can be put back on", "`ctl retry`"),
            false => denied(&planned.host, "nothing is changed on", again),
        });
    }
    // A verification may do without the source; where it failed, that is why.
    let reads = |peer: &&HostName| !is_undo && (reads_from(planned, peer) || step.failures > 0);
    let peer = planned.peer.as_ref().filter(reads).filter(is_revoked)?;
    Some(denied(peer, "nothing is read from", again))
}

/// How a lease ends that its holder does not end.
#[derive(Clone, Copy, Debug)]
enum Loss<'a> {
    /// The holder said nothing for too long, or gave it back.
    Silent(&'a str),
    /// The holder's agent started again.
    Restarted,
    /// A host was revoked.
    Revoked,
}

impl Loss<'_> {
    fn reason(&self) -> &str {
        match self {
            Self::Silent(reason) => reason,
            Self::Restarted => "the agent started again",
            Self::Revoked => "the host was revoked",
        }
    }
}

fn lost(lease: &Lease) -> Change {
    if lease.is_undo { Change::UndoLost } else { Change::Lost }
}

/// Whether a host may take a step now.
fn may_take<'hosts>(
    hosts: &'hosts Hosts,
    tenant: &TenantId,
    name: &HostName,
    incarnation: u64,
    is_undo: bool,
) -> Result<&'hosts Host, Refusal> {
    let host = hosts.get(tenant, name).ok_or_else(|| Refusal::absent("host", name))?;
    let may = match host.status {
        HostStatus::Enrolled => true,
        // What was begun there can still be taken back.
        HostStatus::Draining => is_undo,
        HostStatus::Invited | HostStatus::Revoked => false,
    };
    if !may {
        let message = format!("the host `{name}` takes no steps now");
        return Err(Refusal::new(FailureKind::Conflict, message, format!("see `ctl host show {name}`")));
    }
    if host.incarnation != incarnation {
        let message = format!("the agent of `{name}` started again meanwhile");
        return Err(Refusal::new(FailureKind::Fenced, message, "look again"));
    }
    Ok(host)
}
