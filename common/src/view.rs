//! What the coordinator tells about its state: the documents that `ctl --output json` prints.
//!
//! These are interfaces that users' scripts rely on: fields are added, never renamed or removed. They travel as JSON,
//! so that what a script reads is what the coordinator wrote.

use serde::{Deserialize, Serialize};

use crate::bandwidth::Bandwidth;
use crate::clock::WallMs;
use crate::control::{HostLimits, MaxLoad, Priority};
use crate::cost::SourceLoad;
use crate::digest::Digest;
use crate::failure::Failure;
use crate::finding::Finding;
use crate::grant::Labels;
use crate::host::{HostFacts, HostStatus};
use crate::id::{HostName, MigrationId, NodeName, SecretName, StepId, TenantId};
use crate::phase::Phase;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::reach::Reach;
use crate::spec::MigrationSpec;
use crate::step::StepKind;
use crate::step::file::{Proof, Sanitized};
use crate::step::pass::PassRecord;
use crate::transport::Transport;

/// Where a migration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MigrationStatus {
    /// Described, not planned.
    Draft,
    /// Planned, not asked to run.
    Planned,
    /// Waits for an approval.
    AwaitingApproval,
    /// Waits for its turn.
    Queued,
    /// Steps run.
    Running,
    /// No new steps start.
    Paused,
    /// Waits for a person's go.
    AwaitingCutover,
    /// The destination is being made the live one.
    CuttingOver,
    /// Everything was done.
    Completed,
    /// Stands where it stopped.
    Failed,
    /// Steps are being undone.
    Unwinding,
    /// Was unwound after a failure or by a rollback.
    RolledBack,
    /// Was unwound by an operator before it had ended.
    Cancelled,
    /// An undo failed; a person is needed.
    Stuck,
}

impl MigrationStatus {
    /// Returns which end it came to; none while something more happens by itself.
    pub fn end(self) -> Option<End> {
        match self {
            Self::Completed => Some(End::Completed),
            Self::Failed => Some(End::Failed),
            Self::RolledBack => Some(End::RolledBack),
            Self::Cancelled => Some(End::Cancelled),
            Self::Stuck => Some(End::Stuck),
            Self::Draft
            | Self::Planned
            | Self::AwaitingApproval
            | Self::Queued
            | Self::Running
            | Self::Paused
            | Self::AwaitingCutover
            | Self::CuttingOver
            | Self::Unwinding => None,
        }
    }

    /// Whether nothing more happens by itself.
    pub fn is_end(self) -> bool {
        self.end().is_some()
    }

    /// Whether steps may start now.
    ///
    /// While it awaits the cutover, what keeps it caught up is started again when it was lost.
    pub fn runs_steps(self) -> bool {
        matches!(self, Self::Running | Self::AwaitingCutover | Self::CuttingOver)
    }

    /// Whether what it wrote is undone, or is being undone.
    pub fn is_taken_back(self) -> bool {
        matches!(self, Self::Unwinding | Self::RolledBack | Self::Cancelled | Self::Stuck)
    }

    /// Returns the word that people and scripts read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Planned => "planned",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::AwaitingCutover => "awaiting_cutover",
            Self::CuttingOver => "cutting_over",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Unwinding => "unwinding",
            Self::RolledBack => "rolled_back",
            Self::Cancelled => "cancelled",
            Self::Stuck => "stuck",
        }
    }
}

/// Which end a migration came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything was done.
    Completed,
    /// It stands where it stopped.
    Failed,
    /// It was unwound after a failure or by a rollback.
    RolledBack,
    /// It was unwound by an operator before it had ended.
    Cancelled,
    /// An undo failed; a person is needed.
    Stuck,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Waits for other steps.
    Blocked,
    /// May be leased.
    Ready,
    /// An agent holds its lease.
    Leased,
    /// A continuous step has nothing left to do but goes on.
    CaughtUp,
    /// Ended well.
    Succeeded,
    /// Ended badly, for good.
    Failed,
    /// Being undone.
    Undoing,
    /// As if it had never run.
    Undone,
    /// Its undo failed.
    Stuck,
}

