//! What the agent remembers of a migration outside of the root: where its stage is, and lists for people.
//!
//! One folder per migration below the agent's state directory. Losing it costs the lists and nothing else: a stage is
//! also found by name.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use common::failure::{Failure, FailureKind};
use common::id::MigrationId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::begun::Begun;

const VERSION: u32 = 1;
const STAGE: &str = "stage.json";
const BEGUN: &str = "begun.json";
/// An empty file that is there once the source was reached.
const REACHED: &str = "reached";

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
        let memory = Self::look(state_dir, migration);
        memory.make()?;
        Ok(memory)
    }

    /// Looks into the folder of a migration, whether or not there is one: what ends a migration that could begin
    /// nothing on a full disk needs no room there.
    pub(crate) fn look(state_dir: &Path, migration: &MigrationId) -> Self {
        Self { folder: state_dir.join("transfer").join(migration.as_str()) }
    }

    fn make(&self) -> Result<(), Failure> {
        std::fs::create_dir_all(&self.folder).map_err(|error| trouble("make", &self.folder, &error))
    }

    /// Returns the path of a list.
    pub(crate) fn list(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether an attempt of the migration has reached the source.
    pub(crate) fn was_reached(&self) -> bool {
        self.folder.join(REACHED).exists()
    }

    /// Remembers that the source was reached. Losing that costs a hint.
    pub(crate) fn note_reached(&self) -> Result<(), Failure> {
        let path = self.folder.join(REACHED);
        std::fs::write(&path, b"").map_err(|error| trouble("write", &path, &error))
    }

    /// Returns where the stage is, if this agent knows.
    pub(crate) fn stage(&self) -> Result<Option<StageRecord>, Failure> {
        self.read(STAGE, "Remove the file; the stage is then found by its name.")
    }

    /// Remembers where the stage is, durably.
    pub(crate) fn remember(&self, record: &StageRecord) -> Result<(), Failure> {
        self.write(STAGE, record)
    }

    /// Forgets where the stage was.
    pub(crate) fn forget(&self) -> Result<(), Failure> {
        self.remove(STAGE)
    }

    /// Returns what was begun with a stage and not ended.
    pub(crate) fn begun(&self) -> Result<Option<Begun>, Failure> {
        let hint =
            "Remove the file, and the directory `.drover-*` without a `marker` in the destination's root.";
        self.read(BEGUN, hint)
    }

    /// Records what is about to be done with a stage, durably.
    pub(crate) fn begin(&self, begun: &Begun) -> Result<(), Failure> {
        self.write(BEGUN, begun)
    }

    /// What was begun has ended.
    pub(crate) fn ended(&self) -> Result<(), Failure> {
        self.remove(BEGUN)
    }

    fn read<T: DeserializeOwned>(&self, name: &str, hint: &str) -> Result<Option<T>, Failure> {
        let path = self.folder.join(name);
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(trouble("read", &path, &error)),
        };
        common::version::check_json(&path.display().to_string(), &content, VERSION)?;
        serde_json::from_slice(&content).map(Some).map_err(|error| {
            Failure::new(FailureKind::Conflict, format!("{} cannot be read: {error}", path.display()))
                .hint(hint)
        })
    }

    fn write<T: Serialize>(&self, name: &str, record: &T) -> Result<(), Failure> {
        self.make()?;
        let path = self.folder.join(name);
        let content = serde_json::to_vec(record)
            .map_err(|error| Failure::new(FailureKind::Bug, format!("failed to write a record: {error}")))?;
        common::atomic_file::write(&path, &content, 0o600).map_err(|error| trouble("write", &path, &error))
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        let path = self.folder.join(name);
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
