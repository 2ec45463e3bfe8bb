//! The entries of one directory, in batches of bounded size.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::vec;

use rustix::fs::RawDir;

use crate::error::{Context, Result, TreeError};
use crate::name::Name;
use crate::stat::Kind;

/// What one `getdents` call may return: about a thousand entries with short names.
const BUFFER_BYTES: usize = 32 * 1024;

/// One entry as the directory knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// The name.
    pub name: Name,
    /// The inode's number; for a mount point that of the directory below it.
    pub ino: u64,
    /// The kind as the directory tells it: a hint, or [`Kind::Unknown`].
    pub kind_hint: Kind,
}

/// An iterator over a directory.
///
/// Entries that are made or removed meanwhile may or may not be seen; all others are seen once.
/// An error ends the listing; whoever sees one has not seen the whole directory.
#[derive(Debug)]
pub struct Listing {
    fd: OwnedFd,
    buffer: Vec<MaybeUninit<u8>>,
    batch: vec::IntoIter<Result<RawEntry>>,
    is_finished: bool,
}

impl Listing {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            buffer: vec![MaybeUninit::uninit(); BUFFER_BYTES],
            batch: Vec::new().into_iter(),
            is_finished: false,
        }
    }

    fn refill(&mut self) {
        let mut batch = Vec::new();
        let mut raw = RawDir::new(self.fd.as_fd(), &mut self.buffer);
        while let Some(next) = raw.next() {
            match next.on_self("list") {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(entry) => batch.push(read_entry(&entry)),
                Err(error) => batch.push(Err(error)),
            }
            self.is_finished = matches!(batch.last(), Some(Err(_)));
            if self.is_finished || (raw.is_buffer_empty() && !batch.is_empty()) {
                self.batch = batch.into_iter();
                return;
            }
        }
        self.is_finished = true;
    }
}

fn read_entry(entry: &rustix::fs::RawDirEntry<'_>) -> Result<RawEntry> {
    let name = Name::from_c_str(entry.file_name())
        .map_err(|error| TreeError::new("list", entry.file_name().to_bytes(), error))?;
    Ok(RawEntry { name, ino: entry.ino(), kind_hint: Kind::from_file_type(entry.file_type()) })
}

impl Iterator for Listing {
    type Item = Result<RawEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(entry) = self.batch.next() {
            return Some(entry);
        }
        if self.is_finished {
            return None;
        }
        self.refill();
        self.batch.next()
    }
}
