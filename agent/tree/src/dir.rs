//! A held directory: the only thing from which names are reached.
//!
//! A `Dir` is an inode, not a path: renaming or replacing directories around it does not change what it
//! works on. It is cheap to clone and may be used from many threads; listings have their own position.
//! A directory that may be searched but not read is held too ([`Dir::is_readable`] tells), and then
//! cannot be listed or synced.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::applied::Applied;
use crate::error::{Context, Result};
use crate::kernel::{Kernel, ProcPath};
use crate::listing::Listing;
use crate::metadata::{Freshness, Handle, Metadata};
use crate::name::Name;
use crate::pinned::Pinned;
use crate::stat::{Stat, stat_at, stat_fd};
use crate::xattr::{Attributes, Xattrs};

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A held directory.
#[derive(Clone, Debug)]
pub struct Dir(Arc<Held>);

#[derive(Debug)]
struct Held {
    fd: OwnedFd,
    is_readable: bool,
    kernel: Kernel,
    /// Whether files made here inherit an ACL; asked once, see [`Dir::has_default_acl`].
    default_acl: OnceLock<bool>,
}

impl Dir {
    pub(crate) fn hold(fd: OwnedFd, is_readable: bool, kernel: Kernel) -> Self {
        Self(Arc::new(Held { fd, is_readable, kernel, default_acl: OnceLock::new() }))
    }

    /// Opens a directory by name; a link or anything else in its place is an error.
    pub fn open_dir(&self, name: &Name) -> Result<Self> {
        open_directory(self.fd(), name.as_c_str())
            .map(|(fd, is_readable)| Self::hold(fd, is_readable, self.kernel()))
            .on("open directory", name)
    }

    /// Lists the directory from its start, without `.` and `..`, in the file system's order.
    pub fn list(&self) -> Result<Listing> {
        let (fd, _is_readable) = reopen_readable(self.fd()).on_self("open directory")?;
        Ok(Listing::new(fd))
    }

    /// Returns the attributes of a name, not following it.
    pub fn stat(&self, name: &Name) -> Result<Stat> {
        stat_at(self.fd(), name.as_c_str()).on("stat", name)
    }

    /// Returns the attributes of a name, or nothing if it does not exist.
    pub fn stat_if_exists(&self, name: &Name) -> Result<Option<Stat>> {
        match stat_at(self.fd(), name.as_c_str()) {
            Err(Errno::NOENT) => Ok(None),
            other => other.map(Some).on("stat", name),
        }
    }

    /// Returns the attributes of this directory.
    pub fn stat_self(&self) -> Result<Stat> {
        stat_fd(self.fd()).on_self("stat")
    }

    /// Returns the text of a symbolic link.
    pub fn read_link(&self, name: &Name) -> Result<Vec<u8>> {
        rustix::fs::readlinkat(self.fd(), name.as_c_str(), Vec::new())
            .map(std::ffi::CString::into_bytes)
            .on("read link", name)
    }

    /// Returns the extended attributes of a name of any kind, not following it.
    ///
    /// One system call when there are none (Linux 6.13), three before.
    pub fn xattrs(&self, name: &Name) -> Result<Xattrs> {
        if self.kernel().xattr_at {
            return Attributes::At(self.fd(), name.as_c_str()).read().on("read attributes", name);
        }
        self.pin(name)?.xattrs()
    }

    /// Returns the extended attributes of this directory.
    pub fn xattrs_self(&self) -> Result<Xattrs> {
        self.handle().attributes().read().on_self("read attributes")
    }

