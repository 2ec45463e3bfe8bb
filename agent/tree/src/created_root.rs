//! Making the missing directories of a root, and unmaking them.
//!
//! What exists is followed as the operator wrote it, links included; what is missing is made one component
//! at a time below a held directory, so that nothing can be slipped in between making and opening.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::dir::{Dir, open_directory};
use crate::error::{Cause, Context, Result, TreeError};
use crate::kernel::Kernel;
use crate::name::Name;
use crate::root::Root;
use crate::stat::stat_fd;

const OP: &str = "create root";
const ROOT_MODE: u32 = 0o755;
const PINNED: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory that was made above or as a root, kept so that an undo can remove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedDir {
    /// The path as it was made.
    pub path: PathBuf,
    /// The device.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
}

impl Root {
    /// Opens a root, making what is missing of its path (mode 0755); says what was made, outermost first.
    pub fn create(path: &Path) -> Result<(Self, Vec<CreatedDir>)> {
        let failed = |cause: Cause| TreeError::new(OP, path.as_os_str().as_bytes(), cause);
        if !path.is_absolute() {
            return Err(failed(Cause::Relative));
        }
        let mut here =
            rustix::fs::openat(CWD, c"/", PINNED, Mode::empty()).map_err(|errno| failed(errno.into()))?;
        let mut walked = PathBuf::from("/");
        let mut created = Vec::new();
        for part in parts(path) {
            walked.push(part);
            let (next, made) = enter(&here, part, &walked).map_err(failed)?;
            created.extend(made);
            here = next;
        }
        let (fd, is_readable) = open_directory(here.as_fd(), c".").map_err(|errno| failed(errno.into()))?;
        let root = Self::from_dir(Dir::hold(fd, is_readable, Kernel::detect()))?;
        Ok((root, created))
    }

    /// Returns what [`Root::create`] would make of a path now, outermost first.
    pub fn missing(path: &Path) -> Result<Vec<PathBuf>> {
        let failed = |cause: Cause| TreeError::new(OP, path.as_os_str().as_bytes(), cause);
        if !path.is_absolute() {
            return Err(failed(Cause::Relative));
        }
        let mut here =
            Some(rustix::fs::openat(CWD, c"/", PINNED, Mode::empty()).map_err(|errno| failed(errno.into()))?);
        let mut walked = PathBuf::from("/");
        let mut missing = Vec::new();
        for part in parts(path) {
            walked.push(part);
            here = match here.map(|here| rustix::fs::openat(&here, part, PINNED, Mode::empty())) {
                Some(Err(Errno::NOENT)) | None => {
                    missing.push(walked.clone());
                    None
                }
                Some(next) => Some(next.map_err(|errno| failed(errno.into()))?),
            };
        }
        Ok(missing)
    }

