//! Joining, renewing, and certificates that are not what they say.

use std::sync::Arc;

use common::clock::{self, WallMs};
use common::failure::FailureKind;
use common::id::{HostName, TenantId};
use common::principal::Principal;
use common::tls::{self, ALPN_GRPC, Identity};
use proto::channel::{Coordinators, agent_client, control_client};
use proto::v1::{self, EnrollRequest};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::node::Node;
use crate::pki::authority::{Authority, RequestedKey};
use crate::pki::join_token::JoinToken;
use crate::state::{Command, host};

use super::fixture::*;

#[tokio::test]
async fn a_token_joins_its_host_once_and_nobody_else() {
    let cluster = Cluster::start().await;
    let token = cluster.invite("web1").await.token;
    let (key, another) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let unauthenticated = Some(FailureKind::Unauthenticated);
    assert_eq!(kind(cluster.enroll(&token, "web2", &key).await), unauthenticated, "another name");
    let secret = token.rsplit('.').next().unwrap();
    assert_eq!(
        kind(cluster.enroll(&format!("node.{secret}"), "web1", &key).await),
        unauthenticated,
        "another role"
    );
    let foreign = format!("agent.other.{secret}");
    assert_eq!(kind(cluster.enroll(&foreign, "web1", &key).await), unauthenticated, "another tenant");
    assert_eq!(kind(cluster.enroll("nonsense", "web1", &key).await), unauthenticated, "no token");
    let first = cluster.enroll(&token, "web1", &key).await.unwrap();
    let peer = tls::peer_of(&[CertificateDer::from(first.certificate)], clock::wall()).unwrap();
    assert_eq!(peer.principal.to_string(), "agent:default/web1");
    // A lost answer may be asked for again with the same key; another key is a replay.
    assert_eq!(cluster.enroll(&token, "web1", &key).await.unwrap().generation, first.generation);
    assert_eq!(kind(cluster.enroll(&token, "web1", &another).await), unauthenticated, "a used token");
    cluster.stop().await;
}

#[tokio::test]
async fn a_token_that_has_ended_joins_nobody() {
    let cluster = Cluster::start().await;
    let hub = cluster.node.hub();
    let (tenant, host): (_, HostName) = (TenantId::default_tenant(), "web1".parse().unwrap());
    let token = JoinToken::for_host(tenant.clone(), [7; 16]);
    let digest = token.digest(&hub.seals().unwrap().authority, &token.principal("web1").unwrap());
    let change = host::Change::Invite { token: digest, expires: WallMs(clock::wall().0 - 1) };
    hub.propose(hub.principal(), Command::Host(host::Command { tenant, host, change })).await.unwrap();
    let refused = cluster.enroll(&token.reveal(), "web1", &KeyPair::generate().unwrap()).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::Unauthenticated);
    assert!(refused.message.contains("expired"), "{refused}");
    cluster.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_may_renew_and_nothing_else() {
    let cluster = Cluster::start().await;
    let (key, _) = cluster.join("web1").await;
    let principal = Principal::Agent { tenant: TenantId::default_tenant(), host: "web1".parse().unwrap() };
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let issued = |hours_ago: u64| {
        let requested = RequestedKey::of_request(request.der()).unwrap();
        let then = WallMs(clock::wall().0 - hours_ago * 3_600_000);
        cluster.node.hub().seals().unwrap().authority.issue(&principal, Some(1), &requested, then).unwrap()
    };
    let renew = |way: Coordinators| {
        let request = v1::RenewRequest { certificate_request: request.der().to_vec(), generation: 1 };
        async move {
            let call = |channel| {
                let request = request.clone();
                async move { agent_client(channel).renew(request).await }
            };
            way.call(PATIENCE, call).await
        }
    };
    let expired = cluster.way_of(issued(2), &key);
    let refused = Agent::connect(&expired, "web1", 1).await.err().unwrap();
    assert_eq!(refused.kind, FailureKind::Unauthenticated);
    assert!(refused.message.contains("expired"), "{refused}");
    let renewed = renew(expired).await.unwrap();
    assert_eq!(renewed.generation, 2);
    // Until generation 2 is seen, a lost answer can be asked for again.
    assert_eq!(renew(cluster.way_of(issued(0), &key)).await.unwrap().generation, 2);
    assert!(renew(cluster.way_of(issued(31 * 24), &key)).await.is_err(), "beyond the grace");
    let way = cluster.way_of(CertificateDer::from(renewed.certificate), &key);
    let agent = Agent::connect(&way, "web1", 1).await.unwrap();
    assert_eq!(
        kind(renew(cluster.way_of(issued(0), &key)).await),
        None,
        "the very request of generation 2, again"
    );
    let other = KeyPair::generate().unwrap();
    let requested = CertificateParams::default().serialize_request(&other).unwrap();
    let stolen = v1::RenewRequest { certificate_request: requested.der().to_vec(), generation: 1 };
    let copy = cluster.way_of(issued(0), &key);
    let call = |channel| {
        let stolen = stolen.clone();
        async move { agent_client(channel).renew(stolen).await }
    };
    assert_eq!(kind(copy.call(PATIENCE, call).await), Some(FailureKind::Denied), "a copy shows");
    drop(agent);
    cluster.stop().await;
}

