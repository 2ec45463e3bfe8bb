//! The four kinds that move files: `file.copy`, `file.catch_up`, `file.finish` and `file.verify`.
//!
//! They share one type of parameters: catch-up and finish are the copy run again, and verify needs to know what the
//! copy was asked for.

use serde::{Deserialize, Serialize};

use super::pass::PassRecord;
use super::{Reversibility, StepDescriptor, StepKind};
use crate::cost::SourceCosts;
use crate::digest::Digest;
use crate::phase::{Phase, Scope};
use crate::reach::Reach;
use crate::reference::Reference;
use crate::rules::{BackupDir, Rules};
use crate::sanitize::Sanitize;
use crate::spec::{CatchUpSpec, Compression, MaxDelete, ValidationLevel};
use crate::transport::{Transport, TransportChoice};

/// The version of [`FileParams`] and [`FileOutput`].
pub const VERSION: u32 = 1;

/// `file.copy`.
pub const COPY: StepDescriptor = StepDescriptor {
    kind: StepKind::FileCopy,
    version: VERSION,
    phases: &[(Phase::Copy, Scope::Whole)],
    is_continuous: false,
    after: &[],
    reversibility: Reversibility::Reversible,
    needs_freeze: false,
    weight: 80,
};

/// `file.catch_up`.
pub const CATCH_UP: StepDescriptor = StepDescriptor {
    kind: StepKind::FileCatchUp,
    version: VERSION,
    phases: &[(Phase::CatchUp, Scope::Whole)],
    is_continuous: true,
    after: &[],
    reversibility: Reversibility::Reversible,
    needs_freeze: false,
    weight: 10,
};

/// `file.finish`.
pub const FINISH: StepDescriptor = StepDescriptor {
    kind: StepKind::FileFinish,
    version: VERSION,
    phases: &[(Phase::Freeze, Scope::Finish)],
    is_continuous: false,
    after: &[],
    reversibility: Reversibility::Reversible,
    needs_freeze: true,
    weight: 10,
};

/// `file.verify`: over all that was written, and under the freeze over what `file.finish` touched.
pub const VERIFY: StepDescriptor = StepDescriptor {
    kind: StepKind::FileVerify,
    version: VERSION,
    phases: &[(Phase::Verify, Scope::Whole), (Phase::Freeze, Scope::Finish)],
    is_continuous: false,
    after: &[StepKind::FileCopy, StepKind::FileFinish],
    reversibility: Reversibility::ReadOnly,
    needs_freeze: false,
    weight: 20,
};

/// What a file step is asked to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileParams {
    /// [`VERSION`].
    pub version: u32,
    /// Absolute path of the source's root.
    pub source_root: String,
    /// Absolute path of the destination's root.
    pub destination_root: String,
    /// Patterns left out.
    pub exclude: Vec<String>,
    /// Patterns kept although an exclude matches.
    pub include: Vec<String>,
    /// Remove what the source does not have.
    pub delete: bool,
    /// How much may be removed.
    pub max_delete: MaxDelete,
    /// Compare content, not only size and time.
    pub checksum: bool,
    /// Owners by number.
    pub numeric_ids: bool,
    /// Bytes per second on the wire as they were asked for, if they are the same at all times; what holds now comes
    /// with each renewal of the lease.
    pub bandwidth_limit: Option<u64>,
    /// Whether content is compressed on its way; an agent that does not know of it refuses the step.
    #[serde(default, skip_serializing_if = "Compression::is_auto")]
    pub compression: Compression,
    /// Change nothing; list what would be done.
    pub dry_run: bool,
    /// How much is proven.
    pub validation_level: ValidationLevel,
    /// Whether the undo log must outlive the migration's completion.
    pub keep_way_back: bool,
    /// Over what the step works.
    pub scope: Scope,
    /// Whether both sides are compared as they are now, and not with what the last pass saw of the source; for
    /// `file.verify`. An agent that does not know of it refuses the step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub compares_now: bool,
    /// What is dropped, replaced or masked on its way; an agent that does not know of it refuses the step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sanitize: Option<Sanitize>,
    /// What content is to come over; an agent that does not know the choice refuses a step that has one.
    #[serde(default, skip_serializing_if = "TransportChoice::is_auto")]
    pub transport: TransportChoice,
    /// When `file.catch_up` is caught up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<CatchUpSpec>,
    /// What else is left out, and whose everything becomes; an agent that does not know of it refuses the step.
    #[serde(default, skip_serializing_if = "Rules::is_default")]
    pub rules: Rules,
}

