//! What an agent says of its host.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::step::StepVersion;

/// What a survey found; part of the agent's hello and refreshed while it is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The agent's version.
    pub agent_version: String,
    /// The machine's own name.
    pub machine_name: String,
    /// The operating system, as its release file names it.
    pub os: String,
    /// The kernel's release.
    pub kernel: String,
    /// Identifies this boot of this machine, so that two agents on one machine are noticed.
    pub boot_id: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Whether the agent runs as root.
    pub is_root: bool,
    /// Where other agents reach this one's data port, best first.
    pub data_addresses: Vec<SocketAddr>,
    /// The step kinds that the agent can run.
    pub steps: Vec<StepVersion>,
    /// Mounted file systems that hold data.
    pub disks: Vec<DiskFacts>,
}

/// One mounted file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// Where it is mounted (escaped for showing).
    pub mount_point: String,
    /// Its type, as `ext4`.
    pub fs_type: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Free for the agent, in bytes.
    pub free_bytes: u64,
    /// Free inodes; zero where the file system does not count them.
    pub free_inodes: u64,
    /// Whether it is mounted read-only.
    pub is_read_only: bool,
}

/// Where a host stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostStatus {
    /// A join token was made and not used yet.
    Invited,
    /// Enrolled; whether it is connected is the leader's knowledge.
    Enrolled,
    /// Takes no new steps.
    Draining,
    /// Its certificate is void for good.
    Revoked,
}
