//! Agents learn which hosts of their tenant are revoked, so that they close what is open to them.
//!
//! Each session begins with all of them, and each new one is told at once to those that are open. One that does not
//! read has its session ended, and learns it with the next.

use common::host::HostStatus;
use common::id::{HostName, TenantId};
use proto::v1::coordinator_message::Message;
use proto::v1::{RevokedHost, RevokedHosts};

use crate::hub::Hub;
use crate::state::State;

/// Returns what a new session of a tenant is told; nothing when no host is revoked.
pub fn all(state: &State, tenant: &TenantId) -> Option<Message> {
    let hosts: Vec<RevokedHost> = state
        .hosts()
        .table()
        .of_tenant(tenant)
        .filter(|(_, host)| host.status == HostStatus::Revoked && host.generation > 0)
        .map(|(name, host)| RevokedHost { host: name.to_string(), generation: host.generation })
        .collect();
    (!hosts.is_empty()).then_some(Message::RevokedHosts(RevokedHosts { hosts }))
}

/// Tells the open sessions of its tenant that a host is revoked.
pub fn tell(hub: &Hub, tenant: &TenantId, host: &HostName) {
    let state = hub.state();
    let Some(record) = state.hosts().get(tenant, host) else { return };
    let revoked = RevokedHost { host: host.to_string(), generation: record.generation };
    for session in hub.sessions.of_tenant(tenant) {
        let message = Message::RevokedHosts(RevokedHosts { hosts: vec![revoked.clone()] });
        if session.send(message).is_err() {
            session.end();
        }
    }
}
