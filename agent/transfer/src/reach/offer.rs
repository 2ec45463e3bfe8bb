//! The source's side: who is to be let in, and dialling him when he does not come.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::fence::FencingToken;
use common::principal::Principal;
use common::shutdown::Shutdown;
use common::ticket::Ticket;
use common::transport::TransportChoice;
use sync::wire::control::Bye;
use sync::wire::error_code::ErrorCode;
use sync::wire::hello::{self, Hello, PROTOCOL_VERSION};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{dial, race, relayed};
use crate::endpoint::{Endpoint, EndpointSettings};
use crate::lane::{Lane, LaneError};
use crate::link::Link;
use crate::serve;
use crate::tcp::RelayWay;
use crate::ticket;
use crate::watch::Watches;
use crate::window::Role;

/// How much earlier the destination may begin: it has to take up its lease, to write that down, and to dial.
const HEAD_START: Duration = Duration::from_millis(500);
/// Between two rounds over all addresses.
const PAUSE: Duration = Duration::from_secs(1);
/// Destinations that are dialled at once; as many attempts as an agent runs.
const OFFERS_MAX: usize = 256;
/// Attempts that are served at once: more migrations than one host's disks can feed.
pub(crate) const SERVED_MAX: usize = 64;

/// Whom to let in, and to dial if he does not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeOrder {
    /// The signed ticket of the attempt; nothing is done once it has run out.
    pub ticket: Vec<u8>,
    /// Where the destination's data port is reached, best first.
    pub addresses: Vec<SocketAddr>,
    /// What to dial with.
    pub transport: TransportChoice,
    /// Where to wait for the destination instead.
    pub relay: Option<Arc<RelayWay>>,
}

/// Threads that serve an attempt notice within a moment that its connection has ended; less than a greeting may take.
const FREED_DEADLINE: Duration = Duration::from_secs(2);

/// Which attempts are being dialled, and which are served; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Offers {
    known: Arc<Mutex<Known>>,
    watches: Watches,
    /// Told when an attempt is served no more.
    freed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Known {
    offered: BTreeMap<FencingToken, CancellationToken>,
    served: BTreeSet<FencingToken>,
}

/// An attempt that is being dialled, until this is dropped.
#[derive(Debug)]
struct Offer {
    token: FencingToken,
    /// Fires when the attempt is served, whoever dialled.
    is_served: CancellationToken,
    offers: Offers,
}

/// An attempt that is served, until this is dropped.
#[derive(Debug)]
pub(crate) struct Served {
    token: FencingToken,
    offers: Offers,
}

impl Offers {
    /// Makes those of an agent that serves nobody yet.
    pub(crate) fn new(tasks: Shutdown) -> Self {
        Self { known: Arc::default(), watches: Watches::new(tasks), freed: Arc::default() }
    }

    /// Returns the trees that are watched for those who are served.
    pub(crate) fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Begins to dial for an attempt, unless that is done already or it is served.
    fn begin(&self, token: FencingToken) -> Option<Offer> {
        let mut known = self.known();
        let is_known = known.served.contains(&token) || known.offered.contains_key(&token);
        if is_known || known.offered.len() >= OFFERS_MAX {
            return None;
        }
        let is_served = CancellationToken::new();
        known.offered.insert(token, is_served.clone());
        Some(Offer { token, is_served, offers: self.clone() })
    }

    /// Notes that an attempt is served: it need not be dialled. An earlier connection of it, such as that of its pass
    /// before, gives its place up a moment after the destination has seen its end.
    ///
    /// # Errors
    /// When it is served already, by another connection, or when enough others are.
    pub(crate) async fn serve(&self, token: FencingToken) -> Result<Served, Unserved> {
        let served = async {
            loop {
                let freed = self.freed.notified();
                tokio::pin!(freed);
                // From here on nothing is missed.
                freed.as_mut().enable();
                match self.serve_now(token) {
                    Err(Unserved::Twice) => freed.await,
                    done => return done,
                }
            }
        };
        tokio::time::timeout(FREED_DEADLINE, served).await.unwrap_or(Err(Unserved::Twice))
    }

