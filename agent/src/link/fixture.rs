//! An authority and a coordinator for tests: the real services over real TLS, on loopback.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::id::TenantId;
use common::principal::Principal;
use common::shutdown::Shutdown;
use common::tls::{self, ALPN_GRPC, Clients, Identity, server_name_of, uris_of};
use proto::channel::Coordinators;
use proto::v1;
use proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    SanType,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use super::membership::{self, Issued, Membership};

/// A cluster's authority.
pub(crate) struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Arc<Self> {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Arc::new(Self { certificate, issuer: Issuer::new(params, key) })
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.certificate)
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// Issues an agent's certificate.
    pub(crate) fn issue(&self, host: &str, key: &KeyPair, generation: u64) -> Issued {
        let request = membership::request_of(key).unwrap();
        let certificate = self.sign(&request, &agent(host), generation);
        Issued {
            certificate,
            ca_certificate: self.certificate.to_vec(),
            generation,
            coordinators: vec!["127.0.0.1:1".to_owned()],
        }
    }

    fn sign(&self, request: &[u8], principal: &Principal, generation: u64) -> Vec<u8> {
        let request = CertificateSigningRequestDer::from(request.to_vec());
        let mut request = CertificateSigningRequestParams::from_der(&request).unwrap();
        request.params = params(principal, generation);
        request.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    fn node(&self) -> Arc<Identity> {
        let key = KeyPair::generate().unwrap();
        let params = params(&Principal::Node { name: "n1".parse().unwrap() }, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let chain = vec![certificate, self.certificate.clone()];
        Identity::new(chain, PrivateKeyDer::try_from(key.serialize_der()).unwrap()).unwrap()
    }
}

fn agent(host: &str) -> Principal {
    Principal::Agent { tenant: TenantId::default_tenant(), host: host.parse().unwrap() }
}

fn params(principal: &Principal, generation: u64) -> CertificateParams {
    let name = server_name_of(principal).unwrap();
    let mut params = CertificateParams::new(vec![name]).unwrap();
    for uri in uris_of("c1", principal, Some(generation)) {
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    }
    params
}

/// A host that has joined.
pub(crate) struct Joined {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) identity: Arc<Identity>,
    pub(crate) coordinators: Arc<Coordinators>,
}

/// Makes a host `web1` that has joined the cluster of this coordinator.
pub(crate) fn joined(authority: &Authority, coordinator: &FakeCoordinator) -> Joined {
    let directory = tempfile::tempdir().unwrap();
    let key = membership::next_key(directory.path()).unwrap();
    let issued =
        Issued { coordinators: vec![coordinator.address.to_string()], ..authority.issue("web1", &key, 1) };
    let membership =
        Membership::of_join("web1".parse().unwrap(), TenantId::default_tenant(), issued, &key).unwrap();
    membership.save(directory.path()).unwrap();
    membership::forget_next_key(directory.path()).unwrap();
    let identity = membership.identity().unwrap();
    let config = tls::client_config(Arc::clone(&identity), &authority.certificate, ALPN_GRPC).unwrap();
    let coordinators = Coordinators::new(membership.coordinators.clone(), Arc::new(config));
    Joined { directory, identity, coordinators: Arc::new(coordinators) }
}

/// One session as the coordinator sees it.
pub(crate) struct SessionSeen {
    pub(crate) hello: v1::Hello,
    from: Streaming<v1::AgentMessage>,
    to: mpsc::Sender<Result<v1::CoordinatorMessage, Status>>,
}

impl SessionSeen {
    /// Says something to the agent.
    pub(crate) async fn say(&self, message: v1::coordinator_message::Message) {
        self.to.send(Ok(v1::CoordinatorMessage { message: Some(message) })).await.unwrap();
    }

    /// Returns the next message of the agent.
    pub(crate) async fn hear(&mut self) -> v1::agent_message::Message {
        self.from.message().await.unwrap().unwrap().message.unwrap()
    }

    /// Returns the next message that `pick` takes, and passes over others.
    pub(crate) async fn hear_until<T>(
        &mut self,
        pick: impl Fn(v1::agent_message::Message) -> Option<T>,
    ) -> T {
        loop {
            if let Some(picked) = pick(self.hear().await) {
                return picked;
            }
        }
    }
}

/// A coordinator that accepts the token `one-time`, renews, and hands its sessions to the test.
pub(crate) struct FakeCoordinator {
    pub(crate) address: SocketAddr,
    service: Service,
    sessions: tokio::sync::Mutex<mpsc::Receiver<SessionSeen>>,
    shutdown: Shutdown,
}

