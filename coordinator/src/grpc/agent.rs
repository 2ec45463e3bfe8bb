//! The service for agents and joining nodes: Enroll, Renew and the session.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use common::clock;
use common::digest::Digest;
use common::failure::{Failure, FailureKind};
use common::host::HostFacts;
use common::id::{HostName, TenantId};
use common::principal::Principal;
use proto::PROTOCOL;
use proto::status::to_status;
use proto::v1::agent_message::Message as FromAgent;
use proto::v1::agent_service_server::AgentService;
use proto::v1::coordinator_message::Message as ToAgent;
use proto::v1::{
    AgentMessage, CoordinatorMessage, EnrollRequest, EnrollResponse, Hello, RenewRequest, RenewResponse,
    Revoke, Welcome,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::refuse;
use super::session::{self, Questions, Session};
use crate::access::actor::Actor;
use crate::access::call::Call;
use crate::hub::Hub;
use crate::pki::authority::{Authority, RequestedKey};
use crate::pki::join_token::JoinToken;
use crate::pki::node_document::NodeDocument;
use crate::reconcile::revocation;
use crate::state::join::Join;
use crate::state::{Command, Outcome, cluster, host};
use crate::vault::opening;

/// How long an agent may take from opening a session to its hello.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);
/// Messages to one agent that wait for the network.
const OUTBOUND_MAX: usize = 64;
/// By how much each connected host lengthens the return of idle agents after a failover.
const SPREAD_PER_HOST_MS: u64 = 3;
/// The longest such spread.
const SPREAD_MAX_MS: u64 = 30_000;

/// The service.
#[derive(Clone, Debug)]
pub struct AgentDoor {
    hub: Arc<Hub>,
}

impl AgentDoor {
    /// Makes the service.
    pub fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// Proposes for a caller.
    async fn propose(&self, actor: &Actor, command: Command) -> Result<Outcome, Status> {
        refuse::or_status(&self.hub, self.hub.propose(actor.clone(), command).await).await
    }

    /// Joins a host: consumes its token and issues its first certificate.
    async fn enroll_host(
        &self,
        tenant: TenantId,
        name: HostName,
        address: IpAddr,
        token: &JoinToken,
        key: &RequestedKey,
    ) -> Result<EnrollResponse, Status> {
        let principal = Principal::Agent { tenant: tenant.clone(), host: name.clone() };
        let token = token.digest(self.authority()?, &principal);
        let state = self.hub.state();
        let join = state.hosts().get(&tenant, &name).and_then(|host| host.join.as_ref());
        check_join(join, &name, &token, key)?;
        let change = host::Change::Enroll { token, public_key: key.as_bytes().to_vec() };
        let command = host::Command { tenant: tenant.clone(), host: name, change };
        let actor = Actor { principal: principal.clone(), address: Some(address), request: None };
        let Outcome::Enrolled { generation, .. } = self.propose(&actor, Command::Host(command)).await? else {
            return Err(Status::internal("a host joined without a generation"));
        };
        let certificate = self.issue(&principal, Some(generation), key)?;
        Ok(EnrollResponse {
            certificate,
            ca_certificate: self.authority()?.certificate().to_vec(),
            coordinators: self.hub.state().cluster().api_addresses(),
            tenant: tenant.to_string(),
            generation,
            node_document: String::new(),
        })
    }

    /// Joins a node: consumes its token, issues its first certificate, and says what it needs to become a member.
    async fn enroll_node(
        &self,
        actor: Actor,
        name: common::id::NodeName,
        token: &JoinToken,
        key: &RequestedKey,
    ) -> Result<EnrollResponse, Status> {
        let token = token.digest(self.authority()?, &actor);
        let state = self.hub.state();
        let join = state.cluster().nodes.get(&name).and_then(|node| node.join.as_ref());
        check_join(join, &name, &token, key)?;
        let command = cluster::Command::EnrollNode { name, token, public_key: key.as_bytes().to_vec() };
        let Outcome::NodeEnrolled { node_id } = self.propose(&actor, Command::Cluster(command)).await? else {
            return Err(Status::internal("a node joined without a number"));
        };
        let state = self.hub.state();
        let present = self.hub.cluster_key().map_err(|failure| to_status(&failure))?;
        let document = NodeDocument::new(node_id, &state, &present, &self.hub.keyring.all());
        Ok(EnrollResponse {
            certificate: self.issue(&actor, None, key)?,
            ca_certificate: self.authority()?.certificate().to_vec(),
            coordinators: state.cluster().api_addresses(),
            tenant: TenantId::default_tenant().to_string(),
            generation: 1,
            node_document: document.to_text().map_err(|failure| to_status(&failure))?,
        })
    }

    fn issue(
        &self,
        principal: &Principal,
        generation: Option<u64>,
        key: &RequestedKey,
    ) -> Result<Vec<u8>, Status> {
        let issued = self.authority()?.issue(principal, generation, key, clock::wall());
        issued
            .map(|certificate| certificate.to_vec())
            .map_err(|error| to_status(&Failure::of(FailureKind::Bug, &error)))
    }

    fn authority(&self) -> Result<&Authority, Status> {
        let seals = self.hub.seals().map_err(|failure| to_status(&failure))?;
        Ok(&seals.authority)
    }

    /// Looks at the certificate of a host against its record, and makes its hello known.
    async fn greet(
        &self,
        peer: &common::tls::Peer,
        tenant: &TenantId,
        name: &HostName,
        hello: &Hello,
    ) -> Result<(), Status> {
        let actor = Actor::from(peer.principal.clone());
        let state = self.hub.state();
        let host = state.hosts().get(tenant, name).ok_or_else(|| unknown_host(name))?;
        let generation = peer.generation.unwrap_or(0);
        if !host.accepts(generation, &peer.public_key) {
            return Err(void_certificate(name));
        }
        let facts: HostFacts = serde_json::from_str(&hello.facts)
            .map_err(|error| Status::invalid_argument(format!("the facts cannot be read: {error}")))?;
        let mut changes = Vec::new();
        if generation == host.generation + 1 {
            changes.push(host::Change::Seen { generation });
        }
        if hello.incarnation != host.incarnation {
            changes.push(host::Change::Started { incarnation: hello.incarnation });
        }
        if host.facts.as_ref() != Some(&facts) {
            changes.push(host::Change::Facts(facts));
        }
        for change in changes {
            let command = host::Command { tenant: tenant.clone(), host: name.clone(), change };
            self.propose(&actor, Command::Host(command)).await?;
        }
        Ok(())
    }

    fn welcome(&self, tenant: &TenantId, name: &HostName) -> Welcome {
        let state = self.hub.state();
        let hosts = u64::try_from(self.hub.sessions.len()).unwrap_or(u64::MAX);
        Welcome {
            protocol: PROTOCOL,
            wall_ms: clock::wall().0,
            coordinators: state.cluster().api_addresses(),
            acknowledged: state.outboxes().acknowledged(tenant, name),
            reconnect_spread_ms: hosts.saturating_mul(SPREAD_PER_HOST_MS).min(SPREAD_MAX_MS),
        }
    }
}

#[tonic::async_trait]
impl AgentService for AgentDoor {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<CoordinatorMessage, Status>> + Send>>;

    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        refuse::check(&request, Call::Enroll)?;
        refuse::check_leader(&self.hub).await?;
        let from = refuse::connection(&request)?;
        let EnrollRequest { token, name, certificate_request, protocol } = request.into_inner();
        check_protocol(protocol)?;
        let address = from.address.ip();
        let token = JoinToken::parse(&token).map_err(|error| {
            let failure = Failure::of(FailureKind::Unauthenticated, &error);
            to_status(&failure.hint("copy the whole token out of the join command"))
        })?;
        let principal =
            token.principal(&name).map_err(|error| to_status(&Failure::of(FailureKind::Invalid, &error)))?;
        let key = RequestedKey::of_request(&certificate_request)
            .map_err(|error| to_status(&Failure::of(FailureKind::Invalid, &error)))?;
        let response = match principal {
            Principal::Agent { tenant, host } => {
                self.enroll_host(tenant, host, address, &token, &key).await?
            }
            Principal::Node { ref name } => {
                let name = name.clone();
                let actor = Actor { principal, address: Some(address), request: None };
                self.enroll_node(actor, name, &token, &key).await?
            }
            Principal::Person { .. } | Principal::Key { .. } => {
                return Err(Status::internal("a token for a person"));
            }
        };
        tracing::info!(%name, "joined");
        Ok(Response::new(response))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let principal = refuse::check_known(&request, Call::Renew)?;
        refuse::check_leader(&self.hub).await?;
        let peer = refuse::connection(&request)?.peer.ok_or_else(|| Status::internal("no certificate"))?;
        let RenewRequest { certificate_request, generation } = request.into_inner();
        let key = RequestedKey::of_request(&certificate_request)
            .map_err(|error| to_status(&Failure::of(FailureKind::Invalid, &error)))?;
        let state = self.hub.state();
        let next = match &principal {
            Principal::Agent { tenant, host: name } => {
                let host = state.hosts().get(tenant, name).ok_or_else(|| unknown_host(name))?;
                let held = peer.generation.unwrap_or(0);
                // A generation that has been followed by another is the state's to refuse, with the reason.
                if held != generation || (held >= host.generation && !host.accepts(held, &peer.public_key)) {
                    return Err(void_certificate(name));
                }
                let change = host::Change::Renew { generation, public_key: key.as_bytes().to_vec() };
                let command = host::Command { tenant: tenant.clone(), host: name.clone(), change };
                match self.propose(&principal.clone().into(), Command::Host(command)).await? {
                    Outcome::Renewed { generation } => Some(generation),
                    _ => return Err(Status::internal("a renewal without a generation")),
                }
            }
            Principal::Node { name } => {
                let is_member = state.cluster().nodes.get(name).is_some_and(|node| !node.is_removed);
                if !is_member {
                    let message = format!("the node `{name}` is not part of this cluster");
                    return Err(to_status(&Failure::new(FailureKind::Denied, message)));
                }
                None
            }
            Principal::Person { .. } | Principal::Key { .. } => {
                return Err(Status::permission_denied("persons do not renew"));
            }
        };
        Ok(Response::new(RenewResponse {
            certificate: self.issue(&principal, next, &key)?,
            ca_certificate: self.authority()?.certificate().to_vec(),
            generation: next.unwrap_or(generation),
            coordinators: state.cluster().api_addresses(),
        }))
    }

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let principal = refuse::check_known(&request, Call::Session)?;
        refuse::check_leader(&self.hub).await?;
        let connection = refuse::connection(&request)?;
        let peer = connection.peer.ok_or_else(|| Status::internal("no certificate"))?;
        let Principal::Agent { tenant, host } = principal else {
            return Err(Status::permission_denied("only agents have sessions"));
        };
        let mut inbound = request.into_inner();
        let hello = first_message(&mut inbound).await?;
        check_protocol(hello.protocol)?;
        self.greet(&peer, &tenant, &host, &hello).await?;
        let sealing_key = opening::shown_key(&peer, hello.sealing_key, &hello.sealing_signature)
            .map_err(|failure| to_status(&failure))?;
        let cut = self.hub.shutdown.token().child_token();
        let (handle, requests) = self.hub.sessions.enter(&tenant, &host, hello.incarnation, cut.clone());
        // The host may have been revoked, or the leadership lost, while the hello was made known.
        let is_revoked = self
            .hub
            .state()
            .hosts()
            .get(&tenant, &host)
            .is_none_or(|record| !record.accepts(peer.generation.unwrap_or(0), &peer.public_key));
        if is_revoked || !self.hub.is_leader() {
            self.hub.sessions.leave(&tenant, &host, &handle);
            return Err(refuse::elsewhere(&self.hub));
        }
        let (outbound, stream) = mpsc::channel(OUTBOUND_MAX);
        let over = session::sort_held(&self.hub, &tenant, &host, hello.held);
        let revoked = over.into_iter().map(|held| {
            let reason = "the lease is over".to_owned();
            ToAgent::Revoke(Revoke { migration: held.migration, step: held.step, token: held.token, reason })
        });
        // Looked at after the session is listed, so that a host that is revoked now is told one way or the other.
        let hosts = revocation::all(&self.hub.state(), &tenant, clock::wall());
        let welcome = std::iter::once(ToAgent::Welcome(self.welcome(&tenant, &host)));
        for message in welcome.chain(hosts).chain(revoked).take(OUTBOUND_MAX) {
            // The channel is empty and nobody else has it yet, so that these fit.
            drop(outbound.try_send(Ok(CoordinatorMessage { message: Some(message) })));
        }
        tracing::info!(%host, incarnation = hello.incarnation, "a session began");
        let hub = Arc::clone(&self.hub);
        let session = Session {
            hub,
            tenant,
            host,
            handle,
            inbound,
            outbound,
            requests,
            cut,
            questions: Questions::default(),
            sealing_key,
            openings: Arc::new(Semaphore::new(session::OPENINGS_MAX)),
        };
        self.hub.shutdown.spawn(session.run());
        self.hub.wake.notify_one();
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn first_message(inbound: &mut Streaming<AgentMessage>) -> Result<Hello, Status> {
    let first = tokio::time::timeout(HELLO_DEADLINE, inbound.message()).await;
    let first = first.map_err(|_elapsed| Status::deadline_exceeded("no hello came"))??;
    match first.and_then(|first| first.message) {
        Some(FromAgent::Hello(hello)) => Ok(hello),
        Some(_) | None => Err(Status::invalid_argument("a session begins with a hello")),
    }
}

/// Looks at a token before anything is proposed for it, so that nobody without one makes the cluster write.
fn check_join(
    join: Option<&Join>,
    name: &impl std::fmt::Display,
    token: &Digest,
    key: &RequestedKey,
) -> Result<(), Status> {
    let checked = match join {
        Some(join) => join.clone().consume(name, token, key.as_bytes(), clock::wall()),
        None => Err(Join::refused(name)),
    };
    checked.map_err(|refusal| to_status(refusal.failure()))
}

fn check_protocol(protocol: u32) -> Result<(), Status> {
    if protocol == PROTOCOL {
        return Ok(());
    }
    let message = format!("protocol {protocol} is not spoken here; this coordinator speaks {PROTOCOL}");
    Err(to_status(
        &Failure::new(FailureKind::Unsupported, message).hint("install the same version everywhere"),
    ))
}

fn unknown_host(name: &HostName) -> Status {
    let message = format!("the host `{name}` is not known");
    to_status(
        &Failure::new(FailureKind::Denied, message).hint(format!("let it join: `ctl host enroll {name}`")),
    )
}

fn void_certificate(name: &HostName) -> Status {
    let message =
        format!("the certificate of `{name}` is void: the host was revoked, or a newer one was issued");
    to_status(&Failure::new(FailureKind::Denied, message).hint(format!(
        "if this is the right machine, let it join again: `ctl host revoke {name}`, then `ctl host enroll {name}`"
    )))
}
