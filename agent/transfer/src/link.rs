//! One link between two agents, as lanes: a QUIC connection, or TCP connections that belong together.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use common::clock;
use common::tls::{self, Peer};
use common::transport::Transport;
use quinn::rustls::pki_types::CertificateDer;
use quinn::{Connection, VarInt};
use sync::wire::error_code::ErrorCode;

use crate::congestion::Control;
use crate::lane::{Lane, LaneError};
use crate::tcp::Bond;
use crate::window::{Role, WindowShare};

/// What a peer is told whose link nobody uses any more.
const LET_GO: &str = "let go";

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
enum Inner {
    Quic { connection: Connection, peer: Peer, window: WindowShare },
    Tcp(Bond),
}

/// Why a connection that was made cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer's certificate names nobody of this cluster")]
pub(crate) struct UnknownPeer;

impl Link {
    /// Takes a connection after its handshake.
    pub(crate) fn of_quic(connection: Connection, window: WindowShare) -> Result<Self, UnknownPeer> {
        let identity = connection.peer_identity().ok_or(UnknownPeer)?;
        let chain = identity.downcast::<Vec<CertificateDer<'static>>>().or(Err(UnknownPeer))?;
        let peer = tls::peer_of(&chain, clock::wall()).or(Err(UnknownPeer))?;
        Ok(Self(Arc::new(Inner::Quic { connection, peer, window })))
    }

    /// Takes a link over TCP, whose peer is known.
    pub(crate) fn of_tcp(bond: Bond) -> Self {
        Self(Arc::new(Inner::Tcp(bond)))
    }

    /// Returns what its lanes are made of.
    pub(crate) fn transport(&self) -> Transport {
        match &*self.0 {
            Inner::Quic { .. } => Transport::Quic,
            Inner::Tcp(_) => Transport::Tcp,
        }
    }

    /// Returns the same link, without keeping it open.
    pub(crate) fn downgrade(&self) -> WeakLink {
        WeakLink(Arc::downgrade(&self.0))
    }

    /// Returns who is at the other end.
    pub(crate) fn peer(&self) -> &Peer {
        match &*self.0 {
            Inner::Quic { peer, .. } => peer,
            Inner::Tcp(bond) => bond.peer(),
        }
    }

    /// Returns the address at the other end.
    pub(crate) fn address(&self) -> SocketAddr {
        match &*self.0 {
            Inner::Quic { connection, .. } => connection.remote_address(),
            Inner::Tcp(bond) => bond.address(),
        }
    }

    /// Whether both ends are known to be on one machine.
    pub(crate) fn is_local(&self) -> bool {
        match &*self.0 {
            Inner::Quic { .. } => false,
            Inner::Tcp(bond) => bond.is_local(),
        }
    }

    /// Opens a lane; the peer learns of it with the first bytes.
    pub(crate) async fn open_lane(&self) -> Result<Lane, LaneError> {
        match &*self.0 {
            Inner::Quic { connection, .. } => Ok(Lane::of_quic(connection.open_bi().await?)),
            Inner::Tcp(bond) => bond.open_lane().await,
        }
    }

    /// Waits for the next lane that the peer opens.
    pub(crate) async fn accept_lane(&self) -> Result<Lane, LaneError> {
        match &*self.0 {
            Inner::Quic { connection, .. } => Ok(Lane::of_quic(connection.accept_bi().await?)),
            Inner::Tcp(bond) => bond.accept_lane().await,
        }
    }

    /// Ends the connection; what was not acknowledged yet is lost.
    pub(crate) fn close(&self, code: ErrorCode, reason: &str) {
        match &*self.0 {
            Inner::Quic { connection, .. } => {
                connection.close(VarInt::from_u32(code.number()), reason.as_bytes());
            }
            Inner::Tcp(bond) => bond.close(code, reason),
        }
    }

    /// Waits until the connection has ended, and says why.
    pub(crate) async fn closed(&self) -> LaneError {
        match &*self.0 {
            Inner::Quic { connection, .. } => connection.closed().await.into(),
            Inner::Tcp(bond) => bond.closed().await,
        }
    }

    /// Lets the peer have so many lanes open at once that it opens itself.
    pub(crate) fn allow_lanes(&self, count: u32) {
        match &*self.0 {
            Inner::Quic { connection, .. } => {
                connection.set_max_concurrent_bi_streams(VarInt::from_u32(count));
            }
            Inner::Tcp(bond) => bond.allow_lanes(count),
        }
    }

    /// Says which way content flows, once that is known.
    pub(crate) fn turn(&self, role: Role) {
        match &*self.0 {
            Inner::Quic { window, .. } => window.turn(role),
            // The kernel sizes the windows of TCP.
            Inner::Tcp(_) => {}
        }
    }

    /// Returns the time of a round trip, as it is estimated now.
    pub(crate) fn round_trip(&self) -> std::time::Duration {
        match &*self.0 {
            Inner::Quic { connection, .. } => connection.rtt(),
            Inner::Tcp(bond) => bond.round_trip(),
        }
    }

    /// Returns how many bytes per second the path takes; none while it takes all that there is to send.
    pub(crate) fn filled_bytes_per_s(&self) -> Option<u64> {
        match &*self.0 {
            Inner::Quic { connection, .. } => {
                let state = connection.congestion_state().into_any();
                state.downcast::<Control>().ok()?.filled_bytes_per_s()
            }
            // The kernel knows and does not say; what its buffers take is measured above.
            Inner::Tcp(_) => None,
        }
    }

    /// Fits the windows to the round trips that are known by now; asked for each second.
    pub(crate) fn tune(&self) {
        match &*self.0 {
            Inner::Quic { window, .. } => window.tune(),
            Inner::Tcp(_) => {}
        }
    }

    /// Returns the payload of all datagrams or TCP connections that this side sent.
    pub(crate) fn wire_bytes(&self) -> u64 {
        match &*self.0 {
            Inner::Quic { connection, .. } => connection.stats().udp_tx.bytes,
            Inner::Tcp(bond) => bond.sent_bytes(),
        }
    }

    /// Returns the payload of all that reached this side; it grows at every beat while the peer is there.
    pub(crate) fn received_bytes(&self) -> u64 {
        match &*self.0 {
            Inner::Quic { connection, .. } => connection.stats().udp_rx.bytes,
            Inner::Tcp(bond) => bond.received_bytes(),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Left to itself, quinn would close with the code of success. After an explicit close this does nothing.
        match self {
            Self::Quic { connection, .. } => {
                connection.close(VarInt::from_u32(ErrorCode::ResumeLater.number()), LET_GO.as_bytes());
            }
            Self::Tcp(bond) => bond.close(ErrorCode::ResumeLater, LET_GO),
        }
    }
}