    fn serve_now(&self, token: FencingToken) -> Result<Served, Unserved> {
        let mut known = self.known();
        if known.served.contains(&token) {
            return Err(Unserved::Twice);
        }
        if known.served.len() >= SERVED_MAX {
            return Err(Unserved::Enough);
        }
        known.served.insert(token);
        if let Some(is_served) = known.offered.get(&token) {
            is_served.cancel();
        }
        Ok(Served { token, offers: self.clone() })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic in between leaves at worst an attempt that is not dialled.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.offers.known().offered.remove(&self.token);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.offers.known().served.remove(&self.token);
        self.offers.freed.notify_waiters();
    }
}

/// Why an attempt is not served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unserved {
    #[error("this attempt is served already, by another connection")]
    Twice,
    #[error("the source's agent serves {SERVED_MAX} migrations already, and no more at once")]
    Enough,
}

impl Unserved {
    /// Returns what the destination is told.
    pub(crate) fn to_bye(self) -> Bye {
        let hint = match self {
            Self::Twice => "It is tried again, once the source has noticed that the other one has ended.",
            Self::Enough => "It is tried again for a while; let others from the same host end first.",
        };
        Bye { code: ErrorCode::Busy, message: self.to_string(), hint: hint.to_owned() }
    }
}

/// Dials the destination until it is served or the ticket runs out; then serves it to the end.
pub(crate) async fn run(endpoint: Endpoint, order: ServeOrder, settings: Arc<EndpointSettings>) {
    let ticket = match ticket::to_offer(&order.ticket, &settings) {
        Ok(ticket) => ticket,
        Err(refused) => {
            tracing::warn!(reason = %refused, "an order to serve was not taken");
            return;
        }
    };
    if let Some(way) = &order.relay {
        relayed::wait(&endpoint, way, &settings);
        return;
    }
    let Some(offer) = endpoint.offers().begin(ticket.token) else { return };
    let left = Duration::from_millis(ticket.expires.since(ticket::now(&settings)));
    let stop = endpoint.stop().clone();
    let met = tokio::select! {
        () = stop.cancelled() => return,
        () = offer.is_served.cancelled() => return,
        met = tokio::time::timeout(left, meet(&endpoint, &order, &ticket, &settings)) => met,
    };
    let Ok(Some((link, mut lane))) = met else { return };
    tracing::info!(migration = %ticket.migration, peer = %ticket.destination, address = %link.address(),
        "dialled the destination, which did not come");
    let hello = serve::hello(&mut lane).await;
    serve::run(link, lane, hello, settings, endpoint.offers().clone(), stop.child()).await;
}

/// Dials again and again, until the destination opens its control lane or refuses.
async fn meet(
    endpoint: &Endpoint,
    order: &ServeOrder,
    ticket: &Ticket,
    settings: &EndpointSettings,
) -> Option<(Link, Lane)> {
    let wanted = Principal::Agent { tenant: ticket.tenant.clone(), host: ticket.destination.clone() };
    let mut pause = HEAD_START;
    loop {
        tokio::time::sleep(pause).await;
        pause = PAUSE;
        let dialled = dial::first(&order.addresses, |address| {
            race::dial(endpoint, address, &wanted, Role::Source, order.transport)
        })
        .await;
        let link = match dialled {
            Ok(link) => link,
            Err(reasons) => {
                tracing::debug!(peer = %ticket.destination, reasons = reasons.join("; "), "the destination was not reached");
                continue;
            }
        };
        match present(&link, &order.ticket, settings.incarnation).await {
            Ok(lane) => return Some((link, lane)),
            Err(LaneError::Closed { code, reason }) if code.is_refusal() => {
                tracing::warn!(peer = %ticket.destination, ?code, reason, "the destination did not take the offer");
                return None;
            }
            Err(error) => tracing::debug!(peer = %ticket.destination, %error, "an offer came to nothing"),
        }
    }
}

/// Shows the ticket, and waits for the destination's control lane.
pub(super) async fn present(link: &Link, ticket: &[u8], incarnation: u64) -> Result<Lane, LaneError> {
    let mut lane = link.open_lane().await?;
    let offer = hello::Offer { version: PROTOCOL_VERSION, ticket: ticket.to_vec(), incarnation };
    lane.sender.message(&Hello::Offer(offer)).await?;
    lane.sender.finish().await;
    link.accept_lane().await
}
