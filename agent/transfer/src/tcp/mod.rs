//! Lanes over TCP: the half of the data port that needs no UDP.
//!
//! ```text
//! dial ─▶ spine ─▶ Welcome(link)          one connection that lives as long as the link
//!         lane, lane, …  Knock::Lane(link)   one connection for each lane
//! ```
//!
//! Every connection is TLS 1.3 with certificates of the cluster on both ends. A lane joins a link by its id, and only
//! if it shows a certificate of the host that the link is with. Closing either end of the link ends all its lanes; so
//! does the loss of the spine. Strangers are bounded by [`crate::handshakes`], as over QUIC; an address that is
//! heard over TCP is proven.
//!
//! Where neither side reaches the other, both dial a third agent (`relay`), and one speaks through it as if it had
//! dialled the other.

mod bond;
mod dialler;
mod fate;
mod first_frame;
mod half;
mod links;
mod relay;
mod slots;
mod socket;
mod spine;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use common::clock::{self, WallMs};
use common::id::HostName;
use common::principal::Principal;
use common::relay::{InvalidRelayTicket, RelayTicket};
use common::shutdown::Shutdown;
use common::tls::{self, Peer};
use rustls::{ClientConfig, ServerConfig};
use sync::wire::error_code::ErrorCode;
use sync::wire::hello::PROTOCOL_VERSION;
use sync::wire::spine::{Knock, Spine};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio_rustls::{TlsAcceptor, TlsStream};

use self::bond::{LANES_WAITING, Shared, Side};
use self::dialler::{Dialler, Way};
use self::first_frame::{hear, say};
use self::links::Links;
use self::relay::Relay;
use self::socket::{Handle, Socket, keep_alive, prepare, through};
use self::spine::{SpineSide, SpineTask};
use crate::endpoint::EndpointSettings;
use crate::lane::Lane;
use crate::ticket;

pub(crate) use bond::Bond;
pub(crate) use half::{TcpReceiver, TcpSender};

/// Encrypted at once, and handed to the kernel with one call.
const WRITE_BYTES: usize = 256 * 1024;

/// The TCP side of a data port; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct TcpPort(Arc<Inner>);

struct Inner {
    acceptor: TlsAcceptor,
    client: Arc<ClientConfig>,
    links: Links,
    relay: Relay,
    settings: Arc<EndpointSettings>,
    /// Spines outlive what is served on them, so that last words are heard.
    spines: Shutdown,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("links", &self.links).finish_non_exhaustive()
    }
}

/// How two agents meet at a third one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayWay {
    /// Who passes on.
    pub host: HostName,
    /// Where its data port is reached, best first.
    pub addresses: Vec<SocketAddr>,
    /// The coordinator's signed ticket for it.
    pub ticket: Vec<u8>,
}

