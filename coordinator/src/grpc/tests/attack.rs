//! Somebody who wants in: credentials that are wrong, old, foreign, forged or replayed, and floods.

use common::clock::{self, WallMs};
use common::failure::{Failure, FailureKind};
use common::id::{KeyId, TenantId};
use common::principal::Principal;
use common::role::Role;
use common::tls;
use proto::channel::{Coordinators, access_client, agent_client, control_client};
use proto::v1;
use proto::v1::agent_message::Message as FromAgent;
use proto::v1::coordinator_message::Message as ToAgent;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fixture::{Cluster, PATIENCE, connect, kind};
use crate::pki::api_key::ApiKey;
use crate::pki::authority::{Authority, RequestedKey};
use crate::state::Command;
use crate::state::access::command::Command as Change;

const PASSWORD: &str = "correct horse battery";

async fn list(way: &Coordinators) -> Result<(), Failure> {
    let listed = way.call(PATIENCE, |way| async move {
        control_client(way).list_hosts(v1::PageRequest { from: String::new(), limit: 0 }).await
    });
    listed.await.map(|_| ())
}

/// Returns a key whose record has ended already.
async fn expired_key(cluster: &Cluster) -> String {
    let hub = cluster.node.hub();
    let tenant = TenantId::default_tenant();
    let key = ApiKey::new(tenant.clone(), "expired".parse().unwrap(), [9; 32]);
    let grant = common::grant::Grant { tenant: tenant.clone(), role: Role::Admin, scope: Default::default() };
    let digest = key.digest(&hub.seals().unwrap().authority);
    let (id, name) = (key.id.clone(), String::new());
    let expires = Some(WallMs(clock::wall().0 - 1));
    let command = Change::CreateKey { tenant, id, name, digest, grant, expires };
    hub.propose(hub.principal(), Command::Access(command)).await.unwrap();
    key.reveal()
}

