//! Links over TCP, and what knocks at the port without being one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::failure::FailureKind;
use common::id::TenantId;
use common::principal::Principal;
use common::tls::{self, Identity};
use common::transport::{Transport, TransportChoice};
use rustls::pki_types::ServerName;
use sync::wire::error_code::ErrorCode;
use sync::wire::hello::{Hello, PROTOCOL_VERSION, ScanRequest};
use sync::wire::spine::{Knock, LinkId, Spine};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::socket::prepare;
use super::{TcpPort, half};
use crate::authority::Authority;
use crate::endpoint::Endpoint;
use crate::lane::{Lane, LaneError};
use crate::link::Link;
use crate::peer::Source;
use crate::serve::tests::cluster::{Cluster, peer};
use crate::window::Role;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn web1() -> Principal {
    Principal::Agent { tenant: TenantId::default_tenant(), host: "web1".parse().unwrap() }
}

/// Opens a source over TCP, with a good ticket.
async fn open(cluster: &Cluster, source: &Endpoint, destination: &Endpoint) -> (tempfile::TempDir, Source) {
    let root = tempfile::tempdir().unwrap();
    let (peer, _tickets) = peer(source, cluster.sign(&cluster.ticket(root.path())));
    let peer = crate::context::Peer { transport: TransportChoice::Tcp, ..peer };
    let open = Source::open(destination, &peer, watch::channel(None).1).await.unwrap();
    (root, open)
}

/// Dials as whoever has this identity, and speaks no further.
async fn connect(
    address: SocketAddr,
    identity: &Arc<Identity>,
    authority: &Authority,
    alpn: &[u8],
) -> Result<Lane, String> {
    let config = tls::client_config(Arc::clone(identity), &authority.certificate, alpn).unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let (socket, handle) = prepare(stream).unwrap();
    let name = ServerName::try_from(tls::server_name_of(&web1()).unwrap()).unwrap();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, socket).await;
    Ok(half::lane(connected.map_err(|error| error.to_string())?.into(), handle.descriptor))
}

