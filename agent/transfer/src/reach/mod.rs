//! How two agents find each other: the destination dials, and where it cannot, the source does.
//!
//! ```text
//! destination: await the source under the lease's token ┐ the first connection
//!              dial its addresses, again and again      ┘ wins
//! source:      told by the leader whom to let in ─▶ a head start ─▶ dial, and show the ticket
//! ```
//!
//! Both directions are tried at once, with a head start for the usual one. Whoever dialled, it is the destination that
//! opens the lanes, so nothing above knows the difference. Both ends show certificates of the cluster, and the source
//! shows the ticket of the very attempt; it is handed to that attempt and to no other.
//!
//! The leader's news of the source's agent decides how long to hope: an agent that came back is dialled at once, and
//! one that lives but was never reached from here is behind a firewall, which only a person can change.

mod awaited;
pub(crate) mod dial;
mod offer;
mod race;
mod relayed;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::failure::{Failure, FailureKind, Retry};
use common::principal::Principal;
use common::reach::Reach;
use common::spec::Compression;
use common::transport::TransportChoice;
use sync::wire::error_code::ErrorCode;
use tokio::time::Instant;

use crate::context::{Peer, StepContext};
use crate::copy::{peer_of, stopped};
use crate::endpoint::Endpoint;
use crate::link::Link;
use crate::memory::Memory;
use crate::peer::Source;
use crate::tcp::RelayWay;
use crate::window::Role;

pub(crate) use awaited::{Awaited, Offered};
pub use offer::ServeOrder;
pub(crate) use offer::{Offers, SERVED_MAX, Served, run as offer};

/// How long one attempt tries: three rounds of silent addresses, and the restart of an agent.
const WINDOW: Duration = Duration::from_secs(15);
/// Between two rounds over all addresses.
const PAUSE: Duration = Duration::from_secs(1);
/// For both to come to a relay: the source is told of it a moment after the destination.
const MEETING_DEADLINE: Duration = Duration::from_secs(10);

/// A connection to a source.
#[derive(Debug)]
pub(crate) struct Reached {
    /// The connection.
    pub(crate) link: Link,
    /// Who dialled.
    pub(crate) reach: Reach,
    /// A start of the source's agent that is not later than the one at the other end.
    pub(crate) incarnation: u64,
}

/// Opens the source of a step, tells how it was reached, and remembers that it was.
///
/// # Errors
/// When it cannot be reached or does not let this agent in, and when the step must stop.
pub(crate) async fn open(
    ctx: &StepContext,
    endpoint: &Endpoint,
    memory: &Memory,
    compression: Compression,
    transport: TransportChoice,
) -> Result<Source, Failure> {
    let was_reached = memory.was_reached();
    let peer = Peer { was_reached, compression, transport, ..peer_of(ctx)?.clone() };
    let source = tokio::select! {
        source = Source::open(endpoint, &peer, ctx.bandwidth.clone()) => source?,
        () = ctx.lease.stop().cancelled() => return Err(stopped(ctx)),
    };
    let (reach, transport) = (source.reach(), source.transport());
    // A step that catches up says so for each of its passes.
    tracing::debug!(migration = %ctx.migration, step = %ctx.step, peer = %peer.host, %reach, %transport, "reached the source");
    ctx.progress.send_modify(|progress| {
        progress.reach = Some(reach);
        progress.transport = Some(transport);
    });
    if !peer.was_reached {
        memory.note_reached()?;
    }
    Ok(source)
}

/// Connects to a peer, whichever of both dials.
pub(crate) async fn connect(endpoint: &Endpoint, peer: &Peer) -> Result<Reached, Failure> {
    connect_within(WINDOW, endpoint, peer).await
}

