//! The doors as callers meet them: real ports, real certificates, one node, agents that are a few lines each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::clock::{self, WallMs};
use common::context::Contexts;
use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::host::{HostFacts, HostStatus};
use common::id::{HostName, TenantId};
use common::principal::Principal;
use common::progress::Progress;
use common::spec::{MigrationSpec, Origin, SideSpec};
use common::step::StepVersion;
use common::step::file::{FileOutput, RootAnswer, RootIdentity, RootQuestion};
use common::ticket::Ticket;
use common::tls::{self, ALPN_GRPC, Identity};
use common::view::{HostView, JoinView, MigrationStatus, MigrationView};
use proto::channel::{Coordinators, agent_client, control_client};
use proto::v1::agent_message::Message as FromAgent;
use proto::v1::coordinator_message::Message as ToAgent;
use proto::v1::question::Question;
use proto::v1::{self, AgentMessage, CoordinatorMessage, EnrollRequest, EnrollResponse};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::config::Settings;
use crate::init::init;
use crate::node::Node;
use crate::pki::authority::{Authority, RequestedKey};
use crate::pki::join_token::JoinToken;
use crate::state::{Command, host};
use crate::vault::keyring::KeySources;

const PATIENCE: Duration = Duration::from_secs(20);

struct Cluster {
    _directory: tempfile::TempDir,
    settings: Settings,
    sources: KeySources,
    node: Node,
    operator: Coordinators,
}

impl Cluster {
    async fn start() -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            name: "n1".parse().unwrap(),
            state_dir: directory.path().join("state"),
            listen_api: "127.0.0.1:0".parse().unwrap(),
            listen_raft: "127.0.0.1:0".parse().unwrap(),
            ..Settings::default()
        };
        let sources = KeySources { file: settings.cluster_key_file(), ..KeySources::default() };
        let contexts = directory.path().join("contexts.toml");
        init(&settings, &sources, &contexts, "test").await.unwrap();
        let node = Node::start(&settings, &sources).await.unwrap();
        let operator = operator(&contexts, node.api_address());
        Self { _directory: directory, settings, sources, node, operator }
    }

    fn authority(&self) -> CertificateDer<'static> {
        self.node.hub().seals().unwrap().authority.certificate().clone()
    }

    fn way(&self, tls: rustls::ClientConfig) -> Coordinators {
        Coordinators::new(vec![self.node.api_address().to_string()], Arc::new(tls))
    }

    /// The way of a caller who shows this certificate.
    fn way_of(&self, certificate: CertificateDer<'static>, key: &KeyPair) -> Coordinators {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let identity = Identity::new(vec![certificate], key).unwrap();
        self.way(tls::client_config(identity, &self.authority(), ALPN_GRPC).unwrap())
    }

    async fn invite(&self, host: &str) -> JoinView {
        let request = v1::HostRequest { host: host.to_owned() };
        let call = |channel| {
            let request = request.clone();
            async move { control_client(channel).enroll_host(request).await }
        };
        serde_json::from_str(&self.operator.call(PATIENCE, call).await.unwrap().document).unwrap()
    }

    async fn enroll(&self, token: &str, name: &str, key: &KeyPair) -> Result<EnrollResponse, Failure> {
        let digest = Digest::of(&self.authority());
        let way = self.way(tls::enrolling_client_config(digest, ALPN_GRPC).unwrap());
        let request = CertificateParams::default().serialize_request(key).unwrap();
        let request = EnrollRequest {
            token: token.to_owned(),
            name: name.to_owned(),
            certificate_request: request.der().to_vec(),
            protocol: proto::PROTOCOL,
        };
        let call = |channel| {
            let request = request.clone();
            async move { agent_client(channel).enroll(request).await }
        };
        way.call(PATIENCE, call).await
    }

    /// Invites and joins a host.
    async fn join(&self, name: &str) -> (KeyPair, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let token = self.invite(name).await.token;
        let answer = self.enroll(&token, name, &key).await.unwrap();
        (key, CertificateDer::from(answer.certificate))
    }

    async fn host(&self, name: &str) -> HostView {
        let request = v1::HostRequest { host: name.to_owned() };
        let call = |channel| {
            let request = request.clone();
            async move { control_client(channel).get_host(request).await }
        };
        serde_json::from_str(&self.operator.call(PATIENCE, call).await.unwrap().document).unwrap()
    }

    async fn migrate(
        &self,
        request_id: &str,
        source: &str,
        destination: &str,
    ) -> Result<MigrationView, Failure> {
        let side = |location: &str| SideSpec {
            location: location.parse().unwrap(),
            exclude: Vec::new(),
            include: Vec::new(),
        };
        let spec = MigrationSpec {
            version: 1,
            name: "test".to_owned(),
            source: side(source),
            destination: side(destination),
            transfer: common::spec::TransferSpec::default(),
            options: common::spec::OptionsSpec::default(),
            origin: Origin::Flags,
        };
        let request = v1::MigrateRequest {
            request_id: request_id.to_owned(),
            spec: serde_json::to_string(&spec).unwrap(),
            plan_only: false,
            confirmed: false,
        };
        let call = |channel| {
            let request = request.clone();
            async move { control_client(channel).migrate(request).await }
        };
        let answer = self.operator.call(PATIENCE, call).await?;
        Ok(serde_json::from_str(&answer.document).unwrap())
    }

    async fn stop(self) {
        tokio::time::timeout(PATIENCE, self.node.stop()).await.unwrap();
    }
}

