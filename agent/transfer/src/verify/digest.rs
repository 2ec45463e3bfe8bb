//! One digest for a whole tree: a root over the metadata of every entry in order, with digests of content where content
//! was proven. Computed once from what the source's tree was, and once from what stands at the destination.

use common::digest::Digest;
use common::rel_path::RelPath;
use sync::entry::{Entry, Kind};

/// Separates this from any other use of the hash.
const CONTEXT: &str = "drover tree digest 1";

/// Gathers entries in the order of listings.
#[derive(Debug)]
pub(super) struct TreeDigest {
    hasher: blake3::Hasher,
}

impl TreeDigest {
    pub(super) fn new() -> Self {
        Self { hasher: blake3::Hasher::new_derive_key(CONTEXT) }
    }

    /// Adds an entry, with its content's digest where it is proven.
    pub(super) fn add(&mut self, path: &RelPath, entry: &Entry, content: Option<Digest>) {
        let Entry { name: _, kind, mode, uid, gid, mtime, ctime: _, dev: _, ino: _, nlink: _, xattrs } =
            entry;
        self.bytes(path.as_bytes());
        let is_link = matches!(kind, Kind::Symlink { .. });
        match kind {
            Kind::File { size, allocated_bytes: _ } => self.numbers(&[1, *size]),
            Kind::Directory => self.numbers(&[2]),
            Kind::Symlink { target } => {
                self.numbers(&[3]);
                self.bytes(target);
            }
            Kind::Fifo => self.numbers(&[4]),
            Kind::Socket => self.numbers(&[5]),
            Kind::CharacterDevice { major, minor } => {
                self.numbers(&[6, u64::from(*major), u64::from(*minor)]);
            }
            Kind::BlockDevice { major, minor } => self.numbers(&[7, u64::from(*major), u64::from(*minor)]),
        }
        let mode = if is_link { 0 } else { *mode };
        self.numbers(&[u64::from(mode), u64::from(*uid), u64::from(*gid)]);
        self.hasher.update(&mtime.seconds.to_le_bytes());
        self.numbers(&[u64::from(mtime.nanos), xattrs.len() as u64]);
        for (name, value) in xattrs {
            self.bytes(&name.0);
            self.bytes(&value.0);
        }
        match content {
            Some(digest) => self.bytes(digest.as_bytes()),
            None => self.numbers(&[0]),
        }
    }

    pub(super) fn finish(self) -> Digest {
        Digest::from(self.hasher.finalize())
    }

    fn numbers(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.hasher.update(&number.to_le_bytes());
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.numbers(&[bytes.len() as u64]);
        self.hasher.update(bytes);
    }
}