/// Waits until the other side has ended a connection.
async fn ended(lane: &mut Lane) -> LaneError {
    let heard = async {
        loop {
            if let Err(error) = lane.receiver.exact(1, &mut Vec::new()).await {
                return error;
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.expect("the connection is ended")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_carries_lanes_counts_them_and_ends_them_all() {
    let cluster = Cluster::new();
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let (_root, open) = open(&cluster, &source, &destination).await;
    assert_eq!(open.transport(), Transport::Tcp);
    let mut manifest = open.manifest(ScanRequest::default()).await.unwrap();
    assert!(tokio::task::spawn_blocking(move || manifest.blocking_next()).await.unwrap().is_ok());
    drop(open.content(8, None).await.unwrap());
    let (wire, counted) = open.finish().await;
    // At least the certificates of both sides, on each of ten connections; of those that were left at once the source
    // need not know yet.
    assert!(wire > 10_000 && counted.wire_bytes > 2_000, "{wire} {counted:?}");
    cluster.shutdown.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stops_says_so_on_every_link() {
    let cluster = Cluster::new();
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let (_root, open) = open(&cluster, &source, &destination).await;
    source.shutdown().await;
    let failure = tokio::time::timeout(PATIENCE, async {
        loop {
            match open.failure() {
                Some(failure) => return failure,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    });
    let failure = failure.await.unwrap();
    assert_eq!(failure.kind, FailureKind::Unreachable);
    assert!(failure.message.contains("stops"), "{}", failure.message);
    cluster.shutdown.finish().await;
}

#[tokio::test]
async fn words_of_parting_arrive_and_lanes_end_with_their_link() {
    let cluster = Cluster::new();
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let address = source.local_address().unwrap();
    let link = destination.dial(address, &web1(), Role::Destination, Transport::Tcp).await.unwrap();
    let mut lane = link.open_lane().await.unwrap();
    // A source opens nothing, and whoever dialled it begins with something else.
    lane.sender.message(&Hello::Content).await.unwrap();
    let told = tokio::time::timeout(PATIENCE, link.closed()).await.unwrap();
    assert_eq!(told, LaneError::Closed { code: ErrorCode::Protocol, reason: "bye".to_owned() });
    assert!(matches!(lane.sender.bytes(vec![0].into()).await, Err(LaneError::Closed { .. })));
    assert!(link.open_lane().await.is_err());
    cluster.shutdown.finish().await;
}

#[tokio::test]
async fn strangers_of_every_kind_are_not_let_in() {
    let cluster = Cluster::new();
    let source = cluster.endpoint("web1");
    let address = source.local_address().unwrap();
    let (own, other) = (cluster.authority.identity("web2"), Authority::new());
    // Another cluster's certificate: it believes nobody here, and is believed by nobody.
    assert!(connect(address, &other.identity("web2"), &other, tls::ALPN_LANE).await.is_err());
    let mut foreign =
        connect(address, &other.identity("web2"), &cluster.authority, tls::ALPN_LANE).await.unwrap();
    assert!(matches!(ended(&mut foreign).await, LaneError::Reset(_)));
    // Another protocol.
    assert!(connect(address, &own, &cluster.authority, tls::ALPN_GRPC).await.is_err());
    // Bytes that are no TLS, and TLS that is no protocol of ours.
    let mut garbage = TcpStream::connect(address).await.unwrap();
    garbage.write_all(&[b'x'; 64]).await.unwrap();
    let heard = tokio::time::timeout(PATIENCE, garbage.read_to_end(&mut Vec::new())).await;
    assert!(heard.is_ok(), "garbage is cut off");
    for garbage in [&[0xff; 64][..], &[16, 1, 0xff, 0xff, 0xff, 0xff], &[1, 1, 1, 0, 0, 0, 2]] {
        let mut lane = connect(address, &own, &cluster.authority, tls::ALPN_LANE).await.unwrap();
        lane.sender.bytes(garbage.to_vec().into()).await.unwrap();
        assert!(matches!(ended(&mut lane).await, LaneError::Reset(_) | LaneError::Cut));
    }
    let mut newer = connect(address, &own, &cluster.authority, tls::ALPN_LANE).await.unwrap();
    newer.sender.message(&Knock::Link { version: PROTOCOL_VERSION + 1 }).await.unwrap();
    let told = newer.receiver.message::<Spine>(&mut Vec::new()).await.unwrap();
    assert!(matches!(told, Some(Spine::Close { code: ErrorCode::Version, .. })), "{told:?}");
    cluster.shutdown.finish().await;
}

#[tokio::test]
async fn a_lane_joins_no_link_of_somebody_else() {
    let cluster = Cluster::new();
    let source = cluster.endpoint("web1");
    let address = source.local_address().unwrap();
    let (own, thief) = (cluster.authority.identity("web2"), cluster.authority.identity("web3"));
    let mut spine = connect(address, &own, &cluster.authority, tls::ALPN_LANE).await.unwrap();
    spine.sender.message(&Knock::Link { version: PROTOCOL_VERSION }).await.unwrap();
    let Some(Spine::Welcome { link }) = spine.receiver.message(&mut Vec::new()).await.unwrap() else {
        panic!()
    };
    let join = async |identity: &Arc<Identity>, link, is_asked| {
        let mut lane = connect(address, identity, &cluster.authority, tls::ALPN_LANE).await.unwrap();
        lane.sender.message(&Knock::Lane { link, is_asked }).await.unwrap();
        lane
    };
    assert!(matches!(ended(&mut join(&thief, link, false).await).await, LaneError::Reset(_)));
    assert!(matches!(ended(&mut join(&own, LinkId([0; 16]), false).await).await, LaneError::Reset(_)));
    // One lane may be opened before the ticket was shown, and not two.
    let mut first = join(&own, link, false).await;
    assert!(matches!(ended(&mut join(&own, link, false).await).await, LaneError::Reset(_)));
    // Nothing was asked for; it lies there until the link ends.
    let mut unasked = join(&own, link, true).await;
    drop(spine);
    ended(&mut first).await;
    ended(&mut unasked).await;
    cluster.shutdown.finish().await;
}

#[tokio::test]
async fn a_spine_that_says_what_it_may_not_ends_the_link() {
    let cluster = Cluster::new();
    let source = cluster.endpoint("web1");
    let address = source.local_address().unwrap();
    let own = cluster.authority.identity("web2");
    for said in [Spine::Ask, Spine::Welcome { link: LinkId([1; 16]) }] {
        let mut spine = connect(address, &own, &cluster.authority, tls::ALPN_LANE).await.unwrap();
        spine.sender.message(&Knock::Link { version: PROTOCOL_VERSION }).await.unwrap();
        spine.sender.message(&said).await.unwrap();
        let closed = async {
            loop {
                match spine.receiver.message::<Spine>(&mut Vec::new()).await.unwrap() {
                    Some(Spine::Close { code, .. }) => return code,
                    Some(_) => {}
                    None => panic!("it ended without a word"),
                }
            }
        };
        assert_eq!(tokio::time::timeout(PATIENCE, closed).await.unwrap(), ErrorCode::Protocol);
    }
    cluster.shutdown.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_who_say_nothing_keep_nobody_off_the_port() {
    let cluster = Cluster::new();
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let address = source.local_address().unwrap();
    let mut silent = Vec::new();
    for _ in 0..2_000 {
        let socket = TcpSocket::new_v4().unwrap();
        // Another host than the one that everybody else here is on.
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(tokio::time::timeout(PATIENCE, socket.connect(address)).await.unwrap().unwrap());
    }
    let wanted = web1();
    let dialling = destination.dial(address, &wanted, Role::Destination, Transport::Tcp);
    let link: Result<Link, String> = tokio::time::timeout(PATIENCE, dialling).await.unwrap();
    assert!(link.is_ok(), "{link:?}");
    cluster.shutdown.finish().await;
}

#[tokio::test]
async fn whoever_is_dialled_must_be_who_was_meant() {
    let cluster = Cluster::new();
    let stranger = cluster.endpoint("web3");
    let port = TcpPort::new(&Arc::new(cluster.settings("web2"))).unwrap();
    let refused = port.dial(stranger.local_address().unwrap(), &web1(), 0).await;
    assert!(refused.is_err());
    cluster.shutdown.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_host_is_cut_over_tcp_too() {
    let cluster = Cluster::new();
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let (_root, open) = open(&cluster, &source, &destination).await;
    source.revoke("web2".parse().unwrap(), 0);
    let failed = async {
        while open.failure().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        open.failure().unwrap()
    };
    let failure = tokio::time::timeout(PATIENCE, failed).await.unwrap();
    assert_eq!(failure.kind, FailureKind::Denied, "{failure:?}");
    let address = source.local_address().unwrap();
    let again = destination.dial(address, &web1(), Role::Destination, Transport::Tcp).await;
    if let Ok(link) = again {
        assert!(matches!(link.closed().await, LaneError::Closed { code: ErrorCode::Denied, .. }));
    }
    cluster.shutdown.finish().await;
}
