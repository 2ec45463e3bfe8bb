//! File systems of their own for tests.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a program and says whether it ended well.
pub(crate) fn run(program: &str, words: &[&str], paths: &[&Path]) -> bool {
    let output =
        Command::new(program).args(words).args(paths).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output();
    output.is_ok_and(|output| output.status.success())
}

/// Says loudly that a test proves nothing here: past the test runner's capture, where `tests/run.sh` counts it.
pub(crate) fn skipped(reason: &str) {
    std::io::Write::write_all(&mut std::io::stderr(), format!("skipped: {reason}\n").as_bytes()).ok();
}

/// A mounted file system; dropping it unmounts.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    /// Mounts an image.
    pub(crate) fn new(image: &Path, point: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(point).unwrap();
        run("mount", &["-o", options], &[image, point]).then(|| Self(point.to_owned()))
    }

    /// Makes an image and mounts it, or says aloud that this machine cannot.
    pub(crate) fn made(mkfs: &[&str], size_mib: u64, image: &Path, point: &Path) -> Option<Self> {
        std::fs::File::create(image).unwrap().set_len(size_mib << 20).unwrap();
        let mounted = run(mkfs[0], &mkfs[1..], &[image]).then(|| Self::new(image, point, "loop")).flatten();
        if mounted.is_none() {
            skipped(&format!("{} on a loop device needs root and its programs", mkfs[0]));
        }
        mounted
    }

    /// Mounts a memory file system, or says aloud that this machine cannot.
    pub(crate) fn tmpfs(point: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(point).unwrap();
        if !run("mount", &["-t", "tmpfs", "-o", options, "none"], &[point]) {
            skipped("mounting a small file system needs root");
            return None;
        }
        Some(Self(point.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        assert!(run("umount", &[], &[&self.0]) || std::thread::panicking(), "{}", self.0.display());
    }
}
