//! When this node stands for election.
//!
//! openraft draws its election timeout once per process and has no pre-vote: survivors tie for seconds, and a node that
//! rejoins deposes a healthy leader. So its timer is off, and this task decides. It waits for the leader's lease to run
//! out plus a jitter drawn anew each time, asks its peers whether they would vote, yields to the one with the longer
//! log, and only then calls `elect`. It also carries out a hand-over, when the leader asks for one.
//!
//! Safety is openraft's alone: whatever this task does wrong costs time, never agreement.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use common::clock::{self, BootTime};
use common::failure::{Failure, FailureKind};
use common::limit::RAFT_ELECTION_MAX;
use common::shutdown::Shutdown;
use openraft::{ServerState, Vote};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::log_store::FlushTime;
use super::wire::{self, Method, Wire};
use super::{LogId, Member, Raft};

/// How long a voter holds to its leader.
const LEASE: Duration = RAFT_ELECTION_MAX;
/// How long peers may take to say whether they would vote.
const PRE_VOTE_LIMIT: Duration = Duration::from_millis(100);
/// How often one yields to a peer that would rather be elected itself.
const YIELDS_MAX: u32 = 2;
/// Waits in milliseconds, from and to, drawn anew each time; the figures are those of the measured prototype.
const JITTER: (u64, u64) = (0, 30);
const AFTER_FOREIGN_VOTE: (u64, u64) = (250, 375);
const AFTER_LEASE: (u64, u64) = (1, 15);
const AFTER_LONGER_LOG: (u64, u64) = (125, 250);
const AFTER_SILENCE: (u64, u64) = (100, 250);
const WHEN_YIELDING: (u64, u64) = (83, 166);
const AFTER_ELECTION: (u64, u64) = (25, 100);
/// How long an election may take before it is tried again.
const ELECTION: Duration = Duration::from_millis(250);
/// The same during a hand-over, when nobody else stands.
const HAND_OVER_ELECTION: Duration = Duration::from_millis(120);
/// Tries of a hand-over, and the greatest factor of the wait between elections.
const TRIES_MAX: u32 = 4;

/// Asks a peer whether it would vote, without changing anything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PreVote {
    /// Who asks.
    pub candidate: u64,
    /// The end of its log.
    pub last_log: Option<LogId>,
}

/// What a peer says to that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PreVoteAnswer {
    /// It would; with an equal log and a higher number it would rather be elected itself.
    Granted {
        /// Whether it would rather be elected itself.
        prefers_itself: bool,
    },
    /// It still hears a leader, for so many milliseconds.
    HearsLeader {
        /// What remains of the lease.
        remaining_ms: u64,
    },
    /// It leads.
    Leads,
    /// Its log is longer.
    HasLongerLog,
}

/// Asks a follower that has the whole log to elect itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HandOver {
    /// The end of the leader's log.
    pub last_log: Option<LogId>,
}

/// What peers and the server tell the campaign; clones are the same campaign.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    poke: Arc<Notify>,
    heard: Arc<Mutex<Option<BootTime>>>,
}

impl Signals {
    /// The leader was heard by something that raft does not count, as a piece of a snapshot.
    pub fn note_contact(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock::boot());
    }

    fn since_contact(&self) -> Duration {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.map_or(Duration::MAX, |heard| clock::boot().since(heard))
    }
}

/// The campaign of one node.
#[derive(Clone)]
pub struct Campaign {
    id: u64,
    raft: Raft,
    wire: Arc<dyn Wire>,
    signals: Signals,
    flush_time: FlushTime,
}

impl std::fmt::Debug for Campaign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Campaign").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What this node sees of itself.
#[derive(Clone, Debug)]
struct Sight {
    state: ServerState,
    vote: Vote<u64>,
    since_vote: Duration,
    since_contact: Duration,
    last_log: Option<LogId>,
    voters: Vec<(u64, Member)>,
}

/// How a round of pre-votes went.
#[derive(Debug, PartialEq, Eq)]
enum Poll {
    Granted { somebody_prefers_itself: bool },
    Refused(PreVoteAnswer),
    Silence,
}

/// What the rounds remember of each other.
#[derive(Debug, Default)]
struct Memory {
    elected_term: Option<u64>,
    tries: u32,
    yields: u32,
}

impl Campaign {
    pub(super) fn new(
        id: u64,
        raft: Raft,
        wire: Arc<dyn Wire>,
        signals: Signals,
        flush_time: FlushTime,
    ) -> Self {
        Self { id, raft, wire, signals, flush_time }
    }