fn operator(contexts: &std::path::Path, address: SocketAddr) -> Coordinators {
    let contexts = Contexts::open(contexts).unwrap();
    let context = contexts.find(std::path::Path::new("x"), None).unwrap();
    let identity = Identity::from_pem(&context.certificate, &context.key).unwrap();
    let authority = tls::certificates_of_pem(&context.ca_certificate).unwrap().remove(0);
    let tls = tls::client_config(identity, &authority, ALPN_GRPC).unwrap();
    Coordinators::new(vec![address.to_string()], Arc::new(tls))
}

fn kind<T>(result: Result<T, Failure>) -> Option<FailureKind> {
    result.err().map(|failure| failure.kind)
}

/// An agent of a few lines: its end of a session.
struct Agent {
    host: String,
    outbound: mpsc::Sender<AgentMessage>,
    inbound: Streaming<CoordinatorMessage>,
    events: u64,
}

impl Agent {
    async fn connect(way: &Coordinators, host: &str, incarnation: u64) -> Result<Self, Failure> {
        let steps = [common::step::StepKind::FileCopy, common::step::StepKind::FileVerify];
        let facts = HostFacts {
            boot_id: format!("boot of {host}"),
            data_addresses: vec!["127.0.0.1:7443".parse().unwrap()],
            steps: steps.map(|kind| StepVersion { kind, version: 1 }).to_vec(),
            ..HostFacts::default()
        };
        let hello = v1::Hello {
            protocol: proto::PROTOCOL,
            incarnation,
            facts: serde_json::to_string(&facts).unwrap(),
            held: Vec::new(),
        };
        let opened = std::sync::Mutex::new(None);
        let inbound = way
            .call(PATIENCE, |channel| {
                let (outbound, stream) = mpsc::channel(16);
                let hello = AgentMessage { message: Some(FromAgent::Hello(hello.clone())) };
                outbound.try_send(hello).unwrap();
                *opened.lock().unwrap() = Some(outbound);
                async move { agent_client(channel).session(ReceiverStream::new(stream)).await }
            })
            .await?;
        let outbound = opened.into_inner().unwrap().unwrap();
        let mut agent = Self { host: host.to_owned(), outbound, inbound, events: 0 };
        assert!(matches!(agent.next().await, Some(ToAgent::Welcome(_))));
        Ok(agent)
    }

    async fn send(&self, message: FromAgent) {
        self.outbound.send(AgentMessage { message: Some(message) }).await.unwrap();
    }

