//! The two agents of a step hear of each other, and a step that waits for one goes on when it is back.
//!
//! The agent that serves is told whom to let in and where he is, so that it can dial where it cannot be dialled. The
//! holder of the lease is told of every session of the other, so that it does not wait for a process that is gone.

use std::collections::BTreeSet;

use common::clock;
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::id::{HostName, StepId};
use common::view::StepStatus;
use proto::v1;
use proto::v1::coordinator_message::Message;

use crate::hub::Hub;
use crate::live::grant;
use crate::live::introductions::Pair;
use crate::live::progress::StepKey;
use crate::state::lease::{self, Lease};
use crate::state::migration::Migration;
use crate::state::step::Step;
use crate::state::{Command, State};

/// Tells what has changed, and hurries what waited for somebody who is back.
///
/// # Errors
/// When this node cannot propose.
pub async fn reconcile(hub: &Hub) -> Result<(), Failure> {
    let state = hub.state();
    let (mut held, mut open, mut waiting) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for migration in state.migrations().active() {
        for (place, (planned, step)) in migration.planned().enumerate() {
            let Some(peer) = &planned.peer else { continue };
            let key: StepKey = (migration.tenant.clone(), migration.id.clone(), planned.id.clone());
            match step.lease.as_ref().filter(|lease| !lease.is_undo) {
                Some(lease) => {
                    introduce(hub, &state, migration, place, lease, peer, &key);
                    held.insert(lease.token);
                }
                None if is_waiting_for_peer(step) => {
                    let session = hub.sessions.of(&migration.tenant, peer);
                    if hub.introductions.take_return(&key, session.map(|session| session.number())) {
                        waiting.push(key.clone());
                    }
                }
                None => {}
            }
            open.insert(key);
        }
    }
    hub.introductions.retain(|token: &FencingToken| held.contains(token), |key| open.contains(key));
    for (tenant, migration, step) in waiting {
        tracing::info!(%migration, %step, "the peer is back: the step is not delayed any longer");
        let command = lease::Command::Hurry { tenant, migration, step };
        match hub.propose(hub.principal(), Command::Lease(command)).await {
            Err(failure) if !hub.is_leader() => return Err(failure),
            // What has moved on meanwhile needs no hurry.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Whether a step is delayed because the other side was away.
fn is_waiting_for_peer(step: &Step) -> bool {
    let is_about_peer =
        |failure: &Failure| matches!(failure.kind, FailureKind::Unreachable | FailureKind::Timeout);
    step.status == StepStatus::Ready
        && !step.is_due(clock::wall())
        && step.failure.as_ref().is_some_and(is_about_peer)
}

/// Tells both sides of a lease what they do not know of each other yet.
fn introduce(
    hub: &Hub,
    state: &State,
    migration: &Migration,
    place: usize,
    lease: &Lease,
    peer: &HostName,
    key: &StepKey,
) {
    let tenant = &migration.tenant;
    let (serving, holding) = (hub.sessions.of(tenant, peer), hub.sessions.of(tenant, &lease.host));
    let number = |session: &Option<_>| session.as_ref().map(crate::live::sessions::SessionHandle::number);
    let (now, told) =
        (Pair { peer: number(&serving), holder: number(&holding) }, hub.introductions.told(lease.token));
    if told == Some(now) {
        return;
    }
    if let Some(serving) = &serving
        && told.is_none_or(|told| told.peer != now.peer)
    {
        let made = hub.seals().and_then(|seals| {
            let (key, now) = (&seals.ticket_key, clock::wall());
            let ticket = grant::ticket(state, key, migration, place, lease, now)?;
            Ok((ticket, grant::relay(state, key, migration, place, lease, now)?))
        });
        let peer_addresses = grant::data_addresses(state, tenant, &lease.host);
        let params = grant::params(&migration.plan.steps[place]);
        let transport = params.map_or_else(|_| String::new(), |params| params.transport.to_string());
        let serve = |(ticket, relay)| Message::Serve(v1::Serve { ticket, peer_addresses, transport, relay });
        let sent = made.and_then(|ticket| serving.send(serve(ticket)));
        if let Err(failure) = sent {
            note_untold(&key.2, peer, &failure);
            return;
        }
    }
    if let Some(holding) = &holding {
        let seen = v1::PeerSeen {
            token: Some(grant::token(lease.token)),
            connected: serving.is_some(),
            incarnation: state.hosts().get(tenant, peer).map_or(0, |host| host.incarnation),
            peer_addresses: grant::data_addresses(state, tenant, peer),
        };
        if let Err(failure) = holding.send(Message::PeerSeen(seen)) {
            note_untold(&key.2, &lease.host, &failure);
            return;
        }
    }
    hub.introductions.note(key, lease.token, now);
}

fn note_untold(step: &StepId, host: &HostName, failure: &Failure) {
    // The next activation tells it.
    tracing::debug!(%step, %host, %failure, "an agent was not told of the other side");
}
