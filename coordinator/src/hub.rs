//! What every door and every reconciler of a node needs, in one place.
//!
//! Reads come from the state that this node has applied; writes go through the proposer. Only the leader serves: its
//! knowledge of sessions, renewals and live progress is in `live` and begins anew with each leadership.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use common::clock;
use common::failure::{CONFIRM, Failure, FailureKind};
use common::id::{MigrationId, NodeName, StepId, TenantId};
use common::principal::Principal;
use common::progress::Progress;
use common::secret::Secret;
use common::shutdown::Shutdown;
use common::ticket::TicketKey;
use common::view::ClusterView;
use tokio::sync::Notify;

use crate::access::actor::Actor;
use crate::audit::NodeAudit;
use crate::audit::refusals::Refused;
use crate::grpc::connection::Connections;
use crate::live::introductions::Introductions;
use crate::live::lease_clock::LeaseClock;
use crate::live::paces::{Pace, Paces};
use crate::live::progress::LiveProgresses;
use crate::live::sessions::Sessions;
use crate::live::settling::Settling;
use crate::membership::SealedAuthority;
use crate::pki::authority::Authority;
use crate::raft::node::RaftNode;
use crate::raft::proposer::Proposer;
use crate::raft::state_machine::Replica;
use crate::raft::wire::Wire;
use crate::reconcile::retention::RetentionSettings;
use crate::state::migration::Migration;
use crate::state::{Command, Outcome, State};
use crate::vault::envelope::{self, EnvelopeError, Parts};
use crate::vault::hashicorp::Vaults;
use crate::vault::keyring::ClusterKey;
use crate::vault::ring::Keyring;

/// What the envelope of the authority's key is bound to, before the cluster's id.
pub(crate) const AUTHORITY_CONTEXT: &str = "drover authority key of cluster ";

/// How old a quorum's word may be on which this node answers as the leader: a leader that was replaced without knowing
/// it must not keep a lease alive that its successor gives away.
const QUORUM_AGE_MAX: Duration = Duration::from_secs(1);

/// The authority and what follows from it; opened once the state has arrived.
#[derive(Debug)]
pub struct Seals {
    /// The authority.
    pub authority: Authority,
    /// Signs tickets.
    pub ticket_key: TicketKey,
}

/// The state as a node has applied it at one moment.
#[derive(Debug)]
pub struct Seen(Arc<Replica>);

impl Deref for Seen {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0.state
    }
}

/// The way to the other nodes.
#[derive(Clone)]
pub struct Peers(pub Arc<dyn Wire>);

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Peers")
    }
}

/// Everything that a node's parts share.
#[derive(Debug)]
pub struct Hub {
    /// This node's name.
    pub name: NodeName,
    /// The one door for writes; the state for reads.
    pub proposer: Proposer,
    /// This node's raft.
    pub raft: RaftNode,
    /// The cluster keys that this node has.
    pub keyring: Keyring,
    /// Held while the cluster key is rotated or old ones are dropped: the two would take each other's key for an old one.
    pub rotation: tokio::sync::Mutex<()>,
    /// The way to the other nodes.
    pub peers: Peers,
    /// What this node keeps for the audit.
    pub audit: NodeAudit,
    /// How long migrations that ended are kept.
    pub retention: RetentionSettings,
    /// The HashiCorp Vaults of the tenants.
    pub vaults: Vaults,
    /// Shown to operators with errors.
    pub support_contact: Option<String>,
    /// Who is connected.
    pub sessions: Sessions,
    /// When leases were last renewed.
    pub lease_clock: LeaseClock,
    /// How far steps are right now.
    pub progress: LiveProgresses,
    /// How steps are paced, as their agents were told.
    pub paces: Paces,
    /// What the two agents of a step were told of each other.
    pub introductions: Introductions,
    /// Whose stages are being removed.
    pub settling: Settling,
    /// Open connections, to cut.
    pub connections: Arc<Connections>,
    /// Wakes the reconcilers.
    pub wake: Arc<Notify>,
    /// The end of the process.
    pub shutdown: Shutdown,
    /// The opened authority; empty on a node that has not received the state yet.
    pub seals: std::sync::OnceLock<Seals>,
}

