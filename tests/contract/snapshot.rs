//! What stands below a root, seen by other means than the code under test.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One line for each entry: everything but change times and inodes, with its group of hard links.
pub(crate) type Snapshot = BTreeMap<PathBuf, String>;

/// Takes a snapshot; stages are left out. A root that is not there is empty.
pub(crate) fn take(root: &Path) -> Snapshot {
    walk(root, false)
}

/// Takes a snapshot with inodes and change times, in which every touch shows; stages are left out.
pub(crate) fn take_exactly(root: &Path) -> Snapshot {
    walk(root, true)
}

fn walk(root: &Path, is_exact: bool) -> Snapshot {
    let mut found = Snapshot::new();
    let mut groups: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    let mut pending = if root.exists() { vec![root.to_owned()] } else { Vec::new() };
    while let Some(path) = pending.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let body = if stat.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if stat.is_file() {
            format!("{} {}", stat.len(), blake3::hash(&fs::read(&path).unwrap()).to_hex())
        } else if stat.is_dir() {
            let entries = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
            pending.extend(entries.filter(|path| !is_stage(path)));
            String::new()
        } else {
            stat.rdev().to_string()
        };
        let below = path.strip_prefix(root).unwrap().to_owned();
        if !stat.is_dir() {
            groups.entry(stat.ino()).or_default().push(below.clone());
        }
        let links = if stat.is_dir() { 0 } else { stat.nlink() };
        let mut line = format!(
            "{:o} {}:{} {}.{:09} nlink {links} {} {body}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
            attributes(&path),
        );
        if is_exact {
            line.push_str(&format!(" inode {} changed {}.{}", stat.ino(), stat.ctime(), stat.ctime_nsec()));
        }
        found.insert(below, line);
    }
    for mut names in groups.into_values() {
        names.sort();
        for name in &names {
            found.get_mut(name).unwrap().push_str(&format!(" {names:?}"));
        }
    }
    found
}

fn is_stage(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".drover-"))
}

fn attributes(path: &Path) -> String {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, names.as_mut_slice()).unwrap_or(0);
    let mut attributes = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65_536];
        let count = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
        attributes.push((String::from_utf8_lossy(name).into_owned(), value[..count].to_vec()));
    }
    attributes.sort();
    format!("{attributes:?}")
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
