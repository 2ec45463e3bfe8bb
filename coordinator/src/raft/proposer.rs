//! The one door for writes, and for reads of what was agreed.
//!
//! A handle is cheap to clone. A write is answered once it is durable on a quorum and applied here, or when its time is
//! over; then it may still be applied later, which is why commands are idempotent by id. Only the leader takes writes:
//! others answer with where it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::clock;
use common::failure::{Failure, FailureKind};
use common::id::TenantId;
use common::limit::PROPOSAL_DEADLINE;
use openraft::ServerState;
use openraft::error::{CheckIsLeaderError, ClientWriteError, RaftError};
use tokio::sync::{Semaphore, broadcast, watch};

use super::state_machine::{Published, Replica};
use super::{Member, Proposal, Raft, Reply};
use crate::access::actor::Actor;
use crate::state::effect::Effect;
use crate::state::piece::{PIECE_BYTES, PIECES_IN_FLIGHT_MAX, PIECES_MAX, Piece};
use crate::state::snapshot::encode_addressed;
use crate::state::{Applied, Command};

/// Proposals that wait for a quorum at once; more wait for their turn. Raft batches what is waiting, and what waits
/// holds at most this many pieces in memory.
const IN_FLIGHT_MAX: usize = 512;
/// Context field of a failure that names the leader's address for agents and `ctl`.
pub const LEADER: &str = "leader";

/// Who leads, as this node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// Whether this node leads and has applied all that was agreed before.
    pub is_leader: bool,
    /// The leader, when one is known.
    pub leader: Option<Member>,
}

/// The door; clones are the same door.
#[derive(Clone)]
pub struct Proposer {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Proposer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proposer").finish_non_exhaustive()
    }
}

struct Inner {
    raft: Raft,
    published: Published,
    leadership: watch::Receiver<Leadership>,
    turns: Semaphore,
    /// As many as pieces may be under way, so that large commands do not push each other out of the state.
    piece_turns: Semaphore,
    in_flight: AtomicUsize,
    is_closed: AtomicBool,
}

