//! An inode of any kind, held without being opened.
//!
//! A pin follows the inode, not the name: what is asked and set through it cannot hit something that was
//! put in its place. Links, sockets, fifos and devices are worked on this way, for opening them has
//! effects.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::applied::Applied;
use crate::dir::{Dir, reopen};
use crate::error::{Cause, Context, Result};
use crate::kernel::ProcPath;
use crate::metadata::{Freshness, Handle, Metadata};
use crate::name::Name;
use crate::read_file::ReadFile;
use crate::stat::{Kind, Stat, stat_fd};
use crate::xattr::{Attributes, Xattrs};

/// A held inode of any kind.
#[derive(Debug)]
pub struct Pinned {
    fd: OwnedFd,
    name: Name,
}

impl Pinned {
    pub(crate) fn new(fd: OwnedFd, name: Name) -> Self {
        Self { fd, name }
    }

    /// Returns the attributes as they are now.
    pub fn stat(&self) -> Result<Stat> {
        stat_fd(self.fd()).on("stat", &self.name)
    }

    /// Returns the text of the symbolic link.
    pub fn read_link(&self) -> Result<Vec<u8>> {
        rustix::fs::readlinkat(self.fd(), c"", Vec::new())
            .map(std::ffi::CString::into_bytes)
            .on("read link", &self.name)
    }

    /// Returns the extended attributes.
    pub fn xattrs(&self) -> Result<Xattrs> {
        self.attributes().read().on("read attributes", &self.name)
    }

    pub(crate) fn attributes(&self) -> Attributes<'_> {
        Attributes::Path(self.fd())
    }

    /// Opens the regular file that is held; anything else is an error and is not opened.
    pub fn open_file(&self) -> Result<ReadFile> {
        let stat = self.stat()?;
        if stat.kind != Kind::File {
            return Err(Cause::WrongKind { wanted: Kind::File, found: stat.kind }).on("open", &self.name);
        }
        let fd = reopen(self.fd(), OFlags::RDONLY | OFlags::NONBLOCK).on("open", &self.name)?;
        ReadFile::new(fd, self.name.clone())
    }

    /// Sets owner, mode, extended attributes and times, in this order; calls that change nothing are
    /// skipped.
    ///
    /// `expected` names the inode (device, number) that must be held.
    pub fn apply(&self, wanted: &Metadata, expected: Option<(u64, u64)>) -> Result<Applied> {
        let present = self.stat()?;
        if expected.is_some_and(|(dev, ino)| !present.is_inode(dev, ino)) {
            return Err(Cause::Replaced).on("set metadata", &self.name);
        }
        Ok(Handle::Path(self.fd()).apply(present, wanted, Freshness::Existing, self.name.as_bytes()))
    }

    /// Makes content and metadata of a held file or directory durable; says no, and does nothing, where it is of
    /// another kind or may not be read: then only its file system can be synced.
    pub fn sync(&self) -> Result<bool> {
        if !matches!(self.stat()?.kind, Kind::File | Kind::Directory) {
            return Ok(false);
        }
        let fd = match reopen(self.fd(), OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(Errno::ACCESS) => return Ok(false),
            opened => opened.on("open to sync", &self.name)?,
        };
        retry_on_intr(|| rustix::fs::fsync(&fd)).on("sync", &self.name).map(|()| true)
    }

    /// Gives the held inode a further name.
    pub fn link_into(&self, to: &Dir, new: &Name) -> Result<()> {
        ProcPath::new(self.fd())
            .and_then(|path| {
                rustix::fs::linkat(CWD, path.as_c_str(), to.fd(), new.as_c_str(), AtFlags::SYMLINK_FOLLOW)
            })
            .on("link", new)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