/// One migration: `ctl status`, `ctl list` (without plan, steps and findings) and the end of `ctl migrate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MigrationView {
    /// The migration.
    pub id: MigrationId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub status: MigrationStatus,
    /// Percent, never falling.
    pub progress: f64,
    /// Whether the totals are still "at least".
    pub is_estimate: bool,
    /// The step that runs, if one does.
    pub current_step: Option<StepId>,
    /// Steps that ended well.
    pub steps_completed: u64,
    /// Steps of the plan.
    pub steps_total: u64,
    /// Time until the end as far as it can be told.
    pub eta_ms: Option<u64>,
    /// Predicted downtime: how long the steps under the freeze would work if they began now, as the passes tell; as it
    /// was predicted last, once they have begun.
    pub downtime_predicted_ms: u64,
    /// Measured downtime: how long the steps under the freeze worked.
    pub downtime_ms: u64,
    /// The passes over the tree: of each step the newest 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passes: Vec<PassRecord>,
    /// All passes.
    #[serde(default)]
    pub passes_total: u64,
    /// Whether `ctl rollback` can be asked for now.
    pub rollback_available: bool,
    /// When the way back ends, once completed.
    pub rollback_until: Option<WallMs>,
    /// Whether what was kept for the way back is still to be removed at the destination.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settling: bool,
    /// Since when it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_since: Option<WallMs>,
    /// How fast its source may send, as it was said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_limit: Option<Bandwidth>,
    /// What its source may send now, in bytes per second, by all limits together; none is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_now: Option<u64>,
    /// Up to which load the source's host is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_load: Option<MaxLoad>,
    /// What it costs the source's host.
    #[serde(flatten)]
    pub source_load: SourceLoad,
    /// Which of those that wait for a place comes first.
    #[serde(default)]
    pub priority: Priority,
    /// Which limit a queued migration waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// What stopped it, first error first.
    pub errors: Vec<Failure>,
    /// Sentences worth reading.
    pub warnings: Vec<String>,
    /// Whether the asked level of proof held for every entry.
    pub verified: bool,
    /// Whether something changed, vanished or could not be read.
    pub partial: bool,
    /// Everything that is not a directory.
    pub files_total: u64,
    /// Files whose content was sent and committed.
    pub files_sent: u64,
    /// Files that need nothing more.
    pub files_done: u64,
    /// Apparent size, a hard-link group once.
    pub bytes_total: u64,
    /// Bytes that need nothing more.
    pub bytes_done: u64,
    /// Payload sent by both agents over all attempts.
    pub bytes_on_wire: u64,
    /// Content sent less content landed, over all attempts.
    pub bytes_resent: u64,
    /// Content taken from what the destination held.
    pub bytes_deduplicated: u64,
    /// Content that was compressed on its way.
    #[serde(default)]
    pub bytes_compressed: u64,
    /// What it was compressed to.
    #[serde(default)]
    pub bytes_compressed_to: u64,
    /// Which of both agents dialled the other, once they have met.
    #[serde(default)]
    pub reach: Option<Reach>,
    /// What content comes over, once they have met.
    #[serde(default)]
    pub transport: Option<Transport>,
    /// Bytes of content landed per second.
    pub bytes_per_s: u64,
    /// Entries deleted at the destination.
    pub deleted: u64,
    /// From the start to the end, or to now.
    pub duration_ms: u64,
    /// Who made it.
    pub principal: String,
    /// When it was made.
    pub created: WallMs,
    /// When it ended.
    pub ended: Option<WallMs>,
    /// Where from.
    pub source: String,
    /// Where to.
    pub destination: String,
    /// The steps.
    #[serde(default)]
    pub steps: Vec<StepView>,
    /// The first 1 000 findings of each rule.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// All findings.
    pub findings_total: u64,
    /// Whether it only says what it would do, and changes nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// To how many files each rule of `sanitize` applied, in the order of the rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sanitized: Vec<Sanitized>,
    /// Levels of proof.
    pub proof: Proof,
    /// Root of the source's tree.
    pub source_digest: Option<Digest>,
    /// Root of the destination's tree.
    pub destination_digest: Option<Digest>,
    /// The exit code that `ctl` ends with for this migration, once it has ended.
    pub exit_code: Option<u8>,
}

