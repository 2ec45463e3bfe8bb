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
    disk("ext4", image, point, size_mib)
}

/// Makes a file system (`ext4`, `xfs`, `btrfs`) of `size_mib` in a file and mounts it; says aloud when this machine
/// cannot.
#[must_use]
pub fn disk(kind: &str, image: &Path, point: &Path, size_mib: u64) -> Option<Mounted> {
    let words: &[&str] = if kind == "ext4" { &["-q", "-F"] } else { &["-q", "-f"] };
    made(kind, words, image, point, size_mib)
}

/// Makes an ext4 whose inodes have no room for fractions of seconds, and mounts it; says aloud when this machine cannot.
#[must_use]
pub fn whole_seconds(image: &Path, point: &Path, size_mib: u64) -> Option<Mounted> {
    made("ext4", &["-q", "-F", "-I", "128"], image, point, size_mib)
}

fn made(kind: &str, words: &[&str], image: &Path, point: &Path, size_mib: u64) -> Option<Mounted> {
    let file = std::fs::File::create(image).ok()?;
    file.set_len(size_mib << 20).ok()?;
    let is_mounted =
        run(&format!("mkfs.{kind}"), words, &[image]) && run("mount", &["-o", "loop"], &[image, point]);
    mounted(is_mounted, point, &format!("a loop mount of {kind}"))
}

/// Mounts an empty file system in memory; says aloud when this machine cannot.
#[must_use]
pub fn tmpfs(point: &Path) -> Option<Mounted> {
    mounted(run("mount", &["-t", "tmpfs", "none"], &[point]), point, "a mount of tmpfs")
}

/// Mounts an empty file system that cannot be written; says aloud when this machine cannot.
#[must_use]
pub fn read_only(point: &Path) -> Option<Mounted> {
    let is_mounted = run("mount", &["-t", "tmpfs", "-o", "ro", "none"], &[point]);
    mounted(is_mounted, point, "a read-only mount")
}

/// Shows a directory at another place too; says aloud when this machine cannot.
#[must_use]
pub fn bind(from: &Path, point: &Path) -> Option<Mounted> {
    mounted(run("mount", &["--bind"], &[from, point]), point, "a bind mount")
}

/// Makes a btrfs subvolume.
#[must_use]
pub fn subvolume(path: &Path) -> bool {
    run("btrfs", &["subvolume", "create"], &[path])
}

/// Gives a directory a project that all that is made in it gets too; says aloud when its file system cannot.
#[must_use]
pub fn project(directory: &Path, id: u32) -> bool {
    let is_set =
        run("chattr", &["-p", &id.to_string()], &[directory]) && run("chattr", &["+P"], &[directory]);
    if !is_set {
        skip::aloud("projects are not possible here");
    }
    is_set
}

fn mounted(is_mounted: bool, point: &Path, what: &str) -> Option<Mounted> {
    if !is_mounted {
        skip::aloud(&format!("{what} is not possible here"));
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

impl Mounted {
    /// Lets nothing be written any more.
    ///
    /// # Panics
    /// When the machine refuses.
    pub fn make_read_only(&self) {
        assert!(run("mount", &["-o", "remount,ro"], &[&self.point]), "remounting {}", self.point.display());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["-l"], &[&self.point]);
    }
}
