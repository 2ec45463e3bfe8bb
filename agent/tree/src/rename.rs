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
