//! What went wrong with one call on one name.

use std::io;

use rustix::io::Errno;

use crate::escape::escape;
use crate::name::{Name, NameError};
use crate::stat::Kind;
use crate::xattr::XattrError;

/// A result of this crate.
pub type Result<T, E = TreeError> = std::result::Result<T, E>;

/// A failed operation: what was tried, on which name, and why it failed.
///
/// The name is escaped and is the last component only; the caller knows the rest of the path.
#[derive(Debug, thiserror::Error)]
#[error("{op} \"{name}\"")]
pub struct TreeError {
    op: &'static str,
    name: Box<str>,
    #[source]
    cause: Cause,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    #[error(transparent)]
    Kernel(io::Error),
    #[error("this file system or kernel cannot do it")]
    Unsupported(#[source] io::Error),
    #[error("it is {found}, not {wanted}")]
    WrongKind { wanted: Kind, found: Kind },
    #[error("it is no longer the same file")]
    Replaced,
    #[error("it is larger than the limit of {limit_bytes} bytes")]
    TooLarge { limit_bytes: u64 },
    #[error("another file system is mounted there")]
    Mounted,
    #[error("it was held back because the owner could not be set")]
    HeldBack,
    #[error("the file system keeps another time in its place")]
    OtherTime,
    #[error("something keeps adding to it")]
    Busy,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Xattr(#[from] XattrError),
    #[error("the path is not absolute")]
    Relative,
}

impl From<Errno> for Cause {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOSYS | Errno::OPNOTSUPP => Self::Unsupported(errno.into()),
            _ => Self::Kernel(errno.into()),
        }
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error)
    }
}

impl TreeError {
    pub(crate) fn new(op: &'static str, name: &[u8], cause: impl Into<Cause>) -> Self {
        Self { op, name: escape(name).into(), cause: cause.into() }
    }

    /// Returns what was tried, for example `open`.
    #[must_use]
    pub fn op(&self) -> &'static str {
        self.op
    }

    /// Returns the escaped name it was tried on; `.` for the directory itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the kernel's error number, if the kernel said no.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match &self.cause {
            Cause::Kernel(error) | Cause::Unsupported(error) => error.raw_os_error(),
            _ => None,
        }
    }

    fn is(&self, errnos: &[Errno]) -> bool {
        self.errno().is_some_and(|number| errnos.iter().any(|errno| errno.raw_os_error() == number))
    }

    /// The name does not exist (or vanished).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.is(&[Errno::NOENT, Errno::STALE])
    }

    /// The name exists already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.is(&[Errno::EXIST])
    }

    /// A directory is not empty.
    #[must_use]
    pub fn is_not_empty(&self) -> bool {
        self.is(&[Errno::NOTEMPTY]) || (self.op == "remove directory" && self.is_exists())
    }

    /// The two names are in different rename domains.
    #[must_use]
    pub fn is_exdev(&self) -> bool {
        self.is(&[Errno::XDEV])
    }

    /// The file system is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        self.is(&[Errno::NOSPC])
    }

    /// A quota is exhausted.
    #[must_use]
    pub fn is_quota(&self) -> bool {
        self.is(&[Errno::DQUOT])
    }

    /// Rights are missing, or the file is immutable, or the file system is read-only.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        self.is(&[Errno::PERM, Errno::ACCESS, Errno::ROFS])
    }

    /// A symbolic link, or something else that is no directory, stands where a directory (or, with
    /// `ELOOP`, a file) was expected.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.is(&[Errno::LOOP, Errno::NOTDIR])
    }

    /// The kernel or the file system has no such operation; another order may do.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self.cause, Cause::Unsupported(_))
    }

    /// The file system does not take a name this long.
    #[must_use]
    pub fn is_name_too_long(&self) -> bool {
        self.is(&[Errno::NAMETOOLONG]) || matches!(self.cause, Cause::Name(NameError::TooLong))
    }

    /// The inode has as many names as the file system allows.
    #[must_use]
    pub fn is_too_many_links(&self) -> bool {
        self.is(&[Errno::MLINK])
    }

    /// Something of another kind stands at the name.
    #[must_use]
    pub fn is_wrong_kind(&self) -> bool {
        matches!(self.cause, Cause::WrongKind { .. }) || self.is_symlink()
    }

    /// Another inode than the expected one stands at the name.
    #[must_use]
    pub fn is_replaced(&self) -> bool {
        matches!(self.cause, Cause::Replaced)
    }

    /// A limit of this crate was exceeded, or that of the file system or the process for one file.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self.cause, Cause::TooLarge { .. }) || self.is(&[Errno::FBIG])
    }

    /// The host has no descriptor or no memory left.
    #[must_use]
    pub fn is_host_short(&self) -> bool {
        self.is(&[Errno::MFILE, Errno::NFILE, Errno::NOMEM])
    }

    /// Somebody else holds the lock, or the file is in use.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self.cause, Cause::Busy) || self.is(&[Errno::WOULDBLOCK, Errno::BUSY, Errno::TXTBSY])
    }

    /// Another file system is mounted inside of a tree that was to be removed.
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        matches!(self.cause, Cause::Mounted)
    }

    /// The device failed to read or write, or what is on it is damaged.
    #[must_use]
    pub fn is_io(&self) -> bool {
        self.is(&[Errno::IO, Errno::UCLEAN, Errno::BADMSG])
    }
}

/// Says what was tried and on which name, when a call failed.
pub(crate) trait Context<T> {
    /// Names the operation and the component.
    fn on(self, op: &'static str, name: &Name) -> Result<T>;

    /// Names the operation on a held descriptor itself.
    fn on_self(self, op: &'static str) -> Result<T>;
}

impl<T, E: Into<Cause>> Context<T> for std::result::Result<T, E> {
    fn on(self, op: &'static str, name: &Name) -> Result<T> {
        self.map_err(|cause| TreeError::new(op, name.as_bytes(), cause))
    }

    fn on_self(self, op: &'static str) -> Result<T> {
        self.map_err(|cause| TreeError::new(op, b".", cause))
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::TreeError;

    #[test]
    fn what_is_about_the_host_the_device_and_one_file_is_told_apart() {
        let told = |errno: Errno| {
            let error = TreeError::new("write", b"f", errno);
            (error.is_host_short(), error.is_io(), error.is_too_large())
        };
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert_eq!(told(errno), (true, false, false), "{errno:?}");
        }
        for errno in [Errno::IO, Errno::UCLEAN, Errno::BADMSG] {
            assert_eq!(told(errno), (false, true, false), "{errno:?}");
        }
        assert_eq!(told(Errno::FBIG), (false, false, true));
    }
}
