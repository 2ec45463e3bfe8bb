//! What a joining node is told, besides its certificate, to become a member.

use std::collections::BTreeMap;

use common::failure::{Failure, FailureKind};
use serde::{Deserialize, Serialize};

use crate::state::State;
use crate::vault::keyring::ClusterKey;

/// The version of the document.
const VERSION: u32 = 1;

/// The document; it travels once, over TLS, to who proved to hold the node's one-time token, and is never stored as a
/// whole: the cluster key goes into its own file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeDocument {
    version: u32,
    /// The cluster's id.
    pub cluster: String,
    /// The node's number in raft.
    pub node_id: u64,
    /// Where the other nodes' raft ports are, by their numbers.
    pub raft_addresses: BTreeMap<u64, String>,
    cluster_key: String,
    /// While the key is rotated, all keys, each behind those that it follows: some secrets are still under one that is
    /// not the present one. Left out otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    all_keys: Vec<String>,
}

impl NodeDocument {
    /// Makes the document for a node, with the present key and all that this node has.
    pub fn new(node_id: u64, state: &State, present: &ClusterKey, all: &[ClusterKey]) -> Self {
        let members = state
            .cluster()
            .nodes
            .values()
            .filter(|node| !node.is_removed && !node.raft_address.is_empty() && node.node_id != node_id);
        Self {
            version: VERSION,
            cluster: state.cluster().id.clone(),
            node_id,
            raft_addresses: members.map(|node| (node.node_id, node.raft_address.clone())).collect(),
            cluster_key: present.reveal().expose().clone(),
            all_keys: if all.len() > 1 {
                all.iter().map(|key| key.reveal().expose().clone()).collect()
            } else {
                Vec::new()
            },
        }
    }

    /// Returns the document as text.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn to_text(&self) -> Result<String, Failure> {
        serde_json::to_string(self).map_err(|error| Failure::of(FailureKind::Bug, &error))
    }

    /// Reads the document.
    ///
    /// # Errors
    /// When it is something else, or of a version that this program does not know.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        common::version::check_json("the coordinator's answer", text.as_bytes(), VERSION)?;
        let document: Self = serde_json::from_str(text).map_err(|error| {
            Failure::new(FailureKind::Invalid, format!("the coordinator's answer cannot be read: {error}"))
        })?;
        if document.version != VERSION {
            let message = format!("the coordinator's answer is of version {}", document.version);
            return Err(
                Failure::new(FailureKind::Unsupported, message).hint("install the same version everywhere")
            );
        }
        Ok(document)
    }

    /// Returns the present cluster key.
    ///
    /// # Errors
    /// When the document holds none.
    pub fn cluster_key(&self) -> Result<ClusterKey, Failure> {
        ClusterKey::parse(&self.cluster_key)
    }

    /// Returns the cluster keys as a node keeps them, each behind those that it follows.
    ///
    /// # Errors
    /// When the document holds none.
    pub fn cluster_keys(&self) -> Result<Vec<ClusterKey>, Failure> {
        match self.all_keys.as_slice() {
            [] => Ok(vec![self.cluster_key()?]),
            keys => keys.iter().map(|key| ClusterKey::parse(key)).collect(),
        }
    }
}

impl std::fmt::Debug for NodeDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeDocument").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}
