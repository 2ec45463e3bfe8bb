//! One inode as an entry.

use sync::entry::Entry;
use sync::stamp::Stamp;
use tree::{Dir, Name, Stat, TreeError};

use crate::standing::{entry_of, time};

/// Why an inode is no entry.
#[derive(Debug)]
pub(crate) enum NotSeen {
    /// It is gone.
    Vanished,
    /// It could not be looked at.
    Unreadable(String),
}

impl From<TreeError> for NotSeen {
    fn from(error: TreeError) -> Self {
        if error.is_not_found() { Self::Vanished } else { Self::Unreadable(describe(&error)) }
    }
}

/// Returns an error with what caused it, for people.
pub(crate) fn describe(error: &TreeError) -> String {
    use std::error::Error as _;
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Looks at a name in a directory.
pub(crate) fn entry_at(directory: &Dir, name: &Name, stat: &Stat) -> Result<Entry, NotSeen> {
    let target = match stat.kind {
        tree::Kind::Symlink => directory.read_link(name)?,
        tree::Kind::Unknown => {
            return Err(NotSeen::Unreadable("it is of a kind that is not known".to_owned()));
        }
        tree::Kind::File
        | tree::Kind::Directory
        | tree::Kind::Fifo
        | tree::Kind::Socket
        | tree::Kind::CharacterDevice
        | tree::Kind::BlockDevice => Vec::new(),
    };
    Ok(entry_of(name.as_bytes(), stat, directory.xattrs(name)?, target))
}

/// Returns what tells whether a file is still the same.
pub(crate) fn stamp_of(stat: &Stat) -> Stamp {
    Stamp { ino: stat.ino, size: stat.size, mtime: time(stat.mtime), ctime: time(stat.ctime) }
}
