//! System calls that rustix does not have: the extended attribute calls of Linux 6.13 that take a
//! directory descriptor and a name, the one that tells a project id, those that tell quotas, and those of the IO
//! priority of a thread.
//!
//! This is the only module that may use `unsafe`.
//! The kernel reads and writes nothing but the buffers whose pointers and lengths are given here, during
//! the call.
#![expect(
    unsafe_code,
    reason = "rustix has no setxattrat and its like, no FS_IOC_FSGETXATTR, no quotactl and no ioprio_set"
)]

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::{Getter, Updater, ioctl, opcode};

const SETXATTRAT: c_long = 463;
const GETXATTRAT: c_long = 464;
const LISTXATTRAT: c_long = 465;
const REMOVEXATTRAT: c_long = 466;

const AT_SYMLINK_NOFOLLOW: c_uint = 0x100;

unsafe extern "C" {
    /// `syscall(2)` of the C library that std links already.
    fn syscall(number: c_long, ...) -> c_long;
    /// `quotactl(2)` of the same.
    fn quotactl(command: c_int, special: *const c_char, id: c_uint, address: *mut c_void) -> c_int;
}

/// `struct xattr_args` of the kernel: sixteen bytes, the pointer as a number, aligned to eight.
#[repr(C, align(8))]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

impl XattrArgs {
    fn new(value: *const u8, size: usize) -> Result<Self, Errno> {
        let size = u32::try_from(size).map_err(|_too_long| Errno::TOOBIG)?;
        Ok(Self { value: value as u64, size, flags: 0 })
    }
}

fn outcome(returned: c_long) -> Result<usize, Errno> {
    usize::try_from(returned).map_err(|_negative| {
        let error = std::io::Error::last_os_error();
        Errno::from_io_error(&error).unwrap_or(Errno::IO)
    })
}

/// Reads the names of the extended attributes of `name` in `dir`, each ended by a NUL.
pub(crate) fn listxattrat(dir: BorrowedFd<'_>, name: &CStr, list: &mut [u8]) -> Result<usize, Errno> {
    let (pointer, length) = (list.as_mut_ptr().cast::<c_char>(), list.len());
    // SAFETY: both pointers are valid for the call; the kernel writes at most `length` bytes.
    let returned =
        unsafe { syscall(LISTXATTRAT, dir.as_raw_fd(), name.as_ptr(), AT_SYMLINK_NOFOLLOW, pointer, length) };
    outcome(returned)
}

/// Reads one extended attribute of `name` in `dir`.
pub(crate) fn getxattrat(
    dir: BorrowedFd<'_>,
    name: &CStr,
    attribute: &CStr,
    value: &mut [u8],
) -> Result<usize, Errno> {
    let args = XattrArgs::new(value.as_mut_ptr(), value.len())?;
    xattrat(GETXATTRAT, dir, name, attribute, &args)
}

/// Sets one extended attribute of `name` in `dir`.
pub(crate) fn setxattrat(
    dir: BorrowedFd<'_>,
    name: &CStr,
    attribute: &CStr,
    value: &[u8],
) -> Result<(), Errno> {
    let args = XattrArgs::new(value.as_ptr(), value.len())?;
    xattrat(SETXATTRAT, dir, name, attribute, &args).map(|_zero| ())
}

fn xattrat(
    number: c_long,
    dir: BorrowedFd<'_>,
    name: &CStr,
    attribute: &CStr,
    args: &XattrArgs,
) -> Result<usize, Errno> {
    let fd: c_int = dir.as_raw_fd();
    let pointer = std::ptr::from_ref(args).cast::<c_void>();
    // SAFETY: all pointers are valid for the call. For GETXATTRAT `args.value` comes from a mutable slice
    // of `args.size` bytes that the caller keeps borrowed; for SETXATTRAT the kernel only reads it.
    let returned = unsafe {
        syscall(
            number,
            fd,
            name.as_ptr(),
            AT_SYMLINK_NOFOLLOW,
            attribute.as_ptr(),
            pointer,
            size_of::<XattrArgs>(),
        )
    };
    outcome(returned)
}

