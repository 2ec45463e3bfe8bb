//! The tree that a hostile source pretends to have: all of it in memory.

use std::collections::BTreeMap;

use sync::byte_string::ByteString;
use sync::entry::{Entry, Kind};
use sync::listing::{Listing, ListingEnd};
use sync::stamp::{Stamp, Time};

/// A time of the past.
pub(crate) const TIME: Time = Time { seconds: 1_000_000_000, nanos: 5 };

/// Files by path, directories of which are made as they are needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    files: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Returns an entry like any other.
pub(crate) fn entry(name: &[u8], kind: Kind) -> Entry {
    let mode = if kind.is_directory() { 0o755 } else { 0o644 };
    Entry {
        name: name.to_vec(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: TIME,
        ctime: TIME,
        dev: 77,
        ino: 1000 + name.iter().map(|byte| u64::from(*byte)).sum::<u64>(),
        nlink: 1,
        xattrs: Vec::new(),
    }
}

/// Returns a regular file's entry.
pub(crate) fn file(name: &[u8], size: u64) -> Entry {
    entry(name, Kind::File { size, allocated_bytes: size })
}

/// Returns a directory's entry.
pub(crate) fn directory(name: &[u8]) -> Entry {
    entry(name, Kind::Directory)
}

/// Returns a symbolic link's entry.
pub(crate) fn link(name: &[u8], target: &str) -> Entry {
    entry(name, Kind::Symlink { target: target.as_bytes().to_vec() })
}

/// Returns an entry with one attribute.
pub(crate) fn with_xattr(mut entry: Entry, name: &str, value: Vec<u8>) -> Entry {
    entry.xattrs.push((ByteString(name.as_bytes().to_vec()), ByteString(value)));
    entry
}

/// Returns a directory's whole listing.
pub(crate) fn listing(path: &[u8], entries: Vec<Entry>) -> Listing {
    Listing {
        path: path.to_vec().try_into().unwrap(),
        part: 0,
        entries,
        problems: Vec::new(),
        stages: Vec::new(),
        end: ListingEnd::Complete,
    }
}

impl Tree {
    /// Returns the tree that every attack begins with: what a victim would like to have.
    pub(crate) fn plain() -> Self {
        let mut tree = Self::default();
        for number in 0..12 {
            let path = format!("pages/page-{number:02}.html");
            tree.files.insert(path.into_bytes(), content_of(number));
        }
        tree.files.insert(b"index.html".to_vec(), content_of(99));
        tree
    }

    /// Returns the content of a file, whatever its path: a file that is asked for is given.
    pub(crate) fn content(&self, path: &[u8]) -> Vec<u8> {
        self.files.get(path).cloned().unwrap_or_else(|| content_of(7))
    }

    /// Returns the stamp under which the manifest shows a file.
    pub(crate) fn stamp(&self, path: &[u8], asked: &Stamp) -> Stamp {
        Stamp { size: self.content(path).len() as u64, ..*asked }
    }

    /// Returns the entries of the root.
    pub(crate) fn top(&self) -> Vec<Entry> {
        vec![file(b"index.html", content_of(99).len() as u64), directory(b"pages")]
    }

    /// Returns the entries of the one directory.
    pub(crate) fn pages(&self) -> Vec<Entry> {
        let pages =
            self.files.iter().filter_map(|(path, content)| Some((path.strip_prefix(b"pages/")?, content)));
        pages.map(|(name, content)| file(name, content.len() as u64)).collect()
    }
}

/// Returns what the tests may find in a file that was brought.
pub(crate) fn content_of(number: usize) -> Vec<u8> {
    format!("<html>page {number} of an honest site</html>\n").repeat(20 + number).into_bytes()
}
