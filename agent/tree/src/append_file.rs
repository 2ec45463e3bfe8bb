//! A log of ours: written at its end only, read anywhere.
//!
//! It does not know frames. A crash may leave a torn end; whoever frames the records finds the last whole
//! one and cuts the rest with [`AppendFile::truncate`]. Only what was synced survives a power cut.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::dir::Dir;
use crate::error::{Cause, Context, Result};
use crate::name::Name;
use crate::new_file::write_full;
use crate::read_file::{open_regular, read_full};
use crate::stat::{Stat, stat_fd};

/// A log held for appending and reading.
#[derive(Debug)]
pub struct AppendFile {
    fd: OwnedFd,
    name: Name,
    length_bytes: u64,
}

impl Dir {
    /// Makes a log (mode 0600); it must not exist. Its name is durable after [`Dir::sync_dir`].
    pub fn create_append(&self, name: &Name) -> Result<AppendFile> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(self.fd(), name.as_c_str(), flags, Mode::from_raw_mode(0o600));
        let fd = retry_on_intr(open).on("create log", name)?;
        Ok(AppendFile { fd, name: name.clone(), length_bytes: 0 })
    }

    /// Opens a log that exists, to read it and to append to it.
    pub fn open_append(&self, name: &Name) -> Result<AppendFile> {
        let (fd, stat) = open_regular(self.fd(), name, OFlags::RDWR)?;
        Ok(AppendFile { fd, name: name.clone(), length_bytes: stat.size })
    }
}

impl AppendFile {
    /// Writes all bytes at the end and returns the offset where they begin.
    ///
    /// If that fails, the log is cut back to its length before, as far as the kernel lets us.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        let offset = self.length_bytes;
        if let Err(errno) = write_full(self.fd(), bytes, offset) {
            // The torn end is also recognised by its frame; this only keeps the next append whole.
            rustix::fs::ftruncate(self.fd(), offset).ok();
            return Err(errno).on("append", &self.name);
        }
        self.length_bytes = offset + bytes.len() as u64;
        Ok(offset)
    }

    /// Notes that another handle has appended: the log is read up to this length from now on.
    pub fn grow(&mut self, length_bytes: u64) {
        self.length_bytes = self.length_bytes.max(length_bytes);
    }

    /// Makes all that was appended durable.
    ///
    /// After an error nothing since the last success may be believed to be on the device.
    pub fn sync_data(&self) -> Result<()> {
        retry_on_intr(|| rustix::fs::fdatasync(self.fd())).on("sync", &self.name)
    }

    /// Reads from `offset` until the buffer is full or the log ends.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        read_full(self.fd(), buffer, offset).on("read", &self.name)
    }

    /// Returns the length: where the next record begins.
    #[must_use]
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Cuts the log; it never grows by this.
    pub fn truncate(&mut self, length_bytes: u64) -> Result<()> {
        if length_bytes > self.length_bytes {
            return Err(Cause::from(Errno::INVAL)).on("truncate", &self.name);
        }
        retry_on_intr(|| rustix::fs::ftruncate(self.fd(), length_bytes)).on("truncate", &self.name)?;
        self.length_bytes = length_bytes;
        Ok(())
    }

    /// Returns the attributes as they are now.
    pub fn stat(&self) -> Result<Stat> {
        stat_fd(self.fd()).on("stat", &self.name)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use crate::scratch::{name, on_each_kernel};

    #[test]
    fn appends_reads_and_cuts() {
        on_each_kernel(|scratch| {
            let mut log = scratch.dir.create_append(&name("log")).unwrap();
            assert_eq!(log.append(b"first").unwrap(), 0);
            assert_eq!(log.append(b"second").unwrap(), 5);
            log.sync_data().unwrap();
            scratch.dir.sync_dir().unwrap();
            assert!(scratch.dir.create_append(&name("log")).unwrap_err().is_exists());
            let mut again = scratch.dir.open_append(&name("log")).unwrap();
            assert_eq!(again.length_bytes(), 11);
            assert!(again.truncate(12).is_err());
            again.truncate(5).unwrap();
            assert_eq!(again.append(b"third").unwrap(), 5);
            let mut buffer = [0; 20];
            assert_eq!(again.read_at(&mut buffer, 0).unwrap(), 10);
            assert_eq!(&buffer[..10], b"firstthird");
            assert_eq!(again.stat().unwrap().mode, 0o600);
        });
    }
}
