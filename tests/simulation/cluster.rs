//! The coordinators: one committed log, a replica on each node, and who leads or believes to.
//!
//! Agreement itself is openraft's and is taken for granted: what is committed stays, in one order. Everything around it
//! is not: a proposal may be lost, or be committed without its proposer hearing of it, and a leader may not know that
//! it was replaced.

use std::collections::BTreeMap;

use common::clock::WallMs;
use common::id::{HostName, MigrationId};
use common::principal::Principal;
use coordinator::live::lease_clock::LeaseClock;
use coordinator::live::progress::LiveProgresses;
use coordinator::state::effect::Effect;
use coordinator::state::refusal::Refusal;
use coordinator::state::stamp::Stamp;
use coordinator::state::{Applied, Command, State, snapshot};

use crate::mutant::Mutant;
use crate::schedule::Event;
use crate::wire::Body;
use crate::world::World;

/// Coordinators.
pub(crate) const NODES: usize = 3;
/// How old a quorum's word may be on which a leader answers.
const QUORUM_AGE_MAX_MS: u64 = 1_000;

/// An entry of the log; its index is its place, counted from one.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    wall: WallMs,
    principal: Principal,
    command: Command,
}

/// A node: its replica, and what it knows as a leader.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) state: State,
    pub(crate) applied: usize,
    /// The term in which it believes to lead.
    pub(crate) believes: Option<u64>,
    /// When a quorum last said so.
    acknowledged_at: u64,
    pub(crate) led_since: u64,
    pub(crate) clock: LeaseClock,
    pub(crate) progress: LiveProgresses,
    pub(crate) sessions: BTreeMap<HostName, Greeted>,
    pub(crate) settling: BTreeMap<MigrationId, Settling>,
    pub(crate) checkpoint_at: u64,
    pub(crate) is_wake_planned: bool,
}

/// A session as its leader knows it.
#[derive(Clone, Debug)]
pub(crate) struct Greeted {
    pub(crate) session: u64,
    pub(crate) incarnation: u64,
    pub(crate) since: u64,
    pub(crate) heard: u64,
}

/// A stage that an agent was asked to remove.
#[derive(Clone, Debug)]
pub(crate) struct Settling {
    pub(crate) session: Option<u64>,
    pub(crate) deadline: u64,
}

/// Why a proposal has no outcome.
#[derive(Clone, Debug)]
pub(crate) enum Unproposed {
    /// The state refused it.
    Refused(Box<Refusal>),
    /// Nobody knows whether it was committed.
    Unknown,
}

impl World {
    /// Returns the newest state.
    pub(crate) fn state(&self) -> &State {
        let newest = self.nodes.iter().max_by_key(|node| node.applied).unwrap();
        &newest.state
    }

    /// Whether a node may answer as a leader: a quorum has just said so.
    pub(crate) fn leads_surely(&self, node: usize, term: u64) -> bool {
        let known = &self.nodes[node];
        let is_fresh = self.leader == Some((node, term))
            || self.now.saturating_sub(known.acknowledged_at) <= QUORUM_AGE_MAX_MS;
        known.believes == Some(term) && (is_fresh || self.mutant == Some(Mutant::AnswerWithoutQuorum))
    }

    /// Proposes a command on a node that believes to lead.
    pub(crate) fn propose(
        &mut self,
        node: usize,
        term: u64,
        principal: Principal,
        command: Command,
    ) -> Result<Applied, Unproposed> {
        if self.leader != Some((node, term)) || (self.is_stormy() && self.random.permille(8)) {
            return Err(Unproposed::Unknown);
        }
        let is_unheard = self.is_stormy() && self.random.permille(8);
        let applied = self.commit(node, principal, command);
        match applied {
            _ if is_unheard => Err(Unproposed::Unknown),
            Ok(applied) => Ok(applied),
            Err(refusal) => Err(Unproposed::Refused(Box::new(refusal))),
        }
    }

    /// Commits a command and applies it at the leader, under the eyes of the oracle.
    fn commit(&mut self, node: usize, principal: Principal, command: Command) -> Result<Applied, Refusal> {
        let entry = Entry { wall: WallMs(self.now), principal, command };
        self.log.push(entry.clone());
        self.catch_up(node, self.log.len() - 1);
        let before = self.nodes[node].state.clone();
        let index = self.log.len() as u64;
        self.trace(|| format!("commit {index} {} {:?}", entry.principal, entry.command));
        let applied = apply(&mut self.nodes[node], &entry);
        if let Err(refusal) = &applied {
            self.trace(|| format!("refused {index}: {}", refusal.failure().message));
        }
        self.check_applied(&before, node, &entry.command, &applied);
        if let Ok(applied) = &applied {
            for effect in applied.effects.clone() {
                self.follow(node, &effect);
            }
        }
        if self.random.permille(5) {
            self.restore_from_snapshot(node);
        }
        applied
    }