/// Why a connection that came is not used; told to nobody but the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unheard {
    #[error("the handshake failed, or what was said first is not the protocol")]
    Handshake(#[from] io::Error),
    #[error("it asks to be relayed without the right to")]
    Relay(#[from] InvalidRelayTicket),
    #[error("it shows no certificate of this cluster, or speaks another protocol")]
    Stranger,
    #[error("it speaks version {0} of the data protocol")]
    Version(u32),
    #[error("it is a lane of a link that this host has not")]
    NoSuchLink,
    #[error("enough links are open")]
    Full,
    #[error("no name for a link can be drawn: {0}")]
    Random(getrandom::Error),
}

impl TcpPort {
    /// Makes the port; nothing is listened on here.
    pub(crate) fn new(settings: &Arc<EndpointSettings>) -> Result<Self, tls::TlsError> {
        let (identity, authority) = (&settings.identity, &settings.authority);
        let clients = tls::Clients::Certified;
        let server: ServerConfig =
            tls::server_config(Arc::clone(identity), authority, clients, tls::ALPN_LANE)?;
        let client = tls::client_config(Arc::clone(identity), authority, tls::ALPN_LANE)?;
        Ok(Self(Arc::new(Inner {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            client: Arc::new(client),
            links: Links::default(),
            relay: Relay::default(),
            settings: Arc::clone(settings),
            spines: Shutdown::new(),
        })))
    }

    /// Ends every link, and waits until its peers were told.
    pub(crate) async fn finish(&self) {
        self.0.spines.finish().await;
    }

    /// Dials a link to this peer, who may open so many lanes.
    pub(crate) async fn dial(
        &self,
        address: SocketAddr,
        wanted: &Principal,
        lanes: u32,
    ) -> Result<Bond, String> {
        self.dial_by(Way::Direct(address), wanted, lanes).await
    }

    /// Meets this peer at a relay, as the one who dials; he may open so many lanes.
    pub(crate) async fn dial_through(
        &self,
        way: &Arc<RelayWay>,
        wanted: &Principal,
        lanes: u32,
    ) -> Result<Bond, String> {
        self.dial_by(Way::Relay(Arc::clone(way)), wanted, lanes).await
    }

    async fn dial_by(&self, way: Way, wanted: &Principal, lanes: u32) -> Result<Bond, String> {
        let dialler = Dialler { config: Arc::clone(&self.0.client), way, wanted: wanted.clone() };
        let (spine, shared) = dialler.spine(lanes).await?;
        let (opened, waiting) = mpsc::channel(LANES_WAITING);
        self.spawn(&shared, spine, SpineSide::Dialled { dialler: dialler.clone(), opened });
        Ok(Bond { shared, side: Side::Dialled(dialler), opened: Mutex::new(waiting) })
    }

    /// Takes a connection that came: a new link whose peer may open so many lanes, or nothing when it is a lane, which
    /// joins its link, or when it asks to be relayed.
    pub(crate) async fn greet(&self, stream: TcpStream, lanes: u32) -> Result<Option<Bond>, Unheard> {
        let (socket, handle) = prepare(stream)?;
        self.take_in(socket, handle, lanes).await
    }

    /// Waits at a relay as the one who is dialled, and says when somebody came.
    pub(crate) async fn wait_at(&self, way: &RelayWay) -> Result<Visitor, String> {
        let own = self.0.settings.identity.peer().map_err(|error| error.to_string())?;
        let (stream, handle) = dialler::to_relay(&self.0.client, way, &own.principal).await?;
        Ok(Visitor { socket: through(stream), handle })
    }

    /// Takes a connection that came through a relay, like one that came by itself.
    pub(crate) async fn greet_visitor(&self, visitor: Visitor, lanes: u32) -> Result<Option<Bond>, Unheard> {
        self.take_in(visitor.socket, visitor.handle, lanes).await
    }

    async fn take_in(&self, socket: Socket, handle: Handle, lanes: u32) -> Result<Option<Bond>, Unheard> {
        let accepting = self.0.acceptor.accept_with(socket, |tls| tls.set_buffer_limit(Some(WRITE_BYTES)));
        let mut stream: TlsStream<Socket> = accepting.await?.into();
        let peer = peer_of(&stream, clock::wall()).ok_or(Unheard::Stranger)?;
        match hear::<Knock>(&mut stream).await? {
            Knock::Link { version: PROTOCOL_VERSION } => {
                self.welcome(stream, peer, handle, lanes).await.map(Some)
            }
            Knock::Link { version } => {
                let reason = format!(
                    "this agent speaks version {PROTOCOL_VERSION} of the data protocol; bring both agents to the same version"
                );
                say(&mut stream, &Spine::Close { code: ErrorCode::Version, reason }).await?;
                stream.shutdown().await?;
                Err(Unheard::Version(version))
            }
            Knock::Lane { link, is_asked } => {
                let lane = half::lane(stream, handle.descriptor);
                self.0.links.join(link, &peer, handle.tally, lane, is_asked)?;
                Ok(None)
            }
            Knock::Relay { ticket } => {
                let (settings, own) = (&self.0.settings, self.0.settings.identity.peer());
                let ticket = RelayTicket::open(&ticket, &settings.authority)?;
                let end = ticket.admits(&peer, &own.or(Err(Unheard::Stranger))?, ticket::now(settings))?;
                keep_alive(&handle)?;
                self.0.relay.take(stream, &ticket, end, &self.0.spines)?;
                Ok(None)
            }
        }
    }

    async fn welcome(
        &self,
        mut stream: TlsStream<Socket>,
        peer: Peer,
        handle: Handle,
        lanes: u32,
    ) -> Result<Bond, Unheard> {
        let shared = Arc::new(Shared::new(dialler::draw().map_err(Unheard::Random)?, peer, &handle, lanes));
        let (asks, asked) = mpsc::channel(LANES_WAITING);
        let (entered, doors) = self.0.links.enter(&shared)?;
        say(&mut stream, &Spine::Welcome { link: shared.id }).await?;
        let spine = half::lane(stream, handle.descriptor);
        let task = self.task(&shared, spine, SpineSide::Accepted { asks: asked });
        self.0.spines.spawn(async move {
            task.run().await;
            drop(entered);
        });
        let side = Side::Accepted { asks, answers: Mutex::new(doors.answers) };
        Ok(Bond { shared, side, opened: Mutex::new(doors.opened) })
    }

    fn spawn(&self, shared: &Arc<Shared>, spine: Lane, side: SpineSide) {
        self.0.spines.spawn(self.task(shared, spine, side).run());
    }

    fn task(&self, shared: &Arc<Shared>, lane: Lane, side: SpineSide) -> SpineTask {
        let (beat, shutdown) = (self.0.settings.patience.beat, self.0.spines.clone());
        SpineTask { shared: Arc::clone(shared), lane, beat, side, shutdown }
    }
}

/// A connection that came through a relay, and has said nothing yet.
#[derive(Debug)]
pub(crate) struct Visitor {
    socket: Socket,
    handle: Handle,
}

impl Visitor {
    /// Returns the relay's address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.handle.address
    }
}

/// Binds the port for TCP.
pub(crate) fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Returns who is at the other end, if both ends agreed on the protocol.
fn peer_of(stream: &TlsStream<Socket>, now: WallMs) -> Option<Peer> {
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(tls::ALPN_LANE) {
        return None;
    }
    tls::peer_of(session.peer_certificates()?, now).ok()
}

#[cfg(test)]
mod relay_tests;
#[cfg(test)]
mod tests;