    /// Runs until the end of the process.
    pub async fn run(self, shutdown: Shutdown) {
        let mut memory = Memory::default();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                wait = self.round(&mut memory) => {
                    // A round that has nothing to wait for still lets others run.
                    let wait = wait.max(Duration::from_millis(1));
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
    }

    /// Does what is to be done now; returns how long to wait before the next round.
    async fn round(&self, memory: &mut Memory) -> Duration {
        let Some(seen) = self.look().await else { return LEASE };
        if seen.state == ServerState::Leader || !seen.voters.iter().any(|(id, _)| *id == self.id) {
            *memory = Memory::default();
            return LEASE / 4;
        }
        if let Some(wait) = self.held_back(&seen, memory) {
            return wait;
        }
        // Only now, so that a wait for the lease is not cut short; a poke says that the others wait for us.
        tokio::select! {
            () = tokio::time::sleep(draw(JITTER)) => {}
            () = self.signals.poke.notified() => {}
        }
        match self.poll(&seen).await {
            Poll::Granted { somebody_prefers_itself: true } if memory.yields < YIELDS_MAX => {
                memory.yields += 1;
                draw(WHEN_YIELDING)
            }
            Poll::Granted { .. } => self.stand(&seen, memory).await,
            Poll::Refused(PreVoteAnswer::HearsLeader { remaining_ms }) => {
                Duration::from_millis(remaining_ms).min(LEASE) + draw(AFTER_LEASE)
            }
            Poll::Refused(PreVoteAnswer::HasLongerLog) => draw(AFTER_LONGER_LOG),
            Poll::Refused(PreVoteAnswer::Leads | PreVoteAnswer::Granted { .. }) => LEASE,
            Poll::Silence => draw(AFTER_SILENCE),
        }
    }

    /// Returns how long to wait before anything is done; none when nothing holds us back.
    fn held_back(&self, seen: &Sight, memory: &Memory) -> Option<Duration> {
        let is_own = seen.vote.leader_id().voted_for() == Some(self.id)
            && memory.elected_term == Some(seen.vote.leader_id().get_term());
        let rest = if seen.vote.is_committed() {
            LEASE.saturating_sub(seen.since_contact)
        } else if is_own || seen.vote == Vote::default() {
            Duration::ZERO
        } else {
            // Somebody else stands, or initialize or a hand-over made us stand: let that election end.
            draw(AFTER_FOREIGN_VOTE).saturating_sub(seen.since_vote)
        };
        (rest > Duration::ZERO).then_some(rest)
    }

    async fn look(&self) -> Option<Sight> {
        let core = self.raft.with_raft_state(|state| {
            let since_vote = state.vote_last_modified().map_or(Duration::MAX, |at| at.elapsed());
            (state.server_state, *state.vote_ref(), since_vote)
        });
        let (state, vote, since_vote) = core.await.ok()?;
        let last_log = self.raft.data_metrics().borrow().last_log;
        let membership = Arc::clone(&self.raft.server_metrics().borrow().membership_config);
        let member = |id: u64| Some((id, membership.membership().get_node(&id)?.clone()));
        let voters = membership.membership().voter_ids().filter_map(member).collect();
        // A vote that is not committed is no contact with a leader.
        let by_raft = if vote.is_committed() { since_vote } else { Duration::MAX };
        let since_contact = by_raft.min(self.signals.since_contact());
        Some(Sight { state, vote, since_vote, since_contact, last_log, voters })
    }

    /// Asks all voters at once; a quorum of grants, ourselves included, ends the asking.
    async fn poll(&self, seen: &Sight) -> Poll {
        let quorum = seen.voters.len() / 2 + 1;
        let question = PreVote { candidate: self.id, last_log: seen.last_log };
        let mut asking = JoinSet::new();
        for (_, peer) in seen.voters.iter().filter(|(id, _)| *id != self.id) {
            let (wire, peer, question) = (Arc::clone(&self.wire), peer.clone(), question.clone());
            asking.spawn(async move {
                let asked = wire::ask(wire.as_ref(), &peer, Method::PreVote, &question);
                tokio::time::timeout(PRE_VOTE_LIMIT, asked).await.ok()?.ok()
            });
        }
        let mut granted = 1;
        let mut somebody_prefers_itself = false;
        let mut refusal: Option<PreVoteAnswer> = None;
        while granted < quorum {
            match asking.join_next().await {
                Some(Ok(Some(PreVoteAnswer::Granted { prefers_itself }))) => {
                    granted += 1;
                    somebody_prefers_itself |= prefers_itself;
                }
                Some(Ok(Some(refused))) => {
                    // A leader that is alive says more than a lease that runs, and that more than a longer log.
                    let rank = |answer: &PreVoteAnswer| match answer {
                        PreVoteAnswer::Leads => 3,
                        PreVoteAnswer::HearsLeader { .. } => 2,
                        PreVoteAnswer::HasLongerLog => 1,
                        PreVoteAnswer::Granted { .. } => 0,
                    };
                    if refusal.as_ref().is_none_or(|known| rank(known) < rank(&refused)) {
                        refusal = Some(refused);
                    }
                }
                Some(Ok(None) | Err(_)) => {}
                None => return refusal.map_or(Poll::Silence, Poll::Refused),
            }
        }
        Poll::Granted { somebody_prefers_itself }
    }

    /// Stands for election, unless something changed since we looked.
    async fn stand(&self, seen: &Sight, memory: &mut Memory) -> Duration {
        let Some(now) = self.look().await else { return LEASE };
        let has_leader_since = now.vote.is_committed() && now.since_contact < LEASE;
        if now.vote != seen.vote || has_leader_since || now.state == ServerState::Leader {
            return Duration::ZERO;
        }
        let limit = ELECTION.max(self.flush_time.recent() * 3);
        let term = now.vote.leader_id().get_term();
        memory.elected_term = Some(term + 1);
        if self.elect(term, limit).await {
            memory.tries = 0;
            memory.yields = 0;
            return Duration::ZERO;
        }
        memory.tries = (memory.tries + 1).min(TRIES_MAX);
        draw(AFTER_ELECTION) * memory.tries
    }

    /// Elects and waits for a newer term that has a leader; the metrics show the old one for a moment.
    async fn elect(&self, term: u64, limit: Duration) -> bool {
        let mut metrics = self.raft.server_metrics();
        if self.raft.trigger().elect().await.is_err() {
            return false;
        }
        let led = metrics.wait_for(|seen| {
            seen.vote.is_committed()
                && seen.vote.leader_id().get_term() > term
                && seen.current_leader.is_some()
        });
        matches!(tokio::time::timeout(limit, led).await, Ok(Ok(_)))
    }

    /// Says whether this node would vote.
    ///
    /// # Errors
    /// When this node has stopped.
    pub async fn answer(&self, question: &PreVote) -> Result<PreVoteAnswer, Failure> {
        let stopped = || Failure::new(FailureKind::Unreachable, "this coordinator has stopped");
        let seen = self.look().await.ok_or_else(stopped)?;
        if seen.state == ServerState::Leader {
            let acked = self.raft.data_metrics().borrow().millis_since_quorum_ack;
            let is_acked = acked.is_some_and(|since| Duration::from_millis(since) < LEASE);
            if is_acked || seen.since_vote < LEASE {
                return Ok(PreVoteAnswer::Leads);
            }
        } else if seen.since_contact < LEASE {
            let remaining = LEASE.saturating_sub(seen.since_contact);
            let remaining_ms = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX);
            return Ok(PreVoteAnswer::HearsLeader { remaining_ms });
        }
        let is_voter = seen.voters.iter().any(|(id, _)| *id == self.id);
        if seen.last_log > question.last_log {
            self.signals.poke.notify_one();
            return Ok(PreVoteAnswer::HasLongerLog);
        }
        let prefers_itself = is_voter && seen.last_log == question.last_log && self.id > question.candidate;
        if prefers_itself {
            self.signals.poke.notify_one();
        }
        Ok(PreVoteAnswer::Granted { prefers_itself })
    }

