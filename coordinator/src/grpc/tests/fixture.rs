//! A cluster of one node behind real ports, and agents that are a few lines each.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::account::{NewKeyView, UserView};
use common::context::Contexts;
use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::host::HostFacts;
use common::id::TenantId;
use common::role::Role;
use common::secret::Secret;
use common::spec::{MigrationSpec, Origin, SideSpec};
use common::step::StepVersion;
use common::step::file::{FileOutput, RootAnswer, RootIdentity, RootQuestion};
use common::tls::{self, ALPN_GRPC, Identity};
use common::view::{HostView, JoinView, MigrationView};
use proto::channel::{Coordinators, Way, access_client, agent_client, control_client};
use proto::shown::Shown;
use proto::v1::access_service_client::AccessServiceClient;
use proto::v1::agent_message::Message as FromAgent;
use proto::v1::coordinator_message::Message as ToAgent;
use proto::v1::question::Question;
use proto::v1::{self, AgentMessage, CoordinatorMessage, EnrollRequest, EnrollResponse};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::config::Settings;
use crate::init::init;
use crate::node::Node;
use crate::vault::keyring::KeySources;

/// How long anything may take on a machine that is busy with twenty other things.
pub(super) const PATIENCE: Duration = Duration::from_secs(180);

pub(super) struct Cluster {
    pub(super) directory: tempfile::TempDir,
    pub(super) settings: Settings,
    pub(super) sources: KeySources,
    pub(super) node: Node,
    pub(super) operator: Coordinators,
    /// Who shows nothing, over one connection.
    strangers: Coordinators,
}
impl Cluster {
    pub(super) async fn start() -> Self {
        Self::start_with(|_directory, _settings| {}).await
    }

