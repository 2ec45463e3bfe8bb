//! What an operator asks for.
//!
//! The keys are those of the user's document (design 8.3); flags are turned into the same value. Keys that are known
//! but not served yet are refused by name where documents are read, so this type holds only what is served.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::bandwidth::Bandwidth;
use crate::control::{IoClass, MaxLoad, Priority};
use crate::grant::Labels;
use crate::id::HostName;
use crate::location::Location;
use crate::reference::Reference;
use crate::rules::{InvalidRules, Rules};
use crate::sanitize::Sanitize;
use crate::transport::TransportChoice;

/// The version of the document that this program writes.
pub const SPEC_VERSION: u32 = 1;

/// A migration as an operator described it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationSpec {
    /// [`SPEC_VERSION`].
    pub version: u32,
    /// For people; made from source and destination when left out.
    pub name: String,
    /// Where from.
    pub source: SideSpec,
    /// Where to.
    pub destination: SideSpec,
    /// How files move.
    #[serde(default)]
    pub transfer: TransferSpec,
    /// What happens around it.
    #[serde(default)]
    pub options: OptionsSpec,
    /// What is dropped, replaced or masked on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sanitize: Option<Sanitize>,
    /// Whether this came from a document or from flags only, which decides when the way back ends by default.
    #[serde(default)]
    pub origin: Origin,
    /// What the migration is called besides its name, for lists and for whose grants reach it.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// Where a spec came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A document.
    #[default]
    Document,
    /// Flags of `ctl migrate`: one pass, no backup, no maintenance, no gate.
    Flags,
}

/// One side of a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SideSpec {
    /// Host and root.
    pub location: Location,
    /// Patterns of entries that are left out; the last one that matches decides. See [`crate::filter`].
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Patterns of entries that are kept although an exclude matches.
    #[serde(default)]
    pub include: Vec<String>,
}

/// How files move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TransferSpec {
    /// Remove at the destination what the source does not have.
    pub delete: bool,
    /// How much may be removed.
    pub max_delete: MaxDelete,
    /// Compare content, not only size and time.
    pub checksum: bool,
    /// Owners by number, not by name.
    pub numeric_ids: bool,
    /// How fast the source may send; none is no limit.
    pub bandwidth_limit: Option<Bandwidth>,
    /// Up to which load the source's host is read; none is any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_load: Option<MaxLoad>,
    /// How it uses disks, on both sides.
    #[serde(skip_serializing_if = "IoClass::is_normal")]
    pub io_class: IoClass,
    /// Which of those that wait for a place comes first.
    #[serde(skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    /// Whether content is compressed on its way.
    #[serde(skip_serializing_if = "Compression::is_auto")]
    pub compression: Compression,
    /// What content comes over.
    #[serde(skip_serializing_if = "TransportChoice::is_auto")]
    pub transport: TransportChoice,
    /// The host whose agent passes on what both sides say, where neither reaches the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay: Option<HostName>,
    /// Further passes while the source is live, and a last one under the freeze; none is one pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<CatchUpSpec>,
    /// What else is left out, and whose everything becomes.
    #[serde(skip_serializing_if = "Rules::is_default")]
    pub rules: Rules,
}

/// How the difference is made small before the freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CatchUpSpec {
    /// It is caught up when the freeze is predicted to take no longer, in milliseconds.
    pub threshold_ms: u64,
    /// It is caught up after so many passes, however much still changes.
    pub max_passes: u32,
    /// Who lets the last pass begin.
    pub cutover: Cutover,
}

impl Default for CatchUpSpec {
    fn default() -> Self {
        Self { threshold_ms: 2_000, max_passes: 20, cutover: Cutover::Auto }
    }
}

/// Who lets the last pass begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cutover {
    /// It follows as soon as the destination is caught up.
    #[default]
    Auto,
    /// It waits for `ctl cutover`; until then the destination is kept caught up.
    Manual,
}

/// A text that is no way to cut over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither auto nor manual")]
pub struct InvalidCutover(String);

impl FromStr for Cutover {
    type Err = InvalidCutover;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "manual" => Ok(Self::Manual),
            other => Err(InvalidCutover(other.to_owned())),
        }
    }
}