    /// Elects this node because the leader asks for it.
    ///
    /// # Errors
    /// When its log is shorter than the leader's, or no election succeeds.
    pub async fn take_over(&self, question: &HandOver) -> Result<(), Failure> {
        let limit = HAND_OVER_ELECTION + self.flush_time.recent() * 3;
        for _ in 0..TRIES_MAX {
            let stopped = || Failure::new(FailureKind::Unreachable, "this coordinator has stopped");
            let seen = self.look().await.ok_or_else(stopped)?;
            if seen.last_log < question.last_log {
                return Err(Failure::new(FailureKind::Conflict, "this coordinator's log is shorter"));
            }
            if self.elect(seen.vote.leader_id().get_term(), limit).await {
                return Ok(());
            }
        }
        Err(Failure::new(FailureKind::Timeout, "no election succeeded during the hand-over"))
    }
}

/// Draws a wait from a range of milliseconds.
fn draw((from, to): (u64, u64)) -> Duration {
    let mut bytes = [0; 4];
    // Without randomness the middle is as good; ties are broken by the yields.
    let drawn = if getrandom::fill(&mut bytes).is_ok() { u32::from_le_bytes(bytes) } else { u32::MAX / 2 };
    let micros = (to - from) * 1_000;
    Duration::from_millis(from) + Duration::from_micros(micros * u64::from(drawn) / u64::from(u32::MAX))
}
