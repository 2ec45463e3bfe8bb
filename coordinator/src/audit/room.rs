//! Whether the disk has room for another line of the audit.
//!
//! A coordinator whose disk is really full stops, because a log that cannot be written cannot be trusted. So changes
//! are refused some time before: what is under way can still report its end, and an operator can make room.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::clock::{self, BootTime};
use common::failure::{Failure, FailureKind};
use common::human;

/// What stays free for the log, a snapshot and what running steps report.
const RESERVE_BYTES: u64 = 64 * 1024 * 1024;
/// How old an answer of the file system may be.
const AGE_MAX: Duration = Duration::from_secs(1);

/// The room of a state directory.
#[derive(Debug)]
pub struct Room {
    directory: PathBuf,
    seen: Mutex<Option<(BootTime, u64)>>,
}

impl Room {
    /// Looks at the file system of this directory.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, seen: Mutex::new(None) }
    }

    /// Refuses a change that could not be audited.
    ///
    /// # Errors
    /// When less is free than the reserve.
    pub fn check(&self) -> Result<(), Failure> {
        let free = self.free();
        if free >= RESERVE_BYTES {
            return Ok(());
        }
        let message = format!(
            "the coordinator's disk is full: {} are free below {}, so the audit of this change could not be written",
            human::bytes(free),
            self.directory.display()
        );
        Err(Failure::new(FailureKind::Exhausted, message)
            .hint(format!("make room until {} are free", human::bytes(RESERVE_BYTES))))
    }

    fn free(&self) -> u64 {
        let now = clock::boot();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, free)) = *seen
            && now.since(at) < AGE_MAX
        {
            return free;
        }
        // A file system that cannot be asked is not known to be full; writing will tell.
        let free = rustix::fs::statvfs(&self.directory)
            .map_or(u64::MAX, |known| known.f_bavail.saturating_mul(known.f_frsize));
        *seen = Some((now, free));
        free
    }
}
