//! A host that is revoked is cut off: by every coordinator, and by the agents that it is connected to.
//!
//! Each coordinator cuts the host's connections as soon as it has applied the revocation, and looks every few seconds
//! whatever it was told. Agents learn which hosts of their tenant are revoked, so that they close what
//! is open to them: each session begins with all of them, and each new one is told at once to those that are open. One
//! that does not read has its session ended, and learns it with the next.

use std::sync::Arc;
use std::time::Duration;

use common::clock::{self, WallMs};
use common::host::HostStatus;
use common::id::{HostName, TenantId};
use common::limit::CERTIFICATE_TTL;
use common::principal::Principal;
use proto::v1::coordinator_message::Message;
use proto::v1::{RevokedHost, RevokedHosts};
use tokio::sync::broadcast::error::RecvError;

use crate::hub::Hub;
use crate::state::State;
use crate::state::effect::Effect;
use crate::state::host::Host;

/// How often connections are looked at when nothing told that one is to be cut; twice within the ten seconds in which a
/// revoked host must be cut off.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);
/// How long a connection stays open after its session was ended, so that it carries the reason.
const CUT_DELAY: Duration = Duration::from_millis(250);
/// How long after a revocation a certificate that it voided may not have ended: its life, twice, because clocks differ.
const VOID_TIME_MS: u64 = 2 * CERTIFICATE_TTL.as_secs() * 1_000;

/// Cuts the connections of revoked hosts, on every node, until the shutdown.
pub async fn run(hub: Arc<Hub>) {
    let mut effects = hub.proposer.effects();
    let mut told = None;
    loop {
        let state = hub.state();
        // Who is told of may have been invited again by now, and what it had open is void all the same.
        hub.connections.cut(|holder| told.as_ref() == Some(holder) || is_revoked(&state, holder));
        drop(state);
        let telling = async {
            loop {
                match effects.recv().await {
                    Ok(Effect::HostRevoked { tenant, host }) => {
                        return Some(Principal::Agent { tenant, host });
                    }
                    Err(RecvError::Lagged(_)) => return None,
                    Ok(_) => {}
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        told = tokio::select! {
            biased;
            () = hub.shutdown.cancelled() => return,
            holder = telling => {
                tokio::time::sleep(CUT_DELAY).await;
                holder
            }
            () = tokio::time::sleep(INTERVAL) => None,
        };
    }
}

fn is_revoked(state: &State, holder: &Principal) -> bool {
    let Principal::Agent { tenant, host } = holder else { return false };
    state.hosts().get(tenant, host).is_some_and(|record| record.status == HostStatus::Revoked)
}

/// Returns what a new session of a tenant is told; nothing when no host is revoked.
pub fn all(state: &State, tenant: &TenantId, now: WallMs) -> Option<Message> {
    let hosts = state.hosts().table().of_tenant(tenant);
    let hosts: Vec<RevokedHost> = hosts
        .filter_map(|(name, host)| {
            let generation = void(state, tenant, name, host, now)?;
            Some(RevokedHost { host: name.to_string(), generation })
        })
        .collect();
    (!hosts.is_empty()).then_some(Message::RevokedHosts(RevokedHosts { hosts }))
}

/// Returns up to which generation certificates of a host are void and may not have ended; also of one that was invited
/// again since.
fn void(state: &State, tenant: &TenantId, name: &HostName, host: &Host, now: WallMs) -> Option<u64> {
    let voided = state.hosts().voided().get(tenant, name);
    let lately = voided.filter(|voided| now.since(voided.at) <= VOID_TIME_MS);
    let of_status = (host.status == HostStatus::Revoked && host.generation > 0).then_some(host.generation);
    of_status.or(lately.map(|voided| voided.generation))
}

/// Tells every open session which hosts of its tenant are revoked; what was told before harms nobody.
pub fn tell_all(hub: &Hub) {
    let state = hub.state();
    let now = clock::wall();
    for (tenant, session) in hub.sessions.all() {
        if let Some(message) = all(&state, &tenant, now)
            && session.send(message).is_err()
        {
            session.end();
        }
    }
}

/// Tells the open sessions of its tenant that a host is revoked.
pub fn tell(hub: &Hub, tenant: &TenantId, host: &HostName) {
    let state = hub.state();
    let Some(record) = state.hosts().get(tenant, host) else { return };
    let Some(generation) = void(&state, tenant, host, record, clock::wall()) else { return };
    let revoked = RevokedHost { host: host.to_string(), generation };
    for session in hub.sessions.of_tenant(tenant) {
        let message = Message::RevokedHosts(RevokedHosts { hosts: vec![revoked.clone()] });
        if session.send(message).is_err() {
            session.end();
        }
    }
}
