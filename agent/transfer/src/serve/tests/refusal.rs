//! Who and what does not get in, or no longer.

use std::time::Duration;

use common::clock::WallMs;
use common::failure::FailureKind;
use common::id::TenantId;
use common::principal::Principal;
use common::spec::Compression;
use common::transport::Transport;
use sync::wire::content::{Fetch, What};
use sync::wire::control::ToDestination;
use sync::wire::error_code::ErrorCode;
use sync::wire::hello::{Hello, Open, PROTOCOL_VERSION, ScanRequest};
use tokio::sync::watch;

use super::cluster::{self, Cluster, connected, peer};
use super::odd_tree::{noise, odd_tree, walk};
use super::{ask, entries, listings, rel, stamp};
use crate::endpoint::{Endpoint, EndpointSettings};
use crate::lane::LaneError;
use crate::peer::Source;
use crate::window::Role;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn tickets_for_anything_else_are_refused() {
    let (cluster, foreign, tree) = (Cluster::new(), Cluster::new(), odd_tree());
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let good = cluster.ticket(tree.path());
    let mut cases = Vec::new();
    let mut case =
        |name, ticket: &common::ticket::Ticket, kind| cases.push((name, cluster.sign(ticket), kind));
    let mut ticket = good.clone();
    ticket.destination = "web3".parse().unwrap();
    case("another destination", &ticket, FailureKind::Denied);
    ticket = good.clone();
    ticket.source = "web3".parse().unwrap();
    case("another source", &ticket, FailureKind::Denied);
    ticket = good.clone();
    ticket.tenant = "other".parse().unwrap();
    case("another tenant", &ticket, FailureKind::Denied);
    ticket = good.clone();
    ticket.expires = WallMs(1);
    case("expired", &ticket, FailureKind::Timeout);
    ticket = good.clone();
    ticket.source_root = "relative".to_owned();
    case("no absolute root", &ticket, FailureKind::Denied);
    ticket = good.clone();
    ticket.source_root = tree.path().join("absent").to_str().unwrap().to_owned();
    case("absent root", &ticket, FailureKind::Invalid);
    ticket.source_root = tree.path().join("index.php").to_str().unwrap().to_owned();
    case("a file as root", &ticket, FailureKind::Invalid);
    cases.push(("forged", foreign.sign(&good), FailureKind::Denied));
    cases.push(("garbage", vec![7; 300], FailureKind::Denied));
    cases.push(("nothing", Vec::new(), FailureKind::Denied));
    for (name, ticket, kind) in cases {
        let (peer, _tickets) = peer(&source, ticket);
        let refused = Source::open(&destination, &peer, watch::channel(None).1).await.unwrap_err();
        assert_eq!(refused.kind, kind, "{name}: {refused:?}");
        assert!(refused.hint.is_some(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_get_through_the_handshake() {
    let (cluster, foreign, tree) = (Cluster::new(), Cluster::new(), odd_tree());
    let source = cluster.endpoint("web1");
    let stranger = foreign.endpoint("web2");
    let (peer, _tickets) = peer(&source, cluster.sign(&cluster.ticket(tree.path())));
    let refused = Source::open(&stranger, &peer, watch::channel(None).1).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Unreachable);
    // The other way round: who answers is not who was called.
    let other = cluster.endpoint("web3");
    let destination = cluster.endpoint("web2");
    let (mut peer, _tickets) = cluster::peer(&source, cluster.sign(&cluster.ticket(tree.path())));
    peer.addresses = vec![other.local_address().unwrap()];
    let refused = Source::open(&destination, &peer, watch::channel(None).1).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Unreachable);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port_harms_nobody() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    let (source, _destination, open) = connected(&cluster, tree.path()).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in [1, 20, 300, 1_200, 6_000] {
        for seed in 0..20 {
            let mut datagram = noise(length, seed);
            // Half of them look like the first packet of a connection.
            if seed % 2 == 0 {
                datagram[0] = 0xc0;
            }
            socket.send_to(&datagram, source.local_address().unwrap()).await.unwrap();
        }
    }
    let seen = entries(listings(open.manifest(ScanRequest::default()).await.unwrap()).await);
    assert_eq!(seen.len(), walk(tree.path()).len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_runs_out_ends_the_connection_and_a_fresh_one_does_not() {
    let (cluster, tree) = (Cluster::new(), odd_tree());
    // The source's clock is the test's.
    let (clock, clock_ahead_ms) = watch::channel(0);
    let settings = EndpointSettings { clock_ahead_ms, ..cluster.settings("web1") };
    let source = Endpoint::open(settings, &cluster.shutdown).unwrap();
    let destination = cluster.endpoint("web2");
    let mut ticket = cluster.ticket(tree.path());
    let (renewed, renewals) = peer(&source, cluster.sign(&ticket));
    ticket.token.index += 1;
    let (mut left, _tickets) = peer(&source, cluster.sign(&ticket));
    left.token = ticket.token;
    let (limit, bandwidth) = watch::channel(Some(1));
    let kept = Source::open(&destination, &renewed, bandwidth).await.unwrap();
    let lost = Source::open(&destination, &left, watch::channel(None).1).await.unwrap();
    let later = 10 * 3_600_000;
    let longer = |root| {
        let ticket = cluster.ticket(root);
        cluster.sign(&common::ticket::Ticket { expires: WallMs(ticket.expires.0 + later), ..ticket })
    };
    renewals.send(longer(tree.path())).unwrap();
    limit.send(None).unwrap();
    // What waited for the limit was sent, so the fresh ticket, which went before it, was taken.
    let (sender, receiver) = kept.content(1, None).await.unwrap();
    let stamp = stamp(&tree.path().join("large"));
    let fetch = |index| Fetch { id: index, path: rel("large"), stamp, what: What::Range { index } };
    ask(&sender, &receiver, vec![fetch(0), fetch(1)], 2).await;
    clock.send(i64::try_from(later).unwrap()).unwrap();
    let wait = async {
        while lost.failure().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
    assert_eq!(lost.failure().unwrap().kind, FailureKind::Timeout);
    assert!(lost.manifest(ScanRequest::default()).await.is_err());
    let seen = entries(listings(kept.manifest(ScanRequest::default()).await.unwrap()).await);
    assert_eq!(seen.len(), walk(tree.path()).len());
    // A fresh ticket for another tree is no renewal.
    let other = tempfile::tempdir().unwrap();
    renewals.send(longer(other.path())).unwrap();
    let wait = async {
        while kept.failure().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
    assert_eq!(kept.failure().unwrap().kind, FailureKind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_opens_one_lane_before_its_ticket_was_seen_and_ten_then() {
    let (cluster, root) = (Cluster::new(), tempfile::tempdir().unwrap());
    let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let (peer, _tickets) = peer(&source, cluster.sign(&cluster.ticket(root.path())));
    let wanted = Principal::Agent { tenant: TenantId::default_tenant(), host: peer.host.clone() };
    let link =
        destination.dial(peer.addresses[0], &wanted, Role::Destination, Transport::Quic).await.unwrap();
    let mut control = link.open_lane().await.unwrap();
    let further = link.open_lane();
    tokio::pin!(further);
    let greeting = async {
        let open = Open {
            version: PROTOCOL_VERSION,
            ticket: peer.ticket.borrow().clone(),
            bandwidth_limit: None,
            compression: Compression::Auto,
        };
        control.sender.message(&Hello::Control(open)).await.unwrap();
        control.receiver.message::<ToDestination>(&mut Vec::new()).await.unwrap()
    };
    tokio::select! {
        biased;
        answer = greeting => assert!(matches!(answer, Some(ToDestination::Opened(_))), "{answer:?}"),
        _ = &mut further => panic!("a second lane was let in before the ticket was shown"),
    }
    let mut lanes = vec![further.await.unwrap()];
    while lanes.len() < 9 {
        lanes.push(link.open_lane().await.unwrap());
    }
    let eleventh = link.open_lane();
    let breaking = lanes[0].sender.bytes(vec![0xa5; 100].into());
    let (eleventh, broken) = tokio::join!(eleventh, breaking);
    broken.unwrap();
    let refused = eleventh.map(|_| ()).unwrap_err();
    // The packet that says why may be lost; then the next one is answered with a reset.
    let is_closed =
        matches!(refused, LaneError::Closed { code: ErrorCode::Protocol, .. } | LaneError::Lost(_));
    assert!(is_closed, "{refused}");
    cluster.shutdown.finish().await;
}
