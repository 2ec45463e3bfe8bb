//! Ready steps and undos become leases, and leases reach their agents.
//!
//! A grant is first made durable and then sent. One that may not have arrived is sent again: agents take a grant that
//! they know for what it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::clock::{self, BootTime, WallMs};
use common::failure::Failure;
use common::host::HostStatus;
use common::id::{HostName, TenantId};
use common::plan::PlannedStep;
use common::view::StepStatus;
use proto::v1;
use proto::v1::coordinator_message::Message;

use crate::hub::Hub;
use crate::live::grant;
use crate::live::lease_clock::LeaseClock;
use crate::live::sessions::SessionHandle;
use crate::state::attempt::Startable;
use crate::state::effect::Effect;
use crate::state::lease::{self, Lease};
use crate::state::migration::Migration;
use crate::state::queue::turn;
use crate::state::{Command, Outcome, State};

/// How long a session is given to name the leases that it holds, before a lease that it did not name is sent again.
const SETTLING: Duration = Duration::from_secs(3);
/// Between two sendings of the same grant.
const REPEAT: Duration = Duration::from_secs(15);
/// Grants in one activation, so that a thousand ready steps do not keep the other reconcilers waiting.
const GRANTS_MAX: usize = 64;

/// Steps under way at one host; the rest waits until one ends. Half of the moves that an agent serves, so that a lost
/// attempt and the next one have room beside each other, and more than keep the disks of a host busy.
const HOST_STEPS_MAX: usize = 32;

/// One step or undo that may be granted now.
#[derive(Clone, Debug)]
pub struct Due {
    /// The migration as it was looked at.
    pub migration: Arc<Migration>,
    /// The step's place in its plan.
    pub place: usize,
    /// What asks for the lease.
    pub command: lease::Command,
}

/// Returns what may be granted now, in the order of the queue and of plans; `incarnation_of` knows the connected hosts.
pub fn due(
    state: &State,
    now: WallMs,
    incarnation_of: impl Fn(&TenantId, &HostName) -> Option<u64>,
) -> Vec<Due> {
    let mut due = Vec::new();
    let mut load = Load::of(state);
    let mut active: Vec<&Arc<Migration>> = state.migrations().active().collect();
    active.sort_by(|one, other| turn(one).cmp(&turn(other)));
    for migration in active {
        for Startable { place, is_undo } in migration.startable(now) {
            let planned = &migration.plan.steps[place];
            let connected = incarnation_of(&migration.tenant, &planned.host);
            // A host that was revoked never connects; that is then a failure, and not waited for.
            let Some(incarnation) = connected.or_else(|| revoked(state, &migration.tenant, &planned.host))
            else {
                continue;
            };
            // What is to be put back waits for nobody.
            if !load.take(&migration.tenant, planned) && !is_undo {
                continue;
            }
            let command = lease::Command::Grant {
                tenant: migration.tenant.clone(),
                migration: migration.id.clone(),
                generation: migration.plan.generation,
                step: planned.id.clone(),
                host: planned.host.clone(),
                incarnation,
                is_undo,
            };
            due.push(Due { migration: Arc::clone(migration), place, command });
        }
    }
    due
}

/// Returns the last start that was known of an agent whose host was revoked.
fn revoked(state: &State, tenant: &TenantId, host: &HostName) -> Option<u64> {
    let host = state.hosts().get(tenant, host).filter(|host| host.status == HostStatus::Revoked)?;
    Some(host.incarnation)
}

/// Steps under way at each host, as the one that is changed or as the one that is read.
#[derive(Debug, Default)]
struct Load<'state>(HashMap<(&'state TenantId, &'state HostName), usize>);

impl<'state> Load<'state> {
    /// Counts the steps that hold leases.
    fn of(state: &'state State) -> Self {
        let mut load = Self::default();
        for migration in state.migrations().active() {
            for (planned, step) in migration.plan.steps.iter().zip(&migration.steps) {
                // What is caught up works for a moment now and then, for as long as a person is awaited.
                if step.lease.is_some() && step.status != StepStatus::CaughtUp {
                    load.count(&migration.tenant, planned);
                }
            }
        }
        load
    }