    /// Returns the next message; none when the session has ended.
    async fn next(&mut self) -> Option<ToAgent> {
        let next = tokio::time::timeout(PATIENCE, self.inbound.message()).await.unwrap();
        next.ok().flatten().and_then(|message| message.message)
    }

    /// Answers questions about roots, all of which exist on one file system, until something else comes.
    async fn next_but_roots(&mut self) -> Option<ToAgent> {
        loop {
            match self.next().await? {
                ToAgent::Question(v1::Question { number, question: Some(Question::Root(question)) }) => {
                    let answer = v1::answer::Answer::Document(self.root(&question));
                    self.send(FromAgent::Answer(v1::Answer { number, answer: Some(answer) })).await;
                }
                other => return Some(other),
            }
        }
    }

    /// A root is known by its path here; an ancestor is a shorter path.
    fn root(&self, question: &str) -> String {
        let RootQuestion { path, .. } = serde_json::from_str(question).unwrap();
        let identity = |path: &str| RootIdentity {
            boot_id: format!("boot of {}", self.host),
            device: 1,
            inode: u64::from_le_bytes(Digest::of(path.as_bytes()).as_bytes()[..8].try_into().unwrap()),
        };
        let ancestors = path.match_indices('/').rev().map(|(at, _)| identity(&path[..at])).collect();
        let answer = RootAnswer {
            exists: true,
            canonical_path: path.clone(),
            identity: Some(identity(&path)),
            ancestors,
            missing: Vec::new(),
            free_bytes: 1 << 40,
            free_inodes: 1 << 20,
            fs_type: "ext4".to_owned(),
            findings: Vec::new(),
        };
        serde_json::to_string(&answer).unwrap()
    }

    async fn succeed(&mut self, grant: &v1::Grant, output: &FileOutput) {
        self.events += 1;
        let event = v1::step_event::Event::Succeeded(serde_json::to_string(output).unwrap());
        self.send(FromAgent::Event(v1::StepEvent {
            number: self.events,
            migration: grant.migration.clone(),
            step: grant.step.clone(),
            token: grant.token,
            event: Some(event),
        }))
        .await;
        let acknowledged = self.next_but_roots().await;
        assert!(
            matches!(acknowledged, Some(ToAgent::Acknowledge(v1::Acknowledge { number })) if number == self.events)
        );
    }
}

