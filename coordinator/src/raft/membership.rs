//! Who belongs to the cluster: the first node, those that join, those that leave.
//!
//! A node that joins is a learner until it has the log, and a voter afterwards. Every step may be repeated, so a node
//! whose request was lost asks again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use common::failure::{Failure, FailureKind, Retry};
use common::id::NodeName;
use common::principal::Principal;
use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, InitializeError, RaftError};
use serde::{Deserialize, Serialize};

use super::proposer::Proposer;
use super::wire::{self, Method, Wire};
use super::{Member, Raft};
use crate::state::{Command, cluster};

/// How long a node may take to get the log and a snapshot before it asks again.
const ADMISSION: Duration = Duration::from_secs(120);
/// How long a node that joins looks for the leader.
const JOINING: Duration = Duration::from_secs(180);
/// The wait between its tries.
const JOINING_PAUSE: Duration = Duration::from_millis(250);
/// Context field of a failure that names the leader's address for peers.
const LEADER_RAFT: &str = "leader_raft";

/// What a node that joins says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Admission {
    /// The number that it got when it enrolled.
    pub node_id: u64,
    /// Where it is reached.
    pub member: Member,
}

/// The members, as the leader changes them; cheap to clone.
#[derive(Clone, Debug)]
pub struct Members {
    raft: Arc<Handle>,
    proposer: Proposer,
}

struct Handle(Raft);

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raft")
    }
}

impl Members {
    pub(super) fn new(raft: Raft, proposer: Proposer) -> Self {
        Self { raft: Arc::new(Handle(raft)), proposer }
    }

    /// Makes this node the only member of a new cluster. Repeating it changes nothing.
    ///
    /// # Errors
    /// When the node has stopped.
    pub async fn bootstrap(&self, node_id: u64, member: Member) -> Result<(), Failure> {
        match self.raft.0.initialize(BTreeMap::from([(node_id, member)])).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(Failure::of(FailureKind::Conflict, &error)),
        }
    }

    /// Makes a node a voter.
    ///
    /// # Errors
    /// When this node does not lead, the node is not who the cluster enrolled, or it does not catch up in time.
    pub async fn admit(&self, caller: &NodeName, admission: Admission) -> Result<(), Failure> {
        if !self.proposer.is_leader() {
            return Err(self.not_leading());
        }
        let Admission { node_id, member } = admission;
        let replica = self.proposer.read();
        let known = replica.state.cluster().node_by_id(node_id);
        if known.is_none_or(|(name, _)| name != caller || name.as_str() != member.name) {
            let message = format!("the node `{caller}` with number {node_id} has not enrolled");
            return Err(
                Failure::new(FailureKind::Denied, message).hint("make a token with `ctl cluster add`")
            );
        }
        let addresses = cluster::Command::NodeAddresses {
            name: caller.clone(),
            api_address: member.api_address.clone(),
            raft_address: member.raft_address.clone(),
        };
        let principal = Principal::Node { name: caller.clone() };
        self.proposer.propose(Command::Cluster(addresses), principal).await?;
        match tokio::time::timeout(ADMISSION, self.make_voter(node_id, member)).await {
            Ok(done) => done,
            Err(_) => Err(Failure::new(FailureKind::Timeout, "the node did not get the log in time")
                .hint("it goes on and asks again; see `ctl cluster status`")),
        }
    }

    async fn make_voter(&self, node_id: u64, member: Member) -> Result<(), Failure> {
        let membership = Arc::clone(&self.raft.0.server_metrics().borrow().membership_config);
        let known = membership.membership().get_node(&node_id).cloned();
        if known.as_ref().is_some_and(|known| *known != member) {
            let moved = ChangeMembers::SetNodes(BTreeMap::from([(node_id, member)]));
            self.change(moved).await?;
        } else if known.is_none() {
            self.raft.0.add_learner(node_id, member, true).await.map_err(|error| changing(&error))?;
        }
        if membership.membership().voter_ids().any(|voter| voter == node_id) {
            return Ok(());
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([node_id]))).await
    }

    /// Takes a node out for good.
    ///
    /// # Errors
    /// When this node does not lead, or is the one to go.
    pub async fn remove(&self, name: &NodeName, principal: Principal) -> Result<(), Failure> {
        if !self.proposer.is_leader() {
            return Err(self.not_leading());
        }
        let replica = self.proposer.read();
        let absent = || Failure::new(FailureKind::NotFound, format!("there is no node `{name}`"));
        let node =
            replica.state.cluster().nodes.get(name).filter(|node| !node.is_removed).ok_or_else(absent)?;
        let own = self.raft.0.server_metrics().borrow().id;
        if node.node_id == own {
            let message = format!("`{name}` leads");
            return Err(
                Failure::new(FailureKind::Conflict, message).hint("stop it first, so that another leads")
            );
        }
        if node.node_id != 0 {
            let ids = BTreeSet::from([node.node_id]);
            self.change(ChangeMembers::RemoveVoters(ids.clone())).await?;
            self.change(ChangeMembers::RemoveNodes(ids)).await?;
        }
        let removed = cluster::Command::RemoveNode { name: name.clone() };
        self.proposer.propose(Command::Cluster(removed), principal).await.map(|_| ())
    }

    async fn change(&self, change: ChangeMembers<u64, Member>) -> Result<(), Failure> {
        let changed = self.raft.0.change_membership(change, true).await;
        changed.map(|_| ()).map_err(|error| changing(&error))
    }

    fn not_leading(&self) -> Failure {
        let leader = self.proposer.leadership().borrow().leader.clone();
        let failure = self.proposer.elsewhere("this coordinator does not lead", leader.clone());
        match leader {
            Some(leader) => failure.context(LEADER_RAFT, leader.raft_address),
            None => failure,
        }
    }
}

fn changing(error: &RaftError<u64, ClientWriteError<u64, Member>>) -> Failure {
    Failure::of(FailureKind::Unreachable, error)
        .hint("another change of the members may be under way; try again")
}

/// Asks the cluster to make this node a member, until it is one.
///
/// # Errors
/// When no leader admits it in time; with what the last one said.
pub async fn join(wire: &dyn Wire, addresses: &[String], admission: &Admission) -> Result<(), Failure> {
    let mut last = Failure::new(FailureKind::Unreachable, "no coordinator was named to join");
    let asking = async {
        let mut next: Option<String> = None;
        let mut turn = 0;
        loop {
            let Some(address) = next.take().or_else(|| addresses.get(turn % addresses.len().max(1)).cloned())
            else {
                return;
            };
            turn += 1;
            let peer = Member { raft_address: address, ..Member::default() };
            match wire::ask::<_, ()>(wire, &peer, Method::Admit, admission).await {
                Ok(()) => {
                    last = Failure::new(FailureKind::Bug, "joined");
                    return;
                }
                Err(failure) => {
                    let leader = failure.context.iter().find(|(field, _)| field == LEADER_RAFT);
                    next = leader.map(|(_, address)| address.clone());
                    let is_final = failure.retry == Retry::Never;
                    last = failure;
                    if is_final {
                        // Somebody has to do something first, and must read what.
                        return;
                    }
                }
            }
            tokio::time::sleep(JOINING_PAUSE).await;
        }
    };
    drop(tokio::time::timeout(JOINING, asking).await);
    if last.kind == FailureKind::Bug && last.message == "joined" { Ok(()) } else { Err(last) }
}