    /// Counts a step where its hosts have room for one more, and says whether they have.
    fn take(&mut self, tenant: &'state TenantId, planned: &'state PlannedStep) -> bool {
        let has_room = |host| self.0.get(&(tenant, host)).is_none_or(|steps| *steps < HOST_STEPS_MAX);
        let is_taken = hosts_of(planned).all(has_room);
        if is_taken {
            self.count(tenant, planned);
        }
        is_taken
    }

    fn count(&mut self, tenant: &'state TenantId, planned: &'state PlannedStep) {
        for host in hosts_of(planned) {
            *self.0.entry((tenant, host)).or_default() += 1;
        }
    }
}

/// Returns where a step works, and where it reads if that is another host.
pub(super) fn hosts_of(planned: &PlannedStep) -> impl Iterator<Item = &HostName> {
    let peer = planned.peer.as_ref().filter(|peer| **peer != planned.host);
    std::iter::once(&planned.host).chain(peer)
}

/// What is known of a session when a grant may have to be sent again.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The start of the agent that opened it.
    pub incarnation: u64,
    /// When it was opened.
    pub since: BootTime,
}

/// Whether the grant of a lease may not have arrived, and the session has had the time to say otherwise.
pub fn may_have_been_lost(lease: &Lease, session: Opened, known: &LeaseClock, now: BootTime) -> bool {
    session.incarnation == lease.incarnation
        && now.since(session.since) >= SETTLING
        && known.is_silent(lease.token, now, REPEAT)
}

/// Grants what is ready on connected hosts, and sends again what may not have arrived.
///
/// # Errors
/// When this node cannot propose; the rest waits for the next activation.
pub async fn reconcile(hub: &Hub) -> Result<(), Failure> {
    let state = hub.state();
    // An agent that ends in order is there only for its last words.
    let incarnation_of = |tenant: &TenantId, host: &HostName| {
        let session = hub.sessions.of(tenant, host).filter(|session| !session.is_leaving())?;
        Some(session.incarnation)
    };
    let mut granted = 0;
    for due in due(&state, clock::wall(), incarnation_of) {
        if granted == GRANTS_MAX {
            hub.wake.notify_one();
            return Ok(());
        }
        if grant_step(hub, due).await? {
            granted += 1;
        }
    }
    for migration in state.migrations().active() {
        send_again(hub, migration);
        ask_to_finish(hub, migration);
    }
    Ok(())
}

/// Grants one step; says whether it did.
async fn grant_step(hub: &Hub, due: Due) -> Result<bool, Failure> {
    let Due { migration, place, command } = due;
    let planned = &migration.plan.steps[place];
    let granted = hub.propose(hub.principal(), Command::Lease(command)).await;
    let lease = match granted {
        Ok(Outcome::Granted(lease)) => lease,
        Ok(_) => return Ok(false),
        Err(failure) if hub.is_leader() => {
            // The world has moved on since it was looked at; the next activation sees it as it is.
            tracing::debug!(migration = %migration.id, step = %planned.id, %failure, "not granted");
            return Ok(false);
        }
        Err(failure) => return Err(failure),
    };
    hub.lease_clock.renew(lease.token, clock::boot());
    tracing::info!(
        migration = %migration.id, step = %planned.id, host = %lease.host, token = %lease.token,
        is_undo = lease.is_undo, attempt = lease.attempt, "granted"
    );
    // A session that has ended meanwhile is followed by another, over which the grant is sent again.
    if let Some(session) = hub.sessions.of(&migration.tenant, &planned.host) {
        send_grant(hub, &migration, place, &lease, &session);
    }
    Ok(true)
}

