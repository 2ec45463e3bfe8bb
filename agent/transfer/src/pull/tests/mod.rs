//! Whole passes between two endpoints.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::finding::{Finding, Rule};
use rustix::fs::CWD;

mod deletes;
mod links;
mod meanwhile;
mod resumed;
mod trees;

fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    use rustix::fs::{AtFlags, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub(super) fn bytes(size: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

pub(super) fn write(root: &Path, name: &str, content: &[u8], mode: u32) {
    let path = root.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    set_mtime(&path, 1_234_567_890, 987_654_321);
}

pub(super) fn rules(findings: &[Finding]) -> Vec<(Rule, &str)> {
    findings.iter().map(|finding| (finding.rule, finding.object.as_str())).collect()
}