    pub(super) async fn start_with(change: impl FnOnce(&std::path::Path, &mut Settings)) -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Settings {
            name: "n1".parse().unwrap(),
            state_dir: directory.path().join("state"),
            listen_api: "127.0.0.1:0".parse().unwrap(),
            listen_raft: "127.0.0.1:0".parse().unwrap(),
            ..Settings::default()
        };
        change(directory.path(), &mut settings);
        let sources = KeySources { file: settings.cluster_key_file(), ..KeySources::default() };
        let contexts = directory.path().join("contexts.toml");
        init(&settings, &sources, &contexts, "test").await.unwrap();
        let node = loop {
            match Node::start(&settings, &sources).await {
                Ok(node) => break node,
                // A program that another test starts holds the lock of the log too, until it begins.
                Err(failure) if failure.message.contains("could not acquire lock") => {
                    tokio::task::yield_now().await;
                }
                Err(failure) => panic!("{failure}"),
            }
        };
        let operator = operator(&contexts, node.api_address());
        let authority = node.hub().seals().unwrap().authority.certificate().clone();
        let tls = tls::keyed::client_config(&authority, ALPN_GRPC).unwrap();
        let strangers = Coordinators::new(vec![node.api_address().to_string()], Arc::new(tls));
        Self { directory, settings, sources, node, operator, strangers }
    }

    pub(super) fn authority(&self) -> CertificateDer<'static> {
        self.node.hub().seals().unwrap().authority.certificate().clone()
    }

    pub(super) fn way(&self, tls: rustls::ClientConfig) -> Coordinators {
        Coordinators::new(vec![self.node.api_address().to_string()], Arc::new(tls))
    }

    /// The way of a caller who shows this certificate.
    pub(super) fn way_of(&self, certificate: CertificateDer<'static>, key: &KeyPair) -> Coordinators {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let identity = Identity::new(vec![certificate], key).unwrap();
        self.way(tls::client_config(identity, &self.authority(), ALPN_GRPC).unwrap())
    }

    /// The way of a caller who shows no certificate, and nothing else.
    pub(super) fn anonymous(&self) -> Coordinators {
        self.way(tls::keyed::client_config(&self.authority(), ALPN_GRPC).unwrap())
    }

    pub(super) fn shown(&self, key: Option<&str>, tenant: Option<&str>) -> Shown {
        let key = key.map(|key| Secret::new(key.to_owned()));
        let tenant: Option<TenantId> = tenant.map(|tenant| tenant.parse().unwrap());
        Shown::new(key.as_ref(), tenant.as_ref()).unwrap()
    }

    /// The way of a caller with an API key.
    pub(super) fn keyed(&self, key: &str, tenant: Option<&str>) -> Coordinators {
        self.anonymous().showing(self.shown(Some(key), tenant))
    }

    /// The operator's way into another tenant.
    pub(super) async fn operate_in<T, F, Fut>(&self, tenant: &str, call: F) -> T
    where
        F: Fn(AccessServiceClient<Way>) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        let contexts = self.directory.path().join("contexts.toml");
        let way = operator(&contexts, self.node.api_address()).showing(self.shown(None, Some(tenant)));
        way.call(PATIENCE, |way| call(access_client(way))).await.unwrap()
    }

    pub(super) async fn create_tenant(&self, name: &str) {
        let request = v1::TenantRequest { name: name.to_owned() };
        let call = |mut client: AccessServiceClient<Way>| {
            let request = request.clone();
            async move { client.create_tenant(request).await }
        };
        self.operate_in("default", call).await;
    }

    /// Makes an API key and returns its text.
    pub(super) async fn create_key(&self, tenant: &str, role: Role, scope: &[&str]) -> String {
        let scope = scope.iter().map(|&item| item.to_owned()).collect();
        let grant = Some(v1::RoleGrant { role: role.to_string(), scope });
        let request = v1::CreateKeyRequest { name: "test".to_owned(), grant, lifetime_ms: 3_600_000 };
        let call = |mut client: AccessServiceClient<Way>| {
            let request = request.clone();
            async move { client.create_key(request).await }
        };
        document::<NewKeyView>(&self.operate_in(tenant, call).await).key
    }

    pub(super) async fn create_user(&self, tenant: &str, name: &str, role: Role, password: &str) {
        let grant = Some(v1::RoleGrant { role: role.to_string(), scope: Vec::new() });
        let (name, password) = (name.to_owned(), password.to_owned());
        let request = v1::CreateUserRequest { name, grant, password };
        let call = |mut client: AccessServiceClient<Way>| {
            let request = v1::CreateUserRequest {
                name: request.name.clone(),
                grant: request.grant.clone(),
                password: request.password.clone(),
            };
            async move { client.create_user(request).await }
        };
        self.operate_in(tenant, call).await;
    }

    pub(super) async fn disable(&self, name: &str, disable: bool) -> UserView {
        let request = v1::DisableUserRequest { name: name.to_owned(), disable };
        let call = |mut client: AccessServiceClient<Way>| {
            let request = request.clone();
            async move { client.disable_user(request).await }
        };
        document(&self.operate_in("default", call).await)
    }

    /// Logs in with a password and returns the certificate and its key.
    pub(super) async fn login(
        &self,
        tenant: &str,
        name: &str,
        password: &str,
    ) -> Result<(CertificateDer<'static>, KeyPair), Failure> {
        let key = KeyPair::generate().unwrap();
        let certificate_request =
            CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        let request = v1::LoginRequest {
            tenant: tenant.to_owned(),
            name: name.to_owned(),
            password: password.to_owned(),
            certificate_request,
        };
        let answered = self.strangers.call(PATIENCE, |way| {
            let request = request.clone();
            async move { access_client(way).login(request).await }
        });
        Ok((CertificateDer::from(answered.await?.certificate), key))
    }

    pub(super) async fn invite(&self, host: &str) -> JoinView {
        let request = v1::HostRequest { host: host.to_owned() };
        let call = |channel| {
            let request = request.clone();
            async move { control_client(channel).enroll_host(request).await }
        };
        serde_json::from_str(&self.operator.call(PATIENCE, call).await.unwrap().document).unwrap()
    }

    pub(super) async fn enroll(
        &self,
        token: &str,
        name: &str,
        key: &KeyPair,
    ) -> Result<EnrollResponse, Failure> {
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
    pub(super) async fn join(&self, name: &str) -> (KeyPair, CertificateDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let token = self.invite(name).await.token;
        let answer = self.enroll(&token, name, &key).await.unwrap();
        (key, CertificateDer::from(answer.certificate))
    }

    pub(super) async fn host(&self, name: &str) -> HostView {
        let request = v1::HostRequest { host: name.to_owned() };
        let call = |channel| {
            let request = request.clone();
            async move { control_client(channel).get_host(request).await }
        };
        serde_json::from_str(&self.operator.call(PATIENCE, call).await.unwrap().document).unwrap()
    }

    pub(super) async fn migrate(
        &self,
        request_id: &str,
        source: &str,
        destination: &str,
    ) -> Result<MigrationView, Failure> {
        self.migrate_sanitized(request_id, source, destination, None).await
    }

    pub(super) async fn migrate_sanitized(
        &self,
        request_id: &str,
        source: &str,
        destination: &str,
        sanitize: Option<common::sanitize::Sanitize>,
    ) -> Result<MigrationView, Failure> {
        self.migrate_by(&self.operator, request_id, &Self::spec(source, destination, sanitize)).await
    }

    pub(super) fn spec(
        source: &str,
        destination: &str,
        sanitize: Option<common::sanitize::Sanitize>,
    ) -> MigrationSpec {
        let side = |location: &str| SideSpec {
            location: location.parse().unwrap(),
            exclude: Vec::new(),
            include: Vec::new(),
        };
        MigrationSpec {
            version: 1,
            name: "test".to_owned(),
            source: side(source),
            destination: side(destination),
            transfer: common::spec::TransferSpec::default(),
            options: common::spec::OptionsSpec::default(),
            sanitize,
            origin: Origin::Flags,
            labels: common::grant::Labels::new(),
        }
    }

    pub(super) async fn migrate_by(
        &self,
        way: &Coordinators,
        request_id: &str,
        spec: &MigrationSpec,
    ) -> Result<MigrationView, Failure> {
        let request = v1::MigrateRequest {
            request_id: request_id.to_owned(),
            spec: serde_json::to_string(spec).unwrap(),
            plan_only: false,
            confirmed: false,
        };
        let call = |channel| {
            let request = request.clone();
            async move { control_client(channel).migrate(request).await }
        };
        let answer = way.call(PATIENCE, call).await?;
        Ok(serde_json::from_str(&answer.document).unwrap())
    }

    pub(super) async fn stop(self) {
        tokio::time::timeout(PATIENCE, self.node.stop()).await.unwrap();
    }
}
pub(super) fn operator(contexts: &std::path::Path, address: SocketAddr) -> Coordinators {
    let contexts = Contexts::open(contexts).unwrap();
    let context = contexts.find(std::path::Path::new("x"), None).unwrap();
    let identity = Identity::from_pem(&context.certificate, &context.key).unwrap();
    let authority = tls::certificates_of_pem(&context.ca_certificate).unwrap().remove(0);
    let tls = tls::client_config(identity, &authority, ALPN_GRPC).unwrap();
    Coordinators::new(vec![address.to_string()], Arc::new(tls))
}
/// Reads a document.
pub(super) fn document<T: serde::de::DeserializeOwned>(document: &v1::Document) -> T {
    serde_json::from_str(&document.document).unwrap()
}