#[tokio::test]
async fn a_renewed_certificate_opens_a_session_at_once() {
    let cluster = Cluster::start().await;
    let (key, _) = cluster.join("web1").await;
    let principal = Principal::Agent { tenant: TenantId::default_tenant(), host: "web1".parse().unwrap() };
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let requested = RequestedKey::of_request(request.der()).unwrap();
    let yesterday = WallMs(clock::wall().0 - 24 * 3_600_000);
    let authority = &cluster.node.hub().seals().unwrap().authority;
    let expired = authority.issue(&principal, Some(1), &requested, yesterday).unwrap();
    let private = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let identity = Identity::new(vec![expired], private()).unwrap();
    let way =
        cluster.way(tls::client_config(Arc::clone(&identity), &cluster.authority(), ALPN_GRPC).unwrap());
    let renew = v1::RenewRequest { certificate_request: request.der().to_vec(), generation: 1 };
    let call = |channel| {
        let renew = renew.clone();
        async move { agent_client(channel).renew(renew).await }
    };
    let renewed = way.call(PATIENCE, call).await.unwrap();
    identity.replace(vec![CertificateDer::from(renewed.certificate)], private()).unwrap();
    // The old connection is still there, and shows the expired certificate, until the way is told.
    way.reconnect();
    assert!(Agent::connect(&way, "web1", 1).await.is_ok());
    cluster.stop().await;
}

#[tokio::test]
async fn a_certificate_of_another_cluster_is_refused() {
    let cluster = Cluster::start().await;
    cluster.join("web1").await;
    let (certificate, authority_key) = Authority::create("other", clock::wall()).unwrap();
    let other = Authority::open("other", &certificate, &authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let requested = RequestedKey::of_request(request.der()).unwrap();
    let principal = Principal::Agent { tenant: TenantId::default_tenant(), host: "web1".parse().unwrap() };
    let forged = other.issue(&principal, Some(1), &requested, clock::wall()).unwrap();
    let refused = Agent::connect(&cluster.way_of(forged, &key), "web1", 1).await.err().unwrap();
    assert_eq!(refused.kind, FailureKind::Unauthenticated, "{refused}");
    // And the other way round: a joiner with another digest in hand believes nobody here.
    let wrong = tls::enrolling_client_config(other.digest(), ALPN_GRPC).unwrap();
    let call = |channel| async move { agent_client(channel).enroll(EnrollRequest::default()).await };
    let refused = cluster.way(wrong).call(PATIENCE, call).await.err().unwrap();
    assert_eq!(refused.kind, FailureKind::Unauthenticated, "{refused}");
    cluster.stop().await;
}

#[tokio::test]
async fn another_operator_gets_a_context_while_the_node_runs() {
    let cluster = Cluster::start().await;
    let file = cluster.settings.state_dir.join("another.toml");
    let name = "eve".parse().unwrap();
    crate::init::context(&cluster.settings, &cluster.sources, &name, &file, "second").unwrap();
    let refused = crate::init::context(&cluster.settings, &cluster.sources, &name, &file, "second");
    assert_eq!(kind(refused), Some(FailureKind::Conflict), "a context that is there is overwritten");
    let eve = operator(&file, cluster.node.api_address());
    let call = |channel| async move { control_client(channel).get_cluster(v1::ClusterRequest {}).await };
    let view = eve.call(PATIENCE, call).await.unwrap();
    let view: common::view::ClusterView = serde_json::from_str(&view.document).unwrap();
    assert_eq!(view.leader.unwrap().as_str(), "n1");
    cluster.stop().await;
}

#[tokio::test]
async fn a_node_starts_only_with_its_own_cluster_key() {
    let cluster = Cluster::start().await;
    let (settings, sources) = (cluster.settings.clone(), cluster.sources.clone());
    let Cluster { directory, node, .. } = cluster;
    node.stop().await;
    std::fs::remove_file(&sources.file).unwrap();
    let missing = Node::start(&settings, &sources).await.err().unwrap();
    assert!(missing.message.contains("no cluster key"), "{missing}");
    sources.store(&crate::vault::keyring::ClusterKey::new([9; 32])).unwrap();
    let wrong = Node::start(&settings, &sources).await.err().unwrap();
    assert!(wrong.message.contains("another cluster key"), "{wrong}");
    drop(directory);
}
