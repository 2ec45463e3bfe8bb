//! What the kernel says about one inode.

use std::ffi::CStr;
use std::fmt;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket's name.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// Something this crate does not know, or a listing that does not tell.
    Unknown,
}

impl Kind {
    pub(crate) fn from_file_type(file_type: FileType) -> Self {
        match file_type {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharacterDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => Self::Unknown,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::File => "a file",
            Self::Directory => "a directory",
            Self::Symlink => "a symbolic link",
            Self::Fifo => "a fifo",
            Self::Socket => "a socket",
            Self::CharacterDevice => "a character device",
            Self::BlockDevice => "a block device",
            Self::Unknown => "of unknown kind",
        })
    }
}

/// The two kinds of device nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// Returns the device number of a pair, as [`Stat::rdev`] holds it.
#[must_use]
pub fn device_number(major: u32, minor: u32) -> u64 {
    rustix::fs::makedev(major, minor)
}

/// Splits a device number into its pair.
#[must_use]
pub fn device_pair(rdev: u64) -> (u32, u32) {
    (rustix::fs::major(rdev), rustix::fs::minor(rdev))
}

/// A time of the file system: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanos: u32,
}

impl From<StatxTimestamp> for Time {
    fn from(stamp: StatxTimestamp) -> Self {
        Self { seconds: stamp.tv_sec, nanos: stamp.tv_nsec }
    }
}

/// One inode's attributes, of the inode itself and never of what a link points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-id bits and sticky bit (`0o7777`).
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The size in bytes.
    pub size: u64,
    /// What is allocated, in units of 512 bytes.
    pub blocks: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of content or attributes; cannot be set.
    pub ctime: Time,
    /// Last read.
    pub atime: Time,
    /// Creation, where the file system knows it.
    pub btime: Option<Time>,
    /// The device that holds the inode.
    pub dev: u64,
    /// The inode's number.
    pub ino: u64,
    /// How many names it has.
    pub nlink: u32,
    /// The device that a device node stands for.
    pub rdev: u64,
    /// The mount it was reached through (Linux 5.8).
    pub mount_id: Option<u64>,
    /// Whether a file system is mounted exactly here (Linux 5.8).
    pub is_mount_root: Option<bool>,
    /// Whether it carries the immutable flag.
    pub is_immutable: bool,
    /// Whether it carries the append-only flag.
    pub is_append_only: bool,
}

impl Stat {
    /// Says whether this is the inode `ino` of the device `dev`.
    #[must_use]
    pub fn is_inode(&self, dev: u64, ino: u64) -> bool {
        self.dev == dev && self.ino == ino
    }

    /// Says whether fewer blocks are allocated than the size needs, so that holes are likely.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.blocks.saturating_mul(512) < self.size
    }

    fn new(raw: &Statx) -> Self {
        let attributes = raw.stx_attributes;
        let has = |flag: StatxFlags| raw.stx_mask & flag.bits() != 0;
        Self {
            kind: Kind::from_file_type(FileType::from_raw_mode(raw.stx_mode.into())),
            mode: u32::from(raw.stx_mode) & 0o7777,
            uid: raw.stx_uid,
            gid: raw.stx_gid,
            size: raw.stx_size,
            blocks: raw.stx_blocks,
            mtime: raw.stx_mtime.into(),
            ctime: raw.stx_ctime.into(),
            atime: raw.stx_atime.into(),
            btime: has(StatxFlags::BTIME).then(|| raw.stx_btime.into()),
            dev: rustix::fs::makedev(raw.stx_dev_major, raw.stx_dev_minor),
            ino: raw.stx_ino,
            nlink: raw.stx_nlink,
            rdev: rustix::fs::makedev(raw.stx_rdev_major, raw.stx_rdev_minor),
            mount_id: has(StatxFlags::MNT_ID).then_some(raw.stx_mnt_id),
            is_mount_root: raw
                .stx_attributes_mask
                .contains(StatxAttributes::MOUNT_ROOT)
                .then(|| attributes.contains(StatxAttributes::MOUNT_ROOT)),
            is_immutable: attributes.contains(StatxAttributes::IMMUTABLE),
            is_append_only: attributes.contains(StatxAttributes::APPEND),
        }
    }
}

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME).union(StatxFlags::MNT_ID);

/// Asks about a name in a directory, not following it.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<Stat, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(dir, name, flags, WANTED).map(|raw| Stat::new(&raw))
}

/// Asks about a held descriptor of any kind.
pub(crate) fn stat_fd(fd: BorrowedFd<'_>) -> Result<Stat, Errno> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, WANTED).map(|raw| Stat::new(&raw))
}
