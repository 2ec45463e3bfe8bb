//! Trees to try things on.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};
use tempfile::TempDir;

use crate::dir::Dir;
use crate::kernel::Kernel;
use crate::metadata::Metadata;
use crate::name::Name;
use crate::root::Root;
use crate::stat::Time;
use crate::xattr::Xattrs;

/// A root to work in, with something beside it that must never change.
#[derive(Debug)]
pub(crate) struct Scratch {
    _folder: TempDir,
    pub(crate) path: PathBuf,
    pub(crate) outside: PathBuf,
    pub(crate) dir: Dir,
}

impl Scratch {
    pub(crate) fn new(kernel: Kernel) -> Self {
        Self::within(tempfile::tempdir().unwrap(), kernel)
    }

    fn within(folder: TempDir, kernel: Kernel) -> Self {
        let (path, outside) = (folder.path().join("root"), folder.path().join("outside"));
        std::fs::create_dir(&path).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("victim"), b"untouched").unwrap();
        let dir = Root::open_as(&path, kernel).unwrap().dir();
        Self { _folder: folder, path, outside, dir }
    }

    /// Panics unless everything beside the root is as it was made.
    pub(crate) fn assert_confined(&self) {
        let names: Vec<_> =
            std::fs::read_dir(&self.outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["victim"], "something was made outside");
        assert_eq!(std::fs::read(self.outside.join("victim")).unwrap(), b"untouched");
    }
}

/// Runs a test with all that this kernel has, and with every fallback forced.
pub(crate) fn on_each_kernel(test: impl Fn(&Scratch)) {
    for kernel in [Kernel::detect(), Kernel::oldest()] {
        let scratch = Scratch::new(kernel);
        test(&scratch);
        scratch.assert_confined();
    }
}

pub(crate) fn name(bytes: impl AsRef<[u8]>) -> Name {
    Name::new(bytes.as_ref()).unwrap()
}

/// The metadata of a plain file of the user who runs the test.
pub(crate) fn plain(mode: u32) -> Metadata {
    Metadata {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mode,
        mtime: Time { seconds: 1_000_000_000, nanos: 123_456_789 },
        xattrs: Xattrs::default(),
    }
}

/// Says loudly that a test proves nothing here: past the test runner's capture, where `tests/run.sh` counts it.
pub(crate) fn skipped(reason: &str) {
    std::io::Write::write_all(&mut std::io::stderr(), format!("skipped: {reason}\n").as_bytes()).ok();
}

pub(crate) fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skipped("not root");
    }
    is_root
}

/// A mount that goes away with the test.
#[derive(Debug)]
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn tmpfs(at: &Path) -> Option<Self> {
        Self::made(at, rustix::mount::mount("none", at, "tmpfs", MountFlags::empty(), None))
    }

    pub(crate) fn bind(from: &Path, at: &Path) -> Option<Self> {
        Self::made(at, rustix::mount::mount_bind(from, at))
    }

    fn made(at: &Path, outcome: rustix::io::Result<()>) -> Option<Self> {
        match outcome {
            Ok(()) => Some(Self(at.to_owned())),
            Err(errno) => {
                skipped(&format!("cannot mount: {errno}"));
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// Runs something as a user without rights, in a thread of its own; nothing when that is not possible.
pub(crate) fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> Option<T> {
    if !is_root() {
        return None;
    }
    std::thread::scope(|scope| {
        let nobody = scope.spawn(|| {
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_gid(rustix::fs::Gid::from_raw(65534)).unwrap();
            rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(65534)).unwrap();
            act()
        });
        Some(nobody.join().unwrap())
    })
}