async fn connect(cluster: &Cluster, name: &str) -> (Coordinators, Agent) {
    let (key, certificate) = cluster.join(name).await;
    let way = cluster.way_of(certificate, &key);
    let agent = Agent::connect(&way, name, 1).await.unwrap();
    (way, agent)
}

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
    let digest = token.digest(hub.cluster_key.expose(), &token.principal("web1").unwrap());
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
async fn wait_for_address(cluster: &Cluster) -> String {
    loop {
        let members = cluster.node.hub().raft.member_views();
        match members.first() {
            Some(member) if !member.raft_address.ends_with(":0") => return member.raft_address.clone(),
            Some(_) | None => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn a_session_is_seen_replaced_and_cut_by_a_revocation() {
    let cluster = Cluster::start().await;
    let (way, mut first) = connect(&cluster, "web1").await;
    let seen = cluster.host("web1").await;
    assert!(seen.connected && seen.status == HostStatus::Enrolled);
    assert_eq!(seen.facts.unwrap().boot_id, "boot of web1");
    let mut second = Agent::connect(&way, "web1", 2).await.unwrap();
    assert!(first.next().await.is_none(), "the older session goes on");
    let refused = Agent::connect(&way, "web1", 1).await.err().unwrap();
    assert_eq!(refused.kind, FailureKind::Fenced, "an earlier start of the agent: {refused}");
    let request = v1::HostRequest { host: "web1".to_owned() };
    let revoke = |channel| {
        let request = request.clone();
        async move { control_client(channel).revoke_host(request).await }
    };
    cluster.operator.call(PATIENCE, revoke).await.unwrap();
    assert!(second.next().await.is_none(), "the session of a revoked host goes on");
    assert!(Agent::connect(&way, "web1", 3).await.is_err());
    assert!(!cluster.host("web1").await.connected);
    cluster.stop().await;
}

/// Reports progress, renews the lease and one that nobody holds, and looks at the view.
async fn report_and_renew(cluster: &Cluster, destination: &mut Agent, copy: &v1::Grant) {
    let progress = Progress { files_done: 5, files_total: 10, is_scan_complete: true, ..Progress::default() };
    let held = (copy.migration.clone(), copy.step.clone(), copy.token);
    destination
        .send(FromAgent::Progress(v1::StepProgress {
            migration: held.0.clone(),
            step: held.1.clone(),
            token: held.2,
            progress: serde_json::to_string(&progress).unwrap(),
        }))
        .await;
    let lease = v1::HeldLease { migration: held.0, step: held.1, token: held.2 };
    let foreign = v1::HeldLease { token: Some(v1::Token { epoch: 1, index: 1 }), ..lease.clone() };
    destination
        .send(FromAgent::Heartbeat(v1::Heartbeat { number: 1, renew: vec![lease, foreign], wall_ms: 0 }))
        .await;
    let Some(ToAgent::Renewed(renewed)) = destination.next_but_roots().await else { panic!("no renewal") };
    assert_eq!(renewed.leases.len(), 1);
    assert_eq!(renewed.leases[0].token, copy.token);
    assert!(
        matches!(destination.next_but_roots().await, Some(ToAgent::Revoke(_))),
        "a lease that nobody holds"
    );
    let view: MigrationView = {
        let request = v1::MigrationRequest { migration: copy.migration.clone() };
        let call = |channel| {
            let request = request.clone();
            async move { control_client(channel).get_migration(request).await }
        };
        serde_json::from_str(&cluster.operator.call(PATIENCE, call).await.unwrap().document).unwrap()
    };
    assert_eq!((view.status, view.files_done), (MigrationStatus::Running, 5));
}

/// Asks for a migration between two connected agents and returns the first grant.
async fn begin(cluster: &Cluster, source: &mut Agent, destination: &mut Agent) -> (MigrationView, v1::Grant) {
    let asking = cluster.migrate("r1", "web1:/var/www", "web2:/srv/www");
    // Both agents answer about their roots while the operator waits.
    let (made, grant) = tokio::join!(asking, async {
        tokio::select! {
            _ = source.next_but_roots() => None,
            grant = destination.next_but_roots() => grant,
        }
    });
    let Some(ToAgent::Grant(grant)) = grant else { panic!("{grant:?} instead of a grant") };
    (made.unwrap(), grant)
}

#[tokio::test]
async fn an_agent_that_started_again_is_granted_anew_at_once() {
    let cluster = Cluster::start().await;
    let (_, mut source) = connect(&cluster, "web1").await;
    let (way, mut destination) = connect(&cluster, "web2").await;
    let (_, first) = begin(&cluster, &mut source, &mut destination).await;
    let mut again = Agent::connect(&way, "web2", 2).await.unwrap();
    let Some(ToAgent::Grant(second)) = again.next_but_roots().await else { panic!("no second grant") };
    assert_eq!((second.step.as_str(), second.attempt), (first.step.as_str(), 2));
    let index = |grant: &v1::Grant| grant.token.map(|token| (token.epoch, token.index));
    assert!(index(&second) > index(&first), "the second fence is not above the first");
    // What the first start still says about its lease counts for nothing, and is acknowledged.
    again.succeed(&first, &FileOutput { version: 1, ..FileOutput::default() }).await;
    assert_eq!(cluster.host("web2").await.steps_running, 1);
    cluster.stop().await;
}

#[tokio::test]
async fn a_migration_runs_from_the_spec_to_the_settled_end() {
    let cluster = Cluster::start().await;
    let (_, mut source) = connect(&cluster, "web1").await;
    let (_, mut destination) = connect(&cluster, "web2").await;
    let (made, copy) = begin(&cluster, &mut source, &mut destination).await;
    assert_eq!((copy.migration.as_str(), copy.kind.as_str()), (made.id.as_str(), "file.copy@1"));
    let ticket = Ticket::open(&copy.ticket, &cluster.authority()).unwrap();
    assert_eq!((ticket.source_root.as_str(), ticket.destination.as_str()), ("/var/www", "web2"));
    let token = copy.token.map(|token| FencingToken { epoch: token.epoch, index: token.index });
    assert_eq!(Some(ticket.token), token);
    // A repeated request finds the migration that it made.
    assert_eq!(cluster.migrate("r1", "web1:/var/www", "web2:/srv/www").await.unwrap().id, made.id);

    report_and_renew(&cluster, &mut destination, &copy).await;

    let output = FileOutput {
        version: 1,
        files_total: 10,
        files_sent: 10,
        is_verified: true,
        ..FileOutput::default()
    };
    destination.succeed(&copy, &output).await;
    let Some(ToAgent::Grant(verify)) = destination.next_but_roots().await else {
        panic!("no grant of verify")
    };
    assert_eq!(verify.kind, "file.verify@1");
    assert_eq!(verify.inputs.get(&copy.step).map(String::is_empty), Some(false));
    destination.succeed(&verify, &output).await;
    let Some(ToAgent::Question(v1::Question { number, question: Some(Question::Settle(_)) })) =
        destination.next_but_roots().await
    else {
        panic!("the way back was not settled")
    };
    let answer = Some(v1::answer::Answer::Document("{}".to_owned()));
    destination.send(FromAgent::Answer(v1::Answer { number, answer })).await;

    let request = v1::MigrationRequest { migration: copy.migration.clone() };
    let call = |channel| {
        let request = request.clone();
        async move { control_client(channel).watch_migration(request).await }
    };
    let mut views = cluster.operator.call(PATIENCE, call).await.unwrap();
    let mut last = None;
    while let Some(view) = views.message().await.unwrap() {
        last = Some(serde_json::from_str::<MigrationView>(&view.document).unwrap());
    }
    let last = last.unwrap();
    assert_eq!((last.status, last.exit_code, last.verified), (MigrationStatus::Completed, Some(0), true));
    cluster.stop().await;
}

#[tokio::test]
async fn roots_that_hold_each_other_or_are_taken_are_refused() {
    let cluster = Cluster::start().await;
    let (_, mut agent) = connect(&cluster, "web1").await;
    let (_, mut other) = connect(&cluster, "web2").await;
    let answering = async {
        loop {
            tokio::select! {
                _ = agent.next_but_roots() => {}
                _ = other.next_but_roots() => {}
            }
        }
    };
    let asking = async {
        let invalid = Some(FailureKind::Invalid);
        assert_eq!(kind(cluster.migrate("r1", "web1:/a", "web1:/a").await), invalid);
        assert_eq!(kind(cluster.migrate("r2", "web1:/a", "web1:/a/b").await), invalid);
        assert_eq!(kind(cluster.migrate("r3", "web1:/a/b", "web1:/a").await), invalid);
        assert_eq!(kind(cluster.migrate("r4", "web1:/a", "web9:/a").await), Some(FailureKind::NotFound));
        cluster.migrate("r5", "web1:/a", "web2:/b").await.unwrap();
        let conflict = Some(FailureKind::Conflict);
        assert_eq!(kind(cluster.migrate("r6", "web1:/c", "web2:/b").await), conflict);
        assert_eq!(kind(cluster.migrate("r7", "web1:/c", "web2:/b/d").await), conflict);
    };
    tokio::select! {
        () = answering => {}
        () = asking => {}
    }
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
    let Cluster { _directory: directory, node, .. } = cluster;
    node.stop().await;
    std::fs::remove_file(&sources.file).unwrap();
    let missing = Node::start(&settings, &sources).await.err().unwrap();
    assert!(missing.message.contains("no cluster key"), "{missing}");
    sources.store(&crate::vault::keyring::ClusterKey::new([9; 32])).unwrap();
    let wrong = Node::start(&settings, &sources).await.err().unwrap();
    assert!(wrong.message.contains("another cluster key"), "{wrong}");
    drop(directory);
}
