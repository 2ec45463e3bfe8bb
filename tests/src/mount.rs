//! File systems of their own for a test, on loop devices.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::skip;

/// A mounted file system; dropping it unmounts.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
}

/// Runs a program and returns whether it ended well.
fn run(program: &str, words: &[&str], paths: &[&Path]) -> bool {
    let output =
        Command::new(program).args(words).args(paths).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output();
    output.is_ok_and(|output| output.status.success())
}

/// Makes an ext4 of `size_mib` in a file and mounts it; says aloud when this machine cannot.
#[must_use]
pub fn small_ext4(image: &Path, point: &Path, size_mib: u64) -> Option<Mounted> {
    let file = std::fs::File::create(image).ok()?;
    file.set_len(size_mib << 20).ok()?;
    let is_mounted =
        run("mkfs.ext4", &["-q", "-F"], &[image]) && run("mount", &["-o", "loop"], &[image, point]);
    if !is_mounted {
        skip::aloud("a loop mount of ext4 is not possible here");
        return None;
    }
    Some(Mounted { point: point.to_owned() })
}

impl Mounted {
    /// Unmounts and mounts again, so that nothing is answered from the page cache.
    ///
    /// # Panics
    /// When the machine refuses.
    pub fn remount(&self, image: &Path) {
        assert!(run("umount", &[], &[&self.point]), "unmounting {}", self.point.display());
        assert!(run("mount", &["-o", "loop"], &[image, &self.point]), "mounting {}", image.display());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["-l"], &[&self.point]);
    }
}
