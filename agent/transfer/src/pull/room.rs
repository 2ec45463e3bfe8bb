//! Noticing that a disk of the destination will not do, before it is full.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use common::failure::{Failure, FailureKind};

use super::Pass;
use crate::capacity::Needs;
use crate::domain::DomainId;
use crate::trouble::of_stage;

/// Bytes asked for between two looks at the file system.
const LOOK_EVERY_BYTES: u64 = 64 * 1024 * 1024;
/// Files asked for between two looks.
const LOOK_EVERY_FILES: u64 = 1024;

/// What was asked for so far, by file system.
#[derive(Debug, Default)]
pub(super) struct Room {
    disks: BTreeMap<String, Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    bytes: u64,
    files: u64,
    next_bytes: u64,
    next_files: u64,
}

impl Room {
    /// Counts a file that is about to be asked for.
    ///
    /// # Errors
    /// `Exhausted` when what was asked for and has not landed is more than what is free.
    pub(super) fn check(&mut self, pass: &Pass, domain: DomainId, bytes: u64) -> Result<(), Failure> {
        let domain = pass.stage.domains.get(domain)?;
        let disk = &domain.disk;
        let asked = match self.disks.get_mut(&disk.id) {
            Some(asked) => asked,
            None => self.disks.entry(disk.id.clone()).or_default(),
        };
        asked.bytes = asked.bytes.saturating_add(bytes);
        asked.files += 1;
        if asked.bytes < asked.next_bytes && asked.files < asked.next_files {
            return Ok(());
        }
        asked.next_bytes = asked.bytes.saturating_add(LOOK_EVERY_BYTES);
        asked.next_files = asked.files + LOOK_EVERY_FILES;
        let space = disk.dir().space().map_err(|error| of_stage(&error))?;
        let packing = disk.dir().packing().map_err(|error| of_stage(&error))?;
        let asked = Needs { bytes: asked.bytes, inodes: asked.files };
        let landed =
            Needs { bytes: disk.landed_bytes.load(Relaxed), inodes: disk.landed_files.load(Relaxed) };
        let in_stage = Needs { bytes: in_stage(pass), inodes: 0 };
        let why = asked.less(landed).less(in_stage).too_much_for(&space, packing);
        why.map_or(Ok(()), |why| Err(exhausted(why)))
    }
}

/// What is in the stage already takes no more room: at most what may be in flight.
fn in_stage(pass: &Pass) -> u64 {
    pass.flow.bytes_in_flight()
}

fn exhausted(why: String) -> Failure {
    Failure::new(FailureKind::Exhausted, format!("the destination's file system is too small: {why}"))
        .hint("Make room at the destination, then retry: what has landed stays and is not sent again.")
}
