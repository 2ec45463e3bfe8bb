//! The data port of an agent, which is dialled and dials: a UDP socket for QUIC, and a TCP socket of the same number.
//!
//! Both ends of every connection show a certificate of the cluster; which one the peer must be is checked here for
//! connections that are dialled, and against the ticket for those that are accepted. The first lane of an accepted
//! connection says which end is the source; see `reach`. What a stranger can cost is bounded, and takes nothing from
//! those who belong to the cluster: see `handshakes`. So many attempts are served and no more, each by one connection.
//!
//! Shutdown, in order: no new connections, every service says that it is to be resumed later, then the socket closes.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::id::{HostName, TenantId};
use common::principal::Principal;
use common::shutdown::Shutdown;
use common::tls::{self, Clients, Identity};
use common::transport::Transport;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::rustls::pki_types::CertificateDer;
use quinn::{
    ClientConfig, EndpointConfig, IdleTimeout, Incoming, MtuDiscoveryConfig, ServerConfig, TokioRuntime,
    TransportConfig, VarInt,
};
use sync::wire::control::Bye;
use sync::wire::error_code::ErrorCode;
use sync::wire::hello::{Hello, Offer, PROTOCOL_VERSION};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::congestion::Congestion;
use crate::handshakes::{Admission, Handshake, Handshakes};
use crate::index::{Index, Shelf};
use crate::lane::Lane;
use crate::link::Link;
use crate::patience::Patience;
use crate::reach::{self, Awaited, Offered, Offers, ServeOrder};
use crate::reset_key::{RandomIds, ResetKey};
use crate::revoked::Revoked;
use crate::secrets::Secrets;
use crate::serve;
use crate::tcp::{self, Bond, RelayWay, TcpPort, Unheard};
use crate::ticket;
use crate::window::{Role, WINDOW_BYTES_MAX, WindowBudget};

/// From the first packet to the first lane's first frame.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Sources that dialled and wait for their attempts; as many as an agent runs.
const OFFERED_MAX: usize = 256;
/// How long a source that dialled may wait for the attempt that its ticket names to take it.
const OFFER_DEADLINE: Duration = Duration::from_secs(10);
/// How long the socket stays for last words.
const DRAIN_DEADLINE: Duration = Duration::from_secs(3);
/// Lanes that whoever comes may open, and that a destination which was dialled may: the first, which says what it wants.
const FIRST_LANE: u32 = 1;
/// Lanes that a source may open at a destination which dialled it: it is the destination that opens them.
const NO_LANE: u32 = 0;
/// The kernel's buffers: at the default of 208 KiB a quarter of the speed is lost.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Above this ten segments no longer fit into one offloaded send, and throughput collapses.
const PATH_MTU_MAX: u16 = 6_500;
/// Packets that may overtake one before it counts as lost; on a path that reorders, three are overtaken all the time.
/// What is really lost is noticed by time as well, an eighth of a round trip late.
const OVERTAKEN_PACKETS_MAX: u32 = 256;
const IDLE_MAX_MS: u32 = 30_000;
/// Free ports for UDP that are tried until one is free for TCP too, where any port will do.
const PORT_TRIES: usize = 64;
/// Before the next TCP connection is taken, when the system has no room for one: descriptors come back meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How an endpoint is set up.
#[derive(Clone, Debug)]
pub struct EndpointSettings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The certificate that is shown, replaceable while the endpoint lives.
    pub identity: Arc<Identity>,
    /// The cluster's authority.
    pub authority: CertificateDer<'static>,
    /// Where large directories are sorted, in temporary files without names, and where indexes of content are kept.
    pub state_dir: PathBuf,
    /// How far the coordinator's clock is ahead of this host's, in milliseconds, as the last Welcome told.
    pub clock_ahead_ms: watch::Receiver<i64>,
    /// Counts the starts of this agent; a source that dials says it.
    pub incarnation: u64,
    /// What lets peers notice a restart.
    pub reset_key: ResetKey,
    /// Opens the keys that rules for sanitising need.
    pub secrets: Secrets,
    /// Whether the network card may cut large sends into packets; some virtual ones pretend to.
    pub segmentation_offload: bool,
    /// How long a source may be silent, and how long it may bring nothing.
    pub patience: Patience,
}

