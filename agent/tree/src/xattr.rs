//! Extended attributes: ACLs, file capabilities, and what users and systems attach.
//!
//! All namespaces that the kernel lists are kept as raw bytes, among them `system.posix_acl_access`,
//! `system.posix_acl_default`, `security.capability`, `trusted.*` and `user.*`.
//! Left out, in reading as in removing and in what a peer sends:
//! - `security.selinux` and `security.evm`: a label belongs to the policy of its host and a seal to the key
//!   of its host; a copied one is wrong at best. The destination's policy labels new files (`restorecon`
//!   where it labels by path).
//! - `trusted.SGI_*`: XFS shows its ACLs a second time under these names, in its own form. Writing one
//!   would go round the mapping of the ids in an ACL, removing one would remove the ACL.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::BorrowedFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::error::Cause;
use crate::escape::escape;
use crate::kernel::ProcPath;
use crate::syscall;

/// File capabilities, which a change of owner drops.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// Not attributes of a file; see the module's text.
const LEFT_OUT: [&[u8]; 2] = [b"security.selinux", b"security.evm"];
const LEFT_OUT_PREFIX: &[u8] = b"trusted.SGI_";

/// The kernel's own limits on a name, a value, and a list of names.
const XATTR_NAME_BYTES_MAX: usize = 255;
const XATTR_VALUE_BYTES_MAX: usize = 64 * 1024;
const XATTR_LIST_BYTES_MAX: usize = 64 * 1024;

/// What one inode's attributes may take in memory. The kernel would allow 64 KiB for each of thousands.
const XATTR_TOTAL_BYTES_MAX: usize = 1024 * 1024;

/// Enough for the names of a usual file; a longer list takes a second call.
const LIST_BYTES_FIRST: usize = 512;
/// Enough for most values.
const VALUE_BYTES_FIRST: usize = 512;

/// How much of a value is shown to a developer.
const DEBUG_BYTES_MAX: usize = 64;

/// The extended attributes of one inode, sorted by name, each name once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Xattrs(Vec<(Vec<u8>, Vec<u8>)>);

/// Why some names and values are no [`Xattrs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XattrError {
    /// A name is empty, too long, or contains a NUL.
    #[error("the name of an attribute is not valid")]
    Name,
    /// A name occurs twice.
    #[error("an attribute occurs twice")]
    Twice,
    /// A value or their sum is too large.
    #[error("the attributes are too large")]
    TooLarge,
}

impl Xattrs {
    /// Returns these attributes in order, if each could be set; what a peer sends comes through here.
    pub fn new(mut entries: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Self, XattrError> {
        let mut total = 0_usize;
        for (name, value) in &entries {
            if name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX || name.contains(&0) {
                return Err(XattrError::Name);
            }
            total = total.saturating_add(name.len()).saturating_add(value.len());
            if value.len() > XATTR_VALUE_BYTES_MAX || total > XATTR_TOTAL_BYTES_MAX {
                return Err(XattrError::TooLarge);
            }
        }
        entries.retain(|(name, _value)| !is_left_out(name));
        entries.sort_unstable();
        if entries.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(XattrError::Twice);
        }
        Ok(Self(entries))
    }

    /// Says whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the value of a name.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let index = self.0.binary_search_by(|(candidate, _value)| candidate.as_slice().cmp(name)).ok()?;
        Some(self.0[index].1.as_slice())
    }

    /// Returns names and values in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// Returns the sorted names and values.
    #[must_use]
    pub fn into_vec(self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.0
    }
}

impl fmt::Debug for Xattrs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &[u8]| match value.get(..DEBUG_BYTES_MAX) {
            Some(start) => format!("{}… ({} bytes)", escape(start), value.len()),
            None => escape(value),
        };
        formatter.debug_map().entries(self.iter().map(|(name, value)| (escape(name), shown(value)))).finish()
    }
}

fn is_left_out(name: &[u8]) -> bool {
    LEFT_OUT.contains(&name) || name.starts_with(LEFT_OUT_PREFIX)
}