impl FileParams {
    /// What a migration between two roots asks for that has no options; the way back is kept.
    #[must_use]
    pub fn between(source_root: &str, destination_root: &str) -> Self {
        Self {
            version: VERSION,
            source_root: source_root.to_owned(),
            destination_root: destination_root.to_owned(),
            exclude: Vec::new(),
            include: Vec::new(),
            delete: false,
            max_delete: MaxDelete::default(),
            checksum: false,
            numeric_ids: false,
            bandwidth_limit: None,
            compression: Compression::Auto,
            dry_run: false,
            validation_level: ValidationLevel::Basic,
            keep_way_back: true,
            scope: Scope::Whole,
            compares_now: false,
            sanitize: None,
            transport: TransportChoice::Auto,
            catch_up: None,
            rules: Rules::default(),
        }
    }

    /// Returns the references that the agent of a side opens, and which version of a secret is meant.
    pub fn references(&self, side: RootSide) -> Vec<(&Reference, Option<u32>)> {
        let sanitize = self.sanitize.as_ref().filter(|_| side == RootSide::Source);
        let key = sanitize.and_then(|sanitize| Some((sanitize.needed_key()?, sanitize.key_version)));
        key.into_iter().collect()
    }
}

/// To how many files a rule applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sanitized {
    /// The rule, as `mask *.sql`.
    pub rule: String,
    /// Files; a directory that was dropped counts as one.
    pub files: u64,
}

/// What a file step did, over all its attempts where a field says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileOutput {
    /// [`VERSION`].
    pub version: u32,
    /// Everything in the source's tree that is not a directory.
    pub files_total: u64,
    /// Directories in the source's tree, the root not counted.
    pub directories_total: u64,
    /// Apparent size of all files, a hard-link group once.
    pub bytes_total: u64,
    /// Files whose content was brought and committed, whether it was sent or was there already.
    pub files_sent: u64,
    /// Content that was sent of those files, in bytes.
    pub bytes_sent: u64,
    /// Files that were there already and look unchanged.
    pub files_unchanged: u64,
    /// Entries of which only metadata was changed.
    pub metadata_changed: u64,
    /// Entries removed.
    pub deleted: u64,
    /// UDP or TCP payload sent by both agents, over all attempts.
    pub bytes_on_wire: u64,
    /// Content sent over all attempts less the content that landed.
    pub bytes_resent: u64,
    /// Content of those files that was not sent, but copied from what the destination held already.
    pub bytes_deduplicated: u64,
    /// Content that was compressed on its way, in this attempt.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes_compressed: u64,
    /// What it was compressed to.
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes_compressed_to: u64,
    /// Time that the step worked, over all attempts.
    pub duration_ms: u64,
    /// How many files and bytes each level of proof held for; `file.verify` only.
    pub proof: Proof,
    /// Root over the metadata of the source's tree as it was scanned, with content digests where content was proven.
    pub source_digest: Option<Digest>,
    /// The same over what stands at the destination.
    pub destination_digest: Option<Digest>,
    /// Findings in all, by rule and severity, of which the first of each rule were reported one by one.
    pub findings_total: u64,
    /// Whether the asked level of proof held for every entry; `file.verify` only.
    pub is_verified: bool,
    /// Whether something changed, vanished or could not be read, so that the result is less than asked.
    pub is_partial: bool,
    /// Which of both agents dialled the other, in the last attempt; none where they had nothing to say.
    pub reach: Option<Reach>,
    /// What content came over in the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// What the last attempt cost the source's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_costs: Option<SourceCosts>,
    /// To how many files each rule of `sanitize` applied, in the order of the rules.
    pub sanitized: Vec<Sanitized>,
    /// The newest passes of this step, over all its attempts, at most [`PASSES_KEPT`](super::pass::PASSES_KEPT).
    pub passes: Vec<PassRecord>,
    /// All of them.
    pub passes_total: u64,
    /// How long the freeze would be now; `file.catch_up` only.
    pub freeze_predicted_ms: Option<u64>,
    /// Where the itemised list of a dry run, or the whole list of findings, stands at the destination's agent.
    pub list_file: Option<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How many files and bytes each level of proof held for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Proof {
    /// Read again at the destination and equal to the digest of the commit.
    pub content_files: u64,
    /// Bytes of those.
    pub content_bytes: u64,
    /// Kind, size, time and metadata equal to the source's: what was there already, and links and special files, which
    /// have no content to be read again.
    pub metadata_files: u64,
    /// Bytes of those.
    pub metadata_bytes: u64,
    /// Not proven; each has a finding.
    pub unproven_files: u64,
    /// Bytes of those.
    pub unproven_bytes: u64,
}

