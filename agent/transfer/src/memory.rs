//! What the agent remembers of a migration outside of the root: where its stage is, and lists for people.
//!
//! One folder per migration below the agent's state directory. Losing it costs the lists and nothing else: a stage is
//! also found by name.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use common::failure::{Failure, FailureKind};
use common::id::MigrationId;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
const STAGE: &str = "stage.json";

/// Where a stage is, so that one that was planted is not taken for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StageRecord {
    version: u32,
    /// Its name in the root.
    pub(crate) name: String,
    /// Its device when it was made.
    pub(crate) dev: u64,
    /// Its inode.
    pub(crate) ino: u64,
}

impl StageRecord {
    pub(crate) fn new(name: String, dev: u64, ino: u64) -> Self {
        Self { version: VERSION, name, dev, ino }
    }
}

/// The folder of one migration.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    folder: PathBuf,
}

impl Memory {
    /// Opens the folder of a migration, making it if it is missing.
    pub(crate) fn open(state_dir: &Path, migration: &MigrationId) -> Result<Self, Failure> {
        let folder = state_dir.join("transfer").join(migration.as_str());
        std::fs::create_dir_all(&folder).map_err(|error| trouble("make", &folder, &error))?;
        Ok(Self { folder })
    }

    /// Returns the path of a list.
    pub(crate) fn list(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns where the stage is, if this agent knows.
    pub(crate) fn stage(&self) -> Result<Option<StageRecord>, Failure> {
        let path = self.folder.join(STAGE);
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(trouble("read", &path, &error)),
        };
        let record: StageRecord = serde_json::from_slice(&content).map_err(|error| {
            Failure::new(FailureKind::Conflict, format!("{} cannot be read: {error}", path.display()))
                .hint("Remove the file; the stage is then found by its name.")
        })?;
        Ok(Some(record))
    }

    /// Remembers where the stage is, durably.
    pub(crate) fn remember(&self, record: &StageRecord) -> Result<(), Failure> {
        let path = self.folder.join(STAGE);
        let content = serde_json::to_vec(record)
            .map_err(|error| Failure::new(FailureKind::Bug, format!("failed to write a record: {error}")))?;
        common::atomic_file::write(&path, &content, 0o600).map_err(|error| trouble("write", &path, &error))
    }

    /// Forgets where the stage was.
    pub(crate) fn forget(&self) -> Result<(), Failure> {
        let path = self.folder.join(STAGE);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(trouble("remove", &path, &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn trouble(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FailureKind::Exhausted,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => FailureKind::Denied,
        _ => FailureKind::Bug,
    };
    Failure::new(kind, format!("failed to {what} {}: {error}", path.display()))
        .hint("Look at the agent's state directory: it must be writable and have room.")
}
