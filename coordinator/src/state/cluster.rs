//! The cluster itself: its id, its epoch, its sealed keys and its nodes.
//!
//! The first log entry of a cluster is [`Command::Init`]; every other command before it is refused. The CA's key is in
//! here only inside its envelope. Which nodes vote is raft's membership, not this list.

use std::collections::BTreeMap;

use common::clock::WallMs;
use common::digest::Digest;
use common::failure::FailureKind;
use common::id::NodeName;
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::join::Join;
use super::refusal::Refusal;
use super::stamp::Stamp;
use super::{Applied, Outcome};

/// Coordinators that a cluster may have.
///
/// Seven is what the product promises; names of removed nodes stay, so that a number is never used twice.
const NODES_MAX: usize = 64;

/// What all nodes share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster's id, which every certificate names; empty before `init`.
    pub id: String,
    /// Raised by `init` and `restore`; fencing tokens begin with it.
    pub epoch: u64,
    /// When it was made.
    pub created: WallMs,
    /// The CA's certificate in DER.
    pub ca_certificate: Vec<u8>,
    /// The CA's key, sealed under the cluster key.
    pub ca_key: Vec<u8>,
    /// All nodes that were ever invited.
    pub nodes: BTreeMap<NodeName, Node>,
    /// The number that the next node gets.
    pub next_node_id: u64,
}

/// One coordinator node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its number in raft, never used again; zero until it has enrolled.
    pub node_id: u64,
    /// Where `ctl` and agents reach it; empty until it is admitted.
    pub api_address: String,
    /// Where its peers reach it; empty until it is admitted.
    pub raft_address: String,
    /// Its invitation, used or not.
    pub join: Option<Join>,
    /// Its public key in DER; empty until it has enrolled.
    pub public_key: Vec<u8>,
    /// Whether it was taken out of the cluster.
    pub is_removed: bool,
}

/// What can be asked of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of the log.
    Init {
        /// The cluster's id.
        id: String,
        /// The CA's certificate in DER.
        ca_certificate: Vec<u8>,
        /// The CA's key in its envelope.
        ca_key: Vec<u8>,
        /// The first node's name.
        node: NodeName,
        /// Its number in raft.
        node_id: u64,
        /// Where `ctl` and agents reach it.
        api_address: String,
        /// Where peers reach it.
        raft_address: String,
        /// Its public key in DER.
        public_key: Vec<u8>,
    },
    /// Lets a node join with a one-time token.
    InviteNode {
        /// The node's name.
        name: NodeName,
        /// Digest of the token.
        token: Digest,
        /// When the token ends.
        expires: WallMs,
    },
    /// Uses the token of a node.
    EnrollNode {
        /// The node's name.
        name: NodeName,
        /// Digest of the token.
        token: Digest,
        /// The node's public key in DER.
        public_key: Vec<u8>,
    },
    /// Says where a node is reached.
    NodeAddresses {
        /// The node's name.
        name: NodeName,
        /// Where `ctl` and agents reach it.
        api_address: String,
        /// Where peers reach it.
        raft_address: String,
    },
    /// Takes a node out; its number is never used again.
    RemoveNode {
        /// The node's name.
        name: NodeName,
    },
}

impl Cluster {
    /// Whether `init` was applied.
    pub fn is_initialized(&self) -> bool {
        !self.id.is_empty()
    }

    /// Returns the node of a raft number.
    pub fn node_by_id(&self, node_id: u64) -> Option<(&NodeName, &Node)> {
        self.nodes.iter().find(|(_, node)| node.node_id == node_id && !node.is_removed)
    }

    /// Returns where `ctl` and agents reach the nodes, by name.
    pub fn api_addresses(&self) -> Vec<String> {
        let is_known = |node: &&Node| !node.is_removed && !node.api_address.is_empty();
        self.nodes.values().filter(is_known).map(|node| node.api_address.clone()).collect()
    }

