//! The doors for agents, operators and the other nodes: limits, TLS, services.

pub mod account;
pub mod admission;
pub mod agent;
pub mod audit;
pub mod connection;
pub mod contact;
pub mod control;
pub mod document;
pub mod door;
mod handshakes;
pub mod invite;
pub mod list;
pub mod login;
pub mod raft;
pub mod refuse;
pub mod secret;
pub mod session;
#[cfg(test)]
mod tests;
pub mod watch;
pub mod witness;

use std::sync::Arc;
use std::time::Duration;

use common::host::HostStatus;
use common::id::NodeName;
use common::limit::MESSAGE_BYTES_MAX;
use common::principal::Principal;
use common::shutdown::Shutdown;
use common::tls::Peer;
use proto::v1::access_service_server::AccessServiceServer;
use proto::v1::agent_service_server::AgentServiceServer;
use proto::v1::audit_service_server::AuditServiceServer;
use proto::v1::control_service_server::ControlServiceServer;
use proto::v1::raft_service_server::RaftServiceServer;
use proto::v1::secret_service_server::SecretServiceServer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tower::layer::util::{Identity, Stack};

use crate::hub::Hub;
use crate::state::State;
use account::AccountDoor;
use agent::AgentDoor;
use audit::AuditDoor;
use contact::ContactLayer;
use control::ControlDoor;
use door::{Door, DoorLimits};
use secret::SecretDoor;
use witness::WitnessLayer;

/// Ten thousand agents, their reconnects after a failover, and the operators.
const API_LIMITS: DoorLimits = DoorLimits { handshakes: 256, connections: 16 * 1024, strangers: 512 };
/// Seven nodes with a few connections each.
const RAFT_LIMITS: DoorLimits = DoorLimits { handshakes: 32, connections: 128, strangers: 0 };
/// How often a silent peer is asked for a sign of life.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long the sign of life may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls beside each other on one connection.
const STREAMS_MAX: u32 = 128;
/// Bytes of headers of one call; ours are a few hundred.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// The largest request about users, keys and tenants.
const ACCOUNT_BYTES_MAX: usize = 64 * 1024;

/// Serves agents and operators until the shutdown.
pub fn serve_api(hub: &Arc<Hub>, listener: TcpListener, tls: rustls::ServerConfig, shutdown: &Shutdown) {
    let agents = AgentServiceServer::new(AgentDoor::new(Arc::clone(hub)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let operators = ControlServiceServer::new(ControlDoor::new(Arc::clone(hub)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let auditors = AuditServiceServer::new(AuditDoor::new(Arc::clone(hub)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let secrets = SecretServiceServer::new(SecretDoor::new(Arc::clone(hub)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    // A password and a scope fit into a few hundred bytes.
    let accounts = AccessServiceServer::new(AccountDoor::new(Arc::clone(hub)))
        .max_decoding_message_size(ACCOUNT_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let router = server(hub.support_contact.as_deref())
        .add_service(agents)
        .add_service(operators)
        .add_service(accounts)
        .add_service(auditors)
        .add_service(secrets);
    serve(hub, "api", listener, tls, API_LIMITS, router, shutdown);
}

/// Serves the other nodes until the shutdown.
pub fn serve_raft(
    hub: &Arc<Hub>,
    nodes: raft::RaftDoor,
    listener: TcpListener,
    tls: rustls::ServerConfig,
    shutdown: &Shutdown,
) {
    let nodes = RaftServiceServer::new(nodes)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let router = server(None).add_service(nodes);
    serve(hub, "raft", listener, tls, RAFT_LIMITS, router, shutdown);
}

/// Services with a witness of what they refuse around them, and around that whom to ask.
type Around = Stack<ContactLayer, Stack<WitnessLayer, Identity>>;

fn server(contact: Option<&str>) -> Server<Around> {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .layer(WitnessLayer)
        .layer(ContactLayer::new(contact))
}

fn serve(
    hub: &Arc<Hub>,
    name: &'static str,
    listener: TcpListener,
    tls: rustls::ServerConfig,
    limits: DoorLimits,
    router: Router<Around>,
    shutdown: &Shutdown,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let connections = Arc::clone(&hub.connections);
    let refusals = Arc::clone(&hub.audit.refusals);
    let door = Door { name, listener, acceptor, limits, connections, refusals };
    let incoming = door.open(shutdown);
    let token = shutdown.token().clone();
    shutdown.spawn(async move {
        let served = router.serve_with_incoming_shutdown(incoming, token.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(port = name, %error, "a port is no longer served");
        }
    });
}

/// Whether the port of agents and operators is closed to this peer; what an open port lets it call is looked at with
/// each call.
///
/// A follower may not know a host yet; the leader looks again when the session begins.
pub fn is_revoked_for_api(state: &State, peer: &Peer) -> bool {
    match &peer.principal {
        Principal::Agent { tenant, host } => state.hosts().get(tenant, host).is_some_and(|record| {
            record.status == HostStatus::Revoked || peer.generation.unwrap_or(0) + 1 < record.generation
        }),
        Principal::Node { name } => is_removed(state, name),
        Principal::Person { tenant, name } => {
            !state.access().accepts_certificate(tenant, name, peer.issued())
        }
        // No certificate names a key.
        Principal::Key { .. } => true,
    }
}

/// Whether the port of the nodes is closed to this peer.
pub fn is_revoked_for_raft(state: &State, peer: &Peer) -> bool {
    match &peer.principal {
        Principal::Node { name } => is_removed(state, name),
        Principal::Agent { .. } | Principal::Person { .. } | Principal::Key { .. } => true,
    }
}

/// A node that this one does not know yet may be newer than what this one has applied.
fn is_removed(state: &State, name: &NodeName) -> bool {
    state.cluster().nodes.get(name).is_some_and(|node| node.is_removed)
}
