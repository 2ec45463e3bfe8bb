//! One component of a path.
//!
//! A name can be given to the kernel together with a directory descriptor and cannot lead anywhere else:
//! it has no slash and no NUL, is not empty, and is neither `.` nor `..`.

use std::ffi::{CStr, CString};
use std::fmt;

use crate::escape::escape;

/// Longest name taken in bytes: above every file system's own limit (255 bytes on most, 255 UTF-16 units
/// on some), below what a system call takes. The file system answers for its own limit.
const NAME_BYTES_MAX: usize = 4095;

/// A single path component, valid by construction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(CString);

/// Why some bytes are not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There are no bytes.
    #[error("a name is empty")]
    Empty,
    /// The name is `.` or `..`.
    #[error("a name is \".\" or \"..\"")]
    Dots,
    /// The name contains a slash or a NUL byte.
    #[error("a name contains a slash or a NUL byte")]
    Separator,
    /// The name is longer than any file system allows.
    #[error("a name is longer than {NAME_BYTES_MAX} bytes")]
    TooLong,
}

impl Name {
    /// Returns the name with these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, NameError> {
        let bytes = bytes.into();
        check(&bytes)?;
        CString::new(bytes).map(Self).map_err(|_nul| NameError::Separator)
    }

    pub(crate) fn from_c_str(name: &CStr) -> Result<Self, NameError> {
        check(name.to_bytes())?;
        Ok(Self(name.to_owned()))
    }

    /// Returns the bytes of the name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.to_bytes()
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

/// Says whether `bytes` are one valid component.
pub(crate) fn check(bytes: &[u8]) -> Result<(), NameError> {
    match bytes {
        [] => Err(NameError::Empty),
        b"." | b".." => Err(NameError::Dots),
        _ if bytes.len() > NAME_BYTES_MAX => Err(NameError::TooLong),
        _ if bytes.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(NameError::Separator),
        _ => Ok(()),
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&escape(self.as_bytes()))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Name(\"{self}\")")
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl TryFrom<&[u8]> for Name {
    type Error = NameError;

    fn try_from(bytes: &[u8]) -> Result<Self, NameError> {
        Self::new(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{Name, NameError};

    fn check(bytes: &[u8], expected: Result<(), NameError>) {
        assert_eq!(Name::new(bytes).map(|_name| ()), expected, "{bytes:?}");
    }

    #[test]
    fn takes_single_components_only() {
        check(b"a", Ok(()));
        check(b"...", Ok(()));
        check(b" ", Ok(()));
        check(b"\xff\xfe\n", Ok(()));
        check(&[b'x'; 255], Ok(()));
        check(b"", Err(NameError::Empty));
        check(b".", Err(NameError::Dots));
        check(b"..", Err(NameError::Dots));
        check(b"a/b", Err(NameError::Separator));
        check(b"/", Err(NameError::Separator));
        check(b"a/", Err(NameError::Separator));
        check(b"a\0b", Err(NameError::Separator));
        check(&[b'x'; 4096], Err(NameError::TooLong));
    }
}
