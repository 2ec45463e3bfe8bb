//! What a step left at its destination.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::snapshot::{Snapshot, snapshot};

/// Takes a snapshot; a root that is not there is empty.
pub(crate) fn look(root: &Path) -> Snapshot {
    if root.exists() { snapshot(root) } else { Snapshot::new() }
}

/// Takes a snapshot with inodes and change times, in which every touch shows.
pub(crate) fn look_exactly(root: &Path) -> Snapshot {
    let mut found = look(root);
    for (path, line) in &mut found {
        let stat = fs::symlink_metadata(root.join(path)).unwrap();
        line.push_str(&format!(" inode {} changed {}.{}", stat.ino(), stat.ctime(), stat.ctime_nsec()));
    }
    found
}

fn is_stage(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".drover-"))
}

/// Returns every file below the stages of a root, by its path from the root.
pub(crate) fn staged_files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending: Vec<PathBuf> = fs::read_dir(root)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).filter(|path| is_stage(path)).collect())
        .unwrap_or_default();
    while let Some(path) = pending.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => pending.extend(entries.flatten().map(|entry| entry.path())),
            Err(_file) => found.push(path),
        }
    }
    found
}
