//! One file that landed.

use common::digest::Digest;
use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};
use sync::stamp::Time;

/// A file that landed, and how it looked then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// By what it is found: see [`key_of`].
    pub(crate) key: u64,
    /// BLAKE3 of its content.
    pub(crate) digest: [u8; 32],
    /// Its size.
    pub(crate) size: u64,
    /// Its inode.
    pub(crate) ino: u64,
    /// Its time.
    pub(crate) mtime: Time,
    /// Which of its run's roots it is below.
    pub(crate) root: u32,
    /// Where.
    pub(crate) path: RelPath,
}

impl Record {
    /// Makes the record of a file, below the first root of its run.
    pub(crate) fn new(path: RelPath, size: u64, ino: u64, mtime: Time, digest: &Digest) -> Self {
        Self { key: key_of(&path, size), digest: *digest.as_bytes(), size, ino, mtime, root: 0, path }
    }

    /// Returns what of the digest a source is told: enough to tell most files apart, too little to find out what a file
    /// holds by trying.
    pub(crate) fn prefix(&self) -> u16 {
        u16::from_le_bytes([self.digest[0], self.digest[1]])
    }
}

/// Returns by what a file is found: its name and size.
pub(crate) fn key_of(path: &RelPath, size: u64) -> u64 {
    let name = path.split().map_or(&b""[..], |(_parent, name)| name);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size.to_le_bytes());
    hasher.update(name);
    let mut key = [0; 8];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(key)
}
