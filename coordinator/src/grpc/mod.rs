//! The doors for agents, operators and the other nodes: limits, TLS, services.

pub mod agent;
pub mod connection;
pub mod control;
pub mod door;
pub mod raft;
pub mod refuse;
pub mod session;

use std::sync::Arc;
use std::time::Duration;

use common::limit::MESSAGE_BYTES_MAX;
use common::principal::Principal;
use common::shutdown::Shutdown;
use proto::v1::agent_service_server::AgentServiceServer;
use proto::v1::control_service_server::ControlServiceServer;
use proto::v1::raft_service_server::RaftServiceServer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::hub::Hub;
use agent::AgentDoor;
use connection::ConnectionInfo;
use control::ControlDoor;
use door::{Admission, Door, DoorLimits};

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

/// Serves agents and operators until the shutdown.
pub fn serve_api(hub: &Arc<Hub>, listener: TcpListener, tls: rustls::ServerConfig, shutdown: &Shutdown) {
    let agents = AgentServiceServer::new(AgentDoor::new(Arc::clone(hub)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let operators = ControlServiceServer::new(ControlDoor::new(Arc::clone(hub)))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let router = server().add_service(agents).add_service(operators);
    let looked_at = Arc::clone(hub);
    let admission: Admission = Arc::new(move |info| admit_to_api(&looked_at, info));
    serve(hub, "api", listener, tls, API_LIMITS, admission, router, shutdown);
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
    let router = server().add_service(nodes);
    let looked_at = Arc::clone(hub);
    let admission: Admission = Arc::new(move |info| admit_to_raft(&looked_at, info));
    serve(hub, "raft", listener, tls, RAFT_LIMITS, admission, router, shutdown);
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
}

#[expect(
    clippy::too_many_arguments,
    reason = "two callers in this file, each naming all that differs between ports"
)]
fn serve(
    hub: &Arc<Hub>,
    name: &'static str,
    listener: TcpListener,
    tls: rustls::ServerConfig,
    limits: DoorLimits,
    admission: Admission,
    router: Router,
    shutdown: &Shutdown,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let connections = Arc::clone(&hub.connections);
    let door = Door { name, listener, acceptor, limits, admission, connections };
    let incoming = door.open(shutdown);
    let token = shutdown.token().clone();
    shutdown.spawn(async move {
        let served = router.serve_with_incoming_shutdown(incoming, token.cancelled_owned());
        if let Err(error) = served.await {
            tracing::error!(port = name, %error, "a port is no longer served");
        }
    });
}

/// Lets in who may make any call at all; what it may call is looked at with each call.
fn admit_to_api(hub: &Hub, info: &ConnectionInfo) -> Result<(), String> {
    let Some(peer) = &info.peer else { return Ok(()) };
    let state = hub.state();
    match &peer.principal {
        // A follower may not know a host yet; the leader looks again when the session begins.
        Principal::Agent { tenant, host } => match state.hosts().get(tenant, host) {
            Some(record) if record.status == common::host::HostStatus::Revoked => {
                Err(format!("{host} is revoked"))
            }
            Some(record) if peer.generation.unwrap_or(0) + 1 < record.generation => {
                Err(format!("the certificate of {host} was replaced by newer ones"))
            }
            Some(_) | None => Ok(()),
        },
        Principal::Node { name } => admit_node(hub, name),
        Principal::Operator { .. } => Ok(()),
    }
}

/// Lets in the cluster's own nodes and nobody else.
fn admit_to_raft(hub: &Hub, info: &ConnectionInfo) -> Result<(), String> {
    match info.peer.as_ref().map(|peer| &peer.principal) {
        Some(Principal::Node { name }) => admit_node(hub, name),
        Some(other) => Err(format!("{other} is no node")),
        None => Err("no certificate".to_owned()),
    }
}

/// A node that this one does not know yet may be newer than what this one has applied.
fn admit_node(hub: &Hub, name: &common::id::NodeName) -> Result<(), String> {
    match hub.state().cluster().nodes.get(name) {
        Some(node) if node.is_removed => Err(format!("the node {name} was removed from the cluster")),
        Some(_) | None => Ok(()),
    }
}
