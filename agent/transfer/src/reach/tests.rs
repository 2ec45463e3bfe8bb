//! Two agents of which one cannot be dialled, and agents that start again.

use std::net::SocketAddr;
use std::time::Duration;

use common::failure::{FailureKind, Retry};
use common::id::TenantId;
use common::principal::Principal;
use common::reach::Reach;
use common::transport::{Transport, TransportChoice};
use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::context::{Peer, PeerNews};
use crate::endpoint::Endpoint;
use crate::peer::Source;
use crate::reach::ServeOrder;
use crate::serve::tests::cluster::{Cluster, peer, relayed};
use crate::window::Role;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn between_near_agents_tcp_is_taken_and_what_gets_through_otherwise() {
    let mut cluster = Cluster::new();
    // However busy this machine is, both get through.
    cluster.patience.second = PATIENCE;
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let wanted = Principal::Agent { tenant: TenantId::default_tenant(), host: "web1".parse().unwrap() };
    let address = source.local_address().unwrap();
    let dial =
        |address| super::race::dial(&destination, address, &wanted, Role::Destination, TransportChoice::Auto);
    assert_eq!(dial(address).await.unwrap().transport(), Transport::Tcp);
    // Only UDP gets through.
    let (udp, _cut) = relayed(&cluster, watch::channel(address).1).await;
    assert_eq!(dial(udp).await.unwrap().transport(), Transport::Quic);
    // Only TCP gets through.
    let (_socket, silent, front) = loop {
        let (socket, address) = silent().await;
        // Somebody may have the port for TCP.
        if let Ok(front) = tokio::net::TcpListener::bind(address).await {
            break (socket, address, front);
        }
    };
    let tasks = cluster.shutdown.clone();
    cluster.shutdown.spawn(async move {
        while let Ok((mut here, _)) = front.accept().await {
            let mut there = tokio::net::TcpStream::connect(address).await.unwrap();
            tasks.spawn(async move { tokio::io::copy_bidirectional(&mut here, &mut there).await });
        }
    });
    let link = tokio::time::timeout(PATIENCE, dial(silent)).await.unwrap().unwrap();
    assert_eq!(link.transport(), Transport::Tcp);
    let open = link.open_lane().await;
    assert!(open.is_ok(), "{open:?}");
    // Neither does.
    let refused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let told = tokio::time::timeout(Duration::from_secs(1), dial(refused)).await;
    assert!(told.is_err() || told.unwrap().is_err());
}

/// A port on which nobody ever answers.
async fn silent() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn order(endpoint: &Endpoint, ticket: Vec<u8>, transport: TransportChoice) -> ServeOrder {
    ServeOrder { ticket, addresses: vec![endpoint.local_address().unwrap()], transport, relay: None }
}

async fn open(endpoint: &Endpoint, peer: &Peer) -> Result<Source, common::failure::Failure> {
    let opening = Source::open(endpoint, peer, watch::channel(None).1);
    tokio::time::timeout(PATIENCE, opening).await.expect("an attempt to reach a peer ends")
}

#[tokio::test]
async fn a_source_that_cannot_be_dialled_dials() {
    source_dials(TransportChoice::Quic, Transport::Quic).await;
}

#[tokio::test]
async fn a_source_that_cannot_be_dialled_dials_over_tcp() {
    source_dials(TransportChoice::Tcp, Transport::Tcp).await;
}

async fn source_dials(asked: TransportChoice, found: Transport) {
    let (cluster, root) = (Cluster::new(), tempfile::tempdir().unwrap());
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let ticket = cluster.sign(&cluster.ticket(root.path()));
    let (peer, _tickets) = peer(&source, ticket.clone());
    let (_socket, nobody) = silent().await;
    let peer = Peer { addresses: vec![nobody], transport: asked, ..peer };
    source.serve(order(&destination, ticket.clone(), asked));
    // Said twice, it is done once.
    source.serve(order(&destination, ticket, asked));
    let open = open(&destination, &peer).await.unwrap();
    assert_eq!((open.reach(), open.transport()), (Reach::SourceDials, found));
    let mut manifest = open.manifest(sync::wire::hello::ScanRequest::default()).await.unwrap();
    assert!(tokio::task::spawn_blocking(move || manifest.blocking_next()).await.unwrap().is_ok());
    let content = open.content(4, None).await;
    assert!(content.is_ok());
    drop(content);
    let (_wire, counted) = open.finish().await;
    assert!(counted.wire_bytes > 0);
    cluster.shutdown.finish().await;
}

