//! A coordinator of scripted answers behind real TLS, for tests.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};

use common::context::{Context, Contexts};
use common::failure::Failure;
use common::principal::Principal;
use common::shutdown::Shutdown;
use common::tls::{self, ALPN_GRPC, Clients, Identity};
use common::view::{HostView, MigrationView};
use proto::status::to_status;
use proto::v1::control_service_server::{ControlService, ControlServiceServer};
use proto::v1::{
    ActRequest, ClusterRequest, Document, DrainRequest, HostRequest, LimitHostRequest, MigrateRequest,
    MigrationRequest, NodeRequest, Page, PageRequest, Piece, SetMigrationRequest,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use crate::context::CommandContext;
use crate::output::{Format, Output, Verbosity};
use crate::settings::Settings;

/// What is answered, in order; a question too many is refused as a bug.
#[derive(Debug, Default)]
pub(crate) struct Script {
    /// Each watch shows these views and then breaks off, unless the last is an end.
    pub(crate) watches: VecDeque<Vec<MigrationView>>,
    /// Answers to `Migrate` and `Act`.
    pub(crate) changes: VecDeque<Result<MigrationView, Failure>>,
    /// Answers to `GetMigration`; without one it comes from another version.
    pub(crate) migrations: VecDeque<MigrationView>,
    /// Pages of hosts.
    pub(crate) hosts: VecDeque<Vec<HostView>>,
    /// Pieces of the one long list.
    pub(crate) list: Vec<Vec<u8>>,
    /// What was asked, one line each.
    pub(crate) asked: Vec<String>,
}

/// A coordinator that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Fake {
    script: Arc<Mutex<Script>>,
    directory: TempDir,
    shutdown: Shutdown,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Fake {
    /// Starts a coordinator on a free port, with a cluster CA and an operator of its own.
    pub(crate) async fn start(script: Script) -> Self {
        let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "a fake cluster");
        let authority_certificate = authority.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let (chain, key) = certificate(&issuer, &Principal::Node { name: "coordinator-1".parse().unwrap() });
        let identity = Identity::from_pem(&chain, &key).unwrap();
        let config =
            tls::server_config(identity, authority_certificate.der(), Clients::Certified, ALPN_GRPC).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let operator = Principal::Person { tenant: "default".parse().unwrap(), name: "admin".to_owned() };
        let (certificate, key) = certificate(&issuer, &operator);
        let context = Context {
            coordinators: vec![address],
            ca_certificate: authority_certificate.pem(),
            certificate,
            key,
            api_key: String::new(),
        };
        let directory = tempfile::tempdir().unwrap();
        let contexts = Contexts { current: "dev".to_owned(), contexts: [("dev".to_owned(), context)].into() };
        contexts.write(&directory.path().join("contexts.toml")).unwrap();
        let fake = Self { script: Arc::new(Mutex::new(script)), directory, shutdown: Shutdown::new() };
        fake.serve(listener, TlsAcceptor::from(Arc::new(config)));
        fake
    }

    fn serve(&self, listener: TcpListener, acceptor: TlsAcceptor) {
        let (accepted, incoming) = tokio::sync::mpsc::channel(8);
        self.shutdown.spawn(async move {
            while let Ok((stream, _address)) = listener.accept().await {
                let accepting = acceptor.accept(stream).await.map(Connection);
                if accepted.send(accepting).await.is_err() {
                    return;
                }
            }
        });
        let service = ControlServiceServer::new(Door(Arc::clone(&self.script)));
        let stop = self.shutdown.token().clone().cancelled_owned();
        let server = Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stop);
        self.shutdown.spawn(server);
    }

    /// Returns what a command would be given that talks to this coordinator.
    pub(crate) fn context(&self, is_yes: bool) -> CommandContext {
        CommandContext {
            output: Output::new(Format::Human, Verbosity::Quiet, false, is_yes),
            settings: Settings::new(Some(self.directory.path().join("contexts.toml")), None),
        }
    }

    /// Returns what was asked so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.script.lock().unwrap().asked.clone()
    }
}

/// Makes a certificate and its key, PEM.
fn certificate(issuer: &Issuer<'static, KeyPair>, principal: &Principal) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = tls::server_name_of(principal).into_iter().collect();
    let mut params = CertificateParams::new(names).unwrap();
    for uri in tls::uris_of("fake", principal, None) {
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    }
    (params.signed_by(&key, issuer).unwrap().pem(), key.serialize_pem())
}

/// A TLS stream that tonic takes.
#[derive(Debug)]
struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// The service.
#[derive(Debug)]
struct Door(Arc<Mutex<Script>>);

impl Door {
    fn ask<T>(&self, line: String, answer: impl FnOnce(&mut Script) -> T) -> T {
        let mut script = self.0.lock().unwrap();
        script.asked.push(line);
        answer(&mut script)
    }

