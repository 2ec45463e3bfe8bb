//! Whether a peer may read, and what.

use common::clock::{self, WallMs};
use common::id::HostName;
use common::principal::Principal;
use common::ticket::{Direction, InvalidTicket, Ticket};
use common::tls::Peer;
use sync::wire::control::Bye;
use sync::wire::error_code::ErrorCode;

use crate::endpoint::EndpointSettings;

/// Why a ticket does not let its bearer in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The ticket says no.
    #[error(transparent)]
    Ticket(#[from] InvalidTicket),
    /// This agent has no certificate of a cluster's host.
    #[error("this agent does not know who it is")]
    Nobody,
    /// It is for a host of another tenant.
    #[error("it is for another tenant")]
    Tenant,
    /// The root is not an absolute path.
    #[error("its root is not an absolute path")]
    Root,
    /// A renewal is for something else than what was opened.
    #[error("the fresh ticket is for something else than the one it renews")]
    Other,
}

impl Refused {
    /// Returns what the peer is told.
    pub(crate) fn to_bye(&self) -> Bye {
        let (code, hint) = match self {
            Self::Ticket(InvalidTicket::Expired(_)) => (
                ErrorCode::Expired,
                "Is the coordinator reachable, and are the clocks of its nodes right? Fresh tickets come with every renewal of the lease.",
            ),
            Self::Ticket(_) | Self::Nobody | Self::Tenant | Self::Root | Self::Other => (
                ErrorCode::Denied,
                "The ticket was not made for this. If both hosts belong to one cluster, retry the step.",
            ),
        };
        Bye { code, message: format!("the ticket is refused: {self}"), hint: hint.to_owned() }
    }
}

/// Returns the ticket if it lets this peer read here and now.
pub(crate) fn admit(bytes: &[u8], peer: &Peer, settings: &EndpointSettings) -> Result<Ticket, Refused> {
    let (ticket, host) = open(bytes, settings)?;
    check(&ticket, peer, &host, now(settings))?;
    Ok(ticket)
}

/// Returns the ticket if this agent is its source, which is to be read here and now.
pub(crate) fn to_offer(bytes: &[u8], settings: &EndpointSettings) -> Result<Ticket, Refused> {
    let (ticket, host) = open(bytes, settings)?;
    if ticket.source != host {
        return Err(InvalidTicket::Source(ticket.source).into());
    }
    Ok(ticket)
}

/// Returns the ticket if this peer is the source that this agent reads by it, now.
pub(crate) fn admit_source(
    bytes: &[u8],
    peer: &Peer,
    settings: &EndpointSettings,
) -> Result<Ticket, Refused> {
    let (ticket, host) = open(bytes, settings)?;
    ticket.admits_source(peer, &host, now(settings))?;
    Ok(ticket)
}

/// Returns a ticket of this agent's cluster and tenant that has not expired, and this agent's host.
fn open(bytes: &[u8], settings: &EndpointSettings) -> Result<(Ticket, HostName), Refused> {
    let own = settings.identity.peer().or(Err(Refused::Nobody))?;
    let Principal::Agent { tenant, host } = own.principal else { return Err(Refused::Nobody) };
    let ticket = Ticket::open(bytes, &settings.authority)?;
    ticket.holds(&own.cluster, now(settings))?;
    if ticket.tenant != tenant {
        return Err(Refused::Tenant);
    }
    Ok((ticket, host))
}

fn check(ticket: &Ticket, peer: &Peer, host: &HostName, now: WallMs) -> Result<(), Refused> {
    ticket.admits(peer, host, now)?;
    match ticket.direction {
        Direction::Pull => {}
    }
    if !ticket.source_root.starts_with('/') {
        return Err(Refused::Root);
    }
    Ok(())
}

/// Returns the fresh ticket if it renews this one: the same right, longer.
pub(crate) fn renew(
    old: &Ticket,
    bytes: &[u8],
    peer: &Peer,
    settings: &EndpointSettings,
) -> Result<Ticket, Refused> {
    let fresh = admit(bytes, peer, settings)?;
    let as_old = Ticket { expires: old.expires, ..fresh.clone() };
    if as_old == *old { Ok(fresh) } else { Err(Refused::Other) }
}

/// Returns the coordinator's time, by which tickets end.
pub(crate) fn now(settings: &EndpointSettings) -> WallMs {
    WallMs(clock::wall().0.saturating_add_signed(*settings.clock_ahead_ms.borrow()))
}
