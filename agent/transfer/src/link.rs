//! One connection between two agents, as lanes.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use common::clock;
use common::tls::{self, Peer};
use quinn::rustls::pki_types::CertificateDer;
use quinn::{Connection, VarInt};
use sync::wire::error_code::ErrorCode;

use crate::congestion::Control;
use crate::lane::{Lane, LaneError};
use crate::window::{Role, WindowShare};

/// A connection whose peer proved who it is; cheap to clone. It is closed when the last clone is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Link(Arc<Inner>);

/// A link that does not keep its connection open.
#[derive(Clone, Debug)]
pub(crate) struct WeakLink(Weak<Inner>);

impl WeakLink {
    /// Whether the connection is still there.
    pub(crate) fn is_alive(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Returns the link, if the connection is still there.
    pub(crate) fn upgrade(&self) -> Option<Link> {
        self.0.upgrade().map(Link)
    }
}

#[derive(Debug)]
struct Inner {
    connection: Connection,
    peer: Peer,
    window: WindowShare,
}

/// Why a connection that was made cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer's certificate names nobody of this cluster")]
pub(crate) struct UnknownPeer;

impl Link {
    /// Takes a connection after its handshake.
    pub(crate) fn new(connection: Connection, window: WindowShare) -> Result<Self, UnknownPeer> {
        let identity = connection.peer_identity().ok_or(UnknownPeer)?;
        let chain = identity.downcast::<Vec<CertificateDer<'static>>>().or(Err(UnknownPeer))?;
        let peer = tls::peer_of(&chain, clock::wall()).or(Err(UnknownPeer))?;
        Ok(Self(Arc::new(Inner { connection, peer, window })))
    }

    /// Returns the same link, without keeping it open.
    pub(crate) fn downgrade(&self) -> WeakLink {
        WeakLink(Arc::downgrade(&self.0))
    }

    /// Returns who is at the other end.
    pub(crate) fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// Returns the address at the other end.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.connection.remote_address()
    }

    /// Opens a lane; the peer learns of it with the first bytes.
    pub(crate) async fn open_lane(&self) -> Result<Lane, LaneError> {
        Ok(Lane::new(self.0.connection.open_bi().await?))
    }

    /// Waits for the next lane that the peer opens.
    pub(crate) async fn accept_lane(&self) -> Result<Lane, LaneError> {
        Ok(Lane::new(self.0.connection.accept_bi().await?))
    }

    /// Ends the connection; what was not acknowledged yet is lost.
    pub(crate) fn close(&self, code: ErrorCode, reason: &str) {
        self.0.connection.close(VarInt::from_u32(code.number()), reason.as_bytes());
    }

    /// Waits until the connection has ended, and says why.
    pub(crate) async fn closed(&self) -> LaneError {
        self.0.connection.closed().await.into()
    }

    /// Lets the peer have so many lanes open at once that it opens itself.
    pub(crate) fn allow_lanes(&self, count: u32) {
        self.0.connection.set_max_concurrent_bi_streams(VarInt::from_u32(count));
    }

    /// Says which way content flows, once that is known.
    pub(crate) fn turn(&self, role: Role) {
        self.0.window.turn(role);
    }

    /// Returns the time of a round trip, as it is estimated now.
    pub(crate) fn round_trip(&self) -> std::time::Duration {
        self.0.connection.rtt()
    }

    /// Returns how many bytes per second the path takes; none while it takes all that there is to send.
    pub(crate) fn filled_bytes_per_s(&self) -> Option<u64> {
        let state = self.0.connection.congestion_state().into_any();
        state.downcast::<Control>().ok()?.filled_bytes_per_s()
    }

    /// Fits the windows to the round trips that are known by now; asked for each second.
    pub(crate) fn tune(&self) {
        self.0.window.tune();
    }

    /// Returns the payload of all datagrams that this side sent.
    pub(crate) fn wire_bytes(&self) -> u64 {
        self.0.connection.stats().udp_tx.bytes
    }

    /// Returns the payload of all datagrams that reached this side; it grows at every beat while the peer is there.
    pub(crate) fn received_bytes(&self) -> u64 {
        self.0.connection.stats().udp_rx.bytes
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Left to itself, quinn would close with the code of success. After an explicit close this does nothing.
        self.connection.close(VarInt::from_u32(ErrorCode::ResumeLater.number()), b"let go");
    }
}
