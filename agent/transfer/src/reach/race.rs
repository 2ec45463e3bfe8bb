//! Which transport one address is dialled with.
//!
//! Both are dialled at once, unless one is asked for. Between near agents TCP is taken, because the cost of QUIC's
//! packets is what limits it there; on long paths QUIC, because a lost packet holds up one lane and not all, and
//! because its handshakes are shorter. Where only one gets through, it is that one. `DESIGN.md` has the figures.

use std::net::SocketAddr;
use std::time::Duration;

use common::principal::Principal;
use common::transport::{Transport, TransportChoice};
use sync::wire::error_code::ErrorCode;

use crate::endpoint::Endpoint;
use crate::link::Link;
use crate::window::Role;

/// Up to this round trip a path is near: one switch or two, also when the hosts are busy.
const NEAR_MAX: Duration = Duration::from_millis(2);
/// From this round trip on QUIC need not wait for what TCP measures.
const FAR_MIN: Duration = Duration::from_millis(20);

/// Dials one address of a peer with what was asked for, and makes sure that it is this peer.
pub(super) async fn dial(
    endpoint: &Endpoint,
    address: SocketAddr,
    wanted: &Principal,
    role: Role,
    choice: TransportChoice,
) -> Result<Link, String> {
    match choice {
        TransportChoice::Auto => race(endpoint, address, wanted, role).await,
        TransportChoice::Quic => endpoint.dial(address, wanted, role, Transport::Quic).await,
        TransportChoice::Tcp => endpoint.dial(address, wanted, role, Transport::Tcp).await,
    }
}

async fn race(
    endpoint: &Endpoint,
    address: SocketAddr,
    wanted: &Principal,
    role: Role,
) -> Result<Link, String> {
    let quic = endpoint.dial(address, wanted, role, Transport::Quic);
    let tcp = endpoint.dial(address, wanted, role, Transport::Tcp);
    tokio::pin!(quic, tcp);
    let both = |quic: &str, tcp: &str| format!("QUIC: {quic}; TCP: {tcp}");
    tokio::select! {
        first = &mut quic => match first {
            Ok(quic) if quic.round_trip() >= FAR_MIN => Ok(quic),
            Ok(quic) => Ok(match tokio::time::timeout(endpoint.patience().second, tcp).await {
                Ok(Ok(tcp)) => better(quic, tcp),
                Ok(Err(_)) | Err(_) => quic,
            }),
            Err(reason) => tcp.await.map_err(|other| both(&reason, &other)),
        },
        first = &mut tcp => match first {
            Ok(tcp) if is_near(&tcp) => Ok(tcp),
            Ok(tcp) => Ok(match tokio::time::timeout(endpoint.patience().second, quic).await {
                Ok(Ok(quic)) => better(quic, tcp),
                Ok(Err(_)) | Err(_) => tcp,
            }),
            Err(reason) => quic.await.map_err(|other| both(&other, &reason)),
        },
    }
}

/// Takes one of two links to the same peer, and closes the other.
fn better(quic: Link, tcp: Link) -> Link {
    let (taken, left) = if is_near(&tcp) { (tcp, quic) } else { (quic, tcp) };
    left.close(ErrorCode::Done, "another transport is faster on this path");
    taken
}

/// What TCP measures is the kernel's answer, which a busy process does not delay.
fn is_near(tcp: &Link) -> bool {
    tcp.is_local() || tcp.round_trip() <= NEAR_MAX
}