impl Proposer {
    pub(super) fn new(raft: Raft, published: Published, leadership: watch::Receiver<Leadership>) -> Self {
        let turns = Semaphore::new(IN_FLIGHT_MAX);
        let inner = Inner {
            raft,
            published,
            leadership,
            turns,
            piece_turns: Semaphore::new(usize::try_from(PIECES_IN_FLIGHT_MAX).unwrap_or(0)),
            in_flight: AtomicUsize::new(0),
            is_closed: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Proposes a command and waits until it is applied here.
    ///
    /// # Errors
    /// With the refusal of the state; with `unreachable` when this node does not lead (the context [`LEADER`] names
    /// who does) or no quorum answered in time.
    pub async fn propose(&self, command: Command, actor: impl Into<Actor>) -> Result<Applied, Failure> {
        match tokio::time::timeout(PROPOSAL_DEADLINE, self.propose_impl(command, actor.into())).await {
            Ok(answered) => answered,
            Err(_) => {
                Err(Failure::new(FailureKind::Unreachable, "no quorum of coordinators answered in time")
                    .hint("see `ctl cluster status`; the change may still be made once they answer"))
            }
        }
    }

    async fn propose_impl(&self, command: Command, actor: Actor) -> Result<Applied, Failure> {
        let inner = &self.inner;
        let _turn = inner.turns.acquire().await.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        let _in_flight = InFlight::new(&inner.in_flight);
        if inner.is_closed.load(Ordering::SeqCst) {
            return Err(self.elsewhere("this coordinator is stopping", None));
        }
        let tenant = command.tenant().cloned().unwrap_or_else(TenantId::default_tenant);
        let address = actor.address_text();
        let encode = |command: &Command| {
            encode_addressed(command, address.as_deref())
                .map_err(|error| Failure::of(FailureKind::Bug, &error))
        };
        let bytes = encode(&command)?;
        if bytes.len() <= PIECE_BYTES {
            return self.write(bytes, actor).await;
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        let count = u32::try_from(bytes.len().div_ceil(PIECE_BYTES)).unwrap_or(u32::MAX);
        if count > PIECES_MAX {
            let message = format!("the request is too large: {} bytes", bytes.len());
            return Err(Failure::new(FailureKind::Invalid, message).hint("shorten the lists in it"));
        }
        let turns = inner.piece_turns.acquire_many(count).await;
        let _piece_turns = turns.map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        let mut last = None;
        for (number, bytes) in (0_u32..).zip(bytes.chunks(PIECE_BYTES)) {
            let piece = Piece { tenant: tenant.clone(), command: id, number, count, bytes: bytes.to_vec() };
            last = Some(self.write(encode(&Command::Piece(piece))?, actor.clone()).await?);
        }
        last.ok_or_else(|| Failure::new(FailureKind::Bug, "a command without bytes"))
    }

    async fn write(&self, command: Vec<u8>, actor: Actor) -> Result<Applied, Failure> {
        let proposal = Proposal { wall: clock::wall(), principal: actor.principal, command };
        match self.inner.raft.client_write(proposal).await {
            Ok(written) => match written.data {
                Reply::Applied(applied) => Ok(applied),
                Reply::Refused(refusal) => Err(refusal.into_failure()),
                Reply::Nothing => Err(Failure::new(FailureKind::Bug, "a command without an answer")),
            },
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(self.elsewhere("this coordinator does not lead", forward.leader_node))
            }
            Err(RaftError::APIError(error @ ClientWriteError::ChangeMembershipError(_))) => {
                Err(Failure::of(FailureKind::Conflict, &error))
            }
            Err(RaftError::Fatal(error)) => Err(stopped(&error)),
        }
    }

    /// Returns the state as this node has applied it: consistent, perhaps not the newest. Cheap.
    pub fn read(&self) -> Arc<Replica> {
        self.inner.published.replica.borrow().clone()
    }

    /// Returns a state that holds everything that was acknowledged before this call.
    ///
    /// # Errors
    /// With `unreachable` when this node does not lead or no quorum confirms it in time.
    pub async fn linearizable(&self) -> Result<Arc<Replica>, Failure> {
        match tokio::time::timeout(PROPOSAL_DEADLINE, self.inner.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(self.read()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)))) => {
                Err(self.elsewhere("this coordinator does not lead", forward.leader_node))
            }
            Ok(Err(RaftError::APIError(error @ CheckIsLeaderError::QuorumNotEnough(_)))) => {
                Err(Failure::of(FailureKind::Unreachable, &error).hint("see `ctl cluster status`"))
            }
            Ok(Err(RaftError::Fatal(error))) => Err(stopped(&error)),
            Err(_) => {
                Err(Failure::new(FailureKind::Unreachable, "no quorum of coordinators answered in time")
                    .hint("see `ctl cluster status`"))
            }
        }
    }

    /// Returns who leads, to watch.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.inner.leadership.borrow().is_leader
    }

    /// Whether a quorum acknowledged this node as leader within the last `duration`.
    pub async fn quorum_acked_within(&self, duration: Duration) -> bool {
        // The core answers this only while it is alive, so that an old figure is not taken for a fresh one.
        let alive = self.inner.raft.with_raft_state(|state| state.server_state == ServerState::Leader);
        let Ok(Ok(true)) = tokio::time::timeout(duration, alive).await else { return false };
        let since = self.inner.raft.data_metrics().borrow().millis_since_quorum_ack;
        since.is_some_and(|since| Duration::from_millis(since) < duration)
    }

    /// Returns effects of commands as they are applied here; only the leader acts on them, and who misses some finds
    /// the same in the state.
    pub fn effects(&self) -> broadcast::Receiver<Effect> {
        self.inner.published.effects.subscribe()
    }

    /// Returns replicas as they change.
    pub fn replicas(&self) -> watch::Receiver<Arc<Replica>> {
        self.inner.published.replica.clone()
    }

    /// Takes no more writes.
    pub(super) fn close(&self) {
        self.inner.is_closed.store(true, Ordering::SeqCst);
    }

    /// Takes writes again, after a hand-over that found nobody.
    pub(super) fn reopen(&self) {
        self.inner.is_closed.store(false, Ordering::SeqCst);
    }

    /// Returns how many writes are under way.
    pub(super) fn in_flight(&self) -> usize {
        self.inner.in_flight.load(Ordering::SeqCst)
    }

    /// The failure that sends a caller to the leader.
    pub fn elsewhere(&self, message: &str, leader: Option<Member>) -> Failure {
        let leader = leader.or_else(|| self.inner.leadership.borrow().leader.clone());
        let failure =
            Failure::new(FailureKind::Unreachable, message).hint("ask the leader; see `ctl cluster status`");
        match leader {
            Some(leader) if !self.is_leader() => failure.context(LEADER, leader.api_address),
            Some(_) | None => failure,
        }
    }
}

fn stopped(error: &openraft::error::Fatal<u64>) -> Failure {
    Failure::of(FailureKind::Unreachable, error).hint("this coordinator has stopped; its log says why")
}

/// Counts a write while it is under way.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
