//! What an error of the disk below `state_dir` is to the operator.

use std::io;

use common::failure::FailureKind;

/// Returns the kind of failure that an error of the file system stands for.
pub fn kind_of(error: &io::Error) -> FailureKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::Exhausted,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FailureKind::Denied,
        io::ErrorKind::WouldBlock => FailureKind::Conflict,
        io::ErrorKind::InvalidData => FailureKind::Corrupt,
        _ => FailureKind::Invalid,
    }
}
