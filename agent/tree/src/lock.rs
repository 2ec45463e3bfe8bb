//! A lock that the kernel releases when its holder dies.

use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::retry_on_intr;

use crate::dir::Dir;
use crate::error::{Cause, Context, Result};
use crate::name::Name;
use crate::stat::{Kind, stat_at, stat_fd};

/// How often the file is opened again because its name went to another inode meanwhile.
const ATTEMPTS_MAX: u32 = 8;

const OP: &str = "lock";

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub struct HeldLock {
    _fd: OwnedFd,
}

impl Dir {
    /// Locks a file of ours, making it if it is missing; `is_busy()` if another process has it.
    ///
    /// The file stays when the lock is released; its content is nobody's business.
    pub fn lock_exclusive(&self, name: &Name) -> Result<HeldLock> {
        for _attempt in 0..ATTEMPTS_MAX {
            let fd = self.open_lock(name)?;
            retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive))
                .on(OP, name)?;
            let held = stat_fd(std::os::fd::AsFd::as_fd(&fd)).on(OP, name)?;
            let named = stat_at(self.fd(), name.as_c_str());
            // A lock on an inode that lost its name would be a second lock.
            if named.is_ok_and(|named| named.is_inode(held.dev, held.ino)) {
                return Ok(HeldLock { _fd: fd });
            }
        }
        Err(Cause::Busy).on(OP, name)
    }

    fn open_lock(&self, name: &Name) -> Result<OwnedFd> {
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(self.fd(), name.as_c_str(), flags, Mode::from_raw_mode(0o600));
        let fd = retry_on_intr(open).on(OP, name)?;
        let found = stat_fd(std::os::fd::AsFd::as_fd(&fd)).on(OP, name)?.kind;
        if found != Kind::File {
            return Err(Cause::WrongKind { wanted: Kind::File, found }).on(OP, name);
        }
        Ok(fd)
    }
}

#[cfg(test)]
mod tests {
    use crate::scratch::{name, on_each_kernel};

    #[test]
    fn one_holder_at_a_time() {
        on_each_kernel(|scratch| {
            let held = scratch.dir.lock_exclusive(&name("fence")).unwrap();
            assert!(scratch.dir.lock_exclusive(&name("fence")).unwrap_err().is_busy());
            drop(held);
            let held = scratch.dir.lock_exclusive(&name("fence")).unwrap();
            // A new file of that name is another lock, and the old one is no longer the fence.
            std::fs::remove_file(scratch.path.join("fence")).unwrap();
            scratch.dir.lock_exclusive(&name("fence")).unwrap();
            drop(held);
        });
    }
}