    /// Holds whatever stands at a name, without opening it: links, fifos and devices too.
    pub fn pin(&self, name: &Name) -> Result<Pinned> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.fd(), name.as_c_str(), flags, Mode::empty()).on("pin", name)?;
        Ok(Pinned::new(fd, name.clone()))
    }

    /// Sets the metadata of a name of any kind, not following it; calls that change nothing are skipped.
    ///
    /// `expected` names the inode (device, number) that must stand there. In a directory that belongs to a
    /// user it is needed: he may have put a hard link to a file of somebody else at the name.
    pub fn apply(&self, name: &Name, wanted: &Metadata, expected: Option<(u64, u64)>) -> Result<Applied> {
        let pinned = self.pin(name)?;
        pinned.apply(wanted, expected)
    }

    /// Sets the metadata of this directory; calls that change nothing are skipped.
    pub fn apply_self(&self, wanted: &Metadata) -> Result<Applied> {
        let present = self.stat_self()?;
        Ok(self.handle().apply(present, wanted, Freshness::Existing, b"."))
    }

    /// Removes the default ACL, so that what is made here inherits none; does nothing without one.
    pub fn remove_default_acl(&self) -> Result<()> {
        match self.handle().attributes().remove(c"system.posix_acl_default") {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno).on_self("remove default ACL"),
        }
    }

    /// Writes everything dirty of this file system to the device.
    ///
    /// Write errors are reported once per held descriptor and only for what happened since it was opened
    /// (and only if [`crate::Features::syncfs_reports_errors`]): call it on a `Dir` that was opened before
    /// the first write, and keep that one.
    pub fn sync_fs(&self) -> Result<()> {
        retry_on_intr(|| rustix::fs::syncfs(self.fd())).on_self("sync file system")
    }

    /// Makes the names in this directory durable.
    pub fn sync_dir(&self) -> Result<()> {
        retry_on_intr(|| rustix::fs::fsync(self.fd())).on_self("sync directory")
    }

    /// Says whether the directory may be listed and synced through this handle.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.0.is_readable
    }

    /// Whether what is made here inherits an ACL, so that a new file's attributes must be looked at.
    ///
    /// Asked once: a default ACL that is set later on a directory being worked in is not noticed here,
    /// but by the reading-back of the verification.
    pub(crate) fn has_default_acl(&self) -> bool {
        let ask = || {
            let answer = self.handle().attributes().get(c"system.posix_acl_default", &mut []);
            !matches!(answer, Err(Errno::NODATA | Errno::OPNOTSUPP))
        };
        *self.0.default_acl.get_or_init(ask)
    }

    pub(crate) fn handle(&self) -> Handle<'_> {
        if self.0.is_readable { Handle::Open(self.fd()) } else { Handle::Path(self.fd()) }
    }

    pub(crate) fn kernel(&self) -> Kernel {
        self.0.kernel
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

/// Opens one component as a directory, for reading if that is allowed, leaving its access time alone if
/// that is allowed.
pub(crate) fn open_directory(at: BorrowedFd<'_>, name: &CStr) -> std::result::Result<(OwnedFd, bool), Errno> {
    let open = |flags: OFlags| rustix::fs::openat(at, name, DIRECTORY | flags, Mode::empty());
    open_with_fallback(open)
}

/// Tries the ways to open a directory, best first; says whether the result can be read.
pub(crate) fn open_with_fallback(
    open: impl Fn(OFlags) -> std::result::Result<OwnedFd, Errno>,
) -> std::result::Result<(OwnedFd, bool), Errno> {
    let mut opened = open(OFlags::RDONLY | OFlags::NOATIME);
    // Only the owner may leave the access time alone.
    if matches!(opened, Err(Errno::PERM)) {
        opened = open(OFlags::RDONLY);
    }
    match opened {
        Err(Errno::ACCESS) => open(OFlags::PATH).map(|fd| (fd, false)),
        other => other.map(|fd| (fd, true)),
    }
}

/// Opens a held directory once more, with a position of its own; the error if it cannot be read.
fn reopen_readable(fd: BorrowedFd<'_>) -> std::result::Result<(OwnedFd, bool), Errno> {
    match open_directory(fd, c".")? {
        (_fd, false) => Err(Errno::ACCESS),
        readable => Ok(readable),
    }
}

/// Opens a held file of any openable kind once more with other flags.
pub(crate) fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
    let path = ProcPath::new(fd)?;
    rustix::fs::openat(rustix::fs::CWD, path.as_c_str(), flags | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use crate::scratch::{as_nobody, name, on_each_kernel};
    use crate::stat::Kind;

    #[test]
    fn lists_what_is_there() {
        on_each_kernel(|scratch| {
            for index in 0..5000 {
                std::fs::write(scratch.path.join(format!("a-rather-long-name-{index}")), b"").unwrap();
            }
            std::fs::create_dir(scratch.path.join("sub")).unwrap();
            let mut first = scratch.dir.list().unwrap();
            let head = first.next().unwrap().unwrap();
            // A second listing has its own position.
            assert_eq!(scratch.dir.clone().list().unwrap().count(), 5001);
            let mut all: Vec<_> = first.map(Result::unwrap).collect();
            all.push(head);
            all.sort_by(|one, two| one.name.cmp(&two.name));
            all.dedup_by(|one, two| one.name == two.name);
            assert_eq!(all.len(), 5001);
            for entry in all.iter().step_by(500) {
                let stat = scratch.dir.stat(&entry.name).unwrap();
                assert_eq!(stat.ino, entry.ino);
                assert!(entry.kind_hint == stat.kind || entry.kind_hint == Kind::Unknown);
            }
        });
    }

    #[test]
    fn tells_what_an_inode_is() {
        on_each_kernel(|scratch| {
            std::fs::write(scratch.path.join("f"), vec![1; 10_000]).unwrap();
            let stat = scratch.dir.stat(&name("f")).unwrap();
            let expected = std::fs::metadata(scratch.path.join("f")).unwrap();
            use std::os::unix::fs::MetadataExt;
            assert_eq!((stat.dev, stat.ino, stat.size), (expected.dev(), expected.ino(), 10_000));
            assert_eq!(
                (stat.mtime.seconds, i64::from(stat.mtime.nanos)),
                (expected.mtime(), expected.mtime_nsec())
            );
            assert_eq!(stat.mode, expected.mode() & 0o7777);
            assert_eq!(scratch.dir.stat_if_exists(&name("missing")).unwrap(), None);
            assert!(scratch.dir.stat(&name("missing")).unwrap_err().is_not_found());
            assert_eq!(scratch.dir.stat_self().unwrap().kind, Kind::Directory);
            scratch.dir.sync_dir().unwrap();
            scratch.dir.sync_fs().unwrap();
        });
    }

    /// Who may search but not read still gets to what it knows by name.
    #[test]
    fn without_rights_what_can_be_done_is_done() {
        on_each_kernel(|scratch| {
            let closed = scratch.path.join("closed");
            std::fs::create_dir_all(closed.join("open")).unwrap();
            std::fs::write(closed.join("f"), b"content").unwrap();
            std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o711)).unwrap();
            as_nobody(|| {
                let dir = scratch.dir.open_dir(&name("closed")).unwrap();
                assert!(!dir.is_readable());
                assert!(dir.list().unwrap_err().is_permission());
                assert!(dir.sync_dir().is_err());
                // Somebody else's file is opened without O_NOATIME.
                assert_eq!(dir.read_small(&name("f"), 100).unwrap(), b"content");
                assert!(dir.open_dir(&name("open")).unwrap().is_readable());
                assert!(!scratch.dir.open_beneath(b"closed").unwrap().is_readable());
                assert!(scratch.dir.open_beneath(b"closed/open").unwrap().is_readable());
                assert!(dir.xattrs_self().unwrap().is_empty());
                assert!(dir.create_file(&name("new"), 0o600).unwrap_err().is_permission());
            });
        });
    }
}
