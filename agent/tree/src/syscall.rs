//! System calls that rustix does not have: the extended attribute calls of Linux 6.13 that take a
//! directory descriptor and a name, and the one that tells a project id.
//!
//! This is the only module that may use `unsafe`.
//! The kernel reads and writes nothing but the buffers whose pointers and lengths are given here, during
//! the call.
#![expect(unsafe_code, reason = "rustix has no setxattrat and its like, and no FS_IOC_FSGETXATTR")]

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::{Getter, ioctl, opcode};

const SETXATTRAT: c_long = 463;
const GETXATTRAT: c_long = 464;
const LISTXATTRAT: c_long = 465;
const REMOVEXATTRAT: c_long = 466;

const AT_SYMLINK_NOFOLLOW: c_uint = 0x100;

unsafe extern "C" {
    /// `syscall(2)` of the C library that std links already.
    fn syscall(number: c_long, ...) -> c_long;
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
