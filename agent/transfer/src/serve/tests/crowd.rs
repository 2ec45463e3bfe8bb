//! More come than are served: attempts of the cluster, and strangers.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::id::TenantId;
use common::principal::Principal;
use common::transport::Transport;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::cluster::{Cluster, peer};
use crate::endpoint::Endpoint;
use crate::peer::Source;
use crate::reach::SERVED_MAX;
use crate::serve::{CONTENT_LANES_MAX, SERVED_THREADS_MAX};
use crate::window::Role;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// Opens the source of the attempt with this token.
async fn open(
    cluster: &Cluster,
    agents: &(Endpoint, Endpoint),
    root: &Path,
    index: u64,
) -> Result<Source, Failure> {
    let mut ticket = cluster.ticket(root);
    ticket.token = FencingToken { epoch: 1, index };
    let (mut peer, _tickets) = peer(&agents.0, cluster.sign(&ticket));
    peer.token = ticket.token;
    Source::open(&agents.1, &peer, watch::channel(None).1).await
}

#[test]
fn as_many_attempts_as_are_served_leave_a_thread_for_short_calls() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(SERVED_THREADS_MAX).enable_all();
    let crowd = async {
        let (cluster, root) = (Cluster::new(), tempfile::tempdir().unwrap());
        let agents = (cluster.endpoint("web1"), cluster.endpoint("web2"));
        let mut attempts = Vec::new();
        for index in 0..SERVED_MAX as u64 {
            let source = open(&cluster, &agents, root.path(), index).await.unwrap();
            let content = source.content(CONTENT_LANES_MAX as usize, None).await.unwrap();
            attempts.push((source, content));
        }
        let refused = open(&cluster, &agents, root.path(), 1_000).await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::Throttled, "{refused:?}");
        assert!(refused.message.contains("64 migrations already"), "{}", refused.message);
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        drop(attempts);
        cluster.shutdown.finish().await;
    };
    let served = runtime.build().unwrap().block_on(async { tokio::time::timeout(PATIENCE, crowd).await });
    assert!(served.is_ok(), "something waits for a thread that a transfer holds");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_is_served_by_one_connection() {
    let (cluster, root) = (Cluster::new(), tempfile::tempdir().unwrap());
    let agents = (cluster.endpoint("web1"), cluster.endpoint("web2"));
    let first = open(&cluster, &agents, root.path(), 1).await.unwrap();
    let refused = open(&cluster, &agents, root.path(), 1).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Throttled, "{refused:?}");
    first.finish().await;
    // The source notes the end of the first a moment after the destination, and lets the next one wait for it.
    for _ in 0..5 {
        open(&cluster, &agents, root.path(), 1).await.unwrap().finish().await;
    }
    cluster.shutdown.finish().await;
}

/// Passes on what a dialler says, and of the answers only the question to prove his address, so that his handshake never
/// ends. Says when the other end has taken it up.
async fn hold_up(front: UdpSocket, behind: SocketAddr, begun: mpsc::Sender<()>) {
    // Another host than the one that everybody else here is on.
    let back = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let (mut there, mut here) = (vec![0; 65_536], vec![0; 65_536]);
    let (mut dialler, mut has_proof) = (None, false);
    loop {
        tokio::select! {
            Ok((count, from)) = front.recv_from(&mut there) => {
                dialler = Some(from);
                back.send_to(&there[..count], behind).await.unwrap();
                if has_proof {
                    begun.send(()).await.ok();
                }
            }
            Ok((count, _)) = back.recv_from(&mut here) => {
                // The type of a packet with a long header.
                if here[0] & 0xb0 != 0xb0 {
                    begun.send(()).await.ok();
                    std::future::pending::<()>().await;
                }
                has_proof = true;
                front.send_to(&here[..count], dialler.unwrap()).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_say_nothing_more_keep_nobody_off_the_port() {
    let cluster = Cluster::new();
    let (source, destination, stranger) =
        (cluster.endpoint("web1"), cluster.endpoint("web2"), cluster.endpoint("web3"));
    let behind = source.local_address().unwrap();
    let wanted = Principal::Agent { tenant: TenantId::default_tenant(), host: "web1".parse().unwrap() };
    for _ in 0..2 * SERVED_MAX {
        let (front, (begun, mut has_begun)) =
            (UdpSocket::bind("127.0.0.1:0").await.unwrap(), mpsc::channel(1));
        let address = front.local_addr().unwrap();
        let (stop, stranger, wanted) = (cluster.shutdown.clone(), stranger.clone(), wanted.clone());
        cluster.shutdown.spawn(async move {
            tokio::select! {
                () = hold_up(front, behind, begun) => {}
                _ended = stranger.dial(address, &wanted, Role::Destination, Transport::Quic) => {}
                () = stop.cancelled() => {}
            }
        });
        tokio::time::timeout(PATIENCE, has_begun.recv()).await.unwrap().unwrap();
    }
    let link = destination.dial(behind, &wanted, Role::Destination, Transport::Quic).await;
    assert!(link.is_ok(), "{link:?}");
    cluster.shutdown.finish().await;
}
