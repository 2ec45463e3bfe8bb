//! A destination to work on: trees on real directories and mounts.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::clock;
use common::failure::Failure;
use common::fence::FencingToken;
use common::id::MigrationId;
use common::rel_path::RelPath;
use tokio_util::sync::CancellationToken;
use tree::Root;

use super::super::Committer;
use crate::context::{LeaseKeeper, hold_lease};
use crate::findings::FindingSink;
use crate::kill_point::{KillPoint, Sync};
use crate::memory::Memory;
use crate::stage::Stage;
use crate::undo::undo_all;

/// What kind of destination.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ground {
    /// Without the newer renames.
    pub(super) is_old_kernel: bool,
    /// With another file system and a bind mount below the root.
    pub(super) has_domains: bool,
    /// How everything is synced.
    pub(super) sync: Sync,
}

/// A mount that goes with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// Whether file systems can be mounted here; says so aloud if not.
pub(super) fn can_mount() -> bool {
    let folder = tempfile::tempdir().unwrap();
    match mount_tmpfs(folder.path()) {
        Ok(_mounted) => true,
        Err(errno) => {
            crate::mounted_test::skipped(&format!("cannot mount: {errno}"));
            false
        }
    }
}

fn mount_tmpfs(point: &Path) -> rustix::io::Result<Mounted> {
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("none", point, "tmpfs", flags, None).map(|()| Mounted(point.to_owned()))
}

/// Makes the folder of a world. Where there are many file systems it is in memory if that can be: then a sync costs
/// nothing, and every effect can be tried.
fn folder(ground: Ground) -> tempfile::TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm").ok().filter(|folder| {
        let flags = rustix::fs::XattrFlags::empty();
        ground.has_domains && rustix::fs::setxattr(folder.path(), "user.probe", b"", flags).is_ok()
    });
    in_memory.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

pub(super) struct World {
    // They go before the directory that they stand in.
    mounts: Vec<Mounted>,
    _folder: tempfile::TempDir,
    pub(super) root: PathBuf,
    pub(super) state: PathBuf,
    token: u64,
    pub(super) keepers: Vec<LeaseKeeper>,
    ground: Ground,
}

pub(super) fn path(text: &str) -> RelPath {
    RelPath::try_from(text.as_bytes().to_vec()).unwrap()
}

fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

impl World {
    pub(super) fn new(ground: Ground) -> Self {
        let folder = folder(ground);
        let (root, state) = (folder.path().join("root"), folder.path().join("state"));
        std::fs::create_dir_all(root.join("kept/deep")).unwrap();
        std::fs::create_dir_all(root.join("becomes-file/inner")).unwrap();
        std::fs::create_dir_all(root.join("gone/below")).unwrap();
        let write = |name: &str, content: &str, mode: u32| {
            let path = root.join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            set_mtime(&path, 1_000_000_000, 123_456_789);
        };
        write("replaced", "old content", 0o4751);
        write("untouched", "as ever", 0o600);
        write("metadata", "same content", 0o600);
        write("becomes-directory", "a file", 0o640);
        write("becomes-file/inner/x", "below", 0o600);
        write("gone/below/file", "to be removed", 0o444);
        write("kept/deep/replaced", "deep and old", 0o644);
        write("linked-1", "two names", 0o644);
        std::fs::hard_link(root.join("linked-1"), root.join("linked-2")).unwrap();
        rustix::fs::chown(
            root.join("replaced"),
            Some(rustix::fs::Uid::from_raw(1234)),
            Some(rustix::fs::Gid::from_raw(77)),
        )
        .unwrap();
        std::fs::set_permissions(root.join("replaced"), PermissionsExt::from_mode(0o4751)).unwrap();
        rustix::fs::setxattr(root.join("replaced"), "user.note", b"of old", rustix::fs::XattrFlags::empty())
            .unwrap();
        std::os::unix::fs::symlink("old/target", root.join("link")).unwrap();
        let mut mounts = Vec::new();
        if ground.has_domains {
            let elsewhere = folder.path().join("elsewhere");
            for directory in [&elsewhere, &root.join("disk"), &root.join("kept/bound")] {
                std::fs::create_dir(directory).unwrap();
            }
            mounts.push(mount_tmpfs(&root.join("disk")).unwrap());
            rustix::mount::mount_bind(&elsewhere, root.join("kept/bound")).unwrap();
            mounts.push(Mounted(root.join("kept/bound")));
            for directory in ["disk/gone", "disk/becomes-file/inner", "kept/bound/deep"] {
                std::fs::create_dir_all(root.join(directory)).unwrap();
            }
            write("disk/replaced", "old on the disk", 0o4751);
            write("disk/metadata", "same content", 0o600);
            write("disk/gone/file", "to be removed", 0o444);
            write("disk/becomes-file/inner/x", "below", 0o600);
            write("disk/linked-1", "alone so far", 0o644);
            write("kept/bound/replaced", "old and bound", 0o644);
            write("kept/bound/deep/untouched", "as ever", 0o644);
        }
        let mut world = Self { mounts, _folder: folder, root, state, token: 1, keepers: Vec::new(), ground };
        world.set_times_of_directories();
        world
    }

    fn set_times_of_directories(&mut self) {
        let mut stack = vec![self.root.clone()];
        while let Some(directory) = stack.pop() {
            set_mtime(&directory, 900_000_000, 5);
            let entries = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap());
            stack.extend(
                entries.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()),
            );
        }
    }

    /// Takes a mount away, as a reboot without it would.
    pub(super) fn unmount_last(&mut self) {
        drop(self.mounts.pop());
    }

    /// Returns the names of all stages in the tree, of whatever domain.
    pub(super) fn stages(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut stack = vec![self.root.clone()];
        while let Some(directory) = stack.pop() {
            for entry in std::fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                if is_stage(&path) {
                    found.push(path);
                } else if path.is_dir() && !path.is_symlink() {
                    stack.push(path);
                }
            }
        }
        found.sort();
        found
    }

    pub(super) fn open(&mut self, kill: &KillPoint) -> Result<Committer, Failure> {
        self.token += 1;
        let token = FencingToken { epoch: 1, index: self.token };
        let (keeper, lease) = hold_lease(token, clock::boot(), &CancellationToken::new());
        self.keepers.push(keeper);
        let migration: MigrationId = "m1".parse().unwrap();
        let memory = Memory::open(&self.state, &migration)?;
        let root = Root::open(&self.root).unwrap();
        let stage = match Stage::find(&root, &migration, &memory)? {
            Some(stage) => stage,
            None => Stage::make(&self.root, &migration, &memory, &KillPoint::default())?,
        };
        let committer = Committer::open(stage, token, lease, kill.clone())?;
        Ok(if self.ground.is_old_kernel { committer.without_exchange() } else { committer })
    }

    pub(super) fn undo(&mut self, kill: &KillPoint) -> Result<u64, Failure> {
        let mut committer = self.open(kill)?;
        let (findings, mut receiver) = FindingSink::new();
        let undone = undo_all(&mut committer, &findings, kill).map(|preview| preview.kept_aside);
        while let Ok(finding) = receiver.try_recv() {
            println!("{finding:?}");
        }
        undone
    }
}

pub(super) fn is_stage(path: &Path) -> bool {
    path.file_name().unwrap().to_string_lossy().starts_with(".drover-m1-")
}
