//! One object of a tree, as a scan saw it.

use common::rel_path::is_component;
use serde::{Deserialize, Serialize};

use crate::byte_string::ByteString;
use crate::stamp::{Stamp, Time};

/// The largest set of extended attributes of one entry, names and values together; a larger one is a finding.
pub const XATTR_BYTES_MAX: usize = 1024 * 1024;
/// Extended attributes of one entry; Linux lists at most 64 KiB of names, and none is shorter than `user.a`.
pub const XATTRS_MAX: usize = 9_362;
/// The longest name of an extended attribute on Linux.
const XATTR_NAME_BYTES_MAX: usize = 255;
/// The largest value of one on Linux.
const XATTR_VALUE_BYTES_MAX: usize = 64 * 1024;
/// The number that means "leave it as it is" to the kernel and is nobody's.
const NOBODY: u32 = u32::MAX;
/// The longest text of a symbolic link; Linux allows 4095 bytes.
pub const LINK_BYTES_MAX: usize = 4096;
/// The longest name; file systems stop at 255 bytes or 255 letters of up to four bytes.
pub const NAME_BYTES_MAX: usize = 1024;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File {
        /// Size in bytes.
        size: u64,
        /// What its blocks take; less than the size where there are holes.
        allocated_bytes: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Its text, never followed.
        #[serde(with = "crate::byte_string")]
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharacterDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

impl Kind {
    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Directory)
    }

    /// Whether this is a regular file.
    pub fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    /// Returns what people call it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Directory => "directory",
            Self::Symlink { .. } => "symbolic link",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharacterDevice { .. } => "character device",
            Self::BlockDevice { .. } => "block device",
        }
    }
}

/// One object of a tree: everything that a move keeps, and what identifies it on its own host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name in its directory; empty for the root.
    #[serde(with = "crate::byte_string")]
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission, set-id and sticky bits (`0o7777`).
    pub mode: u32,
    /// The owner on its own host.
    pub uid: u32,
    /// The group on its own host.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of content or attributes.
    pub ctime: Time,
    /// The device that holds it.
    pub dev: u64,
    /// The inode's number.
    pub ino: u64,
    /// How many names the inode has.
    pub nlink: u32,
    /// Extended attributes, ACLs and capabilities, sorted by name, each name once.
    #[serde(deserialize_with = "crate::bounded::list::<_, _, XATTRS_MAX>")]
    pub xattrs: Vec<(ByteString, ByteString)>,
}

impl Entry {
    /// Returns the size of a regular file, zero for anything else.
    pub fn size(&self) -> u64 {
        match self.kind {
            Kind::File { size, .. } => size,
            Kind::Directory
            | Kind::Symlink { .. }
            | Kind::Fifo
            | Kind::Socket
            | Kind::CharacterDevice { .. }
            | Kind::BlockDevice { .. } => 0,
        }
    }

    /// Returns what tells whether the file is still this one.
    pub fn stamp(&self) -> Stamp {
        Stamp { ino: self.ino, size: self.size(), mtime: self.mtime, ctime: self.ctime }
    }

    /// Whether the inode has other names, so that it belongs to a group of hard links.
    pub fn is_hard_link(&self) -> bool {
        self.nlink > 1 && !self.kind.is_directory()
    }

    /// Returns about how many bytes the entry takes when encoded; never less.
    pub fn encoded_bytes(&self) -> usize {
        // Numbers are at most ten bytes each as postcard writes them.
        const FIXED_BYTES: usize = 128;
        let target = match &self.kind {
            Kind::Symlink { target } => target.len(),
            Kind::File { .. }
            | Kind::Directory
            | Kind::Fifo
            | Kind::Socket
            | Kind::CharacterDevice { .. }
            | Kind::BlockDevice { .. } => 0,
        };
        FIXED_BYTES + self.name.len() + target + self.xattr_bytes()
    }

    /// Whether a peer may have sent this: a single component as name, links and attributes within bounds and order.
    pub fn is_well_formed(&self) -> bool {
        is_component(&self.name)
            && self.name.len() <= NAME_BYTES_MAX
            && self.is_well_formed_but_for_its_name()
    }

    /// The same for a root, whose name is empty.
    pub fn is_well_formed_but_for_its_name(&self) -> bool {
        let is_link_well = match &self.kind {
            Kind::Symlink { target } => {
                !target.is_empty() && target.len() <= LINK_BYTES_MAX && !target.contains(&0)
            }
            Kind::File { .. }
            | Kind::Directory
            | Kind::Fifo
            | Kind::Socket
            | Kind::CharacterDevice { .. }
            | Kind::BlockDevice { .. } => true,
        };
        let is_attribute = |name: &[u8], value: &[u8]| {
            !name.is_empty()
                && name.len() <= XATTR_NAME_BYTES_MAX
                && !name.contains(&0)
                && value.len() <= XATTR_VALUE_BYTES_MAX
        };
        let attribute_bytes = self.xattrs.iter().map(|(name, value)| name.0.len() + value.0.len());
        is_link_well
            && self.mode <= 0o7777
            && self.uid != NOBODY
            && self.gid != NOBODY
            && self.stamp().is_possible()
            && self.xattrs.iter().all(|(name, value)| is_attribute(&name.0, &value.0))
            && attribute_bytes.sum::<usize>() <= XATTR_BYTES_MAX
            && self.xattrs.windows(2).all(|pair| pair[0].0 < pair[1].0)
    }

    fn xattr_bytes(&self) -> usize {
        // Sixteen for the two lengths.
        self.xattrs.iter().map(|(name, value)| name.0.len() + value.0.len() + 16).sum()
    }
}
