//! The agent's own directory: private, and held by one process.
//!
//! `join` and `serve` both lock it, so a join cannot change the identity of a running agent, and two agents cannot
//! share one journal. The kernel lets go of the lock when the process ends, however it ends.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::clock;
use common::failure::{Failure, FailureKind};
use rustix::fs::{FlockOperation, flock};

/// The lock's file name.
const LOCK: &str = "lock";

/// The file of the data port's key.
const DATA_PORT_KEY: &str = "data-port.key";

/// How long a lock is waited for: an agent that was killed keeps it until the last write of its threads returns.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is tried meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The state directory, locked until this is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// It cannot be made, read or written.
    #[error("using the state directory {path}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// Another process holds it.
    #[error("the state directory {0} is in use by another agent")]
    Taken(PathBuf),
}

impl From<StateDirError> for Failure {
    fn from(error: StateDirError) -> Self {
        match &error {
            StateDirError::Io { source, .. } => {
                let kind = match source.kind() {
                    io::ErrorKind::PermissionDenied => FailureKind::Denied,
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::Exhausted,
                    _ => FailureKind::Invalid,
                };
                Self::of(kind, &error).hint("the agent needs a directory of its own; name one as `state_dir`")
            }
            StateDirError::Taken(_) => Self::of(FailureKind::Conflict, &error)
                .hint("stop the other agent first, or give this one another `state_dir`"),
        }
    }
}

impl StateDir {
    /// Makes the directory if it is absent, with mode 0700, and locks it.
    ///
    /// # Errors
    /// When it cannot be used, or another process holds it.
    pub fn lock(path: &Path) -> Result<Self, StateDirError> {
        Self::lock_within(path, PATIENCE)
    }

    fn lock_within(path: &Path, patience: Duration) -> Result<Self, StateDirError> {
        let io = |source| StateDirError::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        // It holds the host's key: a directory that others may list or write is closed, whoever made it.
        let mode = std::fs::metadata(path).map_err(io)?.permissions().mode();
        if mode & 0o077 != 0 {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(io)?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(io)?;
        let begun = clock::boot();
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { path: path.to_owned(), _lock: lock }),
                Err(rustix::io::Errno::WOULDBLOCK) if clock::boot().since(begun) < patience => {
                    std::thread::sleep(LOOK_AGAIN);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateDirError::Taken(path.to_owned())),
                Err(error) => return Err(io(error.into())),
            }
        }
    }

    /// Returns the key of the data port, made with the first call and then kept: with it peers notice a restart.
    ///
    /// # Errors
    /// When it can be neither read nor made.
    pub fn data_port_key(&self) -> Result<[u8; 32], StateDirError> {
        let path = self.path.join(DATA_PORT_KEY);
        if let Some(key) = std::fs::read(&path).ok().and_then(|kept| kept.try_into().ok()) {
            return Ok(key);
        }
        // One that is absent or damaged is made anew: it costs peers a few seconds, once.
        let mut key = [0; 32];
        let io = |source| StateDirError::Io { path: path.clone(), source };
        getrandom::fill(&mut key).map_err(|error| io(io::Error::other(error.to_string())))?;
        common::atomic_file::write(&path, &key, 0o600).map_err(io)?;
        Ok(key)
    }

    /// Returns the directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_private_and_held_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        let held = StateDir::lock(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(StateDir::lock_within(&path, Duration::ZERO), Err(StateDirError::Taken(_))));
        drop(held);
        StateDir::lock(&path).unwrap();
    }

    #[test]
    fn the_data_port_s_key_is_kept_and_a_damaged_one_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir::lock(directory.path()).unwrap();
        let key = state_dir.data_port_key().unwrap();
        assert_eq!(state_dir.data_port_key().unwrap(), key);
        std::fs::write(directory.path().join(DATA_PORT_KEY), b"cut").unwrap();
        let made = state_dir.data_port_key().unwrap();
        assert_ne!(made, key);
        assert_eq!(state_dir.data_port_key().unwrap(), made);
    }
}