#[tokio::test]
async fn keys_that_are_not_what_they_should_be_open_nothing() {
    let (cluster, other) = (Cluster::start().await, Cluster::start().await);
    cluster.create_tenant("acme").await;
    let good = cluster.create_key("default", Role::Admin, &[]).await;
    let revoked = cluster.create_key("default", Role::Admin, &[]).await;
    let request = v1::KeyRequest { id: revoked.split('.').nth(2).unwrap().to_owned() };
    let revoking = cluster.operator.call(PATIENCE, |way| {
        let request = request.clone();
        async move { access_client(way).revoke_key(request).await }
    });
    revoking.await.unwrap();
    let secret = good.rsplit('.').next().unwrap();
    let id = good.split('.').nth(2).unwrap();
    let unknown: KeyId = "bbbbbbbbbb".parse().unwrap();
    let cases = [
        ("another cluster's", other.create_key("default", Role::Admin, &[]).await),
        ("revoked", revoked),
        ("expired", expired_key(&cluster).await),
        ("another tenant's name on it", format!("drover-key.acme.{id}.{secret}")),
        ("another id on it", format!("drover-key.default.{unknown}.{secret}")),
        ("one digit wrong", format!("drover-key.default.{id}.{}", secret.replace(&secret[..1], "z"))),
        ("another secret", format!("drover-key.default.{id}.{}", "00".repeat(32))),
        ("cut", good[..good.len() - 2].to_owned()),
        ("a join token", format!("agent.default.{}", &secret[..32])),
        ("nonsense", "nonsense".to_owned()),
        ("empty", "x".to_owned()),
        ("very long", "k".repeat(8_000)),
    ];
    let mut said = Vec::new();
    for (case, key) in cases {
        let refused = list(&cluster.keyed(&key, None)).await.err().unwrap_or_else(|| panic!("{case} got in"));
        assert_eq!(refused.kind, FailureKind::Unauthenticated, "{case}: {refused}");
        said.push((refused.message, refused.hint));
    }
    said.dedup();
    assert_eq!(said.len(), 1, "the reasons can be told apart: {said:?}");
    list(&cluster.keyed(&good, None)).await.unwrap();
    cluster.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn certificates_that_were_forged_open_nothing() {
    let cluster = Cluster::start().await;
    let principals = [
        Principal::Node { name: "n1".parse().unwrap() },
        Principal::Person { tenant: TenantId::default_tenant(), name: "admin".to_owned() },
        Principal::Agent { tenant: TenantId::default_tenant(), host: "web1".parse().unwrap() },
    ];
    let id = cluster.node.hub().state().cluster().id.clone();
    for principal in principals {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        for uri in tls::uris_of(&id, &principal, Some(1)) {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        let self_signed = params.self_signed(&key).unwrap().der().clone();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = Issuer::new(authority, KeyPair::generate().unwrap());
        let other_issuer = params.signed_by(&key, &issuer).unwrap().der().clone();
        for (case, forged) in [("self-signed", self_signed), ("of another issuer", other_issuer)] {
            let refused = kind(list(&cluster.way_of(forged, &key)).await);
            assert_eq!(refused, Some(FailureKind::Unauthenticated), "{principal}, {case}");
        }
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_login_names_nobody_else_whatever_its_request_says() {
    let cluster = Cluster::start().await;
    cluster.create_user("default", "eve", Role::Viewer, PASSWORD).await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["coordinator.drover.internal".to_owned()]).unwrap();
    let node = Principal::Node { name: "n1".parse().unwrap() };
    for uri in tls::uris_of("c1", &node, None) {
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    }
    let request = params.serialize_request(&key).unwrap();
    let request = v1::LoginRequest {
        tenant: "default".to_owned(),
        name: "eve".to_owned(),
        password: PASSWORD.to_owned(),
        certificate_request: request.der().to_vec(),
    };
    let way = cluster.anonymous();
    let answered = way.call(PATIENCE, |way| {
        let request = request.clone();
        async move { access_client(way).login(request).await }
    });
    let certificate = CertificateDer::from(answered.await.unwrap().certificate);
    let peer = tls::peer_of(std::slice::from_ref(&certificate), clock::wall()).unwrap();
    assert_eq!(peer.principal.to_string(), "user:default/eve");
    assert!(!String::from_utf8_lossy(&certificate).contains("coordinator.drover.internal"));
    let enroll =
        |way| async move { control_client(way).enroll_node(v1::NodeRequest { name: "n2".to_owned() }).await };
    assert_eq!(
        kind(cluster.way_of(certificate, &key).call(PATIENCE, enroll).await),
        Some(FailureKind::Denied)
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_host_is_what_its_token_says_whatever_its_request_says() {
    let cluster = Cluster::start().await;
    let id = cluster.node.hub().state().cluster().id.clone();
    let key = KeyPair::generate().unwrap();
    let forged = |principal: &Principal| {
        let mut params = CertificateParams::new(["coordinator.drover.internal".to_owned()]).unwrap();
        for uri in tls::uris_of(&id, principal, Some(9)) {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.serialize_request(&key).unwrap().der().to_vec()
    };
    let agent = |tenant: TenantId, host: &str| Principal::Agent { tenant, host: host.parse().unwrap() };
    let default = TenantId::default_tenant();
    for (number, claimed) in [
        Principal::Node { name: "n1".parse().unwrap() },
        Principal::Person { tenant: default.clone(), name: "admin".to_owned() },
        agent(default.clone(), "another"),
        agent("acme".parse().unwrap(), "web"),
    ]
    .into_iter()
    .enumerate()
    {
        let (name, certificate_request) = (format!("web{number}"), forged(&claimed));
        let request = v1::EnrollRequest {
            token: cluster.invite(&name).await.token,
            name: name.clone(),
            certificate_request: certificate_request.clone(),
            protocol: proto::PROTOCOL,
        };
        let enroll = |way| {
            let request = request.clone();
            async move { agent_client(way).enroll(request).await }
        };
        let joined = cluster.anonymous().call(PATIENCE, enroll).await.unwrap();
        let joined = CertificateDer::from(joined.certificate);
        let renew = |way| {
            let request =
                v1::RenewRequest { certificate_request: certificate_request.clone(), generation: 1 };
            async move { agent_client(way).renew(request).await }
        };
        let renewed = cluster.way_of(joined.clone(), &key).call(PATIENCE, renew).await.unwrap();
        for certificate in [joined, CertificateDer::from(renewed.certificate)] {
            let peer = tls::peer_of(std::slice::from_ref(&certificate), clock::wall()).unwrap();
            assert_eq!(peer.principal, agent(default.clone(), &name), "{claimed}");
            assert!(!String::from_utf8_lossy(&certificate).contains("coordinator.drover.internal"));
            // It opens what is a host's and nothing else.
            let refused = kind(list(&cluster.way_of(certificate, &key)).await);
            assert_eq!(refused, Some(FailureKind::Denied), "{claimed}");
        }
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_revoked_host_neither_renews_nor_joins_again() {
    let cluster = Cluster::start().await;
    let key = KeyPair::generate().unwrap();
    let token = cluster.invite("web1").await.token;
    let certificate = CertificateDer::from(cluster.enroll(&token, "web1", &key).await.unwrap().certificate);
    let revoke = |way| async move {
        control_client(way).revoke_host(v1::HostRequest { host: "web1".to_owned() }).await
    };
    cluster.operator.call(PATIENCE, revoke).await.unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let renew = |way| {
        let request = v1::RenewRequest { certificate_request: request.der().to_vec(), generation: 1 };
        async move { agent_client(way).renew(request).await }
    };
    let unauthenticated = Some(FailureKind::Unauthenticated);
    assert_eq!(kind(cluster.way_of(certificate.clone(), &key).call(PATIENCE, renew).await), unauthenticated);
    assert_eq!(kind(cluster.enroll(&token, "web1", &key).await), unauthenticated, "its token again");
    // Invited and joined again, the old certificate stays void.
    let other = KeyPair::generate().unwrap();
    let token = cluster.invite("web1").await.token;
    cluster.enroll(&token, "web1", &other).await.unwrap();
    let old = cluster.way_of(certificate, &key).call(PATIENCE, renew).await;
    assert!(matches!(kind(old), Some(FailureKind::Unauthenticated | FailureKind::Denied)));
    cluster.stop().await;
}

#[tokio::test]
async fn an_expired_persons_certificate_opens_nothing() {
    let cluster = Cluster::start().await;
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap();
    let requested = RequestedKey::of_request(request.der()).unwrap();
    let principal = Principal::Person { tenant: TenantId::default_tenant(), name: "admin".to_owned() };
    let then = WallMs(clock::wall().0 - 91 * 24 * 3_600_000);
    let expired =
        cluster.node.hub().seals().unwrap().authority.issue(&principal, None, &requested, then).unwrap();
    let way = cluster.way_of(expired, &key);
    assert_eq!(kind(list(&way).await), Some(FailureKind::Unauthenticated));
    let renew = v1::RenewRequest { certificate_request: request.der().to_vec(), generation: 1 };
    let renewing = way.call(PATIENCE, |way| {
        let renew = renew.clone();
        async move { agent_client(way).renew(renew).await }
    });
    assert!(renewing.await.is_err(), "a person renews");
    cluster.stop().await;
}

/// A hello of TLS 1.2: no list of versions, and ciphers that 1.3 does not have.
fn hello_of_tls_1_2() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    // ECDHE_ECDSA and ECDHE_RSA with AES_128_GCM_SHA256.
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    // Groups and signatures.
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 6, 0, 4, 4, 3, 8, 4];
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let handshake = [&[1], &length[1..], &body].concat();
    let record = u16::try_from(handshake.len()).unwrap().to_be_bytes();
    [&[22, 3, 1], &record[..], &handshake].concat()
}

#[tokio::test]
async fn an_older_tls_is_refused_in_the_handshake() {
    let cluster = Cluster::start().await;
    for port in [cluster.node.api_address().to_string(), super::doors::wait_for_address(&cluster).await] {
        let mut stream = tokio::net::TcpStream::connect(&port).await.unwrap();
        stream.write_all(&hello_of_tls_1_2()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        // One alert, fatal: protocol_version (70).
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70], "{port}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn one_token_under_two_joins_at_once_joins_one() {
    let cluster = Cluster::start().await;
    for round in 0..5 {
        let name = format!("web{round}");
        let token = cluster.invite(&name).await.token;
        let keys = [KeyPair::generate().unwrap(), KeyPair::generate().unwrap()];
        let (one, other) =
            tokio::join!(cluster.enroll(&token, &name, &keys[0]), cluster.enroll(&token, &name, &keys[1]));
        let refused = match (one, other) {
            (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
            (one, other) => panic!("{:?} and {:?}", one.err(), other.err()),
        };
        assert_eq!(refused.kind, FailureKind::Unauthenticated, "{refused}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_flood_of_logins_harms_nobody_else() {
    let cluster = Cluster::start().await;
    cluster.create_user("default", "eve", Role::Viewer, PASSWORD).await;
    let (_, mut agent) = connect(&cluster, "web1").await;
    let begin = clock::boot();
    let flood = async {
        let attempts = (0..1_000).map(|_| cluster.login("default", "eve", "a wrong password"));
        let mut kinds = Vec::new();
        // A hundred at once, as one connection's calls allow.
        let mut attempts = attempts.into_iter().peekable();
        while attempts.peek().is_some() {
            let batch: Vec<_> = attempts.by_ref().take(100).map(Box::pin).collect();
            for attempt in join_all(batch).await {
                kinds.push(attempt.err().map(|failure| failure.kind).unwrap());
            }
        }
        kinds
    };
    let others = async {
        for number in 1..=50 {
            agent.send(FromAgent::Heartbeat(v1::Heartbeat { number, renew: Vec::new(), wall_ms: 0 })).await;
            assert!(matches!(agent.next().await, Some(ToAgent::Renewed(_))), "the agent was starved");
            list(&cluster.operator).await.unwrap();
        }
    };
    let (kinds, ()) = tokio::join!(flood, others);
    let compared = kinds.iter().filter(|kind| **kind == FailureKind::Unauthenticated).count();
    let throttled = kinds.iter().filter(|kind| **kind == FailureKind::Throttled).count();
    assert_eq!(compared + throttled, 1_000);
    // The name's bucket holds ten, and gets one more with every five seconds that this took, however busy the machine is.
    let most = 10 + clock::boot().since(begin).as_secs() / 5;
    assert!(
        compared >= 1 && compared as u64 <= most,
        "{compared} passwords were compared, and {most} may be"
    );
    cluster.stop().await;
}

/// Runs futures beside each other and returns what they return.
async fn join_all<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut is_pending = false;
        for (future, output) in futures.iter_mut().zip(&mut outputs) {
            if output.is_none() {
                match std::pin::Pin::new(future).poll(context) {
                    std::task::Poll::Ready(done) => *output = Some(done),
                    std::task::Poll::Pending => is_pending = true,
                }
            }
        }
        if is_pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

#[tokio::test]
async fn another_authority_with_our_name_is_not_believed() {
    let cluster = Cluster::start().await;
    let id = cluster.node.hub().state().cluster().id.clone();
    let (certificate, _key) = Authority::create(&id, clock::wall()).unwrap();
    let wrong = tls::keyed::client_config(&certificate, tls::ALPN_GRPC).unwrap();
    let key = cluster.create_key("default", Role::Admin, &[]).await;
    let way = cluster.way(wrong).showing(cluster.shown(Some(&key), None));
    assert_eq!(kind(list(&way).await), Some(FailureKind::Unauthenticated), "the key was shown to a stranger");
    cluster.stop().await;
}
