//! Changing which name stands for which inode, and removing names.
//!
//! Whoever renames into a live tree is decided elsewhere; here are the calls.
//! Flags that a kernel or file system lacks are `is_unsupported()`.

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{Cause, Context, Result};
use crate::name::Name;

impl Dir {
    /// Renames, if nothing stands at the new name.
    pub fn rename_noreplace(&self, name: &Name, to: &Self, new: &Name) -> Result<()> {
        self.rename_with(name, to, new, RenameFlags::NOREPLACE).on("rename without replacing", new)
    }

    /// Exchanges two names that both exist, in one step.
    pub fn rename_exchange(&self, name: &Name, to: &Self, new: &Name) -> Result<()> {
        self.rename_with(name, to, new, RenameFlags::EXCHANGE).on("exchange", new)
    }

    /// Renames over whatever stands at the new name, which is destroyed.
    pub fn rename_over(&self, name: &Name, to: &Self, new: &Name) -> Result<()> {
        rustix::fs::renameat(self.fd(), name.as_c_str(), to.fd(), new.as_c_str()).on("rename over", new)
    }

    fn rename_with(
        &self,
        name: &Name,
        to: &Self,
        new: &Name,
        flags: RenameFlags,
    ) -> std::result::Result<(), Cause> {
        rustix::fs::renameat_with(self.fd(), name.as_c_str(), to.fd(), new.as_c_str(), flags).map_err(
            |errno| match errno {
                // A file system without the flag says EINVAL; moving a directory into itself, which says
                // the same, is no order of ours.
                Errno::INVAL => Cause::Unsupported(errno.into()),
                other => other.into(),
            },
        )
    }

    /// Removes a name that is no directory.
    pub fn unlink(&self, name: &Name) -> Result<()> {
        rustix::fs::unlinkat(self.fd(), name.as_c_str(), AtFlags::empty()).on("unlink", name)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, name: &Name) -> Result<()> {
        rustix::fs::unlinkat(self.fd(), name.as_c_str(), AtFlags::REMOVEDIR).on("remove directory", name)
    }
}

#[cfg(test)]
mod tests {
    use crate::scratch::{name, on_each_kernel};

    #[test]
    fn renames_in_three_ways() {
        on_each_kernel(|scratch| {
            let (dir, path) = (&scratch.dir, &scratch.path);
            let sub = dir.create_dir(&name("sub"), 0o755).unwrap();
            std::fs::write(path.join("a"), b"a").unwrap();
            std::fs::write(path.join("sub/b"), b"b").unwrap();
            assert!(dir.rename_noreplace(&name("a"), &sub, &name("b")).unwrap_err().is_exists());
            dir.rename_exchange(&name("a"), &sub, &name("b")).unwrap();
            assert_eq!(std::fs::read(path.join("sub/b")).unwrap(), b"a");
            dir.rename_over(&name("a"), &sub, &name("b")).unwrap();
            assert_eq!(std::fs::read(path.join("sub/b")).unwrap(), b"b");
            sub.rename_noreplace(&name("b"), dir, &name("c")).unwrap();
            assert!(dir.rename_exchange(&name("c"), dir, &name("missing")).unwrap_err().is_not_found());
            dir.unlink(&name("c")).unwrap();
            assert!(dir.unlink(&name("c")).unwrap_err().is_not_found());
            sub.create_file(&name("x"), 0o600).unwrap();
            assert!(dir.remove_dir(&name("sub")).unwrap_err().is_not_empty());
            sub.unlink(&name("x")).unwrap();
            dir.remove_dir(&name("sub")).unwrap();
        });
    }

    #[test]
    fn links_are_renamed_and_removed_themselves() {
        on_each_kernel(|scratch| {
            let dir = &scratch.dir;
            dir.create_symlink(&name("link"), scratch.outside.as_os_str().as_encoded_bytes()).unwrap();
            dir.create_file(&name("f"), 0o600).unwrap();
            dir.rename_over(&name("f"), dir, &name("link")).unwrap();
            assert!(scratch.path.join("link").is_file());
            dir.create_symlink(&name("second"), scratch.outside.as_os_str().as_encoded_bytes()).unwrap();
            assert!(dir.remove_dir(&name("second")).is_err());
            dir.unlink(&name("second")).unwrap();
        });
    }
}
