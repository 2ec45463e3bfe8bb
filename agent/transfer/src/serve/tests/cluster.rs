//! A cluster of two agents in one process: an authority, certificates, tickets and endpoints on loopback.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::clock::{self, WallMs};
use common::fence::FencingToken;
use common::id::TenantId;
use common::relay::RelayTicket;
use common::shutdown::Shutdown;
use common::spec::Compression;
use common::ticket::{Direction, Ticket, TicketKey};
use common::transport::TransportChoice;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::authority::{Authority, CLUSTER};
use crate::context::{Peer, PeerNews};
use crate::endpoint::{Endpoint, EndpointSettings};
use crate::patience::Patience;
use crate::peer::Source;
use crate::reset_key::ResetKey;
use crate::tcp::RelayWay;
use sync::wire::control::Sparing;

pub(crate) struct Cluster {
    pub(crate) authority: Authority,
    tickets: TicketKey,
    pub(crate) state: tempfile::TempDir,
    pub(crate) shutdown: Shutdown,
    /// Of the endpoints that are opened from now on.
    pub(crate) patience: Patience,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        // A second one in this process is refused, which is fine.
        quinn::rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let authority = Authority::new();
        Self {
            tickets: authority.tickets(),
            authority,
            state: tempfile::tempdir().unwrap(),
            shutdown: Shutdown::new(),
            patience: Patience::default(),
        }
    }

    pub(crate) fn endpoint(&self, host: &str) -> Endpoint {
        Endpoint::open(self.settings(host), &self.shutdown).unwrap()
    }

    pub(crate) fn settings(&self, host: &str) -> EndpointSettings {
        EndpointSettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            identity: self.authority.identity(host),
            authority: self.authority.certificate.clone(),
            state_dir: PathBuf::from(self.state.path()),
            clock_ahead_ms: watch::channel(0).1,
            incarnation: 1,
            reset_key: ResetKey::new([7; 32]),
            secrets: crate::secrets::Secrets::none(),
            segmentation_offload: true,
            patience: self.patience,
        }
    }

    pub(crate) fn ticket(&self, root: &Path) -> Ticket {
        Ticket {
            cluster: CLUSTER.to_owned(),
            tenant: TenantId::default_tenant(),
            migration: "m1".parse().unwrap(),
            step: "file.copy-1".parse().unwrap(),
            source: "web1".parse().unwrap(),
            destination: "web2".parse().unwrap(),
            source_root: root.to_str().unwrap().to_owned(),
            destination_root: "/nowhere".to_owned(),
            direction: Direction::Pull,
            token: FencingToken { epoch: 1, index: 9 },
            expires: WallMs(clock::wall().0 + 3_600_000),
            sanitize: None,
        }
    }

    /// Says how both sides of the ticket meet at `web9`.
    pub(crate) fn way(&self, address: SocketAddr) -> Arc<RelayWay> {
        let ticket = RelayTicket {
            cluster: CLUSTER.to_owned(),
            tenant: TenantId::default_tenant(),
            relay: "web9".parse().unwrap(),
            source: "web1".parse().unwrap(),
            destination: "web2".parse().unwrap(),
            token: FencingToken { epoch: 1, index: 9 },
            expires: WallMs(clock::wall().0 + 60_000),
        };
        let ticket = self.tickets.sign_relay(&ticket).unwrap();
        Arc::new(RelayWay { host: "web9".parse().unwrap(), addresses: vec![address], ticket })
    }

    pub(crate) fn sign(&self, ticket: &Ticket) -> Vec<u8> {
        self.tickets.sign(ticket).unwrap()
    }
}

/// Says where `web1` is reached, and the way to hand it fresh tickets.
pub(crate) fn peer(endpoint: &Endpoint, ticket: Vec<u8>) -> (Peer, watch::Sender<Vec<u8>>) {
    let (sender, ticket) = watch::channel(ticket);
    let peer = Peer {
        tenant: TenantId::default_tenant(),
        host: "web1".parse().unwrap(),
        addresses: vec![endpoint.local_address().unwrap()],
        token: FencingToken { epoch: 1, index: 9 },
        ticket,
        news: watch::channel(PeerNews::default()).1,
        sparing: watch::channel(Sparing::default()).1,
        was_reached: false,
        compression: Compression::Auto,
        transport: TransportChoice::Auto,
        relay: None,
    };
    (peer, sender)
}

/// Two agents, and the second connected to the first with a good ticket for `root`.
pub(crate) async fn connected(cluster: &Cluster, root: &Path) -> (Endpoint, Endpoint, Source) {
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let (peer, _tickets) = peer(&source, cluster.sign(&cluster.ticket(root)));
    let open = Source::open(&destination, &peer, watch::channel(None).1).await.unwrap();
    (source, destination, open)
}

/// Opens a port behind which an endpoint stands, and returns what cuts the two off from each other.
pub(crate) async fn relayed(
    cluster: &Cluster,
    behind: watch::Receiver<SocketAddr>,
) -> (SocketAddr, CancellationToken) {
    let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, cut) = (front.local_addr().unwrap(), cluster.shutdown.token().child_token());
    let is_cut = cut.clone();
    cluster.shutdown.spawn(async move {
        tokio::select! {
            () = relay(behind, &front) => {}
            () = is_cut.cancelled() => {}
        }
    });
    (address, cut)
}

/// Passes datagrams of one dialler on to whichever endpoint is behind it, and all answers back.
async fn relay(behind: watch::Receiver<SocketAddr>, front: &UdpSocket) {
    let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (mut there, mut here) = (vec![0; 65_536], vec![0; 65_536]);
    let mut dialler = None;
    loop {
        tokio::select! {
            Ok((count, from)) = front.recv_from(&mut there) => {
                dialler = Some(from);
                let to = *behind.borrow();
                back.send_to(&there[..count], to).await.ok();
            }
            Ok((count, _)) = back.recv_from(&mut here) => {
                if let Some(dialler) = dialler {
                    front.send_to(&here[..count], dialler).await.ok();
                }
            }
        }
    }
}
