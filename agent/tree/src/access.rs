//! Whether this process may make names in a directory; and the right to, where it is the owner's to give.

use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{Context, Result};

impl Dir {
    /// Says whether entries can be made here: an error for a read-only file system or a missing right.
    ///
    /// The answer may be out of date as soon as it is given; it spares a plan, it protects nothing.
    pub fn check_writable(&self) -> Result<()> {
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        rustix::fs::accessat(self.fd(), c".", wanted, AtFlags::EACCESS).on_self("write into")
    }

    /// Lets the owner write here, if this process is the owner and nothing but the mode forbids it; returns the mode as
    /// it was and as it is now. Whoever is not let in is told so by what he does next.
    pub fn open_for_writing(&self) -> Result<Option<(u32, u32)>> {
        if self.check_writable().is_ok() {
            return Ok(None);
        }
        let before = self.stat_self()?.mode;
        let now = before | 0o700;
        match self.handle().set_mode(now) {
            Ok(()) => Ok(Some((before, now))),
            Err(Errno::PERM | Errno::ACCESS | Errno::ROFS | Errno::NOSYS) => Ok(None),
            Err(errno) => Err(errno).on_self("set mode"),
        }
    }

    /// Gives the directory the mode back that [`Dir::open_for_writing`] changed, unless somebody changed it since.
    pub fn close_for_writing(&self, (before, opened): (u32, u32)) -> Result<()> {
        if self.stat_self()?.mode != opened {
            return Ok(());
        }
        self.handle().set_mode(before).on_self("set mode")
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::Kernel;
    use std::os::unix::fs::PermissionsExt;

    use crate::scratch::{Scratch, as_nobody, name, on_each_kernel};

    #[test]
    fn a_directory_of_ours_is_writable() {
        let scratch = Scratch::new(Kernel::detect());
        scratch.dir.check_writable().unwrap();
        assert_eq!(scratch.dir.open_for_writing().unwrap(), None);
    }

    #[test]
    fn an_owner_opens_a_read_only_directory_and_closes_it_again() {
        on_each_kernel(|scratch| {
            std::fs::set_permissions(&scratch.path, PermissionsExt::from_mode(0o777)).unwrap();
            let mode = |mode| std::fs::Permissions::from_mode(mode);
            as_nobody(|| {
                let own = scratch.dir.create_dir(&name("own"), 0o755).unwrap();
                std::fs::set_permissions(scratch.path.join("own"), mode(0o555)).unwrap();
                assert!(own.create_file(&name("f"), 0o600).unwrap_err().is_permission());
                let opened = own.open_for_writing().unwrap().unwrap();
                assert_eq!(opened, (0o555, 0o755));
                own.create_file(&name("f"), 0o600).unwrap();
                own.close_for_writing(opened).unwrap();
                assert_eq!(own.stat_self().unwrap().mode, 0o555);
                // Somebody's change since is not taken back.
                let opened = own.open_for_writing().unwrap().unwrap();
                std::fs::set_permissions(scratch.path.join("own"), mode(0o750)).unwrap();
                own.close_for_writing(opened).unwrap();
                assert_eq!(own.stat_self().unwrap().mode, 0o750);
            });
            std::fs::create_dir(scratch.path.join("other")).unwrap();
            as_nobody(|| {
                let other = scratch.dir.open_dir(&name("other")).unwrap();
                assert_eq!(other.open_for_writing().unwrap(), None, "it belongs to root");
            });
        });
    }
}
