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
    pub(crate) fn new(
        stage: &Stage,
        path: &Path,
        deletes: bool,
        settings: ScanSettings,
    ) -> Result<Self, Failure> {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use common::failure::{Failure, FailureKind};

    use crate::mounted_test::{Mounted, run};
    use crate::pair::{Pair, assert_same};
    use crate::snapshot::snapshot;

    const SMALL: usize = 256 * 1024;

    /// Writes so many files of a size, whose names begin so.
    fn files(root: &Path, prefix: &str, count: usize, size: usize) {
        for number in 0..count {
            std::fs::write(root.join(format!("{prefix}-{number}")), vec![7; size]).unwrap();
        }
    }

    /// Runs a copy that must be refused with nothing landed, and undone to what was there before.
    async fn refused(pair: &mut Pair) -> Failure {
        let before = snapshot(&pair.destination_root);
        let (output, _findings) = pair.copy().await;
        assert_same(&snapshot(&pair.destination_root), &before, "refused");
        let failure = output.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Exhausted, "{failure}");
        pair.undo().await.0.unwrap();
        assert_same(&snapshot(&pair.destination_root), &before, "undone");
        assert!(!failure.hint.as_deref().unwrap_or_default().is_empty(), "{failure}");
        failure
    }

    /// More than what may be in flight fits, so that nothing but the forecast can refuse it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn bytes_that_will_not_fit_are_refused_before_anything_lands() {
        let mut pair = Pair::new();
        let (root, source) = (pair.destination_root.clone(), pair.source_root.clone());
        let Some(_disk) = Mounted::tmpfs(&root, "size=32m") else { return };
        files(&source, "f", 90, SMALL);
        files(&root, "f", 20, 1000);
        files(&root, "kept", 40, SMALL);
        let failure = refused(&mut pair).await;
        assert!(failure.message.contains("at least 22.5 MiB are still to come"), "{failure}");

        // What is the same at both sides takes no more room.
        std::fs::remove_dir_all(&source).unwrap();
        assert!(run("cp", &["-a"], &[&root, &source]));
        files(&source, "new", 60, SMALL);
        let output = pair.copy().await.0.unwrap();
        assert_eq!((output.files_sent, output.files_unchanged), (60, 60));
        pair.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn inodes_that_will_not_do_are_refused_before_anything_lands() {
        let mut pair = Pair::new();
        let (root, source) = (pair.destination_root.clone(), pair.source_root.clone());
        let Some(_disk) = Mounted::tmpfs(&root, "size=96m,nr_inodes=9000") else { return };
        files(&source, "f", 10_000, 1);
        // Further names of one file take no inodes.
        for number in 0..10 {
            std::fs::hard_link(source.join("f-0"), source.join(format!("name-{number}"))).unwrap();
        }
        let failure = refused(&mut pair).await;
        assert!(failure.message.contains("at least 10000 entries are still to be made"), "{failure}");
        pair.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_quota_of_a_subvolume_is_asked_beforehand() {
        let mut pair = Pair::new();
        let (image, disk) = (pair.state_dir.join("image"), pair.destination_root.clone());
        let Some(_disk) = Mounted::made(&["mkfs.btrfs", "-q"], 256, &image, &disk) else { return };
        let [whole, volume] = [disk.clone(), disk.join("volume")];
        assert!(run("btrfs", &["subvolume", "create"], &[&volume]));
        assert!(run("btrfs", &["quota", "enable"], &[&whole]));
        assert!(run("btrfs", &["qgroup", "limit", "24M"], &[&volume]));
        let source = pair.source_root.clone();
        std::fs::create_dir(source.join("volume")).unwrap();
        files(&source, "f", 100, SMALL);
        files(&source.join("volume"), "f", 100, SMALL);
        // The subvolume is below the root first, then the root itself.
        let below = refused(&mut pair).await;
        pair.params.destination_root = volume.to_str().unwrap().to_owned();
        pair.destination_root = volume;
        let itself = refused(&mut pair).await;
        for (failure, needed) in [(below, "25.0 MiB"), (itself, "50.0 MiB")] {
            let expected = format!("at least {needed} are still to come");
            assert!(failure.message.contains("the quota of btrfs quota group 0/"), "{failure}");
            assert!(failure.message.contains(&expected), "{failure}");
            assert!(failure.hint.as_deref().unwrap_or_default().contains("btrfs qgroup limit"), "{failure}");
        }
        pair.close().await;
    }
}
