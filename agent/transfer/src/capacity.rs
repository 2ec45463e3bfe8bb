//! Whether what is to come will fit, as far as that is known before anything is written.
//!
//! Nothing that is there makes room: what is replaced or removed is kept until the migration is settled. So every entry
//! that is brought counts whole, on the file system of the place where it comes. Quotas of users, groups and projects
//! are not asked for.

use std::path::Path;

use common::finding::{Finding, Rule, Severity};
use common::human;
use common::rel_path::RelPath;
use sync::entry::Entry;
use tree::{Dir, Root, Space};

use crate::pull::data_of;
use crate::trouble::finding;

/// What a file takes at least, on nearly all file systems.
const BLOCK_BYTES: u64 = 4096;
/// Mounts below the root that are told apart; what is below further ones counts to the file system around them.
const MOUNTS_MAX: usize = 1000;

/// What each file system of a destination would have to take.
#[derive(Debug)]
pub(crate) struct Capacity {
    /// The root, or the directory in which it would be made.
    dir: Option<Dir>,
    root_dev: Option<u64>,
    here: Needs,
    mounts: Vec<(RelPath, Needs)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Needs {
    bytes: u64,
    inodes: u64,
}

impl Capacity {
    /// Begins to count for a root that is there or would be made.
    pub(crate) fn new(root: Option<&Root>, path: &Path) -> Self {
        let above = || path.ancestors().find_map(|above| Root::open(above).ok());
        let dir = root.map(Root::dir).or_else(|| above().map(|root| root.dir()));
        let root_dev = root.and_then(|root| root.dir().stat_self().ok()).map(|stat| stat.dev);
        Self { dir, root_dev, here: Needs::default(), mounts: Vec::new() }
    }

    /// Looks whether a directory that is there belongs to another file system.
    pub(crate) fn seen(&mut self, path: &RelPath, present: &Entry) {
        let is_known = self.mounts.iter().any(|(mount, _needs)| path.is_within(mount));
        let is_other = present.kind.is_directory() && self.root_dev.is_some_and(|dev| dev != present.dev);
        if is_other && !is_known && self.mounts.len() < MOUNTS_MAX {
            self.mounts.push((path.clone(), Needs::default()));
        }
    }

    /// Counts an entry that would be made.
    pub(crate) fn bring(&mut self, path: &RelPath, source: &Entry) {
        let mount = self.mounts.iter_mut().find(|(mount, _needs)| path.is_within(mount));
        let needs = mount.map_or(&mut self.here, |(_mount, needs)| needs);
        needs.bytes = needs.bytes.saturating_add(data_of(source).next_multiple_of(BLOCK_BYTES));
        needs.inodes += 1;
    }

    /// Says what would not fit.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let Some(dir) = &self.dir else { return Vec::new() };
        let here = (RelPath::root(), self.here);
        std::iter::once(&here)
            .chain(&self.mounts)
            .filter_map(|(path, needs)| {
                // What cannot be asked is told when it is written to.
                let space = dir.open_beneath(path.as_bytes()).and_then(|dir| dir.space()).ok()?;
                let why = too_much(*needs, &space)?;
                Some(finding(
                    Rule::Capacity,
                    Severity::Warning,
                    path,
                    format!("the destination's file system is too small: {why}; what is replaced or removed is kept until the migration is settled"),
                    "Make room at the destination first.",
                ))
            })
            .collect()
    }
}

fn too_much(needs: Needs, space: &Space) -> Option<String> {
    let free = if rustix::process::geteuid().is_root() { space.bytes_free } else { space.bytes_available };
    if needs.bytes > free {
        return Some(format!(
            "at least {} would come and {} are free",
            human::bytes(needs.bytes),
            human::bytes(free)
        ));
    }
    let free = space.inodes_free.filter(|free| needs.inodes > *free)?;
    Some(format!("at least {} entries would be made and {free} inodes are free", needs.inodes))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use common::finding::Rule;

    use crate::pair::Pair;

    struct Small(std::path::PathBuf);

    impl Small {
        /// Mounts a memory file system, or says aloud that this machine cannot.
        fn mount(point: &std::path::Path, size: &str) -> Option<Self> {
            std::fs::create_dir_all(point).unwrap();
            let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", size, "none"]).arg(point).status();
            if !mounted.is_ok_and(|status| status.success()) {
                eprintln!("skipped: mounting a small file system needs root");
                return None;
            }
            Some(Self(point.to_owned()))
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_dry_run_says_which_file_system_is_too_small() {
        let mut pair = Pair::new();
        let (root, source) = (pair.destination_root.clone(), pair.source_root.clone());
        let Some(_few_inodes) = Small::mount(&root, "size=8m,nr_inodes=40") else { return };
        let Some(_few_bytes) = Small::mount(&root.join("mounted"), "size=1m") else { return };
        for number in 0..30 {
            std::fs::write(source.join(format!("f{number}")), "x").unwrap();
        }
        std::fs::create_dir(source.join("mounted")).unwrap();
        std::fs::write(source.join("mounted/large"), vec![7; 900 << 10]).unwrap();
        pair.params.dry_run = true;
        let (output, findings) = pair.copy().await;
        output.unwrap();
        assert_eq!(findings, [], "it fits");

        for number in 30..50 {
            std::fs::write(source.join(format!("f{number}")), "x").unwrap();
        }
        std::fs::write(source.join("mounted/more"), vec![7; 400 << 10]).unwrap();
        let (_output, findings) = pair.copy().await;
        let told: Vec<_> = findings.iter().map(|one| (one.rule, one.object.as_str())).collect();
        assert_eq!(told, [(Rule::Capacity, "."), (Rule::Capacity, "mounted")], "{findings:?}");
        assert!(findings[0].message.contains("inodes") && findings[1].message.contains("free"));
        pair.close().await;
    }
}
