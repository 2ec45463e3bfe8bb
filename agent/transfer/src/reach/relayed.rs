//! The source's side where a relay is named: it waits there for the destination and its lanes.

use std::sync::Arc;
use std::time::Duration;

use common::relay::RelayTicket;

use crate::endpoint::{Endpoint, EndpointSettings};
use crate::tcp::RelayWay;
use crate::ticket;

/// Connections that wait at the relay, so that a lane that is opened need not wait for one to be dialled.
const WAITING: usize = 3;
/// Before a relay that was not reached is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Waits at a relay, again and again, as long as its ticket holds.
pub(super) fn wait(endpoint: &Endpoint, way: &Arc<RelayWay>, settings: &EndpointSettings) {
    let ticket = match RelayTicket::open(&way.ticket, &settings.authority) {
        Ok(ticket) => ticket,
        Err(refused) => {
            tracing::warn!(reason = %refused, "an order to wait at a relay was not taken");
            return;
        }
    };
    let left = Duration::from_millis(ticket.expires.since(ticket::now(settings)));
    for _ in 0..WAITING {
        let (endpoint, way) = (endpoint.clone(), Arc::clone(way));
        endpoint.stop().clone().spawn(async move {
            let stop = endpoint.stop().clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(left) => {}
                () = again_and_again(&endpoint, &way) => {}
            }
        });
    }
}

async fn again_and_again(endpoint: &Endpoint, way: &RelayWay) {
    loop {
        if let Err(reason) = endpoint.wait_at(way).await {
            tracing::debug!(relay = %way.host, reason, "nobody was met at the relay");
            tokio::time::sleep(PAUSE).await;
        }
    }
}
