//! The way to the coordinators: a connection of our own TLS under tonic, and calls that find the leader.
//!
//! tonic bakes a certificate into its own TLS set-up; this connector shows whatever `common::tls::Identity` holds at
//! the moment of the handshake. A call goes to the last known leader and follows the metadata `drover-leader`. While a
//! coordinator is silent the others are asked beside it, so that one that hangs costs a moment; the first that does
//! what was asked wins, and the rest are let go. A call gives up at its deadline with the last failure. It may
//! therefore reach a coordinator twice; it bears one name in all of its tries, by which a coordinator knows a change that
//! was made already.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::failure::{Failure, FailureKind};
use common::limit::MESSAGE_BYTES_MAX;
use common::tls::COORDINATOR_NAME;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::LEADER_KEY;
use crate::shown::Shown;
use crate::status::to_failure;
use crate::v1::access_service_client::AccessServiceClient;
use crate::v1::agent_service_client::AgentServiceClient;
use crate::v1::audit_service_client::AuditServiceClient;
use crate::v1::control_service_client::ControlServiceClient;
use crate::v1::raft_service_client::RaftServiceClient;
use crate::v1::secret_service_client::SecretServiceClient;

/// How long TCP and TLS together may take, a lost first packet included; a coordinator that needs longer counts as
/// silent.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How often a silent connection is asked for a sign of life, so that a dead peer is noticed before a lease ends.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long the sign of life may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How rustls begins to tell of an alert that the peer sent.
const ALERT: &str = "received fatal alert: ";
/// The pause once every known coordinator was tried: an election takes about half a second.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a coordinator may be silent before the next one is asked beside it. One that does not lead says so at
/// once; a leader that is only slow is asked once, and the others point to it.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long coordinators of which none can be reached are tried again, whatever the deadline of the call: a restart of
/// the only one takes a second or two, and who waits for longer should be told why.
const REACH_PATIENCE: Duration =
    if cfg!(test) { Duration::from_millis(500) } else { Duration::from_secs(10) };

/// What an operator can do about silence.
const UNREACHED: &str = "look whether the coordinators run and can be reached from here";

/// Returns a channel to one coordinator, as host:port, that connects when it is first used and again when it broke.
///
/// # Errors
/// When the address is not a host and a port.
pub fn channel(address: &str, tls: Arc<rustls::ClientConfig>) -> Result<Channel, Failure> {
    let is_address =
        address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !is_address {
        let message = format!("`{address}` is not the address of a coordinator");
        return Err(Failure::new(FailureKind::Invalid, message).hint("write it as HOST:PORT, as `web1:7400`"));
    }
    let endpoint = Endpoint::from_static("http://coordinator.drover.internal")
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    let (connector, address) = (TlsConnector::from(tls), address.to_owned());
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_uri: Uri| {
        let (connector, address) = (connector.clone(), address.clone());
        async move {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect(&connector, &address)).await;
            let late = |_elapsed| {
                io::Error::new(io::ErrorKind::TimedOut, format!("connecting to {address} took too long"))
            };
            connected.map_err(late)?.map(TokioIo::new)
        }
    })))
}

async fn connect(connector: &TlsConnector, address: &str) -> io::Result<TlsStream<TcpStream>> {
    let fail = |error: io::Error| {
        io::Error::new(error.kind(), ConnectFailure { address: address.to_owned(), source: error })
    };
    let stream = TcpStream::connect(address).await.map_err(fail)?;
    stream.set_nodelay(true).map_err(fail)?;
    let name = ServerName::try_from(COORDINATOR_NAME).map_err(io::Error::other)?;
    connector.connect(name, stream).await.map_err(fail)
}

/// Names the address in an error of the connector.
#[derive(Debug, thiserror::Error)]
#[error("connecting to {address}")]
struct ConnectFailure {
    address: String,
    #[source]
    source: io::Error,
}

/// The way of one call to one coordinator.
pub type Way = InterceptedService<Channel, Shown>;

