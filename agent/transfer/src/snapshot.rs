//! What stands below a root, seen by other means than the code under test; the contract suite looks in the same way.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Everything of a tree but change times and inodes, with groups of hard links: what a copy must bring and an undo
/// must bring back.
pub(crate) type Snapshot = BTreeMap<PathBuf, String>;

/// Takes a snapshot, by other means than the code under test.
pub(crate) fn snapshot(root: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    let mut groups: BTreeMap<(u64, u64), Vec<PathBuf>> = BTreeMap::new();
    let mut stack = vec![root.to_owned()];
    while let Some(path) = stack.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let body = if metadata.is_symlink() {
            format!("{:?}", std::fs::read_link(&path).unwrap())
        } else if metadata.is_file() {
            blake3::hash(&std::fs::read(&path).unwrap()).to_hex().to_string()
        } else if metadata.is_dir() {
            for entry in std::fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                if !entry.file_name().to_string_lossy().starts_with(".drover-") {
                    stack.push(entry.path());
                }
            }
            String::new()
        } else {
            metadata.rdev().to_string()
        };
        if !metadata.is_dir() {
            groups.entry((metadata.dev(), metadata.ino())).or_default().push(path.clone());
        }
        let line = format!(
            "{:o} {}:{} {}.{:09} nlink {} {:?} {body}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            if metadata.is_dir() { 0 } else { metadata.nlink() },
            attributes(&path),
        );
        found.insert(path.strip_prefix(root).unwrap().to_owned(), line);
    }
    for mut names in groups.into_values() {
        names.sort();
        let group: Vec<_> = names.iter().map(|name| name.strip_prefix(root).unwrap().to_owned()).collect();
        for name in &group {
            found.get_mut(name).unwrap().push_str(&format!(" {group:?}"));
        }
    }
    found
}

fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap();
    let mut attributes = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65536];
        let count = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
        attributes.insert(name.to_vec(), value[..count].to_vec());
    }
    attributes
}