    /// Applies what a node lacks, up to an index.
    fn catch_up(&mut self, node: usize, to: usize) {
        let known = &mut self.nodes[node];
        while known.applied < to {
            // A refusal is the same on every replica and was answered where it was proposed.
            drop(apply(known, &self.log[known.applied]));
        }
    }

    /// What a leader does at once for an effect.
    fn follow(&mut self, node: usize, effect: &Effect) {
        match effect {
            Effect::LeaseEnded { host, token, .. } => {
                if let Some(greeted) = self.nodes[node].sessions.get(host).cloned() {
                    self.send(greeted.session, Body::Revoke { token: *token });
                }
            }
            Effect::HostRevoked { host, .. } => {
                if let Some(greeted) = self.nodes[node].sessions.remove(host) {
                    self.send(greeted.session, Body::Cut);
                }
            }
            Effect::MigrationChanged { .. }
            | Effect::Settle { .. }
            | Effect::HostChanged { .. }
            | Effect::NodesChanged
            | Effect::AuditChanged => {}
        }
        let term = self.nodes[node].believes;
        if let (false, Some(term)) = (self.nodes[node].is_wake_planned, term) {
            self.nodes[node].is_wake_planned = true;
            self.schedule.at(self.now + 1, Event::Wake { node, term });
        }
    }

    /// A node is made anew from its snapshot, which must hold the same state.
    fn restore_from_snapshot(&mut self, node: usize) {
        let mut bytes = Vec::new();
        snapshot::write(&self.nodes[node].state, &mut bytes).unwrap();
        match snapshot::read(&mut bytes.as_slice()) {
            Ok(state) if state == self.nodes[node].state => self.nodes[node].state = state,
            Ok(_) => self.violate("a snapshot gives another state".to_owned()),
            Err(error) => self.violate(format!("a snapshot cannot be read: {error}")),
        }
        self.counts.snapshots += 1;
    }

    /// The leader is gone, or cut off, and another node is elected after a while.
    pub(crate) fn depose(&mut self) {
        let Some((node, term)) = self.leader.take() else { return };
        self.trace(|| format!("node {node} leads no more (term {term})"));
        self.counts.elections += 1;
        self.nodes[node].acknowledged_at = self.now;
        // One that is cut off goes on believing; one that was killed knows nothing any more.
        let notices = if self.random.permille(500) { self.random.between(1_000, 60_000) } else { 0 };
        self.schedule.at(self.now + notices, Event::Notice { node, term });
        let next = (node + 1 + usize::try_from(self.random.below(NODES as u64 - 1)).unwrap()) % NODES;
        let gap = self.random.between(400, 3_000);
        self.schedule.at(self.now + gap, Event::Elect(next));
    }

    /// A node begins to lead: it has the whole log, knows no session, and treats every lease as renewed now.
    pub(crate) fn elect(&mut self, node: usize) {
        if self.leader.is_some() {
            return;
        }
        self.term += 1;
        let term = self.term;
        self.leader = Some((node, term));
        self.catch_up(node, self.log.len());
        let begins = if self.mutant == Some(Mutant::ForgetElection) { 0 } else { self.now };
        let begins = self.boot(begins);
        let known = &mut self.nodes[node];
        known.believes = Some(term);
        known.led_since = self.now;
        known.clock.begin(begins);
        forget(known);
        self.trace(|| format!("node {node} leads (term {term})"));
        self.schedule.at(self.now + 1, Event::Tick { node, term });
    }

    /// A node notices that it leads no more: it cuts its sessions and forgets what only a leader knows.
    pub(crate) fn notice(&mut self, node: usize, term: u64) {
        if self.nodes[node].believes != Some(term) {
            return;
        }
        let sessions: Vec<u64> = self.nodes[node].sessions.values().map(|greeted| greeted.session).collect();
        for session in sessions {
            self.send(session, Body::Cut);
        }
        let known = &mut self.nodes[node];
        known.believes = None;
        known.clock.end();
        forget(known);
    }

    /// Every replica comes to the same state.
    pub(crate) fn check_replicas(&mut self) {
        for node in 0..NODES {
            self.catch_up(node, self.log.len());
            if self.nodes[node].state != self.nodes[0].state {
                self.violate(format!("the replica of node {node} has diverged"));
            }
        }
    }
}

fn forget(node: &mut Node) {
    node.sessions.clear();
    node.settling.clear();
    node.progress.clear();
    node.is_wake_planned = false;
}

fn apply(node: &mut Node, entry: &Entry) -> Result<Applied, Refusal> {
    node.applied += 1;
    let stamp = Stamp {
        index: node.applied as u64,
        epoch: node.state.cluster().epoch,
        wall: entry.wall,
        principal: entry.principal.clone(),
        address: None,
    };
    node.state.apply(stamp, entry.command.clone())
}