impl Drop for FakeCoordinator {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl FakeCoordinator {
    pub(crate) async fn start(authority: &Arc<Authority>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config =
            tls::server_config(authority.node(), &authority.certificate, Clients::Joining, ALPN_GRPC)
                .unwrap();
        let (seen, sessions) = mpsc::channel(8);
        let service =
            Service { authority: Arc::clone(authority), seen, joins: Arc::default(), keys: Arc::default() };
        let (accepted, incoming) = mpsc::channel(8);
        let (shutdown, acceptor) = (Shutdown::new(), TlsAcceptor::from(Arc::new(config)));
        let accepting = shutdown.clone();
        shutdown.spawn(async move {
            loop {
                let (stream, _) = tokio::select! {
                    () = accepting.cancelled() => return,
                    accept = listener.accept() => accept.unwrap(),
                };
                if let Ok(stream) = acceptor.accept(stream).await {
                    accepted.send(Ok::<_, io::Error>(Accepted(stream))).await.ok();
                }
            }
        });
        let (serving, server) = (shutdown.clone(), AgentServiceServer::new(service.clone()));
        shutdown.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(server);
            let incoming = ReceiverStream::new(incoming);
            tokio::select! {
                () = serving.cancelled() => {}
                served = server.serve_with_incoming(incoming) => served.unwrap(),
            }
        });
        Self { address, service, sessions: tokio::sync::Mutex::new(sessions), shutdown }
    }

    /// Returns the next session, after its hello and before its welcome.
    pub(crate) async fn session(&self) -> SessionSeen {
        self.sessions.lock().await.recv().await.unwrap()
    }

    /// Whether no agent said hello since the last one that was taken.
    pub(crate) fn has_no_session(&self) -> bool {
        self.sessions.try_lock().unwrap().is_empty()
    }

    pub(crate) fn tokens_seen(&self) -> Vec<String> {
        self.joins_seen().into_iter().map(|join| join.token).collect()
    }

    /// Returns all that hosts have said to join.
    pub(crate) fn joins_seen(&self) -> Vec<v1::EnrollRequest> {
        self.service.joins.lock().unwrap().clone()
    }

    /// Returns the requests for certificates of all renewals.
    pub(crate) fn renewed_keys(&self) -> Vec<Vec<u8>> {
        self.service.keys.lock().unwrap().clone()
    }
}

#[derive(Clone)]
struct Service {
    authority: Arc<Authority>,
    seen: mpsc::Sender<SessionSeen>,
    joins: Arc<Mutex<Vec<v1::EnrollRequest>>>,
    keys: Arc<Mutex<Vec<Vec<u8>>>>,
}

#[tonic::async_trait]
impl AgentService for Service {
    async fn enroll(
        &self,
        request: Request<v1::EnrollRequest>,
    ) -> Result<Response<v1::EnrollResponse>, Status> {
        let request = request.into_inner();
        self.joins.lock().unwrap().push(request.clone());
        if request.token != "one-time" {
            let failure = Failure::new(FailureKind::Unauthenticated, "the token does not count");
            return Err(proto::status::to_status(&failure));
        }
        Ok(Response::new(v1::EnrollResponse {
            certificate: self.authority.sign(&request.certificate_request, &agent(&request.name), 1),
            ca_certificate: self.authority.certificate.to_vec(),
            coordinators: vec!["127.0.0.1:7400".to_owned()],
            tenant: "default".to_owned(),
            generation: 1,
            node_document: String::new(),
        }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let request = request.into_inner();
        let generation = request.generation + 1;
        let certificate = self.authority.sign(&request.certificate_request, &agent("web1"), generation);
        self.keys.lock().unwrap().push(request.certificate_request);
        let ca_certificate = self.authority.certificate.to_vec();
        Ok(Response::new(v1::RenewResponse {
            certificate,
            ca_certificate,
            generation,
            coordinators: Vec::new(),
        }))
    }

    type SessionStream = ReceiverStream<Result<v1::CoordinatorMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut from = request.into_inner();
        let Some(v1::agent_message::Message::Hello(hello)) =
            from.message().await?.and_then(|first| first.message)
        else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (to, stream) = mpsc::channel(8);
        self.seen.send(SessionSeen { hello, from, to }).await.unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// An accepted connection; tonic wants to be asked about it.
struct Accepted(TlsStream<TcpStream>);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
