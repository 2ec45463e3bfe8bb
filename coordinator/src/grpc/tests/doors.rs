//! What the ports take and what they drop.

use std::net::SocketAddr;
use std::sync::Arc;

use common::digest::Digest;
use common::failure::FailureKind;
use common::tls::{self, ALPN_GRPC};
use proto::channel::control_client;
use proto::v1::{self};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fixture::*;

#[tokio::test]
async fn roles_stay_behind_their_doors() {
    let cluster = Cluster::start().await;
    let (key, certificate) = cluster.join("web1").await;
    let agent = cluster.way_of(certificate, &key);
    let call = |channel| async move { control_client(channel).get_cluster(v1::ClusterRequest {}).await };
    assert_eq!(kind(agent.call(PATIENCE, call).await), Some(FailureKind::Denied));
    assert_eq!(
        kind(Agent::connect(&cluster.operator, "web1", 1).await.map(|_| ())),
        Some(FailureKind::Denied)
    );
    let nobody = tls::enrolling_client_config(Digest::of(&cluster.authority()), ALPN_GRPC).unwrap();
    assert_eq!(kind(cluster.way(nobody).call(PATIENCE, call).await), Some(FailureKind::Unauthenticated));
    cluster.stop().await;
}

#[tokio::test]
async fn garbage_on_the_ports_harms_nobody() {
    let cluster = Cluster::start().await;
    let raft: SocketAddr = wait_for_address(&cluster).await.parse().unwrap();
    for address in [cluster.node.api_address(), raft] {
        for garbage in [
            vec![0; 4096],
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0x16, 3, 1, 0xff, 0xff],
            vec![0xff; 70_000],
        ] {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            // The door may close in the middle of it.
            drop(stream.write_all(&garbage).await);
            drop(stream.shutdown().await);
            let mut answer = Vec::new();
            drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap());
            assert!(answer.len() < 100, "{address} answered garbage with {} bytes", answer.len());
        }
    }
    // Well-formed TLS, and then nonsense.
    let tls = tls::enrolling_client_config(Digest::of(&cluster.authority()), ALPN_GRPC).unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
    let stream = tokio::net::TcpStream::connect(cluster.node.api_address()).await.unwrap();
    let name = tls::COORDINATOR_NAME.try_into().unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    stream.write_all(&[0x55; 10_000]).await.unwrap();
    assert_eq!(cluster.invite("web1").await.name, "web1");
    cluster.stop().await;
}

/// The node tells the others where it really listens, soon after its start.
pub(super) async fn wait_for_address(cluster: &Cluster) -> String {
    loop {
        let members = cluster.node.hub().raft.member_views();
        match members.first() {
            Some(member) if !member.raft_address.ends_with(":0") => return member.raft_address.clone(),
            Some(_) | None => tokio::task::yield_now().await,
        }
    }
}