/// How the attributes of an inode are reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attributes<'a> {
    /// A descriptor opened for reading or writing.
    Open(BorrowedFd<'a>),
    /// A descriptor held with `O_PATH`.
    Path(BorrowedFd<'a>),
    /// A name in a directory, not followed (Linux 6.13).
    At(BorrowedFd<'a>, &'a CStr),
}

impl Attributes<'_> {
    /// Reads all attributes; none where the file system has none.
    pub(crate) fn read(self) -> Result<Xattrs, Cause> {
        let mut first = [0_u8; LIST_BYTES_FIRST];
        match self.list(&mut first) {
            Ok(0) | Err(Errno::OPNOTSUPP) => Ok(Xattrs::default()),
            Ok(length) => self.read_values(&first[..length]),
            Err(Errno::RANGE) => {
                let mut whole = vec![0_u8; XATTR_LIST_BYTES_MAX];
                let length = self.list(&mut whole)?;
                self.read_values(&whole[..length])
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn read_values(self, names: &[u8]) -> Result<Xattrs, Cause> {
        let mut entries = Vec::new();
        let mut total = 0_usize;
        for name in names.split_inclusive(|byte| *byte == 0) {
            let name = CStr::from_bytes_with_nul(name).map_err(|_unended| Errno::IO)?;
            if is_left_out(name.to_bytes()) {
                continue;
            }
            let Some(value) = self.read_value(name)? else { continue };
            total = total.saturating_add(name.count_bytes()).saturating_add(value.len());
            if total > XATTR_TOTAL_BYTES_MAX {
                return Err(Cause::TooLarge { limit_bytes: XATTR_TOTAL_BYTES_MAX as u64 });
            }
            entries.push((name.to_bytes().to_vec(), value));
        }
        Ok(Xattrs::new(entries)?)
    }

    /// Reads one value; nothing if it vanished since the listing.
    fn read_value(self, name: &CStr) -> Result<Option<Vec<u8>>, Errno> {
        let mut first = [0_u8; VALUE_BYTES_FIRST];
        match self.get(name, &mut first) {
            Ok(length) => Ok(Some(first[..length].to_vec())),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
            Err(Errno::RANGE) => {
                let mut whole = vec![0_u8; XATTR_VALUE_BYTES_MAX];
                let length = self.get(name, &mut whole)?;
                Ok(Some(whole[..length].to_vec()))
            }
            Err(errno) => Err(errno),
        }
    }

    fn list(self, list: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, list),
            Self::Path(fd) => rustix::fs::listxattr(ProcPath::new(fd)?.as_c_str(), list),
            Self::At(dir, name) => syscall::listxattrat(dir, name, list),
        }
    }

    /// Reads one value into a buffer; an empty buffer asks for the size.
    pub(crate) fn get(self, attribute: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, attribute, value),
            Self::Path(fd) => rustix::fs::getxattr(ProcPath::new(fd)?.as_c_str(), attribute, value),
            Self::At(dir, name) => syscall::getxattrat(dir, name, attribute, value),
        }
    }

    fn set(self, attribute: &CStr, value: &[u8]) -> Result<(), Errno> {
        let flags = XattrFlags::empty();
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, attribute, value, flags),
            Self::Path(fd) => rustix::fs::setxattr(ProcPath::new(fd)?.as_c_str(), attribute, value, flags),
            Self::At(dir, name) => syscall::setxattrat(dir, name, attribute, value),
        }
    }

    pub(crate) fn remove(self, attribute: &CStr) -> Result<(), Errno> {
        match self {
            Self::Open(fd) => rustix::fs::fremovexattr(fd, attribute),
            Self::Path(fd) => rustix::fs::removexattr(ProcPath::new(fd)?.as_c_str(), attribute),
            Self::At(dir, name) => syscall::removexattrat(dir, name, attribute),
        }
    }

    /// Sets an attribute of a validated name.
    pub(crate) fn set_named(self, attribute: &[u8], value: &[u8]) -> Result<(), Cause> {
        let attribute = CString::new(attribute).map_err(|_nul| XattrError::Name)?;
        Ok(self.set(&attribute, value)?)
    }

    /// Removes an attribute of a validated name; one that is gone already is removed.
    pub(crate) fn remove_named(self, attribute: &[u8]) -> Result<(), Cause> {
        let attribute = CString::new(attribute).map_err(|_nul| XattrError::Name)?;
        match self.remove(&attribute) {
            Err(Errno::NODATA) => Ok(()),
            outcome => Ok(outcome?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::{Attributes, XattrError, Xattrs};
    use crate::kernel::Kernel;
    use crate::root::Root;
    use crate::scratch::{is_root, name, on_each_kernel, plain, skipped};

    fn entry(name: &str, size: usize) -> (Vec<u8>, Vec<u8>) {
        (name.as_bytes().to_vec(), vec![1; size])
    }

    #[test]
    fn takes_what_could_be_set() {
        let check = |entries, expected: Result<usize, XattrError>| {
            assert_eq!(Xattrs::new(entries).map(|xattrs| xattrs.len()), expected);
        };
        check(vec![entry("user.b", 1), entry("user.a", 65_536)], Ok(2));
        check(vec![entry("", 1)], Err(XattrError::Name));
        check(vec![entry("user.\0", 1)], Err(XattrError::Name));
        check(vec![entry(&"x".repeat(256), 1)], Err(XattrError::Name));
        check(vec![entry("user.a", 1), entry("user.a", 2)], Err(XattrError::Twice));
        check(vec![entry("user.a", 65_537)], Err(XattrError::TooLarge));
        check(
            (0..17).map(|index| entry(&format!("user.{index}"), 65_536)).collect(),
            Err(XattrError::TooLarge),
        );
        check(vec![entry("security.selinux", 5), entry("security.evm", 5)], Ok(0));
        check(vec![entry("trusted.SGI_ACL_FILE", 5), entry("trusted.x", 5)], Ok(1));
        let sorted = Xattrs::new(vec![entry("user.b", 1), entry("user.a", 2)]).unwrap();
        assert_eq!(sorted.get(b"user.a"), Some(&[1, 1][..]));
        assert_eq!(sorted.get(b"user.c"), None);
        assert_eq!(sorted.into_vec()[0].0, b"user.a");
    }

    /// Names that need a second listing call, values that need a second reading.
    #[test]
    fn all_ways_read_the_same() {
        on_each_kernel(|scratch| {
            let new = scratch.dir.create_file(&name("f"), 0o600).unwrap();
            let mut entries: Vec<_> =
                (0..40).map(|index| entry(&format!("user.a-long-name-{index:02}"), 3)).collect();
            entries.push(entry("user.large", 1500));
            let xattrs = Xattrs::new(entries).unwrap();
            let applied =
                new.set_metadata(&crate::Metadata { xattrs: xattrs.clone(), ..plain(0o600) }).unwrap();
            if !applied.is_complete() {
                skipped("too many attributes for this file system");
                return;
            }
            assert_eq!(scratch.dir.xattrs(&name("f")).unwrap(), xattrs);
            assert_eq!(scratch.dir.pin(&name("f")).unwrap().xattrs().unwrap(), xattrs);
            assert_eq!(scratch.dir.open_file(&name("f")).unwrap().xattrs().unwrap(), xattrs);
        });
    }

    /// The calls of Linux 6.13, which only the reading of names needs so far.
    #[test]
    fn the_new_calls_do_what_the_old_ones_do() {
        if !Kernel::detect().xattr_at {
            skipped("no getxattrat");
            return;
        }
        on_each_kernel(|scratch| {
            let file = std::fs::File::create(scratch.path.join("f")).unwrap();
            let f = name("f");
            let at = Attributes::At(scratch.dir.fd(), f.as_c_str());
            at.set_named(b"user.x", b"value").unwrap();
            assert_eq!(Attributes::Open(file.as_fd()).read().unwrap().get(b"user.x"), Some(&b"value"[..]));
            assert_eq!(at.read().unwrap().get(b"user.x"), Some(&b"value"[..]));
            at.remove_named(b"user.x").unwrap();
            at.remove_named(b"user.x").unwrap();
            assert!(at.read().unwrap().is_empty());
            std::os::unix::fs::symlink(scratch.outside.join("victim"), scratch.path.join("l")).unwrap();
            let l = name("l");
            assert!(Attributes::At(scratch.dir.fd(), l.as_c_str()).set_named(b"user.x", b"1").is_err());
        });
    }

    #[test]
    fn file_systems_without_attributes_have_none() {
        for kernel in [Kernel::detect(), Kernel::oldest()] {
            let dir = Root::open_as("/proc".as_ref(), kernel).unwrap().dir();
            assert!(dir.xattrs(&name("version")).unwrap().is_empty());
            assert!(dir.xattrs_self().unwrap().is_empty());
        }
    }

    /// A user may attach more than anybody wants to hold in memory.
    #[test]
    fn the_sum_has_a_limit() {
        if !is_root() {
            return;
        }
        on_each_kernel(|scratch| {
            let folder = scratch.path.join("m");
            std::fs::create_dir(&folder).unwrap();
            let Some(_mounted) = crate::scratch::Mounted::tmpfs(&folder) else { return };
            let dir = scratch.dir.open_dir(&name("m")).unwrap();
            let file = dir.create_file(&name("f"), 0o600).unwrap();
            let pinned = dir.pin(&name("f")).unwrap();
            for index in 0..20 {
                let attribute = format!("trusted.{index}");
                let outcome = pinned.attributes().set_named(attribute.as_bytes(), &vec![1; 65_536]);
                if outcome.is_err() {
                    skipped("no large attributes on tmpfs");
                    return;
                }
            }
            assert!(dir.xattrs(&name("f")).unwrap_err().is_too_large());
            let problems = file.set_metadata(&plain(0o600)).unwrap().problems;
            assert!(problems.is_empty(), "a new file is not asked: {problems:?}");
        });
    }
}
