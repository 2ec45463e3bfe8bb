//! Reaching a directory several components below a held one.
//!
//! With `openat2` the kernel walks and refuses links; without it, or for paths longer than it takes, each
//! component is opened from the one before. Both ways answer the same.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::dir::{Dir, open_directory, open_with_fallback};
use crate::error::{Context, Result, TreeError};
use crate::name::{self, Name};

/// The longest path that is given to the kernel in one call; its own limit is 4096 with the NUL.
const WALK_BYTES_MAX: usize = 4000;

/// How often `openat2` is repeated when a rename elsewhere makes it unsure, before going step by step.
const AGAIN_MAX: u32 = 8;

const OP: &str = "open directory beneath";

impl Dir {
    /// Opens a directory below this one; no component may be a link, `.`, `..` or empty.
    ///
    /// The empty path is this directory. Any depth and length works.
    pub fn open_beneath(&self, path: &[u8]) -> Result<Self> {
        if path.is_empty() {
            return Ok(self.clone());
        }
        for component in path.split(|byte| *byte == b'/') {
            name::check(component).map_err(|error| TreeError::new(OP, path, error))?;
        }
        if self.kernel().openat2
            && path.len() <= WALK_BYTES_MAX
            && let Some(opened) = self.open_at_once(path)
        {
            return opened;
        }
        self.open_step_by_step(path)
    }

    /// Lets the kernel walk; nothing if it is unsure for too long.
    fn open_at_once(&self, path: &[u8]) -> Option<Result<Self>> {
        let c_path = CString::new(path).ok()?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let base = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open =
            |flags| rustix::fs::openat2(self.fd(), c_path.as_c_str(), base | flags, Mode::empty(), resolve);
        for _attempt in 0..AGAIN_MAX {
            match open_with_fallback(open) {
                Err(Errno::AGAIN) => {}
                Ok((fd, is_readable)) => return Some(Ok(Self::hold(fd, is_readable, self.kernel()))),
                Err(errno) => return Some(Err(TreeError::new(OP, path, errno))),
            }
        }
        None
    }

    /// Opens each component from the one before; two descriptors are held at any time.
    fn open_step_by_step(&self, path: &[u8]) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut here: Option<OwnedFd> = None;
        let mut components = path.split(|byte| *byte == b'/').peekable();
        while let Some(component) = components.next() {
            let name = Name::new(component).map_err(|error| TreeError::new(OP, path, error))?;
            let at = here.as_ref().map_or(self.fd(), AsFd::as_fd);
            if components.peek().is_none() {
                return open_directory(at, name.as_c_str())
                    .map(|(fd, is_readable)| Self::hold(fd, is_readable, self.kernel()))
                    .map_err(|errno| TreeError::new(OP, path, errno));
            }
            here = Some(rustix::fs::openat(at, name.as_c_str(), flags, Mode::empty()).on(OP, &name)?);
        }
        Ok(self.clone())
    }
}
