//! What an agent is sent for a lease: the grant, and a fresh ticket with every renewal.

use std::collections::HashMap;

use common::clock::WallMs;
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::id::{HostName, TenantId};
use common::limit::{LEASE_TTL, RELAY_TICKET_TTL};
use common::plan::PlannedStep;
use common::relay::RelayTicket;
use common::step::file::FileParams;
use common::ticket::{Direction, Ticket, TicketKey};
use proto::v1;

use crate::state::State;
use crate::state::lease::Lease;
use crate::state::migration::Migration;

/// Returns the message for a lease that was just granted, or whose grant may not have arrived.
///
/// # Errors
/// When a ticket is needed and cannot be made.
pub fn grant(
    state: &State,
    key: &TicketKey,
    migration: &Migration,
    place: usize,
    lease: &Lease,
    now: WallMs,
) -> Result<v1::Grant, Failure> {
    let planned = &migration.plan.steps[place];
    let inputs: HashMap<String, String> = planned
        .after
        .iter()
        .cloned()
        .filter_map(|step| {
            let text = migration.output(&step)?.to_owned();
            Some((String::from(step), text))
        })
        .collect();
    let peer = planned.peer.as_ref().filter(|_| !lease.is_undo);
    let peer_addresses = peer.map_or_else(Vec::new, |peer| data_addresses(state, &migration.tenant, peer));
    Ok(v1::Grant {
        migration: migration.id.to_string(),
        step: planned.id.to_string(),
        token: Some(token(lease.token)),
        kind: format!("{}@{}", planned.kind, planned.version),
        attempt: lease.attempt,
        undo: lease.is_undo,
        params: planned.params.clone(),
        inputs,
        ticket: ticket(state, key, migration, place, lease, now)?,
        peer: peer.map(ToString::to_string).unwrap_or_default(),
        peer_addresses,
        ttl_ms: millis(LEASE_TTL),
        tenant: migration.tenant.to_string(),
        finish: false,
        relay: relay(state, key, migration, place, lease, now)?.map(Box::new),
    })
}

/// Returns where both sides of a lease meet, if the spec names a relay.
///
/// # Errors
/// When the key cannot sign.
pub fn relay(
    state: &State,
    key: &TicketKey,
    migration: &Migration,
    place: usize,
    lease: &Lease,
    now: WallMs,
) -> Result<Option<v1::Relay>, Failure> {
    let planned = &migration.plan.steps[place];
    let source = planned.peer.as_ref().filter(|_| !lease.is_undo);
    let (Some(relay), Some(source)) = (&migration.spec.transfer.relay, source) else { return Ok(None) };
    let ticket = RelayTicket {
        cluster: state.cluster().id.clone(),
        tenant: migration.tenant.clone(),
        relay: relay.clone(),
        source: source.clone(),
        destination: planned.host.clone(),
        token: lease.token,
        expires: WallMs(now.0.saturating_add(millis(RELAY_TICKET_TTL))),
    };
    Ok(Some(v1::Relay {
        host: relay.to_string(),
        addresses: data_addresses(state, &migration.tenant, relay),
        ticket: key.sign_relay(&ticket).map_err(|error| Failure::of(FailureKind::Bug, &error))?,
    }))
}

/// Returns where a host's data port is reached, best first.
pub fn data_addresses(state: &State, tenant: &TenantId, host: &HostName) -> Vec<String> {
    let facts = state.hosts().get(tenant, host).and_then(|host| host.facts.as_ref());
    facts.map_or_else(Vec::new, |facts| facts.data_addresses.iter().map(ToString::to_string).collect())
}

/// Returns the signed ticket of a lease whose step reads from a peer; empty for any other.
///
/// # Errors
/// When the step's parameters cannot be read or the key cannot sign.
pub fn ticket(
    state: &State,
    key: &TicketKey,
    migration: &Migration,
    place: usize,
    lease: &Lease,
    now: WallMs,
) -> Result<Vec<u8>, Failure> {
    let planned = &migration.plan.steps[place];
    let Some(source) = planned.peer.as_ref().filter(|_| !lease.is_undo) else { return Ok(Vec::new()) };
    let params = params(planned)?;
    let ticket = Ticket {
        cluster: state.cluster().id.clone(),
        tenant: migration.tenant.clone(),
        migration: migration.id.clone(),
        step: planned.id.clone(),
        source: source.clone(),
        destination: planned.host.clone(),
        source_root: params.source_root,
        destination_root: params.destination_root,
        direction: Direction::Pull,
        token: lease.token,
        expires: WallMs(now.0.saturating_add(millis(LEASE_TTL))),
        sanitize: params.sanitize,
    };
    key.sign(&ticket).map_err(|error| Failure::of(FailureKind::Bug, &error))
}

/// Returns the parameters of a file step.
///
/// # Errors
/// When they are something else.
pub fn params(planned: &PlannedStep) -> Result<FileParams, Failure> {
    serde_json::from_str(&planned.params).map_err(|error| {
        let message = format!("the parameters of step {} cannot be read: {error}", planned.id);
        Failure::new(FailureKind::Bug, message)
    })
}

/// Returns the wire form of a token.
pub fn token(token: FencingToken) -> v1::Token {
    v1::Token { epoch: token.epoch, index: token.index }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