pub(super) fn kind<T>(result: Result<T, Failure>) -> Option<FailureKind> {
    result.err().map(|failure| failure.kind)
}
/// An agent of a few lines: its end of a session.
pub(super) struct Agent {
    pub(super) host: String,
    pub(super) outbound: mpsc::Sender<AgentMessage>,
    pub(super) inbound: Streaming<CoordinatorMessage>,
    pub(super) events: u64,
    /// What it was told of the other side of a step, and not asked for yet.
    pub(super) introductions: VecDeque<ToAgent>,
}
impl Agent {
    pub(super) async fn connect(way: &Coordinators, host: &str, incarnation: u64) -> Result<Self, Failure> {
        Self::connect_showing(way, host, incarnation, (Vec::new(), Vec::new())).await
    }

    /// Connects an agent that shows a key for secrets, and a signature.
    pub(super) async fn connect_showing(
        way: &Coordinators,
        host: &str,
        incarnation: u64,
        (sealing_key, sealing_signature): (Vec<u8>, Vec<u8>),
    ) -> Result<Self, Failure> {
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
            sealing_key,
            sealing_signature,
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
        let (host, introductions) = (host.to_owned(), VecDeque::new());
        let mut agent = Self { host, outbound, inbound, events: 0, introductions };
        assert!(matches!(agent.next().await, Some(ToAgent::Welcome(_))));
        Ok(agent)
    }

    pub(super) async fn send(&self, message: FromAgent) {
        self.outbound.send(AgentMessage { message: Some(message) }).await.unwrap();
    }

    /// Returns the next message; none when the session has ended.
    pub(super) async fn next(&mut self) -> Option<ToAgent> {
        let next = tokio::time::timeout(PATIENCE, self.inbound.message()).await.unwrap();
        next.ok().flatten().and_then(|message| message.message)
    }

    /// Answers questions about roots, all of which exist on one file system, until something else comes.
    pub(super) async fn next_but_roots(&mut self) -> Option<ToAgent> {
        loop {
            match self.next().await? {
                ToAgent::Question(v1::Question { number, question: Some(Question::Root(question)) }) => {
                    let answer = v1::answer::Answer::Document(self.root(&question));
                    self.send(FromAgent::Answer(v1::Answer { number, answer: Some(answer) })).await;
                }
                introduction @ (ToAgent::Serve(_) | ToAgent::PeerSeen(_)) => {
                    self.introductions.push_back(introduction);
                }
                other => return Some(other),
            }
        }
    }

    /// Returns the next that this agent is told of the other side of a step.
    pub(super) async fn introduction(&mut self) -> ToAgent {
        loop {
            if let Some(introduction) = self.introductions.pop_front() {
                return introduction;
            }
            match self.next().await {
                Some(introduction @ (ToAgent::Serve(_) | ToAgent::PeerSeen(_))) => return introduction,
                Some(ToAgent::Grant(_) | ToAgent::Revoke(_)) => {}
                other => panic!("{other:?} instead of an introduction"),
            }
        }
    }

    /// A root is known by its path here; an ancestor is a shorter path.
    pub(super) fn root(&self, question: &str) -> String {
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

    pub(super) async fn succeed(&mut self, grant: &v1::Grant, output: &FileOutput) {
        let output = serde_json::to_string(output).unwrap();
        self.tell(grant, v1::step_event::Event::Succeeded(output)).await;
    }

    /// Reports an event of a step, which is acknowledged.
    pub(super) async fn tell(&mut self, grant: &v1::Grant, event: v1::step_event::Event) {
        self.events += 1;
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
pub(super) async fn connect(cluster: &Cluster, name: &str) -> (Coordinators, Agent) {
    let (key, certificate) = cluster.join(name).await;
    let way = cluster.way_of(certificate, &key);
    let agent = Agent::connect(&way, name, 1).await.unwrap();
    (way, agent)
}
