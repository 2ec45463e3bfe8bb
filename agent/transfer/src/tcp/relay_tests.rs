//! Two agents that meet at a third one, honest or not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::failure::Failure;
use common::id::TenantId;
use common::principal::Principal;
use common::reach::Reach;
use common::shutdown::Shutdown;
use common::tls::{self, Clients};
use common::transport::{Transport, TransportChoice};
use sync::wire::hello::ScanRequest;
use sync::wire::spine::{Knock, Spine};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::first_frame::{hear, say};
use super::socket::{Socket, prepare};
use crate::context::Peer;
use crate::endpoint::Endpoint;
use crate::patience::Patience;
use crate::peer::Source;
use crate::reach::ServeOrder;
use crate::serve::tests::cluster::{Cluster, peer};
use crate::tcp::RelayWay;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lets both sides meet where the way says, and opens the source.
async fn meet(
    cluster: &Cluster,
    agents: &(Endpoint, Endpoint),
    root: &std::path::Path,
    way: &Arc<RelayWay>,
) -> Result<Source, Failure> {
    let ticket = cluster.sign(&cluster.ticket(root));
    let (peer, _tickets) = peer(&agents.0, ticket.clone());
    let peer = Peer { addresses: Vec::new(), relay: Some(Arc::clone(way)), ..peer };
    let transport = TransportChoice::Auto;
    agents.0.serve(ServeOrder { ticket, addresses: Vec::new(), transport, relay: Some(Arc::clone(way)) });
    let opening = Source::open(&agents.1, &peer, watch::channel(None).1);
    tokio::time::timeout(PATIENCE, opening).await.expect("an attempt to meet ends")
}