/// Returns a client of the service for agents, with our limit on messages.
pub fn agent_client(way: Way) -> AgentServiceClient<Way> {
    AgentServiceClient::new(way)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Returns a client of the service for operators, with our limit on messages.
pub fn control_client(way: Way) -> ControlServiceClient<Way> {
    ControlServiceClient::new(way)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Returns a client of the service for auditors, with our limit on messages.
pub fn audit_client(way: Way) -> AuditServiceClient<Way> {
    AuditServiceClient::new(way)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Returns a client of the service for users, keys and tenants, with our limit on messages.
pub fn access_client(way: Way) -> AccessServiceClient<Way> {
    AccessServiceClient::new(way)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Returns a client of the service for operators, with our limit on messages.
pub fn secret_client(way: Way) -> SecretServiceClient<Way> {
    SecretServiceClient::new(way)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// Returns a client of the service among nodes, with our limit on messages.
pub fn raft_client(channel: Channel) -> RaftServiceClient<Channel> {
    RaftServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// The coordinators of one cluster, of which one leads.
pub struct Coordinators {
    tls: Arc<rustls::ClientConfig>,
    shown: Shown,
    known: Mutex<Known>,
}

/// What is known of them; every field is a hint that a wrong answer corrects.
struct Known {
    addresses: Vec<String>,
    /// Index of the address that is tried next when no leader is known.
    next: usize,
    leader: Option<String>,
    channels: BTreeMap<String, Channel>,
}

/// Who was asked in one call.
#[derive(Default)]
struct Round {
    /// Asked since every coordinator had been.
    tried: BTreeSet<String>,
    /// Asked and not answered yet.
    waiting: BTreeSet<String>,
    /// How often every coordinator had been asked.
    begun_again: u32,
}

impl Round {
    fn ask(&mut self, address: &str) {
        self.tried.insert(address.to_owned());
        self.waiting.insert(address.to_owned());
    }

    /// Whether somebody is silent whom nobody has waited for yet with nobody else to ask.
    fn is_waiting_first(&self) -> bool {
        !self.waiting.is_empty() && self.begun_again == 0
    }

    /// Lets everybody be asked again who is not silent, and returns after what pause.
    fn begin_again(&mut self) -> Duration {
        self.begun_again += 1;
        self.tried.clone_from(&self.waiting);
        if self.waiting.is_empty() { PAUSE } else { PATIENCE }
    }
}

/// What a refused call says about where to go.
enum Direction {
    /// The leader is there.
    Leader(String),
    /// This one does not lead or is silent.
    Elsewhere,
    /// It was answered: no.
    Nowhere,
}

impl Coordinators {
    /// Makes the way to these addresses, as host:port.
    pub fn new(addresses: Vec<String>, tls: Arc<rustls::ClientConfig>) -> Self {
        let known = Known { addresses, next: 0, leader: None, channels: BTreeMap::new() };
        Self { tls, shown: Shown::default(), known: Mutex::new(known) }
    }

    /// Shows this with every call.
    #[must_use]
    pub fn showing(mut self, shown: Shown) -> Self {
        self.shown = shown;
        self
    }

    /// Replaces the addresses; those of `Welcome` and of `Renew` are newer than the configured ones.
    pub fn learn(&self, addresses: Vec<String>) {
        if addresses.is_empty() {
            return;
        }
        let mut known = self.known();
        known.channels.retain(|address, _| addresses.contains(address));
        known.addresses = addresses;
    }

    /// Makes a call at the leader, wherever it is, within `deadline`.
    ///
    /// For a call that answers with a stream the deadline holds until the stream has begun. Where no coordinator can
    /// be reached at all, the call ends after ten seconds.
    ///
    /// # Errors
    /// With what the leader answered, or with the last failure to reach one when the deadline has passed.
    pub async fn call<T, F, Fut>(&self, deadline: Duration, call: F) -> Result<T, Failure>
    where
        F: Fn(Way) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_while(deadline, true, call).await
    }

    /// Makes a call as [`Self::call`] does, but ends when every coordinator has been tried: for the many that pause by
    /// themselves, so that a cluster without a leader is not flooded by those who look for it.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_once<T, F, Fut>(&self, deadline: Duration, call: F) -> Result<T, Failure>
    where
        F: Fn(Way) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_while(deadline, false, call).await
    }

    async fn call_while<T, F, Fut>(&self, deadline: Duration, is_patient: bool, call: F) -> Result<T, Failure>
    where
        F: Fn(Way) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let until = Instant::now() + deadline;
        let shown = self.shown.for_one_call();
        let (given_up, mut is_heard) = (Instant::now() + REACH_PATIENCE, false);
        let mut last = Failure::new(FailureKind::Timeout, "no coordinator answered in time");
        let (mut round, mut answers) = (Round::default(), FuturesUnordered::new());
        let mut next = Instant::now();
        loop {
            let (address, answer) = tokio::select! {
                biased;
                Some(answered) = answers.next() => answered,
                () = tokio::time::sleep_until(until) => {
                    round.waiting.iter().for_each(|address| self.forget(address));
                    return Err(last.hint(UNREACHED));
                }
                () = tokio::time::sleep_until(next) => {
                    let is_hopeful = is_heard || !round.waiting.is_empty() || Instant::now() < given_up;
                    next = match self.next_address(&round)? {
                        Some(address) => {
                            let answer = call(self.channel(&address, &shown)?);
                            round.ask(&address);
                            answers.push(async move { (address, answer.await) });
                            Instant::now() + PATIENCE
                        }
                        None if (is_patient && is_hopeful) || round.is_waiting_first() => Instant::now() + round.begin_again(),
                        None => return Err(last.hint(UNREACHED)),
                    };
                    continue;
                }
            };
            round.waiting.remove(&address);
            is_heard |= !answer.as_ref().is_err_and(is_unreached);
            let status = match answer {
                Ok(response) => {
                    self.found(&address, &round);
                    return Ok(response.into_inner());
                }
                Err(status) => status,
            };
            let failure = failure_of(&status, &address);
            match direction(&status) {
                Direction::Leader(leader) => {
                    if !round.tried.contains(&leader) || round.waiting.is_empty() {
                        next = Instant::now();
                    }
                    self.known().leader = Some(leader);
                    last = failure;
                }
                Direction::Elsewhere => {
                    self.forget(&address);
                    next = if round.waiting.is_empty() { Instant::now() } else { next };
                    last = failure;
                }
                Direction::Nowhere => {
                    if status.code() == Code::Unauthenticated {
                        // A new connection may show a newer certificate.
                        self.known().channels.remove(&address);
                    }
                    // One that was asked beside a silent leader may be behind it.
                    if round.waiting.is_empty() || self.next_address(&round)?.is_none() {
                        return Err(failure);
                    }
                    last = failure;
                }
            }
        }
    }

    /// Makes later calls over new connections, which show the certificate of that moment; what is under way goes on.
    pub fn reconnect(&self) {
        self.known().channels.clear();
    }

    /// Returns the leader's address as far as it is known.
    pub fn leader(&self) -> Option<String> {
        self.known().leader.clone()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every field is a hint, so a panic in the middle of a change leaves nothing worse than a wrong hint.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whom to ask now; none when everybody was asked in this round.
    fn next_address(&self, round: &Round) -> Result<Option<String>, Failure> {
        let known = self.known();
        if known.leader.is_none() && known.addresses.is_empty() {
            let failure = Failure::new(FailureKind::Invalid, "no address of a coordinator is known");
            return Err(failure.hint("name one as HOST:PORT"));
        }
        let first = known.next.checked_rem(known.addresses.len()).unwrap_or(0);
        let rotated = known.addresses.iter().cycle().skip(first).take(known.addresses.len());
        let mut candidates = known.leader.iter().chain(rotated);
        Ok(candidates.find(|address| !round.tried.contains(*address)).cloned())
    }

    /// Remembers who answered. Connections of those that were silent meanwhile are dropped: one that swallows calls
    /// would swallow the next.
    fn found(&self, address: &str, round: &Round) {
        let mut known = self.known();
        known.leader = Some(address.to_owned());
        known.channels.retain(|other, _| !round.waiting.contains(other));
    }

    fn channel(&self, address: &str, shown: &Shown) -> Result<Way, Failure> {
        let mut known = self.known();
        if let Some(channel) = known.channels.get(address) {
            return Ok(InterceptedService::new(channel.clone(), shown.clone()));
        }
        let made = channel(address, Arc::clone(&self.tls))?;
        known.channels.insert(address.to_owned(), made.clone());
        Ok(InterceptedService::new(made, shown.clone()))
    }

    /// Goes on with another address. The connection is dropped too: one that swallows calls would swallow the next.
    fn forget(&self, address: &str) {
        let mut known = self.known();
        known.channels.remove(address);
        known.leader = None;
        known.next = known.next.wrapping_add(1);
    }
}

impl fmt::Debug for Coordinators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known();
        f.debug_struct("Coordinators")
            .field("addresses", &known.addresses)
            .field("leader", &known.leader)
            .finish_non_exhaustive()
    }
}

/// Whether a call broke on the way: an answer of the coordinator has no source, and what broke has one.
fn is_unreached(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Where a refused call is to be repeated.
fn direction(status: &Status) -> Direction {
    if let Some(leader) = status.metadata().get(LEADER_KEY) {
        return match leader.to_str() {
            Ok(leader) if !leader.is_empty() => Direction::Leader(leader.to_owned()),
            Ok(_) | Err(_) => Direction::Elsewhere,
        };
    }
    if is_unreached(status) && tls_error(status).is_none() {
        Direction::Elsewhere
    } else {
        Direction::Nowhere
    }
}

/// Returns the failure that a status stands for, with the whole chain when the call never reached a coordinator.
fn failure_of(status: &Status, address: &str) -> Failure {
    if let Some(error) = tls_error(status) {
        let message = format!("{address} and this program do not accept each other's certificates: {error}");
        return Failure::new(FailureKind::Unauthenticated, message)
            .hint("look whether both belong to the same cluster, whether the certificate has expired or was revoked, and whether both clocks are right");
    }
    match std::error::Error::source(status) {
        Some(source) if status.code() != Code::DeadlineExceeded => {
            let chain = common::failure::chain(source);
            // What could not connect names the address at each layer; once is enough.
            let why =
                chain.rsplit_once(&format!("connecting to {address}: ")).map_or(&*chain, |(_, why)| why);
            let message = format!("the coordinator at {address} cannot be reached: {why}");
            Failure::new(FailureKind::Unreachable, message)
        }
        Some(_) | None => to_failure(status),
    }
}

/// Finds the refusal of a certificate, by either side, among the causes of a failed call.
fn tls_error(status: &Status) -> Option<String> {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        // An I/O error shows its payload's cause, not its payload, as its source.
        let payload = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let in_payload = payload.and_then(|payload| payload.downcast_ref::<rustls::Error>());
        let found = error.downcast_ref::<rustls::Error>().or(in_payload);
        if let Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)) = found {
            return found.map(ToString::to_string);
        }
        // What comes through h2 has lost its type on the way, but not its words.
        if let Some((_, alert)) = error.to_string().split_once(ALERT) {
            return Some(format!("the coordinator said {alert}"));
        }
        source = match payload {
            Some(payload) => Some(payload),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coordinators(addresses: &[&str]) -> Coordinators {
        let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let digest = common::digest::Digest::of(b"ca");
        let tls = common::tls::enrolling_client_config(digest, common::tls::ALPN_GRPC).unwrap();
        Coordinators::new(addresses.iter().map(|&address| address.to_owned()).collect(), Arc::new(tls))
    }

    fn not_leader(leader: &str) -> Status {
        let mut status = Status::unavailable("not the leader");
        status.metadata_mut().insert(LEADER_KEY, leader.parse().unwrap());
        status
    }

    #[tokio::test]
    async fn follows_to_the_leader_and_remembers_it() {
        let coordinators = coordinators(&["a:1", "b:2"]);
        let calls = Mutex::new(0);
        let answer = coordinators.call(Duration::from_secs(5), |_channel| {
            let mut calls = calls.lock().unwrap();
            *calls += 1;
            let result = if *calls == 1 { Err(not_leader("c:3")) } else { Ok(Response::new(*calls)) };
            std::future::ready(result)
        });
        assert_eq!(answer.await.unwrap(), 2);
        assert_eq!(coordinators.leader().as_deref(), Some("c:3"));
    }

    #[tokio::test]
    async fn one_that_hangs_is_passed_by_and_its_connection_dropped() {
        let coordinators = coordinators(&["a:1", "b:2", "c:3"]);
        let calls = Mutex::new(0);
        let answer = coordinators.call(Duration::from_secs(60), |_channel| {
            let mut calls = calls.lock().unwrap();
            *calls += 1;
            let number = *calls;
            async move {
                match number {
                    1 => std::future::pending().await,
                    // It does not know yet that the leader hangs.
                    2 => Err(not_leader("a:1")),
                    number => Ok(Response::new(number)),
                }
            }
        });
        assert_eq!(answer.await.unwrap(), 3);
        assert_eq!(coordinators.leader().as_deref(), Some("c:3"));
        assert!(!coordinators.known().channels.contains_key("a:1"));
    }

    #[tokio::test]
    async fn a_slow_leader_is_asked_once() {
        let coordinators = coordinators(&["a:1", "b:2"]);
        let (calls, slow) = (Mutex::new(0), tokio::sync::Notify::new());
        let answer = coordinators.call(Duration::from_secs(60), |_channel| {
            let mut calls = calls.lock().unwrap();
            *calls += 1;
            let (number, slow) = (*calls, &slow);
            async move {
                if number == 1 {
                    slow.notified().await;
                    return Ok(Response::new(()));
                }
                if number == 4 {
                    slow.notify_one();
                }
                Err(not_leader("a:1"))
            }
        });
        answer.await.unwrap();
        assert_eq!((*calls.lock().unwrap(), coordinators.leader().as_deref()), (4, Some("a:1")));
    }

    #[tokio::test]
    async fn the_word_of_one_beside_a_silent_leader_waits_for_the_others() {
        let coordinators = coordinators(&["a:1", "b:2", "c:3"]);
        let calls = Mutex::new(0);
        let answer = coordinators.call(Duration::from_secs(60), |_channel| {
            let mut calls = calls.lock().unwrap();
            *calls += 1;
            let number = *calls;
            async move {
                match number {
                    1 => std::future::pending().await,
                    2 => Err(Status::unauthenticated("a key that is not known here yet")),
                    number => Ok(Response::new(number)),
                }
            }
        });
        assert_eq!(answer.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn an_answer_is_final() {
        let coordinators = coordinators(&["a:1"]);
        let refused = coordinators
            .call(Duration::from_secs(5), |_channel| {
                std::future::ready(Err::<Response<()>, _>(Status::not_found("no such migration")))
            })
            .await;
        assert_eq!(refused.unwrap_err().kind, FailureKind::NotFound);
    }

    #[tokio::test]
    async fn silence_ends_at_the_deadline_with_the_address_in_the_failure() {
        let coordinators = coordinators(&["127.0.0.1:1"]);
        let refused = coordinators
            .call(Duration::from_millis(300), |channel| async move {
                control_client(channel).get_cluster(crate::v1::ClusterRequest {}).await
            })
            .await
            .unwrap_err();
        assert_eq!(refused.kind, FailureKind::Unreachable);
        assert!(refused.message.contains("127.0.0.1:1"), "{}", refused.message);
    }

    #[tokio::test]
    async fn who_cannot_be_reached_at_all_ends_a_long_call_early() {
        let coordinators = coordinators(&["127.0.0.1:1"]);
        let refused = coordinators.call(Duration::from_secs(86_400), |channel| async move {
            control_client(channel).get_cluster(crate::v1::ClusterRequest {}).await
        });
        let refused = refused.await.unwrap_err();
        assert_eq!(refused.message.matches("127.0.0.1:1").count(), 1, "{}", refused.message);
    }

    #[tokio::test]
    async fn a_call_made_once_tries_every_coordinator_and_ends() {
        let coordinators = coordinators(&["127.0.0.1:1", "127.0.0.1:2"]);
        let calls = Mutex::new(0);
        let refused = coordinators.call_once(Duration::from_secs(60), |channel| {
            *calls.lock().unwrap() += 1;
            async move { control_client(channel).get_cluster(crate::v1::ClusterRequest {}).await }
        });
        assert_eq!(refused.await.unwrap_err().kind, FailureKind::Unreachable);
        assert_eq!(*calls.lock().unwrap(), 2);
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        let tls = coordinators(&[]).tls;
        for bad in ["", "web1", "web1:", ":7400", "web1:http"] {
            assert!(channel(bad, Arc::clone(&tls)).is_err(), "{bad:?} was taken for an address");
        }
    }
}