/// The data port of an agent; cheap to clone.
#[derive(Clone, Debug)]
pub struct Endpoint(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    quic: quinn::Endpoint,
    tcp: TcpPort,
    /// For dialling a source, and for dialling a destination.
    to_source: ClientConfig,
    to_destination: ClientConfig,
    windows: WindowBudget,
    awaited: Awaited,
    offered: Semaphore,
    offers: Offers,
    revoked: Revoked,
    indexes: Shelf,
    settings: Arc<EndpointSettings>,
    shutdown: Shutdown,
}

impl Endpoint {
    /// Binds the port and begins to serve.
    ///
    /// Needs a runtime. The endpoint ends with `shutdown`; [`Endpoint::shutdown`] waits for its end.
    ///
    /// # Errors
    /// When the port cannot be bound or the certificates cannot be used.
    pub fn open(settings: EndpointSettings, shutdown: &Shutdown) -> Result<Self, Failure> {
        let settings = Arc::new(settings);
        let (socket, listener) = bind(settings.listen).map_err(|error| unbound(settings.listen, &error))?;
        let bad_tls = |error: &dyn std::error::Error| {
            Failure::of(FailureKind::Invalid, error).context("port", settings.listen.to_string())
        };
        let transport = |lanes| Arc::new(transport(&settings, lanes));
        let tls = tls::server_config(
            Arc::clone(&settings.identity),
            &settings.authority,
            Clients::Certified,
            tls::ALPN_DATA,
        );
        let tls = QuicServerConfig::try_from(tls.map_err(|error| bad_tls(&error))?);
        let mut server = ServerConfig::with_crypto(Arc::new(tls.map_err(|error| bad_tls(&error))?));
        server.transport_config(transport(FIRST_LANE));
        server.migration(false);
        let tls = tls::client_config(Arc::clone(&settings.identity), &settings.authority, tls::ALPN_DATA);
        let tls = QuicClientConfig::try_from(tls.map_err(|error| bad_tls(&error))?);
        let mut to_source = ClientConfig::new(Arc::new(tls.map_err(|error| bad_tls(&error))?));
        let mut to_destination = to_source.clone();
        to_source.transport_config(transport(NO_LANE));
        to_destination.transport_config(transport(FIRST_LANE));
        let mut config = EndpointConfig::new(Arc::new(settings.reset_key.clone()));
        config.cid_generator(|| Box::new(RandomIds));
        config.max_udp_payload_size(PATH_MTU_MAX).map_err(|error| bad_tls(&error))?;
        let quic = quinn::Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime))
            .map_err(|error| unbound(settings.listen, &error))?;
        let tcp = TcpPort::new(&settings).map_err(|error| bad_tls(&error))?;
        let tasks = shutdown.child();
        let endpoint = Self(Arc::new(Inner {
            quic,
            tcp,
            to_source,
            to_destination,
            windows: WindowBudget::default(),
            awaited: Awaited::default(),
            offered: Semaphore::new(OFFERED_MAX),
            offers: Offers::new(tasks.clone()),
            revoked: Revoked::default(),
            indexes: Shelf::default(),
            settings,
            shutdown: tasks,
        }));
        let acceptor = endpoint.clone();
        endpoint.0.shutdown.spawn(async move { acceptor.accept().await });
        let acceptor = endpoint.clone();
        endpoint.0.shutdown.spawn(async move { acceptor.accept_tcp(listener).await });
        Ok(endpoint)
    }

    /// Returns the address that is listened on.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_address(&self) -> Result<SocketAddr, Failure> {
        self.0.quic.local_addr().map_err(|error| Failure::of(FailureKind::Unreachable, &error))
    }

    /// Stops serving, lets every peer know that it may resume later, and closes the socket.
    pub async fn shutdown(&self) {
        self.0.shutdown.finish().await;
        self.0.tcp.finish().await;
        self.0.quic.close(VarInt::from_u32(ErrorCode::ResumeLater.number()), b"the agent stops");
        // Peers that do not answer are left to their own timeout.
        tokio::time::timeout(DRAIN_DEADLINE, self.0.quic.wait_idle()).await.ok();
    }

    /// Returns what ends tasks of this endpoint.
    pub(crate) fn stop(&self) -> &Shutdown {
        &self.0.shutdown
    }

    /// Returns how long a source may be silent, and how long it may bring nothing.
    pub(crate) fn patience(&self) -> Patience {
        self.0.settings.patience
    }

    /// Returns what migrations of a tenant brought to this host; for threads. The tenant is that of a granted step.
    pub(crate) fn index(&self, tenant: &TenantId) -> Option<Arc<Index>> {
        self.0.indexes.of(&self.0.settings.state_dir, tenant)
    }

    /// Lets a destination in, and dials it if it does not come by itself.
    pub fn serve(&self, order: ServeOrder) {
        let (endpoint, settings) = (self.clone(), Arc::clone(&self.0.settings));
        self.0.shutdown.spawn(reach::offer(endpoint, order, settings));
    }

    /// Closes what is open to a host whose certificates up to this generation are void, and lets it in no more.
    pub fn revoke(&self, host: HostName, generation: u64) {
        let closed = self.0.revoked.revoke(host.clone(), generation);
        tracing::info!(%host, generation, closed, "a peer was revoked");
    }

    /// Returns who is waited for.
    pub(crate) fn awaited(&self) -> &Awaited {
        &self.0.awaited
    }

    /// Returns who is dialled and served.
    pub(crate) fn offers(&self) -> &Offers {
        &self.0.offers
    }

    /// Dials one address over one transport, and makes sure that it is this peer.
    pub(crate) async fn dial(
        &self,
        address: SocketAddr,
        wanted: &Principal,
        role: Role,
        transport: Transport,
    ) -> Result<Link, String> {
        let link = match transport {
            Transport::Quic => self.dial_quic(address, wanted, role).await?,
            Transport::Tcp => {
                let lanes = match role {
                    Role::Destination => NO_LANE,
                    Role::Source => FIRST_LANE,
                };
                Link::of_tcp(self.0.tcp.dial(address, wanted, lanes).await?)
            }
        };
        self.0.revoked.enter(&link).map_err(|error| error.to_string())?;
        if link.peer().principal == *wanted {
            Ok(link)
        } else {
            Err(format!("it is {}", link.peer().principal))
        }
    }

    /// Meets a source at a relay, and makes sure that it is this one.
    pub(crate) async fn dial_through(&self, way: &Arc<RelayWay>, wanted: &Principal) -> Result<Link, String> {
        let link = Link::of_tcp(self.0.tcp.dial_through(way, wanted, NO_LANE).await?);
        self.0.revoked.enter(&link).map_err(|error| error.to_string())?;
        Ok(link)
    }

    /// Waits at a relay until a destination, or one of its lanes, has come, and begins to serve it.
    pub(crate) async fn wait_at(&self, way: &RelayWay) -> Result<(), String> {
        let visitor = self.0.tcp.wait_at(way).await?;
        let (endpoint, address) = (self.clone(), visitor.address());
        self.0.shutdown.spawn(async move {
            let greeting = endpoint.0.tcp.greet_visitor(visitor, FIRST_LANE);
            endpoint.greet_tcp(greeting, address, None).await;
        });
        Ok(())
    }

    async fn dial_quic(&self, address: SocketAddr, wanted: &Principal, role: Role) -> Result<Link, String> {
        let name = tls::server_name_of(wanted).unwrap_or_default();
        let config = match role {
            Role::Destination => self.0.to_source.clone(),
            Role::Source => self.0.to_destination.clone(),
        };
        let connecting = self.0.quic.connect_with(config, address, &name);
        let connection =
            connecting.map_err(|error| error.to_string())?.await.map_err(|error| error.to_string())?;
        let share = self.0.windows.share(&connection, role);
        Link::of_quic(connection, share).map_err(|error| error.to_string())
    }

    async fn accept(self) {
        let handshakes = Handshakes::default();
        loop {
            let incoming = tokio::select! {
                () = self.0.shutdown.cancelled() => break,
                incoming = self.0.quic.accept() => incoming,
            };
            let Some(incoming) = incoming else { break };
            let is_proven = incoming.remote_address_validated();
            match handshakes.admit(incoming.remote_address().ip(), is_proven) {
                Admission::Begin(handshake) => {
                    let endpoint = self.clone();
                    self.0.shutdown.spawn(async move { endpoint.greet(incoming, handshake).await });
                }
                // It fails only for an address that is proven already.
                Admission::Prove => drop(incoming.retry()),
                Admission::Wait => incoming.ignore(),
            }
        }
    }

    async fn accept_tcp(self, listener: TcpListener) {
        let handshakes = Handshakes::default();
        loop {
            let accepted = tokio::select! {
                () = self.0.shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, address)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // Who is not let in sees the connection end, and tries again.
            if let Admission::Begin(handshake) = handshakes.admit(address.ip(), true) {
                let endpoint = self.clone();
                self.0.shutdown.spawn(async move {
                    let greeting = endpoint.0.tcp.greet(stream, FIRST_LANE);
                    endpoint.greet_tcp(greeting, address, Some(handshake)).await;
                });
            }
        }
    }

    /// Serves one QUIC connection to its end, or hands it to the attempt that waits for it.
    async fn greet(&self, incoming: Incoming, handshake: Handshake) {
        let address = incoming.remote_address();
        let begin = async {
            let connection = incoming.accept().ok()?.await.ok()?;
            let share = self.0.windows.share(&connection, Role::Source);
            self.first_lane(Link::of_quic(connection, share).ok()?).await
        };
        let begun = tokio::select! {
            () = self.0.shutdown.cancelled() => return,
            begun = tokio::time::timeout(HANDSHAKE_DEADLINE, begin) => begun,
        };
        drop(handshake);
        self.go_on(begun.ok().flatten(), address).await;
    }

    /// Takes in one TCP connection: a lane joins its link, and a link is served like a QUIC connection.
    async fn greet_tcp(
        &self,
        greeting: impl Future<Output = Result<Option<Bond>, Unheard>>,
        address: SocketAddr,
        handshake: Option<Handshake>,
    ) {
        let greeting = tokio::select! {
            () = self.0.shutdown.cancelled() => return,
            greeted = tokio::time::timeout(HANDSHAKE_DEADLINE, greeting) => greeted,
        };
        // The lanes of a link need handshakes of their own; so its place is free once it has proven who it is.
        drop(handshake);
        let bond = match greeting {
            Ok(Ok(Some(bond))) => bond,
            Ok(Ok(None)) => return,
            Ok(Err(reason)) => {
                tracing::debug!(%address, reason = %common::failure::chain(&reason), "a TCP connection to the data port was not used");
                return;
            }
            Err(_elapsed) => {
                tracing::debug!(%address, "a TCP connection to the data port did not get past its handshake");
                return;
            }
        };
        let begun = tokio::select! {
            () = self.0.shutdown.cancelled() => return,
            begun = tokio::time::timeout(HANDSHAKE_DEADLINE, self.first_lane(Link::of_tcp(bond))) => begun,
        };
        self.go_on(begun.ok().flatten(), address).await;
    }

    /// Waits for what the first lane of a link says.
    async fn first_lane(&self, link: Link) -> Option<(Link, Lane, Result<Hello, Bye>)> {
        self.0.revoked.enter(&link).ok()?;
        let mut lane = link.accept_lane().await.ok()?;
        let hello = serve::hello(&mut lane).await;
        Some((link, lane, hello))
    }

    async fn go_on(&self, begun: Option<(Link, Lane, Result<Hello, Bye>)>, address: SocketAddr) {
        let Some((link, lane, hello)) = begun else {
            tracing::debug!(%address, "a connection to the data port did not get past its handshake");
            return;
        };
        match hello {
            Ok(Hello::Offer(offer)) => self.take_offer(link, offer).await,
            hello => {
                let (settings, offers) = (Arc::clone(&self.0.settings), self.0.offers.clone());
                serve::run(link, lane, hello, settings, offers, self.0.shutdown.child()).await;
            }
        }
    }

    /// Hands a connection that a source made to the attempt that its ticket names, once that waits for it.
    async fn take_offer(&self, link: Link, offer: Offer) {
        let Offer { version, ticket, incarnation } = offer;
        if version != PROTOCOL_VERSION {
            link.close(ErrorCode::Version, "this version of the data protocol is not spoken here");
            return;
        }
        let ticket = match ticket::admit_source(&ticket, link.peer(), &self.0.settings) {
            Ok(ticket) => ticket,
            Err(refused) => {
                tracing::warn!(peer = %link.peer().principal, address = %link.address(), reason = %refused, "offer refused");
                link.close(refused.to_bye().code, &refused.to_string());
                return;
            }
        };
        let Ok(_offered) = self.0.offered.try_acquire() else {
            link.close(ErrorCode::Busy, "enough sources wait for their attempts here");
            return;
        };
        link.turn(Role::Destination);
        link.allow_lanes(NO_LANE);
        let handed = self.0.awaited.hand_over(ticket.token, Offered { link: link.clone(), incarnation });
        tokio::select! {
            () = self.0.shutdown.cancelled() => {}
            () = handed => return,
            _gone = link.closed() => return,
            () = tokio::time::sleep(OFFER_DEADLINE) => {}
        }
        link.close(ErrorCode::ResumeLater, "nobody waits for this source");
    }
}

