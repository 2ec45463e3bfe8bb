//! Every bound of the system, with the reason for the number.

use std::time::Duration;

/// How long a lease lasts after the last renewal that the leader answered (design 4).
pub const LEASE_TTL: Duration = Duration::from_secs(30);
/// How long connections may be joined at a relay after a grant: an attempt opens all of its own in its first seconds.
pub const RELAY_TICKET_TTL: Duration = Duration::from_secs(120);
/// How often an agent renews; three tries fit into one lease.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(10);
/// When an agent stops its effects, counted from the moment it sent the last answered renewal: five seconds before
/// the leader may give the lease away.
pub const LEASE_EFFECTS: Duration = Duration::from_secs(25);

/// Raft heartbeat.
pub const RAFT_HEARTBEAT: Duration = Duration::from_millis(100);
/// Least raft election timeout.
pub const RAFT_ELECTION_MIN: Duration = Duration::from_millis(300);
/// Greatest raft election timeout, and so the leader's lease at the voters.
pub const RAFT_ELECTION_MAX: Duration = Duration::from_millis(400);
/// A proposal that a quorum has not accepted by then is answered with `unreachable`.
pub const PROPOSAL_DEADLINE: Duration = Duration::from_secs(10);

/// The largest value in a sled tree and the largest raft log entry: larger values go to blob files that sled never
/// frees.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;
/// The largest gRPC message between agents, `ctl` and the coordinator.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The largest piece of a snapshot in one message.
pub const SNAPSHOT_PIECE_BYTES: usize = 1024 * 1024;
/// Findings of one rule that a migration's record holds; the rest is in a file at the agent.
pub const FINDINGS_PER_RULE_MAX: usize = 1_000;

/// The largest value of a secret: key stores and certificates are far smaller, and it fits one message to its agent.
pub const SECRET_BYTES_MAX: usize = 1024 * 1024;

/// How long a join token lives.
pub const JOIN_TOKEN_TTL: Duration = Duration::from_secs(15 * 60);
/// How long a certificate of a node or an agent lives.
pub const CERTIFICATE_TTL: Duration = Duration::from_secs(3600);
/// How far before its making a certificate begins, so that a peer whose clock is a little behind accepts it.
pub const CERTIFICATE_BACKDATED: Duration = Duration::from_secs(5 * 60);
/// How long an expired certificate may still call Renew.
pub const RENEWAL_GRACE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long an operator's certificate lives.
pub const OPERATOR_CERTIFICATE_TTL: Duration = Duration::from_secs(90 * 24 * 3600);

/// Attempts of a step whose failure may pass by itself, before it counts as failed for good.
pub const STEP_ATTEMPTS_MAX: u32 = 10;
/// First delay between attempts of a step.
pub const STEP_RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest delay between attempts of a step.
pub const STEP_RETRY_MAX: Duration = Duration::from_secs(60);

/// Failures in a row that are still counted after a short attempt that came further: a source that dies again and again
/// is never given up as long as each attempt brings something, but is waited for 16 s each time.
pub const STEP_FAILURES_KEPT: u32 = 4;
/// How long an attempt that comes further must have run until all failures before it are forgiven.
pub const STEP_FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// How long an agent may settle a migration before it says that it takes longer, and goes on: its stage may hold a copy
/// of the whole tree.
pub const SETTLE_DEADLINE: Duration = Duration::from_secs(10 * 60);
/// How much longer than that the coordinator waits, so that it hears the agent's word on it.
pub const SETTLE_MARGIN: Duration = Duration::from_secs(15);

/// Windows of all data connections of one agent together.
pub const TRANSFER_WINDOW_BYTES: u64 = 64 * 1024 * 1024;
/// Content that may be in flight: sent, but not yet proven in the live tree or by a side-car bitmap.
pub const IN_FLIGHT_BYTES_MAX: u64 = 64 * 1024 * 1024;