async fn connect_within(window: Duration, endpoint: &Endpoint, peer: &Peer) -> Result<Reached, Failure> {
    let mut awaited = endpoint.awaited().wait(peer.token);
    let (mut news, until) = (peer.news.clone(), Instant::now() + window);
    let (mut pause, mut reasons, mut is_alive) = (Duration::ZERO, Vec::new(), true);
    loop {
        let known = news.borrow_and_update().clone();
        is_alive &= known.is_connected;
        let addresses = if known.addresses.is_empty() { &peer.addresses } else { &known.addresses };
        let dialling = async {
            tokio::time::sleep(pause).await;
            match &peer.relay {
                Some(way) => meet(endpoint, peer, way).await.map_err(|reason| vec![reason]),
                None => dial::first(addresses, |address| dial_peer(endpoint, peer, address)).await,
            }
        };
        tokio::select! {
            biased;
            Offered { link, incarnation } = awaited.next() => {
                if !peer.transport.allows(link.transport()) {
                    link.close(ErrorCode::Denied, "another transport was asked for");
                    continue;
                }
                return Ok(Reached { link, reach: Reach::SourceDials, incarnation });
            }
            dialled = dialling => match dialled {
                Ok(link) => {
                    let incarnation = known.incarnation;
                    let reach = if peer.relay.is_some() { Reach::Relayed } else { Reach::DestinationDials };
                    return Ok(Reached { link, reach, incarnation });
                }
                Err(failed) => (pause, reasons) = (PAUSE, failed),
            },
            Ok(()) = news.changed() => pause = Duration::ZERO,
            () = tokio::time::sleep_until(until) => return Err(unreached(peer, addresses, &reasons, is_alive)),
        }
    }
}

/// Dials one address of a peer, and makes sure that it is this peer.
async fn dial_peer(endpoint: &Endpoint, peer: &Peer, address: SocketAddr) -> Result<Link, String> {
    let wanted = Principal::Agent { tenant: peer.tenant.clone(), host: peer.host.clone() };
    race::dial(endpoint, address, &wanted, Role::Destination, peer.transport).await
}

/// Meets a peer at a relay.
async fn meet(endpoint: &Endpoint, peer: &Peer, way: &Arc<RelayWay>) -> Result<Link, String> {
    let wanted = Principal::Agent { tenant: peer.tenant.clone(), host: peer.host.clone() };
    let meeting = tokio::time::timeout(MEETING_DEADLINE, endpoint.dial_through(way, &wanted)).await;
    let outcome = meeting.unwrap_or_else(|_elapsed| Err("the source did not come there".to_owned()));
    outcome.map_err(|reason| format!("through the relay {}: {reason}", way.host))
}

fn unreached(peer: &Peer, addresses: &[SocketAddr], reasons: &[String], is_alive: bool) -> Failure {
    let silent = || addresses.iter().map(|address| format!("{address}: no answer")).collect::<Vec<_>>();
    let tried = match (addresses, reasons) {
        ([], _) => "it has no known address".to_owned(),
        (_, []) => silent().join("; "),
        (_, reasons) => reasons.join("; "),
    };
    let host = &peer.host;
    if let Some(way) = &peer.relay {
        let tried = reasons.first().map_or("it was not reached in time", String::as_str);
        return Failure::new(FailureKind::Unreachable, format!("cannot reach the agent on {host} {tried}"))
            .context("host", host.to_string())
            .hint(format!("Both hosts must reach the data port (7443/tcp by default) of {}; is its agent running? What its log says of `relay` helps.", way.host));
    }
    let message =
        format!("cannot reach the agent on {host}: {tried}; and it did not reach this agent either");
    let mut failure = Failure::new(FailureKind::Unreachable, message).context("host", host.to_string());
    if is_alive && !peer.was_reached {
        failure.retry = Retry::AfterOperator;
        return failure.hint(format!(
            "Both agents run. Open the data port (7443 by default, UDP and TCP, of which one is enough) of one of both hosts to the other, or name the addresses that can be reached as `advertise_data` in agent.toml; `ctl host show {host}` lists those that were dialled. Then `ctl retry`. Or name a third host that both reach with --relay."
        ));
    }
    failure.hint(format!("Is its agent running, and is its data port (7443 by default, UDP or TCP) open from here? `ctl host show {host}` lists the addresses it is known by."))
}

#[cfg(test)]
mod tests;