/// Binds both sockets to one port.
fn bind(listen: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let tries = if listen.port() == 0 { PORT_TRIES } else { 1 };
    let mut failed = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..tries {
        let socket = bind_udp(listen)?;
        match tcp::bind(socket.local_addr()?) {
            Ok(listener) => return Ok((socket, listener)),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Binds the UDP socket with buffers as large as the kernel lets us.
fn bind_udp(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(listen)?;
    // Root may go over the limits of the system; for others the limit is what they get, and slower is all it is.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
        rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES).ok();
    }
    if rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES).is_err() {
        tracing::debug!("the data port's send buffer keeps its default size");
    }
    Ok(socket)
}

fn unbound(listen: SocketAddr, error: &io::Error) -> Failure {
    Failure::new(
        FailureKind::Conflict,
        format!("cannot listen on the data port {listen}, UDP and TCP: {error}"),
    )
    .context("port", listen.to_string())
    .hint("Is another agent running here? Set `listen_data` in agent.toml to a free address.")
}

fn transport(settings: &EndpointSettings, lanes: u32) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(PATH_MTU_MAX);
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(Some(mtu))
        .keep_alive_interval(Some(settings.patience.beat))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MAX_MS))))
        .max_concurrent_bidi_streams(VarInt::from_u32(lanes))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(Congestion))
        .packet_threshold(OVERTAKEN_PACKETS_MAX)
        .stream_receive_window(VarInt::from_u64(WINDOW_BYTES_MAX).unwrap_or(VarInt::MAX))
        // What a connection may hold before its share is known.
        .receive_window(VarInt::from_u32(1024 * 1024))
        .send_window(1024 * 1024)
        .enable_segmentation_offload(settings.segmentation_offload);
    transport
}
