//! One node: builds every part in order, and owns the order in which they end.
//!
//! Start: files and keys, ports, raft with the state out of the local log, the node's own certificate out of the
//! sealed authority, the doors, the reconcilers, membership. A node without its cluster key does not get past the
//! first step. End: the door for agents and operators takes nobody new, leadership is handed over, sessions are told
//! where the new leader is, raft stops, and everything is joined.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::clock;
use common::failure::{Failure, FailureKind};
use common::shutdown::Shutdown;
use common::tls::{self, ALPN_GRPC, Clients, Identity, IsRevoked, Peer};
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::audit::{self, NodeAudit};
use crate::config::Settings;
use crate::grpc;
use crate::grpc::raft::RaftDoor;
use crate::hub::{Hub, Peers};
use crate::live::introductions::Introductions;
use crate::live::lease_clock::LeaseClock;
use crate::live::paces::Paces;
use crate::live::progress::LiveProgresses;
use crate::live::sessions::Sessions;
use crate::live::settling::Settling;
use crate::membership::{Membership, NodeFiles, SealedAuthority};
use crate::raft::Member;
use crate::raft::membership::{Admission, join};
use crate::raft::node::{RaftNode, RaftSettings};
use crate::raft::wire::{GrpcWire, Wire};
use crate::reconcile::{driver, renewal, retention, revocation};
use crate::rotate;
use crate::state::State;
use crate::vault::hashicorp::Vaults;
use crate::vault::keyring::KeySources;
use crate::vault::ring::Keyring;

/// How long connections and tasks may take to end; what is left then ends with the process.
const FINISH_DEADLINE: Duration = Duration::from_secs(5);
/// The pause before a node asks again to be admitted.
const ADMISSION_PAUSE: Duration = Duration::from_secs(5);

/// A running node.
pub struct Node {
    hub: Arc<Hub>,
    raft: RaftNode,
    shutdown: Shutdown,
    api_door: Shutdown,
    raft_door: Shutdown,
    api_address: SocketAddr,
}

impl Node {
    /// Starts a node that `init` or `join` has made.
    ///
    /// # Errors
    /// When it belongs to no cluster, its key is missing or another cluster's, a port is taken, or its files are
    /// damaged.
    pub async fn start(settings: &Settings, sources: &KeySources) -> Result<Self, Failure> {
        let files = NodeFiles::create(&settings.state_dir)?;
        let membership = files.membership()?.ok_or_else(|| no_member(settings))?;
        let keyring = Keyring::open(sources.clone())?;
        settings.retention.check()?;
        let node_audit = NodeAudit::open(&settings.state_dir, &settings.audit)?;
        let (api, raft_listener) = (bind(settings.listen_api).await?, bind(settings.listen_raft).await?);
        let api_address = local_address(&api)?;
        let member = Member {
            name: membership.name.to_string(),
            api_address: settings.advertised_api(api_address),
            raft_address: settings.advertised_raft(local_address(&raft_listener)?),
        };
        let (identity, authority) = files.identity()?;
        let client = tls_config(tls::client_config(Arc::clone(&identity), &authority, ALPN_GRPC))?;
        let wire: Arc<dyn Wire> = Arc::new(GrpcWire::new(Arc::new(client)));

        let shutdown = Shutdown::new();
        let raft_settings = RaftSettings { node_id: membership.node_id, directory: files.raft_directory() };
        let raft = RaftNode::open(raft_settings, Arc::clone(&wire), &shutdown).await?;
        let hub = Arc::new(Hub {
            name: membership.name.clone(),
            proposer: raft.proposer().clone(),
            raft: raft.clone(),
            keyring,
            rotation: tokio::sync::Mutex::default(),
            peers: Peers(Arc::clone(&wire)),
            audit: node_audit,
            retention: settings.retention.clone(),
            vaults: Vaults::new(&settings.vault)?,
            support_contact: settings.support_contact.clone(),
            sessions: Sessions::default(),
            lease_clock: LeaseClock::default(),
            progress: LiveProgresses::default(),
            paces: Paces::default(),
            introductions: Introductions::default(),
            settling: Settling::default(),
            connections: Arc::default(),
            wake: Arc::new(Notify::new()),
            shutdown: shutdown.clone(),
            seals: OnceLock::new(),
        });
        if let Err(failure) = show_own_certificate(&hub, &identity, &files) {
            raft.shutdown().await;
            shutdown.finish().await;
            return Err(failure);
        }
        let node = Self {
            hub: Arc::clone(&hub),
            raft,
            api_door: shutdown.child(),
            raft_door: shutdown.child(),
            shutdown,
            api_address,
        };
        node.open_doors(&identity, &authority, api, raft_listener)?;
        node.shutdown.spawn(driver::run(Arc::clone(&hub)));
        node.shutdown.spawn(revocation::run(Arc::clone(&hub)));
        audit::spawn(&hub);
        node.shutdown.spawn(retention::run(Arc::clone(&hub)));
        node.shutdown.spawn(renewal::run(Arc::clone(&hub), identity));
        node.shutdown.spawn(rotate::keep_keys(Arc::clone(&hub), files.clone()));
        node.shutdown.spawn(stay_member(hub, wire, (membership, files), member));
        Ok(node)
    }

