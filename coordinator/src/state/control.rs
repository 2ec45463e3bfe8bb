//! What an operator changes of a migration while it runs, and its pause.
//!
//! It stands beside the record of the migration in a snapshot, as text, because it grows by fields.

use common::clock::WallMs;
use common::view::MigrationStatus;
use serde::{Deserialize, Serialize};

use super::effect::Effect;
use super::migration::{Migration, WayBack};
use super::refusal::Refusal;
use super::stamp::Stamp;
use crate::saga::status::Change;

/// What an operator said since the migration was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Control {
    /// Since when it is paused; set exactly while it is.
    pub paused: Option<WallMs>,
}

impl Migration {
    /// Holds a migration up: its leases end, and what has landed stays.
    pub(super) fn pause(&mut self, stamp: &Stamp) -> Result<Vec<Effect>, Refusal> {
        match self.status {
            MigrationStatus::Paused => return Ok(Vec::new()),
            MigrationStatus::Unwinding => {
                return Err(self.refused("it is being undone, and that is not held up", "wait for its end"));
            }
            _ if self.status.is_end() => {
                return Err(self.refused("it has ended", "nothing is left to hold up"));
            }
            _ if matches!(self.way_back, WayBack::Settling(_)) => {
                return Err(self.refused("it has done its work and is ending", "wait for its end"));
            }
            _ => {}
        }
        let effects = self.end_leases(stamp.wall, Change::Lost, "the migration was paused")?;
        self.status = MigrationStatus::Paused;
        self.control.paused = Some(stamp.wall);
        Ok(effects)
    }

    /// Lets a paused migration wait for its turn again, which comes at once where no limit stands against it. The time
    /// of the pause does not count into the time that the whole may take.
    pub(super) fn resume(&mut self, stamp: &Stamp) -> Result<Vec<Effect>, Refusal> {
        let Some(paused) = self.control.paused else {
            if self.status.is_end() {
                let hint = format!("see `ctl status {}`", self.id);
                return Err(self.refused("it has ended, and nothing of it goes on", &hint));
            }
            return Ok(Vec::new());
        };
        let held_ms = stamp.wall.since(paused);
        self.clock_began = self.clock_began.map(|began| WallMs(began.0.saturating_add(held_ms)));
        self.control.paused = None;
        self.status = MigrationStatus::Queued;
        Ok(Vec::new())
    }
}
