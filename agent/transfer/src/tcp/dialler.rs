//! The side of a link that dials: its spine, and then every lane.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::clock;
use common::principal::Principal;
use common::tls;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sync::wire::hello::PROTOCOL_VERSION;
use sync::wire::spine::{Knock, LinkId, Spine};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, TlsStream};

use super::bond::{LANE_DEADLINE, Shared};
use super::first_frame::{hear, say};
use super::slots::Slot;
use super::socket::{Handle, Socket, keep_alive, prepare, through};
use super::{RelayWay, WRITE_BYTES, half, peer_of};
use crate::breach::shown;
use crate::lane::{Lane, LaneError};
use crate::reach::dial;

/// Before a connection that found no room at the peer's door is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// Dials one peer.
#[derive(Clone)]
pub(super) struct Dialler {
    pub(super) config: Arc<ClientConfig>,
    pub(super) way: Way,
    pub(super) wanted: Principal,
}

/// How a peer is dialled.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// At this address.
    Direct(SocketAddr),
    /// Through another agent.
    Relay(Arc<RelayWay>),
}

impl std::fmt::Debug for Dialler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialler").field("way", &self.way).finish_non_exhaustive()
    }
}

impl Dialler {
    /// Dials the spine of a new link; returns it with what the link is to know of it.
    pub(super) async fn spine(&self, lanes: u32) -> Result<(Lane, Arc<Shared>), String> {
        let Reached { mut stream, peer, handle, connected_in } = self.connect().await?;
        let knocked = Instant::now();
        say(&mut stream, &Knock::Link { version: PROTOCOL_VERSION }).await.map_err(describe)?;
        let link = match hear::<Spine>(&mut stream).await.map_err(describe)? {
            Spine::Welcome { link } => link,
            Spine::Close { code: _, reason } => return Err(shown(&reason)),
            Spine::Ask | Spine::Beat { .. } | Spine::Echo { .. } | Spine::Joined => {
                return Err("it does not speak the protocol of the data port".to_owned());
            }
        };
        let shared = Shared::new(link, peer, &handle, lanes);
        let answered_in = knocked.elapsed();
        shared.measured(connected_in.map_or(answered_in, |connected_in| connected_in.min(answered_in)));
        Ok((half::lane(stream, handle.descriptor), Arc::new(shared)))
    }

    /// Dials a lane of a link, again and again until it is there; whoever asks gives up at some time.
    pub(super) async fn lane(&self, shared: &Arc<Shared>, is_asked: bool) -> Result<Lane, LaneError> {
        self.lane_within(shared, is_asked, None).await
    }

    /// The same for a lane that the peer asked for, which takes a place among its own.
    pub(super) async fn asked(&self, shared: &Arc<Shared>, slot: &Arc<Slot>) -> Result<Lane, LaneError> {
        let lane = self.lane_within(shared, true, Some(slot));
        let late = |_elapsed| Err(LaneError::Lost("a lane could not be dialled in time".to_owned()));
        tokio::time::timeout(LANE_DEADLINE, lane).await.unwrap_or_else(late)
    }

    async fn lane_within(
        &self,
        shared: &Arc<Shared>,
        is_asked: bool,
        slot: Option<&Arc<Slot>>,
    ) -> Result<Lane, LaneError> {
        let knock = Knock::Lane { link: shared.id, is_asked };
        loop {
            match self.connect().await {
                Ok(Reached { mut stream, handle, .. }) => {
                    shared.count_in(handle.tally);
                    if say(&mut stream, &knock).await.is_ok() {
                        let mut lane = half::lane(stream, handle.descriptor);
                        half::bind(&mut lane, &shared.fate, slot);
                        return Ok(lane);
                    }
                }
                Err(reason) => tracing::debug!(way = ?self.way, reason, "a lane was not dialled"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn connect(&self) -> Result<Reached, String> {
        let (socket, handle, connected_in) = match &self.way {
            Way::Direct(address) => {
                let began = Instant::now();
                let stream = TcpStream::connect(address).await.map_err(describe)?;
                let connected_in = began.elapsed();
                let (socket, handle) = prepare(stream).map_err(describe)?;
                (socket, handle, Some(connected_in))
            }
            Way::Relay(way) => {
                let (stream, handle) = to_relay(&self.config, way, &self.wanted).await?;
                (through(stream), handle, None)
            }
        };
        let (stream, peer) = secure(&self.config, socket, &self.wanted).await?;
        Ok(Reached { stream, peer, handle, connected_in })
    }
}

/// A connection that was dialled, and whose peer is the one that was meant.
struct Reached {
    stream: TlsStream<Socket>,
    peer: tls::Peer,
    handle: Handle,
    /// How long the kernel took; nothing through a relay.
    connected_in: Option<Duration>,
}

/// Dials a relay of the same tenant as `one`, and waits until it has joined the connection to one of the other end.
pub(super) async fn to_relay(
    config: &Arc<ClientConfig>,
    way: &RelayWay,
    one: &Principal,
) -> Result<(TlsStream<Socket>, Handle), String> {
    let Principal::Agent { tenant, .. } = one else { return Err(format!("{one} is no agent")) };
    let relay = &Principal::Agent { tenant: tenant.clone(), host: way.host.clone() };
    let dialled = dial::first(&way.addresses, |address| async move {
        let stream = TcpStream::connect(address).await.map_err(describe)?;
        let (socket, handle) = prepare(stream).map_err(describe)?;
        keep_alive(&handle).map_err(describe)?;
        let (mut stream, _peer) = secure(config, socket, relay).await?;
        say(&mut stream, &Knock::Relay { ticket: way.ticket.clone() }).await.map_err(describe)?;
        Ok((stream, Handle { is_local: false, ..handle }))
    });
    let (mut stream, handle) = dialled.await.map_err(|reasons| reasons.join("; "))?;
    match hear::<Spine>(&mut stream).await {
        Ok(Spine::Joined) => Ok((stream, handle)),
        Ok(Spine::Close { code: _, reason }) => Err(shown(&reason)),
        Ok(_) => Err("it does not speak the protocol of the data port".to_owned()),
        Err(error) => Err(format!("the relay ended the connection: {error}")),
    }
}

/// Shakes hands with whoever must be at the other end.
async fn secure(
    config: &Arc<ClientConfig>,
    socket: Socket,
    wanted: &Principal,
) -> Result<(TlsStream<Socket>, tls::Peer), String> {
    let name = tls::server_name_of(wanted).unwrap_or_default();
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::clone(config));
    let connecting = connector.connect_with(name, socket, |tls| tls.set_buffer_limit(Some(WRITE_BYTES)));
    let stream: TlsStream<Socket> = connecting.await.map_err(describe)?.into();
    let peer = peer_of(&stream, clock::wall()).ok_or("it shows no certificate of this cluster")?;
    if peer.principal == *wanted { Ok((stream, peer)) } else { Err(format!("it is {}", peer.principal)) }
}

fn describe(error: io::Error) -> String {
    error.to_string()
}

/// A name for a link that nobody guesses.
pub(super) fn draw() -> Result<LinkId, getrandom::Error> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    Ok(LinkId(id))
}