/// Removes one extended attribute of `name` in `dir`.
pub(crate) fn removexattrat(dir: BorrowedFd<'_>, name: &CStr, attribute: &CStr) -> Result<(), Errno> {
    let fd: c_int = dir.as_raw_fd();
    // SAFETY: both pointers are NUL-ended strings that live through the call.
    let returned =
        unsafe { syscall(REMOVEXATTRAT, fd, name.as_ptr(), AT_SYMLINK_NOFOLLOW, attribute.as_ptr()) };
    outcome(returned).map(|_zero| ())
}

/// `struct fsxattr` of the kernel.
#[repr(C)]
struct RawFsAttributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

const FS_IOC_FSGETXATTR: rustix::ioctl::Opcode = opcode::read::<RawFsAttributes>(b'X', 31);
const FS_XFLAG_PROJINHERIT: u32 = 0x200;

/// What a file system with projects says of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FsAttributes {
    pub(crate) project: u32,
    /// Whether what is made in this directory gets its project.
    pub(crate) inherits_project: bool,
}

/// Asks for the project of an open file or directory.
pub(crate) fn fs_attributes(fd: BorrowedFd<'_>) -> Result<FsAttributes, Errno> {
    // SAFETY: the kernel writes one `struct fsxattr`, of which any bytes are a value, into memory of that size.
    let raw = unsafe { ioctl(fd, Getter::<FS_IOC_FSGETXATTR, RawFsAttributes>::new()) }?;
    Ok(FsAttributes { project: raw.project, inherits_project: raw.flags & FS_XFLAG_PROJINHERIT != 0 })
}

/// `struct if_dqblk` of the kernel: one quota. Limits are in KiB, what is used in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct RawQuota {
    pub(crate) kib_hard: u64,
    pub(crate) kib_soft: u64,
    pub(crate) bytes_used: u64,
    pub(crate) inodes_hard: u64,
    pub(crate) inodes_soft: u64,
    pub(crate) inodes_used: u64,
    pub(crate) bytes_time: u64,
    pub(crate) inodes_time: u64,
    pub(crate) valid: u32,
}

/// `struct fs_quota_statv` of the kernel, of which the beginning is read; longer than any version of it.
#[derive(Debug)]
#[repr(C, align(8))]
struct RawQuotaState {
    version: u8,
    padding: u8,
    flags: u16,
    rest: [u8; 508],
}

const Q_GETQUOTA: c_uint = 0x0080_0007;
const Q_XGETQSTATV: c_uint = 0x5808;
/// The only version of `struct fs_quota_statv`.
const STATE_VERSION: u8 = 1;

/// Asks which quotas of a block device's file system are kept and enforced: the flags `FS_QUOTA_*`.
pub(crate) fn quota_flags(device: &CStr) -> Result<u16, Errno> {
    let mut state = RawQuotaState { version: STATE_VERSION, padding: 0, flags: 0, rest: [0; 508] };
    ask_quota(Q_XGETQSTATV, 0, device, 0, &mut state)?;
    Ok(state.flags)
}

/// Asks for the quota of a user (0), a group (1) or a project (2).
pub(crate) fn quota(device: &CStr, kind: c_uint, id: u32) -> Result<RawQuota, Errno> {
    let mut quota = RawQuota::default();
    ask_quota(Q_GETQUOTA, kind, device, id, &mut quota)?;
    Ok(quota)
}

fn ask_quota<T>(command: c_uint, kind: c_uint, device: &CStr, id: u32, into: &mut T) -> Result<(), Errno> {
    // The lowest byte is the kind; the shift loses nothing of either command.
    let command = (command << 8 | kind).cast_signed();
    let pointer = std::ptr::from_mut(into).cast::<c_void>();
    // SAFETY: the path is NUL-ended and lives through the call; the kernel writes the one structure that belongs to the
    // command, which `into` has room for and of which any bytes are a value.
    let returned = unsafe { quotactl(command, device.as_ptr(), id, pointer) };
    outcome(returned.into()).map(|_zero| ())
}

