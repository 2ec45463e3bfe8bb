//! What this kernel can do, asked once and never assumed.

use std::ffi::CStr;
use std::io::Write as _;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags};
use rustix::io::Errno;

use crate::syscall;

/// System calls that older kernels (RHEL 8 has 4.18) or containers lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// `openat2` with its resolve flags (Linux 5.6).
    pub openat2: bool,
    /// `getxattrat` and its siblings (Linux 6.13).
    pub xattr_at: bool,
}

impl Kernel {
    /// Returns what the running kernel can do; asks it once per process.
    #[must_use]
    pub fn detect() -> Self {
        static DETECTED: OnceLock<Kernel> = OnceLock::new();
        *DETECTED.get_or_init(|| Self { openat2: has_openat2(), xattr_at: has_xattr_at() })
    }

    /// Returns a kernel without any of it, which forces every fallback.
    #[must_use]
    pub const fn oldest() -> Self {
        Self { openat2: false, xattr_at: false }
    }
}

fn has_openat2() -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // Anything but success (ENOSYS, EPERM of a container's filter) means: go step by step.
    rustix::fs::openat2(CWD, c".", flags, Mode::empty(), resolve).is_ok()
}

fn has_xattr_at() -> bool {
    // A container's filter may answer EPERM; only a real answer about the attribute counts.
    match syscall::listxattrat(CWD, c"/", &mut []) {
        Ok(_size) => true,
        Err(errno) => errno == Errno::RANGE || errno == Errno::OPNOTSUPP,
    }
}

/// Says whether `syncfs` reports write errors (Linux 5.8 and later).
pub(crate) fn syncfs_reports_errors() -> bool {
    let uname = rustix::system::uname();
    release_at_least(uname.release().to_bytes(), (5, 8))
}

fn release_at_least(release: &[u8], wanted: (u32, u32)) -> bool {
    let mut numbers = release
        .split(|byte| !byte.is_ascii_digit())
        .map(|digits| std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok()));
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) >= wanted,
        _ => false,
    }
}

/// The one path form allowed: `/proc/self/fd/N` of a descriptor that is held.
pub(crate) struct ProcPath([u8; 32]);

impl ProcPath {
    /// Returns the path of a held descriptor, or `ENOSYS` where `/proc` is not procfs.
    pub(crate) fn new(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        static IS_PROCFS: OnceLock<bool> = OnceLock::new();
        if !*IS_PROCFS.get_or_init(is_procfs) {
            return Err(Errno::NOSYS);
        }
        let mut path = [0_u8; 32];
        write!(&mut path[..31], "/proc/self/fd/{}", fd.as_raw_fd())
            .expect("a prefix of 14 bytes and a number of at most 11 fit into 31");
        Ok(Self(path))
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).expect("the last byte is never written and stays NUL")
    }
}

/// Guards against a `/proc` that is a plain directory, as in a bare chroot.
fn is_procfs() -> bool {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, c"/proc/self/fd", flags, Mode::empty())
        .and_then(rustix::fs::fstatfs)
        .is_ok_and(|statfs| statfs.f_type == PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::{Kernel, release_at_least};

    #[test]
    fn reads_releases() {
        for (release, expected) in [
            ("4.18.0-553.el8_10.x86_64", false),
            ("5.7.19", false),
            ("5.8.0", true),
            ("5.14.0-427.el9", true),
            ("6.18.44-fc", true),
            ("6.1-rc1", true),
            ("nonsense", false),
        ] {
            assert_eq!(release_at_least(release.as_bytes(), (5, 8)), expected, "{release}");
        }
    }

    #[test]
    fn detection_is_stable() {
        assert_eq!(Kernel::detect(), Kernel::detect());
    }
}
