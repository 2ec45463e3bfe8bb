//! Whether this process may use a directory, asked without changing it.

use rustix::fs::{Access, AtFlags};

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
}

#[cfg(test)]
mod tests {
    use crate::kernel::Kernel;
    use crate::scratch::Scratch;

    #[test]
    fn a_directory_of_ours_is_writable() {
        let scratch = Scratch::new(Kernel::detect());
        scratch.dir.check_writable().unwrap();
    }
}
