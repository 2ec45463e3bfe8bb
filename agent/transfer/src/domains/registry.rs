//! The record of all stages but the root's: a file of frames in the root's stage.
//!
//! A stage is *begun* before its directory is made and *made* when it is whole; it is *leaving* before its marker is
//! removed and has *left* when there is no trace of it: each durably, so that whatever was cut short is ended later. A number once given is
//! never given again, for the ledger's records name it.

use std::collections::BTreeSet;

use common::failure::{Failure, FailureKind};
use common::rel_path::RelPath;
use serde::{Deserialize, Serialize};
use sync::byte_string::ByteString;
use sync::stamp::Time;
use tree::{AppendFile, Dir, Name};

use crate::domain::DomainId;
use crate::frame_file::{FrameReader, encode};
use crate::trouble::of_stage;

const DOMAINS: &str = "domains";

/// One frame; new kinds are added at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Frame {
    /// The next number goes to this stage.
    Begun { top: RelPath, name: ByteString, mtime: Time },
    /// It is whole, and this is its inode.
    Made { id: DomainId, ino: u64 },
    /// It is empty, and about to be removed; the time that the directory which holds it is to have then.
    Leaving { id: DomainId, mtime: Time },
    /// It is gone.
    Left { id: DomainId },
}

/// What is recorded of one stage.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// The topmost directory of its domain.
    pub(super) top: RelPath,
    name: Name,
    /// How that directory's time was before the stage was made, or is to be when it is removed.
    pub(super) mtime: Time,
    /// Its inode, once it is whole.
    pub(super) ino: Option<u64>,
    /// Whether it is about to be removed.
    pub(super) is_leaving: bool,
}

/// All that is recorded; the first has number 1.
#[derive(Debug, Default)]
pub(super) struct Registry {
    records: Vec<Record>,
    /// Numbers whose stages are not there any more, or could not be made.
    forgotten: BTreeSet<DomainId>,
    file: Option<AppendFile>,
}

impl Record {
    pub(super) fn new(top: RelPath, name: &Name, mtime: Time) -> Self {
        Self { top, name: name.clone(), mtime, ino: None, is_leaving: false }
    }

    /// Returns the stage's path below the root, for people.
    pub(super) fn shown(&self) -> String {
        format!("{}/{}", self.top, self.name)
    }

    /// Returns the stage's name.
    pub(super) fn name(&self) -> Name {
        self.name.clone()
    }
}

impl Registry {
    /// Reads the file; cuts a torn end when it is written to.
    pub(super) fn read(stage: &Dir) -> Result<Self, Failure> {
        let file = match stage.open_append(&file_name()) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(Self::default()),
            Err(error) => return Err(of_stage(&error)),
        };
        let mut registry = Self::default();
        let mut reader = FrameReader::<Frame>::forwards(file, 0);
        while let Some(frame) = reader.next()? {
            match frame {
                Frame::Begun { top, name, mtime } => {
                    let name =
                        Name::new(name.0).map_err(|error| Failure::of(FailureKind::Conflict, &error))?;
                    registry.records.push(Record::new(top, &name, mtime));
                }
                Frame::Made { id, ino } => registry.set(id, |record| record.ino = Some(ino)),
                Frame::Leaving { id, mtime } => {
                    registry.set(id, |record| (record.is_leaving, record.mtime) = (true, mtime));
                }
                Frame::Left { id } => registry.forget(id),
            }
        }
        Ok(registry)
    }

    /// Records a stage that is about to be made, and gives it its number.
    pub(super) fn begin(&mut self, stage: &Dir, record: Record) -> Result<DomainId, Failure> {
        let (top, name) = (record.top.clone(), ByteString(record.name.as_bytes().to_vec()));
        self.append(stage, &Frame::Begun { top, name, mtime: record.mtime })?;
        self.records.push(record);
        u32::try_from(self.records.len())
            .map_err(|_too_many| Failure::new(FailureKind::Unsupported, "there are too many rename domains"))
    }

    /// Records that a stage is whole.
    pub(super) fn made(&mut self, stage: &Dir, id: DomainId, ino: u64) -> Result<(), Failure> {
        self.append(stage, &Frame::Made { id, ino })?;
        self.set(id, |record| record.ino = Some(ino));
        Ok(())
    }

    /// Records that a stage is about to be removed.
    pub(super) fn leaving(&mut self, stage: &Dir, id: DomainId, mtime: Time) -> Result<(), Failure> {
        self.append(stage, &Frame::Leaving { id, mtime })
    }

    /// Records that a stage is gone.
    pub(super) fn left(&mut self, stage: &Dir, id: DomainId) -> Result<(), Failure> {
        self.append(stage, &Frame::Left { id })?;
        self.forget(id);
        Ok(())
    }

    fn set(&mut self, id: DomainId, change: impl FnOnce(&mut Record)) {
        if let Some(record) = index(id).and_then(|index| self.records.get_mut(index)) {
            change(record);
        }
    }

    /// Leaves a number out from now on, as long as this process runs.
    pub(super) fn forget(&mut self, id: DomainId) {
        self.forgotten.insert(id);
    }

    pub(super) fn get(&self, id: DomainId) -> Option<&Record> {
        self.records.get(index(id)?)
    }

    /// Returns the numbers of stages that are there, as far as is known.
    pub(super) fn ids(&self) -> Vec<DomainId> {
        let all = 1..=DomainId::try_from(self.records.len()).unwrap_or(DomainId::MAX);
        all.filter(|id| !self.forgotten.contains(id)).collect()
    }

    pub(super) fn has_name(&self, name: &[u8]) -> bool {
        self.records.iter().any(|record| record.name.as_bytes() == name)
    }

    /// Whether a stage stands in this directory or below it.
    pub(super) fn is_above(&self, directory: &RelPath) -> bool {
        self.ids().into_iter().filter_map(|id| self.get(id)).any(|record| record.top.is_within(directory))
    }

    fn append(&mut self, stage: &Dir, frame: &Frame) -> Result<(), Failure> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => open_for_appending(stage)?,
        };
        let mut bytes = Vec::new();
        encode(frame, &mut bytes)?;
        file.append(&bytes).and_then(|_offset| file.sync_data()).map_err(|error| of_stage(&error))?;
        self.file = Some(file);
        Ok(())
    }
}

/// Opens the file behind its last whole frame, making it if there is none.
fn open_for_appending(stage: &Dir) -> Result<AppendFile, Failure> {
    match stage.open_append(&file_name()) {
        Ok(file) => {
            let mut reader = FrameReader::<Frame>::forwards(file, 0);
            while reader.next()?.is_some() {}
            let whole_bytes = reader.offset();
            let mut file = reader.into_file();
            file.truncate(whole_bytes).map_err(|error| of_stage(&error))?;
            Ok(file)
        }
        Err(error) if error.is_not_found() => {
            let file = stage.create_append(&file_name()).map_err(|error| of_stage(&error))?;
            stage.sync_dir().map_err(|error| of_stage(&error))?;
            Ok(file)
        }
        Err(error) => Err(of_stage(&error)),
    }
}

fn index(id: DomainId) -> Option<usize> {
    usize::try_from(id).ok()?.checked_sub(1)
}

fn file_name() -> Name {
    Name::new(DOMAINS).expect("a constant without slash")
}