    fn open_doors(
        &self,
        identity: &Arc<Identity>,
        authority: &CertificateDer<'static>,
        api: TcpListener,
        raft: TcpListener,
    ) -> Result<(), Failure> {
        let config = |clients, is_revoked: fn(&State, &Peer) -> bool| {
            let hub = Arc::clone(&self.hub);
            let is_revoked: IsRevoked = Arc::new(move |peer| is_revoked(&hub.state(), peer));
            let identity = Arc::clone(identity);
            tls_config(tls::server_config_revoking(identity, authority, clients, ALPN_GRPC, is_revoked))
        };
        let nodes = RaftDoor::new(self.raft.server().clone(), Arc::clone(&self.hub));
        let raft_tls = config(Clients::Certified, grpc::is_revoked_for_raft)?;
        let api_tls = config(Clients::Joining, grpc::is_revoked_for_api)?;
        grpc::serve_raft(&self.hub, nodes, raft, raft_tls, &self.raft_door);
        grpc::serve_api(&self.hub, api, api_tls, &self.api_door);
        Ok(())
    }

    /// Returns where agents and operators are listened to.
    pub fn api_address(&self) -> SocketAddr {
        self.api_address
    }

    /// Returns what the parts share.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Waits until raft has stopped by itself, because it could not store or apply.
    pub async fn failed(&self) -> Failure {
        self.raft.failed().await
    }

    /// Stops in order.
    pub async fn stop(self) {
        self.api_door.cancel();
        // The leadership is handed over first; the driver then tells the sessions where they find the new leader.
        self.raft.shutdown().await;
        self.shutdown.cancel();
        let finished = async {
            self.raft_door.finish().await;
            self.api_door.finish().await;
            self.shutdown.finish().await;
        };
        if tokio::time::timeout(FINISH_DEADLINE, finished).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("name", &self.hub.name).finish_non_exhaustive()
    }
}

/// Replaces the certificate that the node began with, which may be a day old, if the state is here already; and keeps
/// the sealed authority beside it.
fn show_own_certificate(hub: &Hub, identity: &Identity, files: &NodeFiles) -> Result<(), Failure> {
    let state = hub.state();
    if state.cluster().is_initialized() {
        let (chain, key) = renewal::own_certificate(hub.seals()?, &hub.principal(), clock::wall())?;
        identity.replace(chain, key).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        return files.write_authority(&SealedAuthority::of(state.cluster()));
    }
    let peer = identity.peer().map_err(|error| Failure::of(FailureKind::Invalid, &error))?;
    if peer.is_expired {
        let message = "this node's certificate has expired before it became a member";
        return Err(Failure::new(FailureKind::Unauthenticated, message)
            .hint("remove `node.json` in its `state_dir` and let it join again"));
    }
    Ok(())
}

/// Asks to be admitted until the members list this node as it is reached now.
async fn stay_member(
    hub: Arc<Hub>,
    wire: Arc<dyn Wire>,
    (membership, files): (Membership, NodeFiles),
    member: Member,
) {
    let admission = Admission { node_id: membership.node_id, member };
    let mut told = None;
    loop {
        let known = hub.raft.member_views();
        let own = known.iter().find(|view| view.node_id == admission.node_id);
        let is_listed = own.is_some_and(|own| {
            own.api_address == admission.member.api_address
                && own.raft_address == admission.member.raft_address
                && own.role != "learner"
        });
        if is_listed {
            return;
        }
        let mut addresses: Vec<String> = known.into_iter().map(|view| view.raft_address).collect();
        addresses.extend(membership.raft_addresses.iter().cloned());
        // A node alone asks itself, at the place where it listens now.
        addresses.push(admission.member.raft_address.clone());
        let asked = tokio::select! {
            biased;
            () = hub.shutdown.cancelled() => return,
            asked = join(wire.as_ref(), &addresses, &admission) => asked,
        };
        match asked {
            Ok(()) => {
                tracing::info!(node = %membership.name, "this node is a member of the cluster");
                let state = hub.state();
                if state.cluster().is_initialized()
                    && let Err(failure) = files.write_authority(&SealedAuthority::of(state.cluster()))
                {
                    tracing::warn!(%failure, "the sealed authority could not be kept");
                }
                return;
            }
            Err(failure) => {
                if told.as_ref() != Some(&failure.message) {
                    let hint = failure.hint.as_deref().unwrap_or_default();
                    tracing::warn!(%failure, hint, "this node is not a member of the cluster yet");
                }
                told = Some(failure.message);
            }
        }
        tokio::select! {
            biased;
            () = hub.shutdown.cancelled() => return,
            () = tokio::time::sleep(ADMISSION_PAUSE) => {}
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        Failure::new(FailureKind::Conflict, format!("listening on {address}: {error}"))
            .hint("choose another port in the settings, or stop who listens there")
    })
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, Failure> {
    listener.local_addr().map_err(|error| Failure::of(FailureKind::Bug, &error))
}

fn tls_config<T>(made: Result<T, tls::TlsError>) -> Result<T, Failure> {
    made.map_err(|error| Failure::of(FailureKind::Invalid, &error))
}

fn no_member(settings: &Settings) -> Failure {
    let message = format!("{} belongs to no cluster yet", settings.state_dir.display());
    Failure::new(FailureKind::Invalid, message).hint(
        "make a new cluster with `drover-coordinator init`, or let this node join one with the command that `ctl cluster add` prints",
    )
}