async fn first_of_manifest(source: &Source) -> Result<(), Failure> {
    let mut manifest = source.manifest(ScanRequest::default()).await?;
    let reading = tokio::task::spawn_blocking(move || {
        while manifest.blocking_next()?.is_some() {}
        Ok::<(), Failure>(())
    });
    tokio::time::timeout(PATIENCE, reading).await.expect("a manifest ends").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_do_not_reach_each_other_meet_at_a_third() {
    let (cluster, root) = (Cluster::new(), tempfile::tempdir().unwrap());
    std::fs::write(root.path().join("file"), b"content").unwrap();
    let relay = cluster.endpoint("web9");
    let agents = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let way = cluster.way(relay.local_address().unwrap());
    let open = meet(&cluster, &agents, root.path(), &way).await.unwrap();
    assert_eq!((open.reach(), open.transport()), (Reach::Relayed, Transport::Tcp));
    first_of_manifest(&open).await.unwrap();
    drop(open.content(8, None).await.unwrap());
    let (wire, counted) = open.finish().await;
    assert!(wire > 10_000 && counted.wire_bytes > 5_000, "{wire} {counted:?}");
    cluster.shutdown.finish().await;
}

#[tokio::test]
async fn a_relay_joins_nobody_without_a_ticket_for_it() {
    let cluster = Cluster::new();
    let (relay, stranger) = (cluster.endpoint("web9"), cluster.endpoint("web3"));
    let way = cluster.way(relay.local_address().unwrap());
    // Its bearer is neither end.
    assert!(stranger.wait_at(&way).await.is_err());
    let source = cluster.endpoint("web1");
    let mut forged = (*way).clone();
    let last = forged.ticket.len() - 1;
    forged.ticket[last] ^= 1;
    assert!(source.wait_at(&forged).await.is_err());
    // It names another relay.
    let elsewhere = cluster.way(stranger.local_address().unwrap());
    assert!(source.wait_at(&elsewhere).await.is_err());
    cluster.shutdown.finish().await;
}

/// What a relay does to what passes it, from the `from`th byte on.
#[derive(Clone, Copy, Debug)]
enum Malice {
    Garble,
    Reorder,
    Drop,
    Repeat,
    Cut,
}

/// Plays the relay: joins as it should, and then does what it likes.
async fn hostile(cluster: &Cluster, malice: Malice, from: u64) -> SocketAddr {
    let (identity, authority) = (cluster.authority.identity("web9"), &cluster.authority.certificate);
    let config = tls::server_config(identity, authority, Clients::Certified, tls::ALPN_LANE).unwrap();
    let (acceptor, listener) =
        (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    let tasks = cluster.shutdown.clone();
    cluster.shutdown.spawn(async move {
        let (mut sources, mut destinations) = (Vec::new(), Vec::new());
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(prepare(stream).unwrap().0).await else { continue };
            let mut stream: TlsStream<Socket> = stream.into();
            let peer = super::peer_of(&stream, common::clock::wall()).unwrap();
            let Ok(Knock::Relay { .. }) = hear::<Knock>(&mut stream).await else { continue };
            let web1 = Principal::Agent { tenant: TenantId::default_tenant(), host: "web1".parse().unwrap() };
            let side = if peer.principal == web1 { &mut sources } else { &mut destinations };
            side.push(stream);
            while !sources.is_empty() && !destinations.is_empty() {
                let joined = (sources.pop().unwrap(), destinations.pop().unwrap());
                tasks.spawn(spoil(joined, malice, from, tasks.clone()));
            }
        }
    });
    address
}

async fn spoil(
    (mut source, mut destination): (TlsStream<Socket>, TlsStream<Socket>),
    malice: Malice,
    from: u64,
    tasks: Shutdown,
) {
    say(&mut source, &Spine::Joined).await.ok();
    say(&mut destination, &Spine::Joined).await.ok();
    let (mut from_source, mut to_source) = tokio::io::split(source);
    let (mut from_destination, mut to_destination) = tokio::io::split(destination);
    tasks.spawn(async move { tokio::io::copy(&mut from_destination, &mut to_source).await });
    let (mut passed, mut piece) = (0_u64, vec![0; 4096]);
    while let Ok(count) = from_source.read(&mut piece).await {
        if count == 0 {
            break;
        }
        let is_spoilt = passed + count as u64 > from;
        passed += count as u64;
        let (front, back) = piece[..count].split_at(count / 2);
        let sent = match malice {
            Malice::Garble if is_spoilt => piece[..count].iter().map(|byte| byte ^ 0x10).collect(),
            Malice::Reorder if is_spoilt => [back, front].concat(),
            Malice::Repeat if is_spoilt => [&piece[..count], &piece[..count]].concat(),
            Malice::Drop if is_spoilt => front.to_vec(),
            Malice::Cut if is_spoilt => return,
            _ => piece[..count].to_vec(),
        };
        if to_destination.write_all(&sent).await.is_err() || to_destination.flush().await.is_err() {
            return;
        }
    }
}

const MALICE: [Malice; 5] = [Malice::Garble, Malice::Reorder, Malice::Drop, Malice::Repeat, Malice::Cut];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_spoils_the_handshake_between_both_ends_joins_nobody() {
    for malice in MALICE {
        let cluster = Cluster::new();
        let (source, destination) = (cluster.endpoint("web1"), cluster.endpoint("web2"));
        let way = cluster.way(hostile(&cluster, malice, 100).await);
        let waiting = async { while source.wait_at(&way).await.is_ok() {} };
        let wanted = Principal::Agent { tenant: TenantId::default_tenant(), host: "web1".parse().unwrap() };
        // Who holds back what was said is waited for in vain.
        let dialling = tokio::time::timeout(Duration::from_secs(2), destination.dial_through(&way, &wanted));
        tokio::select! {
            link = dialling => assert!(!matches!(link, Ok(Ok(_))), "{malice:?} went unnoticed"),
            () = waiting => panic!("the source gave up"),
        }
        cluster.shutdown.cancel();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_spoils_what_is_said_later_costs_the_attempt_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    for number in 0..2_000_u64 {
        let name = blake3::hash(&number.to_le_bytes()).to_hex();
        std::fs::write(root.path().join(name.as_str()), b"x").unwrap();
    }
    for malice in MALICE {
        let mut cluster = Cluster::new();
        cluster.patience = Patience {
            beat: Duration::from_millis(100),
            stall: Duration::from_secs(2),
            ..Patience::default()
        };
        let agents = (cluster.endpoint("web1"), cluster.endpoint("web2"));
        // Behind the handshakes, and in the middle of a manifest.
        let way = cluster.way(hostile(&cluster, malice, 20_000).await);
        let open = meet(&cluster, &agents, root.path(), &way).await.unwrap();
        let failure = first_of_manifest(&open).await.unwrap_err();
        assert!(!failure.message.is_empty(), "{malice:?}");
        drop(open);
        cluster.shutdown.cancel();
    }
}