#[tokio::test]
async fn the_usual_way_is_taken_where_it_is_open() {
    let (cluster, root) = (Cluster::new(), tempfile::tempdir().unwrap());
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let ticket = cluster.sign(&cluster.ticket(root.path()));
    let (peer, _tickets) = peer(&source, ticket.clone());
    let open = open(&destination, &peer).await.unwrap();
    // Whoever is served already is not dialled.
    source.serve(order(&destination, ticket, TransportChoice::Quic));
    assert_eq!(open.reach(), Reach::DestinationDials);
    open.finish().await;
    cluster.shutdown.finish().await;
}

#[tokio::test]
async fn nobody_comes_with_a_ticket_that_is_not_his() {
    let (cluster, root) = (Cluster::new(), tempfile::tempdir().unwrap());
    let (stranger, destination) = (cluster.endpoint("web3"), cluster.endpoint("web2"));
    let ticket = cluster.ticket(root.path());
    let signed = cluster.sign(&ticket);
    // It is not the source that the ticket names, and does not even dial.
    let settings = cluster.settings("web3");
    assert!(crate::ticket::to_offer(&signed, &settings).is_err());
    let wanted = Principal::Agent { tenant: TenantId::default_tenant(), host: "web2".parse().unwrap() };
    let address = destination.local_address().unwrap();
    let link = stranger.dial(address, &wanted, Role::Source, Transport::Quic).await.unwrap();
    let refused = super::offer::present(&link, &signed, 1).await.unwrap_err();
    let crate::lane::LaneError::Closed { code, .. } = refused else { panic!("{refused}") };
    assert!(code.is_refusal(), "{code:?}");
    cluster.shutdown.finish().await;
}

#[tokio::test]
async fn a_source_that_dials_opens_nothing_but_its_offer() {
    let (cluster, root) = (Cluster::new(), tempfile::tempdir().unwrap());
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let ticket = cluster.sign(&cluster.ticket(root.path()));
    let wanted = Principal::Agent { tenant: TenantId::default_tenant(), host: "web2".parse().unwrap() };
    let mut awaited = destination.awaited().wait(cluster.ticket(root.path()).token);
    let address = destination.local_address().unwrap();
    let link = source.dial(address, &wanted, Role::Source, Transport::Quic).await.unwrap();
    let presenting = async {
        let offered = async {
            let offered = awaited.next().await;
            let mut lane = offered.link.open_lane().await.unwrap();
            lane.sender.bytes(vec![0].into()).await.unwrap();
            (offered, lane)
        };
        tokio::join!(super::offer::present(&link, &ticket, 1), offered)
    };
    let greedy = async {
        // The first lane is the offer's.
        tokio::task::yield_now().await;
        link.open_lane().await
    };
    let (presented, further) = tokio::join!(
        async {
            let (presented, (offered, _lane)) = presenting.await;
            // What was let in when the offer was taken, would have been let in by now.
            offered.link.close(sync::wire::error_code::ErrorCode::Done, "seen enough");
            presented
        },
        greedy
    );
    assert!(presented.is_ok());
    assert!(further.is_err(), "it opened a lane that nobody asked for");
    cluster.shutdown.finish().await;
}

#[tokio::test]
async fn where_neither_reaches_the_other_a_person_is_asked_once() {
    let (cluster, root) = (Cluster::new(), tempfile::tempdir().unwrap());
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let (peer, _tickets) = peer(&source, cluster.sign(&cluster.ticket(root.path())));
    let (_socket, nobody) = silent().await;
    let alive = PeerNews { is_connected: true, incarnation: 1, addresses: vec![nobody] };
    let (_sender, news) = watch::channel(alive.clone());
    let never = Peer { news: news.clone(), ..peer.clone() };
    let before = Peer { news, was_reached: true, ..peer.clone() };
    let (_sender, away) = watch::channel(PeerNews { is_connected: false, ..alive });
    let away = Peer { news: away, ..peer };
    let within = |peer| super::connect_within(Duration::from_secs(1), &destination, peer);
    let (never, before, away) = tokio::join!(within(&never), within(&before), within(&away));
    let never = never.unwrap_err();
    assert_eq!((never.kind, never.retry), (FailureKind::Unreachable, Retry::AfterOperator));
    assert!(never.message.contains(&nobody.to_string()), "{}", never.message);
    assert!(never.hint.unwrap().contains("7443"));
    assert_eq!(before.unwrap_err().retry, Retry::Later);
    assert_eq!(away.unwrap_err().retry, Retry::Later);
    cluster.shutdown.finish().await;
}

