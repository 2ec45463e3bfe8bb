//! Where what is below the folder of a local cluster.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use common::failure::{Failure, FailureKind};
use rustix::fs::FlockOperation;

use crate::failure::CommandError;

/// The folder of a local cluster.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// Makes the layout below `dir`, which need not exist yet.
    pub(super) fn new(dir: &Path) -> Result<Self, CommandError> {
        let dir =
            std::path::absolute(dir).map_err(|error| CommandError::io("finding", dir.display(), &error))?;
        Ok(Self { dir })
    }

    /// Returns the folder itself.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What runs, and where.
    pub(super) fn record_file(&self) -> PathBuf {
        self.dir.join("dev.json")
    }

    /// How `ctl` reaches the cluster.
    pub(super) fn context_file(&self) -> PathBuf {
        self.dir.join("contexts.toml")
    }

    /// A node's own copy of the key that all nodes share; the join brings it.
    pub(super) fn cluster_key_file(&self, name: &str) -> PathBuf {
        self.home(name).join("cluster.key")
    }

    /// The folder of one process.
    pub(super) fn home(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What one process keeps.
    pub(super) fn state_dir(&self, name: &str) -> PathBuf {
        self.home(name).join("state")
    }

    /// The settings of one process.
    pub(super) fn settings_file(&self, name: &str) -> PathBuf {
        self.home(name).join("settings.toml")
    }

    /// What one process says.
    pub(super) fn log_file(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// Makes the folders of these processes; private, because keys are in them.
    pub(super) fn create<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<(), CommandError> {
        let homes = names.map(|name| self.home(name));
        for dir in [self.dir.clone(), self.dir.join("logs")].into_iter().chain(homes) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|error| CommandError::io("making the folder", dir.display(), &error))?;
        }
        Ok(())
    }

    /// Keeps other `ctl dev` commands away from the folder until the lock is dropped.
    pub(super) fn lock(&self) -> Result<File, CommandError> {
        let path = self.dir.join("lock");
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(|error| CommandError::io("opening", path.display(), &error))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Failure::new(
                FailureKind::Conflict,
                format!("another `ctl dev` command works on {}", self.dir.display()),
            )
            .hint("wait until it has ended")
            .into()),
            Err(error) => Err(CommandError::io("locking", path.display(), &io::Error::from(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn folders_are_private_and_one_command_works_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(&directory.path().join("cluster")).unwrap();
        layout.create(["agent-1"].into_iter()).unwrap();
        for path in [layout.dir().to_owned(), layout.home("agent-1")] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
        let held = layout.lock().unwrap();
        let CommandError::Failure(failure) = layout.lock().unwrap_err() else { panic!("it is a failure") };
        assert_eq!(failure.kind, FailureKind::Conflict);
        drop(held);
        assert!(layout.lock().is_ok());
    }
}
