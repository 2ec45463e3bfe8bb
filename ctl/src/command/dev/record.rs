//! What a local cluster is made of, kept in a file so that later commands find its processes again.

use std::io;
use std::path::Path;

use common::atomic_file;
use common::failure::{Failure, FailureKind};
use serde::{Deserialize, Serialize};

use super::process::Birth;
use crate::failure::CommandError;

/// The version of the file.
const VERSION: u32 = 1;

/// A local cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    /// Coordinators first, then agents, each by number.
    pub(super) processes: Vec<Process>,
}

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Role {
    /// A coordinator node.
    Coordinator,
    /// An agent.
    Agent,
}

impl Role {
    /// Returns the word of names and documents.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Agent => "agent",
        }
    }
}

/// One process of the cluster, whether it runs or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Process {
    /// Its name: of the node, or of the host.
    pub(super) name: String,
    /// What it is.
    pub(super) role: Role,
    /// Of a coordinator: API and peers. Of an agent: data.
    pub(super) ports: Vec<u16>,
    /// Whether it belongs to the cluster already.
    pub(super) is_member: bool,
    /// The process that ran last.
    pub(super) birth: Option<Birth>,
}

impl Process {
    /// Whether the process runs now.
    pub(super) fn is_running(&self) -> bool {
        self.birth.as_ref().is_some_and(Birth::is_running)
    }
}

impl Record {
    /// Makes the record of a cluster that does not run yet.
    pub(super) fn new(processes: Vec<Process>) -> Self {
        Self { version: VERSION, processes }
    }

    /// Reads the record, if there is one.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, CommandError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CommandError::io("reading", path.display(), &error)),
        };
        let unknown = |cause: String| {
            let message = format!("{} is not the record of a local cluster: {cause}", path.display());
            Failure::new(FailureKind::Invalid, message).hint("name another folder with --dir")
        };
        let record: Self = serde_json::from_slice(&bytes).map_err(|error| unknown(error.to_string()))?;
        if record.version != VERSION {
            return Err(unknown(format!("its version is {}, not {VERSION}", record.version)).into());
        }
        Ok(Some(record))
    }

    /// Reads the record that must be there.
    pub(super) fn open_existing(path: &Path) -> Result<Self, CommandError> {
        Self::open(path)?.ok_or_else(|| {
            let message = format!("{} does not exist: there is no local cluster", path.display());
            Failure::new(FailureKind::NotFound, message).hint("`ctl dev up --dir DIR` makes one").into()
        })
    }

    /// Writes the record.
    pub(super) fn write(&self, path: &Path) -> Result<(), CommandError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| Failure::of(FailureKind::Bug, &error))?;
        atomic_file::write(path, &bytes, 0o600)
            .map_err(|error| CommandError::io("writing", path.display(), &error))
    }

    /// Returns the processes of one role.
    pub(super) fn of_role(&self, role: Role) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |process| process.role == role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_back_and_a_newer_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dev.json");
        assert_eq!(Record::open(&path).unwrap(), None);
        assert!(Record::open_existing(&path).is_err());
        let process = Process {
            name: "agent-1".to_owned(),
            role: Role::Agent,
            ports: vec![20_000],
            is_member: true,
            birth: None,
        };
        let record = Record::new(vec![process]);
        record.write(&path).unwrap();
        assert_eq!(Record::open(&path).unwrap(), Some(record.clone()));
        Record { version: 2, ..record }.write(&path).unwrap();
        assert!(Record::open(&path).is_err());
    }
}