#[tokio::test]
async fn a_peer_that_came_back_elsewhere_is_dialled_at_once() {
    let (cluster, root) = (Cluster::new(), tempfile::tempdir().unwrap());
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let (peer, _tickets) = peer(&source, cluster.sign(&cluster.ticket(root.path())));
    let (_socket, nobody) = silent().await;
    let (sender, news) = watch::channel(PeerNews::default());
    let addresses = peer.addresses.clone();
    let peer = Peer { addresses: vec![nobody], news, ..peer };
    let opening = open(&destination, &peer);
    let telling = async {
        tokio::task::yield_now().await;
        sender.send_replace(PeerNews { is_connected: true, incarnation: 2, addresses });
    };
    let (opened, ()) = tokio::join!(opening, telling);
    assert_eq!(opened.unwrap().reach(), Reach::DestinationDials);
    cluster.shutdown.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_agent_is_noticed_by_what_it_does_not_know() {
    let (cluster, root) = (Cluster::new(), tempfile::tempdir().unwrap());
    let (before, after) = (cluster.endpoint("web1"), cluster.endpoint("web1"));
    let destination = cluster.endpoint("web2");
    let (behind, target) = watch::channel(before.local_address().unwrap());
    let (address, _cut) = relayed(&cluster, target).await;
    let (sender, news) = watch::channel(PeerNews { is_connected: true, incarnation: 1, addresses: vec![] });
    let (peer, _tickets) = peer(&before, cluster.sign(&cluster.ticket(root.path())));
    let peer = Peer { addresses: vec![address], news, ..peer };
    let source = open(&destination, &peer).await.unwrap();
    // The old process is still heard, so that silence tells nothing here; what is said to it reaches the new one.
    behind.send_replace(after.local_address().unwrap());
    sender.send_modify(|news| news.incarnation = 2);
    let failure = tokio::time::timeout(PATIENCE, async {
        loop {
            match source.failure() {
                Some(failure) => return failure,
                None => tokio::task::yield_now().await,
            }
        }
    });
    let failure = failure.await.unwrap();
    assert_eq!(failure.kind, FailureKind::Unreachable);
    assert!(failure.message.contains("reset"), "{}", failure.message);
    cluster.shutdown.finish().await;
}

#[tokio::test]
async fn a_later_start_of_a_source_that_dialled_ends_its_connection() {
    let (cluster, root) = (Cluster::new(), tempfile::tempdir().unwrap());
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let ticket = cluster.sign(&cluster.ticket(root.path()));
    let (peer, _tickets) = peer(&source, ticket.clone());
    let (_socket, nobody) = silent().await;
    let (sender, news) = watch::channel(PeerNews::default());
    let peer = Peer { addresses: vec![nobody], news, ..peer };
    source.serve(order(&destination, ticket, TransportChoice::Quic));
    let open = open(&destination, &peer).await.unwrap();
    // The start that dialled is no news.
    sender.send_replace(PeerNews { is_connected: true, incarnation: 1, addresses: vec![nobody] });
    let mut manifest = open.manifest(sync::wire::hello::ScanRequest::default()).await.unwrap();
    assert!(tokio::task::spawn_blocking(move || manifest.blocking_next()).await.unwrap().is_ok());
    assert_eq!(open.failure(), None);
    sender.send_modify(|news| news.incarnation = 2);
    let ended = tokio::time::timeout(PATIENCE, async {
        while open.failure().is_none() {
            tokio::task::yield_now().await;
        }
    });
    ended.await.unwrap();
    assert_eq!(open.failure().unwrap().message, "the source's agent started again");
    cluster.shutdown.finish().await;
}
