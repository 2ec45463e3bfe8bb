//! A migration root: the one place where a path given by an operator is resolved.
//!
//! It is resolved once, links included, and held from then on; whatever happens to the path later, the
//! same directory is worked on.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};

use crate::dir::{Dir, open_directory};
use crate::error::{Cause, Context, Result, TreeError};
use crate::kernel::{Kernel, ProcPath};
use crate::mount::{below, mount_id, mounts};
use crate::place::{Identity, Place, Position};
use crate::stat::stat_fd;

/// More directories than a path of 4096 bytes can name.
const ANCESTORS_MAX: usize = 16 * 1024;

/// More mounts below one root than any host has; a place is sent over the wire.
const MOUNTS_MAX: usize = 4096;

/// A held migration root.
#[derive(Clone, Debug)]
pub struct Root {
    dir: Dir,
    boot_id: String,
}

impl Root {
    /// Resolves an absolute path, following links, and holds the directory it leads to.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, Kernel::detect())
    }

    /// Opens a root as a kernel with these features would; [`Kernel::oldest`] forces every fallback.
    pub fn open_as(path: &Path, kernel: Kernel) -> Result<Self> {
        let bytes = path.as_os_str().as_bytes();
        if !path.is_absolute() {
            return Err(TreeError::new("open root", bytes, Cause::Relative));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (fd, is_readable) = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .and_then(|pinned| open_directory(pinned.as_fd(), c"."))
            .map_err(|errno| TreeError::new("open root", bytes, errno))?;
        Self::from_dir(Dir::hold(fd, is_readable, kernel))
    }

    pub(crate) fn from_dir(dir: Dir) -> Result<Self> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").on_self("read boot id")?;
        Ok(Self { dir, boot_id: boot_id.trim().to_owned() })
    }

    /// Returns the held directory.
    #[must_use]
    pub fn dir(&self) -> Dir {
        self.dir.clone()
    }

    /// Returns the root's identity on this machine.
    pub fn identity(&self) -> Result<Identity> {
        self.identity_of(self.dir.fd())
    }

    fn identity_of(&self, fd: BorrowedFd<'_>) -> Result<Identity> {
        let stat = stat_fd(fd).on_self("stat")?;
        Ok(Identity { boot_id: self.boot_id.clone(), dev: stat.dev, ino: stat.ino })
    }

    /// Returns the identity of every directory above the root, the nearest first, up to `/`.
    pub fn ancestors(&self) -> Result<Vec<Identity>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut ancestors = Vec::new();
        let mut below = self.identity()?;
        let mut here = None;
        while ancestors.len() < ANCESTORS_MAX {
            let at = here.as_ref().map_or(self.dir.fd(), AsFd::as_fd);
            let parent =
                rustix::fs::openat(at, c"..", flags, Mode::empty()).on_self("open parent of root")?;
            let identity = self.identity_of(parent.as_fd())?;
            // Only `/` is its own parent.
            if identity == below {
                return Ok(ancestors);
            }
            ancestors.push(identity.clone());
            below = identity;
            here = Some(parent);
        }
        Err(Cause::TooLarge { limit_bytes: ANCESTORS_MAX as u64 }).on_self("open parent of root")
    }

    /// Returns where the root is, to be compared with another root's place.
    pub fn place(&self) -> Result<Place> {
        let (identity, ancestors) = (self.identity()?, self.ancestors()?);
        let path = self.canonical_path()?;
        let path = path.as_os_str().as_bytes();
        let id = mount_id(self.dir.fd()).on_self("find mount of root")?;
        let all = mounts().on_self("read mounts")?;
        let position =
            all.iter().find(|mount| mount.id == id).and_then(|mount| Position::through(mount, path));
        let mounts = all
            .iter()
            .filter(|mount| mount.id != id && below(&mount.point, path).is_some_and(|rest| !rest.is_empty()))
            .take(MOUNTS_MAX)
            .map(Position::of)
            .collect();
        Ok(Place { identity, ancestors, position, mounts })
    }

    /// Returns the path that leads to the root now, without links, for display.
    pub fn canonical_path(&self) -> Result<PathBuf> {
        let path = ProcPath::new(self.dir.fd()).on_self("read path of root")?;
        let text = rustix::fs::readlinkat(CWD, path.as_c_str(), Vec::new()).on_self("read path of root")?;
        Ok(PathBuf::from(OsString::from_vec(text.into_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::Root;
    use crate::kernel::Kernel;
    use crate::place::Relation;
    use crate::scratch::{Mounted, Scratch, is_root, name};

    fn relation(first: &std::path::Path, second: &std::path::Path) -> Relation {
        let place = |path| Root::open(path).unwrap().place().unwrap();
        let (first, second) = (place(first), place(second));
        first.relation(&second)
    }

    #[test]
    fn a_root_is_resolved_once() {
        let scratch = Scratch::new(Kernel::detect());
        std::fs::create_dir(scratch.path.join("real")).unwrap();
        symlink("real", scratch.path.join("link")).unwrap();
        let root = Root::open(&scratch.path.join("link")).unwrap();
        std::fs::remove_file(scratch.path.join("link")).unwrap();
        symlink(&scratch.outside, scratch.path.join("link")).unwrap();
        root.dir().create_file(&name("f"), 0o600).unwrap();
        assert!(scratch.path.join("real/f").exists());
        assert_eq!(root.canonical_path().unwrap(), scratch.path.canonicalize().unwrap().join("real"));
        scratch.assert_confined();
    }

    #[test]
    fn odd_roots_are_refused() {
        let scratch = Scratch::new(Kernel::detect());
        std::fs::write(scratch.path.join("f"), b"").unwrap();
        assert!(Root::open("relative".as_ref()).is_err());
        assert!(Root::open("".as_ref()).is_err());
        assert!(Root::open(&scratch.path.join("f")).unwrap_err().is_symlink());
        assert!(Root::open(&scratch.path.join("missing")).unwrap_err().is_not_found());
    }

    #[test]
    fn ancestors_lead_to_the_top() {
        let scratch = Scratch::new(Kernel::detect());
        let root = Root::open(&scratch.path).unwrap();
        let ancestors = root.ancestors().unwrap();
        assert_eq!(ancestors.len(), scratch.path.canonicalize().unwrap().components().count() - 1);
        assert_eq!(ancestors.last(), Some(&Root::open("/".as_ref()).unwrap().identity().unwrap()));
        assert_eq!(Root::open("/".as_ref()).unwrap().ancestors().unwrap(), []);
    }

    #[test]
    fn nesting_is_noticed_under_links() {
        let scratch = Scratch::new(Kernel::detect());
        let path = &scratch.path;
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        std::fs::create_dir(path.join("c")).unwrap();
        symlink(path.join("a/b"), path.join("c/link")).unwrap();
        assert_eq!(relation(&path.join("a"), &path.join("c/link")), Relation::Contains);
        assert_eq!(relation(&path.join("c/link"), &path.join("a")), Relation::Inside);
        assert_eq!(relation(&path.join("a/b"), &path.join("c/link")), Relation::Same);
        assert_eq!(relation(&path.join("a"), &path.join("c")), Relation::Apart);
    }

    #[test]
    fn nesting_is_noticed_under_bind_mounts() {
        if !is_root() {
            return;
        }
        let scratch = Scratch::new(Kernel::detect());
        let path = &scratch.path;
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        std::fs::create_dir_all(path.join("mnt/sub dir")).unwrap();
        let Some(_bind) = Mounted::bind(&path.join("a/b"), &path.join("mnt/sub dir")) else { return };
        std::fs::create_dir(path.join("mnt/sub dir/deep")).unwrap();
        assert_eq!(relation(&path.join("a/b"), &path.join("mnt/sub dir")), Relation::Same);
        assert_eq!(relation(&path.join("a"), &path.join("mnt/sub dir")), Relation::Contains);
        assert_eq!(relation(&path.join("mnt/sub dir/deep"), &path.join("a")), Relation::Inside);
        assert_eq!(relation(&path.join("a/b/deep"), &path.join("mnt")), Relation::Inside);
        assert_eq!(relation(&path.join("a"), &path.join("mnt")), Relation::Overlaps);
    }
}
