//! Hosts whose certificates are void before they end, as the coordinator told.
//!
//! A certificate lives for an hour, and a connection that was made with it would live on. So every link is entered here
//! before it is used: one of a host that is known to be revoked is closed at once, and the others when they are told
//! of. What was told is forgotten with the process; the coordinator tells it again with each session.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::id::HostName;
use common::principal::Principal;
use common::tls::Peer;
use sync::wire::error_code::ErrorCode;

use crate::link::{Link, WeakLink};

/// Hosts that are remembered: as many as a cluster has agents.
const HOSTS_MAX: usize = 10_000;
/// What a peer is told whose certificate is void.
const REASON: &str = "the certificate of this host was revoked";

/// The revoked hosts of the own tenant, and the links that are open.
#[derive(Debug, Default)]
pub(crate) struct Revoked {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Up to which generation certificates of a host are void.
    void: BTreeMap<HostName, u64>,
    open: Vec<WeakLink>,
}

/// The peer of a link was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its certificate was revoked")]
pub(crate) struct PeerRevoked;

impl Revoked {
    /// Enters a link, unless its peer is revoked; then it is closed.
    pub(crate) fn enter(&self, link: &Link) -> Result<(), PeerRevoked> {
        let mut known = self.known();
        if known.is_void(link.peer()) {
            link.close(ErrorCode::Denied, REASON);
            return Err(PeerRevoked);
        }
        known.open.retain(WeakLink::is_alive);
        known.open.push(link.downgrade());
        Ok(())
    }

    /// Voids the certificates of a host up to a generation, and closes what was opened with them; returns how many.
    pub(crate) fn revoke(&self, host: HostName, generation: u64) -> usize {
        let mut known = self.known();
        if known.void.len() >= HOSTS_MAX && !known.void.contains_key(&host) {
            tracing::warn!(%host, "too many hosts are revoked to remember one more");
            return 0;
        }
        let void = known.void.entry(host).or_default();
        *void = generation.max(*void);
        let links: Vec<Link> = known.open.iter().filter_map(WeakLink::upgrade).collect();
        let voided: Vec<&Link> = links.iter().filter(|link| known.is_void(link.peer())).collect();
        for link in &voided {
            link.close(ErrorCode::Denied, REASON);
        }
        voided.len()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is one insertion, so a panic elsewhere leaves both lists whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_void(&self, peer: &Peer) -> bool {
        match &peer.principal {
            // Every peer is of the own tenant: its ticket says so, or it was dialled as one.
            Principal::Agent { host, .. } => {
                self.void.get(host).is_some_and(|void| peer.generation.unwrap_or(0) <= *void)
            }
            Principal::Person { .. } | Principal::Node { .. } | Principal::Key { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use common::id::TenantId;
    use common::transport::Transport;

    use super::*;
    use crate::pair::Pair;
    use crate::window::Role;

    #[tokio::test]
    async fn a_revoked_peer_is_cut_and_not_let_in_again() {
        let pair = Pair::new();
        let host = |name: &str| name.parse::<HostName>().unwrap();
        let source = Principal::Agent { tenant: TenantId::default_tenant(), host: host("web1") };
        let dial = || pair.endpoint.dial(pair.source_address, &source, Role::Destination, Transport::Quic);
        let link = dial().await.unwrap();
        pair.source_endpoint.revoke(host("web3"), 9);
        pair.source_endpoint.revoke(host("web2"), 0);
        // Whether it was entered at the source before or comes to be now, it is closed.
        link.closed().await;
        // The source lets a later one in no more, and the destination believes none that it was told of.
        if let Ok(again) = dial().await {
            again.closed().await;
        }
        pair.endpoint.revoke(host("web1"), 0);
        assert_eq!(dial().await.err().as_deref(), Some("its certificate was revoked"));
    }
}
