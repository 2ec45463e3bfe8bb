//! The phases of a migration, in their fixed order.

use serde::{Deserialize, Serialize};

/// A phase; the order of the variants is the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// What is there.
    Survey,
    /// Make room: backups, users, directories.
    Prepare,
    /// The bulk, while the source is live.
    Copy,
    /// What changed meanwhile, repeated.
    CatchUp,
    /// Writes are stopped; the last pass.
    Freeze,
    /// Prove what was written.
    Verify,
    /// Make the destination the live one.
    CutOver,
    /// Watch, keep the way back open, clean up.
    Settle,
}

/// Over what a step works where its kind stands in several phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everything that the migration wrote.
    Whole,
    /// Only what the pass under the freeze touched.
    Finish,
}