/// Seals the authority's key for the state.
///
/// # Errors
/// When randomness fails.
pub fn seal_authority_key(
    cluster_key: &ClusterKey,
    cluster: &str,
    key: &Secret<Vec<u8>>,
) -> Result<Vec<u8>, Failure> {
    envelope::seal(cluster_key, &format!("{AUTHORITY_CONTEXT}{cluster}"), key.expose())
        .map_err(|error| Failure::of(FailureKind::Bug, &error))
}

/// Opens the authority out of its sealed form.
///
/// # Errors
/// When the cluster key is not the one that it was sealed under, or the envelope is damaged.
pub fn open_authority(keyring: &Keyring, sealed: &SealedAuthority) -> Result<Seals, Failure> {
    let context = format!("{AUTHORITY_CONTEXT}{}", sealed.cluster);
    let unopened = |failure: Failure| {
        let message = format!("the authority's key cannot be opened: {}", failure.message);
        Failure { message, ..failure }
            .hint("put the cluster key of this cluster in place; another coordinator or your backup has it")
    };
    let invalid = |error: &EnvelopeError| unopened(Failure::of(FailureKind::Invalid, error));
    let id = key_id(&sealed.sealed_key).map_err(|error| invalid(&error))?;
    let cluster_key = keyring.key(id).map_err(unopened)?;
    let key = envelope::open(&cluster_key, &context, &sealed.sealed_key).map_err(|error| invalid(&error))?;
    let bug = |error| Failure::of(FailureKind::Bug, &error);
    let authority = Authority::open(&sealed.cluster, &sealed.certificate, &key).map_err(bug)?;
    let ticket_key = authority.ticket_key().map_err(bug)?;
    Ok(Seals { authority, ticket_key })
}

/// Whether a failure says no to who asked, and is not counted where the answer goes out.
fn is_refusal(failure: &Failure) -> bool {
    let is_question = failure.context.iter().any(|(field, _)| field == CONFIRM);
    match failure.kind {
        FailureKind::Invalid
        | FailureKind::NotFound
        | FailureKind::Conflict
        | FailureKind::Fenced
        | FailureKind::Unsupported
        | FailureKind::Exhausted
        | FailureKind::Throttled => !is_question,
        FailureKind::Unauthenticated
        | FailureKind::Denied
        | FailureKind::Changed
        | FailureKind::Corrupt
        | FailureKind::Unreachable
        | FailureKind::Timeout
        | FailureKind::Cancelled
        | FailureKind::Stuck
        | FailureKind::Bug => false,
    }
}

/// The path of an absent migration, and of one that the caller may not know of.
pub fn absent_migration(id: &str) -> Failure {
    let id: String = id.chars().take(64).collect();
    Failure::new(FailureKind::NotFound, format!("there is no migration `{id}`"))
        .hint("see `ctl list` for what there is")
}

/// Returns the id of the cluster key that something is sealed under; the authority's key is under the present one.
pub(crate) fn key_id(sealed: &[u8]) -> Result<[u8; 8], EnvelopeError> {
    Parts::of(sealed)?.key_id()
}

impl Hub {
    /// Returns the present cluster key.
    ///
    /// # Errors
    /// When this node does not have it.
    pub fn cluster_key(&self) -> Result<ClusterKey, Failure> {
        let state = self.state();
        let id =
            key_id(&state.cluster().ca_key).map_err(|error| Failure::of(FailureKind::Invalid, &error))?;
        self.keyring.key(id)
    }

    /// Returns the state as this node has applied it.
    pub fn state(&self) -> Seen {
        Seen(self.proposer.read())
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.proposer.is_leader()
    }

    /// Whether this node leads and a quorum has just said so: a leader that is cut off believes in itself for ever.
    pub async fn leads_surely(&self) -> bool {
        self.is_leader() && self.proposer.quorum_acked_within(QUORUM_AGE_MAX).await
    }