/// `struct btrfs_ioctl_ino_lookup_args` of the kernel.
#[repr(C)]
struct RawInoLookup {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

const BTRFS_IOC_INO_LOOKUP: rustix::ioctl::Opcode = opcode::read_write::<RawInoLookup>(0x94, 18);
/// The number of the directory at the top of each subvolume.
const FIRST_OBJECT: u64 = 256;

/// Asks for the number of the btrfs subvolume that an open directory is in.
pub(crate) fn btrfs_subvolume(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut found = RawInoLookup { tree: 0, object: FIRST_OBJECT, name: [0; 4080] };
    // SAFETY: the kernel reads and writes one structure of this size, of which any bytes are a value.
    unsafe { ioctl(fd, Updater::<BTRFS_IOC_INO_LOOKUP, RawInoLookup>::new(&mut found)) }?;
    Ok(found.tree)
}

/// `struct btrfs_ioctl_search_args` of the kernel.
#[repr(C)]
struct RawSearch {
    tree: u64,
    objects: [u64; 2],
    offsets: [u64; 2],
    transactions: [u64; 2],
    kinds: [u32; 2],
    count: u32,
    padding: [u32; 9],
    found: [u8; 3992],
}

const BTRFS_IOC_TREE_SEARCH: rustix::ioctl::Opcode = opcode::read_write::<RawSearch>(0x94, 17);
/// The tree that holds a file system's quota groups.
const QUOTA_TREE: u64 = 8;

/// Searches the quota tree of a btrfs for the items of one object and kind, with these offsets. What is found stands one
/// behind the other, as many as are returned: `transaction u64 | object u64 | offset u64 | kind u32 | length u32 | item`.
pub(crate) fn btrfs_quota_items(
    fd: BorrowedFd<'_>,
    object: u64,
    kind: u32,
    offsets: [u64; 2],
) -> Result<(u32, Vec<u8>), Errno> {
    let mut search = RawSearch {
        tree: QUOTA_TREE,
        objects: [object; 2],
        offsets,
        transactions: [0, u64::MAX],
        kinds: [kind; 2],
        count: u32::MAX,
        padding: [0; 9],
        found: [0; 3992],
    };
    // SAFETY: the kernel reads and writes one structure of this size, of which any bytes are a value.
    unsafe { ioctl(fd, Updater::<BTRFS_IOC_TREE_SEARCH, RawSearch>::new(&mut search)) }?;
    Ok((search.count, search.found.to_vec()))
}

/// `ioprio_set(2)` and `ioprio_get(2)`; none where their numbers are not known here.
const IOPRIO: Option<(c_long, c_long)> = if cfg!(target_arch = "x86_64") {
    Some((251, 252))
} else if cfg!(any(target_arch = "aarch64", target_arch = "riscv64")) {
    Some((30, 31))
} else {
    None
};
/// The calling thread, as `which` and `who` say it.
const IOPRIO_WHO_PROCESS: c_int = 1;
const THIS_THREAD: c_int = 0;

/// Returns the IO priority of the calling thread: a class in the upper three bits of sixteen, a level below.
pub(crate) fn ioprio_get() -> Result<u16, Errno> {
    let (_, get) = IOPRIO.ok_or(Errno::NOSYS)?;
    // SAFETY: the kernel is given two numbers and no pointer.
    let returned = unsafe { syscall(get, IOPRIO_WHO_PROCESS, THIS_THREAD) };
    outcome(returned).map(|priority| u16::try_from(priority).unwrap_or(0))
}

/// Sets it.
pub(crate) fn ioprio_set(priority: u16) -> Result<(), Errno> {
    let (set, _) = IOPRIO.ok_or(Errno::NOSYS)?;
    // SAFETY: the kernel is given three numbers and no pointer.
    let returned = unsafe { syscall(set, IOPRIO_WHO_PROCESS, THIS_THREAD, c_int::from(priority)) };
    outcome(returned).map(|_zero| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<RawQuota>(), 72);
        assert_eq!(size_of::<RawInoLookup>(), 4096);
        assert_eq!(size_of::<RawSearch>(), 4096);
        assert!(size_of::<RawQuotaState>() >= 160);
    }
}