    fn change(&self, line: String) -> Result<Response<Document>, Status> {
        let view = self.ask(line, |script| script.changes.pop_front()).ok_or_else(unscripted)?;
        Ok(Response::new(document(&view.map_err(|failure| to_status(&failure))?)))
    }
}

fn unscripted() -> Status {
    Status::unimplemented("the script has no answer to this")
}

fn document(value: &impl serde::Serialize) -> Document {
    Document { document: serde_json::to_string(value).unwrap() }
}

/// Returns a stream of these, and of the error at its end.
fn stream<T>(items: Vec<T>, end: Option<Status>) -> ReceiverStream<Result<T, Status>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(items.len() + 1);
    for item in items.into_iter().map(Ok).chain(end.map(Err)) {
        sender.try_send(item).unwrap();
    }
    ReceiverStream::new(receiver)
}

#[tonic::async_trait]
impl ControlService for Door {
    type WatchMigrationStream = ReceiverStream<Result<Document, Status>>;
    type StreamListStream = ReceiverStream<Result<Piece, Status>>;

    async fn migrate(&self, request: Request<MigrateRequest>) -> Result<Response<Document>, Status> {
        let MigrateRequest { confirmed, .. } = request.into_inner();
        self.change(format!("migrate confirmed={confirmed}"))
    }

    async fn act(&self, request: Request<ActRequest>) -> Result<Response<Document>, Status> {
        let ActRequest { migration, verb, deep, confirmed } = request.into_inner();
        self.change(format!("{verb} {migration} deep={deep} confirmed={confirmed}"))
    }

    async fn set_migration(
        &self,
        request: Request<SetMigrationRequest>,
    ) -> Result<Response<Document>, Status> {
        let SetMigrationRequest { migration, change } = request.into_inner();
        self.change(format!("set {migration} {change}"))
    }

    async fn watch_migration(
        &self,
        _request: Request<MigrationRequest>,
    ) -> Result<Response<Self::WatchMigrationStream>, Status> {
        let views =
            self.ask("watch".to_owned(), |script| script.watches.pop_front()).ok_or_else(unscripted)?;
        let is_end = views.last().is_some_and(|view| view.status.is_end());
        let documents = views.iter().map(document).collect();
        Ok(Response::new(stream(documents, (!is_end).then(|| Status::unavailable("the leader is gone")))))
    }

    async fn stream_list(
        &self,
        _request: Request<MigrationRequest>,
    ) -> Result<Response<Self::StreamListStream>, Status> {
        let pieces = self.ask("list".to_owned(), |script| std::mem::take(&mut script.list));
        Ok(Response::new(stream(pieces.into_iter().map(|lines| Piece { lines }).collect(), None)))
    }

    async fn list_hosts(&self, request: Request<PageRequest>) -> Result<Response<Page>, Status> {
        let from = request.into_inner().from;
        self.ask(format!("hosts from={from}"), |script| {
            let hosts = script.hosts.pop_front().ok_or_else(unscripted)?;
            let Document { document } = document(&hosts);
            let is_end = script.hosts.is_empty();
            let next = if is_end { String::new() } else { hosts.last().unwrap().name.to_string() };
            Ok(Response::new(Page { document, next }))
        })
    }

    async fn get_migration(&self, _: Request<MigrationRequest>) -> Result<Response<Document>, Status> {
        let view = self.ask("migration".to_owned(), |script| script.migrations.pop_front());
        let of_another = || Document { document: "{\"of\":\"another version\"}".to_owned() };
        Ok(Response::new(view.as_ref().map_or_else(of_another, document)))
    }

    async fn list_migrations(&self, _: Request<PageRequest>) -> Result<Response<Page>, Status> {
        Err(unscripted())
    }

    async fn get_report(&self, _: Request<MigrationRequest>) -> Result<Response<Document>, Status> {
        Err(unscripted())
    }

    async fn get_host(&self, request: Request<HostRequest>) -> Result<Response<Document>, Status> {
        let name = request.into_inner().host;
        self.ask(format!("host {name}"), |script| {
            let host = script.hosts.iter().flatten().find(|host| host.name.as_str() == name);
            host.map(|host| Response::new(document(host))).ok_or_else(unscripted)
        })
    }

    async fn enroll_host(&self, _: Request<HostRequest>) -> Result<Response<Document>, Status> {
        Err(unscripted())
    }

    async fn drain_host(&self, _: Request<DrainRequest>) -> Result<Response<Document>, Status> {
        Err(unscripted())
    }

    async fn limit_host(&self, _: Request<LimitHostRequest>) -> Result<Response<Document>, Status> {
        Err(unscripted())
    }

    async fn revoke_host(&self, _: Request<HostRequest>) -> Result<Response<Document>, Status> {
        Err(unscripted())
    }

    async fn get_cluster(&self, _: Request<ClusterRequest>) -> Result<Response<Document>, Status> {
        Err(unscripted())
    }

    async fn enroll_node(&self, _: Request<NodeRequest>) -> Result<Response<Document>, Status> {
        Err(unscripted())
    }
}