/// One step of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    /// The step.
    pub id: StepId,
    /// Its kind.
    pub kind: StepKind,
    /// Its phase.
    pub phase: Phase,
    /// Where it stands.
    pub status: StepStatus,
    /// The host that runs it.
    pub host: HostName,
    /// How often it was tried.
    pub attempts: u32,
    /// How far it is.
    pub progress: Progress,
    /// How long it took or has taken.
    pub duration_ms: u64,
    /// What failed last.
    pub failure: Option<Failure>,
}

/// A migration with everything that a report needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportView {
    /// The version of this document.
    pub version: u32,
    /// The migration, with steps and findings.
    pub migration: MigrationView,
    /// What was asked for.
    pub spec: MigrationSpec,
    /// What was planned.
    pub plan: Plan,
    /// When this was made.
    pub made: WallMs,
    /// Shown with errors, from the coordinator's configuration.
    pub support_contact: Option<String>,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostView {
    /// Its name.
    pub name: HostName,
    /// Its tenant.
    pub tenant: TenantId,
    /// Where it stands.
    pub status: HostStatus,
    /// Whether its agent is connected to the leader now.
    pub connected: bool,
    /// When its agent was last heard.
    pub last_seen: Option<WallMs>,
    /// What its agent found.
    pub facts: Option<HostFacts>,
    /// Steps that it runs now.
    pub steps_running: u32,
    /// How far its clock is ahead of the leader's, in milliseconds; none while it is not connected.
    #[serde(default)]
    pub clock_ahead_ms: Option<i64>,
    /// What its migrations share.
    #[serde(default, skip_serializing_if = "HostLimits::is_empty")]
    pub limits: HostLimits,
}

/// The cluster: `ctl cluster status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// The cluster's id.
    pub id: String,
    /// The leader's name, when there is one.
    pub leader: Option<NodeName>,
    /// The members.
    pub members: Vec<MemberView>,
    /// The last raft log index that was applied.
    pub applied_index: u64,
    /// The raft term.
    pub term: u64,
    /// The epoch that fencing tokens begin with.
    pub epoch: u64,
    /// The version of the node that answered.
    pub version: String,
    /// The wall time of the node that answered, so that a wrong clock is noticed.
    #[serde(default)]
    pub now: WallMs,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its name.
    pub name: NodeName,
    /// Its number in raft.
    pub node_id: u64,
    /// Where `ctl` and agents reach it.
    pub api_address: String,
    /// Where its peers reach it.
    pub raft_address: String,
    /// `leader`, `follower`, `learner`, or `unreachable` as the leader sees it.
    pub role: String,
    /// How far it is, as the leader knows.
    pub matched_index: Option<u64>,
}

/// The answer to `ctl host enroll`: shown once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinView {
    /// The host or node that may join.
    pub name: String,
    /// The one-time token.
    pub token: String,
    /// Digest of the CA's certificate, which the joiner checks the coordinator against.
    pub ca_digest: Digest,
    /// Where to join.
    pub coordinators: Vec<String>,
    /// The whole command.
    pub command: String,
    /// When the token ends.
    pub expires: WallMs,
}

/// A refusal or failure of `ctl` itself, printed with `--output json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// What failed.
    pub error: Failure,
    /// The exit code.
    pub exit_code: u8,
    /// Whom to ask.
    pub support_contact: Option<String>,
}

/// A secret, without its value: `ctl secret list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretView {
    /// Its name.
    pub name: SecretName,
    /// The version that is opened for a migration that begins now.
    pub version: u32,
    /// Versions that can still be opened: a migration goes on with the one that it began with.
    pub versions: Vec<u32>,
    /// When it was first made.
    pub created: WallMs,
    /// When this version was set.
    pub set: WallMs,
    /// Who set it.
    pub set_by: String,
    /// The id of the cluster key that it is wrapped by.
    pub cluster_key: String,
    /// Whose scopes reach it.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// How far a rotation of the cluster key is: `ctl cluster rotate-key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotationView {
    /// The id of the key that everything is sealed under now.
    pub key: String,
    /// The id of the key before it, where this call changed it.
    pub previous: Option<String>,
    /// Versions of secrets that were wrapped again.
    pub rewrapped: u64,
    /// Whether keys before the present one were dropped.
    pub is_old_dropped: bool,
}
