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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::dir::Dir;
    use crate::kernel::Kernel;
    use crate::scratch::{Scratch, name, on_each_kernel};

    fn is_refused(dir: &Dir, path: &[u8]) -> bool {
        dir.open_beneath(path).is_err()
    }

    #[test]
    fn opens_directories_and_nothing_else() {
        on_each_kernel(|scratch| {
            std::fs::create_dir_all(scratch.path.join("a/b/c")).unwrap();
            std::fs::write(scratch.path.join("a/file"), b"").unwrap();
            symlink("b", scratch.path.join("a/inner")).unwrap();
            symlink(&scratch.outside, scratch.path.join("a/abs")).unwrap();
            symlink("../../outside", scratch.path.join("a/rel")).unwrap();
            symlink("/proc/self/root", scratch.path.join("a/magic")).unwrap();
            let dir = &scratch.dir;
            let opened = dir.open_beneath(b"a/b/c").unwrap().stat_self().unwrap();
            let walked =
                ["a", "b", "c"].iter().fold(dir.clone(), |dir, part| dir.open_dir(&name(part)).unwrap());
            assert_eq!(opened.ino, walked.stat_self().unwrap().ino);
            assert_eq!(dir.open_beneath(b"").unwrap().stat_self().unwrap().ino, dir.stat_self().unwrap().ino);
            for path in [
                "a/inner",
                "a/inner/c",
                "a/abs",
                "a/rel",
                "a/magic",
                "a/magic/etc",
                "a/file",
                "a/file/x",
                "..",
                "a/..",
                "a/../..",
                "../outside",
                "/",
                "/etc",
                "a//b",
                "a/",
                "./a",
                "a/./b",
                "a/missing",
                "a\0/b",
            ] {
                assert!(is_refused(dir, path.as_bytes()), "{path}");
            }
            assert!(dir.open_beneath(b"a/abs").unwrap_err().is_symlink());
            assert!(dir.open_beneath(b"a/missing/x").unwrap_err().is_not_found());
        });
    }

    #[test]
    fn both_ways_refuse_magic_links() {
        for kernel in [Kernel::detect(), Kernel::oldest()] {
            let dir = crate::root::Root::open_as("/proc".as_ref(), kernel).unwrap().dir();
            let me = std::process::id();
            for path in
                ["self/root", "self", &format!("{me}/root"), &format!("{me}/cwd"), &format!("{me}/root/etc")]
            {
                assert!(is_refused(&dir, path.as_bytes()), "{path}");
            }
            assert!(dir.open_beneath(format!("{me}/fd").as_bytes()).is_ok());
        }
    }

    #[test]
    fn goes_deeper_than_a_path_can_say() {
        on_each_kernel(|scratch| {
            let depth = 4000;
            let mut here = scratch.dir.clone();
            for level in 0..depth {
                here = here.create_dir(&name(format!("d{level}")), 0o755).unwrap();
            }
            here.create_file(&name("bottom"), 0o600).unwrap().write_at(b"deep", 0).unwrap();
            let path = (0..depth).map(|level| format!("d{level}")).collect::<Vec<_>>().join("/");
            assert!(path.len() > 4096 * 4);
            let again = scratch.dir.open_beneath(path.as_bytes()).unwrap();
            assert_eq!(again.read_small(&name("bottom"), 100).unwrap(), b"deep");
            drop((here, again));
            assert_eq!(scratch.dir.remove_tree(&name("d0")).unwrap(), depth + 1);
        });
    }

    /// What is held stays what it is, whatever happens to its name.
    #[test]
    fn a_parent_swapped_for_a_link_changes_nothing() {
        on_each_kernel(|scratch| {
            let held = scratch.dir.create_dir(&name("a"), 0o755).unwrap();
            std::fs::rename(scratch.path.join("a"), scratch.path.join("b")).unwrap();
            symlink(&scratch.outside, scratch.path.join("a")).unwrap();
            held.create_file(&name("new"), 0o600).unwrap();
            held.create_dir(&name("sub"), 0o700).unwrap();
            held.create_symlink(&name("link"), b"../../outside/victim").unwrap();
            assert!(scratch.path.join("b/new").exists());
            assert!(held.unlink(&name("victim")).unwrap_err().is_not_found());
            assert!(scratch.dir.open_dir(&name("a")).unwrap_err().is_symlink());
            assert!(is_refused(&scratch.dir, b"a/sub"));
        });
    }

    /// Ends the other thread, also when this one has failed.
    struct Done<'a>(&'a AtomicBool);

    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Another thread exchanges a directory and a link to the outside for as long as files are made.
    #[test]
    fn a_race_between_directory_and_link_is_never_lost() {
        for kernel in [Kernel::detect(), Kernel::oldest()] {
            let scratch = Scratch::new(kernel);
            std::fs::create_dir_all(scratch.path.join("a/flip/deep")).unwrap();
            std::fs::create_dir(scratch.outside.join("deep")).unwrap();
            symlink(&scratch.outside, scratch.path.join("a/link")).unwrap();
            let a = scratch.dir.open_dir(&name("a")).unwrap();
            let is_done = AtomicBool::new(false);
            let made = std::thread::scope(|scope| {
                let _done = Done(&is_done);
                scope.spawn(|| {
                    while !is_done.load(Ordering::Relaxed) {
                        a.rename_exchange(&name("flip"), &a, &name("link")).unwrap();
                    }
                });
                (0..20_000).filter(|round| race_once(&scratch.dir, &a, *round)).count()
            });
            assert!(std::fs::read_dir(scratch.outside.join("deep")).unwrap().next().is_none());
            std::fs::remove_dir(scratch.outside.join("deep")).unwrap();
            scratch.assert_confined();
            assert!((1..20_000).contains(&made), "the race was not run: {made}");
        }
    }

    /// Works below the flipping name in one of several ways; says whether it got in.
    fn race_once(root: &Dir, a: &Dir, round: u32) -> bool {
        let opened = match round % 3 {
            0 => root.open_beneath(b"a/flip/deep"),
            1 => root.open_beneath(b"a/flip"),
            _ => a.open_dir(&name("flip")),
        };
        let Ok(dir) = opened else { return false };
        let file = name(format!("f{}", round % 7));
        if let Ok(new) = dir.create_file(&file, 0o600) {
            new.write_at(b"x", 0).unwrap();
            assert!(new.set_metadata(&crate::scratch::plain(0o640)).unwrap().is_complete());
        }
        dir.rename_over(&file, &dir, &name("kept")).ok();
        assert!(dir.unlink(&name("victim")).is_err());
        assert!(dir.stat(&name("victim")).is_err());
        true
    }
}
