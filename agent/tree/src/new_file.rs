//! A regular file held for writing: one that was just made, or a staged one that is resumed.
//!
//! Order of use: write, [`NewFile::set_metadata`] last (a later write would change the times and drop
//! set-id bits and capabilities), then sync, alone or with its group.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::applied::Applied;
use crate::dir::reopen;
use crate::error::{Context, Result};
use crate::metadata::{Freshness, Handle, Metadata};
use crate::name::Name;
use crate::read_file::{ReadFile, read_full};
use crate::stat::{Stat, stat_fd};

/// A regular file held for writing.
#[derive(Debug)]
pub struct NewFile {
    fd: OwnedFd,
    name: Name,
    freshness: Freshness,
}

impl NewFile {
    pub(crate) fn fresh(fd: OwnedFd, name: Name, inherits_acl: bool) -> Self {
        let freshness = if inherits_acl { Freshness::Existing } else { Freshness::Fresh };
        Self { fd, name, freshness }
    }

    pub(crate) fn existing(fd: OwnedFd, name: Name) -> Self {
        Self { fd, name, freshness: Freshness::Existing }
    }

    /// Returns the name it was opened by.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Returns the attributes as they are now.
    pub fn stat(&self) -> Result<Stat> {
        stat_fd(self.fd()).on("stat", &self.name)
    }

    /// Writes all bytes at `offset`; what lies between the end and `offset` becomes a hole.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        write_full(self.fd(), bytes, offset).on("write", &self.name)
    }

    /// Reads back from `offset` until the buffer is full or the file ends.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        read_full(self.fd(), buffer, offset).on("read", &self.name)
    }

    /// Sets the length; what is new is a hole.
    pub fn set_len(&self, size_bytes: u64) -> Result<()> {
        retry_on_intr(|| rustix::fs::ftruncate(self.fd(), size_bytes)).on("set length", &self.name)
    }

    /// Reserves blocks without changing the length, so that a full disk shows before the data is sent.
    pub fn allocate(&self, offset: u64, length_bytes: u64) -> Result<()> {
        self.fallocate(FallocateFlags::KEEP_SIZE, offset, length_bytes).on("allocate", &self.name)
    }

    /// Makes a range a hole that reads as zeros; the length stays.
    pub fn punch_hole(&self, offset: u64, length_bytes: u64) -> Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.fallocate(flags, offset, length_bytes).on("punch a hole", &self.name)
    }

    fn fallocate(&self, flags: FallocateFlags, offset: u64, length: u64) -> std::result::Result<(), Errno> {
        if length == 0 {
            return Ok(());
        }
        retry_on_intr(|| rustix::fs::fallocate(self.fd(), flags, offset, length))
    }

    /// Shares the blocks of another file; unsupported where the file system has no reflinks.
    ///
    /// The caller verifies the content: the other file may change while it is cloned.
    pub fn reflink_from(&self, other: &ReadFile) -> Result<()> {
        rustix::fs::ioctl_ficlone(self.fd(), other.fd())
            .map_err(|errno| match errno {
                // Other file systems, or none of the two knows it.
                Errno::INVAL | Errno::NOTTY | Errno::XDEV => Errno::OPNOTSUPP,
                errno => errno,
            })
            .on("reflink", &self.name)
    }

    /// Copies bytes inside the kernel; returns how many, which may be fewer or none.
    pub fn copy_range_from(
        &self,
        other: &ReadFile,
        from_offset: u64,
        to_offset: u64,
        length_bytes: usize,
    ) -> Result<usize> {
        let (mut from, mut to) = (from_offset, to_offset);
        let mut copy = || {
            rustix::fs::copy_file_range(other.fd(), Some(&mut from), self.fd(), Some(&mut to), length_bytes)
        };
        retry_on_intr(&mut copy)
            .map_err(|errno| match errno {
                Errno::INVAL | Errno::XDEV => Errno::OPNOTSUPP,
                errno => errno,
            })
            .on("copy range", &self.name)
    }

    /// Sets owner, mode, extended attributes and times, in this order; calls that change nothing are
    /// skipped.
    pub fn set_metadata(&self, wanted: &Metadata) -> Result<Applied> {
        let present = self.stat()?;
        Ok(Handle::Open(self.fd()).apply(present, wanted, self.freshness, self.name.as_bytes()))
    }

    /// Makes content and metadata durable (the name needs the directory's sync).
    pub fn sync(&self) -> Result<()> {
        retry_on_intr(|| rustix::fs::fsync(self.fd())).on("sync", &self.name)
    }

    /// Makes the content durable, and of the metadata only the length.
    pub fn sync_data(&self) -> Result<()> {
        retry_on_intr(|| rustix::fs::fdatasync(self.fd())).on("sync", &self.name)
    }

    /// Opens the same inode for reading, whatever its name is by now.
    pub fn reopen(&self) -> Result<ReadFile> {
        let fd = reopen(self.fd(), OFlags::RDONLY | OFlags::NONBLOCK).on("open again", &self.name)?;
        ReadFile::new(fd, self.name.clone())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Writes until nothing is left.
pub(crate) fn write_full(fd: BorrowedFd<'_>, bytes: &[u8], offset: u64) -> std::result::Result<(), Errno> {
    let mut written = 0;
    while written < bytes.len() {
        let at = offset.checked_add(written as u64).ok_or(Errno::FBIG)?;
        match retry_on_intr(|| rustix::io::pwrite(fd, &bytes[written..], at))? {
            0 => return Err(Errno::NOSPC),
            count => written += count,
        }
    }
    Ok(())
}
