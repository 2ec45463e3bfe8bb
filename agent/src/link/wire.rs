//! Messages of the session to and from the agent's own types. Every field is named, so that a new one breaks the build.

use std::net::SocketAddr;
use std::sync::Arc;

use common::clock::BootTime;
use common::failure::{Failure, FailureKind};
use common::fence::FencingToken;
use common::host::HostFacts;
use common::id::{HostName, MigrationId, StepId, TenantId};
use common::progress::Progress;
use common::reference::Reference;
use common::sealing::Sealed;
use proto::v1;
use proto::v1::agent_message::Message;
use proto::v1::answer::Answer as AnswerForm;
use proto::v1::step_event::Event;
use serde::Serialize;
use transfer::{PeerNews, RelayWay, Right, ServeOrder, Sparing};

use super::lease::{HeldLease, Pace};
use crate::journal::{OutboxEvent, OutboxRecord};
use crate::step::order::{Answer, AskedFor, Grant, Peer, Question};

/// Why a message of the leader cannot be understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// A field that must be there is absent.
    #[error("the field `{0}` is missing")]
    Missing(&'static str),
    /// A name or id is not one.
    #[error("the field `{0}` is not valid")]
    Id(&'static str, #[source] common::id::InvalidId),
}

/// A grant as it came: its identity, and the rest if that is sound.
pub(super) struct Granted {
    pub(super) migration: MigrationId,
    pub(super) step: StepId,
    pub(super) token: FencingToken,
    /// Stop at the next safe point instead.
    pub(super) is_finish: bool,
    /// What to do, or why it cannot be understood.
    pub(super) grant: Result<Grant, Failure>,
}

pub(super) fn granted(grant: v1::Grant, now: BootTime) -> Result<Granted, WireError> {
    let v1::Grant {
        migration,
        step,
        token,
        kind,
        attempt,
        undo,
        params,
        inputs,
        ticket,
        peer,
        peer_addresses,
        ttl_ms: _,
        tenant,
        finish,
        relay,
    } = grant;
    let token = from_token(token)?;
    let migration: MigrationId =
        migration.parse().map_err(|error| WireError::Id("grant.migration", error))?;
    let step: StepId = step.parse().map_err(|error| WireError::Id("grant.step", error))?;
    let lease = HeldLease::new(migration.clone(), step.clone(), token, ticket, now);
    let grant = from_peer(&peer, &peer_addresses, &tenant, relay.map(|relay| *relay)).map(|peer| Grant {
        lease,
        kind,
        attempt,
        is_undo: undo,
        params,
        inputs: inputs.into_iter().collect(),
        peer,
    });
    Ok(Granted { migration, step, token, is_finish: finish, grant })
}

pub(super) fn serve(serve: v1::Serve) -> Result<ServeOrder, Failure> {
    let v1::Serve { ticket, peer_addresses, transport, relay } = serve;
    // One that a newer leader knows is no reason not to try.
    let transport = transport.parse().unwrap_or_default();
    let relay = relay.map(from_relay).transpose()?;
    Ok(ServeOrder { ticket, addresses: readable(&peer_addresses), transport, relay })
}

/// Returns a pace as the wire has it: a limit of zero is none.
pub(super) fn pace(bandwidth_limit: u64, max_load: Option<u32>, is_idle: bool) -> Pace {
    let bytes_per_s = Some(bandwidth_limit).filter(|limit| *limit > 0);
    Pace { bytes_per_s, sparing: Sparing { max_load, is_idle } }
}

pub(super) fn peer_seen(seen: v1::PeerSeen) -> Result<(FencingToken, PeerNews), WireError> {
    let v1::PeerSeen { token, connected, incarnation, peer_addresses } = seen;
    let news = PeerNews { is_connected: connected, incarnation, addresses: readable(&peer_addresses) };
    Ok((from_token(token)?, news))
}

/// Returns the hosts that can be read; a name that is none is nobody's certificate's.
pub(super) fn revoked_hosts(revoked: v1::RevokedHosts) -> Vec<(HostName, u64)> {
    let v1::RevokedHosts { hosts } = revoked;
    let read = |v1::RevokedHost { host, generation }: v1::RevokedHost| Some((host.parse().ok()?, generation));
    hosts.into_iter().filter_map(read).collect()
}

/// Returns the addresses that can be read: one that cannot is no reason not to dial the others.
fn readable(addresses: &[String]) -> Vec<SocketAddr> {
    addresses.iter().filter_map(|address| address.parse().ok()).collect()
}

fn from_peer(
    name: &str,
    addresses: &[String],
    tenant: &str,
    relay: Option<v1::Relay>,
) -> Result<Option<Peer>, Failure> {
    if name.is_empty() {
        return Ok(None);
    }
    let invalid = |error: &dyn std::error::Error| Failure::of(FailureKind::Invalid, error);
    let host: HostName = name.parse().map_err(|error| invalid(&error))?;
    let tenant: TenantId = tenant.parse().map_err(|error| invalid(&error))?;
    let addresses: Result<Vec<SocketAddr>, _> = addresses.iter().map(|address| address.parse()).collect();
    let addresses = addresses.map_err(|error| {
        invalid(&error)
            .hint("look at `advertise_data` in the configuration of the peer's agent")
            .context("peer", name)
    })?;
    let relay = relay.map(from_relay).transpose()?;
    Ok(Some(Peer { tenant, host, addresses, relay }))
}

/// Returns how the other side is met at a relay.
fn from_relay(relay: v1::Relay) -> Result<Arc<RelayWay>, Failure> {
    let v1::Relay { host, addresses, ticket } = relay;
    let host = host.parse().map_err(|error| Failure::of(FailureKind::Invalid, &error))?;
    Ok(Arc::new(RelayWay { host, addresses: readable(&addresses), ticket }))
}

pub(super) fn from_token(token: Option<v1::Token>) -> Result<FencingToken, WireError> {
    let v1::Token { epoch, index } = token.ok_or(WireError::Missing("token"))?;
    Ok(FencingToken { epoch, index })
}

fn to_token(token: FencingToken) -> Option<v1::Token> {
    let FencingToken { epoch, index } = token;
    Some(v1::Token { epoch, index })
}

pub(super) fn question(question: v1::Question) -> Result<(u64, Question), WireError> {
    use v1::question::Question as Form;
    let v1::Question { number, question } = question;
    let (asked_for, document) = match question.ok_or(WireError::Missing("question.question"))? {
        Form::Root(document) => (AskedFor::Root, document),
        Form::ListOfMigration(document) => (AskedFor::List, document),
        Form::UndoPreview(document) => (AskedFor::UndoPreview, document),
        Form::Settle(document) => (AskedFor::Settle, document),
    };
    Ok((number, Question { asked_for, document }))
}

pub(super) fn hello(
    incarnation: u64,
    facts: &HostFacts,
    leases: &[HeldLease],
    ends: &[OutboxRecord],
    (sealing_key, sealing_signature): (Vec<u8>, Vec<u8>),
) -> v1::AgentMessage {
    let running = leases.iter().filter(|lease| lease.ended().is_none()).map(held);
    let ending = ends.iter().map(|record| v1::HeldLease {
        migration: record.migration.to_string(),
        step: record.step.to_string(),
        token: to_token(record.token),
    });
    message(Message::Hello(v1::Hello {
        protocol: proto::PROTOCOL,
        incarnation,
        facts: document(facts),
        held: running.chain(ending).collect(),
        sealing_key,
        sealing_signature,
    }))
}

pub(super) fn open_secret(number: u64, right: Right, reference: &Reference) -> v1::AgentMessage {
    use v1::open_secret::Right as Form;
    let Right { migration, step, token, ticket } = right;
    let lease =
        || v1::HeldLease { migration: migration.to_string(), step: step.to_string(), token: to_token(token) };
    let right = Some(ticket.map_or_else(|| Form::Lease(lease()), Form::Ticket));
    message(Message::OpenSecret(v1::OpenSecret { number, reference: reference.to_string(), right }))
}

pub(super) fn opened_secret(answer: Option<v1::opened_secret::Answer>) -> Result<Sealed, Failure> {
    use v1::opened_secret::Answer as Form;
    match answer {
        Some(Form::Sealed(v1::SealedSecret { encapsulated, ciphertext })) => {
            Ok(Sealed { encapsulated, ciphertext })
        }
        Some(Form::Failure(v1::Failure { document })) => Err(serde_json::from_str(&document)
            .unwrap_or_else(|error| Failure::of(FailureKind::Unsupported, &error))),
        None => Err(Failure::new(FailureKind::Unsupported, "the leader's answer cannot be read")
            .hint("bring the agent and the coordinator to the same version")),
    }
}

pub(super) fn held(lease: &HeldLease) -> v1::HeldLease {
    v1::HeldLease {
        migration: lease.migration().to_string(),
        step: lease.step().to_string(),
        token: to_token(lease.token()),
    }
}

pub(super) fn leaving(released: &[HeldLease]) -> v1::AgentMessage {
    message(Message::Leaving(v1::Leaving { released: released.iter().map(held).collect() }))
}

pub(super) fn heartbeat(number: u64, renew: Vec<v1::HeldLease>) -> v1::AgentMessage {
    message(Message::Heartbeat(v1::Heartbeat { number, renew, wall_ms: common::clock::wall().0 }))
}

pub(super) fn facts(facts: &HostFacts) -> v1::AgentMessage {
    message(Message::Facts(v1::Facts { facts: document(facts) }))
}

pub(super) fn progress(lease: &HeldLease, progress: &Progress) -> v1::AgentMessage {
    message(Message::Progress(v1::StepProgress {
        migration: lease.migration().to_string(),
        step: lease.step().to_string(),
        token: to_token(lease.token()),
        progress: document(progress),
    }))
}

pub(super) fn event(number: u64, record: OutboxRecord) -> v1::AgentMessage {
    let OutboxRecord { migration, step, token, event } = record;
    let event = match event {
        OutboxEvent::Succeeded(output) => Event::Succeeded(output),
        OutboxEvent::Failed(document) => Event::Failed(v1::Failure { document }),
        OutboxEvent::CaughtUp { lag_ms } => Event::CaughtUpLagMs(lag_ms),
        OutboxEvent::Findings(findings) => Event::Findings(findings),
        OutboxEvent::SoFar(output) => Event::SoFar(output),
    };
    message(Message::Event(v1::StepEvent {
        number,
        migration: migration.to_string(),
        step: step.to_string(),
        token: to_token(token),
        event: Some(event),
    }))
}

pub(super) fn answer(number: u64, answer: Answer) -> v1::AgentMessage {
    let answer = match answer {
        Answer::Document(document) => AnswerForm::Document(document),
        Answer::Piece(piece) => AnswerForm::Piece(piece),
        Answer::Failure(failure) => AnswerForm::Failure(v1::Failure { document: document(&failure) }),
    };
    message(Message::Answer(v1::Answer { number, answer: Some(answer) }))
}

fn message(message: Message) -> v1::AgentMessage {
    v1::AgentMessage { message: Some(message) }
}

fn document<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the vocabulary has no map whose keys are not strings")
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::clock::boot;

    fn grant() -> v1::Grant {
        v1::Grant {
            migration: "m1".to_owned(),
            step: "file.copy-1".to_owned(),
            token: Some(v1::Token { epoch: 1, index: 9 }),
            kind: "file.copy@1".to_owned(),
            attempt: 2,
            tenant: "default".to_owned(),
            peer: "web1".to_owned(),
            peer_addresses: vec!["192.0.2.7:7443".to_owned()],
            ..v1::Grant::default()
        }
    }

    #[test]
    fn news_of_a_peer_are_understood_without_the_addresses_that_are_none() {
        let peer_addresses = vec!["web1:7443".to_owned(), "192.0.2.7:7443".to_owned()];
        let token = Some(v1::Token { epoch: 1, index: 9 });
        let seen = v1::PeerSeen { token, connected: true, incarnation: 4, peer_addresses };
        let (token, news) = peer_seen(seen).unwrap();
        assert_eq!(token, FencingToken { epoch: 1, index: 9 });
        assert_eq!((news.is_connected, news.incarnation), (true, 4));
        assert_eq!(news.addresses, ["192.0.2.7:7443".parse().unwrap()]);
        assert!(peer_seen(v1::PeerSeen::default()).is_err());
    }

    #[test]
    fn a_grant_is_understood_or_its_identity_is() {
        let understood = granted(grant(), boot()).unwrap();
        assert_eq!(understood.token, FencingToken { epoch: 1, index: 9 });
        let peer = understood.grant.unwrap().peer.unwrap();
        assert_eq!(peer.addresses, ["192.0.2.7:7443".parse().unwrap()]);

        let odd = granted(v1::Grant { peer_addresses: vec!["web1".to_owned()], ..grant() }, boot()).unwrap();
        assert_eq!(odd.grant.err().unwrap().kind, FailureKind::Invalid);
        assert!(matches!(
            granted(v1::Grant { token: None, ..grant() }, boot()),
            Err(WireError::Missing("token"))
        ));
        assert!(granted(v1::Grant { step: "../x".to_owned(), ..grant() }, boot()).is_err());
    }
}