/// Sends the grants that no renewal has confirmed for longer than an agent takes to renew.
fn send_again(hub: &Hub, migration: &Migration) {
    let now = clock::boot();
    for (place, step) in migration.steps.iter().enumerate() {
        let Some(lease) = &step.lease else { continue };
        let Some(session) = hub.sessions.of(&migration.tenant, &lease.host) else { continue };
        let opened = Opened { incarnation: session.incarnation, since: session.since };
        if !session.is_leaving() && may_have_been_lost(lease, opened, &hub.lease_clock, now) {
            tracing::debug!(migration = %migration.id, token = %lease.token, "sending a grant again");
            send_grant(hub, migration, place, lease, &session);
        }
    }
}

fn send_grant(hub: &Hub, migration: &Migration, place: usize, lease: &Lease, session: &SessionHandle) {
    let state = hub.state();
    let made = hub
        .seals()
        .and_then(|seals| grant::grant(&state, &seals.ticket_key, migration, place, lease, clock::wall()));
    let sent = made.and_then(|grant| session.send(Message::Grant(grant)));
    if let Err(failure) = sent {
        tracing::warn!(migration = %migration.id, token = %lease.token, %failure, "a grant could not be sent");
    }
}

/// Tells the holders of continuous steps to come to an end.
fn ask_to_finish(hub: &Hub, migration: &Migration) {
    for (step, lease) in migration.asked_to_finish() {
        let Some(session) = hub.sessions.of(&migration.tenant, &lease.host) else { continue };
        let Some(place) = migration.place(&step) else { continue };
        let state = hub.state();
        let made = hub.seals().and_then(|seals| {
            grant::grant(&state, &seals.ticket_key, migration, place, &lease, clock::wall())
        });
        // What is not sent now is sent with the next activation.
        if let Ok(grant) = made {
            drop(session.send(Message::Grant(v1::Grant { finish: true, ..grant })));
        }
    }
}

/// Tells the holder of a lease that has ended to stop at once; a hint, because it learns it with its next renewal.
pub fn tell_ended(hub: &Hub, effect: &Effect) {
    let Effect::LeaseEnded { tenant, migration, step, host, token, reason } = effect else { return };
    let Some(session) = hub.sessions.of(tenant, host) else { return };
    let revoke = v1::Revoke {
        migration: migration.to_string(),
        step: step.to_string(),
        token: Some(grant::token(*token)),
        reason: reason.clone(),
    };
    drop(session.send(Message::Revoke(revoke)));
}

#[cfg(test)]
mod tests {
    use common::failure::{FailureKind, Retry};

    use super::*;
    use crate::state::sample::{Log, failed};
    use crate::state::step::Event;

    fn due_now(log: &Log) -> Vec<String> {
        let due = due(&log.state, WallMs(log.now), |_tenant, _host| Some(1));
        due.into_iter().map(|due| due.migration.id.to_string()).collect()
    }

    #[test]
    fn a_host_gets_no_more_steps_at_once_than_it_serves_and_an_undo_waits_for_none() {
        let mut log = Log::new();
        for number in 0..HOST_STEPS_MAX as u64 + 3 {
            log.create(&format!("m{number}"), 100 + number, |_create| {}).unwrap();
        }
        let first = due_now(&log);
        assert_eq!(first.len(), HOST_STEPS_MAX);
        for id in &first {
            log.grant(id);
        }
        assert_eq!(due_now(&log), Vec::<String>::new());
        // One that fails for good is undone at once; its place is the undo's, and then the next one's.
        log.report(&first[0], failed(FailureKind::Corrupt, Retry::Never));
        let waiting = due_now(&log);
        assert!(waiting.contains(&first[0]), "{waiting:?}");
        log.grant(&first[0]);
        assert_eq!(due_now(&log), Vec::<String>::new());
        log.report(&first[0], Event::Succeeded("{}".to_owned()));
        assert_eq!(due_now(&log).len(), 1);
    }
}