/// Whether content is compressed on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Where it pays, by what the link and the processor were measured to do.
    #[default]
    Auto,
    /// Never.
    Off,
    /// At this level of zstd, whatever shrinks.
    Level(u8),
}

/// The levels of zstd that may be asked for; those above take memory that no transfer has.
pub const COMPRESSION_LEVELS: std::ops::RangeInclusive<u8> = 1..=19;

impl Compression {
    /// Whether it is left to measurement.
    pub fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::Level(level) => level.fmt(f),
        }
    }
}

/// A text that names no compression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is none of auto, off and 1 to 19")]
pub struct InvalidCompression(String);

impl FromStr for Compression {
    type Err = InvalidCompression;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            level => {
                let level = level.parse().ok().filter(|level| COMPRESSION_LEVELS.contains(level));
                level.map(Self::Level).ok_or_else(|| InvalidCompression(text.to_owned()))
            }
        }
    }
}

/// The guard of deletes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxDelete {
    /// At most this part of the destination's entries, in percent.
    Percent(u8),
    /// At most this many entries.
    Count(u64),
}

impl Default for MaxDelete {
    fn default() -> Self {
        Self::Percent(50)
    }
}

/// A text that is no guard of deletes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a part, as 80%, nor a number of entries")]
pub struct InvalidMaxDelete(String);

impl FromStr for MaxDelete {
    type Err = InvalidMaxDelete;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let guard = match text.strip_suffix('%') {
            Some(part) => part.parse().ok().filter(|percent| *percent <= 100).map(Self::Percent),
            None => text.parse().ok().map(Self::Count),
        };
        guard.ok_or_else(|| InvalidMaxDelete(text.to_owned()))
    }
}

/// What happens around the move of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptionsSpec {
    /// Plan and compare, change nothing.
    pub dry_run: bool,
    /// Verify after the copy.
    pub verify_after: bool,
    /// Unwind when a step failed for good.
    pub rollback_on_failure: bool,
    /// How long the way back stays open after completion, in milliseconds; none is the default of the origin.
    pub rollback_window_ms: Option<u64>,
    /// How much validation proves.
    pub validation_level: ValidationLevel,
    /// The longest the whole may take, in milliseconds.
    pub timeout_ms: Option<u64>,
}

impl Default for OptionsSpec {
    fn default() -> Self {
        Self {
            dry_run: false,
            verify_after: true,
            rollback_on_failure: true,
            rollback_window_ms: None,
            validation_level: ValidationLevel::Basic,
            timeout_ms: None,
        }
    }
}

/// How much validation and verification look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValidationLevel {
    /// Hosts, roots, space.
    Basic,
    /// Also a scan of the source.
    Full,
    /// Also content of both sides, read past the page cache.
    Strict,
}

impl MigrationSpec {
    /// Returns the secrets that it names.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.sanitize.iter().filter_map(|sanitize| sanitize.key.as_ref())
    }

    /// Whether the last pass waits for a person's go.
    pub fn has_manual_cutover(&self) -> bool {
        self.transfer.catch_up.is_some_and(|catch_up| catch_up.cutover == Cutover::Manual)
    }

    /// Checks what is left out, on both sides.
    ///
    /// # Errors
    /// When a pattern cannot be read, or nothing could ever be moved.
    pub fn check_rules(&self) -> Result<(), InvalidRules> {
        if self.transfer.rules.copy_links && self.sanitize.is_some() {
            return Err(InvalidRules::Links);
        }
        let sides = [&self.source, &self.destination];
        let exclude = sides.into_iter().flat_map(|side| &side.exclude);
        self.transfer.rules.check(exclude, sides.into_iter().flat_map(|side| &side.include))
    }

    /// Returns how long the way back stays open after completion, in milliseconds.
    pub fn rollback_window_ms(&self) -> u64 {
        const DAY_MS: u64 = 24 * 3_600_000;
        self.options.rollback_window_ms.unwrap_or(match self.origin {
            Origin::Document => DAY_MS,
            Origin::Flags => 0,
        })
    }
}