    /// Returns those of the paths that [`Root::missing`] named which are directories now.
    pub fn found_of(missing: &[PathBuf]) -> Result<Vec<CreatedDir>> {
        let mut found = Vec::new();
        for path in missing {
            match rustix::fs::openat(CWD, path, PINNED | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(fd) => {
                    let stat = stat_fd(fd.as_fd()).on_self("stat")?;
                    found.push(CreatedDir { path: path.clone(), dev: stat.dev, ino: stat.ino });
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(errno) => return Err(TreeError::new(OP, path.as_os_str().as_bytes(), errno)),
            }
        }
        Ok(found)
    }

    /// Removes directories that [`Root::create`] made, innermost first: those that are still the same
    /// inodes and empty. Returns those that stay.
    pub fn remove_created(created: &[CreatedDir]) -> Result<Vec<CreatedDir>> {
        let mut kept = Vec::new();
        for made in created.iter().rev() {
            if !remove_one(made)? {
                kept.push(made.clone());
            }
        }
        Ok(kept)
    }
}

/// Returns what is to be opened one after the other, from `/` on.
fn parts(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|component| match component {
        Component::Normal(part) => Some(part),
        Component::ParentDir => Some(OsStr::new("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// Opens a component of an operator's path, making it if it is missing.
fn enter(
    here: &OwnedFd,
    part: &OsStr,
    walked: &Path,
) -> std::result::Result<(OwnedFd, Option<CreatedDir>), Cause> {
    match rustix::fs::openat(here, part, PINNED, Mode::empty()) {
        Err(Errno::NOENT) => {}
        other => return Ok((other?, None)),
    }
    let name = CString::new(part.as_bytes()).map_err(|_nul| Errno::INVAL)?;
    match rustix::fs::mkdirat(here, name.as_c_str(), Mode::from_raw_mode(ROOT_MODE)) {
        // Somebody else made it meanwhile: theirs, not ours to remove. A dangling link says this too.
        Err(Errno::EXIST) => return Ok((rustix::fs::openat(here, part, PINNED, Mode::empty())?, None)),
        outcome => outcome?,
    }
    let (fd, _is_readable) = open_directory(here.as_fd(), &name)?;
    // The umask may have taken bits away.
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(ROOT_MODE))?;
    let stat = stat_fd(fd.as_fd())?;
    Ok((fd, Some(CreatedDir { path: walked.to_owned(), dev: stat.dev, ino: stat.ino })))
}

/// Removes one directory if it is still ours and empty; says whether it is gone.
fn remove_one(made: &CreatedDir) -> Result<bool> {
    let (Some(parent), Some(name)) = (made.path.parent(), made.path.file_name()) else { return Ok(false) };
    let name = Name::new(name.as_bytes()).map_err(|error| TreeError::new(OP, name.as_bytes(), error))?;
    let parent = match Root::open(parent) {
        Ok(root) => root.dir(),
        Err(error) if error.is_not_found() => return Ok(true),
        Err(error) => return Err(error),
    };
    match parent.stat_if_exists(&name)? {
        None => return Ok(true),
        Some(stat) if !stat.is_inode(made.dev, made.ino) => return Ok(false),
        Some(_same) => {}
    }
    match parent.remove_dir(&name) {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_empty() || error.is_busy() || error.is_symlink() => Ok(false),
        Err(error) if error.is_not_found() => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use crate::kernel::Kernel;
    use crate::root::Root;
    use crate::scratch::{Scratch, name};

    #[test]
    fn makes_what_is_missing_and_unmakes_it() {
        let scratch = Scratch::new(Kernel::detect());
        std::fs::create_dir(scratch.path.join("real")).unwrap();
        symlink("real", scratch.path.join("link")).unwrap();
        let path = scratch.path.join("link/new/deeper/./root");
        let missing = Root::missing(&path).unwrap();
        assert_eq!(Root::found_of(&missing).unwrap(), []);
        let (root, created) = Root::create(&path).unwrap();
        assert_eq!(missing, created.iter().map(|made| made.path.clone()).collect::<Vec<_>>());
        assert_eq!(Root::found_of(&missing).unwrap(), created);
        assert_eq!(Root::missing(&path).unwrap(), Vec::<PathBuf>::new());
        let names: Vec<_> = created.iter().map(|made| made.path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["new", "deeper", "root"]);
        let made = scratch.path.join("real/new/deeper/root");
        assert_eq!(std::fs::metadata(&made).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(root.canonical_path().unwrap(), made.canonicalize().unwrap());
        assert_eq!(Root::create(&path).unwrap().1, []);

        root.dir().create_file(&name("kept"), 0o600).unwrap();
        assert_eq!(Root::remove_created(&created).unwrap().len(), 3);
        root.dir().unlink(&name("kept")).unwrap();
        // Another directory took the name.
        std::fs::rename(made.parent().unwrap(), scratch.path.join("moved")).unwrap();
        std::fs::create_dir(made.parent().unwrap()).unwrap();
        let kept = Root::remove_created(&created).unwrap();
        assert_eq!(kept.len(), 2, "{kept:?}");
        std::fs::remove_dir(made.parent().unwrap()).unwrap();
        std::fs::rename(scratch.path.join("moved"), made.parent().unwrap()).unwrap();
        assert_eq!(Root::remove_created(&created).unwrap(), []);
        assert_eq!(Root::remove_created(&created).unwrap(), []);
        assert!(!scratch.path.join("real/new").exists());
        assert!(scratch.path.join("real").exists());
    }

    #[test]
    fn does_not_make_through_files_and_dangling_links() {
        let scratch = Scratch::new(Kernel::detect());
        std::fs::write(scratch.path.join("file"), b"").unwrap();
        symlink(scratch.outside.join("made"), scratch.path.join("dangling")).unwrap();
        assert!(Root::create(&scratch.path.join("file/x")).is_err());
        assert!(Root::create(&scratch.path.join("dangling/x")).is_err());
        assert!(Root::create("relative".as_ref()).is_err());
        scratch.assert_confined();
    }
}