    /// Applies a command.
    pub(super) fn apply(&mut self, stamp: &Stamp, command: Command) -> Result<Applied, Refusal> {
        match command {
            Command::Init {
                id,
                ca_certificate,
                ca_key,
                node,
                node_id,
                api_address,
                raft_address,
                public_key,
            } => {
                if self.is_initialized() {
                    return Err(conflict("the cluster exists already", "use another state directory"));
                }
                let first =
                    Node { node_id, api_address, raft_address, join: None, public_key, is_removed: false };
                *self = Self {
                    id,
                    epoch: 1,
                    created: stamp.wall,
                    ca_certificate,
                    ca_key,
                    nodes: BTreeMap::from([(node, first)]),
                    next_node_id: node_id + 1,
                };
                Ok(Applied::done().effect(Effect::NodesChanged))
            }
            Command::InviteNode { name, token, expires } => self.invite(name, token, expires),
            Command::EnrollNode { name, token, public_key } => self.enroll(stamp, &name, &token, public_key),
            Command::NodeAddresses { name, api_address, raft_address } => {
                let node = self.node_mut(&name)?;
                node.api_address = api_address;
                node.raft_address = raft_address;
                Ok(Applied::done().effect(Effect::NodesChanged))
            }
            Command::RemoveNode { name } => {
                self.node_mut(&name)?.is_removed = true;
                Ok(Applied::done().effect(Effect::NodesChanged))
            }
        }
    }

    /// Returns the id of the cluster key, which the envelope of the authority's key names; none before `init`.
    pub(super) fn cluster_key(&self) -> Option<[u8; 8]> {
        self.ca_key.get(1..9)?.try_into().ok()
    }

    /// Puts the authority's key into another envelope, unless it is in another one than was read.
    pub(super) fn reseal(&mut self, before: &[u8], after: &[u8]) -> Result<(), Refusal> {
        if self.ca_key != before {
            return Err(conflict("the cluster key was changed at the same moment", "ask again"));
        }
        self.ca_key = after.to_vec();
        Ok(())
    }

    fn node_mut(&mut self, name: &NodeName) -> Result<&mut Node, Refusal> {
        let present = self.nodes.get_mut(name).filter(|node| !node.is_removed);
        present.ok_or_else(|| Refusal::absent("node", name))
    }

    fn invite(&mut self, name: NodeName, token: Digest, expires: WallMs) -> Result<Applied, Refusal> {
        let existing = self.nodes.get(&name);
        if existing.is_some_and(|node| node.node_id != 0 && !node.is_removed) {
            let message = format!("the node `{name}` is a member already");
            return Err(conflict(&message, "choose another name, or remove that node first"));
        }
        if existing.is_none() && self.nodes.len() >= NODES_MAX {
            return Err(conflict(
                "the cluster has no room for another node name",
                "use the name of a removed node",
            ));
        }
        let node = Node {
            node_id: 0,
            api_address: String::new(),
            raft_address: String::new(),
            join: Some(Join::new(token, expires)),
            public_key: Vec::new(),
            is_removed: false,
        };
        self.nodes.insert(name, node);
        Ok(Applied::done())
    }

    fn enroll(
        &mut self,
        stamp: &Stamp,
        name: &NodeName,
        token: &Digest,
        public_key: Vec<u8>,
    ) -> Result<Applied, Refusal> {
        let next = self.next_node_id;
        let absent = || Join::refused(name);
        let node = self.nodes.get_mut(name).filter(|node| !node.is_removed).ok_or_else(absent)?;
        let join = node.join.as_mut().ok_or_else(absent)?;
        join.consume(name, token, &public_key, stamp.wall)?;
        if node.node_id == 0 {
            node.node_id = next;
            node.public_key = public_key;
            self.next_node_id = next + 1;
        }
        let node_id = node.node_id;
        Ok(Applied::new(Outcome::NodeEnrolled { node_id }).effect(Effect::NodesChanged))
    }
}

fn conflict(message: &str, hint: &str) -> Refusal {
    Refusal::new(FailureKind::Conflict, message, hint)
}