    /// Returns where `ctl` and agents reach the leader, as far as this node knows.
    pub fn leader_address(&self) -> Option<String> {
        let leadership = self.proposer.leadership();
        let leader = leadership.borrow().leader.clone();
        leader.map(|leader| leader.api_address).filter(|address| !address.is_empty())
    }

    /// Returns the cluster as this node sees it.
    pub fn cluster_view(&self) -> ClusterView {
        let replica = self.proposer.read();
        let leadership = self.proposer.leadership();
        let leadership = leadership.borrow();
        ClusterView {
            id: replica.state.cluster().id.clone(),
            leader: leadership.leader.as_ref().and_then(|leader| leader.name.parse().ok()),
            members: self.raft.member_views(),
            applied_index: replica.applied.map_or(0, |applied| applied.index),
            term: leadership.term,
            epoch: replica.state.cluster().epoch,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now: clock::wall(),
        }
    }

    /// Returns who acts when a reconciler does.
    pub fn principal(&self) -> Principal {
        Principal::Node { name: self.name.clone() }
    }

    /// Proposes a command and waits until it is applied here. A change that a principal asks for is audited with it;
    /// one that is refused is counted as such.
    ///
    /// # Errors
    /// With the refusal of the state, when this node does not lead or reaches no quorum, or when there is no room for
    /// the audit of a change.
    pub async fn propose(&self, actor: impl Into<Actor>, command: Command) -> Result<Outcome, Failure> {
        let actor = actor.into();
        let is_own = matches!(actor.principal, Principal::Node { .. });
        let subject = command.subject().filter(|_| !is_own);
        if subject.is_some() {
            self.audit.room.check()?;
        }
        let proposed = self.proposer.propose(command, actor.clone()).await;
        if let (Some((action, object)), Err(failure)) = (subject, &proposed)
            && is_refusal(failure)
        {
            let (principal, address) = (Some(actor.principal), actor.address);
            let (action, reason) = (action.to_owned(), failure.message.clone());
            self.audit.refusals.note(Refused { principal, tenant: None, address, action, object, reason });
        }
        proposed.map(|applied| applied.outcome)
    }

    /// Proposes a change that is made once for its call, however often that call is tried.
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn propose_once(&self, actor: Actor, command: Command) -> Result<Outcome, Failure> {
        let command = match actor.request.clone() {
            Some(request) => Command::Once { request, command: Box::new(command) },
            None => command,
        };
        self.propose(actor, command).await
    }

    /// Returns the opened authority.
    ///
    /// # Errors
    /// On a node that has not received the state yet.
    pub fn seals(&self) -> Result<&Seals, Failure> {
        if self.seals.get().is_none() {
            let state = self.state();
            if state.cluster().is_initialized() {
                // Two callers may open it at once; both get the same, and one is kept.
                let _lost_the_race =
                    self.seals.set(open_authority(&self.keyring, &SealedAuthority::of(state.cluster()))?);
            }
        }
        let absent =
            || Failure::new(FailureKind::Unreachable, "this node has not received the cluster's state yet");
        self.seals.get().ok_or_else(absent)
    }

    /// Returns where a step of a migration is right now; none when it does not run or has said nothing yet.
    pub fn live(&self, migration: &Migration, step: &StepId) -> Option<Progress> {
        let lease = migration.steps.get(migration.place(step)?)?.lease.as_ref()?;
        let key = (migration.tenant.clone(), migration.id.clone(), step.clone());
        self.progress.of(&key, lease.token)
    }

    /// Returns how the step of a migration that runs is paced; none while none runs.
    pub fn pace(&self, migration: &Migration) -> Option<Pace> {
        let lease = migration.steps.iter().find_map(|step| step.lease.as_ref())?;
        self.paces.of(lease.token)
    }

    /// Returns a migration of a tenant.
    ///
    /// # Errors
    /// When the tenant has none of this id.
    pub fn migration(&self, tenant: &TenantId, id: &str) -> Result<Arc<Migration>, Failure> {
        let absent = || absent_migration(id);
        let id: MigrationId = id.parse().map_err(|_invalid| absent())?;
        self.state().migrations().get(tenant, &id).cloned().ok_or_else(absent)
    }
}
