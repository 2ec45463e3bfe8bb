//! Whether the whole tree will fit, known as soon as the source's scan has ended, and before anything has landed.
//!
//! First everything is counted as if nothing stood at the destination, which costs nothing. Only where the room is not
//! certain to do, because it is little, or quotas or several file systems are there, both trees are compared once more,
//! entry by entry, ahead of the planner.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;

use common::failure::{Failure, FailureKind};
use sync::diff::{Decision, Join};
use sync::listing::Listing;

use super::Pass;
use crate::capacity::{Capacity, Needs};
use crate::manifest::{ManifestFile, Written};
use crate::scan::{Scan, ScanSettings};
use crate::stage::Stage;
use crate::trouble::of_stage;

/// Reasons that are given at once; each file system, and each owner, may have one.
const REASONS_MAX: usize = 3;

/// What is known of the room at the destination, and of what is to come.
#[derive(Debug)]
pub(crate) struct Forecast {
    capacity: Capacity,
    /// By file system, what earlier attempts have left in the stage and this one goes on with.
    staged: BTreeMap<String, Needs>,
    whole: Needs,
    settings: ScanSettings,
}

impl Forecast {
    /// Looks at the room there is; to be called before the pass stages anything.
    pub(crate) fn new(stage: &Stage, path: &Path, deletes: bool, settings: ScanSettings) -> Result<Self, Failure> {
        let root = tree::Root::open(path).map_err(|error| of_stage(&error))?;
        let capacity = Capacity::new(Some(&root), path, deletes);
        Ok(Self { capacity, staged: staged(stage)?, whole: Needs::default(), settings })
    }

    /// Counts what the source has.
    pub(super) fn count(&mut self, listing: &Listing) {
        for entry in &listing.entries {
            self.whole.add(self.capacity.least(entry));
        }
    }

    /// Says whether all of it will fit; the manifest is whole up to this length.
    ///
    /// # Errors
    /// `Exhausted` when it will not.
    pub(super) fn judge(mut self, pass: &Pass, manifest_bytes: u64) -> Result<(), Failure> {
        if self.capacity.is_enough_for(self.whole) {
            return Ok(());
        }
        let (tell, told) = mpsc::channel();
        tell.send(Written::Whole(manifest_bytes)).ok();
        let source = ManifestFile::follow(&pass.stage, told)?;
        let destination = Scan::start(pass.stage.root.clone(), self.settings)?;
        for decision in Join::new(source, destination) {
            pass.flow.check()?;
            match decision? {
                Decision::Began { path, is_at_destination, .. } => {
                    self.capacity.enter(&path, is_at_destination);
                }
                Decision::Entry(found) => self.capacity.found(&found),
                Decision::Stage { .. } | Decision::Ended { .. } => {}
            }
        }
        let shortfalls = self.capacity.shortfalls(&self.staged);
        let Some(first) = shortfalls.first() else { return Ok(()) };
        let reasons: Vec<&str> =
            shortfalls.iter().take(REASONS_MAX).map(|shortfall| shortfall.message.as_str()).collect();
        let hint = format!("{} Then retry: what has landed stays and is not sent again.", first.hint);
        Err(Failure::new(FailureKind::Exhausted, reasons.join("; ")).hint(hint))
    }
}

/// Returns what the partial large files take that earlier attempts have left.
fn staged(stage: &Stage) -> Result<BTreeMap<String, Needs>, Failure> {
    let mut found: BTreeMap<String, Needs> = BTreeMap::new();
    for id in stage.domains.all() {
        let domain = stage.domains.get(id)?;
        let disk = found.entry(domain.disk.id.clone()).or_default();
        for entry in domain.large.list().map_err(|error| of_stage(&error))? {
            let entry = entry.map_err(|error| of_stage(&error))?;
            let stat = domain.large.stat(&entry.name).map_err(|error| of_stage(&error))?;
            disk.add(Needs { bytes: stat.blocks.saturating_mul(512), inodes: 1 });
        }
    }
    Ok(found)
}