/// Asks an agent what stands at a root, before a plan is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootQuestion {
    /// Absolute path of the root.
    pub path: String,
    /// Whether it will be read or changed.
    pub side: RootSide,
}

/// On which side of a migration a root stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootSide {
    /// It is only read.
    Source,
    /// It is changed.
    Destination,
}

/// Which directory this is, on which boot of which machine, whatever it is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RootIdentity {
    /// This boot of this machine.
    pub boot_id: String,
    /// The device.
    pub device: u64,
    /// The inode.
    pub inode: u64,
}

/// What stands at a root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootAnswer {
    /// Whether the root exists; a destination's root may be made.
    pub exists: bool,
    /// The path with links resolved, escaped; of the nearest existing ancestor when the root does not exist.
    pub canonical_path: String,
    /// The root's identity; none when it does not exist.
    pub identity: Option<RootIdentity>,
    /// The identities of its ancestors, nearest first, under every name that they have; beginning with the nearest
    /// existing one.
    pub ancestors: Vec<RootIdentity>,
    /// The components that would be made below the nearest existing ancestor.
    pub missing: Vec<String>,
    /// Free for the agent at the destination, in bytes.
    pub free_bytes: u64,
    /// Free inodes; zero where the file system does not count them.
    pub free_inodes: u64,
    /// The file system's type.
    pub fs_type: String,
    /// Findings that stand against using it: unreadable, not a directory, read-only. Any of severity error refuses
    /// the plan.
    pub findings: Vec<crate::finding::Finding>,
}

/// Asks the destination's agent to end the way back of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettleQuestion {
    /// The migration.
    pub migration: crate::id::MigrationId,
    /// The destination's root.
    pub destination_root: String,
    /// The token under which this is done.
    pub token: crate::fence::FencingToken,
    /// Where in the root the earlier versions go; they are removed where there is no such place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_dir: Option<BackupDir>,
}

/// Asks the destination's agent what the undo of a migration would find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UndoQuestion {
    /// The migration.
    pub migration: crate::id::MigrationId,
    /// What its file steps were asked to do.
    pub params: FileParams,
}

/// Asks the destination's agent for a whole list: the findings of a migration, or what a dry run would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuestion {
    /// The migration.
    pub migration: crate::id::MigrationId,
    /// [`FileOutput::list_file`] of the step that wrote it.
    pub list_file: String,
}

/// What the undo of a migration would find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoPreview {
    /// Entries that would be put back or removed.
    pub entries: u64,
    /// Entries that somebody changed or added since, which would be moved to `after/`.
    pub kept_aside: u64,
}
