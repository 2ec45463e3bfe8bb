//! The node's own certificate: issued by itself out of the sealed authority, before half of its life is over.
//!
//! Looked at by the wall clock every half minute, because that is the clock by which certificates end, and it may jump.
//! So a cluster whose nodes were all off for a day comes up by itself.

use std::sync::Arc;
use std::time::Duration;

use common::clock::{self, WallMs};
use common::failure::{Failure, FailureKind};
use common::principal::Principal;
use common::tls::{Identity, Peer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::hub::{Hub, Seals};

/// How often the certificate's age is looked at.
const INTERVAL: Duration = Duration::from_secs(30);

/// Renews until the shutdown.
pub async fn run(hub: Arc<Hub>, identity: Arc<Identity>) {
    loop {
        tokio::select! {
            biased;
            () = hub.shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let is_due = identity.peer().map_or(true, |peer| is_due(&peer, clock::wall()));
        if is_due && let Err(failure) = renew(&hub, &identity) {
            tracing::warn!(%failure, "this node could not renew its certificate");
        }
    }
}

/// Shows a fresh certificate from now on.
///
/// # Errors
/// When the authority cannot be opened or used.
fn renew(hub: &Hub, identity: &Identity) -> Result<(), Failure> {
    let (chain, key) = own_certificate(hub.seals()?, &hub.principal(), clock::wall())?;
    identity.replace(chain, key).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    tracing::info!("this node renewed its certificate");
    Ok(())
}

/// Issues a certificate for a node itself; the chain ends with the authority, so that a joiner can pin it.
///
/// # Errors
/// When it cannot be issued.
pub fn own_certificate(
    seals: &Seals,
    principal: &Principal,
    now: WallMs,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Failure> {
    let issued = seals.authority.issue_with_key(principal, now);
    let (leaf, key) = issued.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
    Ok((vec![leaf, seals.authority.certificate().clone()], key))
}

/// Whether more than half of a certificate's life is over, or it has not begun, as after a clock that jumped.
fn is_due(peer: &Peer, now: WallMs) -> bool {
    let half = peer.not_before.0 + peer.not_after.since(peer.not_before) / 2;
    now.0 >= half || now < peer.not_before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_due_after_half_its_life_and_when_the_clock_went_back() {
        let peer = Peer {
            cluster: "c1".to_owned(),
            principal: Principal::Node { name: "n1".parse().unwrap() },
            generation: None,
            public_key: Vec::new(),
            not_before: WallMs(1_000),
            not_after: WallMs(3_000),
            is_expired: false,
        };
        for (now, expected) in [(999, true), (1_000, false), (1_999, false), (2_000, true), (9_000, true)] {
            assert_eq!(is_due(&peer, WallMs(now)), expected, "at {now}");
        }
    }
}
