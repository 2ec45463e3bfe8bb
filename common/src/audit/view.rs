//! What the coordinators tell about the chain.

use serde::{Deserialize, Serialize};

use super::finding::Finding;
use super::head::Head;
use crate::digest::Digest;
use crate::failure::Failure;
use crate::id::NodeName;

/// What a node found along its own copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAuditView {
    /// The node.
    pub node: NodeName,
    /// Pages that stand in its files.
    pub pages: u64,
    /// Lines that it looked at, in files and in its state.
    pub lines: u64,
    /// The number of the last line in its state.
    pub sequence: u64,
    /// The hash of that line.
    pub head: Option<Digest>,
    /// What is wrong, the first thousand.
    pub findings: Vec<Finding>,
    /// How much is wrong.
    pub findings_total: u64,
    /// Why it could not be asked, or could not read its files.
    pub failure: Option<Failure>,
}

impl NodeAuditView {
    /// A node of which nothing is known.
    pub fn unknown(node: NodeName, failure: Failure) -> Self {
        Self {
            node,
            pages: 0,
            lines: 0,
            sequence: 0,
            head: None,
            findings: Vec::new(),
            findings_total: 0,
            failure: Some(failure),
        }
    }
}

/// What all nodes found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditVerifyView {
    /// Where the chain is, signed.
    pub head: Head,
    /// The nodes, by name.
    pub nodes: Vec<NodeAuditView>,
}
