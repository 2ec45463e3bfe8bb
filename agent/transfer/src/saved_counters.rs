//! Counters of a step that outlive its attempts: saved every second in the stage.
//!
//! A log of frames of which the last whole one counts; nothing is synced, for a power cut costs seconds of counting and
//! nothing else.

use std::sync::{Mutex, PoisonError};

use common::failure::Failure;
use common::id::StepId;
use common::progress::Progress;
use serde::{Deserialize, Deserializer, Serialize};
use tree::{AppendFile, Dir, Name};

use crate::frame_file::{FrameReader, encode};
use crate::stage::Stage;
use crate::trouble::of_stage;

/// After so much the log is begun anew.
const LOG_BYTES_MAX: u64 = 64 * 1024;

/// What is counted over all attempts of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// The pass of the first attempt.
    pub(crate) first_pass: u32,
    /// Payload of all datagrams, of both sides.
    pub(crate) wire_bytes: u64,
    /// Data that the source sent, or that was copied here in its place.
    pub(crate) content_bytes: u64,
    /// Files whose content or self was brought, for who looks; the ledger is what counts.
    pub(crate) files_sent: u64,
    /// Time that the step worked.
    pub(crate) duration_ms: u64,
    /// How far the step was.
    pub(crate) progress: Standing,
    /// Content that was not sent, but copied here. Earlier agents do not write it, and pass over it.
    #[serde(deserialize_with = "or_none")]
    pub(crate) deduplicated_bytes: u64,
}

/// Reads a number that may not be there any more: the record ends before it.
fn or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(u64::deserialize(deserializer).unwrap_or(0))
}

/// How far a step was, in the fields that the log has; what else a progress says is about one attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    files_done: u64,
    files_total: u64,
    bytes_done: u64,
    bytes_total: u64,
    is_scan_complete: bool,
    bytes_on_wire: u64,
    bytes_per_s: u64,
}

impl Standing {
    /// Returns how far the step was, for an attempt that has told `now`.
    pub(crate) fn progress(self, now: &Progress) -> Progress {
        let Self {
            files_done,
            files_total,
            bytes_done,
            bytes_total,
            is_scan_complete,
            bytes_on_wire,
            bytes_per_s,
        } = self;
        Progress {
            files_done,
            files_total,
            bytes_done,
            bytes_total,
            is_scan_complete,
            bytes_on_wire,
            bytes_per_s,
            reach: now.reach,
            transport: now.transport,
            source_cost: now.source_cost,
        }
    }
}

impl From<Progress> for Standing {
    fn from(progress: Progress) -> Self {
        let Progress {
            files_done,
            files_total,
            bytes_done,
            bytes_total,
            is_scan_complete,
            bytes_on_wire,
            bytes_per_s,
            reach: _,
            transport: _,
            source_cost: _,
        } = progress;
        Self {
            files_done,
            files_total,
            bytes_done,
            bytes_total,
            is_scan_complete,
            bytes_on_wire,
            bytes_per_s,
        }
    }
}

/// The log of a step's counters.
#[derive(Debug)]
pub(crate) struct SavedCounters {
    /// What the attempts before this one counted.
    pub(crate) before: Totals,
    dir: Dir,
    name: Name,
    log: Mutex<AppendFile>,
}

impl SavedCounters {
    /// Opens the counters of a step; `pass` is the one that begins now. The first pass of a step begins at zero.
    pub(crate) fn open(stage: &Stage, step: &StepId, goes_on: bool, pass: u32) -> Result<Self, Failure> {
        let name = Name::new(format!("counters.{step}")).expect("a step's id is part of a name");
        let mut before = Totals { first_pass: pass, ..Totals::default() };
        match stage.dir.open_append(&name) {
            Ok(file) => {
                let mut reader = FrameReader::<Totals>::forwards(file, 0);
                while let Some(totals) = reader.next()?
                    && goes_on
                {
                    before = totals;
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(of_stage(&error)),
        }
        let log = begin(&stage.dir, &name, &before)?;
        Ok(Self { before, dir: stage.dir.clone(), name, log: Mutex::new(log) })
    }

    /// Saves what all attempts together have counted so far.
    pub(crate) fn save(&self, totals: &Totals) -> Result<(), Failure> {
        let mut frame = Vec::new();
        encode(totals, &mut frame)?;
        // An append is whole or cut back.
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.length_bytes() > LOG_BYTES_MAX {
            *log = begin(&self.dir, &self.name, totals)?;
            return Ok(());
        }
        log.append(&frame).map_err(|error| of_stage(&error))?;
        Ok(())
    }
}

/// Begins the log anew with these totals, in the place of the old one: at no instant are both gone.
fn begin(dir: &Dir, name: &Name, totals: &Totals) -> Result<AppendFile, Failure> {
    let mut frame = Vec::new();
    encode(totals, &mut frame)?;
    let begun = dir.write_atomic(name, &frame, 0o600).and_then(|()| dir.open_append(name));
    begun.map_err(|error| of_stage(&error))
}

#[cfg(test)]
mod tests {
    use common::id::MigrationId;

    use super::*;
    use crate::kill_point::KillPoint;
    use crate::memory::Memory;

    #[test]
    fn the_last_save_counts_for_the_next_attempt() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("root")).unwrap();
        let migration: MigrationId = "m1".parse().unwrap();
        let memory = Memory::open(folder.path(), &migration).unwrap();
        let stage =
            Stage::make(&folder.path().join("root"), &migration, &memory, &KillPoint::default()).unwrap();
        let step: StepId = "file.copy-1".parse().unwrap();
        let saved = SavedCounters::open(&stage, &step, false, 4).unwrap();
        assert_eq!(saved.before, Totals { first_pass: 4, ..Totals::default() });
        for wire_bytes in 0..3_000 {
            saved.save(&Totals { first_pass: 4, wire_bytes, ..Totals::default() }).unwrap();
        }
        drop(saved);
        let again = SavedCounters::open(&stage, &step, true, 5).unwrap();
        assert_eq!((again.before.first_pass, again.before.wire_bytes), (4, 2_999));
        drop(again);
        assert_eq!(SavedCounters::open(&stage, &step, false, 7).unwrap().before.wire_bytes, 0);
        let other: StepId = "file.catch_up-1".parse().unwrap();
        assert_eq!(SavedCounters::open(&stage, &other, true, 6).unwrap().before.wire_bytes, 0);
    }

    #[test]
    fn records_without_the_last_number_are_read() {
        let totals = Totals { wire_bytes: 5, deduplicated_bytes: 300, ..Totals::default() };
        let bytes = postcard::to_allocvec(&totals).unwrap();
        assert_eq!(postcard::from_bytes::<Totals>(&bytes).unwrap(), totals);
        let earlier = Totals { deduplicated_bytes: 0, ..totals };
        assert_eq!(postcard::from_bytes::<Totals>(&bytes[..bytes.len() - 2]).unwrap(), earlier);
    }
}
